//! Runs the dataflow on this process's workers and joins sources, stores and the API to it.
