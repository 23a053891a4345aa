//! From raw bytes to a [`Record`](crate::record::Record).
