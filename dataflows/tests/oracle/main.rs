//! The accumulated output equals a function of the accumulated input: random disordered logs against a naive
//! reference, for 1, 2 and 4 workers and with serialised exchange; and the event clock, step by step.

// Helpers outside test functions are tests too.
#![allow(clippy::unwrap_used)]

mod alerts;
mod checkpoints;
mod clock;
mod marks;
mod memory;
mod outages;
mod reference;
mod scores;
mod script;
mod windows;
