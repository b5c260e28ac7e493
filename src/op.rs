//! What an op is, and [`apply`]: the one place where shapes are checked, memory is allocated, the device is chosen and
//! the tape is written.

pub mod registry;

pub use registry::{Case, CaseFn, Draw, Input, OpSpec, Order, drawn, normal};

use std::{
    cell::{Cell, Ref},
    rc::Rc,
};

use crate::{
    device::{
        Device, Kind, Precision,
        driver::{DeviceBuffer, DevicePtr, Driver, LaunchConfig, Pattern},
        host::{Element, HostBuffer},
        kernel::{Kernel, Params},
        nvtx,
    },
    dtype::DType,
    error::{Error, Result},
    shape::{Shape, Spec},
    tape::{self, Keep, Vjp},
    tensor::{Storage, Tensor},
};

/// One operation: its shapes, its definition, its kernels and its gradient, together.
///
/// An op without kernels computes on the CPU, and is an error elsewhere:
///
/// ```
/// use isg::{Device, Result, Tape, Tensor, float_dispatch, op::{HostArgs, Op, apply1}, shape::Spec, tape::Vjp};
///
/// /// `x³`
/// struct Cube;
///
/// impl Op for Cube {
///     fn name(&self) -> &'static str {
///         "cube"
///     }
///
///     fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
///         Ok(vec![x[0]])
///     }
///
///     fn cpu(&self, args: &mut HostArgs) -> Result<()> {
///         float_dispatch!(args, T => {
///             let x = args.x::<T>(0);
///             args.y::<T>(0).iter_mut().zip(x).for_each(|(y, x)| *y = x * x * x);
///         });
///         Ok(())
///     }
///
///     // With ordinary methods, so that the gradient has a gradient.
///     fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
///         Ok(vec![Some(v.upstream()?.mul(&v.x(0).square()?.scale(3.0)?)?)])
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let x = Tensor::from_vec(vec![2.0], [1], &Device::cpu())?;
/// let tape = Tape::start();
/// tape.watch([&x]);
/// let y = apply1(Cube, &[&x])?;
/// assert_eq!((y.item()?, tape.backward(&y)?.get(&x).expect("watched").item()?), (8.0, 12.0));
/// # Ok(())
/// # }
/// ```
pub trait Op: 'static {
    /// Names the op in errors, listings and profiles.
    fn name(&self) -> &'static str;

    /// Shapes and types of the outputs, or what is wrong with the inputs.
    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>>;

    /// The definition. Writes every element of every output. Never sees 16-bit floats: they are widened to f32 before and
    /// rounded once after.
    fn cpu(&self, args: &mut HostArgs) -> Result<()>;

    /// Launches the kernels that compute the same.
    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        Err(Error::NoKernel { op: self.name(), device: args.driver.name().to_string() })
    }

    /// Gradients of the inputs from those of the outputs, written with ordinary tensor methods, so that they can be
    /// recorded and differentiated themselves.
    fn vjp(&self, _: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Err(Error::OrderExceeded { op: self.name() })
    }

    /// What `vjp` reads; the tape keeps nothing else alive.
    fn keep(&self) -> Keep {
        Keep::ALL
    }

    /// Multiply-adds of the products of matrices, convolutions and attention in it; what works element by element counts none.
    fn macs(&self, _x: &[Spec], _y: &[Spec]) -> u64 {
        0
    }

    /// The output is input 0's memory under another shape; neither `cpu` nor `gpu` is called.
    fn is_view(&self) -> bool {
        false
    }
}

/// Inputs and outputs in host memory.
pub struct HostArgs<'a> {
    x: Vec<HostView<'a>>,
    y: Vec<(Shape, HostBuffer)>,
}

#[derive(Clone, Copy)]
struct HostView<'a> {
    shape: Shape,
    buffer: &'a HostBuffer,
}

