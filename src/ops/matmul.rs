//! `y = op(a) · op(b)` over a batch, where `op` is the identity or a transposition of the last two axes.
//!
//! On the CPU it is the `gemm` crate's (see [`cpu::gemm`](crate::cpu::gemm)), chosen by measurement. GFLOP/s in
//! f32 on two cores of a Sapphire Rapids Xeon, row-major, `b` transposed but in the first two rows; best of many runs:
//!
//! | m × n × k | `gemm` 0.19, x86-v4: 1 thread | 2 threads | `faer` 0.24: 1 | 2 | `matrixmultiply` 0.3: 2 |
//! |---|---|---|---|---|---|
//! | 1024 × 1024 × 1024 | 123 | 247 | 120 | 208 | 194 |
//! | 2048 × 2048 × 2048 | 121 | 245 | 116 | 204 | 191 |
//! | 1000 × 1152 × 384 (ViT q, k, v) | 125 | 250 | 88 | 240 | 211 |
//! | 1000 × 1536 × 384 (ViT fc1) | 123 | 247 | 119 | 230 | 207 |
//! | 6400 × 512 × 128 (MBConv) | 118 | 245 | 112 | 201 | 228 |
//! | 1024 × 64 × 576 (a block of a 3×3 convolution) | 123 | 244 | 118 | 207 | 181 |
//! | 1024 × 256 × 2304 (the same, 256 channels) | 128 | 237 | 123 | 214 | 205 |
//! | 4096 × 64 × 27 (a first layer) | 128 | 234 | 123 | 145 | 168 |
//! | 64 × 576 × 65536 (a weight gradient in one GEMM) | 81 | 103 | 86 | 139 | 65 |
//! | 64 × 64 × 64 | 96 | 95 | 111 | 61 | 79 |
//! | 8 × 512 × 512 (a style) | 21 | 20 | 47 | 77 | 28 |
//!
//! `matrixmultiply` has AVX2 kernels only (91 to 94 on one thread where AVX-512 gives 123). `faer` is 139 crates and does not
//! scale as well. `gemm` is weak where one operand is very long or has a handful of rows: weight gradients are therefore
//! cut into blocks of pixels.

use rayon::prelude::*;

