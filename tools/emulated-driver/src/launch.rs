//! Launches as both interfaces give them, and how many blocks fit.

use std::ffi::c_void;

use ptx_emulator::LaunchShape;

use crate::{
    abi::{Answer, error},
    device::{MULTIPROCESSORS, SHARED_DEFAULT},
    module::Function,
    state::{State, state},
    work::{Launch, Work, queue},
};

/// An attribute of an extended launch: `CUlaunchAttribute`, `cudaLaunchAttribute`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Attribute {
    pub id: u32,
    pub pad: u32,
    pub value: [u32; 16],
}

const COOPERATIVE: u32 = 2;
const CLUSTER_DIMENSION: u32 = 4;

impl Attribute {
    /// What an attribute says of the shape; those about scheduling say nothing here.
    pub fn apply(&self, shape: &mut LaunchShape) {
        let [x, y, z, ..] = self.value;
        match self.id {
            COOPERATIVE => shape.cooperative = x != 0,
            CLUSTER_DIMENSION => shape.cluster = Some([x, y, z]),
            _ => {}
        }
    }
}

/// Queues a launch, refusing at once what a device would.
pub(crate) fn launch(stream: *mut c_void, function: Function, shape: LaunchShape, params: Vec<u8>) -> Answer {
    {
        let mut state = state();
        state.healthy()?;
        let threads = shape.block.iter().map(|n| u64::from(*n)).product::<u64>();
        let grid = shape.grid;
        if grid.contains(&0) || grid[1] > 65535 || grid[2] > 65535 || threads == 0 || threads > 1024 {
            let [x, y, z] = shape.block;
            state.refuse(&format!("{}: a grid of {grid:?} blocks of {x} x {y} x {z} threads", function.entry));
            return Err(error::INVALID_CONFIGURATION);
        }
    }
    queue(stream, Work::Launch(Launch { function, shape, params }))
}

impl State {
    /// Blocks of a kernel that fit on a multiprocessor at once. Registers are the assembler's choice and not counted.
    pub fn occupancy(&self, function: &Function, threads: u32, dynamic_shared: usize) -> Answer<u32> {
        let entry = function.entry()?;
        let shared = entry.shared_bytes.saturating_add(u32::try_from(dynamic_shared).unwrap_or(u32::MAX / 2));
        Ok(self.capability.blocks_per_multiprocessor(threads, shared))
    }

    /// Dynamic shared memory that so many blocks leave each other.
    pub fn shared_available(&self, function: &Function, blocks: u32) -> Answer<usize> {
        let room = self.capability.shared_per_multiprocessor() / blocks.max(1);
        let most = room.saturating_sub(crate::device::SHARED_RESERVED).min(self.capability.shared_per_block());
        Ok(most.saturating_sub(function.entry()?.shared_bytes) as usize)
    }

    /// Clusters of a launch that fit on the device at once.
    pub fn clusters(&self, function: &Function, shape: &LaunchShape) -> Answer<i32> {
        let threads = shape.block.iter().product();
        let blocks = self.occupancy(function, threads, shape.dynamic_shared_bytes as usize)? as i32;
        let size = function.entry()?.cluster.or(shape.cluster).unwrap_or([1; 3]).iter().product::<u32>() as i32;
        Ok(blocks * MULTIPROCESSORS / size.max(1))
    }

    /// What is asked of a kernel by the numbers of `CUfunction_attribute`.
    pub fn function_attribute(&self, function: &Function, attribute: i32) -> Answer<i32> {
        let entry = function.entry()?;
        let threads = entry.required_threads.or(entry.max_threads).map_or(1024, |t| t.iter().product::<u32>());
        let cluster = |axis: usize| entry.cluster.map_or(0, |c| c[axis]) as i32;
        Ok(match attribute {
            0 => threads as i32,
            1 => entry.shared_bytes as i32,
            // Constants, local memory, registers, caches: the assembler's choice, of which there is none here.
            2..=4 | 7 | 9 | 14 | 15 => 0,
            5 | 6 => self.capability.number() as i32,
            8 => SHARED_DEFAULT as i32 - entry.shared_bytes as i32,
            10 => i32::from(entry.cluster.is_some()),
            11..=13 => cluster(attribute as usize - 11),
            _ => return Err(error::INVALID_VALUE),
        })
    }
}
