//! Strong accesses as weakly ordered as the memory model of PTX lets them be: a relaxed load may give an older value than the
//! last one written, as long as nothing that the reader knows of comes after it.
//!
//! Each place keeps its last strong writes. What a warp knows is a view: for each place the oldest write that it may still
//! read. Fences and releases attach views to writes; acquires and fences take them from what was read; barriers join those of
//! all warps; fences that are sequentially consistent also exchange views with each other, in the order they execute in.
//! Loads that foretell later stores, which the model allows too, are not made.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    machine::{Block, Launch},
    ops::access::{Order, Payload},
    race::lanes,
    rng::Rng,
};

/// So many writes of a place can be read.
const KEPT: usize = 8;

/// A place: its address, made unique for shared memory by the block, and its width.
type Place = (u64, u64, usize);
type View = HashMap<Place, u64>;

fn join(into: &mut View, from: &View) {
    for (place, stamp) in from {
        let known = into.entry(*place).or_default();
        *known = (*known).max(*stamp);
    }
}

struct Write {
    stamp: u64,
    value: [u8; 16],
    /// What whoever acquires it learns.
    view: Option<Arc<View>>,
}

#[derive(Default)]
struct Knowledge {
    view: View,
    /// At the last fence: what later writes hand on.
    fenced: Option<Arc<View>>,
    /// Of writes read so far: what the next fence takes.
    read: View,
}

/// The strong writes of one launch.
#[derive(Default)]
pub(crate) struct Weak {
    stamp: u64,
    places: HashMap<Place, VecDeque<Write>>,
    /// By block and warp.
    warps: HashMap<(u64, u32), Knowledge>,
    sequential: View,
}

/// The state of a launch, if its options ask for weak memory.
pub(crate) type State = Option<Mutex<Weak>>;

fn lock<'l>(launch: &'l Launch<'_>) -> Option<MutexGuard<'l, Weak>> {
    launch.weak.as_ref().map(|weak| weak.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Where an access falls: global memory, or the shared memory of the block.
pub(crate) fn place(block: &Block<'_>, shared: bool, address: u64, width: usize) -> Place {
    (if shared { block.linear + 1 } else { 0 }, address, width)
}

impl Weak {
    /// A strong load of what memory holds as `newest`.
    fn load(&mut self, rng: &mut Rng, who: (u64, u32), place: Place, acquire: bool, value: &mut [u8]) {
        let Some(writes) = self.places.get(&place) else { return };
        let knowledge = self.warps.entry(who).or_default();
        let oldest = knowledge.view.get(&place).copied().unwrap_or(0);
        let first = writes.iter().position(|w| w.stamp >= oldest).unwrap_or(writes.len() - 1);
        // The newest comes every other time, so that loops which wait for it end soon.
        let back = if rng.below(2) == 0 { 0 } else { rng.below((writes.len() - first) as u64) as usize };
        let Some(chosen) = writes.get(writes.len() - 1 - back) else { return };
        value.copy_from_slice(&chosen.value[..value.len()]);
        knowledge.view.insert(place, chosen.stamp);
        if let Some(view) = &chosen.view {
            join(if acquire { &mut knowledge.view } else { &mut knowledge.read }, view);
        }
    }

    /// A strong write of `new` over `old`; an atomic also reads.
    fn store(&mut self, who: (u64, u32), place: Place, order: Order, atomic: bool, old: &[u8], new: &[u8]) {
        self.stamp += 1;
        let padded = |bytes: &[u8]| std::array::from_fn(|n| bytes.get(n).copied().unwrap_or(0));
        let writes = self.places.entry(place).or_default();
        if writes.back().is_none_or(|last| last.value[..old.len()] != *old) {
            // Nothing before, or something that is no strong write came between.
            writes.clear();
            writes.push_back(Write { stamp: self.stamp, value: padded(old), view: None });
            self.stamp += 1;
        }
        let knowledge = self.warps.entry(who).or_default();
        let before = writes.back().and_then(|w| w.view.clone()).filter(|_| atomic);
        if let Some(view) = &before {
            join(if order.acquire { &mut knowledge.view } else { &mut knowledge.read }, view);
        }
        knowledge.view.insert(place, self.stamp);
        let own = if order.release { Some(Arc::new(knowledge.view.clone())) } else { knowledge.fenced.clone() };
        // A chain of atomics hands on what its first write released.
        let view = match (before, own) {
            (Some(mut before), Some(own)) => {
                join(Arc::make_mut(&mut before), &own);
                Some(before)
            }
            (before, own) => before.or(own),
        };
        writes.push_back(Write { stamp: self.stamp, value: padded(new), view });
        if writes.len() > KEPT {
            writes.pop_front();
        }
    }

    fn fence(&mut self, who: (u64, u32), sequential: bool) {
        let knowledge = self.warps.entry(who).or_default();
        let read = std::mem::take(&mut knowledge.read);
        join(&mut knowledge.view, &read);
        if sequential {
            join(&mut knowledge.view, &self.sequential);
            self.sequential.clone_from(&knowledge.view);
        }
        knowledge.fenced = Some(Arc::new(knowledge.view.clone()));
    }

    fn meet(&mut self, blocks: &[u64]) {
        let mut all = View::new();
        for (_, knowledge) in self.warps.iter().filter(|((block, _), _)| blocks.contains(block)) {
            join(&mut all, &knowledge.view);
        }
        for block in blocks {
            // Warps that have done nothing yet learn too.
            for warp in 0..32 {
                join(&mut self.warps.entry((*block, warp)).or_default().view, &all);
            }
        }
    }
}

/// Strong loads of a warp: what they found may become something older.
#[cold]
#[inline(never)]
pub(crate) fn load<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: u32,
    mask: u32,
    (shared, address): (bool, &dyn Fn(usize) -> u64),
    order: Order,
    data: &mut Payload,
) {
    let Some(mut weak) = lock(block.launch) else { return };
    for lane in lanes(mask) {
        let place = place(block, shared, address(lane), WIDTH);
        let value = &mut data[lane * WIDTH..(lane + 1) * WIDTH];
        weak.load(&mut block.rng, (block.linear, warp), place, order.acquire, value);
    }
}

/// A strong store of one lane, before it happens.
#[cold]
#[inline(never)]
pub(crate) fn store(
    block: &Block<'_>,
    warp: u32,
    (shared, address): (bool, u64),
    order: Order,
    atomic: bool,
    old: &[u8],
    new: &[u8],
) {
    if let Some(mut weak) = lock(block.launch) {
        let place = place(block, shared, address, new.len());
        weak.store((block.linear, warp), place, order, atomic, old, new);
    }
}

/// A fence.
pub(crate) fn fence(block: &Block<'_>, warp: u32, sequential: bool) {
    if let Some(mut weak) = lock(block.launch) {
        weak.fence((block.linear, warp), sequential);
    }
}

/// A barrier of these blocks, or of part of one: all warps know what each knew.
pub(crate) fn meet(launch: &Launch<'_>, blocks: &[u64]) {
    if let Some(mut weak) = lock(launch) {
        weak.meet(blocks);
    }
}
