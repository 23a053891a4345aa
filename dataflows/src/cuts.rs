//! How workers agree on the tick of a checkpoint, and on its commit: a small dataflow of its own beside the main one.
//!
//! In: messages of every worker to all. Out: the [`CutBoard`] of the source operator, and the [`Cuts`] by which the
//! operators that hold state learn of the tick. Nothing fails; a checkpoint that does not come to its end before the
//! input does is given up. The worker's [`CutBoard`] holds the capability; dropping it ends this dataflow.
//!
//! # A round
//!
//! 1. The first worker says that a checkpoint is to be made (`Prepare`).
//! 2. Every worker says how far its partitions are (`Reached`) and lets none go further. The checkpoint's tick `T` is
//!    one behind the furthest of all.
//! 3. Every worker that knows `T` says so (`Knows`). Once all do, partitions may cross `T`, each after its position has
//!    been taken. Not before, or the operators of a worker without partitions could be taken across `T` unawares.
//! 4. Every worker describes its share once it is durable (`Described`); the first one commits, and says so
//!    (`Committed`).
//!
//! A message names its round: between different workers messages overtake each other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::dataflow::InputHandleVec;
use timely::dataflow::operators::Inspect;
use timely::dataflow::operators::probe::Probe;
use timely::dataflow::operators::vec::{Broadcast, Input};
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::checkpoint::{CheckpointSink, PartitionCut, StateRow};
use crate::time::Tick;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Message {
    Prepare,
    Reached(Tick),
    Knows,
    Described(Vec<u8>),
    Committed,
}

/// What was said in a round, by worker.
#[derive(Debug)]
struct Round {
    is_prepared: bool,
    reached: Vec<Option<Tick>>,
    knows: Vec<bool>,
    described: Vec<Option<Vec<u8>>>,
    is_committed: bool,
}

impl Round {
    fn new(peers: usize) -> Self {
        Self {
            is_prepared: false,
            reached: vec![None; peers],
            knows: vec![false; peers],
            described: vec![None; peers],
            is_committed: false,
        }
    }

    fn take(&mut self, worker: usize, message: Message) {
        match message {
            Message::Prepare => self.is_prepared = true,
            Message::Reached(tick) => self.reached[worker] = Some(tick),
            Message::Knows => self.knows[worker] = true,
            Message::Described(description) => self.described[worker] = Some(description),
            Message::Committed => self.is_committed = true,
        }
    }

    /// The tick of the checkpoint, once all have said where they are.
    fn at(&self) -> Option<Tick> {
        self.reached.iter().try_fold(0, |highest, reached| Some(highest.max((*reached)?))).map(|highest| highest + 1)
    }
}

/// Where this worker is in the current round.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    has_prepared: bool,
    /// What this worker said it has reached.
    reached: Option<Tick>,
    /// The tick of the checkpoint, once known.
    at: Option<Tick>,
    gave_partitions: bool,
    gave_description: bool,
    gave_commit: bool,
    has_committed: bool,
}

/// Where partitions may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Timestamps before this are free to go.
    pub barrier: Tick,
    /// A partition may pass the barrier once it has been cut there.
    pub is_open: bool,
}

impl Gate {
    /// No checkpoint is being made.
    pub const FREE: Gate = Gate { barrier: Tick::MAX, is_open: false };
}

/// The tick of the checkpoint that is being made, for the operators that hold state.
pub struct Cuts {
    rows: Cell<Option<Tick>>,
    /// Where this worker speaks of alerts: their rows go with the others.
    alerts: Cell<Option<Tick>>,
    has_alerts: Cell<bool>,
    given: RefCell<Vec<Vec<StateRow>>>,
    live: Cell<Option<Tick>>,
    sink: Rc<RefCell<dyn CheckpointSink>>,
}

impl fmt::Debug for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuts").field("rows", &self.rows).field("live", &self.live).finish_non_exhaustive()
    }
}

impl Cuts {
    fn new(sink: Rc<RefCell<dyn CheckpointSink>>) -> Self {
        Self {
            rows: Cell::new(None),
            alerts: Cell::new(None),
            has_alerts: Cell::new(false),
            given: RefCell::default(),
            live: Cell::new(None),
            sink,
        }
    }

    /// The tick at which rows are to be given. Known before anything with this timestamp is sent by anyone.
    pub(crate) fn rows_due(&self) -> Option<Tick> {
        self.rows.get()
    }

    /// Gives this worker's rows as of the tick that is due, in parts.
    pub(crate) fn give_rows(&self, rows: Vec<Vec<StateRow>>) {
        if let Some(at) = self.rows.take() {
            self.given.borrow_mut().extend(rows);
            self.hand_over(at);
        }
    }

    /// This worker speaks of alerts.
    pub(crate) fn expect_alerts(&self) {
        self.has_alerts.set(true);
    }

    /// The tick at which alerts are to be cut, if that is at or before `frontier`.
    pub(crate) fn alerts_due(&self, frontier: Tick) -> Option<Tick> {
        self.alerts.get().filter(|&at| at <= frontier)
    }

    /// Gives the rows of alerts as of the tick that is due.
    pub(crate) fn give_alerts(&self, rows: Vec<StateRow>) {
        if let Some(at) = self.alerts.take() {
            self.given.borrow_mut().push(rows);
            self.hand_over(at);
        }
    }