use crate::{
    cpu::gemm::{Matrix, MatrixMut, PARALLEL_MACS, Threads, gemm},
    device::{
        kernel::{FLOATS, Kernel, KernelInfo, concat},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::{
        Family, GemmParams, LARGE_THREADS, Problem, SM90_KERNELS, epilogue::EpilogueParams, family,
        heuristics::mma_sync::SKINNY_ROWS, splitk::splitk_reduce,
    },
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{Workload, only},
        same_float,
    },
    shape::{MAX_RANK, Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Matrix product over the last two axes: `[.., m, k] · [.., k, n] -> [.., m, n]`, where `transpose_a` says that `a`
    /// is stored `[.., k, m]` and `transpose_b` that `b` is stored `[.., n, k]`. Leading extents are equal, or one operand
    /// is a single matrix used throughout.
    pub fn matmul(&self, b: &Tensor, transpose_a: bool, transpose_b: bool) -> Result<Tensor> {
        let (a_rank, b_rank) = (self.shape().rank(), b.shape().rank());
        if a_rank > 2 && b_rank == 2 && !transpose_a {
            // One matrix on the right: the batch is more rows.
            let y = apply1(MatMul { transpose_a, transpose_b }, &[&self.as_rows()?, b])?;
            return y.reshape(self.shape().with(a_rank - 1, y.shape().last()));
        }
        apply1(MatMul { transpose_a, transpose_b }, &[self, b])
    }
}

struct MatMul {
    transpose_a: bool,
    transpose_b: bool,
}

pub(crate) const NN: Family<GemmParams> = family!(&modules::GEMM, "nn", K, Mn);
const NT: Family<GemmParams> = family!(&modules::GEMM, "nt", K, K);
const TN: Family<GemmParams> = family!(&modules::GEMM, "tn", Mn, Mn);
const TT: Family<GemmParams> = family!(&modules::GEMM, "tt", Mn, K);
// SAFETY: only `Problem` fills `GemmParams`, from the tensors of the launch and their extents.
const SKINNY: Kernel<GemmParams> = unsafe { Kernel::new(&modules::GEMM, "skinny", LARGE_THREADS, FLOATS) };

const KERNELS: &[KernelInfo] = &concat::<26>(&[
    &NN.infos(),
    &NT.infos(),
    &TN.infos(),
    &TT.infos(),
    &[SKINNY.info(), splitk_reduce(&modules::GEMM).info()],
    &SM90_KERNELS,
]);

/// Leading extents, rows and columns of a matrix stored plainly or transposed.
fn split(shape: &Shape, transpose: bool) -> Option<(&[usize], usize, usize)> {
    match **shape {
        [ref lead @ .., rows, cols] if transpose => Some((lead, cols, rows)),
        [ref lead @ .., rows, cols] => Some((lead, rows, cols)),
        _ => None,
    }
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float("matmul", x)?;
        let wrong = || Error::shape("matmul", format!("{} does not multiply {}", x[0].shape, x[1].shape));
        let (a_lead, m, k) = split(&x[0].shape, self.transpose_a).ok_or_else(wrong)?;
        let (b_lead, b_k, n) = split(&x[1].shape, self.transpose_b).ok_or_else(wrong)?;
        if k != b_k || !(a_lead == b_lead || a_lead.is_empty() || b_lead.is_empty()) {
            return Err(wrong());
        }
        let lead = if a_lead.is_empty() { b_lead } else { a_lead };
        let mut dims = [0; MAX_RANK];
        dims[..lead.len()].copy_from_slice(lead);
        dims[lead.len()..lead.len() + 2].copy_from_slice(&[m, n]);
        let shape = Shape::try_new(&dims[..lead.len() + 2]).ok_or_else(wrong)?;
        Ok(vec![Spec { shape, dtype }])
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        let shape = x[0].shape;
        let k = shape[shape.rank() - if self.transpose_a { 2 } else { 1 }];
        (y[0].shape.elems() * k) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (a_shape, b_shape, y_shape) = (args.x_shape(0), args.x_shape(1), args.y_shape(0));
        let (m, n) = (y_shape[y_shape.rank() - 2], y_shape.last());
        let k = a_shape[a_shape.rank() - if self.transpose_a { 2 } else { 1 }];
        float_dispatch!(args, T => {
            let (a, b) = (args.x::<T>(0), args.x::<T>(1));
            let (a_each, b_each) = (stride(&a_shape, m * k), stride(&b_shape, k * n));
            let one = |i: usize, y: &mut [T], threads| {
                let a = Matrix::stored(&a[i * a_each..], m, k, self.transpose_a);
                let b = Matrix::stored(&b[i * b_each..], k, n, self.transpose_b);
                gemm([m, n, k], a, b, MatrixMut { data: y, row: n }, false, threads);
            };
            let y = args.y::<T>(0);
            if m * n == 0 {
                return Ok(());
            }
            let batch = y.len() / (m * n);
            if batch == 1 || (batch < 2 * rayon::current_num_threads() && m * n * k >= PARALLEL_MACS) {
                y.chunks_mut(m * n).enumerate().for_each(|(i, y)| one(i, y, Threads::All));
            } else {
                let grain = (PARALLEL_MACS / (m * n * k).max(1)).max(1);
                let each = |(i, y): (usize, &mut [T])| one(i, y, Threads::One);
                y.par_chunks_mut(m * n).enumerate().with_min_len(grain).for_each(each);
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (a_shape, b_shape, y_shape) = (args.x[0].shape(), args.x[1].shape(), args.y[0].shape());
        let (m, n) = (y_shape[y_shape.rank() - 2], y_shape.last());
        let k = a_shape[a_shape.rank() - if self.transpose_a { 2 } else { 1 }];
        if m * n == 0 {
            return Ok(());
        }
        let problem = Problem {
            op: "matmul",
            extents: [m, n, k],
            batch: y_shape.elems() / (m * n),
            batch_strides: [stride(&a_shape, m * k), stride(&b_shape, k * n)],
            epilogue: EpilogueParams::NONE,
        };
        match (self.transpose_a, self.transpose_b) {
            (false, true) if m <= SKINNY_ROWS => problem.launch_skinny(args, &SKINNY),
            (false, false) => problem.launch(args, &NN),
            (false, true) => problem.launch(args, &NT),
            (true, false) => problem.launch(args, &TN),
            (true, true) => problem.launch(args, &TT),
        }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, (ta, tb)) = (v.upstream()?, (self.transpose_a, self.transpose_b));
        let da = v.when(0, || {
            let da = if ta { v.x(1).matmul(dy, tb, true)? } else { dy.matmul(v.x(1), false, !tb)? };
            da.sum_to(v.x_spec(0).shape)
        })?;
        let db = v.when(1, || {
            let db = if tb { dy.matmul(v.x(0), true, ta)? } else { v.x(0).matmul(dy, !ta, false)? };
            db.sum_to(v.x_spec(1).shape)
        })?;
        Ok(vec![da, db])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// Elements from one matrix of a batch to the next: none where there is only one.
fn stride(shape: &Shape, elems: usize) -> usize {
    if shape.rank() == 2 { 0 } else { elems }
}

pub const SPEC: OpSpec = OpSpec {
    name: "matmul",
    order: Order::Any,
    kernels: KERNELS,
    cases: || {
        let case = |name, a: &[usize], b: &[usize], ta, tb| {
            let inputs = [normal(Shape::from(a)), normal(Shape::from(b))];
            Case::new(name, inputs, move |x| Ok(vec![x[0].matmul(&x[1], ta, tb)?]))
        };
        vec![
            case("plain", &[17, 9], &[9, 33], false, false),
            case("a_transposed", &[2, 9, 5], &[2, 9, 7], true, false),
            case("b_transposed", &[2, 3, 5, 9], &[2, 3, 7, 9], false, true),
            case("both_transposed", &[3, 9, 5], &[3, 7, 9], true, true),
            case("one_b", &[3, 5, 9], &[9, 7], false, false),
            case("one_b_a_transposed", &[3, 9, 5], &[7, 9], true, true),
            case("one_a", &[5, 9], &[3, 9, 7], false, false),
            case("row_times_column", &[1, 70], &[70, 1], false, false),
            case("outer", &[19, 1], &[1, 18], false, false),
            case("past_a_tile", &[65, 129], &[129, 49], false, false),
            case("past_a_tile_transposed", &[131, 66], &[70, 131], true, true),
            case("aligned_rows", &[72, 40], &[40, 80], false, false),
            case("even_rows", &[34, 66], &[34, 10], true, false),
            case("long_sum", &[1100, 5], &[1100, 9], true, false),
            case("long_rows", &[2, 136, 72], &[2, 72, 136], false, false),
            case("long_rows_transposed", &[72, 136], &[200, 72], true, true),
            // K long enough to be split, and more than one small tile each way.
            case("long_plain", &[72, 1040], &[1040, 72], false, false),
            case("long_b_transposed", &[72, 1040], &[72, 1040], false, true),
            case("long_a_transposed", &[1040, 72], &[1040, 72], true, false),
            case("long_both_transposed", &[1040, 72], &[72, 1040], true, true),
            // Columns for the widest tile there is.
            case("wide_plain", &[72, 328], &[328, 232], false, false),
            case("wide_b_transposed", &[72, 328], &[232, 328], false, true),
            case("wide_a_transposed", &[328, 72], &[328, 232], true, false),
            case("wide_both_transposed", &[328, 72], &[232, 328], true, true),
            case("skinny", &[2, 3, 72], &[2, 11, 72], false, true),
        ]
    },
    workloads: || {
        let square = |n: usize| [normal([n, n]), normal([n, n])];
        let cubed = |n: usize| 2.0 * (n as f64).powi(3);
        let product = |x: &[Tensor]| x[0].matmul(&x[1], false, false);
        let gpu =
            [512, 1024, 2048, 4096, 8192].map(|n| Workload::gpu(format!("matmul_{n}"), square(n), cubed(n), product));
        let cpu = [1024, 2048].map(|n| Workload::cpu(format!("matmul_{n}"), square(n), product));
        let heads = || normal([6, 1000, 64]);
        let attention = Workload::cpu("matmul_attention", [heads(), heads()], |x| x[0].matmul(&x[1], false, true));
        gpu.into_iter().chain(cpu).chain([attention]).collect()
    },
    reference: Some(|a| {
        let (ta, tb) = (a.flag("transpose_a")?, a.flag("transpose_b")?);
        Ok(only("y", a.tensor("a")?.matmul(a.tensor("b")?, ta, tb)?))
    }),
};
