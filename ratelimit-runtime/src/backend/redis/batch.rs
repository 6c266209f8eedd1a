//! Several calls, or several buckets, in one round trip, and permits taken ahead of calls.

pub(super) mod later;
pub(super) mod leases;
pub(super) mod runs;
pub(super) mod together;
