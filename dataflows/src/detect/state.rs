//! The state of a baseline on its way out: as bytes, or as text where the format is one for people.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Baseline;

/// The state of a [`Baseline`], bit by bit: at most [`BaselineState::MOST_BYTES`]. In JSON it is base64.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaselineState(Arc<[u8]>);

impl BaselineState {
    /// No state has more bytes than this, however long the history.
    pub const MOST_BYTES: usize = 4_096;

    /// The state of a baseline as it is now.
    pub fn of(baseline: &Baseline) -> Self {
        // Numbers and arrays can always be written to memory.
        Self(postcard::to_stdvec(baseline).unwrap_or_default().into())
    }

    /// The baseline; `None` if these are not the bytes of one.
    pub fn baseline(&self) -> Option<Baseline> {
        postcard::from_bytes(&self.0).ok()
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for BaselineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaselineState({} bytes)", self.0.len())
    }
}

impl Serialize for BaselineState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.serialize_str(&STANDARD.encode(&self.0)),
            false => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for BaselineState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct State;
        impl serde::de::Visitor<'_> for State {
            type Value = BaselineState;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the state of a baseline")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BaselineState, E> {
                STANDARD.decode(text).map(|bytes| BaselineState(bytes.into())).map_err(E::custom)
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<BaselineState, E> {
                Ok(BaselineState(bytes.into()))
            }
        }
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_str(State),
            false => deserializer.deserialize_bytes(State),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Measure;

    /// A baseline with a long and varied history, at every hour of the week, with counts and distances of all sizes.
    fn taught(windows: u64) -> Baseline {
        let mut baseline = Baseline::new(Measure::NUMBER);
        let mut state = 1u64;
        for n in 0..windows {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 33) as f64 / f64::from(1u32 << 31);
            let scale = libm::exp2(40.0 * ((state >> 20) % 64) as f64 / 64.0 - 20.0);
            baseline.learn(n * 60_000, Some(100.0 + noise * scale));
        }
        baseline
    }

    #[test]
    fn a_state_is_small_and_exact() {
        let mut most = 0;
        for windows in [0, 1, 200, 3_000, 50_000] {
            let baseline = taught(windows);
            let state = BaselineState::of(&baseline);
            most = most.max(state.bytes());
            assert!(state.bytes() <= BaselineState::MOST_BYTES, "{} bytes after {windows} windows", state.bytes());
            assert_eq!(state.baseline().as_ref(), Some(&baseline));
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<BaselineState>(&json).unwrap().baseline(), Some(baseline));
            let bytes = postcard::to_stdvec(&state).unwrap();
            assert_eq!(postcard::from_bytes::<BaselineState>(&bytes).unwrap(), state);
        }
        println!("at most {most} bytes");
    }

    #[test]
    fn what_is_no_state_is_refused() {
        assert!(serde_json::from_str::<BaselineState>("\"?\"").is_err());
        let short = serde_json::from_str::<BaselineState>("\"AAAA\"").unwrap();
        assert!(short.baseline().is_none());
    }
}
