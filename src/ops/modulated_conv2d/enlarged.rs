//! A modulated convolution to twice the size in one pass: the transposed convolution, the filter over its result and the epilogue.
//!
//! `y_i = written_i ∘ (F(x_i ∘ read_i, w) * filter)`, then the epilogue; `F` is the transposed 3×3 convolution of stride 2. What the
//! filter reads is never stored: four times the pixels of `x`, which otherwise are written once and read once. For that a block
//! computes the filter's margin again; [`at_once`] says where this pays.

use super::{
    TransposeKernel,
    styled::{Map, factor_gradients, over_pixels, scale_rows},
    transpose,
};
use crate::{
    DType,
    device::{
        convolution::{Conv2d, Geometry, input_gradient},
        divisor::Divisor,
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, KernelInfo},
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{DeviceArgs, HostArgs, Op, apply1},
    ops::{
        conv2d::launch::ConvParams,
        epilogue::{Epilogue, Fused},
        matmul::{launch::vector, same_float},
        upfirdn2d::{Filter, Upfirdn2d},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// Pixels of the transposed convolution a block computes along each side, taps of the filter, and what is left of the one by the
/// other.
const PATCH_PX: usize = 16;
const FIR: usize = 4;
const KEPT_PX: usize = PATCH_PX - FIR + 1;
/// Channels of a block.
const SIDE: usize = 64;
const STAGES: usize = 3;
const THREADS: u32 = 128;

/// The doubling convolution.
const CONV: Conv2d = Conv2d { stride: 2, padding: 0, dilation: 1, groups: 1 };

/// Whether one pass takes less time than two: the products of the margin against the bytes of what is not stored, by the FLOP that
/// products reach in the time memory takes for a byte.
pub(super) fn at_once([h, w]: [usize; 2], [oh, ow]: [usize; 2], [c, k]: [usize; 2], dtype: DType) -> bool {
    // About 400 TFLOP/s of 16-bit products on a device of 3 TB/s; f32 is three products of half the speed.
    let (flop_a_byte, bytes) = match dtype {
        DType::Bf16 | DType::F16 => (128, 2),
        _ => (21, 4),
    };
    let pixels = oh.div_ceil(KEPT_PX) * ow.div_ceil(KEPT_PX) * (PATCH_PX * PATCH_PX / 4);
    let flop = pixels.saturating_sub(h * w) * 18 * c * k.next_multiple_of(SIDE);
    let spared_bytes = 2 * (2 * h + 1) * (2 * w + 1) * k * bytes;
    flop < spared_bytes * flop_a_byte
}

/// Whether there is a kernel for it.
pub(super) fn possible(taps: [usize; 2], up: usize, filter: &Filter, fir: &Upfirdn2d) -> bool {
    let [left, _, top, _] = fir.padding;
    taps == [3, 3] && up == 2 && filter.extents() == [FIR; 2] && left == top && fir.factors(filter).is_some()
}

/// `x` `[n, h, w, c]`, `weight` `[k, 3, 3, c]`; `fir` is what [`upfirdn2d`](crate::Tensor::upfirdn2d) would do to the result of the
/// transposed convolution.
pub(super) fn enlarged(
    x: &Tensor,
    weight: &Tensor,
    (read, written): super::Factors,
    (filter, fir): (&Filter, Upfirdn2d),
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let mut inputs = vec![x, weight, read];
    inputs.extend(written);
    let fused = epilogue.join(&mut inputs);
    apply1(Enlarged { filter: filter.clone(), fir, written: written.is_some(), fused }, &inputs)
}

/// `(x, weight, read)` or `(x, weight, read, written)`, then the epilogue's.
struct Enlarged {
    filter: Filter,
    fir: Upfirdn2d,
    written: bool,
    fused: Fused,
}

kernel_params! {
    struct EnlargeParams {
        conv: ConvParams,
        read: DevicePtr,
        written: DevicePtr,
        squares_h: u32,
        squares_w: u32,
        before: i32,
        unused: u32,
        taps: [f32; 2 * FIR],
    }
}

const ENLARGE: Kernel<EnlargeParams> = Kernel::new("modulated_conv2d", "enlarge", THREADS, FLOATS);
const ENLARGE_TF32: Kernel<EnlargeParams> =
    Kernel::new("modulated_conv2d", "enlarge_tf32", THREADS, &[DType::F32]);
pub(super) const INFOS: [KernelInfo; 2] = [ENLARGE.info(), ENLARGE_TF32.info()];

/// All extents of one enlargement.
struct Extents {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    k: usize,
    /// Of the transposed convolution.
    full: [usize; 2],
    /// Of `y`.
    oh: usize,
    ow: usize,
}

impl Enlarged {
    fn extents(&self, x: Spec, weight: Spec) -> Result<Extents> {
        let (Some([n, h, w, c]), Some([k, 3, 3, inner])) = (x.shape.nhwc(), weight.shape.nhwc()) else {
            return Err(Error::shape(self.name(), format!("{} and weight {}", x.shape, weight.shape)));
        };
        let [left, right, top, bottom] = self.fir.padding;
        let full = [2 * h + 1, 2 * w + 1];
        let out = |extent: usize, pads: i64| usize::try_from(extent as i64 + pads - FIR as i64 + 1).ok();
        match (out(full[0], top + bottom), out(full[1], left + right)) {
            (Some(oh), Some(ow)) if inner == c && oh * ow > 0 => Ok(Extents { n, h, w, c, k, full, oh, ow }),
            _ => Err(Error::shape(self.name(), format!("{} and weight {}, {:?}", x.shape, weight.shape, self.fir))),
        }
    }
}

impl Op for Enlarged {
    fn name(&self) -> &'static str {
        "modulated_conv2d_enlarge"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let e = self.extents(x[0], x[1])?;
        if *x[2].shape != [e.n, e.c] || (self.written && *x[3].shape != [e.n, e.k]) {
            let message = format!("factors {} for {} images of {} channels", x[2].shape, e.n, e.c);
            return Err(Error::shape(self.name(), message));
        }
        let y = Spec::new([e.n, e.oh, e.ow, e.k], dtype);
        self.fused.check(self.name(), x, y, false)?;
        Ok(vec![y])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let spec = |i: usize| Spec { shape: args.x_shape(i), dtype: args.x_dtype(i) };
        let Extents { n, h, w, c, k, full: [fh, fw], oh, ow } = self.extents(spec(0), spec(1))?;
        let g = Geometry::new(self.name(), CONV, [n, fh, fw, k], [c, 3, 3, k])?;
        float_dispatch!(args, T => {
            let written = self.written.then(|| args.x::<T>(3));
            let epilogue = self.fused.host::<T>(args);
            let mut x = args.x::<T>(0).to_vec();
            scale_rows(&mut x, [w * c, h], args.x(2), c);
            let mut kernel = vec![T::c(0.0); 9 * c * k];
            transpose::<T>(args.x(1), [k, 9, c], &mut kernel);
            let mut full = vec![T::c(0.0); n * fh * fw * k];
            input_gradient::<T>(&g, &x, &kernel, &mut full);
            let y = args.y::<T>(0);
            self.fir.filter::<T>(&self.filter, &full, [fh, fw, k], y, [oh, ow]);
            if let Some(written) = written {
                scale_rows(y, [ow * k, oh], written, k);
            }
            epilogue.finish(k, y, None);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let Extents { n, h, w, c, k, oh, ow, .. } = self.extents(args.x[0].spec, args.x[1].spec)?;
        let y = args.y[0];
        if y.elems() == 0 {
            return Ok(());
        }
        let (dtype, int) = (y.dtype(), |value| count31(self.name(), value));
        let [squares_h, squares_w] = [oh.div_ceil(KEPT_PX), ow.div_ceil(KEPT_PX)];
        let (squares, tiles_n) = (n * squares_h * squares_w, k.div_ceil(SIDE));
        int(n * oh * ow)?;
        let conv = ConvParams {
            a: args.x[0].ptr,
            b: args.x[1].ptr,
            y: y.ptr,
            partials: DevicePtr::NULL,
            count: y.elems() as u64,
            epilogue: self.fused.params(args, None),
            n: int(n)?,
            h: int(h)?,
            w: int(w)?,
            c: int(c)?,
            k: int(k)?,
            r: 3,
            s: 3,
            oh: int(oh)?,
            ow: int(ow)?,
            stride: 2,
            padding: 0,
            dilation: 1,
            groups: 1,
            tiles_m: int(squares)?,
            tiles_n: int(tiles_n)?,
            inner_each: int(9 * c)?,
            a_vector: vector(c, dtype),
            b_vector: vector(c, dtype),
            y_vector: if k.is_multiple_of(4) { 4 } else { 1 },
            channels: Divisor::new(int(c)?),
            out_w: Divisor::new(int(ow)?),
            out_h: Divisor::new(int(oh)?),
        };
        let mut taps = [0.0; 2 * FIR];
        let factors = self.fir.factors(&self.filter).unwrap_or_default();
        taps.iter_mut().zip(factors.iter().flatten()).for_each(|(to, &tap)| *to = tap as f32);
        let params = EnlargeParams {
            conv,
            read: args.x[2].ptr,
            written: if self.written { args.x[3].ptr } else { DevicePtr::NULL },
            squares_h: int(squares_h)?,
            squares_w: int(squares_w)?,
            before: int(self.fir.padding[2].unsigned_abs() as usize)?.cast_signed() * self.fir.padding[2].signum() as i32,
            unused: 0,
            taps,
        };
        // Windows and images of the rows, a ring of stages whose lines are 64 bytes and 16 of padding, the square.
        let ring_bytes = STAGES * 2 * SIDE * 80;
        let shared_bytes = SIDE * 20 + ring_bytes + PATCH_PX * PATCH_PX * SIDE * dtype.bytes();
        let rounds = args.rounds_to_tf32(dtype, n * h * w * 9 * c * k);
        let kernel = if rounds { &ENLARGE_TF32 } else { &ENLARGE };
        args.launch(kernel, dtype, int(squares * tiles_n)?, shared_bytes, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let Extents { full, oh, ow, .. } = self.extents(v.x_spec(0), v.x_spec(1))?;
        let written = self.written.then(|| v.x(3));
        let through = self.fused.through(v)?;
        let mut all = vec![None, None, None];
        if (0..3).any(|i| v.need(i)) {
            let adjoint = self.fir.adjoint(&self.filter, full, [oh, ow]);
            let dfull = through.dsum.upfirdn2d(&self.filter, adjoint)?;
            let kernel = apply1(TransposeKernel, &[v.x(1)])?;
            all = factor_gradients(v, CONV, Map::Transposed(full), &kernel, written, &dfull)?.into();
            all[1] = all[1].as_ref().map(|dkernel| apply1(TransposeKernel, &[dkernel])).transpose()?;
        }
        if let Some(written) = written {
            all.push(v.when(3, || over_pixels(&self.fused.by_sum(v, &through.dsum)?)?.div(written))?);
        }
        all.extend(self.fused.gradients(v, &through)?);
        Ok(all)
    }

    fn keep(&self) -> Keep {
        Keep::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_is_for_few_channels_and_large_images() {
        let pays = |px: usize, c, k, dtype| at_once([px; 2], [2 * px; 2], [c, k], dtype);
        for (px, c, k) in [(64, 64, 64), (64, 128, 64), (128, 64, 64), (128, 128, 128)] {
            assert!(pays(px, c, k, DType::Bf16), "{px} {c} {k}");
        }
        assert!(!pays(64, 256, 256, DType::Bf16), "products decide");
        assert!(!pays(4, 512, 512, DType::F16), "one square is mostly margin");
        assert!(pays(128, 64, 64, DType::F32) && !pays(128, 128, 64, DType::F32), "f32 multiplies three times");
        assert!(!pays(64, 64, 3, DType::Bf16), "three channels of 64 are computed");
    }
}
