//! An op with kernels of its own, in a crate of its own: SwiGLU (Shazeer 2020), `y = silu(a) ∘ b`, forward and gradient.
//!
//! ```
//! use isg::{DType, Device, Tape, Tensor};
//! use own_kernel::swiglu;
//!
//! # fn main() -> isg::Result<()> {
//! let device = Device::named("emulator")?; // or "cuda", or "cpu"
//! let a = Tensor::from_vec(vec![1.0f32, -2.0, 0.5], [3], &device)?;
//! let b = Tensor::from_vec(vec![2.0f32, 1.0, -1.0], [3], &device)?;
//! let tape = Tape::start();
//! tape.watch([&a, &b]);
//! let loss = swiglu(&a, &b)?.sum_all()?;
//! let grads = tape.backward(&loss)?;
//! assert!((grads.get(&b).expect("watched").to_vec::<f32>()?[0] - 0.731).abs() < 1e-3); // silu(1)
//! # Ok(())
//! # }
//! ```
//!
//! What it takes:
//!
//! 1. **Kernels**, `kernels/swiglu.cu`, each with one struct as its parameter, entries named `swiglu_<what>_<dtype>`, compiled with
//!    `nvcc -ptx -O3 -std=c++17 -arch=sm_80 swiglu.cu -o swiglu.ptx`. The text is part of the crate, so that who builds it needs no
//!    compiler. nvcc 13 writes `.version 9.0`, which wants its own driver or a newer one; these kernels use nothing that
//!    `.version 8.0` lacks, and with that line any driver from R525 on loads them.
//! 2. **A module**: [`SWIGLU`], the text and the GPUs it is for.
//! 3. **Parameters and kernels**: the structs once more, field by field, by `kernel_params!`; and a `Kernel` for each family of entries.
//!    Making one is `unsafe`: from there on the struct's addresses and sizes are trusted, so it stays in the file that fills it.
//! 4. **An op**: shapes, the definition on the CPU, the launch, the gradient. The gradient is an op too.
//! 5. **Tests**: `tests/emulator.rs` holds structs and PTX against each other and runs the kernels where there is no GPU, every access
//!    checked, against the definition in f64.

use isg::{
    DType, Error, Result, Tensor,
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{Kernel, KernelInfo, blocks},
        module::{Arch, Module},
    },
    float_dispatch, kernel_params,
    math::exp,
    op::{DeviceArgs, HostArgs, Op, apply_n, apply1, same_float},
    shape::Spec,
    tape::{Keep, Vjp},
};

pub static SWIGLU: Module = Module::new("swiglu", Arch::SM_80, include_str!("../kernels/swiglu.ptx"));

kernel_params! {
    struct ForwardParams { a: DevicePtr, b: DevicePtr, y: DevicePtr, count: u64 }

    struct BackwardParams { dy: DevicePtr, a: DevicePtr, b: DevicePtr, da: DevicePtr, db: DevicePtr, count: u64 }
}

const THREADS: u32 = 256;
const TYPES: &[DType] = &[DType::F32, DType::Bf16];
// SAFETY: only this file fills `ForwardParams`, with tensors of one shape and the number of their elements.
const FORWARD: Kernel<ForwardParams> = unsafe { Kernel::new(&SWIGLU, "fwd", THREADS, TYPES) };
// SAFETY: as above, `BackwardParams`.
const BACKWARD: Kernel<BackwardParams> = unsafe { Kernel::new(&SWIGLU, "bwd", THREADS, TYPES) };

/// What tests hold against the PTX, and `Device::preload` takes.
pub const KERNELS: &[KernelInfo] = &[FORWARD.info(), BACKWARD.info()];

/// `silu(a) ∘ b`, with `silu(a) = a / (1 + e⁻ᵃ)`: a gate and what passes it, of one shape and type. Differentiable once.
pub fn swiglu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply1(Swiglu, &[a, b])
}

/// Blocks for so many elements: 16 bytes a thread.
fn grid(count: usize, dtype: DType) -> u32 {
    blocks(count, THREADS as usize * 16 / dtype.bytes())
}

fn sigmoid<T: Real>(a: T) -> T {
    (T::c(1.0) + exp(-a)).recip()
}

struct Swiglu;

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        same_float("swiglu", x)?;
        if x[0].shape != x[1].shape {
            return Err(Error::shape("swiglu", format!("{} gates, {} values", x[0].shape, x[1].shape)));
        }
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (a, b) = (args.x::<T>(0), args.x::<T>(1));
            for (y, (&a, &b)) in args.y::<T>(0).iter_mut().zip(a.iter().zip(b)) {
                *y = a * sigmoid(a) * b;
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (a, b, y) = (args.x[0], args.x[1], args.y[0]);
        let params = ForwardParams { a: a.ptr, b: b.ptr, y: y.ptr, count: y.elems() as u64 };
        args.launch(&FORWARD, y.dtype(), grid(y.elems(), y.dtype()), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let [da, db] = apply_n(SwigluGrad, &[v.upstream()?, v.x(0), v.x(1)])?;
        Ok(vec![Some(da), Some(db)])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// Inputs dy, a, b; outputs da, db. Without a gradient of its own: a second one is an error that says so.
struct SwigluGrad;

impl Op for SwigluGrad {
    fn name(&self) -> &'static str {
        "swiglu_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1], x[2]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (dy, a, b) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            let [da, db] = args.ys::<T, 2>();
            for i in 0..dy.len() {
                let s = sigmoid(a[i]);
                da[i] = dy[i] * b[i] * s * (1.0 + a[i] * (1.0 - s));
                db[i] = dy[i] * a[i] * s;
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let ([dy, a, b], [da, db]) = ([0, 1, 2].map(|i| args.x[i].ptr), [0, 1].map(|i| args.y[i].ptr));
        let (count, dtype) = (args.y[0].elems(), args.y[0].dtype());
        let params = BackwardParams { dy, a, b, da, db, count: count as u64 };
        args.launch(&BACKWARD, dtype, grid(count, dtype), 0, &params)
    }
}
