//! `y = softmax(scale · q kᵀ) v` for every head, without ever holding the scores of all queries.
//!
//! A task takes a block of queries of one head: scores by one matrix product, softmax row by row, values by a second
//! product; at most 64 Ki scores at a time. The backward op computes the scores again, then dq, dk and dv by four more
//! products; sums over queries run in order of blocks, so the bits do not depend on the number of threads. Queries and
//! keys may differ in number.

use rayon::prelude::*;

use super::{matmul::same_float, softmax::softmax_in_place};
use crate::{
    device::{
        host::Real,
        product::{Matrix, MatrixMut, Threads, product},
        vector::{sum2, vectorised},
    },
    error::{Error, Result},
    float_dispatch,
    op::{Case, HostArgs, Op, OpSpec, Order, apply_n, apply1, normal},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[b, h, l, d]` queries on keys `[b, h, lk, d]` and values `[b, h, lk, e]`: `[b, h, l, e]`. `scale` is usually
    /// `1/√d`.
    pub fn attention(&self, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        apply1(Attention { scale }, &[self, k, v])
    }
}

struct Attention {
    scale: f64,
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
        Ok(vec![Spec { shape: q.with(3, sizes.e), dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let sizes = Sizes::of_args(args, 0)?;
        float_dispatch!(args, T => forward::<T>(args, sizes, T::c(self.scale)));
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let grad = AttentionGrad { scale: self.scale };
        let [dq, dk, dv] = apply_n(grad, &[v.upstream()?, v.x(0), v.x(1), v.x(2)])?;
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// Probabilities `[rows, keys]` of a block of queries that are scaled already.
fn probabilities<T: Real>(q: &[T], k: &[T], sizes: Sizes, scores: &mut [T]) {
    let Sizes { keys, d, .. } = sizes;
    let y = MatrixMut { data: &mut *scores, row: keys };
    product([q.len() / d, keys, d], Matrix::rows(q, d), Matrix::transposed(k, d), y, false, Threads::One);
    vectorised(
        #[inline(always)]
        || {
            for row in scores.chunks_exact_mut(keys) {
                softmax_in_place(row);
            }
        },
    );
}

fn forward<T: Real>(args: &mut HostArgs, sizes: Sizes, scale: T) {
    let (q, k, v) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
    let Sizes { queries, keys, d, e } = sizes;
    let (block, y) = (sizes.block(), args.y::<T>(0));
    if y.is_empty() {
        return;
    }
    let task = |head: usize, first: usize, y: &mut [T]| {
        let rows = y.len() / e;
        let q: Vec<T> = q[(head * queries + first) * d..][..rows * d].iter().map(|&q| q * scale).collect();
        let mut scores = vec![T::zero(); rows * keys];
        probabilities(&q, &k[head * keys * d..][..keys * d], sizes, &mut scores);
        let (p, v) = (Matrix::rows(&scores[..], keys), Matrix::rows(&v[head * keys * e..][..keys * e], e));
        product([rows, e, keys], p, v, MatrixMut { data: y, row: e }, false, Threads::One);
    };
    y.par_chunks_mut(queries * e).enumerate().for_each(|(head, y)| {
        y.par_chunks_mut(block * e).enumerate().for_each(|(i, y)| task(head, i * block, y));
    });
}

/// Inputs dy, q, k, v; outputs dq, dk, dv.
struct AttentionGrad {
    scale: f64,
}

impl Op for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(x[1..].to_vec())
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let sizes = Sizes::of_args(args, 1)?;
        float_dispatch!(args, T => backward::<T>(args, sizes, T::c(self.scale)));
        Ok(())
    }
}

/// Queries whose contributions to dk and dv are added up by one task.
const SEGMENT: usize = 512;

fn backward<T: Real>(args: &mut HostArgs, sizes: Sizes, scale: T) {
    let (dy, q, k, v) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2), args.x::<T>(3));
    let Sizes { queries, keys, d, e } = sizes;
    let [dq, dk, dv] = args.ys::<T, 3>();
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
        for (i, dq) in dq.chunks_mut(block * d).enumerate() {
            let (rows, at) = (dq.len() / d, head * queries + first + i * block);
            let (p, ds) = (&mut p[..rows * keys], &mut ds[..rows * keys]);
            let dy = &dy[at * e..][..rows * e];
            let q: Vec<T> = q[at * d..][..rows * d].iter().map(|&q| q * scale).collect();
            probabilities(&q, k, sizes, p);
            let dv = MatrixMut { data: &mut dv, row: e };
            product([keys, e, rows], Matrix::transposed(&*p, keys), Matrix::rows(dy, e), dv, true, Threads::One);
            let out = MatrixMut { data: &mut *ds, row: keys };
            product([rows, keys, e], Matrix::rows(dy, e), Matrix::transposed(v, e), out, false, Threads::One);
            vectorised(
                #[inline(always)]
                || {
                    for (p, ds) in p.chunks_exact(keys).zip(ds.chunks_exact_mut(keys)) {
                        let dot = sum2(p, ds, |p, ds| p * ds);
                        for (ds, &p) in ds.iter_mut().zip(p.iter()) {
                            *ds = p * (*ds - dot);
                        }
                    }
                },
            );
            // The scaled queries carry the factor of dk; dq takes its own.
            let dk = MatrixMut { data: &mut dk, row: d };
            product([keys, d, rows], Matrix::transposed(&*ds, keys), Matrix::rows(&q, d), dk, true, Threads::One);
            let out = MatrixMut { data: &mut *dq, row: d };
            product([rows, d, keys], Matrix::rows(&*ds, keys), Matrix::rows(k, d), out, false, Threads::One);
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
    kernels: &[],
    cases: || {
        let case = |name, [b, h, queries, keys, d]: [usize; 5]| {
            let inputs = [normal([b, h, queries, d]), normal([b, h, keys, d]), normal([b, h, keys, d])];
            Case::new(name, inputs, move |x| Ok(vec![x[0].attention(&x[1], &x[2], (d as f64).powf(-0.5))?]))
        };
        vec![
            case("self", [2, 3, 17, 17, 8]),
            case("cross", [1, 2, 5, 33, 4]),
            case("one_query", [1, 1, 1, 70, 8]),
            case("one_key", [1, 2, 9, 1, 3]),
            case("several_blocks", [1, 1, 300, 20, 2]),
            case("several_segments", [1, 2, 530, 3, 2]),
        ]
    },
};
