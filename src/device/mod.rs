//! Where bytes live and kernels run. Knows nothing of tensors, shapes or gradients.

pub mod cuda;
pub mod divmod;
pub mod driver;
pub mod emulator;
mod entries;
pub mod graph;
pub mod host;
pub mod images;
pub mod index;
pub mod kernel;
pub mod loads;
pub mod module;
pub mod modules;
pub mod multi_tensor;
pub mod nvtx;
pub mod pool;
pub mod rehearsal;

use std::{cell::Cell, fmt, rc::Rc};

use cuda::Cuda;
use driver::{DeviceProps, Driver, KernelCounters, Memory};
use emulator::Emulator;
use host::HostPool;

use crate::error::{Error, Result};

/// One place to compute. Cheap to clone; stays on the thread that made it, as its tensors do.
#[derive(Clone)]
pub struct Device(Rc<Inner>);

struct Inner {
    kind: Kind,
    pool: Rc<HostPool>,
    precision: Cell<Precision>,
}

/// How a GPU multiplies matrices held in f32. Sums are f32 either way; the CPU ignores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// As exact as f32 arithmetic: 3xTF32.
    #[default]
    F32,
    /// Operands rounded to TF32's 10 bits, in ops of at least so many multiply-adds.
    Tf32 { min_macs: u64 },
}

pub(crate) enum Kind {
    Cpu,
    Gpu(Rc<dyn Driver>),
}

/// Which device to open. Unlike the device it goes to other threads, each of which opens its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceId {
    Cpu,
    /// The driver's number of a GPU.
    Cuda(u32),
    /// Seed of its schedules.
    Emulator(u64),
}

impl DeviceId {
    /// What a command line names: `cpu`, `cuda`, `cuda:N` or `emulator`.
    pub fn parse(name: &str) -> Result<DeviceId> {
        match name.split_once(':').unwrap_or((name, "0")) {
            ("cpu", _) => Ok(DeviceId::Cpu),
            ("cuda", index) => match index.parse() {
                Ok(index) => Ok(DeviceId::Cuda(index)),
                Err(_) => Err(Error::Usage(format!("--device {name}: the GPU's number is not a number"))),
            },
            ("emulator", seed) => match seed.parse() {
                Ok(seed) => Ok(DeviceId::Emulator(seed)),
                Err(_) => Err(Error::Usage(format!("--device {name}: the seed is not a number"))),
            },
            _ => Err(Error::Usage(format!("--device {name}: unknown; use cpu, cuda, cuda:N or emulator"))),
        }
    }

    pub fn open(self) -> Result<Device> {
        match self {
            DeviceId::Cpu => Ok(Device::cpu()),
            DeviceId::Cuda(index) => Ok(Device::gpu(Cuda::open(index)?)),
            DeviceId::Emulator(seed) => Ok(Device::gpu(Emulator::new(&emulator::Options::from_env(seed)?))),
        }
    }
}

impl Device {
    /// The CPU this program runs on; ops use rayon's current thread pool.
    pub fn cpu() -> Device {
        Device::new(Kind::Cpu, false)
    }

    fn new(kind: Kind, poison: bool) -> Device {
        let pool = Rc::new(HostPool::new(poison));
        Device(Rc::new(Inner { kind, pool, precision: Cell::default() }))
    }

    /// A CPU whose fresh memory is full of NaNs: tests use it to catch outputs that are not fully written.
    pub fn cpu_poisoned() -> Device {
        Device::new(Kind::Cpu, true)
    }

    pub fn gpu(driver: Rc<dyn Driver>) -> Device {
        Device::new(Kind::Gpu(driver), false)
    }

    /// The device a command line names: `cpu`, `cuda`, `cuda:N` or `emulator`.
    pub fn named(name: &str) -> Result<Device> {
        DeviceId::parse(name)?.open()
    }

    /// Waits until everything queued is done.
    pub fn sync(&self) -> Result<()> {
        match self.kind() {
            Kind::Cpu => Ok(()),
            Kind::Gpu(driver) => driver.sync(),
        }
    }

    /// What kernels did since the last call, where the device counts it: the emulator does.
    pub fn take_counters(&self) -> Vec<KernelCounters> {
        match self.kind() {
            Kind::Cpu => Vec::new(),
            Kind::Gpu(driver) => driver.take_counters(),
        }
    }

    /// Memory of the device, where it has its own.
    pub fn memory(&self) -> Option<Memory> {
        match self.kind() {
            Kind::Cpu => None,
            Kind::Gpu(driver) => Some(driver.memory()),
        }
    }

    /// What launches depend on; none of the CPU.
    pub fn props(&self) -> Option<DeviceProps> {
        match self.kind() {
            Kind::Cpu => None,
            Kind::Gpu(driver) => Some(driver.props()),
        }
    }

    /// How long `work` takes, by the device's own clock where it has one.
    pub fn time_ms(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        match self.kind() {
            Kind::Cpu => {
                let start = std::time::Instant::now();
                work()?;
                Ok(start.elapsed().as_secs_f64() * 1e3)
            }
            Kind::Gpu(driver) => driver.time_ms(work),
        }
    }

    /// Tells an attached profiler to collect from here on, or to stop.
    pub fn set_profiled(&self, profiled: bool) -> Result<()> {
        match self.kind() {
            Kind::Cpu => Ok(()),
            Kind::Gpu(driver) => driver.set_profiled(profiled),
        }
    }

    pub fn precision(&self) -> Precision {
        self.0.precision.get()
    }

    /// Changes how matrices are multiplied from here on.
    pub fn set_precision(&self, precision: Precision) {
        self.0.precision.set(precision);
    }

    pub fn is_cpu(&self) -> bool {
        matches!(self.kind(), Kind::Cpu)
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0.kind
    }

    pub(crate) fn pool(&self) -> &Rc<HostPool> {
        &self.0.pool
    }

    /// Whether an op may mix tensors of the two.
    pub fn is_same(&self, other: &Device) -> bool {
        matches!((self.kind(), other.kind()), (Kind::Cpu, Kind::Cpu)) || Rc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.0.kind {
            Kind::Cpu => f.write_str("cpu"),
            Kind::Gpu(driver) => f.write_str(driver.name()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
