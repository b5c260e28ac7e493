//! Plain loads that only guess what a compare-and-swap will find: `old = *p; do { seen = old; old = atomicCAS(p, seen, ...) }`.
//!
//! To the letter of the memory model that first read races with the atomics of others. Nothing depends on what it finds,
//! because the compare-and-swap looks again, and NVIDIA's headers are full of it; so it is told from other races here. A load
//! is such a guess if a compare-and-swap of its width takes its address from the same register, or a copy of it.

use std::collections::HashMap;

use crate::{
    machine::{Code, Ins},
    ops::memory::{GUESS, ORDER, START},
};

/// File and slot of the register an address starts from, the offset, the width.
type Address = (u32, u32, i64, u32);

/// Loads, compare-and-swaps and copies of one entry.
#[derive(Default)]
pub(crate) struct Guesses {
    loads: Vec<(u32, Address)>,
    swaps: Vec<Address>,
    /// Whose value a 64-bit slot takes; none where several write it.
    copies: HashMap<u32, Option<u32>>,
}

impl Guesses {
    /// The load about to become instruction `index`.
    pub(crate) fn load(&mut self, index: u32, ins: &Ins, bytes: u32) {
        self.loads.push((index, Self::address(ins, bytes)));
    }

    /// A compare-and-swap.
    pub(crate) fn swap(&mut self, ins: &Ins, bytes: u32) {
        self.swaps.push(Self::address(ins, bytes));
    }

    /// A move or a change of an address's space.
    pub(crate) fn copy(&mut self, ins: &Ins) {
        let [to, from] = [ins.slots[0], ins.slots[1]];
        self.copies.entry(to).and_modify(|known| *known = known.filter(|k| *k == from)).or_insert(Some(from));
    }

    fn address(ins: &Ins, bytes: u32) -> Address {
        (ins.slots[START], ins.slots[0], ins.immediate, bytes)
    }

    /// The same address by the register that others are copies of.
    fn origin(&self, (file, mut slot, offset, bytes): Address) -> Address {
        // Chains are short; a circle of copies ends too.
        for _ in 0..8 {
            match self.copies.get(&slot) {
                Some(Some(from)) if file == 2 => slot = *from,
                _ => break,
            }
        }
        (file, slot, offset, bytes)
    }

    /// Marks the loads that are guesses.
    pub(crate) fn mark(&self, code: &mut Code) {
        if self.swaps.is_empty() {
            return;
        }
        let swaps: Vec<Address> = self.swaps.iter().map(|swap| self.origin(*swap)).collect();
        for (index, address) in &self.loads {
            if swaps.contains(&self.origin(*address))
                && let Some(ins) = code.ins.get_mut(*index as usize)
            {
                ins.slots[ORDER] |= GUESS;
            }
        }
    }
}
