//! The generator: the record at (seed, partition, offset) is a pure function.
