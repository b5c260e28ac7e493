//! Squeeze and excitation (Hu et al. 2018) folded into what stands around it in MBConv: the squeeze, a mean over pixels,
//! into the SiLU that comes before; the excitation, a gate per image and channel, into the 1x1 projection that follows.
//!
//! `[s, pooled] = silu_pool(x)` and `y = (s ∘ gate) weightᵀ`. The gated tensor exists only inside the projection and, for
//! the gradient of the weight, inside its gradient.

use rayon::prelude::*;

use crate::{
    cpu::gemm::{Matrix, MatrixMut, Threads, gemm},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each, column_blocks},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    math::sigmoid,
    op::{Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply_n, apply1, normal, registry::Workload, same_float},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `silu(x)` `[n, h, w, c]` and its mean over pixels `[n, c]`.
    pub fn silu_pool(&self) -> Result<[Tensor; 2]> {
        apply_n(SiluPool, &[self])
    }

    /// `(x ∘ gate) weightᵀ`: `x` `[n, h, w, c]`, `gate` `[n, c]`, `weight` `[out, c]`, result `[n, h, w, out]`.
    pub fn excited_linear(&self, gate: &Tensor, weight: &Tensor) -> Result<Tensor> {
        apply1(ExcitedLinear, &[self, gate, weight])
    }
}

/// Images, pixels and channels of `[n, h, w, c]`.
fn extents(op: &'static str, shape: Shape) -> Result<[usize; 3]> {
    match shape.nhwc() {
        Some([n, h, w, c]) if h * w > 0 && c > 0 => Ok([n, h * w, c]),
        _ => Err(Error::shape(op, format!("images [n, h, w, c] wanted, got {shape}"))),
    }
}

/// Input x; outputs silu(x) and its mean over pixels.
struct SiluPool;

