//! The mobile inverted bottleneck (MBConv) in passes that keep its expanded tensor on the chip, for inference: of that tensor,
//! four times as wide as what enters, the depthwise convolution's result is written once and read twice. On compute capability
//! 9.0 16-bit blocks are one pass, which writes nothing of it (`block.rs`).
//!
//! ```text
//! d = depthwise(silu(norm(x weightᵀ)))                       mbconv_expand
//! pooled = mean over pixels of silu(norm(d))                 mbconv_squeeze
//! y = norm((silu(norm(d)) ∘ gate) weightᵀ) + residual        mbconv_project
//! ```
//!
//! Between the last two stands what makes the gate of the pooled vector. Each op is the fusion of ops that exist by
//! themselves: those define it on the CPU, and computed once more under a tape of their own they are its gradient. That
//! recomputation moves more than the separate ops save (passes over the hidden tensor, forward and backward: 40 op by op, 59
//! here; forward alone: 12 and 3), so layers take these where nothing is recorded. A tape holds one hidden tensor instead of six.

mod block;

pub use self::block::MbConvOf;
use crate::{
    device::{
        Device, Precision,
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch,
    gemm::{heuristics, vector},
    kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply_n, apply1, drawn, normal, registry::Workload,
        same_float,
    },
    ops::layer_norm::Norm,
    shape::{Shape, Spec},
    tape::{Keep, Tape, Vjp},
    tensor::Tensor,
};

/// A layer normalisation over channels: weight and bias, both `[channels]`.
pub struct LayerNormOf {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f64,
}

impl Tensor {
    /// `depthwise(silu(norm(x weightᵀ)))`: `self` `[n, h, w, inputs]` with at most 128 pixels an image, `weight`
    /// `[hidden, inputs]`, `taps` `[side, side, hidden]` with an odd side, padded by half of it. `[n, ⌈h / stride⌉, ⌈w / stride⌉, hidden]`.
    pub fn mbconv_expand(
        &self,
        weight: &Tensor,
        norm: Option<&LayerNormOf>,
        taps: &Tensor,
        stride: usize,
    ) -> Result<Tensor> {
        let mut x = vec![self, weight, taps];
        x.extend(norm.into_iter().flat_map(|norm| [&norm.weight, &norm.bias]));
        apply1(Expand { eps: norm.map(|norm| norm.eps), stride }, &x)
    }

    /// The mean over pixels of `silu(norm(self))`, `[n, c]`, and for [`mbconv_project`](Tensor::mbconv_project) the moments of
    /// every pixel, `[n, h, w, 2]` in f32: mean and reciprocal deviation, 0 and 1 without a norm. No gradient reaches the moments.
    pub fn mbconv_squeeze(&self, norm: Option<&LayerNormOf>) -> Result<[Tensor; 2]> {
        let mut x = vec![self];
        x.extend(norm.into_iter().flat_map(|norm| [&norm.weight, &norm.bias]));
        apply_n(Squeeze { eps: norm.map(|norm| norm.eps) }, &x)
    }

    /// `out_norm((silu(norm(self)) ∘ gate) weightᵀ) + residual`: `self` `[n, h, w, c]`, its `moments` and `norm` as
    /// [`mbconv_squeeze`](Tensor::mbconv_squeeze) took and gave them, `gate` `[n, c]`, `weight` `[out, c]`, `residual`
    /// `[n, h, w, out]`. `out_norm` is for at most 512 columns.
    pub fn mbconv_project(
        &self,
        [moments, gate, weight]: [&Tensor; 3],
        norm: Option<&LayerNormOf>,
        out_norm: Option<&LayerNormOf>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut x = vec![self, moments, gate, weight];
        x.extend(norm.into_iter().chain(out_norm).flat_map(|norm| [&norm.weight, &norm.bias]));
        x.extend(residual);
        let eps = |norm: Option<&LayerNormOf>| norm.map(|norm| norm.eps);
        apply1(Project { eps: eps(norm), out_eps: eps(out_norm), residual: residual.is_some() }, &x)
    }
}

