//! Accesses to a block's shared memory by the other blocks of its cluster: against the owner's accesses and each other's.
//!
//! Clocks of other blocks mean nothing in the owner's rows, so that the granules carry a mark that no clock reaches, and a
//! table holds who it was. Barriers of the cluster and arrivals at mbarriers of other blocks make order.

use std::collections::HashMap;

use super::{
    Case, Conflict, Party, Strength,
    clocks::{BlockClocks, PEERS},
    shared::{CLOCK_SHIFT, IN_FLIGHT, LAST_SHIFT, PLAIN_READ, SEVERAL, STRONG, SharedShadow, writer},
};

/// The clock of what other blocks did: after every clock of the owner's, before what is under way.
pub(super) const REMOTE: u32 = IN_FLIGHT - 1;

/// One access by a warp of another block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    block: u32,
    warp: usize,
    clock: u32,
    strong: bool,
}

impl Access {
    pub(super) fn party(&self) -> Party {
        Party::Block { block: self.block, warp: self.warp }
    }

    /// Whether it comes before what `warp` of the block with these clocks does now.
    pub(super) fn known(&self, clocks: &BlockClocks, warp: usize) -> bool {
        match self.block == clocks.block {
            true => self.warp == warp || clocks.knows(warp, self.warp, self.clock),
            false => clocks.knows_foreign(warp, self.block, self.warp, self.clock),
        }
    }
}

/// What other blocks did to one block's shared memory.
#[derive(Default)]
pub(super) struct Remote {
    /// The last write of a granule, if it was theirs.
    pub(super) writes: HashMap<usize, Access>,
    /// Their last reads of a granule since it was written.
    pub(super) reads: HashMap<usize, Vec<Access>>,
    /// The newest access of each of their warps.
    newest: HashMap<(u32, usize), u32>,
}

impl Remote {
    pub(super) fn clear(&mut self) {
        self.writes.clear();
        self.reads.clear();
        self.newest.clear();
    }

    /// One of their reads of the granule that does not come before a write by `warp` now.
    pub(super) fn unordered_read(
        &self,
        clocks: &BlockClocks,
        warp: usize,
        granule: usize,
        strength: Strength,
    ) -> Option<Party> {
        let readers = self.reads.get(&granule)?;
        let tolerated = |access: &Access| strength == Strength::Strong && access.strong;
        readers.iter().find(|access| !tolerated(access) && !access.known(clocks, warp)).map(Access::party)
    }
}

/// What a warp of another block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It reads.
    Read,
    /// It writes, or does an atomic.
    Write,
    /// It starts a copy that writes later.
    Copy,
    /// It uses an mbarrier, which must have been initialised before.
    Barrier,
}

/// Everything an access from another block is.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAccess {
    /// The warp, in its own block.
    pub warp: usize,
    /// Rank of that block in the cluster.
    pub rank: usize,
    /// The lane.
    pub lane: usize,
    /// Offset in the owner's shared memory.
    pub address: u32,
    /// Width.
    pub bytes: u32,
    /// What is done.
    pub deed: Deed,
    /// How strongly it is ordered.
    pub strength: Strength,
}

impl SharedShadow {
    /// A warp of another block of the cluster, whose clocks are `from`, accesses this memory.
    pub fn remote(
        &mut self,
        owner: &BlockClocks,
        from: &mut BlockClocks,
        access: RemoteAccess,
    ) -> Result<(), Conflict> {
        let RemoteAccess { warp, rank, lane, address, bytes, deed, strength } = access;
        let strong = strength == Strength::Strong;
        let now = Access { block: from.block, warp, clock: from.now(warp), strong };
        from.touched |= 1 << warp;
        for granule in self.range(address.into(), bytes.into()) {
            let conflict = |wrote: bool, party: Party, in_flight: bool| {
                let case = if in_flight { Case::InFlight } else { Case::Unordered };
                Err(self.conflict(lane, granule, wrote, party, case))
            };
            let stamp = self.writes[granule];
            let (actor, _, clock) = writer(stamp);
            if clock == IN_FLIGHT {
                return conflict(true, Party::Engine, true);
            }
            if clock > 0 && !(strong && stamp & STRONG != 0) {
                let (known, party) = match self.remote.writes.get(&granule) {
                    Some(theirs) if clock == REMOTE => (theirs.known(from, warp), theirs.party()),
                    _ if actor < super::ENGINES => (
                        clock < owner.cluster_floor || from.knows_foreign(warp, owner.block, actor, clock),
                        Party::Block { block: owner.block, warp: actor },
                    ),
                    _ => (
                        clock < owner.cluster_floor || from.knows_foreign(warp, owner.block, actor, clock),
                        Party::Engine,
                    ),
                };
                if !known {
                    return conflict(true, party, false);
                }
            }
            if matches!(deed, Deed::Write | Deed::Copy) {
                for reader in 0..owner.warps() {
                    let read = self.read_of(reader, granule);
                    let clock = read >> CLOCK_SHIFT;
                    let party = Party::Block { block: owner.block, warp: reader };
                    if clock == IN_FLIGHT {
                        return conflict(false, party, true);
                    }
                    let tolerated = strong && read & PLAIN_READ == 0;
                    let known = clock < owner.cluster_floor || from.knows_foreign(warp, owner.block, reader, clock);
                    if clock > 0 && !tolerated && !known {
                        return conflict(false, party, false);
                    }
                }
                if let Some(party) = self.remote.unordered_read(from, warp, granule, strength) {
                    return conflict(false, party, false);
                }
            }
            let who = ((PEERS + rank % 16) as u32) << 5 | warp as u32;
            match deed {
                Deed::Barrier => continue,
                Deed::Copy => self.writes[granule] = IN_FLIGHT << CLOCK_SHIFT | who,
                Deed::Write => {
                    let strong = if strong { STRONG } else { 0 };
                    self.writes[granule] = REMOTE << CLOCK_SHIFT | strong | who;
                    self.remote.writes.insert(granule, now);
                    self.remote.reads.remove(&granule);
                }
                Deed::Read => {
                    let readers = self.remote.reads.entry(granule).or_default();
                    readers.retain(|r| r.block != now.block || r.warp != now.warp);
                    readers.push(now);
                    if self.last_read[granule] >> LAST_SHIFT != IN_FLIGHT {
                        self.last_read[granule] = REMOTE << LAST_SHIFT | SEVERAL;
                    }
                }
            }
        }
        if deed != Deed::Barrier {
            self.remote.newest.insert((from.block, warp), now.clock);
        }
        Ok(())
    }

    /// A warp of another block whose last access here comes before nothing that any warp of the owner did: the memory may
    /// be gone before it.
    pub fn unawaited(&self, owner: &BlockClocks) -> Option<Party> {
        let known = |block: u32, warp: usize, clock: u32| {
            (0..owner.warps()).any(|mine| owner.knows_foreign(mine, block, warp, clock))
        };
        let mut left = self.remote.newest.iter().filter(|((block, warp), clock)| !known(*block, *warp, **clock));
        left.by_ref().map(|((block, warp), _)| (*block, *warp)).min().map(|(block, warp)| Party::Block { block, warp })
    }
}
