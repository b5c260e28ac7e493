//! Launches of `kernels/attention.cu`: how the layouts are told to the kernels and which entry runs.

use super::Sizes;
use crate::{
    device::{
        driver::DevicePtr,
        kernel::{FLOATS, Kernel, KernelInfo},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    op::{DeviceArgs, DeviceView},
};

kernel_params! {
    struct AttentionParams {
        q: DevicePtr,
        k: DevicePtr,
        v: DevicePtr,
        y: DevicePtr,
        lse: DevicePtr,
        offsets: DevicePtr,
        dy: DevicePtr,
        dq: DevicePtr,
        dk: DevicePtr,
        dv: DevicePtr,
        delta: DevicePtr,
        q_stride: [u64; 3],
        k_stride: [u64; 3],
        v_stride: [u64; 3],
        y_stride: [u64; 3],
        lse_stride: [u64; 2],
        queries: u32,
        keys: u32,
        sequences: u32,
        d: u32,
        e: u32,
        aligned: u32,
        scale: f32,
        unused: u32,
    }
}

const THREADS: u32 = 128;
/// Rows of a block.
const ROWS: usize = 64;
/// Widths of heads that there are entries for; a narrower head is padded.
const WIDTHS: [usize; 3] = [32, 64, 128];

const fn kernel(name: &'static str) -> Kernel<AttentionParams> {
    // SAFETY: only this file fills `AttentionParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::ATTENTION, name, THREADS, FLOATS) }
}

/// f32 operands by TF32 instead of 3xTF32.
const fn tf32(name: &'static str) -> Kernel<AttentionParams> {
    // SAFETY: as above, `AttentionParams`.
    unsafe { Kernel::new(&modules::ATTENTION, name, THREADS, &[DType::F32]) }
}

/// By pass, then by width.
const EXACT: [[Kernel<AttentionParams>; 3]; 3] = [
    [kernel("fwd_d32"), kernel("fwd_d64"), kernel("fwd_d128")],
    [kernel("bwd_q_d32"), kernel("bwd_q_d64"), kernel("bwd_q_d128")],
    [kernel("bwd_kv_d32"), kernel("bwd_kv_d64"), kernel("bwd_kv_d128")],
];
const TF32: [[Kernel<AttentionParams>; 3]; 3] = [
    [tf32("fwd_d32_tf32"), tf32("fwd_d64_tf32"), tf32("fwd_d128_tf32")],
    [tf32("bwd_q_d32_tf32"), tf32("bwd_q_d64_tf32"), tf32("bwd_q_d128_tf32")],
    [tf32("bwd_kv_d32_tf32"), tf32("bwd_kv_d64_tf32"), tf32("bwd_kv_d128_tf32")],
];

pub(super) const KERNELS: &[KernelInfo] = &[
    EXACT[0][0].info(),
    EXACT[0][1].info(),
    EXACT[0][2].info(),
    EXACT[1][0].info(),
    EXACT[1][1].info(),
    EXACT[1][2].info(),
    EXACT[2][0].info(),
    EXACT[2][1].info(),
    EXACT[2][2].info(),
    TF32[0][0].info(),
    TF32[0][1].info(),
    TF32[0][2].info(),
    TF32[1][0].info(),
    TF32[1][1].info(),
    TF32[1][2].info(),
    TF32[2][0].info(),
    TF32[2][1].info(),
    TF32[2][2].info(),
];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Pass {
    Forward = 0,
    BackwardQueries = 1,
    BackwardKeys = 2,
}

/// Index into [`WIDTHS`] of the narrowest entry that holds a head.
fn width_index(d: usize, e: usize) -> Result<usize> {
    WIDTHS.iter().position(|&width| d.max(e) <= width).ok_or_else(|| {
        let most = WIDTHS[WIDTHS.len() - 1];
        Error::shape("attention", format!("heads of {d} and {e} features; the GPU's kernels take at most {most}"))
    })
}

/// Dynamic shared memory of a block: the resident operand, and two stages of the two that are streamed. As in the `.cu` file.
fn shared_bytes(pass: Pass, width: usize, dtype: DType) -> usize {
    let narrow = dtype.bytes() == 2;
    let (staying, passing) = match (pass, narrow) {
        (Pass::Forward, true) => (ROWS, 64),
        (Pass::Forward, false) => (ROWS, 32),
        (_, false) if width > 64 => (2 * ROWS, 16),
        _ => (2 * ROWS, 32),
    };
    (staying + 4 * passing) * (width * dtype.bytes() + 16)
}

/// Tensors of one call: where their rows, heads and sequences lie.
struct Layout {
    sizes: Sizes,
    heads: usize,
    sequences: usize,
    /// First rows of the sequences, where they differ in length.
    offsets: DevicePtr,
    q_stride: [u64; 3],
    k_stride: [u64; 3],
    v_stride: [u64; 3],
    y_stride: [u64; 3],
    lse_stride: [u64; 2],
}

impl Layout {
    /// `[b, h, rows, columns]` each.
    fn of(q: &DeviceView, k: &DeviceView, v: &DeviceView) -> Result<Layout> {
        let (q, k, v) = (q.shape(), k.shape(), v.shape());
        let sizes = Sizes::of(&q, &k, &v).ok_or_else(|| super::wrong(&q, &k, &v))?;
        let (sequences, heads) = (q[0], q[1]);
        let plain = |rows: usize, cols: usize| [cols as u64, (rows * cols) as u64, (heads * rows * cols) as u64];
        let Sizes { queries, keys, d, e } = sizes;
        Ok(Layout {
            sizes,
            heads,
            sequences,
            offsets: DevicePtr::NULL,
            q_stride: plain(queries, d),
            k_stride: plain(keys, d),
            v_stride: plain(keys, e),
            y_stride: plain(queries, e),
            lse_stride: [queries as u64, (heads * queries) as u64],
        })
    }

    /// Queries, keys and values beside each other in rows of `3 · heads · d`.
    fn packed(qkv: &DeviceView, offsets: &DeviceView, heads: usize) -> Layout {
        let (rows, width) = (qkv.shape().rows(), qkv.shape().last() / 3);
        let d = width / heads;
        let third = [3 * width as u64, d as u64, 0];
        Layout {
            sizes: Sizes { queries: rows, keys: rows, d, e: d },
            heads,
            sequences: offsets.elems() - 1,
            offsets: offsets.ptr,
            q_stride: third,
            k_stride: third,
            v_stride: third,
            y_stride: [width as u64, d as u64, 0],
            lse_stride: [rows as u64, 0],
        }
    }

    /// Parameters without pointers.
    fn params(&self, pointers: &[DevicePtr], scale: f64, dtype: DType) -> Result<AttentionParams> {
        let small = |what: &str, n: usize| {
            let message = || Error::shape("attention", format!("{n} {what} are more than a GPU's kernel counts"));
            u32::try_from(n).ok().filter(|&n| n <= i32::MAX as u32 / 2).ok_or_else(message)
        };
        let Sizes { queries, keys, d, e } = self.sizes;
        let vector = dtype.vector_elems() as u64;
        let strides = [self.q_stride, self.k_stride, self.v_stride, self.y_stride];
        let aligned = strides.iter().flatten().all(|stride| stride % vector == 0)
            && [d, e].iter().all(|&width| (width as u64).is_multiple_of(vector))
            && pointers.iter().all(|pointer| pointer.0 % 16 == 0);
        small("heads", self.heads)?;
        let null = DevicePtr::NULL;
        Ok(AttentionParams {
            q: null,
            k: null,
            v: null,
            y: null,
            lse: null,
            offsets: self.offsets,
            dy: null,
            dq: null,
            dk: null,
            dv: null,
            delta: null,
            q_stride: self.q_stride,
            k_stride: self.k_stride,
            v_stride: self.v_stride,
            y_stride: self.y_stride,
            lse_stride: self.lse_stride,
            queries: small("queries", queries)?,
            keys: small("keys", keys)?,
            sequences: small("sequences", self.sequences)?,
            d: small("features", d)?,
            e: small("features", e)?,
            aligned: aligned.into(),
            scale: scale as f32,
            unused: 0,
        })
    }

    /// Blocks along the rows, enough for any lengths the sequences may have.
    fn tiles(&self, rows: usize) -> usize {
        match self.offsets {
            DevicePtr::NULL => rows.div_ceil(ROWS) * self.sequences,
            _ if rows == 0 => 0,
            _ => rows / ROWS + self.sequences,
        }
    }

    fn launch(&self, args: &DeviceArgs, pass: Pass, dtype: DType, params: &AttentionParams) -> Result<()> {
        let Sizes { queries, keys, d, e } = self.sizes;
        let width = width_index(d, e)?;
        // With offsets, as if all rows were one sequence.
        let multiplications = self.heads * self.sequences * queries * keys * (d + e);
        let families = if args.rounds_to_tf32(dtype, multiplications) { &TF32 } else { &EXACT };
        let rows = if pass == Pass::BackwardKeys { keys } else { queries };
        let grid = [u32::try_from(self.tiles(rows)).unwrap_or(u32::MAX), self.heads as u32];
        let shared_bytes = shared_bytes(pass, WIDTHS[width], dtype);
        args.launch(&families[pass as usize][width], dtype, grid, shared_bytes, params)
    }

    /// Both passes of the gradient; `delta` is filled by the first and read by the second.
    fn backward(&self, args: &DeviceArgs, dtype: DType, params: AttentionParams) -> Result<()> {
        let statistics =
            self.heads * self.sizes.queries * if self.offsets == DevicePtr::NULL { self.sequences } else { 1 };
        let delta = args.scratch((statistics * 4).max(4))?;
        let params = AttentionParams { delta: delta.ptr(), ..params };
        self.launch(args, Pass::BackwardQueries, dtype, &params)?;
        self.launch(args, Pass::BackwardKeys, dtype, &params)
    }
}

/// q, k, v to y and log-sum-exp.
pub(super) fn forward(args: &DeviceArgs, scale: f64) -> Result<()> {
    let [q, k, v] = [args.x[0], args.x[1], args.x[2]];
    let [y, lse] = [args.y[0], args.y[1]];
    let layout = Layout::of(&q, &k, &v)?;
    let params = layout.params(&[q.ptr, k.ptr, v.ptr, y.ptr], scale, q.dtype())?;
    let params = AttentionParams { q: q.ptr, k: k.ptr, v: v.ptr, y: y.ptr, lse: lse.ptr, ..params };
    layout.launch(args, Pass::Forward, q.dtype(), &params)
}

/// dy, q, k, v, y, log-sum-exp to dq, dk, dv.
pub(super) fn backward(args: &DeviceArgs, scale: f64) -> Result<()> {
    let [dy, q, k, v, y, lse] = [0, 1, 2, 3, 4, 5].map(|i| args.x[i]);
    let [dq, dk, dv] = [0, 1, 2].map(|i| args.y[i].ptr);
    let layout = Layout::of(&q, &k, &v)?;
    let params = layout.params(&[dy.ptr, q.ptr, k.ptr, v.ptr, y.ptr, dq, dk, dv], scale, q.dtype())?;
    let (q_ptr, k, v) = (q.ptr, k.ptr, v.ptr);
    let params = AttentionParams { q: q_ptr, k, v, y: y.ptr, lse: lse.ptr, dy: dy.ptr, dq, dk, dv, ..params };
    layout.backward(args, q.dtype(), params)
}

/// Queries, keys and values within packed rows that begin at `packed`.
fn thirds(packed: &DeviceView) -> [DevicePtr; 3] {
    let third = packed.shape().last() / 3 * packed.dtype().bytes();
    [0, 1, 2].map(|i| packed.ptr.offset_bytes(i * third))
}

/// qkv, offsets to y and log-sum-exp.
pub(super) fn packed_forward(args: &DeviceArgs, heads: usize, scale: f64) -> Result<()> {
    let (qkv, [y, lse]) = (args.x[0], [args.y[0], args.y[1]]);
    let layout = Layout::packed(&qkv, &args.x[1], heads);
    let [q, k, v] = thirds(&qkv);
    let params = layout.params(&[q, k, v, y.ptr], scale, qkv.dtype())?;
    layout.launch(args, Pass::Forward, qkv.dtype(), &AttentionParams { q, k, v, y: y.ptr, lse: lse.ptr, ..params })
}

/// dy, qkv, offsets, y, log-sum-exp to dqkv.
pub(super) fn packed_backward(args: &DeviceArgs, heads: usize, scale: f64) -> Result<()> {
    let [dy, qkv, offsets, y, lse] = [0, 1, 2, 3, 4].map(|i| args.x[i]);
    let layout = Layout::packed(&qkv, &offsets, heads);
    let ([q, k, v], [dq, dk, dv]) = (thirds(&qkv), thirds(&args.y[0]));
    let params = layout.params(&[q, k, v, y.ptr, dy.ptr, dq, dk, dv], scale, qkv.dtype())?;
    let params = AttentionParams { q, k, v, y: y.ptr, lse: lse.ptr, dy: dy.ptr, dq, dk, dv, ..params };
    layout.backward(args, qkv.dtype(), params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_the_smallest_multiprocessor() {
        // 99 KiB: compute capability 8.6 and 8.9.
        for pass in [Pass::Forward, Pass::BackwardQueries, Pass::BackwardKeys] {
            for dtype in [DType::F32, DType::Bf16] {
                assert!(WIDTHS.iter().all(|&width| shared_bytes(pass, width, dtype) <= 99 << 10), "{pass:?} {dtype}");
            }
        }
    }

    #[test]
    fn heads_take_the_narrowest_entry() {
        assert_eq!(
            [(1, 1), (32, 3), (3, 33), (64, 64), (65, 1), (128, 128)].map(|(d, e)| width_index(d, e).ok()),
            [Some(0), Some(0), Some(1), Some(1), Some(2), Some(2)]
        );
        assert!(width_index(129, 1).is_err());
    }
}
