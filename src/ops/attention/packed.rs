//! Attention within sequences of different lengths that lie one after another in one matrix, queries, keys and values
//! beside each other in its rows, as one projection leaves them: nothing is permuted, sliced or padded.

use super::{Sizes, backward, checked, forward, launch, statistics};
use crate::{
    device::host::Real,
    dtype::DType,
    error::{Error, Result},
    float_dispatch,
    op::{Case, DeviceArgs, HostArgs, Op, apply_n, apply1, normal},
    ops::segment::runs,
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Multi-head attention within each sequence of rows: `[rows, 3 · width] -> [rows, width]`, a row holding its queries,
    /// keys and values, each `heads` times `width / heads`. `offsets`, i32 `[sequences + 1]`, holds the first row of each
    /// sequence, beginning with 0, and the number of rows at last.
    pub fn packed_attention(&self, offsets: &Tensor, heads: usize, scale: f64) -> Result<Tensor> {
        let [y, _] = apply_n(PackedAttention { heads, scale: checked(scale)? }, &[self, offsets])?;
        Ok(y)
    }
}

/// Inputs qkv, offsets; outputs y and the log-sum-exp of every row `[heads, rows]`.
struct PackedAttention {
    heads: usize,
    scale: f64,
}

/// Rows and width of a packed matrix.
fn extents(op: &'static str, qkv: Spec, offsets: Spec, heads: usize) -> Result<[usize; 2]> {
    let wrong = || {
        let (qkv, offsets) = (qkv.shape, offsets.shape);
        Error::shape(op, format!("rows {qkv} in sequences {offsets}, {heads} heads"))
    };
    let [rows, three] = qkv.shape.as_array().ok_or_else(wrong)?;
    let whole = heads > 0 && three > 0 && three % (3 * heads) == 0 && qkv.dtype.is_float();
    if !whole || offsets.dtype != DType::I32 || offsets.shape.rank() != 1 || offsets.shape.elems() < 2 {
        return Err(wrong());
    }
    Ok([rows, three / 3])
}

/// `part` of every head, row by row: `[length, parts · heads · d] -> [heads, length, d]`.
fn gather<T: Real>(packed: &[T], part: usize, heads: usize, d: usize, row: usize) -> Vec<T> {
    let rows = move |head: usize| packed.chunks_exact(row).flat_map(move |r| &r[(part * heads + head) * d..][..d]);
    (0..heads).flat_map(rows).copied().collect()
}

/// The reverse of [`gather`].
fn scatter<T: Real>(from: &[T], packed: &mut [T], part: usize, heads: usize, d: usize, row: usize) {
    let length = packed.len() / row;
    for (at, packed) in packed.chunks_exact_mut(row).enumerate() {
        for (head, to) in packed[part * heads * d..][..heads * d].chunks_exact_mut(d).enumerate() {
            to.copy_from_slice(&from[(head * length + at) * d..][..d]);
        }
    }
}

/// Multiply-adds of `count` products that each pair all queries with all keys. How long sequences are is not known here: as if
/// they were equally long, which is the least that it can be.
fn products(qkv: Spec, offsets: Spec, count: usize) -> u64 {
    let (rows, sequences) = (qkv.shape.rows(), offsets.shape.elems().saturating_sub(1).max(1));
    (count * rows * rows.div_ceil(sequences) * (qkv.shape.last() / 3)) as u64
}

