//! Files as a log.
