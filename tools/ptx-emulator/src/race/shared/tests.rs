//! What is a race in shared memory, and what is none.

use super::{Strength::*, *};

const ALL: u32 = u32::MAX;

fn row(first: u32) -> [u32; 32] {
    std::array::from_fn(|lane| first + 4 * lane as u32)
}

struct Block {
    clocks: BlockClocks,
    shadow: SharedShadow,
}

impl Block {
    fn new(warps: usize) -> Self {
        Self { clocks: BlockClocks::new(0, warps), shadow: SharedShadow::new(4096, 4, warps) }
    }

    fn load(&mut self, warp: usize, mask: u32, addresses: [u32; 32], strength: Strength) -> Result<(), Conflict> {
        self.shadow.load(&mut self.clocks, warp, mask, &addresses, 4, strength)
    }

    fn store(&mut self, warp: usize, mask: u32, addresses: [u32; 32], strength: Strength) -> Result<(), Conflict> {
        self.shadow.store(&mut self.clocks, warp, mask, &addresses, 4, strength, false, &[], None)
    }
}

#[test]
fn a_barrier_orders_warps() {
    let mut block = Block::new(2);
    block.store(0, ALL, row(0), Plain).unwrap();
    assert!(block.load(1, ALL, row(0), Plain).is_err());
    let mut block = Block::new(2);
    block.store(0, ALL, row(0), Plain).unwrap();
    block.clocks.barrier_all();
    block.load(1, ALL, row(0), Plain).unwrap();
    block.load(0, ALL, row(0), Plain).unwrap();
    let conflict = block.store(0, 1, row(0), Plain).unwrap_err();
    assert_eq!((conflict.wrote, conflict.party), (false, Party::Warp { warp: 1, lane: Some(0) }));
    block.clocks.barrier_all();
    block.store(0, ALL, row(0), Plain).unwrap();
}

#[test]
fn lanes_need_a_warp_barrier() {
    let mut shifted = row(0);
    shifted.rotate_left(1);
    for (write, read) in [(Plain, Plain), (Plain, Volatile), (Volatile, Volatile), (Strong, Plain)] {
        let mut block = Block::new(1);
        block.store(0, ALL, row(0), write).unwrap();
        block.load(0, ALL, row(0), read).unwrap();
        assert!(block.load(0, ALL, shifted, read).is_err());
        block.clocks.warp_sync(0);
        block.load(0, ALL, shifted, read).unwrap();
    }
    let mut block = Block::new(1);
    block.store(0, ALL, row(0), Strong).unwrap();
    block.load(0, ALL, shifted, Volatile).unwrap();
    block.store(0, ALL, shifted, Strong).unwrap();
    assert!(block.store(0, ALL, row(0), Plain).is_err(), "over another lane's");
    block.clocks.warp_sync(0);
    block.store(0, 1, row(0), Plain).unwrap();
    assert!(block.load(0, ALL, [0; 32], Plain).is_err(), "a broadcast of one lane's word");
}

#[test]
fn lanes_in_step_are_not_ordered() {
    let mut shifted = row(0);
    shifted.rotate_left(1);
    let mut block = Block::new(1);
    block.load(0, ALL, shifted, Plain).unwrap();
    assert!(block.store(0, ALL, row(0), Plain).is_err());
    let mut block = Block::new(1);
    block.load(0, ALL, shifted, Plain).unwrap();
    block.clocks.warp_sync(0);
    block.store(0, ALL, row(0), Plain).unwrap();
    let mut block = Block::new(1);
    block.load(0, ALL, shifted, Plain).unwrap();
    block.clocks.fence(0, true);
    assert!(block.store(0, ALL, row(0), Plain).is_err(), "a fence is no barrier of the warp");
    let mut block = Block::new(1);
    block.load(0, ALL, shifted, Plain).unwrap();
    assert!(block.shadow.begin_write(&mut block.clocks, 0, 0, 0, 16).is_err(), "a copy neither");
}

#[test]
fn guesses_of_compare_and_swap_loops_are_remarked() {
    let mut block = Block::new(2);
    block.store(0, 1, row(0), Strong).unwrap();
    block.load(1, 1, row(0), Guess).unwrap();
    assert_eq!(std::mem::take(&mut block.clocks.remarks).len(), 1);
    block.store(1, 1, row(0), Strong).unwrap();
    block.store(0, 1, row(0), Strong).unwrap();
    assert_eq!(block.clocks.remarks.len(), 1, "the write after the guess");
    assert!(block.store(0, 1, row(0), Plain).is_err());
}

