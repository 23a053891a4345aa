//! What of a checkpoint carries over when the configuration has changed.
//!
//! In: the [`Fingerprint`] of the configuration that computed a checkpoint, and that of the one to go on with. Out:
//! [`Carried`], or a sentence that names the setting that stands in the way and says what to do.

use std::collections::BTreeMap;

use floodmark_dataflows::scores::{Learned, windows_until_learned};
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{View, ViewId};
use serde::{Deserialize, Serialize};

use crate::config::{Config, SourceChoice, StoreChoice};
use crate::stores::writer::definition;

/// What of a configuration matters to its checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The length of a tick in milliseconds.
    pub tick_ms: u64,
    /// Settings that must not change, by key.
    pub fixed: BTreeMap<String, String>,
    /// Settings that may change, from a tick on, by key.
    pub noted: BTreeMap<String, String>,
    /// The views, in order of their numbers.
    pub views: Vec<ViewPrint>,
}

/// What of a view matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPrint {
    /// Its name.
    pub name: String,
    /// What makes it this computation: fields, conditions, widths.
    pub definition: String,
    /// Width of a window.
    pub width_ms: u64,
    /// Distance between the starts of windows.
    pub slide_ms: u64,
    /// Allowed lateness.
    pub lateness_ms: u64,
    /// How long after its end a window is kept.
    pub retention_ms: u64,
    /// Keys kept per partition.
    pub max_keys: u64,
    /// A key silent for this long leaves.
    pub forget_after_ms: u64,
    /// What is scored of it, by name. Another set learns anew, from the windows that are retained.
    pub scored: Vec<String>,
    /// Windows that begin before this tick are partial: the view was added then. 0 for none.
    pub partial_before: Tick,
}

impl ViewPrint {
    /// When a window is gone, in milliseconds of the event clock.
    pub fn window_gone_at(&self, window: Millis) -> Millis {
        window.saturating_add(self.width_ms).saturating_add(self.retention_ms)
    }

    /// When a pane is gone with the last window that it is in.
    pub fn pane_gone_at(&self, pane: Millis) -> Millis {
        self.window_gone_at(pane - pane % self.slide_ms.max(1))
    }

    /// When what the windows of a key have taught is forgotten at the latest.
    pub fn series_gone_at(&self, learned: &Learned) -> Millis {
        self.values_gone_at(learned.last.unwrap_or(learned.next))
    }

    /// When it is forgotten at the latest which patterns were new, by the last window with records.
    pub fn news_gone_at(&self, last: u64) -> Millis {
        self.values_gone_at(last).saturating_add(self.forget_after_ms)
    }

    /// When the values of a window that is gone are forgotten at the latest, if nothing has learned them.
    pub fn values_gone_at(&self, window: u64) -> Millis {
        let slide_ms = self.slide_ms.max(1);
        let windows = windows_until_learned(self.width_ms, slide_ms, self.retention_ms);
        let learned_at = self.window_gone_at(window.saturating_add(windows).saturating_mul(slide_ms));
        learned_at.saturating_add(self.forget_after_ms)
    }
}

