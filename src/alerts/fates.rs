//! What becomes of a notice that waits: it is sent, held back, or nobody is told.
//!
//! In: the notice, what is known of its alert now, and whether the route was sent anything of the incident. Out: a
//! [`Fate`]. Whether an opening is sent goes by the alert as it is now: one that is over for long or silenced is held back
//! while the alert is open, in the journal like all that waits, and sent with what is then known once it is neither. A
//! route that was told of an opening is told of what becomes of it, whatever the age.

use floodmark_dataflows::alerts::{AlertDocument, AlertEvent, AlertEventKind};

use super::notice::Notice;

/// Why somebody is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is over for long.
    Old,
    Silenced,
    /// It is about an incident of which the route knows nothing, or will be told as it is.
    Unknown,
    /// Late records changed nothing that the notification says.
    Same,
}

/// What becomes of a notice.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    Send(Box<Notice>),
    /// Not now: the alert is open.
    Hold(Why),
    /// Never.
    Drop(Why),
}

/// What a fate depends on, beside the notice.
pub(super) struct Judge<'a> {
    /// The route keeps incidents open until it is told of their end.
    pub keeps_open: bool,
    pub is_fresh: &'a dyn Fn(&AlertDocument) -> bool,
    pub is_silenced: &'a dyn Fn(&AlertDocument) -> bool,
}

impl Judge<'_> {
    /// The fate of a notice. `newest` is what is known of its alert now; `is_told` says that the route was sent something of
    /// its incident; `is_held` that an earlier notice of it is held back.
    pub(super) fn fate(&self, notice: &Notice, newest: Option<&Notice>, is_told: bool, is_held: bool) -> Fate {
        let newest = newest.unwrap_or(notice);
        let is_opening = notice.event.kind == AlertEventKind::Opened;
        if is_told && notice.changes_nothing() {
            return Fate::Drop(Why::Same);
        }
        if is_told && !is_opening {
            // Or the receiver would take the incident for open for ever.
            let must_know = self.keeps_open && !notice.is_open();
            return match !must_know && (self.is_silenced)(&notice.event.alert) {
                true => Fate::Drop(Why::Silenced),
                false => Fate::Send(Box::new(notice.clone())),
            };
        }
        if is_held || !is_opening && !newest.is_open() {
            return Fate::Drop(Why::Unknown);
        }
        let alert = &newest.event.alert;
        let why = match ((self.is_fresh)(alert), (self.is_silenced)(alert)) {
            (false, _) => Why::Old,
            (true, true) => Why::Silenced,
            (true, false) if newest.is_open() => return Fate::Send(Box::new(opening(notice, newest))),
            (true, false) => return Fate::Send(Box::new(notice.clone())),
        };
        if newest.is_open() { Fate::Hold(why) } else { Fate::Drop(why) }
    }
}

/// That the alert was opened, with what is known of it now. It is known for the same when it comes again.
fn opening(notice: &Notice, newest: &Notice) -> Notice {
    let mut event = AlertEvent {
        kind: AlertEventKind::Opened,
        as_of: notice.event.as_of,
        alert: newest.event.alert.clone(),
        previous: None,
        replaces: None,
        replaced_by: None,
    };
    event.drop_baselines();
    Notice { event, thread: notice.thread.clone() }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::alerts::AlertState;

    use super::*;
    use crate::alerts::testing::notice;

    const OLD: u64 = 20_000;

    fn of(kind: AlertEventKind, state: AlertState, end: u64) -> Notice {
        let mut notice = notice("a");
        (notice.event.kind, notice.event.alert.state, notice.event.alert.end) = (kind, state, end);
        notice
    }

    fn fate(notice: &Notice, newest: &Notice, is_told: bool, is_silenced: bool) -> Fate {
        let (is_fresh, is_silenced) = (|alert: &AlertDocument| alert.end > OLD, |_: &AlertDocument| is_silenced);
        let judge = Judge { keeps_open: false, is_fresh: &is_fresh, is_silenced: &is_silenced };
        judge.fate(notice, Some(newest), is_told, false)
    }

    use AlertEventKind::{Amended, Closed, Opened, Retracted, Updated};

    #[test]
    fn an_opening_that_is_held_back_is_sent_as_it_is_once_it_is_fresh_and_not_silenced() {
        let opened = of(Opened, AlertState::Open, OLD);
        assert_eq!(fate(&opened, &opened, false, false), Fate::Hold(Why::Old));
        let mut now = of(Updated, AlertState::Open, OLD + 1);
        now.event.as_of += 1;
        assert_eq!(fate(&opened, &now, false, true), Fate::Hold(Why::Silenced));
        let Fate::Send(sent) = fate(&opened, &now, false, false) else { panic!("it is not sent") };
        assert_eq!((sent.kind(), sent.event.as_of), ("opened", opened.event.as_of));
        assert_eq!(sent.event.alert.end, OLD + 1);
    }

    #[test]
    fn nobody_is_told_what_became_of_an_alert_that_they_do_not_know() {
        let opened = of(Opened, AlertState::Open, OLD);
        let closed = of(Closed, AlertState::Closed, OLD);
        assert_eq!(fate(&opened, &closed, false, false), Fate::Drop(Why::Old));
        let fresh = of(Retracted, AlertState::Retracted, OLD + 1);
        for notice in [&closed, &fresh] {
            assert_eq!(fate(notice, notice, false, false), Fate::Drop(Why::Unknown));
        }
        // A late record moved the beginning of one that is open: the first that they hear of it.
        let amended = of(Amended, AlertState::Open, OLD + 1);
        assert!(matches!(fate(&amended, &amended, false, false), Fate::Send(sent) if sent.kind() == "opened"));
    }

    #[test]
    fn who_was_told_of_an_opening_is_told_of_its_end_whatever_the_age() {
        for kind in [Amended, Closed, Retracted] {
            let notice = of(kind, AlertState::Closed, OLD);
            assert_eq!(fate(&notice, &notice, true, false), Fate::Send(Box::new(notice.clone())));
            assert_eq!(fate(&notice, &notice, true, true), Fate::Drop(Why::Silenced));
            let judge = Judge { keeps_open: true, is_fresh: &|_| false, is_silenced: &|_| true };
            assert_eq!(judge.fate(&notice, None, true, false), Fate::Send(Box::new(notice)));
        }
    }

    #[test]
    fn an_amendment_that_reads_as_before_is_not_told() {
        let mut amended = of(Amended, AlertState::Closed, OLD + 1);
        let previous = AlertDocument { revision: 0, as_of: 1, ..amended.event.alert.clone() };
        amended.event.alert.revision = 1;
        amended.event.previous = Some(previous);
        assert_eq!(fate(&amended, &amended, true, false), Fate::Drop(Why::Same));
        amended.event.alert.windows += 1;
        assert_eq!(fate(&amended, &amended, true, false), Fate::Send(Box::new(amended.clone())));
    }

    #[test]
    fn a_short_incident_is_told_with_its_end_while_it_is_fresh() {
        let opened = of(Opened, AlertState::Open, OLD + 1);
        let closed = of(Closed, AlertState::Closed, OLD + 1);
        assert_eq!(fate(&opened, &closed, false, false), Fate::Send(Box::new(opened.clone())));
        assert_eq!(fate(&closed, &closed, true, false), Fate::Send(Box::new(closed.clone())));
    }
}
