//! The difference of the arrangement: an aggregate behind a counted pointer.
//!
//! The batcher sorts and moves updates, and the trace copies rows from batch to batch as it merges. A pointer makes
//! both cheap: rows that merely move on are shared between the old batch and the new one.

use std::sync::Arc;

use differential_dataflow::difference::{IsZero, Semigroup};
use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Shared(pub Arc<Aggregate>);

impl From<Arc<Aggregate>> for Shared {
    fn from(aggregate: Arc<Aggregate>) -> Self {
        Self(aggregate)
    }
}

impl From<Aggregate> for Shared {
    fn from(aggregate: Aggregate) -> Self {
        Self(Arc::new(aggregate))
    }
}

impl IsZero for Shared {
    fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl Semigroup for Shared {
    fn plus_equals(&mut self, other: &Self) {
        Arc::make_mut(&mut self.0).plus_equals(&*other.0);
    }
}
