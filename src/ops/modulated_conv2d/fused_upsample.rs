//! A modulated convolution to twice the size in one pass: the transposed convolution, the filter over its result and the epilogue.
//!
//! `y_i = dcoefs_i ∘ (F(x_i ∘ styles_i, w) * filter)`, then the epilogue; `F` is the transposed 3×3 convolution of stride 2. What the
//! filter reads is never stored: four times the pixels of `x`, which otherwise are written once and read once. For that a block
//! computes the filter's margin again; [`fuses_upsample`](crate::gemm::heuristics::fuses_upsample) says where this pays.

use super::{
    FlipWeight, flip_weight,
    modulated::{Map, factor_gradients, over_pixels, scale_rows},
};
use crate::{
    DType,
    conv2d::{Conv2d, Geometry},
    cpu::conv2d::input_gradient,
    device::{
        divmod::FastDivmod,
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, KernelInfo},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::heuristics::fused_upsample::{CHANNELS, FIR, OUTPUT_PX, PATCH_PX},
    gemm::{implicit::ConvParams, vector},
    kernel_params,
    op::{DeviceArgs, HostArgs, Op, apply1, same_float},
    ops::{
        epilogue::{Epilogue, Fused},
        upfirdn2d::{Filter, Upfirdn2d},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

const STAGES: usize = 3;
const THREADS: u32 = 128;

/// The doubling convolution.
const CONV: Conv2d = Conv2d { stride: 2, padding: 0, dilation: 1, groups: 1 };

/// Whether there is a kernel for it.
pub(super) fn possible(taps: [usize; 2], up: usize, filter: &Filter, fir: &Upfirdn2d) -> bool {
    let [left, _, top, _] = fir.padding;
    taps == [3, 3] && up == 2 && filter.extents() == [FIR; 2] && left == top && fir.factors(filter).is_some()
}

/// `x` `[n, h, w, c]`, `weight` `[k, 3, 3, c]`; `fir` is what [`upfirdn2d`](crate::Tensor::upfirdn2d) would do to the result of the
/// transposed convolution.
pub(super) fn fused_upsample(
    x: &Tensor,
    weight: &Tensor,
    (styles, dcoefs): super::Factors,
    (filter, fir): (&Filter, Upfirdn2d),
    epilogue: &Epilogue,
) -> Result<Tensor> {
    let mut inputs = vec![x, weight, styles];
    inputs.extend(dcoefs);
    let fused = epilogue.join(&mut inputs);
    apply1(FusedUpsample { filter: filter.clone(), fir, dcoefs: dcoefs.is_some(), fused }, &inputs)
}

/// `(x, weight, styles)` or `(x, weight, styles, dcoefs)`, then the epilogue's.
struct FusedUpsample {
    filter: Filter,
    fir: Upfirdn2d,
    dcoefs: bool,
    fused: Fused,
}

kernel_params! {
    struct FusedUpsampleParams {
        conv: ConvParams,
        styles: DevicePtr,
        dcoefs: DevicePtr,
        patches_h: u32,
        patches_w: u32,
        pad_before: i32,
        unused: u32,
        taps: [f32; 2 * FIR],
    }
}

// SAFETY: only this file fills `FusedUpsampleParams`, from the tensors and scratch memory of the launch and from their sizes.
const UPSAMPLE: Kernel<FusedUpsampleParams> =
    unsafe { Kernel::new(&modules::MODULATED_CONV2D, "fused_upsample", THREADS, FLOATS) };
// SAFETY: as above, `FusedUpsampleParams`.
const UPSAMPLE_TF32: Kernel<FusedUpsampleParams> =
    unsafe { Kernel::new(&modules::MODULATED_CONV2D, "fused_upsample_tf32", THREADS, &[DType::F32]) };
pub(super) const KERNELS: [KernelInfo; 2] = [UPSAMPLE.info(), UPSAMPLE_TF32.info()];

/// All extents of one upsampling.
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

impl FusedUpsample {
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

impl Op for FusedUpsample {
    fn name(&self) -> &'static str {
        "modulated_conv2d_fused_upsample"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let e = self.extents(x[0], x[1])?;
        if *x[2].shape != [e.n, e.c] || (self.dcoefs && *x[3].shape != [e.n, e.k]) {
            let message = format!("styles {} for {} images of {} channels", x[2].shape, e.n, e.c);
            return Err(Error::shape(self.name(), message));
        }
        let y = Spec::new([e.n, e.oh, e.ow, e.k], dtype);
        self.fused.check(self.name(), x, y, false)?;
        Ok(vec![y])
    }

    fn macs(&self, x: &[Spec], _: &[Spec]) -> u64 {
        (x[0].shape.elems() * x[1].shape.elems() / x[1].shape.last().max(1)) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let spec = |i: usize| Spec { shape: args.x_shape(i), dtype: args.x_dtype(i) };
        let Extents { n, h, w, c, k, full: [fh, fw], oh, ow } = self.extents(spec(0), spec(1))?;
        let g = Geometry::new(self.name(), CONV, [n, fh, fw, k], [c, 3, 3, k])?;
        float_dispatch!(args, T => {
            let dcoefs = self.dcoefs.then(|| args.x::<T>(3));
            let epilogue = self.fused.host::<T>(args);
            let mut x = args.x::<T>(0).to_vec();
            scale_rows(&mut x, [w * c, h], args.x(2), c);
            let mut kernel = vec![T::c(0.0); 9 * c * k];
            flip_weight::<T>(args.x(1), [k, 9, c], &mut kernel);
            let mut full = vec![T::c(0.0); n * fh * fw * k];
            input_gradient::<T>(&g, &x, &kernel, &mut full);
            let y = args.y::<T>(0);
            self.fir.filter::<T>(&self.filter, &full, [fh, fw, k], y, [oh, ow]);
            if let Some(dcoefs) = dcoefs {
                scale_rows(y, [ow * k, oh], dcoefs, k);
            }
            epilogue.apply(k, y, None);
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
        let [patches_h, patches_w] = [oh.div_ceil(OUTPUT_PX), ow.div_ceil(OUTPUT_PX)];
        let (patches, tiles_n) = (n * patches_h * patches_w, k.div_ceil(CHANNELS));
        int(n * oh * ow)?;
        let conv = ConvParams {
            a: args.x[0].ptr,
            b: args.x[1].ptr,
            y: y.ptr,
            partials: DevicePtr::NULL,
            count: y.elems() as u64,
            epilogue: self.fused.device(args, None),
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
            tiles_m: int(patches)?,
            tiles_n: int(tiles_n)?,
            k_per_split: int(9 * c)?,
            a_vector: vector(c, dtype),
            b_vector: vector(c, dtype),
            y_vector: if k.is_multiple_of(4) { 4 } else { 1 },
            channels: FastDivmod::new(int(c)?),
            out_w: FastDivmod::new(int(ow)?),
            out_h: FastDivmod::new(int(oh)?),
        };
        let mut taps = [0.0; 2 * FIR];
        let factors = self.fir.factors(&self.filter).unwrap_or_default();
        taps.iter_mut().zip(factors.iter().flatten()).for_each(|(to, &tap)| *to = tap as f32);
        let params = FusedUpsampleParams {
            conv,
            styles: args.x[2].ptr,
            dcoefs: if self.dcoefs { args.x[3].ptr } else { DevicePtr::NULL },
            patches_h: int(patches_h)?,
            patches_w: int(patches_w)?,
            pad_before: int(self.fir.padding[2].unsigned_abs() as usize)?.cast_signed()
                * self.fir.padding[2].signum() as i32,
            unused: 0,
            taps,
        };
        // Windows and images of the rows, a ring of stages whose rows are 64 bytes and 16 of padding, the patch.
        let ring_bytes = STAGES * 2 * CHANNELS * 80;
        let shared_bytes = CHANNELS * 20 + ring_bytes + PATCH_PX * PATCH_PX * CHANNELS * dtype.bytes();
        let rounds = args.rounds_to_tf32(dtype, n * h * w * 9 * c * k);
        let kernel = if rounds { &UPSAMPLE_TF32 } else { &UPSAMPLE };
        args.launch(kernel, dtype, int(patches * tiles_n)?, shared_bytes, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let Extents { full, oh, ow, .. } = self.extents(v.x_spec(0), v.x_spec(1))?;
        let dcoefs = self.dcoefs.then(|| v.x(3));
        let backprop = self.fused.backprop(v)?;
        let mut all = vec![None, None, None];
        if (0..3).any(|i| v.need(i)) {
            let adjoint = self.fir.adjoint(&self.filter, full, [oh, ow]);
            let dfull = backprop.dsum.upfirdn2d(&self.filter, adjoint)?;
            let kernel = apply1(FlipWeight, &[v.x(1)])?;
            all = factor_gradients(v, CONV, Map::Transposed(full), &kernel, dcoefs, &dfull)?.into();
            all[1] = all[1].as_ref().map(|dkernel| apply1(FlipWeight, &[dkernel])).transpose()?;
        }
        if let Some(dcoefs) = dcoefs {
            all.push(v.when(3, || over_pixels(&self.fused.by_sum(v, &backprop.dsum)?)?.div(dcoefs))?);
        }
        all.extend(self.fused.gradients(v, &backprop)?);
        Ok(all)
    }

    fn keep(&self) -> Keep {
        Keep::ALL
    }
}
