//! Operations over restarts, bounds and keys, on a store of their own.
