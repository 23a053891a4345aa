//! One JSON document a line, to a file or standard output.
