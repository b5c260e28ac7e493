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
    ops::mbconv::MbConvOf,
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
        // Nothing is recorded, and no statistics are those of a batch: in passes that keep the hidden tensor on the chip.
        if !training
            && !tape::alive()
            && !x.device().is_cpu()
            && let Some(of) = self.weights(x)?
        {
            return Ok((x.mbconv(&of)?, stats));
        }
        let mut y = x.clone();
        if let Some((expand, norm)) = &self.expand {
            y = norm.forward(&expand.forward(&y)?, training, "bn0", &mut stats)?.silu()?;
        }
        y = self.depthwise.forward(&y)?;
        let [hidden, squeezed] = self.depthwise_norm.forward(&y, training, "bn1", &mut stats)?.silu_pool()?;
        let gate = self
            .excite
            .forward_activated(&self.reduce.forward_activated(&squeezed, Activation::Silu)?, Activation::Sigmoid)?;
        y = hidden.excited_linear(&gate, &self.project.weight().matching(x)?)?;
        y = self.project_norm.forward(&y, training, "bn2", &mut stats)?;
        Ok((if self.residual { x.add(&y)? } else { y }, stats))
    }

    /// What the fused op takes, at the type of `x`; none where normalisation is over a batch.
    fn weights(&self, x: &Tensor) -> Result<Option<MbConvOf>> {
        let (Some(reduce), Some(excite)) = (self.reduce.biased(x)?, self.excite.biased(x)?) else { return Ok(None) };
        if matches!(self.depthwise_norm, Norm::Batch { .. }) {
            return Ok(None);
        }
        let expand = match &self.expand {
            Some((expand, norm)) => Some((expand.weight().matching(x)?, norm.layer(x)?)),
            None => None,
        };
        Ok(Some(MbConvOf {
            expand,
            taps: self.depthwise.weight().matching(x)?,
            stride: self.depthwise.stride(),
            norm: self.depthwise_norm.layer(x)?,
            reduce,
            excite,
            project: self.project.weight().matching(x)?,
            out_norm: self.project_norm.layer(x)?,
            residual: self.residual,
        }))
    }
}

/// How strongly a fresh branch adds to its residual path.
pub const RESIDUAL_GAIN: f64 = 0.2;
