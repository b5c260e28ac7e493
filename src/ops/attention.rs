//! `y = softmax(scale · q kᵀ) v` for every head, without ever holding the scores of all queries.
//!
//! A task takes a block of queries of one head: scores by one GEMM, softmax row by row, values by a second; at most 64 Ki scores at a time. The backward op computes the scores again, then dq, dk and dv by four more
//! GEMMs; sums over queries run in order of blocks, so results are bit-identical at any number of threads. Queries and
//! keys may differ in number. The log of each row's sum of exponentials is a second output: with it the gradient's kernels
//! form a probability from its score alone. On a GPU heads are at most 128 wide.

mod launch;
mod packed;

use rayon::prelude::*;

use super::softmax::softmax_in_place;
use crate::{
    cpu::{
        gemm::{Matrix, MatrixMut, Threads, gemm},
        vector::sum2,
    },
    device::host::Real,
    dtype::DType,
    error::{Error, Result},
    float_dispatch,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply_n, normal,
        registry::{Workload, only},
        same_float,
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `[b, h, l, d]` queries on keys `[b, h, lk, d]` and values `[b, h, lk, e]`: `[b, h, l, e]`. `scale` is usually
    /// `1/√d` and never 0.
    pub fn attention(&self, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        let [y, _] = apply_n(Attention { scale: checked(scale)? }, &[self, k, v])?;
        Ok(y)
    }
}

fn checked(scale: f64) -> Result<f64> {
    match scale.is_finite() && scale != 0.0 {
        true => Ok(scale),
        false => Err(Error::shape("attention", format!("a finite scale other than 0 wanted, got {scale}"))),
    }
}

/// Inputs q, k, v; outputs y and the log-sum-exp of every row.
struct Attention {
    scale: f64,
}

