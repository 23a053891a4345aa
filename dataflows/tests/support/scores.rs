//! The scores of a key's windows by a plain fold: every baseline is kept, and what is there at each late tick is learned
//! anew from the first window that it changed. For all references; the formula itself is that of the detector.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use floodmark_dataflows::detect::{Baseline, BaselineState, Scored as Judged, WindowScore as Combined};
use floodmark_dataflows::output::WindowScore;
use floodmark_dataflows::scores::{Plan, ScoredMeasure};
use floodmark_dataflows::time::Millis;
use floodmark_dataflows::view::View;

/// The values of a window's measures, of its records before a tick: not a number where it has none, `None` without any
/// record.
pub type Values<'a> = Box<dyn Fn(u64) -> Option<Vec<f64>> + 'a>;

/// A window that has records, as far as scores depend on it.
pub struct Content<'a> {
    /// The ticks of its records.
    pub ticks: BTreeSet<u64>,
    /// Those at which late records changed it.
    pub late: &'a BTreeSet<u64>,
    pub values: Values<'a>,
}

/// The score of a window, and the last late tick that changed it.
pub struct Scored {
    pub score: WindowScore,
    /// What it was scored by, where alerts take that along.
    pub states: Option<Vec<BaselineState>>,
    pub last: Option<u64>,
}

/// What windows have taught before one.
#[derive(Clone)]
struct Taught {
    baselines: Vec<Baseline>,
    last: Option<u64>,
}

impl Taught {
    fn is_awake(&self, window: u64) -> bool {
        self.last.is_some_and(|last| window - last <= 1_000)
    }
}

/// The measures of a view that are scored against baselines.
pub fn with_baselines(view: &View) -> impl Iterator<Item = &ScoredMeasure> {
    view.scored.iter().filter(|measure| **measure != ScoredMeasure::New)
}

/// The scores of a key's windows as of the end, a tick: of those with records that are closed, and of those without whose
/// score is worth a document. `news` is the score of the window in which the key comes for the first time, if its view
/// scores that.
pub fn scores_of(
    view: &View,
    windows: &BTreeMap<Millis, Content<'_>>,
    news: &dyn Fn(u64) -> Option<Judged>,
    end: u64,
    tick_ms: u64,
) -> BTreeMap<Millis, Scored> {
    let Some(plan) = Plan::of(view) else { return BTreeMap::new() };
    let late: BTreeSet<u64> = windows.values().flat_map(|window| window.late).copied().collect();
    let steps = late.iter().flat_map(|&tick| [(tick, None), (tick + 1, Some(tick))]).chain([(u64::MAX, None)]);
    let nothing = || Taught {
        baselines: with_baselines(view).map(|measure| Baseline::new(measure.measure())).collect(),
        last: None,
    };
    let first = windows.keys().next().map_or(0, |start| start / view.slide_ms);
    // What is taught before each window from the first on, and the values of each.
    let mut taught = vec![Rc::new(nothing())];
    let mut contents: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    let mut scores: BTreeMap<u64, Scored> = BTreeMap::new();
    let forget_after = view.forget_after_ms / view.slide_ms;
    let (mut before, mut closed_before) = (0, 0);
    for (at, late) in steps {
        let closed = at.min(end) * tick_ms;
        let last = (closed + view.slide_ms).saturating_sub(view.width_ms) / view.slide_ms;
        let mut from = first + taught.len() as u64 - 1;
        for (start, window) in windows.range(..last * view.slide_ms) {
            let number = start / view.slide_ms;
            if number < closed_before && window.ticks.range(before..at).next().is_none() {
                continue;
            }
            let Some(values) = (window.values)(at) else { continue };
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            if contents.get(&number).is_none_or(|known| bits(known) != bits(&values)) {
                from = from.min(number);
                contents.insert(number, values);
            }
        }
        (before, closed_before) = (at, last);
        taught.truncate((from - first) as usize + 1);
        for number in first.max(from)..last.max(from) {
            let content = contents.get(&number);
            let value = |place: usize| content.map(|values| values[place]);
            let start = number * view.slide_ms;
            // What the windows taught that end by this one's start.
            let known = match ((start + view.slide_ms).saturating_sub(view.width_ms) / view.slide_ms).checked_sub(first)
            {
                Some(place) => taught[place as usize].clone(),
                None => Rc::new(nothing()),
            };
            if content.is_some() || known.is_awake(number) {
                let is_new = content.is_some() && known.last.is_none();
                let scored = known.baselines.iter().enumerate().map(|(place, of)| of.score(start, value(place)));
                let scored: Vec<_> = scored.chain(is_new.then(|| news(number)).flatten()).collect();
                let combined = Combined::of(&scored);
                let is_shown = content.is_some() || combined.score >= 50 && !combined.learning;
                let score = is_shown.then(|| plan.explain(&scored, &combined, false));
                let is_evidence = !combined.learning && view.evidence_from.is_some_and(|from| combined.score >= from);
                let states = is_evidence.then(|| known.baselines.iter().map(BaselineState::of).collect());
                let old = scores.remove(&number);
                let is_changed =
                    old.as_ref().map(|old| (&old.score, &old.states)) != score.as_ref().map(|score| (score, &states));
                if let Some(score) = score {
                    let last = if is_changed { late } else { None };
                    scores.insert(number, Scored { score, states, last: last.max(old.and_then(|old| old.last)) });
                }
            }
            let mut next = taught[(number - first) as usize].clone();
            if content.is_some() || next.is_awake(number) {
                let next = Rc::make_mut(&mut next);
                let each = next.baselines.iter_mut().enumerate();
                each.for_each(|(place, baseline)| baseline.learn(start, value(place)));
            }
            if content.is_some() {
                Rc::make_mut(&mut next).last = Some(number);
            } else if next.last.is_some_and(|last| number + 1 > last + forget_after.max(1_001)) {
                next = Rc::new(nothing());
            }
            taught.push(next);
        }
    }
    scores.into_iter().map(|(number, scored)| (number * view.slide_ms, scored)).collect()
}
