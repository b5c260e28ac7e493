//! StyleGAN2's convolution, whose weights a style scales for each image, and the resampled convolution inside it.
//!
//! `y_i = conv(x_i, w_i)`, `w_i[k,r,s,c] = w[k,r,s,c] · style[i,c]`, and with demodulation each `w_i[k]` divided by
//! `√(Σ w_i[k]² + 1e-8)`. No image's weights are ever formed: scaling the weights' input channels is scaling the image, and
//! the norms need only the weights' squares summed over the kernel,
//!
//! `y_i = d_i ∘ conv(x_i ∘ style_i, w)`, `d[i,k] = (Σ_c style[i,c]² · Σ_{r,s} w[k,r,s,c]² + 1e-8)^(−1/2)`.
//!
//! Resampling follows StyleGAN2: `up` is zero insertion and a low-pass filter before a stride-1 convolution, `down` the
//! filter before a strided one. All of it is linear and shift-invariant on the fine grid, so the order is ours to choose:
//! going up, the transposed convolution comes first and the filter runs over its result, which spares the multiplications by
//! inserted zeros (both are one pass where that is shorter, see `fused_upsample.rs`); a 1×1 kernel always runs on the coarse grid. Styles and demodulation
//! coefficients act on channels alone and so commute with the filters: they are applied inside the convolution (see
//! `modulated.rs`), and no scaled image is ever stored.

mod demodulation;
mod fused_upsample;
mod modulated;

use self::{
    demodulation::{DEMODULATE, demodulation},
    fused_upsample::fused_upsample,
    modulated::{Map, modulated},
};
use super::{
    bias_act::{Activation, ActivationParams},
    conv2d::Conv2d,
    epilogue::Epilogue,
    upfirdn2d::{Filter, Upfirdn2d},
};
use serde_json::json;

use crate::{
    cpu::vector::par_rows,
    device::{
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, concat},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::heuristics::fuses_upsample,
    kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// Resampling around a convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Resampling {
    /// Upsamples by this factor; 1 where `down` is not.
    pub up: usize,
    /// Downsamples by this factor; 1 where `up` is not.
    pub down: usize,
    /// Zeros around the image, on the fine grid.
    pub padding: usize,
    /// The low-pass filter; not used where `up` and `down` are 1.
    pub filter: Filter,
}

/// What [`Tensor::modulated_conv2d`] does beside scaling by the style.
#[derive(Clone, Debug, PartialEq)]
pub struct ModulatedConv2d {
    /// Normalise each image's weights per output channel.
    pub demodulate: bool,
    pub resampling: Resampling,
}

/// The styles, by which each image's channels are multiplied before the convolution, and the demodulation coefficients, by which
/// they are multiplied after it.
type Factors<'a> = (&'a Tensor, Option<&'a Tensor>);

impl Tensor {
    /// `[n, h, w, c] -> [n, h', w', k]` with `weight` `[k, r, s, c]` and `style` `[n, c]`, which may be f32 beside 16-bit images:
    /// demodulation then is.
    pub fn modulated_conv2d(&self, weight: &Tensor, style: &Tensor, conv: &ModulatedConv2d) -> Result<Tensor> {
        self.modulated_conv2d_fused(weight, style, conv, &Epilogue::default())
    }

    /// The same with an epilogue, in the pass that makes the last sums.
    pub fn modulated_conv2d_fused(
        &self,
        weight: &Tensor,
        style: &Tensor,
        conv: &ModulatedConv2d,
        epilogue: &Epilogue,
    ) -> Result<Tensor> {
        let (Some([n, _, _, c]), Some(_)) = (self.shape().nhwc(), weight.shape().nhwc()) else {
            let message = format!("{} and weight {}: four axes wanted", self.shape(), weight.shape());
            return Err(Error::shape("modulated_conv2d", message));
        };
        if !conv.demodulate {
            let (weight, style) = (weight.matching(self)?, style.matching(self)?);
            return self.resampled(&weight, &conv.resampling, Some((&style, None)), epilogue);
        }
        if *style.shape() != [n, c] {
            let message = format!("style {} for {n} images of {c} channels", style.shape());
            return Err(Error::shape("modulated_conv2d", message));
        }
        let scale = demodulation(weight, style)?.cast(self.dtype())?;
        let (weight, style) = (weight.matching(self)?, style.matching(self)?);
        self.resampled(&weight, &conv.resampling, Some((&style, Some(&scale))), epilogue)
    }

