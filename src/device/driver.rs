//! What a GPU must answer: the calls below the line that separates our launch code from NVIDIA's driver or the emulator.

use crate::error::Result;

/// An address in device memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DevicePtr(pub u64);

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
    fn alloc(&self, bytes: usize) -> Result<DevicePtr>;
    /// # Safety
    /// `ptr` came from `alloc` of this driver, is freed once, and no queued work still uses it.
    unsafe fn free(&self, ptr: DevicePtr);
    fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()>;
    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()>;
    /// The entry `kernel` of the module `stem`, loaded on first use.
    fn entry(&self, stem: &str, kernel: &str) -> Result<KernelEntry>;
    /// # Safety
    /// `params` is the kernel's one parameter struct; every pointer in it is live and as large as the kernel reads or writes.
    unsafe fn launch(&self, entry: KernelEntry, config: LaunchConfig, params: &[u8]) -> Result<()>;
    fn sync(&self) -> Result<()>;
}

/// Device memory that frees itself.
pub struct DeviceBuffer {
    pub ptr: DevicePtr,
    pub bytes: usize,
    driver: std::rc::Rc<dyn Driver>,
}

impl DeviceBuffer {
    pub fn alloc(driver: &std::rc::Rc<dyn Driver>, bytes: usize) -> Result<DeviceBuffer> {
        Ok(DeviceBuffer { ptr: driver.alloc(bytes)?, bytes, driver: driver.clone() })
    }

    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: `ptr` is from `alloc` of this very driver and this owner drops once; the driver frees in stream order,
        // after the work already queued.
        unsafe { self.driver.free(self.ptr) }
    }
}
