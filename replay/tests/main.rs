//! The replay tool, seen from outside.
