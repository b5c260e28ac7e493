//! What completes behind the back of the thread that started it: `cp.async`, bulk and tensor copies, `mbarrier`, `wgmma`; and
//! clusters, whose blocks share their memory.
//!
//! The emulator is the adversary: nothing is complete before somebody waits for it, and whoever looks or writes earlier is
//! reported.

mod barrier;
mod barrier_instructions;
mod bulk;
pub(crate) mod cluster;
mod cluster_copies;
pub(crate) mod ends;
mod tensor_map;
mod tensor_map_fields;
mod thread_copies;
pub(crate) mod warpgroup;

use std::collections::HashMap;

pub use tensor_map::{TensorMap, TensorMapError, encode_tensor_map};

use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, Ins, Step, Warp},
    race,
    report::Fault,
};

/// What one warp has under way.
#[derive(Default)]
pub struct WarpState {
    /// The instruction just executed has to wait: it is to be executed again after the next event.
    pub(crate) blocked: bool,
    copies: thread_copies::Copies,
    departures: bulk::Departures,
    products: warpgroup::Products,
    cluster_phase: u64,
}

/// What one block has under way.
#[derive(Default)]
pub struct BlockState {
    /// Changes whenever something happened that a warp may be waiting for.
    pub(crate) events: u64,
    barriers: HashMap<u32, barrier::Mbarrier>,
    /// Barriers that warps wait for, as of the last event.
    waited: Vec<u32>,
    arrivals: Vec<bulk::Arrival>,
    operands: warpgroup::Operands,
    pub(crate) cluster: cluster::Cluster,
}

/// The instructions of this module.
pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    if matches!(i.parts[0], "fence") {
        let run = if i.has("async") || i.has("mbarrier_init") || i.parts.iter().any(|p| p.starts_with("async")) {
            proxy_fence
        } else {
            crate::ops::control::nothing
        };
        return Ok(Some(d.blank(run, Class::Synchronisation)));
    }
    if i.parts[0] == "prefetch" {
        return Ok(Some(d.blank(crate::ops::control::nothing, Class::Memory)));
    }
    let families = [
        thread_copies::decode,
        barrier_instructions::decode,
        cluster_copies::decode,
        bulk::decode,
        cluster::decode,
        tensor_map_fields::decode,
    ];
    for family in families {
        if let Some(ins) = family(d, i)? {
            return Ok(Some(ins));
        }
    }
    Ok(None)
}

/// `fence.proxy.async`, and `fence.mbarrier_init`, which is the same for barriers.
unsafe fn proxy_fence(warp: &mut Warp, block: &mut Block<'_>, _: &Ins, _: u32) -> Step {
    block.race.proxy_fence(warp.index);
    Ok(())
}

/// No warp of the block can run: completes one copy that somebody waits for, if there is one. The latest legal moment.
pub(crate) fn force(warps: &[Warp], block: &mut Block<'_>) -> Result<bool, Fault> {
    let waited = std::mem::take(&mut block.asynchronous.waited);
    let awaited = |a: &bulk::Arrival| waited.contains(&a.barrier());
    let candidates: Vec<usize> =
        block.asynchronous.arrivals.iter().enumerate().filter(|(_, a)| awaited(a)).map(|(n, _)| n).collect();
    if candidates.is_empty() {
        return Ok(false);
    }
    let chosen = candidates[block.rng.below(candidates.len() as u64) as usize];
    let arrival = block.asynchronous.arrivals.remove(chosen);
    bulk::complete(&warps[arrival.warp()], block, &arrival)?;
    Ok(true)
}

/// Threads end.
pub(crate) fn exit(warp: &Warp, block: &mut Block<'_>, mask: u32) -> Step {
    if !warp.asynchronous.departures.is_empty() {
        bulk::exit(warp, block, mask)?;
    }
    block.asynchronous.cluster.exited += race::lanes(mask).count() as u32;
    if block.asynchronous.cluster.exited >= block.threads {
        let lane = mask.trailing_zeros() as usize & 31;
        bulk::end(block)?;
        cluster::end(warp, block, lane)?;
    }
    cluster::turn(block);
    Ok(())
}
