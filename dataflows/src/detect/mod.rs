//! How unusual a window is: a score from 0 to 100 that explains itself, against a baseline learned from the windows
//! before it.
//!
//! In: the windows of one key in order, each with the values of its measures. Out: a [`Scored`] for each. Nothing here
//! fails; what is no finite number is taken as absent. Floats stay inside one key and use operations that IEEE 754
//! rounds exactly, and `libm` for the rest, so every machine gives the same bits; scores are integers.
//!
//! - [`measure`]: what kind of number is judged.
//! - [`baseline`]: all that is learned of one measure of one key: [`Baseline::score`] and [`Baseline::learn`].
//! - [`parts`]: the ways in which a window can be unusual.
//! - [`levels`]: levels and spreads that forget, and steps between levels.
//! - [`tail`]: how rare a number is among the earlier ones.
//! - [`seasons`]: what is usual at an hour.
//! - [`first`]: what happens for the first time.
//! - [`scored`]: the result. [`window`]: one for all measures of a window.
//! - [`state`]: a baseline on its way out.

mod baseline;
mod first;
mod levels;
mod measure;
mod parts;
mod scored;
mod seasons;
mod state;
mod tail;
mod window;

pub use baseline::Baseline;
pub use measure::{Direction, Measure, Missing};
pub use parts::Part;
pub use scored::{ALERT_SCORE, Band, FINE, Scored};
pub use state::BaselineState;
pub use window::WindowScore;
