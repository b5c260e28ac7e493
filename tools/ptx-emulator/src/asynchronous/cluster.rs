//! Clusters: addresses in other blocks' shared memory and barriers over all blocks of a cluster.
//!
//! A 32-bit address of the cluster's shared memory holds the block's rank plus one in its top byte, a generic one in bits
//! 32..40; zero there means the own block.

use super::barrier_instructions;
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, Control, Ins, Step, Warp},
    memory::{SHARED_WINDOW, WINDOW_SHIFT},
    race::{self, BlockClocks},
    report::{Fault, FaultKind},
    weak,
};

/// The other blocks of a block's cluster.
#[derive(Default)]
pub struct Cluster {
    /// All blocks by rank, this one included; empty for a block on its own. Set by the launch, which keeps them in place.
    peers: Vec<*mut Block<'static>>,
    rank: u32,
    /// Threads of this block that arrived at the barrier under way.
    arrived: u32,
    /// Cluster barriers completed.
    phase: u64,
    /// Threads that ended.
    pub(super) exited: u32,
}

/// Makes blocks know each other. They must stay where they are until the last of them has ended.
pub(crate) fn connect(blocks: &mut [Block<'_>]) {
    let first = blocks.as_mut_ptr().cast::<Block<'static>>();
    let peers: Vec<_> = (0..blocks.len()).map(|n| first.wrapping_add(n)).collect();
    for (rank, block) in blocks.iter_mut().enumerate() {
        block.asynchronous.cluster.peers.clone_from(&peers);
        block.asynchronous.cluster.rank = rank as u32;
    }
}

/// Whether an address's rank plus one names the block itself.
pub(crate) fn is_own(block: &Block<'_>, rank: u32) -> bool {
    rank == block.asynchronous.cluster.rank + 1
}

/// The block's own rank in its cluster.
pub(crate) fn rank(block: &Block<'_>) -> u32 {
    block.asynchronous.cluster.rank
}

/// The block of that rank plus one, if it is another one than `block`.
pub(crate) fn peer<'a>(
    warp: &Warp,
    block: &Block<'_>,
    lane: usize,
    rank: u32,
) -> Result<Option<&'a mut Block<'static>>, Fault> {
    let cluster = &block.asynchronous.cluster;
    if rank == 0 || rank - 1 == cluster.rank {
        return Ok(None);
    }
    match cluster.peers.get(rank as usize - 1) {
        Some(pointer) => {
            // SAFETY: `connect` was given the blocks where they stay; one thread runs a whole cluster, one block at a time,
            // and this one is not `block`, so that nobody else holds a reference to it.
            let peer = unsafe { &mut **pointer };
            if peer.asynchronous.cluster.exited >= peer.threads {
                let message = format!("an access to the shared memory of block {:?}, which has ended", peer.index);
                return Err(block.fault(warp, lane as u32, FaultKind::UseAfterFree, message));
            }
            Ok(Some(peer))
        }
        None => {
            let message = format!("an address in block {} of a cluster of {}", rank - 1, cluster.peers.len().max(1));
            Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message))
        }
    }
}

/// `mapa`, `getctarank`, `barrier.cluster`.
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let shared = i.has("shared::cluster");
    let ins = match i.parts[..] {
        ["mapa", .., "u32"] => {
            let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?, d.from32(i, 2, 32)?];
            d.with(map32, Class::Integer, &slots)
        }
        ["mapa", .., "u64"] => {
            let slots = [d.to64(i, 0)?, d.from64(i, 1)?, d.from32(i, 2, 32)?, u32::from(shared)];
            d.with(map64, Class::Integer, &slots)
        }
        ["getctarank", .., "u32"] => {
            let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?];
            d.with(rank32, Class::Integer, &slots)
        }
        ["getctarank", .., "u64"] => {
            let slots = [d.to32(i, 0)?, d.from64(i, 1)?, u32::from(shared)];
            d.with(rank64, Class::Integer, &slots)
        }
        ["barrier", "cluster", "arrive", ..] => d.blank(arrive, Class::Synchronisation),
        ["barrier", "cluster", "wait", ..] => {
            let mut ins = d.blank(wait, Class::Synchronisation);
            ins.control = Control::Waiting;
            ins
        }
        _ => return Ok(None),
    };
    d.code.communicates = true;
    Ok(Some(ins))
}

