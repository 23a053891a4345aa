//! The configuration: defaults, then the file, the environment and flags.