impl Op for PackedAttention {
    fn name(&self) -> &'static str {
        "packed_attention"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let [rows, width] = extents(self.name(), x[0], x[1], self.heads)?;
        let dtype = x[0].dtype;
        Ok(vec![Spec::new([rows, width], dtype), Spec::new([self.heads, rows], statistics(dtype))])
    }

    fn macs(&self, x: &[Spec], _: &[Spec]) -> u64 {
        products(x[0], x[1], 2)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (rows, width, heads) = (args.x_shape(0).rows(), args.x_shape(0).last() / 3, self.heads);
        let d = width / heads;
        let sequences = runs(self.name(), args.x::<i32>(1), rows)?;
        float_dispatch!(args, T => {
            let qkv = args.x::<T>(0);
            let [y, lse] = args.ys::<T, 2>();
            for [begin, length] in sequences {
                if length == 0 {
                    continue;
                }
                let sizes = Sizes { queries: length, keys: length, d, e: d };
                let rows_of = &qkv[begin * 3 * width..][..length * 3 * width];
                let [q, k, v] = [0, 1, 2].map(|part| gather(rows_of, part, heads, d, 3 * width));
                let (mut out, mut sums) = (vec![T::c(0.0); length * width], vec![T::c(0.0); heads * length]);
                forward([&q, &k, &v], [&mut out, &mut sums], sizes, T::c(self.scale));
                scatter(&out, &mut y[begin * width..][..length * width], 0, heads, d, width);
                for (head, sums) in sums.chunks_exact(length).enumerate() {
                    lse[head * rows + begin..][..length].copy_from_slice(sums);
                }
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch::packed_forward(args, self.heads, self.scale)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let grad = PackedAttentionGrad { heads: self.heads, scale: self.scale };
        Ok(vec![Some(apply1(grad, &[v.upstream()?, v.x(0), v.x(1), v.y(0), v.y(1)])?), None])
    }

    fn keep(&self) -> Keep {
        Keep::ALL
    }
}

/// Inputs dy, qkv, offsets, y, log-sum-exp; output dqkv.
struct PackedAttentionGrad {
    heads: usize,
    scale: f64,
}

impl Op for PackedAttentionGrad {
    fn name(&self) -> &'static str {
        "packed_attention_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1]])
    }

    fn macs(&self, x: &[Spec], _: &[Spec]) -> u64 {
        products(x[1], x[2], 5)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (rows, width, heads) = (args.x_shape(1).rows(), args.x_shape(1).last() / 3, self.heads);
        let d = width / heads;
        let sequences = runs(self.name(), args.x::<i32>(2), rows)?;
        float_dispatch!(args, T => {
            let (dy, qkv) = (args.x::<T>(0), args.x::<T>(1));
            let dqkv = args.y::<T>(0);
            for [begin, length] in sequences {
                let sizes = Sizes { queries: length, keys: length, d, e: d };
                let rows_of = &qkv[begin * 3 * width..][..length * 3 * width];
                let [q, k, v] = [0, 1, 2].map(|part| gather(rows_of, part, heads, d, 3 * width));
                let dy = gather(&dy[begin * width..][..length * width], 0, heads, d, width);
                let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|_| vec![T::c(0.0); length * width]);
                backward([&dy, &q, &k, &v], [&mut dq, &mut dk, &mut dv], sizes, T::c(self.scale));
                let out = &mut dqkv[begin * 3 * width..][..length * 3 * width];
                for (part, gradient) in [dq, dk, dv].iter().enumerate() {
                    scatter(gradient, out, part, heads, d, 3 * width);
                }
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch::packed_backward(args, self.heads, self.scale)
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |name, heads: usize, d: usize, lengths: &'static [usize]| {
        let rows = lengths.iter().sum::<usize>();
        Case::new(name, [normal(Shape::from([rows, 3 * heads * d]))], move |x| {
            let mut offsets = vec![0i32];
            lengths.iter().for_each(|&length| offsets.push(offsets[offsets.len() - 1] + length as i32));
            let count = offsets.len();
            let offsets = Tensor::from_vec(offsets, [count], x[0].device())?;
            Ok(vec![x[0].packed_attention(&offsets, heads, (d as f64).powf(-0.5))?])
        })
    };
    vec![
        case("packed", 2, 8, &[7, 1, 66]),
        case("packed_odd", 3, 5, &[3, 9]),
        case("packed_one_sequence", 1, 32, &[65]),
        case("packed_empty_sequence", 2, 4, &[2, 0, 5]),
    ]
}