impl<'a> HostArgs<'a> {
    /// The values of input `i`.
    pub fn x<T: Element>(&self, i: usize) -> &'a [T] {
        let buffer = self.x[i].buffer;
        T::of(buffer).unwrap_or_else(|| panic!("input {i} is {}, read as {}", buffer.dtype(), T::DTYPE))
    }

    pub fn x_shape(&self, i: usize) -> Shape {
        self.x[i].shape
    }

    pub fn inputs(&self) -> usize {
        self.x.len()
    }

    /// The values of output `i`, to be written.
    pub fn y<T: Element>(&mut self, i: usize) -> &mut [T] {
        let (_, buffer) = &mut self.y[i];
        let dtype = buffer.dtype();
        T::of_mut(buffer).unwrap_or_else(|| panic!("output {i} is {dtype}, written as {}", T::DTYPE))
    }

    /// All `N` outputs at once.
    pub fn ys<T: Element, const N: usize>(&mut self) -> [&mut [T]; N] {
        let mut slices = self.y.iter_mut().map(|(_, buffer)| T::of_mut(buffer).expect("outputs of one type"));
        std::array::from_fn(|_| slices.next().expect("as many outputs as the op infers"))
    }

    pub fn y_shape(&self, i: usize) -> Shape {
        self.y[i].0
    }

    /// The type input `i` is held in here, never a 16-bit one.
    pub fn x_dtype(&self, i: usize) -> DType {
        self.x[i].buffer.dtype()
    }

    /// The type output `i` is held in here, never a 16-bit one.
    pub fn y_dtype(&self, i: usize) -> DType {
        self.y[i].1.dtype()
    }

    /// The float type the op computes in: that of its first float output, else of its first float input.
    pub fn float(&self) -> DType {
        let outputs = self.y.iter().map(|(_, buffer)| buffer.dtype());
        let inputs = self.x.iter().map(|view| view.buffer.dtype());
        outputs.chain(inputs).find(|dtype| dtype.is_float()).unwrap_or(DType::F32)
    }
}