impl Fingerprint {
    /// Of a configuration with its compiled views, hidden ones included.
    pub fn of<'a>(config: &Config, views: impl IntoIterator<Item = &'a View>) -> Self {
        let mut fixed = BTreeMap::new();
        let mut noted = BTreeMap::new();
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        match config.source.chosen() {
            Ok(SourceChoice::Kafka(kafka)) => {
                fixed.insert("source".to_owned(), "kafka".to_owned());
                noted.insert("source.kafka.topics".to_owned(), kafka.topics.join(", "));
                noted.insert("source.kafka.brokers".to_owned(), kafka.brokers.clone());
            }
            Ok(SourceChoice::Files(files)) => {
                fixed.insert("source".to_owned(), "files".to_owned());
                fixed.insert("source.files.topic".to_owned(), files.topic.clone());
                fixed.insert("source.files.fingerprint_lines".to_owned(), files.fingerprint_lines.to_string());
                noted.insert("source.files.paths".to_owned(), files.paths.join(", "));
            }
            Ok(SourceChoice::Generator(generator)) => {
                fixed.insert("source".to_owned(), "generator".to_owned());
                let rate =
                    if generator.is_live() { ("rate", generator.rate) } else { ("event_rate", generator.event_rate) };
                for (key, value) in [
                    ("seed", generator.seed.to_string()),
                    ("partitions", generator.partitions.to_string()),
                    ("services", generator.services.to_string()),
                    (rate.0, rate.1.to_string()),
                    ("start", generator.start.clone()),
                    ("incidents", generator.incidents.to_string()),
                    ("topic", generator.topic.clone()),
                ] {
                    fixed.insert(format!("source.generator.{key}"), value);
                }
            }
            // Found when the source is opened.
            Err(_) => {}
        }
        let store = match config.store.chosen() {
            Ok(StoreChoice::Elasticsearch(store)) => format!("elasticsearch, prefix {}", store.prefix),
            Ok(StoreChoice::Embedded(_)) => "embedded".to_owned(),
            Ok(StoreChoice::Ndjson(store)) => format!("ndjson, {}, {}", store.logs.display(), store.windows.display()),
            Ok(StoreChoice::None) | Err(_) => "none".to_owned(),
        };
        noted.insert("store".to_owned(), store);
        noted.insert("store.index".to_owned(), json(serde_json::to_string(&config.store.index)));
        noted.insert("records".to_owned(), json(serde_json::to_string(&config.records)));
        noted.insert("patterns".to_owned(), json(serde_json::to_string(&config.patterns)));
        noted.insert("rules".to_owned(), json(serde_json::to_string(&config.rules)));
        for alert in &config.alert {
            noted.insert(format!("the alert {}", alert.name), json(serde_json::to_string(alert)));
        }
        let time = &config.time;
        for (key, value) in [
            ("max_future", time.max_future),
            ("idle_after", time.idle_after),
            ("stall_after", time.stall_after),
            ("max_ahead", time.max_ahead),
        ] {
            noted.insert(format!("time.{key}"), value.to_string());
        }
        let print = |view: &View| ViewPrint {
            name: view.name.to_string(),
            definition: config.view.iter().find(|c| c.name == *view.name).map(definition).unwrap_or_default(),
            width_ms: view.width_ms,
            slide_ms: view.slide_ms,
            lateness_ms: view.lateness_ms,
            retention_ms: view.retention_ms,
            max_keys: view.max_keys as u64,
            forget_after_ms: view.forget_after_ms,
            scored: view.scored.iter().map(|measure| measure.name().to_owned()).collect(),
            partial_before: 0,
        };
        let views = views.into_iter().map(print).collect();
        Self { tick_ms: time.tick.as_millis(), fixed, noted, views }
    }
}

/// What carries over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The present number of each view of the checkpoint; `None` for those that are not there any more.
    pub views: Vec<Option<ViewId>>,
    /// Views that the checkpoint did not have in this form: they start empty. By present number.
    pub new_views: Vec<ViewId>,
    /// What changed, a sentence each.
    pub changes: Vec<String>,
}

impl Carried {
    /// Notes in the present configuration from where on each view is whole.
    pub fn note_partial(&self, then: &Fingerprint, now: &mut Fingerprint, at: Tick) {
        for (view, place) in then.views.iter().zip(&self.views) {
            if let Some(other) = place.and_then(|place| now.views.get_mut(usize::from(place))) {
                other.partial_before = view.partial_before;
            }
        }
        for &view in &self.new_views {
            if let Some(view) = now.views.get_mut(usize::from(view)) {
                view.partial_before = at;
            }
        }
    }

    /// Whether every view has the number that it had, and none is new.
    pub fn is_same(&self) -> bool {
        self.new_views.is_empty() && (0..).zip(&self.views).all(|(id, now)| *now == Some(id))
    }
}

