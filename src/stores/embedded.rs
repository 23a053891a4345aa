//! The embedded search index.