    fn hand_over(&self, at: Tick) {
        if !self.rows_are_due() {
            self.sink.borrow_mut().rows(at, self.given.take());
        }
    }

    fn rows_are_due(&self) -> bool {
        self.rows.get().is_some() || self.alerts.get().is_some()
    }

    /// The tick at which the live state is to be cut, if that is at or before `frontier`. Returned once.
    pub(crate) fn live_due(&self, frontier: Tick) -> Option<Tick> {
        let at = self.live.get().filter(|&at| at <= frontier)?;
        self.live.set(None);
        Some(at)
    }
}

/// This worker's part in the making of checkpoints.
pub struct CutBoard {
    index: usize,
    peers: usize,
    rounds: Rc<RefCell<BTreeMap<u64, Round>>>,
    listener: Rc<RefCell<Option<Activator>>>,
    input: InputHandleVec<u64, (u64, usize, Message)>,
    cuts: Rc<Cuts>,
    round: u64,
    own: Own,
}

impl CutBoard {
    /// Builds the dataflow on this worker. Every worker must do so, in the same order among its dataflows.
    pub fn new(worker: &mut Worker, sink: impl CheckpointSink + 'static) -> Self {
        let (index, peers) = (worker.index(), worker.peers());
        let rounds: Rc<RefCell<BTreeMap<u64, Round>>> = Rc::default();
        let listener: Rc<RefCell<Option<Activator>>> = Rc::default();
        let (received, waiting) = (rounds.clone(), listener.clone());
        let input = worker.dataflow_named("cuts", |scope| {
            let (input, stream) = scope.new_input();
            stream
                .broadcast()
                .inspect(move |(round, worker, message): &(u64, usize, Message)| {
                    let mut rounds = received.borrow_mut();
                    rounds.entry(*round).or_insert_with(|| Round::new(peers)).take(*worker, message.clone());
                    if let Some(activator) = &*waiting.borrow() {
                        activator.activate();
                    }
                })
                .probe();
            input
        });
        let sink: Rc<RefCell<dyn CheckpointSink>> = Rc::new(RefCell::new(sink));
        let cuts = Rc::new(Cuts::new(sink));
        Self { index, peers, rounds, listener, input, cuts, round: 0, own: Own::default() }
    }

    /// For the operators that hold state.
    pub fn cuts(&self) -> Rc<Cuts> {
        self.cuts.clone()
    }

    /// Has the source operator run whenever a message comes.
    pub(crate) fn wake(&self, source: Activator) {
        *self.listener.borrow_mut() = Some(source);
    }

    /// Goes on with the round as far as it goes. `highest` is the highest timestamp of this worker's partitions; of
    /// anything that they send from here on, too, where the gate that is returned is closed.
    pub(crate) fn step(&mut self, highest: Tick) -> Gate {
        let is_first = self.index == 0;
        if is_first && !self.own.has_prepared && self.cuts.sink.borrow_mut().is_due() {
            self.own.has_prepared = true;
            self.say(Message::Prepare);
        }
        let rounds = self.rounds.clone();
        let mut rounds = rounds.borrow_mut();
        let round = rounds.entry(self.round).or_insert_with(|| Round::new(self.peers));
        if !round.is_prepared {
            return Gate::FREE;
        }
        let reached = match self.own.reached {
            Some(reached) => reached,
            None => {
                self.own.reached = Some(highest);
                self.say(Message::Reached(highest));
                highest
            }
        };
        let Some(at) = round.at() else { return Gate { barrier: reached + 1, is_open: false } };
        if self.own.at.is_none() {
            self.own.at = Some(at);
            self.cuts.rows.set(Some(at));
            self.cuts.live.set(Some(at));
            self.cuts.alerts.set(self.cuts.has_alerts.get().then_some(at));
            self.say(Message::Knows);
        }
        if round.is_committed {
            self.cuts.sink.borrow_mut().committed(at);
            rounds.remove(&self.round);
            self.round += 1;
            self.own = Own::default();
            return Gate::FREE;
        }
        if self.own.gave_partitions && !self.cuts.rows_are_due() && !self.own.gave_description {
            let description = self.cuts.sink.borrow_mut().description(at);
            if let Some(description) = description {
                self.own.gave_description = true;
                self.say(Message::Described(description));
            }
        }
        if is_first && round.described.iter().all(Option::is_some) {
            let mut sink = self.cuts.sink.borrow_mut();
            if !self.own.gave_commit {
                self.own.gave_commit = true;
                sink.commit(at, round.described.iter().flatten().cloned().collect());
            }
            if !self.own.has_committed && sink.is_committed(at) {
                drop(sink);
                self.own.has_committed = true;
                self.say(Message::Committed);
            }
        }
        if self.own.gave_partitions {
            return Gate::FREE;
        }
        Gate { barrier: at, is_open: round.knows.iter().all(|&knows| knows) }
    }

    /// Gives the cuts of this worker's partitions at the open gate.
    pub(crate) fn give(&mut self, at: Tick, partitions: Vec<PartitionCut>) {
        self.own.gave_partitions = true;
        self.cuts.sink.borrow_mut().partitions(at, partitions);
    }

    fn say(&mut self, message: Message) {
        self.input.send((self.round, self.index, message));
        let next = self.input.time() + 1;
        self.input.advance_to(next);
    }
}
