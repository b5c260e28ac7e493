//! What a GPU must answer: the calls below the line that separates our launch code from NVIDIA's driver or the emulator.

use std::rc::Rc;

use super::module::Module;
use crate::{
    dtype::DType,
    error::{Error, Result},
};

/// An address in device memory. A plain number: what goes there is `unsafe`, or goes through a [`DeviceBuffer`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// What kernels take for an optional tensor that is not there.
    pub const NULL: DevicePtr = DevicePtr(0);

    pub const fn offset_bytes(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0 + bytes as u64)
    }
}

/// The properties launch shapes are chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceProps {
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    pub num_sms: u32,
    /// The most dynamic shared memory a block may ask for.
    pub shared_bytes: u32,
}

/// One value repeated over memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    Bits8(u8),
    Bits16(u16),
    Bits32(u32),
}

impl Pattern {
    pub const fn bytes(self) -> usize {
        match self {
            Pattern::Bits8(_) => 1,
            Pattern::Bits16(_) => 2,
            Pattern::Bits32(_) => 4,
        }
    }
}

/// A box of a tensor in device memory, as the Tensor Memory Accelerator copies it. Innermost dimension first.
#[derive(Clone, Debug)]
pub struct TensorMap {
    pub base: DevicePtr,
    pub dtype: DType,
    /// Elements along each dimension, 1 to 5 of them.
    pub extents: Vec<u64>,
    /// Bytes from one index to the next, of all but the innermost dimension.
    pub strides_bytes: Vec<u64>,
    /// Elements of a box along each dimension.
    pub box_extents: Vec<u32>,
    /// The swizzle against bank conflicts: 0, 32, 64 or 128 bytes.
    pub swizzle_bytes: u32,
}

/// A kernel ready to be launched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelEntry(pub u64);

/// How many blocks of how many threads, and the dynamic shared memory of each block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}