/// Compares the configuration of a checkpoint at `at` with the present one.
///
/// # Errors
/// A sentence that names the setting that stands in the way and says what to do.
pub fn compare(then: &Fingerprint, now: &Fingerprint, at: Tick) -> Result<Carried, String> {
    const ADVICE: &str = "set it back, or start anew with --fresh";
    if then.tick_ms != now.tick_ms {
        return Err(format!(
            "time.tick was {} ms when the checkpoint was made and is {} ms now: its state is counted in ticks; {ADVICE}",
            then.tick_ms, now.tick_ms
        ));
    }
    if let Some((key, was, is)) = differences(&then.fixed, &now.fixed).next() {
        return Err(format!(
            "{key} was \"{was}\" when the checkpoint was made and is \"{is}\" now: its positions are of another log; \
             {ADVICE}"
        ));
    }
    let mut carried = Carried::default();
    for (key, was, is) in differences(&then.noted, &now.noted) {
        carried.changes.push(match was.len().max(is.len()) {
            0..=80 => format!("{key} was \"{was}\" and is \"{is}\" from here on"),
            _ => format!("{key} is another from here on"),
        });
    }
    let place = |view: &ViewPrint| {
        now.views.iter().position(|other| other.name == view.name && other.definition == view.definition)
    };
    for view in &then.views {
        let place = place(view);
        carried.views.push(place.map(|place| place as ViewId));
        let Some(other) = place.map(|place| &now.views[place]) else {
            carried.changes.push(format!("the view {} is not there any more in the form it had", view.name));
            continue;
        };
        // A shorter retention only drops windows. By a longer one, records that were too late would now open windows
        // that are gone, and replace whole documents with parts of them. By another lateness, windows would be final a
        // second time, or never, and what was counted as late would not agree with what is.
        let settings = [
            (
                "allowed_lateness",
                view.lateness_ms,
                other.lateness_ms,
                view.lateness_ms != other.lateness_ms,
                "what is final and what was late was decided by the old setting",
            ),
            (
                "retention",
                view.retention_ms,
                other.retention_ms,
                view.retention_ms < other.retention_ms,
                "windows whose time was over by the old setting cannot be brought back",
            ),
        ];
        if let Some((key, was, is, _, why)) = settings.iter().find(|(_, _, _, is_refused, _)| *is_refused && at > 0) {
            return Err(format!(
                "{key} of the view \"{}\" was {was} ms when the checkpoint was made and is {is} ms now: {why}; set it \
                 back, give the view another name so that it starts empty, or start anew with --fresh",
                view.name
            ));
        }
        for (key, was, is) in [
            ("retention", view.retention_ms, other.retention_ms),
            ("max_keys", view.max_keys, other.max_keys),
            ("forget_after", view.forget_after_ms, other.forget_after_ms),
        ] {
            if was != is {
                carried.changes.push(format!("{key} of the view {} was {was} and is {is} from here on", view.name));
            }
        }
        if view.scored != other.scored {
            carried.changes.push(format!(
                "score of the view {} was [{}] and is [{}] from here on: its baselines are learned anew, from the windows \
                 that are retained",
                view.name,
                view.scored.join(", "),
                other.scored.join(", ")
            ));
        }
    }
    for (id, view) in (0..).zip(&now.views) {
        if !carried.views.contains(&Some(id)) {
            carried.new_views.push(id);
            carried.changes.push(format!("the view {} is new and starts empty here", view.name));
        }
    }
    Ok(carried)
}