unsafe fn map32(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (address, rank) = (warp.get32(ins.slots[1]), warp.get32(ins.slots[2]));
    let mapped = std::array::from_fn(|lane| address[lane] & 0xff_ffff | (rank[lane] + 1) << 24);
    warp.set32(ins.slots[0], mapped, mask);
    Ok(())
}

unsafe fn map64(warp: &mut Warp, _: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (address, rank) = (warp.get64(ins.slots[1]), warp.get32(ins.slots[2]));
    let mapped = std::array::from_fn(|lane| match ins.slots[3] {
        0 => SHARED_WINDOW | address[lane] & 0xff_ffff | u64::from(rank[lane] + 1) << 32,
        _ => address[lane] & 0xff_ffff | u64::from(rank[lane] + 1) << 24,
    });
    warp.set64(ins.slots[0], mapped, mask);
    Ok(())
}

unsafe fn rank32(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let own = block.asynchronous.cluster.rank + 1;
    let ranks = warp.get32(ins.slots[1]).map(|a| if a >> 24 == 0 { own } else { a >> 24 } - 1);
    warp.set32(ins.slots[0], ranks, mask);
    Ok(())
}

unsafe fn rank64(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let own = block.asynchronous.cluster.rank + 1;
    let shift = if ins.slots[2] == 0 { 32 } else { 24 };
    let ranks = warp.get64(ins.slots[1]).map(|a| match (a >> shift) as u32 & 0xff {
        0 => own - 1,
        rank => rank - 1,
    });
    warp.set32(ins.slots[0], ranks, mask);
    Ok(())
}

/// The block and offset that a generic address of shared memory names: rank plus one, zero for the own block.
pub(crate) fn generic(address: u64) -> Option<(u32, u32)> {
    let shared = address >> WINDOW_SHIFT == SHARED_WINDOW >> WINDOW_SHIFT;
    shared.then_some(((address >> 32) as u32 & 0xff, address as u32))
}

/// An access to `bytes` bytes at `address` of another block's shared memory, held against those of its owner and of others.
pub(crate) fn note(
    warp: &Warp,
    block: &mut Block<'_>,
    peer: &mut Block<'static>,
    (lane, address, bytes): (usize, u32, u32),
    deed: race::Deed,
    strength: race::Strength,
) -> Step {
    if !peer.race.on || !block.race.on {
        return Ok(());
    }
    let (rank, index) = (rank(block) as usize, warp.index as usize);
    let access = race::RemoteAccess { warp: index, rank, lane, address, bytes, deed, strength };
    let result = peer.race.shadow.remote(&peer.race.clocks, &mut block.race.clocks, access);
    let now = match deed {
        race::Deed::Read => "read by another block of the cluster",
        race::Deed::Write => "write by another block of the cluster",
        race::Deed::Copy => "copy started by another block of the cluster",
        race::Deed::Barrier => "use of an mbarrier by another block of the cluster",
    };
    result.map_err(|conflict| race::shared_fault(block, warp.index, conflict, now))
}

/// The last thread of a block ends, and its shared memory with it: the others must be done there, and this block must know.
pub(super) fn end(warp: &Warp, block: &Block<'_>, lane: usize) -> Step {
    if block.asynchronous.cluster.peers.len() < 2 || !block.race.on {
        return Ok(());
    }
    let Some(race::Party::Block { block: other, warp: theirs }) = block.race.shadow.unawaited(&block.race.clocks)
    else {
        return Ok(());
    };
    let message = format!(
        "the block ends, and its shared memory with it, without an order after an access to it by warp {theirs} of block {other}"
    );
    Err(block.fault(warp, lane as u32, FaultKind::UseAfterFree, message))
}

