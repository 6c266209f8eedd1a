//! Shared by the benchmarks: interleaved contenders, a table of ratios, a counting allocator.

pub mod heap;
pub mod race;
