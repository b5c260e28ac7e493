//! The local feature updater of the paper's attention fusion block (equations 3 to 5): the global vector of a coarse patch
//! guides the update of its cube of local features.
//!
//! With cube `R` (`[n, g, g, d]`, `g = p/q`) and global vectors `f` (`[n, d]`): `Q = Reshape(f W_qᵀ)`, `K = R W_k`,
//! `V = R W_v` (eq. 3), `A = sigmoid(Q ∘ K)` (eq. 4), `R' = (A ∘ V) W_r` (eq. 5). Both projections and the gate `A ∘ V` are
//! one op, whose keys and values exist only inside it: its gradient projects again rather than keep two more tensors as
//! large as the cube.

use rayon::prelude::*;

use crate::{
    cpu::{
        gemm::{Matrix, MatrixMut, Threads, gemm},
        vector::{par_rows, rows_per_task, sum2},
    },
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    math::sigmoid,
    op::{
        Case, DeviceArgs, DeviceView, Draw, HostArgs, Op, OpSpec, Order, apply_n, apply1, drawn, normal,
        registry::{Workload, only},
        same_float,
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// The updated cube `[n, g, g, d]`; `self` is `R` `[n, g, g, d]`, `f` `[n, d]`, `w_q` `[g·g, d]`, the others `[d, d]`,
    /// applied on the right.
    pub fn local_feature_updater(
        &self,
        f: &Tensor,
        w_q: &Tensor,
        w_k: &Tensor,
        w_v: &Tensor,
        w_r: &Tensor,
    ) -> Result<Tensor> {
        cube(self)?;
        let q = f.linear(w_q, None)?;
        apply1(Gate, &[&q, self, w_k, w_v])?.matmul(w_r, false, false)
    }

    /// The score map `A` of equation 4, `[n, g, g, d]`: how much of each local feature the global vector lets through.
    pub fn local_score_map(&self, f: &Tensor, w_q: &Tensor, w_k: &Tensor) -> Result<Tensor> {
        let (q, k) = (f.linear(w_q, None)?, self.matmul(w_k, false, false)?);
        let [n, g, h, _] = cube(self)?;
        q.reshape([n, g, h, 1])?.mul(&k)?.sigmoid()
    }
}

/// `[n, g, g, d]` of a cube.
pub(super) fn cube(r: &Tensor) -> Result<[usize; 4]> {
    let wrong = || Error::shape("feature_updater", format!("cubes [n, g, g, d] wanted, got {}", r.shape()));
    r.shape().nhwc().ok_or_else(wrong)
}

/// `y = sigmoid(q ∘ (r w_k)) ∘ (r w_v)`; q has one number per row of r.
struct Gate;

impl Op for Gate {
    fn name(&self) -> &'static str {
        "local_gate"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        same_float("local_gate", x)?;
        let [q, r, w_k, w_v] = [0, 1, 2, 3].map(|i| x[i].shape);
        let d = r.last();
        if r.rank() == 0 || d == 0 || q.elems() != r.rows() || [w_k, w_v].iter().any(|w| **w != [d, d]) {
            let message = format!("queries {q}, features {r}, keys by {w_k}, values by {w_v}");
            return Err(Error::shape("local_gate", message));
        }
        Ok(vec![x[1]])
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        2 * (y[0].shape.elems() * x[1].shape.last()) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(1).last();
        float_dispatch!(args, T => {
            let q = args.x::<T>(0);
            let [k, v] = project::<T>([args.x(1), args.x(2), args.x(3)], cols);
            par_rows(args.y::<T>(0), cols, |task, y| vectorised!({
                for (row, y) in y.chunks_exact_mut(cols).enumerate() {
                    let row = task * rows_per_task(cols) + row;
                    let (q, k, v) = (q[row], &k[row * cols..][..cols], &v[row * cols..][..cols]);
                    for (y, (&k, &v)) in y.iter_mut().zip(k.iter().zip(v)) {
                        *y = sigmoid(q * k) * v;
                    }
                }
            }));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [q, r, w_k, w_v] = [args.x[0], args.x[1], args.x[2], args.x[3]];
        let params = GateParams { y: args.y[0].ptr, ..gate_params(&q, &r, &w_k, &w_v) };
        args.launch(&passes(args, &r)[0], r.dtype(), tiles(&params), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (r, w_k, w_v) = (v.x(1), v.x(2), v.x(3));
        let [dq, dk, dv] = apply_n(GateGrad, &[v.upstream()?, v.x(0), r, w_k, w_v])?;
        let dr = v.when(1, || dk.matmul(w_k, false, true)?.add(&dv.matmul(w_v, false, true)?))?;
        let rows = r.as_rows()?;
        let dw_k = v.when(2, || rows.matmul(&dk.as_rows()?, true, false))?;
        let dw_v = v.when(3, || rows.matmul(&dv.as_rows()?, true, false))?;
        Ok(vec![Some(dq), dr, dw_k, dw_v])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// Keys and values of the rows of r.
fn project<T: Real>([r, w_k, w_v]: [&[T]; 3], cols: usize) -> [Vec<T>; 2] {
    [w_k, w_v].map(|w| {
        let mut y = vec![T::zero(); r.len()];
        let (rows, out) = (r.len() / cols, MatrixMut { data: &mut y, row: cols });
        gemm([rows, cols, cols], Matrix::rows(r, cols), Matrix::rows(w, cols), out, false, Threads::All);
        y
    })
}

/// Inputs dy, q, r, w_k, w_v; outputs dq and the gradients of the keys and of the values.
struct GateGrad;

impl Op for GateGrad {
    fn name(&self) -> &'static str {
        "local_gate_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1], x[2], x[2]])
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        // Keys and values are computed again.
        2 * (y[1].shape.elems() * x[2].shape.last()) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(2).last();
        float_dispatch!(args, T => gate_gradients::<T>(args, cols));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [dy, q, r, w_k, w_v] = [0, 1, 2, 3, 4].map(|i| args.x[i]);
        let [dq, dk, dv] = [0, 1, 2].map(|i| args.y[i].ptr);
        let params = gate_params(&q, &r, &w_k, &w_v);
        let parts = args.scratch((params.rows as usize * params.tiles as usize * 4).max(4))?;
        let params = GateParams { dy: dy.ptr, dk, dv, parts: parts.ptr(), ..params };
        args.launch(&passes(args, &r)[1], r.dtype(), tiles(&params), 0, &params)?;
        let sum = SumParams { parts: parts.ptr(), dq, rows: params.rows, tiles: params.tiles.into() };
        args.launch(&SUM_Q, r.dtype(), blocks(q.elems(), SUM_THREADS as usize), 0, &sum)
    }
}

fn gate_gradients<T: Real>(args: &mut HostArgs, cols: usize) {
    let (dy, q) = (args.x::<T>(0), args.x::<T>(1));
    let [k, v] = project::<T>([args.x(2), args.x(3), args.x(4)], cols);
    let [dq, dk, dv] = args.ys::<T, 3>();
    let block = rows_per_task(cols);
    let outputs = dq.par_chunks_mut(block).zip(dk.par_chunks_mut(block * cols).zip(dv.par_chunks_mut(block * cols)));
    outputs.enumerate().for_each(|(task, (dq, (dk, dv)))| {
        vectorised!({
            let rows = dq.iter_mut().zip(dk.chunks_exact_mut(cols).zip(dv.chunks_exact_mut(cols)));
            for (row, (dq, (dk, dv))) in rows.enumerate() {
                let row = task * block + row;
                let at = row * cols;
                let (q, dy, k, v) = (q[row], &dy[at..at + cols], &k[at..at + cols], &v[at..at + cols]);
                for ((dk, dv), (&dy, (&k, &v))) in dk.iter_mut().zip(dv).zip(dy.iter().zip(k.iter().zip(v))) {
                    let open = sigmoid(q * k);
                    *dv = dy * open;
                    *dk = dy * v * open * (T::one() - open);
                }
                *dq = sum2(dk, k, |d, k| d * k);
                for dk in dk.iter_mut() {
                    *dk *= q;
                }
            }
        });
    });
}

kernel_params! {
    struct GateParams {
        q: DevicePtr,
        r: DevicePtr,
        w_k: DevicePtr,
        w_v: DevicePtr,
        y: DevicePtr,
        dy: DevicePtr,
        dk: DevicePtr,
        dv: DevicePtr,
        parts: DevicePtr,
        rows: u64,
        d: u32,
        aligned: u32,
        tiles: u32,
        unused: u32,
    }

    struct SumParams { parts: DevicePtr, dq: DevicePtr, rows: u64, tiles: u64 }
}

const THREADS: u32 = 128;
const SUM_THREADS: u32 = 256;
/// Rows and columns of a block.
const TILE: usize = 64;

const fn kernel(name: &'static str, types: &'static [DType]) -> Kernel<GateParams> {
    // SAFETY: as above, `GateParams`.
    unsafe { Kernel::new(&modules::LOCAL_FEATURE_UPDATER, name, THREADS, types) }
}

/// Forward and gradient.
const EXACT: [Kernel<GateParams>; 2] = [kernel("fwd", FLOATS), kernel("bwd", FLOATS)];
const TF32: [Kernel<GateParams>; 2] = [kernel("fwd_tf32", &[DType::F32]), kernel("bwd_tf32", &[DType::F32])];
// SAFETY: only this file fills `SumParams`, from the tensors and scratch memory of the launch and from their sizes.
const SUM_Q: Kernel<SumParams> = unsafe { Kernel::new(&modules::LOCAL_FEATURE_UPDATER, "sum_q", SUM_THREADS, FLOATS) };

/// The GEMMs with both weights are `2 · rows · d²` multiply-adds.
fn passes(args: &DeviceArgs, r: &DeviceView) -> &'static [Kernel<GateParams>; 2] {
    if args.rounds_to_tf32(r.dtype(), 2 * r.elems() * r.shape().last()) { &TF32 } else { &EXACT }
}

/// All that forward and gradient share.
fn gate_params(q: &DeviceView, r: &DeviceView, w_k: &DeviceView, w_v: &DeviceView) -> GateParams {
    let d = r.shape().last();
    let null = DevicePtr::NULL;
    GateParams {
        q: q.ptr,
        r: r.ptr,
        w_k: w_k.ptr,
        w_v: w_v.ptr,
        y: null,
        dy: null,
        dk: null,
        dv: null,
        parts: null,
        rows: r.shape().rows() as u64,
        d: u32::try_from(d).unwrap_or(u32::MAX),
        aligned: (d * r.dtype().bytes()).is_multiple_of(16).into(),
        tiles: blocks(d, TILE),
        unused: 0,
    }
}

/// One block for each tile of rows and columns.
fn tiles(params: &GateParams) -> u32 {
    blocks_for_each((params.rows as usize).div_ceil(TILE), params.tiles)
}

pub const SPEC: OpSpec = OpSpec {
    name: "local_feature_updater",
    order: Order::Once,
    kernels: &[EXACT[0].info(), EXACT[1].info(), TF32[0].info(), TF32[1].info(), SUM_Q.info()],
    cases: || {
        let case = |name, n: usize, g: usize, d: usize| {
            // As small as a layer's, or the sigmoid multiplies every rounding of the keys.
            let side = (d as f64).sqrt().recip();
            let square = || drawn([d, d], Draw::Uniform(-side, side));
            let inputs = [normal([n, g, g, d]), normal([n, d]), normal([g * g, d]), square(), square(), square()];
            Case::new(name, inputs, |x| Ok(vec![x[0].local_feature_updater(&x[1], &x[2], &x[3], &x[4], &x[5])?]))
        };
        vec![
            case("grid", 2, 4, 5),
            case("one_position", 3, 1, 18),
            case("past_a_tile", 5, 4, 66),
            case("aligned_rows", 5, 4, 72),
        ]
    },
    workloads: || {
        let (n, g, d) = (256, 8, 512);
        let square = || normal([d, d]);
        let inputs = [normal([n, g, g, d]), normal([n, d]), normal([g * g, d]), square(), square(), square()];
        let flops = 6.0 * (n * g * g * d * d) as f64;
        let run = |x: &[Tensor]| x[0].local_feature_updater(&x[1], &x[2], &x[3], &x[4], &x[5]);
        vec![Workload::gpu("local_feature_updater", inputs, flops, run)]
    },
    reference: Some(|a| {
        let [q, k, v, r] = ["w_q", "w_k", "w_v", "w_r"].map(|name| a.tensor(name));
        Ok(only("R", a.tensor("R")?.local_feature_updater(a.tensor("f")?, q?, k?, v?, r?)?))
    }),
};
