//! The outages of one partition: when they begin, what they cover, and when they are made up for.
//!
//! All of it follows from the holds of marks, in their order, and the records between them; so a run that is made again
//! from its marks finds the same outages at the same ticks.

use crate::outages::Outage;
use crate::time::Tick;

/// The outages of a partition.
#[derive(Debug)]
pub(super) struct OutageLog {
    /// The one that is not made up for.
    open: Option<Outage>,
    past: Vec<Outage>,
    /// Changes that the windows are still to be told.
    pub said: Vec<Outage>,
    /// A pause between records that is usual in any partition, in ticks.
    usual: Tick,
    /// How long a past one matters, in ticks.
    kept_for: Tick,
}

impl OutageLog {
    /// Goes on from those of a checkpoint.
    pub fn new(known: &[Outage], usual: Tick, kept_for: Tick) -> Self {
        let is_open = |outage: &Outage| outage.made_up_at.is_none();
        let open = known.iter().copied().find(is_open);
        let past = known.iter().copied().filter(|outage| !is_open(outage)).collect();
        Self { open, past, said: Vec::new(), usual, kept_for }
    }

    /// Whether the partition is known not to be readable.
    pub fn lasts(&self) -> bool {
        self.open.is_some_and(|outage| !outage.is_over && outage.back.is_none())
    }

    /// Those that matter at this timestamp, for a checkpoint.
    pub fn all(&self, now: Tick) -> Vec<Outage> {
        let past = self.past.iter().filter(|outage| outage.to.saturating_add(self.kept_for) >= now);
        past.chain(&self.open).copied().collect()
    }

    /// The hold is about to be raised, from the timestamp `before` and with this event clock, by a mark that says whether the
    /// partition is `away`.
    pub fn hold(&mut self, before: Tick, clock: Option<Tick>, hold: Tick, away: bool) {
        match &mut self.open {
            Some(outage) if away => {
                // Once more, before the rest was made up for.
                (outage.back, outage.is_over) = (None, false);
                outage.to = outage.to.max(hold);
            }
            // It was read to its end: there is no more of that time.
            Some(outage) if outage.back.is_some() => return self.make_up(before),
            Some(outage) if !outage.is_over => {
                (outage.to, outage.is_over) = (hold, true);
                if hold - outage.from <= outage.usual {
                    outage.back = Some(outage.from);
                    return self.make_up(before);
                }
            }
            None if away => {
                let usual = clock.map_or(Tick::MAX, |clock| self.usual.max(before.saturating_sub(clock)));
                let (from, to) = (before, hold);
                self.open = Some(Outage { from, to, usual, back: None, is_over: false, made_up_at: None });
            }
            Some(_) | None => return,
        }
        self.said.extend(self.open);
    }

    /// A record is about to be read that takes the event clock to `clock`.
    pub fn read(&mut self, before: Tick, clock: Tick, hold: Tick) {
        if let Some(outage) = &mut self.open {
            outage.back.get_or_insert(clock);
            if clock > hold {
                self.make_up(before);
            }
        }
    }

    fn make_up(&mut self, at: Tick) {
        let Some(mut outage) = self.open.take() else { return };
        let back = outage.back.unwrap_or(outage.to);
        if !outage.is_over {
            outage.to = outage.to.max(back);
        }
        // Where no more than usual is missing, nothing is: what was written meanwhile has come.
        let is_whole = back.saturating_sub(outage.from) <= outage.usual;
        outage.back = Some(if is_whole { outage.from } else { back.min(outage.to) });
        outage.made_up_at = Some(at);
        self.said.push(outage);
        self.past.retain(|past| past.to.saturating_add(self.kept_for) >= at);
        if !is_whole || outage.to - outage.from > self.usual {
            self.past.push(outage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> OutageLog {
        OutageLog::new(&[], 5, 1_000)
    }

    /// From, to and back of the past ones, and when they were made up for.
    fn past(log: &OutageLog) -> Vec<(Tick, Tick, Tick, Tick)> {
        log.past.iter().map(|of| (of.from, of.to, of.back.unwrap(), of.made_up_at.unwrap())).collect()
    }

    #[test]
    fn what_was_written_meanwhile_makes_up_for_it_once_it_is_read() {
        let mut log = log();
        log.hold(100, Some(100), 100, true);
        log.hold(100, Some(100), 500, true);
        log.read(500, 101, 500);
        assert!(past(&log).is_empty(), "there is more of that time");
        log.read(500, 501, 500);
        assert_eq!(past(&log), [(100, 500, 100, 500)], "nothing stays unknown");
    }

    #[test]
    fn what_nobody_wrote_stays_unknown() {
        let mut log = log();
        log.hold(100, Some(100), 100, true);
        log.read(100, 160, 100);
        assert_eq!(past(&log), [(100, 160, 160, 100)], "too short to be let go");
        log.hold(200, Some(200), 300, true);
        // At its end, and idle.
        log.hold(300, Some(300), 310, false);
        log.hold(310, Some(310), 320, false);
        log.read(320, 330, 320);
        assert_eq!(past(&log)[1], (200, 310, 310, 320));
    }

    #[test]
    fn what_is_written_behind_an_end_is_made_up_for_when_that_is_read() {
        let mut log = log();
        log.hold(100, Some(100), 300, true);
        log.hold(300, Some(300), 310, false);
        log.read(310, 150, 310);
        log.hold(310, Some(310), 400, false);
        assert_eq!(past(&log), [(100, 310, 150, 310)]);
    }

    #[test]
    fn a_partition_that_was_as_silent_before_lacks_nothing() {
        let mut log = log();
        log.hold(100, Some(30), 101, true);
        log.hold(101, Some(30), 150, true);
        log.hold(150, Some(30), 160, false);
        assert_eq!(past(&log), [(100, 160, 100, 150)]);
        log.hold(200, None, 300, true);
        log.read(300, 250, 300);
        log.read(300, 301, 300);
        assert_eq!(past(&log)[1], (200, 300, 200, 300), "it never had anything before");
    }

    #[test]
    fn a_short_break_leaves_no_trace() {
        let mut log = log();
        log.hold(100, Some(100), 100, true);
        log.read(100, 103, 100);
        assert!(past(&log).is_empty() && log.all(103).is_empty());
        assert_eq!(log.said.last().map(|of| (of.back, of.made_up_at)), Some((Some(100), Some(100))));
    }
}
