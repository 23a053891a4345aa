//! What every worker knows of the event clocks of all: a small dataflow of its own beside the main one.
//!
//! In: a [`Report`] a worker, about once a second while live, and more often while it waits for the frontier. Out: the
//! [`ClockBoard`] that idle partitions take their hold from. A report may be old; that only makes a hold lower, and the hold
//! that was taken is recorded in a mark. The worker's [`ClockBoard`] holds the capability; dropping it ends this dataflow.

use std::cell::RefCell;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::dataflow::InputHandleVec;
use timely::dataflow::operators::Inspect;
use timely::dataflow::operators::probe::Probe;
use timely::dataflow::operators::vec::{Broadcast, Input};
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::time::{Millis, Tick};

/// The event clocks of one worker's partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The lowest timestamp that an active partition may still send; `None` without active partitions.
    pub active: Option<Tick>,
    /// The highest event clock of any partition.
    pub highest: Option<Tick>,
    /// The wall clock of the last mark that covered a new record.
    pub last_record_ms: Millis,
    /// A partition is so far before the frontier that it is not read: holds elsewhere should follow soon.
    pub waits: bool,
}

/// The latest report of every worker.
pub struct ClockBoard {
    index: usize,
    reports: Rc<RefCell<Vec<Option<Report>>>>,
    listener: Rc<RefCell<Option<Activator>>>,
    input: InputHandleVec<u64, (usize, Report)>,
}

impl ClockBoard {
    /// Builds the dataflow on this worker. Every worker must do so, in the same order among its dataflows.
    pub fn new(worker: &mut Worker) -> Self {
        let (index, peers) = (worker.index(), worker.peers());
        let reports = Rc::new(RefCell::new(vec![None; peers]));
        let listener: Rc<RefCell<Option<Activator>>> = Rc::default();
        let (received, waiting) = (reports.clone(), listener.clone());
        let input = worker.dataflow_named("clocks", |scope| {
            let (input, stream) = scope.new_input();
            stream
                .broadcast()
                .inspect(move |&(worker, report)| {
                    received.borrow_mut()[worker] = Some(report);
                    if let Some(activator) = &*waiting.borrow() {
                        activator.activate();
                    }
                })
                .probe();
            input
        });
        Self { index, reports, listener, input }
    }

    /// Whom to activate when a report comes in.
    pub fn wake(&self, source: Activator) {
        *self.listener.borrow_mut() = Some(source);
    }

    /// What this worker told last.
    pub fn own(&self) -> Option<Report> {
        self.reports.borrow()[self.index]
    }

    /// Tells every worker about this one's partitions.
    pub fn report(&mut self, report: Report) {
        self.reports.borrow_mut()[self.index] = Some(report);
        self.input.send((self.index, report));
        let next = self.input.time() + 1;
        self.input.advance_to(next);
    }

    /// All reports as one, or `None` while a worker has not reported yet.
    pub fn all(&self) -> Option<Report> {
        let mut all = Report::default();
        for report in self.reports.borrow().iter() {
            let report = (*report)?;
            all.active = match (all.active, report.active) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            all.highest = all.highest.max(report.highest);
            all.last_record_ms = all.last_record_ms.max(report.last_record_ms);
            all.waits |= report.waits;
        }
        Some(all)
    }
}
