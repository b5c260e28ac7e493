//! The global feature updater of the paper's attention fusion block (equations 6 to 8): the cube of local features guides
//! the update of its coarse patch's global vector.
//!
//! `Z = softmax(f W_zᵀ)` over the g·g positions (eq. 6), `P = R W_p` (eq. 7), `f' = Sum(Z ∘ P) W_f` (eq. 8). `Z` has one
//! number a position, so the sum goes first, `Sum(Z ∘ (R W_p)) = Sum(Z ∘ R) W_p`: the same numbers for g·g times fewer
//! multiplications. Softmax and sum are one op that reads the cube once.

use rayon::prelude::*;

use super::{local_feature_updater::cube, softmax::softmax_in_place};
use crate::{
    cpu::vector::sum2,
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks, blocks_for_each, column_blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, DeviceView, HostArgs, Op, OpSpec, Order, apply_n, apply1, normal,
        registry::{Workload, only},
        same_float,
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// The updated global vectors `[n, d]`; `self` is `R` `[n, g, g, d]`, `f` `[n, d]`, `w_z` `[g·g, d]`, `w_p` and `w_f`
    /// `[d, d]`, applied on the right.
    pub fn global_feature_updater(&self, f: &Tensor, w_z: &Tensor, w_p: &Tensor, w_f: &Tensor) -> Result<Tensor> {
        let [n, g, h, d] = cube(self)?;
        let gathered = apply1(Gather, &[&f.linear(w_z, None)?, &self.reshape([n, g * h, d])?])?;
        gathered.matmul(w_p, false, false)?.matmul(w_f, false, false)
    }

    /// The weight map `Z` of equation 6, `[n, g, g, 1]`: how much each position counts.
    pub fn global_weight_map(&self, f: &Tensor, w_z: &Tensor) -> Result<Tensor> {
        let [n, g, h, _] = cube(self)?;
        f.linear(w_z, None)?.softmax()?.reshape([n, g, h, 1])
    }
}

/// `y = Σ softmax(logits) ∘ r`: logits `[n, cells]`, r `[n, cells, d]`, y `[n, d]`.
struct Gather;

