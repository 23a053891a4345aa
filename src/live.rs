//! The state that live reads are answered from.
