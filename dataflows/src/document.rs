//! Log documents: the raw JSON with the computed fields spliced in.