/// Pixels of an image whose expansion a block holds.
const MOST_PIXELS: usize = TILE;
/// Columns of a row of the projection that a block holds.
const MOST_NORMED: usize = WIDE;

/// Whether [`mbconv_expand`](Tensor::mbconv_expand) is for images of this shape, and takes less time there than its parts.
fn expansion_pays(x: &Tensor, hidden: usize, normed: bool) -> bool {
    let Some([n, h, w, inputs]) = x.shape().nhwc() else { return false };
    let tf32 = match x.device().precision() {
        Precision::F32 => false,
        Precision::Tf32 { min_macs } => (n * h * w * inputs * hidden) as u64 >= min_macs,
    };
    h * w <= MOST_PIXELS && (!normed || heuristics::fuses_normed_expansion(inputs, x.dtype(), tf32))
}

/// Runs the ops that define a fused one on its inputs in host memory; outputs they do not give stay to be written.
fn on_host(args: &mut HostArgs, parts: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<()> {
    let device = Device::cpu();
    float_dispatch!(args, T => {
        let inputs = (0..args.inputs()).map(|i| Tensor::from_vec(args.x::<T>(i).to_vec(), args.x_shape(i), &device));
        let y = parts(&inputs.collect::<Result<Vec<_>>>()?)?;
        args.y::<T>(0).copy_from_slice(&y.to_vec::<T>()?);
    });
    Ok(())
}

/// The gradients of output 0: of the ops that define the fused one, computed once more under a tape of their own.
fn recomputed(v: &Vjp, parts: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Option<Tensor>>> {
    let Some(dy) = v.dy(0) else { return Ok(vec![None; v.inputs()]) };
    // Two inputs may be one tensor: each under an identity of its own gets its own share.
    let x = (0..v.inputs()).map(|i| v.x(i).reshape(v.x(i).shape())).collect::<Result<Vec<_>>>()?;
    let tape = Tape::start();
    tape.watch((0..x.len()).filter(|&i| v.need(i)).map(|i| &x[i]));
    let y = parts(&x)?;
    let grads = tape.backward_from(&[(&y, dy.clone())])?;
    Ok(x.iter().map(|x| grads.get(x).cloned()).collect())
}

fn normed(x: &Tensor, norm: &[Tensor], eps: Option<f64>) -> Result<Tensor> {
    eps.map_or_else(|| Ok(x.clone()), |eps| x.layer_norm(&norm[0], &norm[1], eps))
}

/// Whether weights and biases of normalisations are as long as what they normalise.
fn norms_fit(norms: &[Spec], channels: usize) -> bool {
    norms.iter().all(|norm| *norm.shape == [channels])
}

/// Inputs x, weight, taps, and with `eps` the norm's weight and bias.
struct Expand {
    eps: Option<f64>,
    stride: usize,
}

/// Extents of an expansion.
struct Extents {
    n: usize,
    x: [usize; 2],
    y: [usize; 2],
    side: usize,
    inputs: usize,
    hidden: usize,
}

impl Expand {
    fn extents(&self, [x, weight, taps]: [Shape; 3]) -> Result<Extents> {
        let wrong = |what: &str| Error::shape(self.name(), format!("images {x}, weight {weight}, taps {taps}: {what}"));
        let (Some([n, h, w, inputs]), Some([hidden, inner]), Some([side, across, channels])) =
            (x.nhwc(), weight.as_array(), taps.as_array())
        else {
            return Err(wrong("[n, h, w, inputs], [hidden, inputs] and [side, side, hidden] wanted"));
        };
        if inner != inputs || [side, hidden] != [across, channels] || side % 2 == 0 || self.stride == 0 || hidden == 0 {
            return Err(wrong("they do not fit; an odd side and a stride above zero are wanted"));
        }
        if h * w == 0 || h * w > MOST_PIXELS {
            return Err(wrong("images of 1 to 128 pixels wanted; compute larger ones op by op"));
        }
        Ok(Extents { n, x: [h, w], y: [h, w].map(|extent| extent.div_ceil(self.stride)), side, inputs, hidden })
    }

    fn parts(&self, x: &[Tensor]) -> Result<Tensor> {
        let h = normed(&x[0].linear(&x[1], None)?, &x[3..], self.eps)?.silu()?;
        h.depthwise_conv2d(&x[2], self.stride, x[2].shape()[0] / 2)
    }
}

impl Op for Expand {
    fn name(&self) -> &'static str {
        "mbconv_expand"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let Extents { n, y: [oh, ow], hidden, .. } = self.extents([0, 1, 2].map(|i| x[i].shape))?;
        if !norms_fit(&x[3..], hidden) {
            return Err(Error::shape(self.name(), format!("a norm over {hidden} channels with weight {}", x[3].shape)));
        }
        Ok(vec![Spec::new([n, oh, ow, hidden], dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        on_host(args, |x| self.parts(x))
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        let (taps, inputs) = (x[2].shape, x[0].shape.last());
        (x[0].shape.rows() * inputs * y[0].shape.last() + y[0].shape.elems() * taps[0] * taps[1]) as u64
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let Extents { n, x: [h, w], y: [oh, ow], side, inputs, hidden } =
            self.extents([0, 1, 2].map(|i| args.x[i].shape()))?;
        let (dtype, int) = (args.y[0].dtype(), |count| count31(self.name(), count));
        let (slices, images_per_block) = (hidden.div_ceil(TILE), TILE / (h * w));
        let moments = self.eps.map(|_| args.scratch((slices * n * h * w * 8).max(8))).transpose()?;
        let norm = |i: usize| args.x.get(3 + i).map_or(DevicePtr::NULL, |norm| norm.ptr);
        let params = ExpandParams {
            x: args.x[0].ptr,
            weight: args.x[1].ptr,
            norm_weight: norm(0),
            norm_bias: norm(1),
            moments: moments.as_ref().map_or(DevicePtr::NULL, |moments| moments.ptr()),
            taps: args.x[2].ptr,
            d: args.y[0].ptr,
            images: int(n)?,
            h: int(h)?,
            w: int(w)?,
            oh: int(oh)?,
            ow: int(ow)?,
            side: int(side)?,
            stride: int(self.stride)?,
            inputs: int(inputs)?,
            hidden: int(hidden)?,
            images_per_block: int(images_per_block)?,
            slices: int(slices)?,
            vector: vector(inputs, dtype),
            four_channels: hidden.is_multiple_of(4).into(),
            eps: self.eps.unwrap_or(0.0) as f32,
        };
        let grid = blocks_for_each(n.div_ceil(images_per_block), params.slices);
        // Three stages of two operands, 64 bytes of K and 16 of padding a row; the activated tile takes their place.
        let (ring, tile) = (3 * 2 * TILE * 80, TILE * (TILE * dtype.bytes() + 16));
        let tf32 = args.rounds_to_tf32(dtype, n * h * w * inputs * hidden);
        let [moments_kernel, kernel] =
            if tf32 { [&EXPAND_MOMENTS_TF32, &EXPAND_TF32] } else { [&EXPAND_MOMENTS, &EXPAND] };
        if self.eps.is_some() {
            args.launch(moments_kernel, dtype, grid, ring, &params)?;
        }
        args.launch(kernel, dtype, grid, ring.max(tile), &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        recomputed(v, |x| self.parts(x))
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// Input d, and with `eps` the norm's weight and bias; outputs the pooled vectors and the pixels' moments.
struct Squeeze {
    eps: Option<f64>,
}

/// Images, pixels and channels of `[n, h, w, c]`.
fn images(op: &'static str, shape: Shape) -> Result<[usize; 3]> {
    match shape.nhwc() {
        Some([n, h, w, c]) if h * w > 0 && c > 0 => Ok([n, h * w, c]),
        _ => Err(Error::shape(op, format!("images [n, h, w, c] wanted, got {shape}"))),
    }
}

/// The type of moments beside tensors of `dtype`.
fn moments_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

impl Op for Squeeze {
    fn name(&self) -> &'static str {
        "mbconv_squeeze"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let [n, _, c] = images(self.name(), x[0].shape)?;
        if !norms_fit(&x[1..], c) {
            return Err(Error::shape(self.name(), format!("a norm over {c} channels with weight {}", x[1].shape)));
        }
        Ok(vec![Spec::new([n, c], dtype), Spec { shape: x[0].shape.with(3, 2), dtype: moments_dtype(dtype) }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        on_host(args, |x| Ok(normed(&x[0], &x[1..], self.eps)?.silu_pool()?[1].clone()))?;
        let c = args.x_shape(0).last();
        float_dispatch!(args, T => {
            let rows = args.x::<T>(0).chunks_exact(c);
            for (of, row) in args.y::<T>(1).chunks_exact_mut(2).zip(rows) {
                let (mean, scale) = self.eps.map_or((T::c(0.0), T::c(1.0)), |eps| Norm::of(row, T::c(eps)).moments());
                of.copy_from_slice(&[mean, scale]);
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let d = args.x[0];
        let ([n, pixels, c], int) = (images(self.name(), d.shape())?, |count| count31(self.name(), count));
        let norm = |i: usize| args.x.get(1 + i).map_or(DevicePtr::NULL, |norm| norm.ptr);
        let params = SqueezeParams {
            d: d.ptr,
            norm_weight: norm(0),
            norm_bias: norm(1),
            pooled: args.y[0].ptr,
            moments: args.y[1].ptr,
            images: int(n)?,
            pixels: int(pixels)?,
            c: int(c)?,
            aligned: (c * d.dtype().bytes()).is_multiple_of(16).into(),
            eps: self.eps.unwrap_or(0.0) as f32,
            unused: 0,
        };
        args.launch(&SQUEEZE, d.dtype(), params.images, 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        recomputed(v, |x| Ok(normed(&x[0], &x[1..], self.eps)?.silu_pool()?[1].clone()))
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// Inputs d, moments, gate, weight; with `eps` the norm's weight and bias, with `out_eps` those of the result's norm; the
/// residual where there is one.
struct Project {
    eps: Option<f64>,
    out_eps: Option<f64>,
    residual: bool,
}

impl Project {
    /// Where the weights of the result's norm are, and where the residual is.
    fn places(&self) -> [usize; 2] {
        let out_norm = 4 + 2 * usize::from(self.eps.is_some());
        [out_norm, out_norm + 2 * usize::from(self.out_eps.is_some())]
    }

    fn parts(&self, x: &[Tensor]) -> Result<Tensor> {
        let [out_norm, residual] = self.places();
        let y = normed(&x[0], &x[4..], self.eps)?.silu()?.excited_linear(&x[2], &x[3])?;
        let y = normed(&y, &x[out_norm..], self.out_eps)?;
        if self.residual { y.add(&x[residual]) } else { Ok(y) }
    }
}

impl Op for Project {
    fn name(&self) -> &'static str {
        "mbconv_project"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let [out_norm, residual] = self.places();
        let dtype = x[0].dtype;
        let floats: Vec<Spec> = x.iter().enumerate().filter(|&(i, _)| i != 1).map(|(_, spec)| *spec).collect();
        same_float(self.name(), &floats)?;
        let [n, _, c] = images(self.name(), x[0].shape)?;
        let [d, moments, gate, weight] = [0, 1, 2, 3].map(|i| x[i].shape);
        let y = d.with(3, weight.as_array().map_or(0, |[out, _]| out));
        let fits = x[1] == Spec { shape: d.with(3, 2), dtype: moments_dtype(dtype) }
            && *gate == [n, c]
            && *weight == [y.last(), c]
            && norms_fit(&x[4..out_norm], c)
            && norms_fit(&x[out_norm..residual], y.last())
            && x[residual..].iter().all(|residual| residual.shape == y);
        if !fits || y.last() == 0 {
            let message =
                format!("images {d} with moments {moments}, gates {gate}, weight {weight}, norms or residual");
            return Err(Error::shape(self.name(), format!("{message} do not fit")));
        }
        if self.out_eps.is_some() && y.last() > MOST_NORMED {
            let message = format!("{} columns to normalise, at most {MOST_NORMED}; do it with layer_norm", y.last());
            return Err(Error::shape(self.name(), message));
        }
        Ok(vec![Spec { shape: y, dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        on_host(args, |x| self.parts(x))
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        (y[0].shape.elems() * x[0].shape.last()) as u64
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let d = args.x[0];
        let ([n, pixels, c], out) = (images(self.name(), d.shape())?, args.y[0].shape().last());
        let (dtype, bytes, int) = (d.dtype(), d.dtype().bytes(), |count| count31(self.name(), count));
        let [out_norm, residual] = self.places();
        let or_null = |i: usize, there: bool| if there { args.x[i].ptr } else { DevicePtr::NULL };
        // The tiles of `kernels/mbconv.cu`.
        let (tile_rows, wide) = (if bytes == 4 { 32 } else { 64 }, out > NARROW);
        let columns = if wide { WIDE } else { NARROW };
        let params = ProjectParams {
            d: d.ptr,
            moments: args.x[1].ptr,
            norm_weight: or_null(4, self.eps.is_some()),
            norm_bias: or_null(5, self.eps.is_some()),
            gate: args.x[2].ptr,
            weight: args.x[3].ptr,
            out_weight: or_null(out_norm, self.out_eps.is_some()),
            out_bias: or_null(out_norm + 1, self.out_eps.is_some()),
            residual: or_null(residual, self.residual),
            y: args.y[0].ptr,
            rows: (n * pixels) as u64,
            pixels: int(pixels)?,
            c: int(c)?,
            out: int(out)?,
            tiles: int(out.div_ceil(columns))?,
            vector: vector(c, dtype),
            aligned: (c * bytes).is_multiple_of(16).into(),
            aligned_out: (out * bytes).is_multiple_of(16).into(),
            out_eps: self.out_eps.unwrap_or(0.0) as f32,
        };
        let grid = blocks_for_each((n * pixels).div_ceil(tile_rows), params.tiles);
        // Two stages of both operands, then the result.
        let (ring, tile) = (2 * (tile_rows + columns) * 80, tile_rows * (columns * bytes + 16));
        let kernel = match (wide, args.rounds_to_tf32(dtype, n * pixels * c * out)) {
            (false, false) => &PROJECT_NARROW,
            (false, true) => &PROJECT_NARROW_TF32,
            (true, false) => &PROJECT_WIDE,
            (true, true) => &PROJECT_WIDE_TF32,
        };
        args.launch(kernel, dtype, grid, ring.max(tile), &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        recomputed(v, |x| self.parts(x))
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

kernel_params! {
    struct ExpandParams {
        x: DevicePtr,
        weight: DevicePtr,
        norm_weight: DevicePtr,
        norm_bias: DevicePtr,
        moments: DevicePtr,
        taps: DevicePtr,
        d: DevicePtr,
        images: u32,
        h: u32,
        w: u32,
        oh: u32,
        ow: u32,
        side: u32,
        stride: u32,
        inputs: u32,
        hidden: u32,
        images_per_block: u32,
        slices: u32,
        vector: u32,
        four_channels: u32,
        eps: f32,
    }

    struct SqueezeParams {
        d: DevicePtr,
        norm_weight: DevicePtr,
        norm_bias: DevicePtr,
        pooled: DevicePtr,
        moments: DevicePtr,
        images: u32,
        pixels: u32,
        c: u32,
        aligned: u32,
        eps: f32,
        unused: u32,
    }

    struct ProjectParams {
        d: DevicePtr,
        moments: DevicePtr,
        norm_weight: DevicePtr,
        norm_bias: DevicePtr,
        gate: DevicePtr,
        weight: DevicePtr,
        out_weight: DevicePtr,
        out_bias: DevicePtr,
        residual: DevicePtr,
        y: DevicePtr,
        rows: u64,
        pixels: u32,
        c: u32,
        out: u32,
        tiles: u32,
        vector: u32,
        aligned: u32,
        aligned_out: u32,
        out_eps: f32,
    }
}

const THREADS: u32 = 256;
/// Rows and channels of a block of the expansion.
const TILE: usize = 128;
/// Columns of a block of the projection.
const NARROW: usize = 128;
const WIDE: usize = 512;

const fn expand(name: &'static str, types: &'static [DType]) -> Kernel<ExpandParams> {
    // SAFETY: only this file fills `ExpandParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::MBCONV, name, THREADS, types) }
}

const fn project(name: &'static str, types: &'static [DType]) -> Kernel<ProjectParams> {
    // SAFETY: as above, `ProjectParams`.
    unsafe { Kernel::new(&modules::MBCONV, name, THREADS, types) }
}

const EXPAND_MOMENTS: Kernel<ExpandParams> = expand("expand_moments", FLOATS);
const EXPAND_MOMENTS_TF32: Kernel<ExpandParams> = expand("expand_moments_tf32", &[DType::F32]);
const EXPAND: Kernel<ExpandParams> = expand("expand_fwd", FLOATS);
const EXPAND_TF32: Kernel<ExpandParams> = expand("expand_fwd_tf32", &[DType::F32]);
// SAFETY: as above, `SqueezeParams`.
const SQUEEZE: Kernel<SqueezeParams> = unsafe { Kernel::new(&modules::MBCONV, "squeeze_fwd", THREADS, FLOATS) };
const PROJECT_NARROW: Kernel<ProjectParams> = project("project_n128_fwd", FLOATS);
const PROJECT_NARROW_TF32: Kernel<ProjectParams> = project("project_n128_fwd_tf32", &[DType::F32]);
const PROJECT_WIDE: Kernel<ProjectParams> = project("project_n512_fwd", FLOATS);
const PROJECT_WIDE_TF32: Kernel<ProjectParams> = project("project_n512_fwd_tf32", &[DType::F32]);

/// A norm of the last inputs of a case.
fn norm(x: &[Tensor], at: usize) -> LayerNormOf {
    LayerNormOf { weight: x[at].clone(), bias: x[at + 1].clone(), eps: 1e-5 }
}

pub const SPEC: OpSpec = OpSpec {
    name: "mbconv",
    order: Order::Once,
    kernels: &[
        EXPAND_MOMENTS.info(),
        EXPAND_MOMENTS_TF32.info(),
        EXPAND.info(),
        EXPAND_TF32.info(),
        SQUEEZE.info(),
        PROJECT_NARROW.info(),
        PROJECT_NARROW_TF32.info(),
        PROJECT_WIDE.info(),
        PROJECT_WIDE_TF32.info(),
        block::KERNELS[0],
        block::KERNELS[1],
    ],
    cases: || {
        let expand = |name, x: [usize; 4], hidden: usize, side: usize, stride| {
            let inputs =
                [normal(x), normal([hidden, x[3]]), normal([side, side, hidden]), normal([hidden]), normal([hidden])];
            Case::new(name, inputs, move |x| Ok(vec![x[0].mbconv_expand(&x[1], Some(&norm(x, 3)), &x[2], stride)?]))
        };
        let squeeze = |name, d: [usize; 4]| {
            let inputs = [normal(d), normal([d[3]]), normal([d[3]])];
            Case::new(name, inputs, |x| Ok(vec![x[0].mbconv_squeeze(Some(&norm(x, 1)))?[0].clone()]))
        };
        let project = |name, d: [usize; 4], out: usize| {
            let y = [d[0], d[1], d[2], out];
            let vectors = [d[3], d[3], out, out].map(|channels| normal([channels]));
            let inputs = [normal(d), normal([d[0], d[3]]), normal([out, d[3]]), normal(y)].into_iter().chain(vectors);
            Case::new(name, inputs.collect::<Vec<_>>(), |x| {
                let [_, moments] = x[0].mbconv_squeeze(Some(&norm(x, 4)))?;
                Ok(vec![x[0].mbconv_project(
                    [&moments, &x[1], &x[2]],
                    Some(&norm(x, 4)),
                    Some(&norm(x, 6)),
                    Some(&x[3]),
                )?])
            })
        };
        let block = |name, x: [usize; 4], [hidden, out, squeeze]: [usize; 3], stride, normed: bool| {
            // As layers begin: sums of hundreds of normal numbers would saturate the gate, whose gradient is then all rounding.
            let matrix = |rows: usize, columns: usize| {
                let most = (3.0 / columns as f64).sqrt();
                drawn([rows, columns], Draw::Uniform(-most, most))
            };
            let weights = [
                matrix(hidden, x[3]),
                normal([3, 3, hidden]),
                matrix(squeeze, hidden),
                normal([squeeze]),
                matrix(hidden, squeeze),
                normal([hidden]),
                matrix(out, hidden),
            ];
            let norms = [hidden, hidden, hidden, hidden, out, out].map(|channels| normal([channels]));
            let norms = norms.into_iter().filter(|_| normed);
            let inputs: Vec<_> = [normal(x)].into_iter().chain(weights).chain(norms).collect();
            Case::new(name, inputs, move |x| {
                let norm = |i: usize| normed.then(|| norm(x, i));
                let of = MbConvOf {
                    expand: Some((x[1].clone(), norm(8))),
                    taps: x[2].clone(),
                    stride,
                    norm: norm(10),
                    reduce: [x[3].clone(), x[4].clone()],
                    excite: [x[5].clone(), x[6].clone()],
                    project: x[7].clone(),
                    out_norm: norm(12),
                    residual: stride == 1 && x[0].shape().last() == x[7].shape()[0],
                };
                Ok(vec![x[0].mbconv(&of)?])
            })
        };
        vec![
            expand("expand_ragged", [3, 3, 5, 9], 21, 3, 1),
            expand("expand_images_share_a_block", [5, 4, 4, 40], 160, 3, 1),
            expand("expand_strided_5x5", [2, 7, 6, 12], 36, 5, 2),
            expand("expand_one_pixel", [2, 1, 1, 1], 2, 1, 1),
            squeeze("squeeze_ragged", [2, 3, 5, 7]),
            squeeze("squeeze_aligned", [1, 2, 3, 40]),
            project("project_ragged", [2, 3, 3, 5], 7),
            project("project_past_a_tile", [5, 3, 5, 72], 136),
            project("project_one_pixel", [3, 1, 1, 16], 1),
            block("block", [3, 4, 4, 16], [64, 24, 5], 1, true),
            block("block_of_four_without_norms", [5, 4, 4, 8], [520, 136, 2], 1, false),
            block("block_of_eight_without_norms", [5, 4, 4, 8], [1064, 264, 2], 1, false),
            block("block_of_four", [2, 4, 4, 8], [520, 8, 6], 1, true),
            block("block_of_eight", [9, 3, 3, 8], [1032, 72, 3], 2, true),
            Case::new(
                "without_norms",
                [[24, 8], [3, 24], [516, 24], [72, 24]]
                    .map(normal)
                    .into_iter()
                    .chain([normal([3, 4, 6, 8]), normal([3, 3, 24])])
                    .collect::<Vec<_>>(),
                |x| {
                    let d = x[4].mbconv_expand(&x[0], None, &x[5], 2)?;
                    let [pooled, moments] = d.mbconv_squeeze(None)?;
                    let project = |weight: &Tensor| d.mbconv_project([&moments, &x[1], weight], None, None, None);
                    Ok(vec![project(&x[2])?, project(&x[3])?, pooled])
                },
            ),
        ]
    },
    workloads: || {
        let (n, inputs, hidden) = (256, 512, 2048);
        let (rows, vector) = (n * 64, || normal([hidden]));
        let product = 2.0 * (rows * inputs * hidden) as f64;
        let x = [normal([n, 8, 8, inputs]), normal([hidden, inputs]), normal([3, 3, hidden]), vector(), vector()];
        let d = [normal([n, 8, 8, hidden]), vector(), vector(), normal([n, hidden]), normal([inputs, hidden])];
        vec![
            Workload::gpu("mbconv_expand_8px_512", x, product + 18.0 * (rows * hidden) as f64, |x| {
                x[0].mbconv_expand(&x[1], Some(&norm(x, 3)), &x[2], 1)
            }),
            Workload::gpu("mbconv_project_8px_512", d, product, |x| {
                let [_, moments] = x[0].mbconv_squeeze(Some(&norm(x, 1)))?;
                x[0].mbconv_project([&moments, &x[3], &x[4]], Some(&norm(x, 1)), None, None)
            }),
        ]
    },
    ..OpSpec::BARE
};