/// An arrival or another operation at an mbarrier of another block.
pub(super) fn change_remote(
    warp: &Warp,
    block: &mut Block<'_>,
    peer: &mut Block<'static>,
    lane: usize,
    operation: i64,
    address: u32,
    value: u32,
) -> Step {
    note(warp, block, peer, (lane, address, 8), race::Deed::Barrier, race::Strength::Strong)?;
    let on = std::mem::replace(&mut peer.race.on, false);
    if on
        && block.race.on
        && barrier_instructions::arrives(operation)
        && let Some(phase) = barrier_instructions::phase(peer, address)
    {
        // Whoever waits for this arrival learns of all that the warp knows.
        let key = barrier_instructions::key(address, phase);
        peer.race.clocks.arrive_foreign(key, &mut block.race.clocks, warp.index as usize);
    }
    let result = barrier_instructions::change_one(warp, peer, lane, operation, address, value);
    peer.race.on = on;
    match result {
        Ok(_) => Ok(()),
        Err(fault) => Err(block.place(fault, warp.index, lane as u32)),
    }
}

/// Calls `begin` for each block of the cluster whose bit is set.
pub(super) fn multicast(
    warp: &Warp,
    block: &mut Block<'_>,
    lane: usize,
    to: u32,
    (address, bytes): (u32, u32),
    begin: &mut dyn FnMut(&Warp, &mut Block<'_>) -> Step,
) -> Step {
    for rank in race::lanes(to) {
        match peer(warp, block, lane, rank as u32 + 1)? {
            None => begin(warp, block)?,
            Some(peer) => {
                note(warp, block, peer, (lane, address, bytes), race::Deed::Copy, race::Strength::Plain)?;
                let on = std::mem::replace(&mut peer.race.on, false);
                peer.pc = block.pc;
                let result = begin(warp, peer);
                peer.race.on = on;
                // Whoever waits there looks again.
                peer.asynchronous.events += 1;
                result?;
            }
        }
    }
    Ok(())
}

unsafe fn arrive(_: &mut Warp, block: &mut Block<'_>, _: &Ins, mask: u32) -> Step {
    block.asynchronous.cluster.arrived += mask.count_ones();
    turn(block);
    Ok(())
}

/// Completes the cluster's barrier if all living threads of all its blocks have arrived.
pub(super) fn turn(block: &mut Block<'_>) {
    let here = std::ptr::from_mut(block).cast::<Block<'static>>();
    let peers = block.asynchronous.cluster.peers.clone();
    let all = if peers.is_empty() { vec![here] } else { peers };
    // SAFETY: as in `peer`; the references are made one after the other out of pointers to distinct blocks, `block` is not
    // used again before they are gone, and `here` is its own pointer.
    let mut blocks: Vec<&mut Block<'static>> = all.into_iter().map(|p| unsafe { &mut *p }).collect();
    let done = |b: &&mut Block<'static>| b.asynchronous.cluster.arrived + b.asynchronous.cluster.exited >= b.threads;
    let any = blocks.iter().any(|b| b.asynchronous.cluster.arrived > 0);
    if !any || !blocks.iter().all(done) {
        return;
    }
    for b in &mut blocks {
        b.asynchronous.cluster.arrived = 0;
        b.asynchronous.cluster.phase += 1;
        b.asynchronous.events += 1;
    }
    if blocks.iter().all(|b| b.race.on) {
        let mut clocks: Vec<&mut BlockClocks> = blocks.iter_mut().map(|b| &mut b.race.clocks).collect();
        BlockClocks::cluster_barrier(&mut clocks);
    }
    let all: Vec<u64> = blocks.iter().map(|b| b.linear).collect();
    weak::meet(block.launch, &all);
}

unsafe fn wait(warp: &mut Warp, block: &mut Block<'_>, _: &Ins, _: u32) -> Step {
    if block.asynchronous.cluster.phase > warp.asynchronous.cluster_phase {
        warp.asynchronous.cluster_phase += 1;
    } else {
        warp.asynchronous.blocked = true;
    }
    Ok(())
}
