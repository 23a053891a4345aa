//! Scores: a number, or a straight line over a field.

use crate::decode::Schema;
use crate::record::{FieldRef, Record};
use crate::rules::ScoreConfig;

/// `base + factor * (field - origin)`, rounded down, within 0 to 100; `base` where the record has no such number.
#[derive(Clone, Debug)]
pub(crate) struct Score {
    base: f64,
    line: Option<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    factor: f64,
    field: FieldRef,
    origin: f64,
}

impl Score {
    pub fn compile(config: &ScoreConfig, schema: &mut Schema) -> Result<Self, String> {
        match config {
            ScoreConfig::Points(points) if *points > 100 => Err(format!("score: expected 0 to 100, got {points}")),
            ScoreConfig::Points(points) => Ok(Self { base: f64::from(*points), line: None }),
            ScoreConfig::Formula(text) => {
                let (base, factor, field, origin) = parts(text).ok_or_else(|| {
                    format!("score: expected the form \"50 + 2 * (status_code - 400)\", got \"{text}\"")
                })?;
                let field = schema.field(field).map_err(|e| format!("score: {e}"))?;
                Ok(Self { base, line: Some(Line { factor, field, origin }) })
            }
        }
    }

    #[inline]
    pub fn of(&self, record: &Record<'_>) -> u8 {
        let rise = self.line.as_ref().and_then(|line| Some(line.factor * (record.number(line.field)? - line.origin)));
        // One multiplication and two additions of IEEE 754: the same on every machine.
        (self.base + rise.unwrap_or(0.0)).floor().clamp(0.0, 100.0) as u8
    }
}

fn parts(text: &str) -> Option<(f64, f64, &str, f64)> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    let (base, rest) = text.split_once('+')?;
    let (factor, rest) = rest.split_once('*')?;
    let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
    let (field, origin) = inner.rsplit_once('-')?;
    let field = field.trim();
    (!field.is_empty()).then_some((number(base)?, number(factor)?, field, number(origin)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parts("50 + 2 * (status_code - 400)"), Some((50.0, 2.0, "status_code", 400.0)));
        assert_eq!(parts("0+0.5*(http.queue-time-10)"), Some((0.0, 0.5, "http.queue-time", 10.0)));
        for text in
            ["", "50", "50 + 2", "50 + 2 * status_code", "a + 2 * (b - 1)", "1 + 2 * ( - 1)", "1 + inf * (b - 1)"]
        {
            assert_eq!(parts(text), None, "{text}");
        }
    }
}