/// Runs an expression with `$T` standing for the float type the arguments hold.
///
/// `float_dispatch!(args, T => softmax::<T>(args.x(0), args.y(0)))`
#[macro_export]
macro_rules! float_dispatch {
    ($args:expr, $T:ident => $body:expr) => {
        match $args.float() {
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

/// As [`float_dispatch!`], for ops that only move elements: `$T` stands for the type of output 0, whatever it is.
#[macro_export]
macro_rules! element_dispatch {
    ($args:expr, $T:ident => $body:expr) => {
        match $args.y_dtype(0) {
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            $crate::DType::U8 => {
                type $T = u8;
                $body
            }
            $crate::DType::I32 => {
                type $T = i32;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

/// Inputs and outputs in device memory. Only [`apply`] and [`update`] make them, after the op has checked the shapes.
#[non_exhaustive]
pub struct DeviceArgs<'a> {
    pub driver: &'a Rc<dyn Driver>,
    pub precision: Precision,
    pub x: Vec<DeviceView>,
    pub y: Vec<DeviceView>,
}

#[derive(Clone, Copy)]
pub struct DeviceView {
    pub spec: Spec,
    pub ptr: DevicePtr,
}

impl DeviceView {
    pub fn shape(&self) -> Shape {
        self.spec.shape
    }

    pub fn dtype(&self) -> DType {
        self.spec.dtype
    }

    pub fn elems(&self) -> usize {
        self.spec.shape.elems()
    }
}

impl DeviceArgs<'_> {
    /// Queues a kernel on `grid` blocks with `shared_bytes` of dynamic shared memory each. A grid without blocks is nothing
    /// to do.
    ///
    /// Addresses in `params` are those of inputs, outputs and scratch of these arguments: what whoever made the kernel
    /// answers for ([`Kernel::new`]).
    pub fn launch<P: Params>(
        &self,
        kernel: &Kernel<P>,
        dtype: DType,
        grid: impl Into<Grid>,
        shared_bytes: usize,
        params: &P,
    ) -> Result<()> {
        let Grid(grid) = grid.into();
        if grid.contains(&0) {
            return Ok(());
        }
        let info = kernel.info();
        if grid[0] >= 1 << 31 {
            return Err(Error::Device(format!("{info}: more than 2^31 blocks of threads; split the batch")));
        }
        if grid[1] > MOST_BLOCKS_YZ || grid[2] > MOST_BLOCKS_YZ {
            let message =
                format!("{info}: {grid:?} blocks, and a device takes {MOST_BLOCKS_YZ} along y and z; split the batch");
            return Err(Error::Device(message));
        }
        let entry = info.entry(dtype).ok_or_else(|| {
            let device = self.driver.name();
            Error::Device(format!("{device}: {info} has no kernel for {dtype}; cast to f32 first"))
        })?;
        let entry = self.driver.entry(kernel.module, &entry)?;
        let shared_bytes = u32::try_from(shared_bytes).unwrap_or(u32::MAX);
        let config = LaunchConfig { grid, block: [kernel.threads, 1, 1], shared_bytes };
        // SAFETY: the entry is this driver's. That it takes a `P`, and that the addresses in this one are of live memory as
        // large as it takes them to be, whoever made the kernel answers for.
        unsafe { self.driver.launch(entry, config, params.bytes()) }
    }

    /// Sets all of an input or output to zero bytes.
    pub fn zero(&self, view: &DeviceView) -> Result<()> {
        // SAFETY: views are of live tensors, which are as large as their shape and type say.
        unsafe { self.driver.fill(view.ptr, Pattern::Bits8(0), view.spec.bytes()) }
    }

    /// Whether a GEMM of `dtype` operands with so many multiply-adds rounds them to TF32.
    pub fn rounds_to_tf32(&self, dtype: DType, macs: usize) -> bool {
        match self.precision {
            Precision::F32 => false,
            Precision::Tf32 { min_macs } => dtype == DType::F32 && macs as u64 >= min_macs,
        }
    }

    /// Device memory for the time of this call: partial sums, packed operands.
    pub fn scratch(&self, bytes: usize) -> Result<DeviceBuffer> {
        DeviceBuffer::alloc(self.driver, bytes)
    }
}

/// CUDA's limit of a grid's second and third extent.
const MOST_BLOCKS_YZ: u32 = 65_535;

/// Blocks along x, y and z.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid(pub [u32; 3]);

impl From<u32> for Grid {
    fn from(x: u32) -> Grid {
        Grid([x, 1, 1])
    }
}

impl From<[u32; 2]> for Grid {
    fn from([x, y]: [u32; 2]) -> Grid {
        Grid([x, y, 1])
    }
}

impl From<[u32; 3]> for Grid {
    fn from(grid: [u32; 3]) -> Grid {
        Grid(grid)
    }
}

thread_local! {
    static MACS: Cell<u64> = const { Cell::new(0) };
}

/// The multiply-adds ([`Op::macs`]) of all ops that `work` applies on this thread, whatever the device.
pub fn count_macs<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let before = MACS.get();
    let result = work();
    (result, MACS.get() - before)
}

/// Applies an op: checks, allocates, computes, records.
pub fn apply(op: impl Op, x: &[&Tensor]) -> Result<Vec<Tensor>> {
    let device = common_device(op.name(), x)?;
    apply_on(op, x, &device)
}

/// As [`apply`], for ops that may have no input and so name their device.
pub fn apply_on(op: impl Op, x: &[&Tensor], device: &Device) -> Result<Vec<Tensor>> {
    let specs: Vec<Spec> = x.iter().map(|t| t.spec()).collect();
    let out = op.infer(&specs)?;
    MACS.with(|macs| macs.set(macs.get() + op.macs(&specs, &out)));
    let _range = nvtx::range_with(|| {
        let list: Vec<String> = specs.iter().map(|spec| format!("{}{}", spec.dtype, spec.shape)).collect();
        (format!("{} {}", op.name(), list.join(" ")), out.iter().map(|spec| spec.shape.elems() as u64).sum())
    });
    let y: Vec<Tensor> = if op.is_view() {
        vec![Tensor::from_storage(device, out[0], x[0].storage().clone())]
    } else {
        match device.kind() {
            Kind::Cpu => compute_on_host(&op, x, &out, device)?,
            Kind::Gpu(driver) => {
                let storage = out.iter().map(|&spec| Storage::alloc(device, spec)).collect::<Result<Vec<_>>>()?;
                let y: Vec<Tensor> = (out.iter().zip(storage))
                    .map(|(&spec, storage)| Tensor::from_storage(device, spec, Rc::new(storage)))
                    .collect();
                let (x, precision) = (device_views(x.iter().copied()), device.precision());
                op.gpu(&DeviceArgs { driver, precision, x, y: device_views(&y) })?;
                y
            }
        }
    };
    if tape::alive() {
        let op: Rc<dyn Op> = Rc::new(op);
        tape::record(&op, x, &y);
    }
    Ok(y)
}

/// The float type that all inputs of an op share.
pub fn same_float(op: &'static str, x: &[Spec]) -> Result<DType> {
    let dtype = x[0].dtype;
    match x.iter().find(|spec| spec.dtype != dtype || !dtype.is_float()) {
        Some(other) => Err(Error::shape(op, format!("{dtype} and {} do not mix", other.dtype))),
        None => Ok(dtype),
    }
}

/// Applies an op with one output.
pub fn apply1(op: impl Op, x: &[&Tensor]) -> Result<Tensor> {
    Ok(apply(op, x)?.swap_remove(0))
}

/// Applies an op with `N` outputs.
pub fn apply_n<const N: usize>(op: impl Op, x: &[&Tensor]) -> Result<[Tensor; N]> {
    let name = op.name();
    apply(op, x)?.try_into().map_err(|y: Vec<Tensor>| Error::shape(name, format!("{} outputs, not {N}", y.len())))
}

fn common_device(op: &'static str, x: &[&Tensor]) -> Result<Device> {
    let first = x.first().ok_or_else(|| Error::shape(op, "at least one input wanted"))?.device();
    match x.iter().find(|t| !t.device().is_same(first)) {
        None => Ok(first.clone()),
        Some(other) => Err(Error::DeviceMismatch { op, devices: (first.to_string(), other.device().to_string()) }),
    }
}

fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::Bf16 | DType::F16)
}

fn borrow(t: &Tensor) -> Ref<'_, HostBuffer> {
    match &**t.storage() {
        Storage::Host { buffer, .. } => buffer.borrow(),
        Storage::Device(_) => unreachable!("tensors of a CPU device are in host memory"),
    }
}

fn compute_on_host(op: &dyn Op, x: &[&Tensor], out: &[Spec], device: &Device) -> Result<Vec<Tensor>> {
    let borrowed: Vec<Ref<HostBuffer>> = x.iter().map(|t| borrow(t)).collect();
    let widened: Vec<Option<HostBuffer>> =
        borrowed.iter().map(|b| is_narrow(b.dtype()).then(|| b.cast(DType::F32))).collect();
    let views = (x.iter().zip(&borrowed).zip(&widened))
        .map(|((t, b), wide)| HostView { shape: t.shape(), buffer: wide.as_ref().unwrap_or(b) })
        .collect();
    let alloc = |spec: &Spec| {
        let dtype = if is_narrow(spec.dtype) { DType::F32 } else { spec.dtype };
        (spec.shape, device.pool().alloc(dtype, spec.shape.elems()))
    };
    let mut args = HostArgs { x: views, y: out.iter().map(alloc).collect() };
    op.cpu(&mut args)?;
    let finish = |(spec, (_, buffer)): (&Spec, (Shape, HostBuffer))| {
        let buffer = if is_narrow(spec.dtype) { buffer.cast(spec.dtype) } else { buffer };
        Tensor::from_buffer(buffer, spec.shape, device)
    };
    out.iter().zip(args.y).map(finish).collect()
}

fn device_views<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<DeviceView> {
    let view = |t: &Tensor| match &**t.storage() {
        Storage::Device(memory) => DeviceView { spec: t.spec(), ptr: memory.ptr() },
        Storage::Host { .. } => unreachable!("tensors of a GPU device are in device memory"),
    };
    tensors.into_iter().map(view).collect()
}

/// An update that overwrites its targets: optimisers, averages, running statistics. Never recorded.
pub trait InPlace {
    fn name(&self) -> &'static str;
    /// `targets` are overwritten, `x` are read. All at their stored type.
    fn cpu(&self, targets: &mut [&mut HostBuffer], x: &[&HostBuffer]) -> Result<()>;
    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        Err(Error::NoKernel { op: self.name(), device: args.driver.name().to_string() })
    }
}

