//! What is a race in global memory, and what is none.

use super::{Strength::*, *};

const PLACE: Place = Place { allocation: 7, bytes: 1 << 16, start: 7 << 36 };

fn at(offset: u64) -> [u64; 32] {
    std::array::from_fn(|lane| PLACE.start + offset + 4 * lane as u64)
}

struct Launch {
    shadow: GlobalShadow,
    blocks: Vec<BlockClocks>,
}

impl Launch {
    fn new(blocks: u32, warps: usize) -> Self {
        let mut shadow = GlobalShadow::default();
        shadow.begin_launch(true);
        Self { shadow, blocks: (0..blocks).map(|b| BlockClocks::new(b, warps)).collect() }
    }

    fn load(&mut self, block: usize, warp: usize, offset: u64, strength: Strength) -> bool {
        self.shadow.load(PLACE, &mut self.blocks[block], warp, u32::MAX, &at(offset), 4, strength).is_ok()
    }

    fn store(&mut self, block: usize, warp: usize, offset: u64, strength: Strength) -> bool {
        let clocks = &mut self.blocks[block];
        let result =
            self.shadow.store(PLACE, clocks, warp, u32::MAX, &at(offset), 4, strength, false, false, &|_| None, None);
        result.is_ok()
    }
}

#[test]
fn blocks_may_not_share_without_order() {
    let mut launch = Launch::new(2, 1);
    assert!(launch.store(0, 0, 0, Plain) && launch.load(0, 0, 0, Plain));
    assert!(!launch.load(1, 0, 0, Plain));
    assert!(!launch.store(1, 0, 64, Plain));
    assert!(launch.load(0, 0, 4096, Plain) && launch.load(1, 0, 4096, Plain));
    assert!(!launch.store(1, 0, 4096, Plain));
    launch.shadow.begin_launch(true);
    assert!(launch.load(1, 0, 0, Plain));
}

#[test]
fn a_fence_before_a_flag_orders_blocks() {
    for fenced in [true, false] {
        let mut launch = Launch::new(2, 2);
        assert!(launch.store(0, 1, 0, Plain));
        launch.blocks[0].barrier_all();
        if fenced {
            launch.blocks[0].fence(0, false);
        }
        assert!(launch.store(0, 0, 1024, Volatile));
        assert!(launch.load(1, 0, 1024, Volatile));
        assert_eq!(launch.load(1, 0, 0, Plain), fenced);
        assert!(!launch.load(1, 1, 0, Plain), "the other warp waits for nobody");
        launch.blocks[1].barrier_all();
        assert_eq!(launch.load(1, 1, 0, Plain), fenced);
    }
}

#[test]
fn chains_of_flags_order_their_ends() {
    let mut launch = Launch::new(40, 1);
    for block in 0..40 {
        if block > 0 {
            assert!(launch.load(block, 0, 8192 + 128 * (block as u64 - 1), Volatile));
            assert!((0..block).all(|b| launch.load(block, 0, 128 * b as u64, Plain)));
        }
        assert!(launch.store(block, 0, 128 * block as u64, Plain));
        launch.blocks[block].fence(0, false);
        assert!(launch.store(block, 0, 8192 + 128 * block as u64, Volatile));
    }
}

#[test]
fn data_behind_a_flag_needs_a_fence_even_if_volatile() {
    for fenced in [true, false] {
        let mut launch = Launch::new(2, 1);
        assert!(launch.store(0, 0, 0, Volatile));
        if fenced {
            launch.blocks[0].fence(0, false);
        }
        assert!(launch.store(0, 0, 1024, Volatile));
        assert!(launch.load(1, 0, 1024, Volatile));
        assert_eq!(launch.load(1, 0, 0, Volatile), fenced);
    }
}

#[test]
fn warps_of_a_block_need_a_barrier_too() {
    let mut launch = Launch::new(1, 2);
    assert!(launch.store(0, 0, 0, Plain));
    assert!(!launch.load(0, 1, 0, Plain));
    launch.blocks[0].barrier_all();
    assert!(launch.load(0, 1, 0, Plain));
}

#[test]
fn bytes_of_a_word_are_apart() {
    let mut launch = Launch::new(2, 1);
    let mut store = |block: usize, offset: u64| {
        let addresses = [PLACE.start + offset; 32];
        let clocks = &mut launch.blocks[block];
        launch.shadow.store(PLACE, clocks, 0, 1, &addresses, 1, Plain, false, false, &|_| None, None).is_ok()
    };
    assert!(store(0, 0) && store(1, 1) && store(0, 2) && !store(1, 2));
}
