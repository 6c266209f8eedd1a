//! The parts of a limiter whose limits have a key each.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Core;
use crate::decision::Taken;
use crate::limit::{Limit, MAX_LIMITS};

/// The parts of a limiter, one for each key of a call.
pub(in super::super) struct Each {
    pub(in super::super) parts: Box<[Part]>,
}

/// The limits that share a key.
pub(in super::super) struct Part {
    pub(in super::super) core: Arc<Core>,
    /// The positions of the limits among all limits of the limiter.
    positions: SmallVec<[u8; MAX_LIMITS]>,
}

impl Each {
    /// The parts of `core`, by the group of each limit.
    pub(in super::super) fn of(core: &Core) -> Each {
        let groups = core.groups();
        let mut shapes: Vec<String> = Vec::new();
        let part = |group: u8| {
            let of_group = |position: &u8| groups[usize::from(*position)] == group;
            let positions: SmallVec<[u8; MAX_LIMITS]> = (0..).take(groups.len()).filter(of_group).collect();
            let core = core.part(&positions, &mut shapes);
            Part { core, positions }
        };
        Each { parts: core.keys().into_iter().map(part).collect() }
    }

    pub(in super::super) fn len(&self) -> usize {
        self.parts.len()
    }

    pub(in super::super) fn cores(&self) -> impl Iterator<Item = &Arc<Core>> {
        self.parts.iter().map(|part| &part.core)
    }

    /// Hands out replaced limits by position. Those beyond the limits as written have the last key.
    pub(in super::super) fn replace_limits(&self, limits: &[Limit]) {
        let written: usize = self.parts.iter().map(|part| part.positions.len()).sum();
        for (index, part) in self.parts.iter().enumerate() {
            let own = part.positions.iter().filter_map(|position| limits.get(usize::from(*position)));
            let is_last = index + 1 == self.parts.len();
            let beyond = limits.iter().skip(written).filter(|_| is_last);
            let limits: SmallVec<[Limit; MAX_LIMITS]> = own.chain(beyond).copied().collect();
            part.core.set_empty(limits.is_empty());
            if !limits.is_empty() {
                part.core.replace_limits(&limits);
            }
        }
    }
}

impl Part {
    /// Whether replaced limits have none for this key.
    pub(in super::super) fn is_off(&self) -> bool {
        self.core.is_empty()
    }

    /// The position of one of its limits among all limits, of which `written` were written down.
    pub(in super::super) fn position(&self, own: usize, written: usize) -> u8 {
        match self.positions.get(own) {
            Some(position) => *position,
            None => u8::try_from(written + own - self.positions.len()).unwrap_or(u8::MAX),
        }
    }

    /// Its share of limits that were read at a call.
    pub(in super::super) fn share(&self, limits: &[Limit]) -> SmallVec<[Limit; 2]> {
        self.positions.iter().filter_map(|position| limits.get(usize::from(*position)).copied()).collect()
    }
}

impl Core {
    /// The permits of a decision on several buckets, by the part that took them.
    pub(in super::super) fn apart(&self, taken: Box<[Taken]>) -> impl Iterator<Item = (&Arc<Core>, Taken)> {
        let cores = self.made_each().into_iter().flat_map(Each::cores);
        let cores: SmallVec<[&Arc<Core>; MAX_LIMITS]> = cores.collect();
        taken
            .into_iter()
            .filter_map(move |taken| cores.iter().find(|core| core.id == taken.limiter).map(|core| (*core, taken)))
    }
}