    /// `[n, h, w, c] -> [n, h', w', k]` with `weight` `[k, r, s, c]`: convolution of the fused_upsample and filtered image, or
    /// convolution of the filtered image at every `down`-th pixel.
    pub fn resampled_conv2d(&self, weight: &Tensor, resampling: &Resampling) -> Result<Tensor> {
        self.resampled_conv2d_fused(weight, resampling, &Epilogue::default())
    }

    /// The same with an epilogue, in the pass that makes the last sums.
    pub fn resampled_conv2d_fused(
        &self,
        weight: &Tensor,
        resampling: &Resampling,
        epilogue: &Epilogue,
    ) -> Result<Tensor> {
        self.resampled(weight, resampling, None, epilogue)
    }

    /// The convolution with styles and demodulation coefficients, if any: filters act on each channel alone, so it does not
    /// matter on which side of them a factor stands.
    fn resampled(
        &self,
        weight: &Tensor,
        resampling: &Resampling,
        factors: Option<Factors>,
        epilogue: &Epilogue,
    ) -> Result<Tensor> {
        let &Resampling { up, down, padding, ref filter } = resampling;
        let (Some([_, h, w, _]), Some([_, r, s, _])) = (self.shape().nhwc(), weight.shape().nhwc()) else {
            let message = format!("{} and weight {}: four axes wanted", self.shape(), weight.shape());
            return Err(Error::shape("resampled_conv2d", message));
        };
        let plain = Conv2d::default();
        let nothing = Epilogue::default();
        let convolve = |x: &Tensor, conv: Conv2d, epilogue: &Epilogue| match factors {
            Some((styles, dcoefs)) => modulated(x, weight, styles, dcoefs, conv, Map::Forward, epilogue),
            None => x.conv2d_fused(weight, conv, epilogue),
        };
        // Left, right, top, bottom on the fine grid, where the filter's own reach is split as StyleGAN2 splits it.
        let params = |before: usize, after: usize| {
            let (before, after) = ((padding + before) as i64, (padding + after) as i64);
            [before, after, before, after]
        };
        let taps = filter.extents()[1];
        match (up, down) {
            (1, 1) => convolve(self, Conv2d { padding, ..plain }, epilogue),
            (_, 1) if up > 1 && taps >= up => {
                let pads = params((taps + up - 1) / 2, (taps - up) / 2);
                let gain = (up * up) as f64;
                if [r, s] == [1, 1] {
                    let y = convolve(self, plain, &nothing)?;
                    let upsample = Upfirdn2d { up, padding: pads, gain, ..Default::default() };
                    return y.upfirdn2d_fused(filter, upsample, epilogue);
                }
                let full = [(h - 1) * up + r, (w - 1) * up + s];
                let conv = Conv2d { stride: up, ..plain };
                // The full transposed convolution already reaches `r − 1` pixels out on either side.
                let [left, right, top, bottom] = pads;
                let [rows, cols, up_by] = [r, s, up].map(|extent| extent as i64);
                let padding = [left - (cols - 1), right + up_by - cols, top - (rows - 1), bottom + up_by - rows];
                let fir = Upfirdn2d { padding, gain, ..Default::default() };
                let Some((styles, dcoefs)) = factors else {
                    let kernel = apply1(FlipWeight, &[weight])?;
                    let y = self.conv2d_input_gradient(&kernel, full, conv)?;
                    return y.upfirdn2d_fused(filter, fir, epilogue);
                };
                let channels = [self.shape().last(), weight.shape()[0]];
                if fused_upsample::possible([r, s], up, filter, &fir)
                    && fuses_upsample([h, w], [h * up, w * up], channels, self.dtype())
                {
                    return fused_upsample(self, weight, (styles, dcoefs), (filter, fir), epilogue);
                }
                let kernel = apply1(FlipWeight, &[weight])?;
                let y = modulated(self, &kernel, styles, dcoefs, conv, Map::Transposed(full), &nothing)?;
                y.upfirdn2d_fused(filter, fir, epilogue)
            }
            (1, _) if down > 1 && taps >= down => {
                let padding = params((taps - down).div_ceil(2), (taps - down) / 2);
                if [r, s] == [1, 1] {
                    let y = self.upfirdn2d(filter, Upfirdn2d { down, padding, ..Default::default() })?;
                    return convolve(&y, plain, epilogue);
                }
                let y = self.upfirdn2d(filter, Upfirdn2d { padding, ..Default::default() })?;
                convolve(&y, Conv2d { stride: down, ..plain }, epilogue)
            }
            _ => Err(Error::shape("resampled_conv2d", format!("up {up}, down {down} with {taps} filter taps"))),
        }
    }
}

