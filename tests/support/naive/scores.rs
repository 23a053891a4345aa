//! The scores of windows: the plain fold that all references share, over values computed from the records themselves.

use std::collections::BTreeMap;

use floodmark_dataflows::scores::ScoredMeasure;
use floodmark_dataflows::view::View;

use super::records::Facts;
use super::windows::{Window, middle_of_bucket, number};
use super::{Model, ViewModel};

#[path = "../../../dataflows/tests/support/scores.rs"]
mod fold;
use fold::Content;
pub(super) use fold::Scored;

/// The scores of a key's windows by start, as of the end, which is a tick.
pub(super) fn scores_of(
    model: &Model,
    view: &ViewModel,
    windows: &BTreeMap<u64, &Window>,
    end: u64,
) -> BTreeMap<u64, Scored> {
    let content = |window: &Window, at: u64| {
        let records: Vec<&Facts> =
            window.records.iter().filter(|record| record.time < at).map(|record| &*record.facts).collect();
        (!records.is_empty()).then(|| view.score.iter().map(|measure| value(*measure, &records, view.width)).collect())
    };
    let mut contents = BTreeMap::new();
    for (&start, &window) in windows {
        let ticks = window.records.iter().map(|record| record.time).collect();
        contents.insert(start, Content { ticks, late: &window.late, values: Box::new(move |at| content(window, at)) });
    }
    fold::scores_of(&compiled(model, view), &contents, &|_| None, end, model.tick)
}

/// The value of a measure; not a number where no record has what it is about.
fn value(measure: ScoredMeasure, records: &[&Facts], width: u64) -> f64 {
    let count = |holds: &dyn Fn(&Facts) -> bool| records.iter().filter(|record| holds(record)).count() as f64;
    let all = records.len() as f64;
    let mut times: Vec<u64> = records.iter().filter_map(|record| record.response_us).collect();
    times.sort_unstable();
    let percentile = |permille: usize| match (times.first(), times.last()) {
        (Some(&min), Some(&max)) => {
            let rank = times[(times.len() * permille).div_ceil(1_000) - 1];
            middle_of_bucket(rank).clamp(min, max) as f64 / 1e3
        }
        _ => f64::NAN,
    };
    match measure {
        ScoredMeasure::Rate => all * 1e3 / width as f64,
        ScoredMeasure::ErrorRatio => count(&|record| ["ERROR", "FATAL"].contains(&record.level)) / all,
        ScoredMeasure::AnomalyRatio => count(&|record| record.severity >= 50) / all,
        ScoredMeasure::Mean if times.is_empty() => f64::NAN,
        ScoredMeasure::Mean => times.iter().sum::<u64>() as f64 / times.len() as f64 / 1e3,
        ScoredMeasure::P50 => percentile(500),
        ScoredMeasure::P90 => percentile(900),
        ScoredMeasure::P95 => percentile(950),
        ScoredMeasure::P99 => percentile(990),
        ScoredMeasure::New => f64::NAN,
        ScoredMeasure::Number(of) => {
            let (statistic, name) = of.name().split_once(':').expect("a statistic of a number or a rule");
            let matches = count(&|record| record.reasons.contains(&name));
            match statistic {
                "rule" => return matches,
                "rule_ratio" => return matches / all,
                _ => {}
            }
            number(name, records).and_then(|number| number[statistic].as_f64()).unwrap_or(f64::NAN)
        }
    }
}

/// The view as the fold knows it: what is in it does not matter there.
fn compiled(model: &Model, view: &ViewModel) -> View {
    View {
        name: view.name.as_str().into(),
        key: view.key.iter().map(|name| name.as_str().into()).collect(),
        key_fields: Vec::new(),
        conditions: Vec::new(),
        condition_texts: Vec::new(),
        width_ms: view.width,
        slide_ms: view.slide,
        lateness_ms: view.lateness,
        retention_ms: view.retention,
        max_keys: view.max_keys,
        forget_after_ms: view.forget_after,
        numbers: Vec::new(),
        number_sources: Vec::new(),
        scored: view.score.clone(),
        keeps_offsets: false,
        is_watched: false,
        evidence_from: model.evidence_from(view),
    }
}
