//! Joins the workers to a store: batches, bounded channels, acknowledgements.
