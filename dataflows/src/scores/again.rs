//! A window scored again, from the state of its baselines and its records: with the same result as in the run.

use super::Plan;
use crate::aggregate::Aggregate;
use crate::detect::{Baseline, Scored, WindowScore as Combined};
use crate::output::WindowScore;
use crate::time::Millis;
use crate::view::View;

/// The score of a window with this content against these baselines, one for each measure that the view scores by one;
/// `stalled` if a partition could not be read then.
/// Where its key came for the first time, `news_expected` is how many windows with something new were expected in one:
/// the explanation of that measure. `None` if the view has other measures.
pub fn score_again(
    view: &View,
    start: Millis,
    content: &Aggregate,
    baselines: &[Baseline],
    stalled: bool,
    news_expected: Option<f64>,
) -> Option<WindowScore> {
    let plan = Plan::of(view).filter(|plan| plan.measures.len() == baselines.len())?;
    let measures = plan.measures.iter().zip(baselines);
    let scored = measures.map(|(measure, baseline)| {
        let value = plan.value_of(*measure, content);
        if stalled && baseline.is_unknown(value) { baseline.unjudged() } else { baseline.score(start, value) }
    });
    // Of what is still being learned, one a window is said to be expected.
    let news = news_expected.map(|expected| Scored::never_before(expected, plan.slide_ms(), expected >= 1.0));
    let scored: Vec<_> = scored.chain(news).collect();
    Some(plan.explain(&scored, &Combined::of(&scored), stalled))
}
