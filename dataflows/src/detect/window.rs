//! One score for a window of a view, from those of its measures.
//!
//! In: the [`Scored`] of each measure that the view names. Out: a [`WindowScore`]. The rarest measure decides; among
//! many measures one is rare by chance more often, and that is taken off (Bonferroni), so the score of a window means
//! the same however many measures a view has.

use serde::{Deserialize, Serialize};

use super::scored::{Band, Scored, coarse, fine_score};

/// How unusual a window is over all its measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowScore {
    /// 0 to 100.
    pub score: u8,
    /// The same in millionths.
    pub fine: u32,
    /// The score of what is new in the window: see [`Scored::onset`].
    pub onset: u8,
    /// The same in millionths.
    pub onset_fine: u32,
    /// The place of the measure that decided; `None` where none had a value.
    pub strongest: Option<usize>,
    /// No measure has enough history to judge by; the score is provisional and should not alert.
    pub learning: bool,
}

impl WindowScore {
    /// The score of a window whose measures were scored like this. Where some measures have learned enough, those that
    /// have not do not count.
    pub fn of(measures: &[Scored]) -> Self {
        let learning = measures.iter().all(|scored| scored.learning);
        let judged = || {
            measures
                .iter()
                .enumerate()
                .filter(move |(_, scored)| scored.value.is_some() && (learning || !scored.learning))
        };
        let chances = libm::log10((judged().count() as f64).max(1.0));
        // Of equals the first: so the result does not depend on more than the order of the measures.
        let rarest = judged().reduce(|a, b| if b.1.surprise > a.1.surprise { b } else { a });
        let Some((strongest, rarest)) = rarest else { return Self { learning, ..Self::default() } };
        let newest = judged().filter(|(_, scored)| scored.onset_fine > 0).map(|(_, scored)| scored.surprise);
        let onset_fine = newest.reduce(f64::max).map_or(0, |surprise| fine_score(surprise - chances));
        let fine = fine_score(rarest.surprise - chances);
        let strongest = Some(strongest);
        Self { score: coarse(fine), fine, onset: coarse(onset_fine), onset_fine, strongest, learning }
    }

    /// The name of the range that the score is in.
    pub fn band(&self) -> Band {
        Band::of(self.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(surprise: f64, learning: bool) -> Scored {
        let fine = fine_score(surprise);
        Scored { value: Some(1.0), surprise, fine, onset_fine: fine, ..Scored::absent(learning) }
    }

    #[test]
    fn the_rarest_measure_decides() {
        let alone = WindowScore::of(&[scored(3.0, false)]);
        assert_eq!((alone.fine, alone.strongest), (fine_score(3.0), Some(0)));
        let both = WindowScore::of(&[scored(1.0, false), scored(3.0, false)]);
        assert_eq!(both.strongest, Some(1));
        assert!(both.fine < alone.fine && both.fine > fine_score(2.6), "two chances");
    }

    #[test]
    fn a_measure_that_learns_or_is_absent_does_not_count() {
        let window = WindowScore::of(&[scored(9.0, true), scored(1.0, false), Scored::absent(false)]);
        assert_eq!((window.strongest, window.fine, window.learning), (Some(1), fine_score(1.0), false));
        assert!(WindowScore::of(&[scored(9.0, true)]).learning);
        assert_eq!(WindowScore::of(&[Scored::absent(false)]), WindowScore::default());
    }
}
