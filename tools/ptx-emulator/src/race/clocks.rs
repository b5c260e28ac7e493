//! Happens-before inside a block and between blocks, by vector clocks of warps.
//!
//! A clock counts a warp's releases. An access is stamped with the warp's own clock; it comes before whatever a warp does that
//! knows of a later-or-equal clock of that warp. Block-wide barriers join everything, so that one number, the floor, tells all
//! accesses before the last of them from the rest: the fast path of every check.
//!
//! Lanes of one warp share its clock. What they know of each other is a number of its own: accesses with smaller clocks were
//! done before the warp's lanes last met at a barrier. What addresses hand on is in `publish`.

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
pub(super) type Foreign = Arc<HashMap<u32, Arc<Clock>>>;

/// What a fence covered.
#[derive(Clone)]
pub(super) struct Covered {
    pub clock: Arc<Clock>,
    pub foreign: Option<Foreign>,
}

impl Covered {
    /// Both.
    fn join(into: &mut Option<Self>, from: &Option<Self>) {
        match (into, from) {
            (_, None) => {}
            (Some(into), Some(from)) => {
                if !Arc::ptr_eq(&into.clock, &from.clock) && covers_less(&into.clock, &from.clock) {
                    join(Arc::make_mut(&mut into.clock), &from.clock);
                }
                join_foreign(&mut into.foreign, &from.foreign);
            }
            (into, from) => into.clone_from(from),
        }
    }
}

/// What arriving warps bring to a barrier, for those who wait.
struct Brought {
    clock: Clock,
    proxied: Clock,
    foreign: Option<Foreign>,
    sequenced: Option<Covered>,
    glimpsed: Option<Foreign>,
}

impl Default for Brought {
    fn default() -> Self {
        let (clock, proxied) = ([0; ACTORS], [0; ACTORS]);
        Self { clock, proxied, foreign: None, sequenced: None, glimpsed: None }
    }
}

/// The clocks of one block.
pub struct BlockClocks {
    /// Linear index of the block in its grid.
    pub block: u32,
    warps: usize,
    pub(super) clocks: Vec<Clock>,
    /// For each warp: accesses of its lanes with smaller clocks come before what other lanes of it do now.
    met: Vec<u32>,
    /// Accesses stamped with smaller clocks come before everything now.
    pub(super) floor: u32,
    /// The floor of the last barrier of the whole cluster.
    pub(super) cluster_floor: u32,
    /// What each warp knows to be visible to the asynchronous proxy.
    proxied: Vec<Clock>,
    /// What each warp's last fence covered, until a strong write publishes it.
    pub(super) fenced: Vec<Option<Covered>>,
    /// What sequentially consistent fences covered that each warp knows of: its own, and through barriers those of others.
    sequenced: Vec<Option<Covered>>,
    pub(super) foreign: Vec<Option<Foreign>>,
    /// What each warp would know if fences had stood where it read strongly.
    pub(super) glimpsed: Vec<Option<Foreign>>,
    /// Shared addresses that strong writes made hand on clocks.
    pub(super) published: HashMap<u32, Box<Clock>>,
    /// Barriers being arrived at.
    arriving: HashMap<u64, Box<Brought>>,
    /// What is worth a note but no fault, since it was last looked at.
    pub(super) remarks: Vec<super::Conflict>,
    /// Warps that accessed memory since their clock last moved.
    pub(super) touched: u64,
}

pub(super) fn join(into: &mut Clock, from: &Clock) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

