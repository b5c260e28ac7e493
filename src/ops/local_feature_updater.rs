//! The local feature updater of the paper's attention fusion block (equations 3 to 5): the global vector of a coarse patch
//! guides the update of its cube of local features.
//!
//! With cube `R` (`[n, g, g, d]`, `g = p/q`) and global vectors `f` (`[n, d]`): `Q = Reshape(f W_qᵀ)`, `K = R W_k`,
//! `V = R W_v` (eq. 3), `A = sigmoid(Q ∘ K)` (eq. 4), `R' = (A ∘ V) W_r` (eq. 5). The gate `A ∘ V` is one fused op, and so
//! is its gradient; the products are the library's.

use rayon::prelude::*;

use super::matmul::same_float;
use crate::{
    device::{
        host::Real,
        math::sigmoid,
        vector::{par_rows, rows_a_task, sum2, vectorised},
    },
    error::{Error, Result},
    float_dispatch,
    op::{Case, HostArgs, Op, OpSpec, Order, apply_n, apply1, normal},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
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
        let [q, k] = scores(self, f, w_q, w_k)?;
        let v = self.matmul(w_v, false, false)?;
        apply1(Gate, &[&q, &k, &v])?.matmul(w_r, false, false)
    }

    /// The score map `A` of equation 4, `[n, g, g, d]`: how much of each local feature the global vector lets through.
    pub fn local_score_map(&self, f: &Tensor, w_q: &Tensor, w_k: &Tensor) -> Result<Tensor> {
        let [q, k] = scores(self, f, w_q, w_k)?;
        let [n, g, h, _] = cube(self)?;
        q.reshape([n, g, h, 1])?.mul(&k)?.sigmoid()
    }
}

/// `[n, g, g, d]` of a cube.
pub(super) fn cube(r: &Tensor) -> Result<[usize; 4]> {
    let wrong = || Error::shape("feature_updater", format!("cubes [n, g, g, d] wanted, got {}", r.shape()));
    r.shape().nhwc().ok_or_else(wrong)
}

/// `Q`, a number a position, and `K`.
fn scores(r: &Tensor, f: &Tensor, w_q: &Tensor, w_k: &Tensor) -> Result<[Tensor; 2]> {
    Ok([f.linear(w_q, None)?, r.matmul(w_k, false, false)?])
}

/// `y = sigmoid(q · k) ∘ v`; q has one number a row of k and v.
struct Gate;

impl Op for Gate {
    fn name(&self) -> &'static str {
        "local_gate"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        same_float("local_gate", x)?;
        let (q, k, v) = (x[0].shape, x[1].shape, x[2].shape);
        if k != v || q.elems() != k.rows() || k.rank() == 0 || k.last() == 0 {
            return Err(Error::shape("local_gate", format!("queries {q}, keys {k}, values {v}")));
        }
        Ok(vec![x[2]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(1).last();
        float_dispatch!(args, T => {
            let (q, k, v) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            par_rows(args.y::<T>(0), cols, |task, y| vectorised(#[inline(always)] || {
                for (row, y) in y.chunks_exact_mut(cols).enumerate() {
                    let row = task * rows_a_task(cols) + row;
                    let (q, k, v) = (q[row], &k[row * cols..][..cols], &v[row * cols..][..cols]);
                    for (y, (&k, &v)) in y.iter_mut().zip(k.iter().zip(v)) {
                        *y = sigmoid(q * k) * v;
                    }
                }
            }));
        });
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let [dq, dk, dv] = apply_n(GateGrad, &[v.upstream()?, v.x(0), v.x(1), v.x(2)])?;
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// Inputs dy, q, k, v; outputs dq, dk, dv.
struct GateGrad;

impl Op for GateGrad {
    fn name(&self) -> &'static str {
        "local_gate_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(x[1..].to_vec())
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(2).last();
        float_dispatch!(args, T => gate_gradients::<T>(args, cols));
        Ok(())
    }
}

fn gate_gradients<T: Real>(args: &mut HostArgs, cols: usize) {
    let (dy, q, k, v) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2), args.x::<T>(3));
    let [dq, dk, dv] = args.ys::<T, 3>();
    let block = rows_a_task(cols);
    let outputs = dq.par_chunks_mut(block).zip(dk.par_chunks_mut(block * cols).zip(dv.par_chunks_mut(block * cols)));
    outputs.enumerate().for_each(|(task, (dq, (dk, dv)))| {
        vectorised(
            #[inline(always)]
            || {
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
            },
        );
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "local_feature_updater",
    order: Order::Once,
    kernels: &[],
    cases: || {
        let case = |name, n: usize, g: usize, d: usize| {
            let square = || normal([d, d]);
            let inputs = [normal([n, g, g, d]), normal([n, d]), normal([g * g, d]), square(), square(), square()];
            Case::new(name, inputs, |x| Ok(vec![x[0].local_feature_updater(&x[1], &x[2], &x[3], &x[4], &x[5])?]))
        };
        vec![case("grid", 2, 4, 5), case("one_position", 3, 1, 18)]
    },
};