/// Overwrites `targets`. An error while a tape lives, which may still need the old values.
pub fn update(op: &dyn InPlace, targets: &[&Tensor], x: &[&Tensor]) -> Result<()> {
    let all: Vec<&Tensor> = targets.iter().chain(x).copied().collect();
    let device = common_device(op.name(), &all)?;
    if tape::alive() {
        return Err(Error::TapeAlive { op: op.name(), device: device.to_string() });
    }
    let _range = nvtx::range(op.name());
    match device.kind() {
        Kind::Cpu => {
            let aliased = || Error::shape(op.name(), "a target is given twice, or also as an input");
            let mut held = Vec::with_capacity(targets.len());
            for target in targets {
                match &**target.storage() {
                    Storage::Host { buffer, .. } => held.push(buffer.try_borrow_mut().map_err(|_| aliased())?),
                    Storage::Device(_) => unreachable!("tensors of a CPU device are in host memory"),
                }
            }
            let mut read = Vec::with_capacity(x.len());
            for t in x {
                match &**t.storage() {
                    Storage::Host { buffer, .. } => read.push(buffer.try_borrow().map_err(|_| aliased())?),
                    Storage::Device(_) => unreachable!("tensors of a CPU device are in host memory"),
                }
            }
            let mut targets: Vec<&mut HostBuffer> = held.iter_mut().map(|b| &mut **b).collect();
            let x: Vec<&HostBuffer> = read.iter().map(|b| &**b).collect();
            op.cpu(&mut targets, &x)
        }
        Kind::Gpu(driver) => op.gpu(&DeviceArgs {
            driver,
            precision: device.precision(),
            x: device_views(x.iter().copied()),
            y: device_views(targets.iter().copied()),
        }),
    }
}
