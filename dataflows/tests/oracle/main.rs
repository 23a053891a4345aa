//! The accumulated output equals a function of the accumulated input: random disordered logs against a naive
//! reference, for 1, 2 and 4 workers and with serialised exchange; and the event clock, step by step.

mod clock;
mod memory;
mod reference;
mod windows;