/// `[k, r, s, c] -> [c, r, s, k]` with the kernel flipped (rotated by 180 degrees): the weights with which a transposed convolution does what
/// a convolution of the zero-inserted image does. Its own inverse, hence its own adjoint.
struct FlipWeight;

kernel_params! {
    struct FlipWeightParams { weight: DevicePtr, y: DevicePtr, k: u32, taps: u32, c: u32, unused: u32 }
}

// SAFETY: only this file fills `FlipWeightParams`, from the tensors and scratch memory of the launch and from their sizes.
const FLIP_WEIGHT: Kernel<FlipWeightParams> =
    unsafe { Kernel::new(&modules::MODULATED_CONV2D, "flip_weight", 256, FLOATS) };

impl Op for FlipWeight {
    fn name(&self) -> &'static str {
        "flip_weight"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        match x[0].shape.nhwc() {
            Some([k, r, s, c]) if x[0].dtype.is_float() => Ok(vec![Spec::new([c, r, s, k], x[0].dtype)]),
            _ => Err(Error::shape("flip_weight", format!("{} is no kernel", x[0].shape))),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let Some([c, r, s, k]) = args.y_shape(0).nhwc() else { return Ok(()) };
        float_dispatch!(args, T => flip_weight::<T>(args.x(0), [k, r * s, c], args.y(0)));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let Some([c, r, s, k]) = args.y[0].shape().nhwc() else { return Ok(()) };
        let int = |value| count31(self.name(), value);
        let params = FlipWeightParams {
            weight: args.x[0].ptr,
            y: args.y[0].ptr,
            k: int(k)?,
            taps: int(r * s)?,
            c: int(c)?,
            unused: 0,
        };
        let grid = [int(c.div_ceil(32))?, int(k.div_ceil(32))?, int(r * s)?];
        args.launch(&FLIP_WEIGHT, args.y[0].dtype(), grid, 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply1(FlipWeight, &[v.upstream()?])?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn flip_weight<T: Real>(w: &[T], [k, taps, c]: [usize; 3], y: &mut [T]) {
    /// Channels read side by side, so that a cache line of `w` serves several rows of `y`.
    const SIDE: usize = 16;
    par_rows(y, SIDE * taps * k, |task, y| {
        let blocks = (crate::cpu::vector::GRAIN / (SIDE * taps * k).max(1)).max(1);
        for (block, y) in y.chunks_mut(SIDE * taps * k).enumerate() {
            let first = (task * blocks + block) * SIDE;
            for tap in 0..taps {
                for out in 0..k {
                    let from = &w[(out * taps + taps - 1 - tap) * c + first..];
                    for (channel, &value) in (0..y.len() / (taps * k)).zip(from) {
                        y[(channel * taps + tap) * k + out] = value;
                    }
                }
            }
        }
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "modulated_conv2d",
    order: Order::Any,
    kernels: &concat::<13>(&[&modulated::KERNELS, &fused_upsample::KERNELS, &[DEMODULATE.info(), FLIP_WEIGHT.info()]]),
    cases: || {
        let case = |name, x: [usize; 4], [k, r, s]: [usize; 3], demodulate, [up, down]: [usize; 2]| {
            let inputs = [normal(x), normal([k, r, s, x[3]]), drawn([x[0], x[3]], Draw::Uniform(0.5, 1.5))];
            Case::new(name, inputs, move |x| {
                let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?;
                let resampling = Resampling { up, down, padding: r / 2, filter };
                Ok(vec![x[0].modulated_conv2d(&x[1], &x[2], &ModulatedConv2d { demodulate, resampling })?])
            })
        };
        // Noise, bias and a leaky ReLU, clamped; without demodulation a residual.
        let fused = |name, x: [usize; 4], k: usize, demodulate: bool, [up, down]: [usize; 2]| {
            let [n, h, w, c] = x;
            let y = [n, h * up / down, w * up / down, k];
            let style = drawn([n, c], Draw::Uniform(0.5, 1.5));
            let mut inputs = vec![normal(x), normal([k, 3, 3, c]), style, normal([k])];
            inputs.extend([normal([n, y[1], y[2], 1]), normal([1])]);
            inputs.extend((!demodulate).then(|| normal(y)));
            Case::new(name, inputs, move |x| {
                let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?;
                let conv = ModulatedConv2d { demodulate, resampling: Resampling { up, down, padding: 1, filter } };
                let activation = if demodulate { Activation::LeakyRelu } else { Activation::Linear };
                let params = ActivationParams { alpha: 0.2, gain: 1.4, clamp: demodulate.then_some(2.5) };
                let (bias, noise, residual) = (Some(&x[3]), Some((&x[4], &x[5])), x.get(6));
                let epilogue = Epilogue { bias, noise, activation, params, residual };
                Ok(vec![x[0].modulated_conv2d_fused(&x[1], &x[2], &conv, &epilogue)?])
            })
        };
        vec![
            fused("epilogue", [2, 4, 3, 5], 6, true, [1, 1]),
            fused("epilogue_up", [2, 3, 4, 8], 7, true, [2, 1]),
            fused("fused_upsample_epilogue", [1, 6, 6, 2], 13, true, [2, 1]),
            case("fused_upsample_past_a_tile", [1, 7, 7, 3], [70, 3, 3], true, [2, 1]),
            fused("fused_upsample_epilogue_residual", [2, 6, 7, 2], 20, false, [2, 1]),
            case("fused_upsample", [1, 13, 12, 4], [16, 3, 3], true, [2, 1]),
            fused("epilogue_down", [1, 6, 4, 3], 8, true, [1, 2]),
            fused("epilogue_residual", [2, 3, 5, 4], 3, false, [1, 1]),
            fused("epilogue_split", [1, 3, 3, 117], 6, true, [1, 1]),
            case("same", [2, 5, 4, 3], [4, 3, 3], true, [1, 1]),
            case("pointwise", [2, 3, 4, 5], [3, 1, 1], false, [1, 1]),
            case("up", [2, 4, 5, 3], [2, 3, 3], true, [2, 1]),
            case("up_pointwise", [1, 3, 2, 4], [3, 1, 1], true, [2, 1]),
            case("down", [2, 7, 6, 3], [4, 3, 3], true, [1, 2]),
            case("down_pointwise", [1, 6, 5, 2], [3, 1, 1], false, [1, 2]),
            case("aligned", [2, 3, 5, 16], [24, 3, 3], true, [1, 1]),
            case("aligned_up", [2, 3, 4, 8], [16, 3, 3], true, [2, 1]),
            case("past_a_tile", [1, 9, 9, 120], [116, 3, 3], true, [1, 1]),
            case("past_a_tile_up", [1, 9, 9, 120], [72, 3, 3], true, [2, 1]),
            case("many_channels", [1, 4, 4, 21], [19, 3, 3], true, [2, 1]),
        ]
    },
    workloads: || {
        let inputs = |x: [usize; 4]| [normal(x), normal([x[3], 3, 3, x[3]]), normal([x[0], x[3]])];
        let run = |up, down| {
            move |x: &[Tensor]| {
                let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?;
                let resampling = Resampling { up, down, padding: 1, filter };
                x[0].modulated_conv2d(&x[1], &x[2], &ModulatedConv2d { demodulate: true, resampling })
            }
        };
        let gpu =
            [("64px_c256", [8, 64, 64, 256], 1), ("up_128px_c128", [8, 128, 128, 128], 2)].map(|(name, x, up)| {
                let flops = 18.0 * (x.iter().product::<usize>() * x[3]) as f64;
                Workload::gpu(format!("modulated_{name}"), inputs(x), flops, run(up, 1)).with(json!({ "up": up }))
            });
        let cpu = [
            ("32px_c256", [4, 32, 32, 256], 1, 1),
            ("up_64px_c128", [4, 64, 64, 128], 2, 1),
            ("down_64px_c128", [4, 64, 64, 128], 1, 2),
        ];
        let cpu = cpu.map(|(name, x, up, down)| Workload::cpu(format!("modulated_{name}"), inputs(x), run(up, down)));
        gpu.into_iter().chain(cpu).collect()
    },
    reference: Some(|a| {
        let resampling = Resampling {
            up: a.int("up")?,
            down: a.int("down")?,
            padding: a.int("padding")?,
            filter: Filter::low_pass(&a.floats("resample_filter")?)?,
        };
        let conv = ModulatedConv2d { demodulate: a.flag("demodulate")?, resampling };
        Ok(only("y", a.tensor("x")?.modulated_conv2d(a.tensor("weight")?, a.tensor("style")?, &conv)?))
    }),
};