pub(super) fn join_foreign(into: &mut Option<Foreign>, from: &Option<Foreign>) {
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
            sequenced: vec![None; warps],
            foreign: vec![None; warps],
            glimpsed: vec![None; warps],
            met: vec![1; warps],
            clocks,
            floor: 1,
            cluster_floor: 1,
            published: HashMap::new(),
            arriving: HashMap::new(),
            remarks: Vec::new(),
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

    /// Whether what a lane of `warp` did at `clock` comes before what other lanes of it do now.
    #[inline(always)]
    pub fn met(&self, warp: usize, clock: u32) -> bool {
        clock < self.met[warp]
    }

    /// The least clock of accesses that lanes of `warp` do not know of each other.
    #[inline(always)]
    pub fn meeting(&self, warp: usize) -> u32 {
        self.met[warp]
    }

    /// Whether `warp` has read strongly what was written after that access, with no fence to order the two.
    pub fn glimpsed(&self, warp: usize, block: u32, actor: usize, clock: u32) -> bool {
        let known = self.glimpsed[warp].as_ref().and_then(|f| f.get(&block));
        known.is_some_and(|c| clock <= c[actor])
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
        let (mut foreign, mut sequenced, mut glimpsed) = (None, None, None);
        for w in 0..self.warps {
            join(&mut highest, &self.clocks[w]);
            join(&mut proxied, &self.proxied[w]);
            join_foreign(&mut foreign, &self.foreign[w]);
            join_foreign(&mut glimpsed, &self.glimpsed[w]);
            Covered::join(&mut sequenced, &self.sequenced[w]);
        }
        self.floor = highest.iter().max().map_or(1, |c| c + 1);
        for w in 0..self.warps {
            self.clocks[w] = highest;
            self.clocks[w][w] = self.floor;
            self.met[w] = self.floor;
            self.proxied[w] = proxied;
            self.foreign[w].clone_from(&foreign);
            self.glimpsed[w].clone_from(&glimpsed);
            self.sequenced[w].clone_from(&sequenced);
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
        let slot = self.arriving.entry(barrier).or_default();
        join(&mut slot.clock, &self.clocks[warp]);
        join(&mut slot.proxied, &self.proxied[warp]);
        join_foreign(&mut slot.foreign, &self.foreign[warp]);
        join_foreign(&mut slot.glimpsed, &self.glimpsed[warp]);
        Covered::join(&mut slot.sequenced, &self.sequenced[warp]);
        self.bump(warp);
    }

    /// The same, by a warp of another block of the cluster, whose clocks are `from`.
    pub fn arrive_foreign(&mut self, barrier: u64, from: &mut Self, warp: usize) {
        let slot = self.arriving.entry(barrier).or_default();
        let theirs = Arc::new(HashMap::from([(from.block, Arc::new(from.clocks[warp]))]));
        join_foreign(&mut slot.foreign, &Some(theirs));
        join_foreign(&mut slot.foreign, &from.foreign[warp]);
        from.bump(warp);
    }

    /// The same, by an asynchronous engine that did its work at `clock`.
    pub fn arrive_engine(&mut self, barrier: u64, engine: usize, clock: u32) {
        let slot = self.arriving.entry(barrier).or_default();
        slot.clock[engine] = slot.clock[engine].max(clock);
        slot.proxied[engine] = slot.proxied[engine].max(clock);
    }

    /// `warp` waited for that barrier and saw all that had arrived.
    pub fn wait(&mut self, barrier: u64, warp: usize) {
        if let Some(slot) = self.arriving.get(&barrier) {
            join(&mut self.clocks[warp], &slot.clock);
            join(&mut self.proxied[warp], &slot.proxied);
            join_foreign(&mut self.foreign[warp], &slot.foreign);
            join_foreign(&mut self.glimpsed[warp], &slot.glimpsed);
            Covered::join(&mut self.sequenced[warp], &slot.sequenced);
            self.met[warp] = self.met[warp].max(slot.clock[warp] + 1);
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

    /// `bar.warp.sync`: what lanes did before comes before what other lanes do after.
    #[inline]
    pub fn warp_sync(&mut self, warp: usize) {
        if self.touched >> warp & 1 == 1 {
            self.bump(warp);
        }
        self.met[warp] = self.now(warp);
    }

    /// `membar`, `fence`: whatever comes before can be published by a strong write from now on. Fences that are sequentially
    /// consistent stand in one order, so that what a barrier puts between one and a strong write is published too.
    pub fn fence(&mut self, warp: usize, sequential: bool) {
        let clock = Arc::new(self.clocks[warp]);
        let covered = Some(Covered { clock, foreign: self.foreign[warp].clone() });
        if sequential {
            Covered::join(&mut self.sequenced[warp], &covered);
        }
        self.fenced[warp] = covered;
        self.bump(warp);
    }

    /// What a strong write of `warp` hands on.
    pub(super) fn covered(&mut self, warp: usize, release: bool) -> Option<Covered> {
        if release {
            self.fence(warp, false);
        }
        let mut covered = self.fenced[warp].clone();
        Covered::join(&mut covered, &self.sequenced[warp]);
        covered
    }

    /// `warp` learns of that clock of its own block.
    pub(super) fn learn(&mut self, warp: usize, clock: &Clock) {
        join(&mut self.clocks[warp], clock);
        self.met[warp] = self.met[warp].max(clock[warp] + 1);
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

    /// Starts counting anew, after shadows were cleared.
    pub fn restart(&mut self) {
        let (block, foreign, cluster) = (self.block, std::mem::take(&mut self.foreign), self.cluster_floor > 1);
        *self = Self::new(block, self.warps);
        self.foreign = foreign;
        self.cluster_floor = if cluster { self.floor } else { 1 };
    }
}
