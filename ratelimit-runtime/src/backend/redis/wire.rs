//! One server's connections: lanes of blocking calls, links of async ones.

pub(super) mod lanes;
pub(super) mod links;
pub(super) mod node;
pub(super) mod opener;
