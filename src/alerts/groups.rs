//! Which waiting notices of a route are sent together, and when.
//!
//! In: the notices that wait, in order, and the time. Out: those to be sent now. A group is what has the same values of
//! `group_by`: its first notice waits for `group_wait` for others, and what comes then for `group_interval` since the group
//! was last sent. When is a matter of the wall clock; what is sent is not: each notice waits in the ledger until its
//! group was taken, so after a restart it waits once more, and is sent once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use floodmark_dataflows::alerts::config::hash;

use super::config::RouteConfig;
use super::notice::Notice;

/// Notices that are sent together at the most.
const MOST: usize = 100;
/// How long a group waits for more where nothing is configured.
const WAIT: Duration = Duration::from_secs(10);
/// How long a group that was sent rests where nothing is configured.
const INTERVAL: Duration = Duration::from_secs(300);

/// What the notices of a group have in common: names and values.
type By = Vec<(String, String)>;

/// What is sent at once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    /// By what receivers know that it is the same when it comes again: of the route, the group and its first notice.
    pub id: String,
    /// The group.
    pub by: By,
    /// At least one, oldest first.
    pub notices: Vec<Notice>,
}

impl Batch {
    /// A batch of a route.
    pub(super) fn new(route: &RouteConfig, by: By, notices: Vec<Notice>) -> Self {
        let first = notices.first().map(|notice| (&notice.thread, notice.kind(), notice.event.as_of));
        let id = format!("{:032x}", hash(format!("{}\n{by:?}\n{first:?}", route.name).as_bytes()));
        Self { id, by, notices }
    }

    /// What its notices have in common, in words.
    pub(super) fn group(&self) -> String {
        let fields: Vec<String> = self.by.iter().map(|(name, value)| format!("{name}={value}")).collect();
        fields.join(", ")
    }

    /// The notice of the most severe alert, the oldest of equals.
    pub(super) fn strongest(&self) -> Option<&Notice> {
        let rank = |notice: &&Notice| {
            let names = ["critical", "high", "medium", "low"];
            names.iter().position(|name| **name == *notice.event.alert.severity).unwrap_or(names.len())
        };
        self.notices.iter().min_by_key(rank)
    }

    /// One line.
    pub(super) fn title(&self) -> String {
        if let [one] = &self.notices[..] {
            return one.title();
        }
        let counts = ["opened", "updated", "amended", "retracted", "closed"].map(|kind| {
            let count = self.notices.iter().filter(|notice| notice.kind() == kind).count();
            (count > 0).then(|| format!("{count} {kind}"))
        });
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        let of = if self.by.is_empty() { String::new() } else { format!(" ({})", self.group()) };
        format!("{} alerts: {}{of}", self.notices.len(), counts.join(", "))
    }
}

/// The groups of a route.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<By, Times>);

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// Since when something waits.
    waits: Option<Instant>,
    sent: Option<Instant>,
}

/// What a route groups by, in the form of its groups.
pub(super) fn group_of(route: &RouteConfig, notice: &Notice) -> By {
    let alert = &notice.event.alert;
    let value = |name: &String| match name.as_str() {
        "alert" => alert.alert.to_string(),
        "view" => alert.view.to_string(),
        "severity" => alert.severity.to_string(),
        field => {
            let of_first = alert.first.key.0.iter().find(|(name, _)| **name == *field);
            of_first.map(|(_, value)| value.clone()).unwrap_or_default()
        }
    };
    route.group_by.iter().map(|name| (name.clone(), value(name))).collect()
}

impl Groups {
    /// The numbers and the batch to be sent now, if any is due.
    pub(super) fn due<'a>(
        &mut self,
        route: &RouteConfig,
        waiting: impl Iterator<Item = (u64, &'a Notice)>,
        now: Instant,
    ) -> Option<(Vec<u64>, Batch)> {
        let mut waiting = waiting.peekable();
        if !route.groups() {
            let (number, notice) = waiting.next()?;
            return Some((vec![number], Batch::new(route, Vec::new(), vec![notice.clone()])));
        }
        let wait = route.group_wait.map_or(WAIT, |wait| wait.0);
        let interval = route.group_interval.map_or(INTERVAL, |interval| interval.0);
        let mut members: BTreeMap<By, Vec<(u64, &Notice)>> = BTreeMap::new();
        for (number, notice) in waiting {
            members.entry(group_of(route, notice)).or_default().push((number, notice));
        }
        // A group that rested for long enough is as good as new; one in which nothing waits any more waits anew.
        self.0.retain(|group, times| {
            let is_waiting = members.contains_key(group);
            times.waits = times.waits.filter(|_| is_waiting);
            is_waiting || times.sent.is_some_and(|at| now.duration_since(at) < interval)
        });
        for (group, members) in members {
            let times = self.0.entry(group.clone()).or_default();
            let since = *times.waits.get_or_insert(now);
            let rested = times.sent.filter(|at| now.duration_since(*at) < interval);
            let due = rested.map_or(since + wait, |sent| (sent + interval).max(since + wait));
            if now >= due {
                let (numbers, notices) = members.into_iter().take(MOST).map(|(n, notice)| (n, notice.clone())).unzip();
                return Some((numbers, Batch::new(route, group, notices)));
            }
        }
        None
    }