#[test]
fn partial_barriers_order_their_participants_only() {
    let mut block = Block::new(3);
    block.store(0, ALL, row(0), Plain).unwrap();
    block.clocks.arrive(1, 0);
    block.clocks.arrive(1, 1);
    block.clocks.wait(1, 1);
    block.load(1, ALL, row(0), Plain).unwrap();
    assert!(block.load(2, ALL, row(0), Plain).is_err());
    block.store(0, ALL, row(128), Plain).unwrap();
    assert!(block.load(1, ALL, row(128), Plain).is_err(), "written after it arrived");
}

#[test]
fn atomics_race_with_plain_accesses_only() {
    let mut block = Block::new(2);
    block.store(0, ALL, row(0), Strong).unwrap();
    block.store(1, ALL, row(0), Strong).unwrap();
    assert!(block.load(0, ALL, row(0), Plain).is_err());
    assert!(block.store(0, ALL, row(0), Plain).is_err());
}

#[test]
fn a_fence_and_a_flag_hand_data_on() {
    for fenced in [true, false] {
        let mut block = Block::new(2);
        block.store(0, ALL, row(0), Plain).unwrap();
        if fenced {
            block.clocks.fence(0, false);
        }
        block.store(0, 1, row(256), Volatile).unwrap();
        assert_eq!(block.load(1, 1, row(256), Volatile).is_ok(), fenced);
        assert_eq!(block.load(1, ALL, row(0), Plain).is_ok(), fenced);
    }
}

#[test]
fn nobody_touches_what_a_copy_writes() {
    let mut block = Block::new(2);
    block.shadow.begin_write(&mut block.clocks, 0, 3, 0, 16).unwrap();
    assert!(block.load(0, 8, row(0), Plain).unwrap_err().case == Case::InFlight);
    assert!(block.store(1, 1, row(0), Plain).unwrap_err().case == Case::InFlight);
    block.shadow.written(&mut block.clocks, 0, 3, 0, 16);
    block.load(0, 8, row(0).map(|_| 0), Plain).unwrap();
    assert!(block.load(1, 1, row(0), Plain).is_err());
    block.clocks.barrier_all();
    block.load(1, 1, row(0), Plain).unwrap();
}

#[test]
fn an_engine_orders_only_those_who_wait() {
    let mut block = Block::new(2);
    block.shadow.begin_write(&mut block.clocks, 0, 0, 0, 128).unwrap();
    let clock = block.clocks.engine_now();
    block.shadow.written_by_engine(ENGINES, clock, 0, 128);
    block.clocks.arrive_engine(9, ENGINES, clock);
    block.clocks.wait(9, 1);
    block.load(1, ALL, row(0), Plain).unwrap();
    assert_eq!(block.load(0, ALL, row(0), Plain).unwrap_err().party, Party::Engine);
}

#[test]
fn proxy_fences_reach_through_barriers() {
    for fenced in [true, false] {
        let mut block = Block::new(2);
        block.store(0, ALL, row(0), Plain).unwrap();
        if fenced {
            block.clocks.proxy_fence(0);
        }
        block.clocks.barrier_all();
        assert_eq!(block.shadow.unfenced(&block.clocks, 1, 0, 128).is_none(), fenced);
    }
}

#[test]
fn asynchronous_reads_hold_writers_off() {
    let mut block = Block::new(1);
    block.store(0, ALL, row(0), Plain).unwrap();
    block.clocks.proxy_fence(0);
    block.clocks.barrier_all();
    block.shadow.begin_reads(&mut block.clocks, 0, 0, &[(0, 128)]).unwrap();
    assert!(block.store(0, ALL, row(0), Plain).unwrap_err().case == Case::InFlight);
    block.shadow.reads_done(&block.clocks, 0, &[(0, 128)]);
    assert!(block.store(0, ALL, row(0), Plain).is_err(), "other lanes than the one that waited");
    block.clocks.warp_sync(0);
    block.store(0, ALL, row(0), Plain).unwrap();
}

#[test]
fn equal_values_do_not_race() {
    let mut block = Block::new(2);
    block.store(0, 1, row(0), Plain).unwrap();
    let memory = [1, 2, 3, 4];
    let value = |_| std::array::from_fn(|n| n as u8 + 1);
    block.shadow.store(&mut block.clocks, 1, 1, &row(0), 4, Plain, false, &memory, Some(&value)).unwrap();
    let value = |_| [9; 16];
    block.shadow.store(&mut block.clocks, 0, 1, &row(0), 4, Plain, false, &memory, Some(&value)).unwrap_err();
}

#[test]
fn lanes_may_not_write_different_values_to_one_place() {
    let mut block = Block::new(1);
    for different in [false, true] {
        let values = |lane: usize| [if different { lane as u8 } else { 0 }; 16];
        let stored = block.shadow.store(&mut block.clocks, 0, 7, &[64; 32], 4, Plain, false, &[0; 128], Some(&values));
        assert_eq!(stored.is_err(), different);
    }
}
