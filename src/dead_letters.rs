//! Records that cannot be read, indexed or trusted: raw bytes, partition, offset, reason.
