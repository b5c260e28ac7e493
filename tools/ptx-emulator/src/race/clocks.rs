//! Happens-before inside a block and between blocks, by vector clocks of warps.
//!
//! A clock counts a warp's releases. An access is stamped with the warp's own clock; it comes before whatever a warp does that
//! knows of a later-or-equal clock of that warp. Block-wide barriers join everything, so that one number, the floor, tells all
//! accesses before the last of them from the rest: the fast path of every check.

use std::{collections::HashMap, sync::Arc};

/// Warps of a block, then asynchronous engines, then other blocks of the cluster.
pub const ACTORS: usize = 64;
/// First actor that stands for an asynchronous engine.
pub const ENGINES: usize = 32;
/// How many engines are told apart.
pub const ENGINE_COUNT: usize = 16;
/// First actor that stands for a block of the cluster.
pub const PEERS: usize = ENGINES + ENGINE_COUNT;
/// The largest clock a stamp can hold; the two above it mark what is under way and what other blocks did.
pub const LAST_CLOCK: u32 = (1 << 19) - 3;

/// What one warp knows of all actors.
pub type Clock = [u32; ACTORS];

/// What is known of other blocks: the clocks of their warps.
type Foreign = Arc<HashMap<u32, Arc<Clock>>>;

#[derive(Clone)]
struct Published {
    clock: Arc<Clock>,
    foreign: Option<Foreign>,
}

/// Things an address of global memory hands on from its writers to its readers.
#[derive(Default)]
pub struct GlobalOrder {
    published: HashMap<u64, Foreign>,
}

impl GlobalOrder {
    /// Forgets everything: a new launch.
    pub fn clear(&mut self) {
        self.published.clear();
    }
}

/// The clocks of one block.
pub struct BlockClocks {
    /// Linear index of the block in its grid.
    pub block: u32,
    warps: usize,
    clocks: Vec<Clock>,
    /// Accesses stamped with smaller clocks come before everything now.
    pub(super) floor: u32,
    /// The floor of the last barrier of the whole cluster.
    pub(super) cluster_floor: u32,
    /// What each warp knows to be visible to the asynchronous proxy.
    proxied: Vec<Clock>,
    /// What each warp's last fence covered, until a strong write publishes it.
    fenced: Vec<Option<Published>>,
    foreign: Vec<Option<Foreign>>,
    /// For each warp and each warp of another block whose unfenced strong stores it has seen: the newest clock and where.
    seen: Vec<HashMap<(u32, usize), (u32, u64)>>,
    /// Shared addresses that strong writes made hand on clocks.
    published: HashMap<u32, Box<Clock>>,
    /// Barriers being arrived at.
    arriving: HashMap<u64, Box<(Clock, Clock, Option<Foreign>)>>,
    /// Warps that accessed memory since their clock last moved.
    pub(super) touched: u64,
}

fn join(into: &mut Clock, from: &Clock) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

fn join_foreign(into: &mut Option<Foreign>, from: &Option<Foreign>) {
    let Some(from) = from else { return };
    match into {
        None => *into = Some(from.clone()),
        Some(into) if Arc::ptr_eq(into, from) => {}
        Some(into) => {
            let news = |(block, clock): &(&u32, &Arc<Clock>)| {
                into.get(block).is_none_or(|known| !Arc::ptr_eq(known, clock) && covers_less(known, clock))
            };
            let news: Vec<_> = from.iter().filter(news).map(|(b, c)| (*b, c.clone())).collect();
            if news.is_empty() {
                return;
            }
            let map = Arc::make_mut(into);
            for (block, clock) in news {
                let known = map.entry(block).or_insert_with(|| clock.clone());
                if !Arc::ptr_eq(known, &clock) {
                    join(Arc::make_mut(known), &clock);
                }
            }
        }
    }
}

fn covers_less(known: &Clock, other: &Clock) -> bool {
    known.iter().zip(other).any(|(a, b)| a < b)
}

impl BlockClocks {
    /// A block that starts.
    pub fn new(block: u32, warps: usize) -> Self {
        let clocks: Vec<Clock> = (0..warps).map(|w| std::array::from_fn(|actor| u32::from(actor == w))).collect();
        Self {
            block,
            warps,
            proxied: vec![[0; ACTORS]; warps],
            fenced: vec![None; warps],
            foreign: vec![None; warps],
            seen: vec![HashMap::new(); warps],
            clocks,
            floor: 1,
            cluster_floor: 1,
            published: HashMap::new(),
            arriving: HashMap::new(),
            touched: 0,
        }
    }

    /// Warps of the block.
    pub fn warps(&self) -> usize {
        self.warps
    }