/// Keys with different values.
fn differences<'a>(
    then: &'a BTreeMap<String, String>,
    now: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    let keys: std::collections::BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    keys.into_iter().filter_map(|key| {
        let (was, is) = (then.get(key).map_or("", String::as_str), now.get(key).map_or("", String::as_str));
        (was != is).then_some((key.as_str(), was, is))
    })
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::alerts::config::AlertConfig;
    use floodmark_dataflows::scores::ScoredMeasure;

    use super::*;

    fn fingerprint(change: impl FnOnce(&mut Config)) -> Fingerprint {
        let mut config = Config::default();
        config.source.files = Some(crate::sources::files::FilesConfig::default());
        change(&mut config);
        let views = config.compile().unwrap().views;
        Fingerprint::of(&config, &views)
    }

    #[test]
    fn what_cannot_carry_over_is_refused_by_name() {
        let then = fingerprint(|_| {});
        let refused = |change: fn(&mut Config)| compare(&then, &fingerprint(change), 5).unwrap_err();
        let tick = refused(|config| config.time.tick = crate::units::Span::from_millis(500));
        assert!(tick.contains("time.tick was 1000 ms") && tick.contains("--fresh"), "{tick}");
        let topic = refused(|config| config.source.files.as_mut().unwrap().topic = "other".into());
        assert!(topic.contains("source.files.topic was \"files\""), "{topic}");
        let longer = refused(|config| config.view[0].retention = crate::units::Span::from_secs(7_200));
        assert!(longer.contains("retention of the view \"per_service\""), "{longer}");
        let lateness = refused(|config| config.view[0].allowed_lateness = crate::units::Span::from_secs(90));
        assert!(lateness.contains("allowed_lateness of the view") && lateness.contains("final"), "{lateness}");
        let shorter = |config: &mut Config| config.view[0].retention = crate::units::Span::from_secs(1_800);
        let carried = compare(&then, &fingerprint(shorter), 5).unwrap();
        assert!(carried.is_same() && carried.changes[0].starts_with("retention of the view per_service"));
        let others = |config: &mut Config| config.view[0].score = vec![ScoredMeasure::P99];
        let carried = compare(&then, &fingerprint(others), 5).unwrap();
        assert!(carried.is_same() && carried.changes[0].contains("is [p99] from here on"), "{:?}", carried.changes);
        let alert = |config: &mut Config| {
            config.alert = vec![AlertConfig { name: "slow".into(), ..AlertConfig::default() }];
        };
        let carried = compare(&then, &fingerprint(alert), 5).unwrap();
        assert!(
            carried.is_same() && carried.changes[0].starts_with("the alert slow is another"),
            "{:?}",
            carried.changes
        );
    }

    #[test]
    fn views_are_found_by_what_they_are() {
        let second = |config: &mut Config| {
            let mut view = config.view[0].clone();
            view.name = "second".into();
            config.view.insert(0, view);
        };
        let carried = compare(&fingerprint(|_| {}), &fingerprint(second), 5).unwrap();
        assert_eq!((carried.views.clone(), carried.new_views.clone()), (vec![Some(1)], vec![0]));
        assert!(!carried.is_same() && carried.changes.iter().any(|change| change.contains("second is new")));
        let wider = |config: &mut Config| config.view[0].window = crate::units::Span::from_secs(20);
        let carried = compare(&fingerprint(|_| {}), &fingerprint(wider), 5).unwrap();
        assert_eq!((carried.views, carried.new_views), (vec![None], vec![0]), "another width is another view");
        let counting = |config: &mut Config| config.view[0].numbers = vec!["bytes".to_owned()];
        let carried = compare(&fingerprint(|_| {}), &fingerprint(counting), 5).unwrap();
        assert_eq!((carried.views, carried.new_views), (vec![None], vec![0]), "other numbers are another view");
        let counting = |config: &mut Config| config.view[0].rules = vec!["slow_response".to_owned()];
        let carried = compare(&fingerprint(|_| {}), &fingerprint(counting), 5).unwrap();
        assert_eq!((carried.views, carried.new_views), (vec![None], vec![0]), "so it is with rules");
        let same = compare(&fingerprint(|_| {}), &fingerprint(|_| {}), 5).unwrap();
        assert!(same.is_same() && same.changes.is_empty());
    }
}
