//! The whole block: one kernel of clusters on compute capability 9.0 (`kernels/mbconv_sm90.cu`), else the three passes of this op.

use super::{LayerNormOf, MOST_NORMED, MOST_PIXELS, expansion_pays, normed, norms_fit, on_host, recomputed};
use crate::{
    activation::Activation,
    device::{
        driver::{DeviceProps, DevicePtr},
        index::count31,
        kernel::{Kernel, KernelInfo, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    gemm::heuristics::MIN_CLUSTER_HIDDEN,
    kernel_params,
    op::{DeviceArgs, HostArgs, Op, apply1, same_float},
    ops::epilogue::Epilogue,
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// The weights of a block, at the type of what enters it.
pub struct MbConvOf {
    /// `[hidden, inputs]` and the norm behind it; none where the depthwise convolution comes first.
    pub expand: Option<(Tensor, Option<LayerNormOf>)>,
    /// `[side, side, hidden]`
    pub taps: Tensor,
    pub stride: usize,
    /// Behind the depthwise convolution.
    pub norm: Option<LayerNormOf>,
    /// `[squeeze, hidden]` and `[squeeze]`.
    pub reduce: [Tensor; 2],
    /// `[hidden, squeeze]` and `[hidden]`.
    pub excite: [Tensor; 2],
    /// `[outputs, hidden]`
    pub project: Tensor,
    pub out_norm: Option<LayerNormOf>,
    /// The input is added to the result.
    pub residual: bool,
}

impl Tensor {
    /// A block of MBConv, its activations SiLU: `[n, h, w, inputs] -> [n, ⌈h / stride⌉, ⌈w / stride⌉, outputs]`.
    pub fn mbconv(&self, of: &MbConvOf) -> Result<Tensor> {
        let residual = of.residual.then_some(self);
        let d = match &of.expand {
            Some((weight, norm)) if self.device().props().is_some_and(|props| takes(self, weight, of, &props)) => {
                return self.mbconv_block((weight, norm.as_ref()), of);
            }
            Some((weight, norm)) if expansion_pays(self, leading(weight), norm.is_some()) => {
                self.mbconv_expand(weight, norm.as_ref(), &of.taps, of.stride)?
            }
            Some((weight, norm)) => {
                let h = self.linear(weight, None)?;
                let h = norm.as_ref().map_or(Ok(h.clone()), |n| h.layer_norm(&n.weight, &n.bias, n.eps))?;
                h.silu()?.depthwise_conv2d(&of.taps, of.stride, leading(&of.taps) / 2)?
            }
            None => self.depthwise_conv2d(&of.taps, of.stride, leading(&of.taps) / 2)?,
        };
        let [pooled, moments] = d.mbconv_squeeze(of.norm.as_ref())?;
        let gate = gate(&pooled, &of.reduce, &of.excite)?;
        let operands = [&moments, &gate, &of.project];
        match &of.out_norm {
            Some(norm) if leading(&of.project) > MOST_NORMED => {
                let y = d.mbconv_project(operands, of.norm.as_ref(), None, None)?;
                let y = y.layer_norm(&norm.weight, &norm.bias, norm.eps)?;
                residual.map_or(Ok(y.clone()), |x| x.add(&y))
            }
            out_norm => d.mbconv_project(operands, of.norm.as_ref(), out_norm.as_ref(), residual),
        }
    }

    fn mbconv_block(&self, (weight, norm): (&Tensor, Option<&LayerNormOf>), of: &MbConvOf) -> Result<Tensor> {
        let ([reduce, reduce_bias], [excite, excite_bias]) = (&of.reduce, &of.excite);
        let norms = [norm, of.norm.as_ref(), of.out_norm.as_ref()];
        let mut x = vec![self, weight, &of.taps, reduce, reduce_bias, excite, excite_bias, &of.project];
        x.extend(norms.into_iter().flatten().flat_map(|norm| [&norm.weight, &norm.bias]));
        let eps = norms.map(|norm| norm.map(|norm| norm.eps));
        apply1(Block { eps, stride: of.stride, residual: of.residual }, &x)
    }
}

/// The gate of every channel, from the pooled vectors.
fn gate(pooled: &Tensor, [reduce, reduce_bias]: &[Tensor; 2], [excite, excite_bias]: &[Tensor; 2]) -> Result<Tensor> {
    let activated = |bias, activation| Epilogue { activation, ..Epilogue::bias(Some(bias)) };
    let reduced = pooled.linear_fused(reduce, &activated(reduce_bias, Activation::Silu))?;
    reduced.linear_fused(excite, &activated(excite_bias, Activation::Sigmoid))
}

/// The first extent.
fn leading(t: &Tensor) -> usize {
    t.shape().first().copied().unwrap_or(0)
}

/// Whether the kernel of clusters is for a block of these weights on this device.
fn takes(x: &Tensor, weight: &Tensor, of: &MbConvOf, props: &DeviceProps) -> bool {
    let (Some([_, h, w, inputs]), outputs) = (x.shape().nhwc(), leading(&of.project)) else { return false };
    let (hidden, squeeze) = (leading(weight), leading(&of.reduce[0]));
    props.capability == (9, 0)
        && x.dtype().bytes() == 2
        && [inputs, hidden, outputs].iter().all(|channels| channels % 8 == 0)
        && (1..=MOST_PIXELS).contains(&(h * w))
        && (MIN_CLUSTER_HIDDEN..=MOST_BLOCKS * CHANNELS).contains(&hidden)
        && (1..=MOST_SQUEEZE).contains(&squeeze)
        && (1..=COLUMNS).contains(&outputs)
}

/// Inputs x, the expansion's weight, taps, weight and bias of `reduce` and of `excite`, the projection's weight, then weight and
/// bias of every norm with an `eps`.
struct Block {
    eps: [Option<f64>; 3],
    stride: usize,
    residual: bool,
}

impl Block {
    /// Where the weight of each norm is.
    fn norms(&self) -> [usize; 3] {
        let mut at = 8;
        self.eps.map(|eps| {
            let here = at;
            at += 2 * usize::from(eps.is_some());
            here
        })
    }

    fn parts(&self, x: &[Tensor]) -> Result<Tensor> {
        let (norms, clones) = (self.norms(), |i: usize| [x[i].clone(), x[i + 1].clone()]);
        let norm = |y: &Tensor, i: usize| normed(y, &x[norms[i]..], self.eps[i]);
        let h = norm(&x[0].linear(&x[1], None)?, 0)?.silu()?;
        let d = h.depthwise_conv2d(&x[2], self.stride, x[2].shape()[0] / 2)?;
        let [s, pooled] = norm(&d, 1)?.silu_pool()?;
        let y = norm(&s.excited_linear(&gate(&pooled, &clones(3), &clones(5))?, &x[7])?, 2)?;
        if self.residual { x[0].add(&y) } else { Ok(y) }
    }
}

impl Op for Block {
    fn name(&self) -> &'static str {
        "mbconv"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let expand = super::Expand { eps: None, stride: self.stride };
        let super::Extents { n, x: [h, w], y: [oh, ow], inputs, hidden, .. } =
            expand.extents([0, 1, 2].map(|i| x[i].shape))?;
        let [norm0, _, norm2] = self.norms();
        let (squeeze, outputs) = (x[4].shape.elems(), x[7].shape.as_array().map_or(0, |[outputs, _]| outputs));
        let fits = *x[3].shape == [squeeze, hidden]
            && *x[4].shape == [squeeze]
            && *x[5].shape == [hidden, squeeze]
            && *x[6].shape == [hidden]
            && *x[7].shape == [outputs, hidden]
            && norms_fit(&x[norm0..norm2], hidden)
            && norms_fit(&x[norm2..], outputs)
            && (!self.residual || [h, w, inputs] == [oh, ow, outputs]);
        if !fits {
            let shapes: Vec<String> = x.iter().map(|spec| spec.shape.to_string()).collect();
            return Err(Error::shape(self.name(), format!("weights that do not fit: {}", shapes.join(" "))));
        }
        Ok(vec![Spec::new([n, oh, ow, outputs], dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        on_host(args, |x| self.parts(x))
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        let ([hidden, inputs], taps, gates) = ([0, 1].map(|i| x[1].shape[i]), x[2].shape, x[3].shape.elems());
        let rows = y[0].shape.rows();
        let outputs = rows * hidden * (taps[0] * taps[1] + y[0].shape.last());
        (x[0].shape.rows() * inputs * hidden + outputs + 2 * x[0].shape[0] * gates) as u64
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let expand = super::Expand { eps: None, stride: self.stride };
        let super::Extents { n, x: [h, w], y: [oh, ow], side, inputs, hidden } =
            expand.extents([0, 1, 2].map(|i| args.x[i].shape()))?;
        let (outputs, dtype, int) = (args.y[0].shape().last(), args.y[0].dtype(), |count| count31(self.name(), count));
        let x = |i: usize| args.x[i].ptr;
        let norms = self.norms();
        let norm = |i: usize, bias: usize| self.eps[i].map_or(DevicePtr::NULL, |_| x(norms[i] + bias));
        let eps = self.eps.map(|eps| eps.unwrap_or(0.0) as f32);
        let images_per_block = (MOST_PIXELS / (h * w)).min(MOST_IMAGES);
        let params = BlockParams {
            x: x(0),
            weight: x(1),
            taps: x(2),
            reduce: x(3),
            reduce_bias: x(4),
            excite: x(5),
            excite_bias: x(6),
            project: x(7),
            norm0_weight: norm(0, 0),
            norm0_bias: norm(0, 1),
            norm1_weight: norm(1, 0),
            norm1_bias: norm(1, 1),
            norm2_weight: norm(2, 0),
            norm2_bias: norm(2, 1),
            residual: if self.residual { x(0) } else { DevicePtr::NULL },
            y: args.y[0].ptr,
            images: int(n)?,
            h: int(h)?,
            w: int(w)?,
            oh: int(oh)?,
            ow: int(ow)?,
            side: int(side)?,
            stride: int(self.stride)?,
            inputs: int(inputs)?,
            hidden: int(hidden)?,
            squeeze: int(args.x[4].elems())?,
            out: int(outputs)?,
            images_per_block: int(images_per_block)?,
            eps0: eps[0],
            eps1: eps[1],
            eps2: eps[2],
            unused: 0,
        };
        let (kernel, blocks) = if hidden <= 4 * CHANNELS { (&BLOCK_4, 4) } else { (&BLOCK_8, MOST_BLOCKS) };
        // Three stages of 128 rows and 256 channels, 64 bytes of K and 16 of padding each; then d.
        let shared_bytes = 3 * (MOST_PIXELS + CHANNELS) * 80 + MOST_PIXELS * (CHANNELS * 2 + 16);
        args.launch(kernel, dtype, blocks_for_each(n.div_ceil(images_per_block), blocks as u32), shared_bytes, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        recomputed(v, |x| self.parts(x))
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

kernel_params! {
    struct BlockParams {
        x: DevicePtr,
        weight: DevicePtr,
        taps: DevicePtr,
        reduce: DevicePtr,
        reduce_bias: DevicePtr,
        excite: DevicePtr,
        excite_bias: DevicePtr,
        project: DevicePtr,
        norm0_weight: DevicePtr,
        norm0_bias: DevicePtr,
        norm1_weight: DevicePtr,
        norm1_bias: DevicePtr,
        norm2_weight: DevicePtr,
        norm2_bias: DevicePtr,
        residual: DevicePtr,
        y: DevicePtr,
        images: u32,
        h: u32,
        w: u32,
        oh: u32,
        ow: u32,
        side: u32,
        stride: u32,
        inputs: u32,
        hidden: u32,
        squeeze: u32,
        out: u32,
        images_per_block: u32,
        eps0: f32,
        eps1: f32,
        eps2: f32,
        unused: u32,
    }
}

/// Hidden channels of a block of threads, the most blocks of a cluster, columns of a cluster; images and channels between squeeze
/// and excitation that a block holds.
const CHANNELS: usize = 256;
const MOST_BLOCKS: usize = 8;
const COLUMNS: usize = 512;
const MOST_IMAGES: usize = 8;
const MOST_SQUEEZE: usize = 256;

const fn block(name: &'static str) -> Kernel<BlockParams> {
    // SAFETY: only this file fills `BlockParams`, from the tensors of the launch and from their sizes.
    unsafe { Kernel::new(&modules::MBCONV_SM90, name, 256, &[DType::Bf16, DType::F16]) }
}

const BLOCK_4: Kernel<BlockParams> = block("c4_fwd");
const BLOCK_8: Kernel<BlockParams> = block("c8_fwd");

pub(super) const KERNELS: [KernelInfo; 2] = [BLOCK_4.info(), BLOCK_8.info()];
