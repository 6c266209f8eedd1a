//! The Redis backend on real servers. One binary, because each links half the workspace.

mod calendars;
mod cluster;
mod coalescing;
mod conformance;
mod each;
mod failures;
mod guard;
mod later;
mod leases;
mod processes;
mod rights;
mod sentinel;
mod server;
mod topologies;
mod waiting;
