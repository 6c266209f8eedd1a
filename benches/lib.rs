//! What the benchmarks share: contenders that take turns, a table of ratios, an allocator that counts.

pub mod heap;
pub mod race;