impl Op for SiluPool {
    fn name(&self) -> &'static str {
        "silu_pool"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let [n, _, c] = extents(self.name(), x[0].shape)?;
        Ok(vec![x[0], Spec::new([n, c], dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [_, pixels, c] = extents(self.name(), args.x_shape(0))?;
        float_dispatch!(args, T => {
            let x = args.x::<T>(0);
            let [s, pooled] = args.ys::<T, 2>();
            let images = s.par_chunks_mut(pixels * c).zip(pooled.par_chunks_mut(c)).zip(x.par_chunks(pixels * c));
            images.for_each(|((s, pooled), x)| {
                pooled.fill(T::c(0.0));
                vectorised!({
                    for (s, x) in s.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        for (s, &x) in s.iter_mut().zip(x) {
                            *s = x * sigmoid(x);
                        }
                        for (pooled, &s) in pooled.iter_mut().zip(&*s) {
                            *pooled += s;
                        }
                    }
                });
                pooled.iter_mut().for_each(|pooled| *pooled /= T::c(pixels as f64));
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let params = pool_params(args, args.x[0].shape())?;
        let [s, pooled] = [args.y[0].ptr, args.y[1].ptr];
        let params = PoolParams { x: args.x[0].ptr, s, pooled, ..params };
        let grid = blocks_for_each(params.images as usize, params.tiles);
        args.launch(&SILU_POOL, args.x[0].dtype(), grid, 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let x = v.x(0);
        let [n, _, c] = extents(self.name(), x.shape())?;
        let ds = v.dy(0).cloned().map_or_else(|| x.zeros_like(), Ok)?;
        let dpooled = v.dy(1).cloned().map_or_else(|| Tensor::zeros([n, c], x.dtype(), x.device()), Ok)?;
        Ok(vec![Some(apply1(SiluPoolGrad, &[&ds, &dpooled, x])?)])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// `dx = silu'(x) ∘ (ds + dpooled / pixels)`; inputs ds, dpooled, x.
struct SiluPoolGrad;

impl Op for SiluPoolGrad {
    fn name(&self) -> &'static str {
        "silu_pool_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[2]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [_, pixels, c] = extents(self.name(), args.x_shape(2))?;
        float_dispatch!(args, T => {
            let (ds, dpooled, x) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            let share = T::c(1.0 / pixels as f64);
            let image = pixels * c;
            args.y::<T>(0).par_chunks_mut(image).enumerate().for_each(|(i, dx)| {
                let (ds, x, dpooled) = (&ds[i * image..][..image], &x[i * image..][..image], &dpooled[i * c..][..c]);
                vectorised!({
                    let (share, one) = (share, T::c(1.0));
                    for (dx, (ds, x)) in dx.chunks_exact_mut(c).zip(ds.chunks_exact(c).zip(x.chunks_exact(c))) {
                        for (dx, (&ds, (&x, &pooled))) in dx.iter_mut().zip(ds.iter().zip(x.iter().zip(dpooled))) {
                            let gate = sigmoid(x);
                            *dx = gate * (one + x * (one - gate)) * (ds + pooled * share);
                        }
                    }
                });
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [ds, dpooled, x] = [0, 1, 2].map(|i| args.x[i]);
        let params = pool_params(args, x.shape())?;
        let params = PoolParams { x: x.ptr, ds: ds.ptr, dpooled: dpooled.ptr, dx: args.y[0].ptr, ..params };
        let each = if params.aligned == 1 { x.dtype().vector_elems() } else { 1 };
        args.launch(&SILU_POOL_GRAD, x.dtype(), blocks(x.elems(), POOL_THREADS as usize * each), 0, &params)
    }
}

/// Inputs s, gate, weight.
struct ExcitedLinear;

impl Op for ExcitedLinear {
    fn name(&self) -> &'static str {
        "excited_linear"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let [n, _, c] = extents(self.name(), x[0].shape)?;
        let (gate, weight) = (x[1].shape, x[2].shape);
        match weight.as_array() {
            Some([out, inner]) if inner == c && *gate == [n, c] => {
                Ok(vec![Spec { shape: x[0].shape.with(3, out), dtype }])
            }
            _ => Err(Error::shape(self.name(), format!("images {}, gates {gate}, weight {weight}", x[0].shape))),
        }
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        (y[0].shape.elems() * x[0].shape.last()) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [n, pixels, c] = extents(self.name(), args.x_shape(0))?;
        let (rows, out) = (n * pixels, args.y_shape(0).last());
        float_dispatch!(args, T => {
            let mut a = vec![T::c(0.0); rows * c];
            excite(args.x::<T>(0), args.x::<T>(1), &mut a, pixels, c);
            let (a, weight) = (Matrix::rows(&a[..], c), Matrix::transposed(args.x::<T>(2), c));
            let y = MatrixMut { data: args.y::<T>(0), row: out };
            gemm([rows, out, c], a, weight, y, false, Threads::All);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [s, gate, weight] = [0, 1, 2].map(|i| args.x[i]);
        let [n, pixels, c] = extents(self.name(), s.shape())?;
        let (out, bytes) = (args.y[0].shape().last(), s.dtype().bytes());
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let tiles = blocks(out, TILE);
        let params = ProjectParams {
            s: s.ptr,
            gate: gate.ptr,
            weight: weight.ptr,
            y: args.y[0].ptr,
            rows: (n * pixels) as u64,
            pixels: pixels as u64,
            c: small(c),
            out: small(out),
            aligned: (c * bytes).is_multiple_of(16).into(),
            aligned_out: (out * bytes).is_multiple_of(16).into(),
            tiles,
            unused: 0,
        };
        let tf32 = args.rounds_to_tf32(s.dtype(), n * pixels * c * out);
        let kernel = if tf32 { &PROJECT_TF32 } else { &PROJECT };
        args.launch(kernel, s.dtype(), blocks_for_each((n * pixels).div_ceil(TILE), tiles), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, s, gate, weight) = (v.upstream()?, v.x(0), v.x(1), v.x(2));
        let da = dy.matmul(weight, false, false)?;
        let [ds, dgate, a] = apply_n(ExciteGrad, &[&da, s, gate])?;
        let dweight = v.when(2, || dy.as_rows()?.matmul(&a.as_rows()?, true, false))?;
        Ok(vec![Some(ds), Some(dgate), dweight])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// `a = s ∘ gate`.
fn excite<T: Real>(s: &[T], gate: &[T], a: &mut [T], pixels: usize, c: usize) {
    let images = a.par_chunks_mut(pixels * c).zip(s.par_chunks(pixels * c)).zip(gate.par_chunks(c));
    images.for_each(|((a, s), gate)| {
        vectorised!({
            for (a, s) in a.chunks_exact_mut(c).zip(s.chunks_exact(c)) {
                for (a, (&s, &gate)) in a.iter_mut().zip(s.iter().zip(gate)) {
                    *a = s * gate;
                }
            }
        });
    });
}

/// `ds = da ∘ gate`, `dgate = Σ over pixels of da ∘ s`, `a = s ∘ gate`; inputs da, s, gate.
struct ExciteGrad;

impl Op for ExciteGrad {
    fn name(&self) -> &'static str {
        "excited_linear_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1], x[2], x[1]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [_, pixels, c] = extents(self.name(), args.x_shape(1))?;
        float_dispatch!(args, T => {
            let (da, s, gate) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            let [ds, dgate, a] = args.ys::<T, 3>();
            excite(s, gate, a, pixels, c);
            excite(da, gate, ds, pixels, c);
            let image = pixels * c;
            dgate.par_chunks_mut(c).enumerate().for_each(|(i, dgate)| {
                dgate.fill(T::c(0.0));
                let (da, s) = (&da[i * image..][..image], &s[i * image..][..image]);
                vectorised!({
                    for (da, s) in da.chunks_exact(c).zip(s.chunks_exact(c)) {
                        for (dgate, (&da, &s)) in dgate.iter_mut().zip(da.iter().zip(s)) {
                            *dgate += da * s;
                        }
                    }
                });
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [da, s, gate] = [0, 1, 2].map(|i| args.x[i].ptr);
        let [ds, dgate, a] = [0, 1, 2].map(|i| args.y[i].ptr);
        let PoolParams { images, pixels, c, aligned, tiles, .. } = pool_params(args, args.x[1].shape())?;
        let params = ExciteParams { da, s, gate, ds, dgate, a, images, pixels, c, aligned, tiles };
        args.launch(&PROJECT_GRAD, args.x[1].dtype(), blocks_for_each(images as usize, tiles), 0, &params)
    }
}

kernel_params! {
    struct PoolParams {
        x: DevicePtr,
        s: DevicePtr,
        pooled: DevicePtr,
        ds: DevicePtr,
        dpooled: DevicePtr,
        dx: DevicePtr,
        images: u64,
        pixels: u64,
        c: u64,
        aligned: u32,
        tiles: u32,
    }

    struct ProjectParams {
        s: DevicePtr,
        gate: DevicePtr,
        weight: DevicePtr,
        y: DevicePtr,
        rows: u64,
        pixels: u64,
        c: u32,
        out: u32,
        aligned: u32,
        aligned_out: u32,
        tiles: u32,
        unused: u32,
    }

    struct ExciteParams {
        da: DevicePtr,
        s: DevicePtr,
        gate: DevicePtr,
        ds: DevicePtr,
        dgate: DevicePtr,
        a: DevicePtr,
        images: u64,
        pixels: u64,
        c: u64,
        aligned: u32,
        tiles: u32,
    }
}

const POOL_THREADS: u32 = 256;
// SAFETY: only this file fills `PoolParams`, from the tensors and scratch memory of the launch and from their sizes.
const SILU_POOL: Kernel<PoolParams> =
    unsafe { Kernel::new(&modules::SQUEEZE_EXCITE, "silu_pool_fwd", POOL_THREADS, FLOATS) };
// SAFETY: as above, `PoolParams`.
const SILU_POOL_GRAD: Kernel<PoolParams> =
    unsafe { Kernel::new(&modules::SQUEEZE_EXCITE, "silu_pool_bwd", POOL_THREADS, FLOATS) };
// SAFETY: as above, `ExciteParams`.
const PROJECT_GRAD: Kernel<ExciteParams> =
    unsafe { Kernel::new(&modules::SQUEEZE_EXCITE, "project_bwd", POOL_THREADS, FLOATS) };

const THREADS: u32 = 128;
/// Rows and columns of a block of the projection.
const TILE: usize = 64;
// SAFETY: as above, `ProjectParams`.
const PROJECT: Kernel<ProjectParams> = unsafe { Kernel::new(&modules::SQUEEZE_EXCITE, "project_fwd", THREADS, FLOATS) };
// SAFETY: as above, `ProjectParams`.
const PROJECT_TF32: Kernel<ProjectParams> =
    unsafe { Kernel::new(&modules::SQUEEZE_EXCITE, "project_fwd_tf32", THREADS, &[DType::F32]) };

/// Sizes for images of this shape; no pointers.
fn pool_params(args: &DeviceArgs, images: Shape) -> Result<PoolParams> {
    let [n, pixels, c] = extents("squeeze_excite", images)?;
    let bytes = args.y[0].dtype().bytes();
    let aligned = (c * bytes).is_multiple_of(16);
    let null = DevicePtr::NULL;
    Ok(PoolParams {
        x: null,
        s: null,
        pooled: null,
        ds: null,
        dpooled: null,
        dx: null,
        images: n as u64,
        pixels: pixels as u64,
        c: c as u64,
        aligned: aligned.into(),
        tiles: column_blocks(c, aligned, bytes),
    })
}

pub const SPEC: OpSpec = OpSpec {
    name: "squeeze_excite",
    order: Order::Once,
    kernels: &[SILU_POOL.info(), SILU_POOL_GRAD.info(), PROJECT.info(), PROJECT_TF32.info(), PROJECT_GRAD.info()],
    cases: || {
        let pool = |name, x: [usize; 4]| Case::new(name, [normal(x)], |x| Ok(x[0].silu_pool()?.into()));
        let project = |name, x: [usize; 4], out: usize| {
            let inputs = [normal(x), normal([x[0], x[3]]), normal([out, x[3]])];
            Case::new(name, inputs, |x| Ok(vec![x[0].excited_linear(&x[1], &x[2])?]))
        };
        vec![
            pool("pool_ragged", [2, 3, 5, 7]),
            pool("pool_aligned", [1, 2, 3, 40]),
            project("project_ragged", [2, 3, 3, 5], 7),
            project("project_past_a_tile", [5, 3, 5, 72], 66),
            project("project_one_pixel", [3, 1, 1, 16], 1),
            Case::new("block", [normal([2, 4, 4, 6]), normal([3, 6]), normal([6, 3]), normal([5, 6])], |x| {
                let [s, pooled] = x[0].silu_pool()?;
                let gate = pooled.linear(&x[1], None)?.linear(&x[2], None)?.sigmoid()?;
                Ok(vec![s.excited_linear(&gate, &x[3])?])
            }),
        ]
    },
    workloads: || {
        let x = [256, 8, 8, 2048];
        let elements = x.iter().product::<usize>() as f64;
        let project = [normal(x), normal([x[0], x[3]]), normal([512, x[3]])];
        vec![
            Workload::gpu("silu_pool", [normal(x)], 5.0 * elements, |x| Ok(x[0].silu_pool()?[0].clone())),
            Workload::gpu("excited_linear", project, 1024.0 * elements, |x| x[0].excited_linear(&x[1], &x[2])),
        ]
    },
    ..OpSpec::BARE
};