    /// The clock a warp stamps its accesses with.
    #[inline]
    pub fn now(&self, warp: usize) -> u32 {
        self.clocks[warp][warp]
    }

    /// Whether what `actor` did at `clock` comes before what `warp` does now.
    #[inline]
    pub fn knows(&self, warp: usize, actor: usize, clock: u32) -> bool {
        clock < self.floor || clock <= self.clocks[warp][actor]
    }

    /// Whether what `actor` wrote at `clock` has passed a proxy fence that `warp` knows of.
    pub fn proxied(&self, warp: usize, actor: usize, clock: u32) -> bool {
        clock <= self.proxied[warp][actor]
    }

    /// Whether what a warp of another block did comes before what `warp` does now.
    pub fn knows_foreign(&self, warp: usize, block: u32, actor: usize, clock: u32) -> bool {
        let known = self.foreign[warp].as_ref().and_then(|f| f.get(&block));
        known.is_some_and(|c| clock <= c[actor])
    }

    /// `warp` saw a strong store that no fence orders. True if it had seen a later one of the same writer elsewhere before:
    /// nothing but luck makes the earlier store visible then.
    pub fn sees(&mut self, warp: usize, block: u32, actor: usize, clock: u32, address: u64) -> bool {
        let newest = self.seen[warp].entry((block, actor)).or_insert((clock, address));
        if newest.1 != address && clock < newest.0 {
            return true;
        }
        *newest = (clock.max(newest.0), address);
        false
    }

    /// Whether `warp` has learned anything of other blocks.
    pub fn has_foreign(&self, warp: usize) -> bool {
        self.foreign[warp].is_some()
    }

    /// No stamp of a later clock would fit: shadows must be cleared and [`BlockClocks::restart`] called.
    pub fn exhausted(&self) -> bool {
        (0..self.warps).any(|w| self.now(w) >= LAST_CLOCK)
    }

    /// All threads of the block passed one barrier.
    pub fn barrier_all(&mut self) {
        let mut highest = [0; ACTORS];
        let mut proxied = [0; ACTORS];
        let mut foreign = None;
        for w in 0..self.warps {
            join(&mut highest, &self.clocks[w]);
            join(&mut proxied, &self.proxied[w]);
            join_foreign(&mut foreign, &self.foreign[w]);
        }
        self.floor = highest.iter().max().map_or(1, |c| c + 1);
        for w in 0..self.warps {
            self.clocks[w] = highest;
            self.clocks[w][w] = self.floor;
            self.proxied[w] = proxied;
            self.foreign[w].clone_from(&foreign);
        }
        self.touched = 0;
    }

    /// All threads of all blocks of the cluster passed one barrier.
    pub fn cluster_barrier(blocks: &mut [&mut Self]) {
        for block in blocks.iter_mut() {
            block.barrier_all();
            block.cluster_floor = block.floor;
        }
        let known: Vec<_> = blocks.iter().map(|b| (b.block, Arc::new(b.clocks[0]))).collect();
        for block in blocks.iter_mut() {
            let others = known.iter().filter(|(index, _)| *index != block.block).cloned();
            let others = Some(Arc::new(others.collect::<HashMap<_, _>>()));
            let mut foreign = block.foreign[0].clone();
            join_foreign(&mut foreign, &others);
            block.foreign.fill(foreign);
            // What the others knew at the barrier lies at or below their floor minus one, and their own clocks moved on.
            for w in 0..block.warps {
                block.bump(w);
            }
        }
    }

    /// What `warp` does from now on is told from what it did.
    pub(super) fn bump(&mut self, warp: usize) {
        self.clocks[warp][warp] += 1;
        self.touched &= !(1 << warp);
    }

    /// Lanes of `warp` arrived at a barrier of part of the block, without waiting yet. `barrier` is any number of its own.
    pub fn arrive(&mut self, barrier: u64, warp: usize) {
        let slot = self.arriving.entry(barrier).or_insert_with(|| Box::new(([0; ACTORS], [0; ACTORS], None)));
        join(&mut slot.0, &self.clocks[warp]);
        join(&mut slot.1, &self.proxied[warp]);
        join_foreign(&mut slot.2, &self.foreign[warp]);
        self.bump(warp);
    }

    /// The same, by a warp of another block of the cluster, whose clocks are `from`.
    pub fn arrive_foreign(&mut self, barrier: u64, from: &mut Self, warp: usize) {
        let slot = self.arriving.entry(barrier).or_insert_with(|| Box::new(([0; ACTORS], [0; ACTORS], None)));
        let theirs = Arc::new(HashMap::from([(from.block, Arc::new(from.clocks[warp]))]));
        join_foreign(&mut slot.2, &Some(theirs));
        join_foreign(&mut slot.2, &from.foreign[warp]);
        from.bump(warp);
    }

