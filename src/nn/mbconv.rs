//! The mobile inverted bottleneck with squeeze and excitation (MBConv) of EfficientNet: a 1x1 expansion, a depthwise
//! convolution, a gate per channel, a 1x1 projection, each convolution normalised, SiLU between them, and a residual path
//! where the shape allows. With batch normalisation it computes what torchvision's `MBConv` computes.

use crate::{
    activation::Activation,
    device::nvtx,
    error::{Error, Result},
    nn::{
        builder::Builder,
        depthwise::DepthwiseConv,
        linear::Linear,
        norm::{Norm, NormKind, RunningStats},
    },
    ops::mbconv::{MOST_NORMED, expansion_pays},
    tape,
    tensor::Tensor,
};

/// Sizes of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MbConvConfig {
    pub inputs: usize,
    pub outputs: usize,
    /// Hidden channels are `inputs * expansion`; with 1 there is no expansion layer.
    pub expansion: usize,
    /// Side of the depthwise kernel, odd; padding is half of it.
    pub kernel: usize,
    pub stride: usize,
    /// Channels between squeeze and excitation.
    pub squeeze: usize,
    pub norm: NormKind,
}

pub struct MbConv {
    expand: Option<(Linear, Norm)>,
    depthwise: DepthwiseConv,
    depthwise_norm: Norm,
    reduce: Linear,
    excite: Linear,
    project: Linear,
    project_norm: Norm,
    residual: bool,
}

impl MbConv {
    /// Parameters `expand.weight`, `depthwise.weight` `[r, s, hidden]`, `se.reduce.*`, `se.expand.*`, `project.weight`, and
    /// the three normalisations `bn0` (absent without expansion), `bn1`, `bn2`. A fresh block with a residual path begins
    /// near the identity.
    pub fn new(b: &mut Builder, config: MbConvConfig) -> Result<MbConv> {
        let MbConvConfig { inputs, outputs, expansion, kernel, stride, squeeze, norm } = config;
        if [inputs, outputs, expansion, kernel, stride, squeeze].contains(&0) || kernel % 2 == 0 {
            return Err(Error::shape("mbconv", format!("sizes above zero and an odd kernel wanted, got {config:?}")));
        }
        let hidden = inputs * expansion;
        let residual = stride == 1 && inputs == outputs;
        // What the last layer adds to the residual path is small at first, so that depth costs nothing to begin with.
        let last_gain = if residual { RESIDUAL_GAIN } else { 1.0 };
        let (project_gain, project_norm_gain) =
            if norm == NormKind::None { (last_gain, 1.0) } else { (1.0, last_gain) };
        let expand = match expansion {
            1 => None,
            _ => Some((
                b.scope("expand", |b| Linear::without_bias(b, inputs, hidden, 1.0))?,
                b.scope("bn0", |b| Norm::new(b, norm, hidden, 1.0))?,
            )),
        };
        let depthwise = b.scope("depthwise", |b| DepthwiseConv::without_bias(b, kernel, hidden, stride))?;
        let depthwise_norm = b.scope("bn1", |b| Norm::new(b, norm, hidden, 1.0))?;
        let reduce = b.scope("se.reduce", |b| Linear::new(b, hidden, squeeze, 1.0))?;
        let excite = b.scope("se.expand", |b| Linear::new(b, squeeze, hidden, 1.0))?;
        let project = b.scope("project", |b| Linear::without_bias(b, hidden, outputs, project_gain))?;
        let project_norm = b.scope("bn2", |b| Norm::new(b, norm, outputs, project_norm_gain))?;
        Ok(MbConv { expand, depthwise, depthwise_norm, reduce, excite, project, project_norm, residual })
    }

    /// `[n, h, w, inputs] -> [n, h', w', outputs]`, and in training the running statistics it moved (`bn0.running_mean`
    /// and so on; none without batch normalisation).
    pub fn forward(&self, x: &Tensor, training: bool) -> Result<(Tensor, RunningStats)> {
        let _range = nvtx::range("mbconv");
        let mut stats = RunningStats::default();
        let batch = matches!(self.depthwise_norm, Norm::Batch { .. });
        if !training && !batch && !tape::alive() && !x.device().is_cpu() {
            return Ok((self.fused(x)?, stats));
        }
        let y = self.expanded(x, training, &mut stats)?;
        let [hidden, squeezed] = self.depthwise_norm.forward(&y, training, "bn1", &mut stats)?.silu_pool()?;
        let y = hidden.excited_linear(&self.gate(&squeezed)?, &self.project.weight().matching(x)?)?;
        let y = self.project_norm.forward(&y, training, "bn2", &mut stats)?;
        Ok((if self.residual { x.add(&y)? } else { y }, stats))
    }

    /// Up to the depthwise convolution, op by op.
    fn expanded(&self, x: &Tensor, training: bool, stats: &mut RunningStats) -> Result<Tensor> {
        let mut y = x.clone();
        if let Some((expand, norm)) = &self.expand {
            y = norm.forward(&expand.forward(&y)?, training, "bn0", stats)?.silu()?;
        }
        self.depthwise.forward(&y)
    }

    /// The gate of every channel `[n, hidden]`, from the pooled vectors.
    fn gate(&self, squeezed: &Tensor) -> Result<Tensor> {
        let reduced = self.reduce.forward_activated(squeezed, Activation::Silu)?;
        self.excite.forward_activated(&reduced, Activation::Sigmoid)
    }

    /// The same where nothing is recorded and no statistics are those of a batch: the hidden tensor is written once, as the
    /// depthwise convolution leaves it.
    fn fused(&self, x: &Tensor) -> Result<Tensor> {
        let d = match &self.expand {
            Some((expand, norm)) if expansion_pays(x, expand.weight().shape()[0], matches!(norm, Norm::Layer(_))) => {
                let [weight, taps] = [expand.weight().matching(x)?, self.depthwise.weight().matching(x)?];
                x.mbconv_expand(&weight, norm.layer(x)?.as_ref(), &taps, self.depthwise.stride())?
            }
            _ => self.expanded(x, false, &mut RunningStats::default())?,
        };
        let (norm, out_norm) = (self.depthwise_norm.layer(x)?, self.project_norm.layer(x)?);
        let [squeezed, moments] = d.mbconv_squeeze(norm.as_ref())?;
        let (gate, weight) = (self.gate(&squeezed)?, self.project.weight().matching(x)?);
        let operands = [&moments, &gate, &weight];
        if out_norm.is_none() || weight.shape()[0] <= MOST_NORMED {
            return d.mbconv_project(operands, norm.as_ref(), out_norm.as_ref(), self.residual.then_some(x));
        }
        let y = d.mbconv_project(operands, norm.as_ref(), None, None)?;
        let y = self.project_norm.forward(&y, false, "bn2", &mut RunningStats::default())?;
        if self.residual { x.add(&y) } else { Ok(y) }
    }
}

/// How strongly a fresh branch adds to its residual path.
pub const RESIDUAL_GAIN: f64 = 0.2;