/// A GPU seen through one stream. Calls return once queued, except `download` and `sync`.
pub trait Driver {
    /// A name people recognise, e.g. `NVIDIA H100 80GB HBM3`.
    fn name(&self) -> &str;
    fn props(&self) -> DeviceProps;
    fn alloc(&self, bytes: usize) -> Result<DevicePtr>;
    /// # Safety
    /// `ptr` came from `alloc` of this driver, is freed once, and no queued work still uses it.
    unsafe fn free(&self, ptr: DevicePtr);
    /// # Safety
    /// `to` is live memory of this device, at least as long as `from`.
    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()>;
    /// # Safety
    /// `from` is live memory of this device, at least as long as `to`.
    unsafe fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()>;
    /// Writes `pattern` `count` times.
    ///
    /// # Safety
    /// `to` is live memory of this device with room for them.
    unsafe fn fill(&self, to: DevicePtr, pattern: Pattern, count: usize) -> Result<()>;
    /// # Safety
    /// Both are live memory of this device, at least `bytes` long.
    unsafe fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()>;
    /// The entry `kernel` of a module, loaded on first use.
    fn entry(&self, module: &'static Module, kernel: &str) -> Result<KernelEntry>;
    /// Whether [`entry`](Driver::entry) takes a compiler's time.
    fn compiles(&self) -> bool {
        false
    }
    /// As [`entry`](Driver::entry) for many, in parallel where that saves time.
    fn preload(&self, _: &[(&'static Module, String)]) -> Result<()> {
        Ok(())
    }
    /// # Safety
    /// `entry` came from this driver. `params` is the kernel's one parameter struct; every pointer in it is live and as large as the kernel reads or writes.
    unsafe fn launch(&self, entry: KernelEntry, config: LaunchConfig, params: &[u8]) -> Result<()>;
    fn sync(&self) -> Result<()>;
    /// From here on launches, fills and copies are captured into a graph and not run.
    fn begin_capture(&self) -> Result<()> {
        Err(Error::Device(format!("{}: cannot capture its launches", self.name())))
    }
    /// The graph captured since `begin_capture`.
    fn end_capture(&self) -> Result<Box<dyn CapturedGraph>> {
        Err(Error::Device(format!("{}: nothing is being captured", self.name())))
    }
    /// While capturing, the address of a u32 that counts the graph's replays from 0, else null. Kernels that draw random
    /// numbers add it to their step, so that every replay draws others.
    fn replay_counter(&self) -> DevicePtr {
        DevicePtr::NULL
    }
    /// What launches did since the last call, sorted by kernel; empty where launches are not counted.
    fn take_counters(&self) -> Vec<KernelCounters> {
        Vec::new()
    }
    fn memory(&self) -> Memory;
    /// Tells an attached profiler to collect from here on, or to stop.
    fn set_profiled(&self, _: bool) -> Result<()> {
        Ok(())
    }
    /// How long the device takes for `work`, between its beginning and its end on the stream.
    fn time_ms(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.sync()?;
        let start = std::time::Instant::now();
        work()?;
        self.sync()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
    /// What the device's compiler made of a kernel, where it has one.
    fn attributes(&self, _: KernelEntry) -> Result<Option<Attributes>> {
        Ok(None)
    }
    /// The 128 opaque bytes a kernel takes as `CUtensorMap`.
    fn encode_tensor_map(&self, _: &TensorMap) -> Result<[u8; 128]> {
        Err(Error::Device(format!("{}: has no tensor memory accelerator", self.name())))
    }
}

/// A CUDA graph, or what stands for one: launches, fills and copies captured once, to be run as often as wanted. Owns the memory
/// that was allocated or freed during capture.
pub trait CapturedGraph {
    /// Queues all of it once more. Its results are where they were the first time.
    fn replay(&self) -> Result<()>;
    /// Its nodes: launches, fills and copies.
    fn nodes(&self) -> usize;
}

/// What all launches of one kernel did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelCounters {
    pub kernel: String,
    pub launches: u64,
    /// Each counter's name and total.
    pub counts: Vec<(&'static str, u64)>,
}

/// What a kernel uses on the device it was compiled for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub registers: u32,
    /// Per thread: local arrays, and registers that did not fit.
    pub local_bytes: u32,
    /// Static, per block.
    pub shared_bytes: u32,
    pub most_threads: u32,
}

/// Device memory at one moment, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Memory {
    /// Owned by tensors.
    pub used_bytes: u64,
    /// The most that was used at once.
    pub peak_bytes: u64,
    /// Taken from the device, used or kept for reuse.
    pub held_bytes: u64,
    pub total_bytes: u64,
}

/// Device memory that frees itself.
pub struct DeviceBuffer {
    ptr: DevicePtr,
    bytes: usize,
    driver: Rc<dyn Driver>,
}

impl DeviceBuffer {
    pub fn alloc(driver: &Rc<dyn Driver>, bytes: usize) -> Result<DeviceBuffer> {
        Ok(DeviceBuffer { ptr: driver.alloc(bytes)?, bytes, driver: driver.clone() })
    }

    /// Live as long as this owner.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Copies to its beginning.
    ///
    /// # Panics
    /// Where it is shorter than `from`; so do the others.
    pub fn upload(&self, from: &[u8]) -> Result<()> {
        assert!(from.len() <= self.bytes, "{} bytes for a buffer of {}", from.len(), self.bytes);
        // SAFETY: live, and long enough.
        unsafe { self.driver.upload(self.ptr, from) }
    }

    /// Copies from its beginning.
    pub fn download(&self, to: &mut [u8]) -> Result<()> {
        assert!(to.len() <= self.bytes, "{} bytes of a buffer of {}", to.len(), self.bytes);
        // SAFETY: live, and long enough.
        unsafe { self.driver.download(self.ptr, to) }
    }

    /// Writes `pattern` over and over until no further one fits.
    pub fn fill(&self, pattern: Pattern) -> Result<()> {
        // SAFETY: live, and the count is of what fits.
        unsafe { self.driver.fill(self.ptr, pattern, self.bytes / pattern.bytes()) }
    }

    /// Copies what is at `from`, to the last byte of this buffer.
    ///
    /// # Safety
    /// `from` is live memory of the same device, as long as this buffer.
    pub unsafe fn copy_from(&self, from: DevicePtr) -> Result<()> {
        // SAFETY: live and as long; the other by the caller.
        unsafe { self.driver.copy(from, self.ptr, self.bytes) }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: `ptr` is from `alloc` of this very driver and this owner drops once; the driver frees in stream order,
        // after the work already queued.
        unsafe { self.driver.free(self.ptr) }
    }
}