impl Op for Gather {
    fn name(&self) -> &'static str {
        "global_gather"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float("global_gather", x)?;
        let (logits, r) = (x[0].shape, x[1].shape);
        match r.as_array() {
            Some([n, cells, d]) if *logits == [n, cells] && cells > 0 && d > 0 => Ok(vec![Spec::new([n, d], dtype)]),
            _ => Err(Error::shape("global_gather", format!("logits {logits} for features {r}"))),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [cells, d] = extents(args.x_shape(1));
        float_dispatch!(args, T => {
            let (logits, r) = (args.x::<T>(0), args.x::<T>(1));
            let y = args.y::<T>(0);
            y.par_chunks_mut(d).enumerate().for_each(|(i, y)| {
                let z = weights(&logits[i * cells..][..cells]);
                let r = &r[i * cells * d..][..cells * d];
                y.fill(T::c(0.0));
                vectorised!({
                    for (&z, r) in z.iter().zip(r.chunks_exact(d)) {
                        for (y, &r) in y.iter_mut().zip(r) {
                            *y += z * r;
                        }
                    }
                });
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [logits, r, y] = [args.x[0], args.x[1], args.y[0]];
        let params = GatherParams { y: y.ptr, ..params(&logits, &r) };
        args.launch(&FORWARD, r.dtype(), blocks_for_each(r.shape()[0], params.tiles), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let [dlogits, dr] = apply_n(GatherGrad, &[v.upstream()?, v.x(0), v.x(1), v.y(0)])?;
        Ok(vec![Some(dlogits), Some(dr)])
    }

    fn keep(&self) -> Keep {
        Keep::ALL
    }
}

/// Cells and width of `[n, cells, d]`.
fn extents(r: Shape) -> [usize; 2] {
    [r[1], r[2]]
}

fn weights<T: Real>(logits: &[T]) -> Vec<T> {
    let mut z = logits.to_vec();
    vectorised!({
        softmax_in_place(&mut z);
    });
    z
}

/// `dr = z dy` and `dlogits = z ∘ (a − Σ z ∘ a)` with `a = r · dy`. Inputs dy, logits, r, and y, which kernels read
/// because `Σ z ∘ a = y · dy`; outputs dlogits, dr.
struct GatherGrad;

impl Op for GatherGrad {
    fn name(&self) -> &'static str {
        "global_gather_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1], x[2]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [cells, d] = extents(args.x_shape(2));
        float_dispatch!(args, T => {
            let (dy, logits, r) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            let [dlogits, dr] = args.ys::<T, 2>();
            let patches = dlogits.par_chunks_mut(cells).zip(dr.par_chunks_mut(cells * d));
            patches.enumerate().for_each(|(i, (dlogits, dr))| {
                let (dy, r) = (&dy[i * d..][..d], &r[i * cells * d..][..cells * d]);
                let z = weights(&logits[i * cells..][..cells]);
                vectorised!({
                    let rows = dlogits.iter_mut().zip(z.iter().zip(dr.chunks_exact_mut(d).zip(r.chunks_exact(d))));
                    for (a, (&z, (dr, r))) in rows {
                        *a = sum2(r, dy, |r, dy| r * dy);
                        for (dr, &dy) in dr.iter_mut().zip(dy) {
                            *dr = z * dy;
                        }
                    }
                    let mean = sum2(&z, dlogits, |z, a| z * a);
                    for (a, &z) in dlogits.iter_mut().zip(&z) {
                        *a = z * (*a - mean);
                    }
                });
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [dy, logits, r, y] = [0, 1, 2, 3].map(|i| args.x[i]);
        let [dlogits, dr] = [args.y[0].ptr, args.y[1].ptr];
        let params = GatherParams { y: y.ptr, dy: dy.ptr, dlogits, dr, ..params(&logits, &r) };
        args.launch(&BACKWARD, r.dtype(), blocks(r.shape()[0], 1), 0, &params)
    }

    /// With `z` the softmax and `a = r · dy`, the first output is the softmax's own gradient of `a`, which is symmetric and
    /// linear in `a`.
    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, logits, r) = (v.x(0), v.x(1), v.x(2));
        let [n, cells, d] = [r.shape()[0], r.shape()[1], r.shape()[2]];
        let (row, column) = ([n, 1, d], [n, cells, 1]);
        let z = logits.softmax()?;
        let dotted = |x: &Tensor, y: &Tensor| x.matmul(&y.reshape([n, d, 1])?, false, false)?.reshape([n, cells]);
        let through = |g: &Tensor| z.mul(&g.sub(&g.mul(&z)?.sum(&[1])?)?);
        let a = dotted(r, dy)?;
        let (mut ddy, mut dlogits, mut dr) = (dy.zeros_like()?, logits.zeros_like()?, r.zeros_like()?);
        let gather =
            |weights: &Tensor, x: &Tensor| weights.reshape([n, 1, cells])?.matmul(x, false, false)?.reshape([n, d]);
        if let Some(g) = v.dy(0) {
            let da = through(g)?;
            ddy = ddy.add(&gather(&da, r)?)?;
            dr = da.reshape(column)?.mul(&dy.reshape(row)?)?;
            let mean = a.mul(&z)?.sum(&[1])?;
            let dz = g.mul(&a.sub(&mean)?)?.sub(&a.mul(&g.mul(&z)?.sum(&[1])?)?)?;
            dlogits = dlogits.add(&through(&dz)?)?;
        }
        if let Some(g) = v.dy(1) {
            ddy = ddy.add(&gather(&z, g)?)?;
            dlogits = dlogits.add(&through(&dotted(g, dy)?)?)?;
        }
        Ok(vec![Some(ddy), Some(dlogits), Some(dr), None])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b0111, y: 0 }
    }
}

kernel_params! {
    struct GatherParams {
        logits: DevicePtr,
        r: DevicePtr,
        y: DevicePtr,
        dy: DevicePtr,
        dlogits: DevicePtr,
        dr: DevicePtr,
        d: u64,
        cells: u32,
        aligned: u32,
        tiles: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `GatherParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<GatherParams> = unsafe { Kernel::new(&modules::GLOBAL_FEATURE_UPDATER, "fwd", THREADS, FLOATS) };
// SAFETY: as above, `GatherParams`.
const BACKWARD: Kernel<GatherParams> = unsafe { Kernel::new(&modules::GLOBAL_FEATURE_UPDATER, "bwd", THREADS, FLOATS) };

fn params(logits: &DeviceView, r: &DeviceView) -> GatherParams {
    let [cells, d] = extents(r.shape());
    let aligned = (d * r.dtype().bytes()).is_multiple_of(16);
    let null = DevicePtr::NULL;
    GatherParams {
        logits: logits.ptr,
        r: r.ptr,
        y: null,
        dy: null,
        dlogits: null,
        dr: null,
        d: d as u64,
        cells: u32::try_from(cells).unwrap_or(u32::MAX),
        aligned: aligned.into(),
        tiles: column_blocks(d, aligned, r.dtype().bytes()),
        unused: 0,
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "global_feature_updater",
    order: Order::Any,
    kernels: &[FORWARD.info(), BACKWARD.info()],
    cases: || {
        let case = |name, n: usize, g: usize, d: usize| {
            let inputs = [normal([n, g, g, d]), normal([n, d]), normal([g * g, d]), normal([d, d]), normal([d, d])];
            Case::new(name, inputs, |x| Ok(vec![x[0].global_feature_updater(&x[1], &x[2], &x[3], &x[4])?]))
        };
        vec![case("grid", 2, 4, 5), case("one_position", 3, 1, 9), case("past_a_tile", 2, 3, 132)]
    },
    workloads: || {
        let (n, g, d) = (256, 8, 512);
        let inputs = [normal([n, g, g, d]), normal([n, d]), normal([g * g, d]), normal([d, d]), normal([d, d])];
        let flops = 2.0 * (n * g * g * d) as f64 + 4.0 * (n * d * d) as f64;
        let run = |x: &[Tensor]| x[0].global_feature_updater(&x[1], &x[2], &x[3], &x[4]);
        vec![Workload::gpu("global_feature_updater", inputs, flops, run)]
    },
    reference: Some(|a| {
        let [z, p, f] = ["w_z", "w_p", "w_f"].map(|name| a.tensor(name));
        Ok(only("f", a.tensor("R")?.global_feature_updater(a.tensor("f")?, z?, p?, f?)?))
    }),
};