/// The type of row statistics beside values of `dtype`.
fn statistics(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Queries, keys, width of queries and keys, width of values.
#[derive(Clone, Copy)]
struct Sizes {
    queries: usize,
    keys: usize,
    d: usize,
    e: usize,
}

impl Sizes {
    fn of(q: &Shape, k: &Shape, v: &Shape) -> Option<Sizes> {
        let ([b, h, queries, d], [kb, kh, keys, kd], [vb, vh, vk, e]) = (q.as_array()?, k.as_array()?, v.as_array()?);
        let same = [b, h, d, keys] == [kb, kh, kd, vk] && [b, h] == [vb, vh] && keys > 0 && d > 0;
        same.then_some(Sizes { queries, keys, d, e })
    }

    fn of_args(args: &HostArgs, first: usize) -> Result<Sizes> {
        let [q, k, v] = [0, 1, 2].map(|i| args.x_shape(first + i));
        Sizes::of(&q, &k, &v).ok_or_else(|| wrong(&q, &k, &v))
    }

    /// Queries of one task: their scores stay in L2.
    fn block(&self) -> usize {
        ((64 << 10) / self.keys).clamp(16, 128)
    }
}

fn wrong(q: &Shape, k: &Shape, v: &Shape) -> Error {
    Error::shape("attention", format!("queries {q}, keys {k} and values {v}"))
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float("attention", x)?;
        let [q, k, v] = [x[0].shape, x[1].shape, x[2].shape];
        let sizes = Sizes::of(&q, &k, &v).ok_or_else(|| wrong(&q, &k, &v))?;
        let lse = Shape::from([q[0], q[1], q[2]]);
        Ok(vec![Spec { shape: q.with(3, sizes.e), dtype }, Spec { shape: lse, dtype: statistics(dtype) }])
    }

    fn macs(&self, x: &[Spec], _: &[Spec]) -> u64 {
        let [q, k, v] = [x[0].shape, x[1].shape, x[2].shape];
        (q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let sizes = Sizes::of_args(args, 0)?;
        float_dispatch!(args, T => {
            let x = [args.x::<T>(0), args.x::<T>(1), args.x::<T>(2)];
            forward(x, args.ys(), sizes, T::c(self.scale));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch::forward(args, self.scale)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let grad = AttentionGrad { scale: self.scale };
        let [dq, dk, dv] = apply_n(grad, &[v.upstream()?, v.x(0), v.x(1), v.x(2), v.y(0), v.y(1)])?;
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }

    fn keep(&self) -> Keep {
        Keep::ALL
    }
}

/// Probabilities `[rows, keys]` of a block of queries that are scaled already, and the log-sum-exp of each row.
fn probabilities<T: Real>(q: &[T], k: &[T], sizes: Sizes, scores: &mut [T], lse: &mut [T]) {
    let Sizes { keys, d, .. } = sizes;
    let y = MatrixMut { data: &mut *scores, row: keys };
    gemm([q.len() / d, keys, d], Matrix::rows(q, d), Matrix::transposed(k, d), y, false, Threads::One);
    vectorised!({
        for (row, lse) in scores.chunks_exact_mut(keys).zip(lse.iter_mut()) {
            *lse = softmax_in_place(row);
        }
    });
}

/// Heads one after another: q `[heads, queries, d]`, k `[heads, keys, d]`, v `[heads, keys, e]`; y and the log-sum-exp.
fn forward<T: Real>([q, k, v]: [&[T]; 3], [y, lse]: [&mut [T]; 2], sizes: Sizes, scale: T) {
    let Sizes { queries, keys, d, e } = sizes;
    let block = sizes.block();
    if y.is_empty() {
        return;
    }
    let task = |head: usize, first: usize, y: &mut [T], lse: &mut [T]| {
        let rows = y.len() / e;
        let q: Vec<T> = q[(head * queries + first) * d..][..rows * d].iter().map(|&q| q * scale).collect();
        let mut scores = vec![T::zero(); rows * keys];
        probabilities(&q, &k[head * keys * d..][..keys * d], sizes, &mut scores, lse);
        let (p, v) = (Matrix::rows(&scores[..], keys), Matrix::rows(&v[head * keys * e..][..keys * e], e));
        gemm([rows, e, keys], p, v, MatrixMut { data: y, row: e }, false, Threads::One);
    };
    let heads = y.par_chunks_mut(queries * e).zip(lse.par_chunks_mut(queries));
    heads.enumerate().for_each(|(head, (y, lse))| {
        let blocks = y.par_chunks_mut(block * e).zip(lse.par_chunks_mut(block));
        blocks.enumerate().for_each(|(i, (y, lse))| task(head, i * block, y, lse));
    });
}

/// Inputs dy, q, k, v, y, log-sum-exp; outputs dq, dk, dv.
struct AttentionGrad {
    scale: f64,
}

impl Op for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(x[1..4].to_vec())
    }

    fn macs(&self, x: &[Spec], _: &[Spec]) -> u64 {
        let [q, k, v] = [x[1].shape, x[2].shape, x[3].shape];
        (q[0] * q[1] * q[2] * k[2] * (3 * q[3] + 2 * v[3])) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let sizes = Sizes::of_args(args, 1)?;
        float_dispatch!(args, T => {
            let x = [args.x::<T>(0), args.x::<T>(1), args.x::<T>(2), args.x::<T>(3)];
            backward(x, args.ys(), sizes, T::c(self.scale));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch::backward(args, self.scale)
    }
}

/// Queries whose contributions to dk and dv are added up by one task.
const SEGMENT: usize = 512;

/// Heads one after another, as in [`forward`]. The log-sum-exp that the kernels read is computed anew here.
fn backward<T: Real>([dy, q, k, v]: [&[T]; 4], [dq, dk, dv]: [&mut [T]; 3], sizes: Sizes, scale: T) {
    let Sizes { queries, keys, d, e } = sizes;
    dk.fill(T::zero());
    dv.fill(T::zero());
    if dq.is_empty() {
        return;
    }
    let segments: Vec<(usize, usize, &mut [T])> = (dq.chunks_mut(queries * d).enumerate())
        .flat_map(|(head, dq)| dq.chunks_mut(SEGMENT * d).enumerate().map(move |(i, dq)| (head, i * SEGMENT, dq)))
        .collect();
    let partial = |(head, first, dq): (usize, usize, &mut [T])| {
        let (k, v) = (&k[head * keys * d..][..keys * d], &v[head * keys * e..][..keys * e]);
        let (mut dk, mut dv) = (vec![T::zero(); keys * d], vec![T::zero(); keys * e]);
        let block = sizes.block();
        let (mut p, mut ds) = (vec![T::zero(); block * keys], vec![T::zero(); block * keys]);
        let mut lse = vec![T::zero(); block];
        for (i, dq) in dq.chunks_mut(block * d).enumerate() {
            let (rows, at) = (dq.len() / d, head * queries + first + i * block);
            let (p, ds) = (&mut p[..rows * keys], &mut ds[..rows * keys]);
            let dy = &dy[at * e..][..rows * e];
            let q: Vec<T> = q[at * d..][..rows * d].iter().map(|&q| q * scale).collect();
            probabilities(&q, k, sizes, p, &mut lse[..rows]);
            let dv = MatrixMut { data: &mut dv, row: e };
            gemm([keys, e, rows], Matrix::transposed(&*p, keys), Matrix::rows(dy, e), dv, true, Threads::One);
            let out = MatrixMut { data: &mut *ds, row: keys };
            gemm([rows, keys, e], Matrix::rows(dy, e), Matrix::transposed(v, e), out, false, Threads::One);
            vectorised!({
                for (p, ds) in p.chunks_exact(keys).zip(ds.chunks_exact_mut(keys)) {
                    let dot = sum2(p, ds, |p, ds| p * ds);
                    for (ds, &p) in ds.iter_mut().zip(p.iter()) {
                        *ds = p * (*ds - dot);
                    }
                }
            });
            // The scaled queries carry the factor of dk; dq takes its own.
            let dk = MatrixMut { data: &mut dk, row: d };
            gemm([keys, d, rows], Matrix::transposed(&*ds, keys), Matrix::rows(&q, d), dk, true, Threads::One);
            let out = MatrixMut { data: &mut *dq, row: d };
            gemm([rows, d, keys], Matrix::rows(&*ds, keys), Matrix::rows(k, d), out, false, Threads::One);
            dq.iter_mut().for_each(|dq| *dq *= scale);
        }
        (head, dk, dv)
    };
    let partials: Vec<(usize, Vec<T>, Vec<T>)> = segments.into_par_iter().map(partial).collect();
    for (head, dk_part, dv_part) in partials {
        let add = |to: &mut [T], from: &[T]| to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
        add(&mut dk[head * keys * d..][..keys * d], &dk_part);
        add(&mut dv[head * keys * e..][..keys * e], &dv_part);
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "attention",
    order: Order::Once,
    kernels: launch::KERNELS,
    cases: || {
        let case = |name, [b, h, queries, keys, d]: [usize; 5]| {
            let inputs = [normal([b, h, queries, d]), normal([b, h, keys, d]), normal([b, h, keys, d])];
            Case::new(name, inputs, move |x| Ok(vec![x[0].attention(&x[1], &x[2], (d as f64).powf(-0.5))?]))
        };
        let mut cases = packed::cases();
        cases.extend([
            case("self", [2, 3, 17, 17, 8]),
            case("cross", [1, 2, 5, 33, 4]),
            case("one_query", [1, 1, 1, 70, 8]),
            case("one_key", [1, 2, 9, 1, 3]),
            case("several_blocks", [1, 1, 300, 20, 2]),
            case("several_segments", [1, 2, 530, 3, 2]),
            case("past_a_tile", [1, 1, 65, 66, 33]),
            case("aligned_rows", [1, 2, 64, 40, 32]),
            // Every head width with more keys and queries than two tiles, in whole rows.
            case("long", [1, 1, 136, 200, 32]),
            case("long_64", [1, 1, 136, 200, 64]),
            case("long_128", [1, 1, 136, 200, 128]),
            case("wide_heads", [1, 1, 18, 17, 72]),
            Case::new("wider_values", [normal([1, 2, 7, 3]), normal([1, 2, 19, 3]), normal([1, 2, 19, 40])], |x| {
                Ok(vec![x[0].attention(&x[1], &x[2], -0.6)?])
            }),
        ]);
        cases
    },
    workloads: || {
        let one = |[batch, length]: [usize; 2]| {
            let heads = || normal([batch, 6, length, 64]);
            let flops = 4.0 * (batch * 6 * length * length * 64) as f64;
            let run = |x: &[Tensor]| x[0].attention(&x[1], &x[2], 0.125);
            Workload::gpu(format!("attention_b{batch}_l{length}"), [heads(), heads(), heads()], flops, run)
        };
        vec![one([16, 256]), one([4, 1024]), one([1, 4096])]
    },
    reference: Some(|a| Ok(only("y", a.tensor("q")?.attention(a.tensor("k")?, a.tensor("v")?, a.float("scale")?)?))),
};