    /// The same, by an asynchronous engine that did its work at `clock`.
    pub fn arrive_engine(&mut self, barrier: u64, engine: usize, clock: u32) {
        let slot = self.arriving.entry(barrier).or_insert_with(|| Box::new(([0; ACTORS], [0; ACTORS], None)));
        slot.0[engine] = slot.0[engine].max(clock);
        slot.1[engine] = slot.1[engine].max(clock);
    }

    /// `warp` waited for that barrier and saw all that had arrived.
    pub fn wait(&mut self, barrier: u64, warp: usize) {
        if let Some(slot) = self.arriving.get(&barrier) {
            join(&mut self.clocks[warp], &slot.0);
            join(&mut self.proxied[warp], &slot.1);
            let foreign = slot.2.clone();
            join_foreign(&mut self.foreign[warp], &foreign);
        }
    }

    /// The barrier is done with; its number may be used again.
    pub fn forget(&mut self, barrier: u64) {
        self.arriving.remove(&barrier);
    }

    /// The clock at which an asynchronous engine finishes work: after everything so far.
    pub fn engine_now(&mut self) -> u32 {
        (0..self.warps).map(|w| self.now(w)).max().map_or(1, |c| c)
    }

    /// `.sync` collectives and `bar.warp.sync`: what lanes did before comes before what other lanes do after.
    #[inline]
    pub fn warp_sync(&mut self, warp: usize) {
        if self.touched >> warp & 1 == 1 {
            self.bump(warp);
        }
    }

    /// `membar`, `fence`: whatever comes before can be published by a strong write from now on.
    pub fn fence(&mut self, warp: usize) {
        let clock = Arc::new(self.clocks[warp]);
        self.fenced[warp] = Some(Published { clock, foreign: self.foreign[warp].clone() });
        self.bump(warp);
    }

    /// `fence.proxy.async`: what the warp knows of is visible to the asynchronous proxy from now on.
    pub fn proxy_fence(&mut self, warp: usize) {
        let clock = self.clocks[warp];
        join(&mut self.proxied[warp], &clock);
        // Everything before the floor is known, whatever the clock says.
        let floor = self.floor - 1;
        self.proxied[warp].iter_mut().for_each(|c| *c = (*c).max(floor));
        self.bump(warp);
    }

    /// A strong write or atomic by `warp` to a shared address hands on what was fenced before it. Says whether it did.
    pub fn publish_shared(&mut self, warp: usize, address: u32, release: bool) -> bool {
        if release {
            self.fence(warp);
        }
        let Some(fenced) = &self.fenced[warp] else { return false };
        join(self.published.entry(address).or_insert_with(|| Box::new([0; ACTORS])), &fenced.clock);
        true
    }

    /// A strong read or atomic by `warp` of a shared address learns what was handed on there.
    #[inline]
    pub fn learn_shared(&mut self, warp: usize, address: u32) {
        if !self.published.is_empty()
            && let Some(clock) = self.published.get(&address)
        {
            join(&mut self.clocks[warp], clock);
        }
    }

    /// The same for global memory.
    pub fn publish_global(&mut self, order: &mut GlobalOrder, warp: usize, address: u64, release: bool) -> bool {
        if release {
            self.fence(warp);
        }
        let Some(fenced) = &self.fenced[warp] else { return false };
        let own = Some(Arc::new(HashMap::from([(self.block, fenced.clock.clone())])));
        let mut all = order.published.remove(&address);
        join_foreign(&mut all, &own);
        join_foreign(&mut all, &fenced.foreign);
        order.published.extend(all.map(|all| (address, all)));
        true
    }

    /// The same for global memory.
    #[inline]
    pub fn learn_global(&mut self, order: &GlobalOrder, warp: usize, address: u64) {
        if !order.published.is_empty()
            && let Some(known) = order.published.get(&address)
        {
            if let Some(own) = known.get(&self.block) {
                join(&mut self.clocks[warp], own);
            }
            join_foreign(&mut self.foreign[warp], &Some(known.clone()));
        }
    }

    /// Starts counting anew, after shadows were cleared.
    pub fn restart(&mut self) {
        let (block, foreign, cluster) = (self.block, std::mem::take(&mut self.foreign), self.cluster_floor > 1);
        *self = Self::new(block, self.warps);
        self.foreign = foreign;
        self.cluster_floor = if cluster { self.floor } else { 1 };
    }
}
