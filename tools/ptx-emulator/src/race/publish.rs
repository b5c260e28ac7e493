//! What addresses hand on from strong writes to strong reads: what a fence before the write covered, and, unfenced, what a
//! reader may believe that it knows.

use std::{collections::HashMap, sync::Arc};

use super::clocks::{BlockClocks, Covered, Foreign, join, join_foreign};

/// What addresses of global memory hand on, in one launch.
#[derive(Default)]
pub struct GlobalOrder {
    published: HashMap<u64, Foreign>,
    /// What came before the strong writes of an address, whether a fence ordered it or not.
    glimpses: HashMap<u64, Foreign>,
    /// Where strong stores can carry data, not only atomics, glimpses are kept.
    pub(super) keeps_glimpses: bool,
}

impl GlobalOrder {
    /// Forgets everything: a new launch.
    pub fn clear(&mut self) {
        self.published.clear();
        self.glimpses.clear();
    }
}

/// The fence of one instruction with all it covered, made once for all its lanes.
pub struct Publication {
    own: Option<Foreign>,
    covered: Option<Covered>,
    glimpse: Option<Foreign>,
}

impl BlockClocks {
    /// A strong write or atomic by `warp` to a shared address hands on what was fenced before it. Says whether it did.
    pub fn publish_shared(&mut self, warp: usize, address: u32, release: bool) -> bool {
        let Some(covered) = self.covered(warp, release) else { return false };
        let slot = self.published.entry(address).or_insert_with(|| Box::new([0; super::clocks::ACTORS]));
        join(slot, &covered.clock);
        true
    }

    /// A strong read or atomic by `warp` of a shared address learns what was handed on there.
    #[inline]
    pub fn learn_shared(&mut self, warp: usize, address: u32) {
        if !self.published.is_empty()
            && let Some(clock) = self.published.get(&address)
        {
            let clock = **clock;
            self.learn(warp, &clock);
        }
    }

    /// What a strong write or atomic by `warp` to global memory hands on.
    pub fn publication(&mut self, order: &GlobalOrder, warp: usize, release: bool) -> Publication {
        let covered = self.covered(warp, release);
        let own = covered.as_ref().map(|c| Arc::new(HashMap::from([(self.block, c.clock.clone())])));
        let mut glimpse = None;
        if order.keeps_glimpses {
            let mut before = self.clocks[warp];
            before[warp] -= 1;
            glimpse = Some(Arc::new(HashMap::from([(self.block, Arc::new(before))])));
            join_foreign(&mut glimpse, &self.glimpsed[warp]);
        }
        Publication { own, covered, glimpse }
    }

    /// A strong read or atomic by `warp` of an address in global memory learns what was handed on there.
    #[inline]
    pub fn learn_global(&mut self, order: &GlobalOrder, warp: usize, address: u64) {
        if !order.glimpses.is_empty()
            && let Some(seen) = order.glimpses.get(&address)
        {
            join_foreign(&mut self.glimpsed[warp], &Some(seen.clone()));
        }
        if !order.published.is_empty()
            && let Some(known) = order.published.get(&address)
        {
            if let Some(own) = known.get(&self.block) {
                let own = **own;
                self.learn(warp, &own);
            }
            join_foreign(&mut self.foreign[warp], &Some(known.clone()));
        }
    }
}

impl GlobalOrder {
    /// An address hands that on from now on.
    pub fn publish(&mut self, address: u64, publication: &Publication) {
        let add = |into: &mut HashMap<u64, Foreign>, news: &[&Option<Foreign>]| {
            let mut all = into.remove(&address);
            news.iter().for_each(|news| join_foreign(&mut all, news));
            into.extend(all.map(|all| (address, all)));
        };
        if let Some(covered) = &publication.covered {
            add(&mut self.published, &[&publication.own, &covered.foreign]);
        }
        if publication.glimpse.is_some() {
            add(&mut self.glimpses, &[&publication.glimpse]);
        }
    }
}