    /// The group was taken, or given up.
    pub(super) fn sent(&mut self, batch: &Batch, now: Instant) {
        if let Some(times) = self.0.get_mut(&batch.by) {
            *times = Times { waits: None, sent: Some(now) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::config::WebhookConfig;
    use crate::alerts::testing::notice;
    use crate::units::Span;

    fn route() -> RouteConfig {
        RouteConfig {
            name: "hook".into(),
            webhook: Some(WebhookConfig::default()),
            group_wait: Some(Span::from_secs(10)),
            group_interval: Some(Span::from_secs(60)),
            ..RouteConfig::default()
        }
    }

    #[test]
    fn a_group_waits_for_more_and_rests_once_it_was_sent() {
        let (route, mut groups, start) = (route(), Groups::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (a, mut b) = (notice("a"), notice("b"));
        let due = |groups: &mut Groups, waiting: &[(u64, &Notice)], seconds| {
            groups.due(&route, waiting.iter().copied(), at(seconds))
        };
        assert_eq!(due(&mut groups, &[(1, &a)], 0), None);
        assert_eq!(due(&mut groups, &[(1, &a), (2, &b)], 9), None);
        let (numbers, batch) = due(&mut groups, &[(1, &a), (2, &b)], 10).unwrap();
        assert_eq!((numbers, batch.notices.len()), (vec![1, 2], 2));
        groups.sent(&batch, at(10));
        assert_eq!(due(&mut groups, &[(3, &a)], 12), None);
        // Another group does not wait for this one.
        b.event.alert.alert = "other".into();
        assert_eq!(due(&mut groups, &[(3, &a), (4, &b)], 13), None);
        assert_eq!(due(&mut groups, &[(3, &a), (4, &b)], 23).unwrap().0, [4]);
        assert_eq!(due(&mut groups, &[(3, &a)], 69), None);
        assert_eq!(due(&mut groups, &[(3, &a)], 70).unwrap().0, [3]);
    }

    #[test]
    fn a_group_of_which_nobody_was_told_waits_anew() {
        let (route, mut groups, start) = (route(), Groups::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let a = notice("a");
        assert_eq!(groups.due(&route, [(1, &a)].into_iter(), at(0)), None);
        let (_, batch) = groups.due(&route, [(1, &a)].into_iter(), at(10)).unwrap();
        groups.sent(&batch, at(10));
        assert_eq!(groups.due(&route, [(2, &a)].into_iter(), at(65)), None);
        assert_eq!(groups.due(&route, [].into_iter(), at(66)), None);
        assert_eq!(groups.due(&route, [(3, &a)].into_iter(), at(67)), None);
        assert_eq!(groups.due(&route, [(3, &a)].into_iter(), at(76)), None);
        assert_eq!(groups.due(&route, [(3, &a)].into_iter(), at(77)).unwrap().0, [3]);
    }

    #[test]
    fn a_batch_that_comes_again_has_the_same_id() {
        let (route, start) = (route(), Instant::now());
        let later = start + Duration::from_secs(10);
        let (a, b) = (notice("a"), notice("b"));
        let batch = |waiting: &[(u64, &Notice)]| {
            let mut groups = Groups::default();
            groups.due(&route, waiting.iter().copied(), start);
            groups.due(&route, waiting.iter().copied(), later).unwrap().1
        };
        // Numbers are of one journal; more may have come by the second time.
        assert_eq!(batch(&[(1, &a)]).id, batch(&[(7, &a), (8, &b)]).id);
        let mut other = a.clone();
        other.event.as_of += 1;
        assert_ne!(batch(&[(1, &a)]).id, batch(&[(1, &other)]).id);
    }

    #[test]
    fn without_grouping_each_is_sent_by_itself_at_once() {
        let route = RouteConfig { group_wait: Some(Span::from_secs(0)), ..route() };
        let (a, b) = (notice("a"), notice("b"));
        let (numbers, batch) = Groups::default().due(&route, [(1, &a), (2, &b)].into_iter(), Instant::now()).unwrap();
        assert_eq!((numbers, batch.notices), (vec![1], vec![a]));
    }
}
