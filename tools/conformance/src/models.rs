//! Blocks and models: built by the library's own constructors from the weights in a case.

use anyhow::{Context, Result};
use isg::{
    Tape, Tensor,
    activation::{Activation, ActivationParams},
    extractor::{discriminator::r1_penalty, lpips::Lpips},
    mil::{
        features::FeatureDims,
        method::Method,
        methods::isg::{Isg, Tokens},
        network::{Dims, Mode, Patches},
        transformer::TransformerConfig,
    },
    nn::{
        mbconv::{MbConv, MbConvConfig},
        norm::NormKind,
        vit::{Sequences, VitBlock, VitConfig},
    },
    ops::{
        conv2d::Conv2d,
        upfirdn2d::{Filter, Upfirdn2d},
    },
};

use crate::{
    check::Prepared,
    subject::{Outputs, Subject},
};

/// `None` where the operation is not one of a model.
pub fn prepare(subject: &Subject) -> Result<Option<Prepared>> {
    Ok(Some(match subject.case.op.as_str() {
        "lpips" => subject.lpips()?,
        "r1_penalty" => subject.r1_penalty()?,
        "mbconv" => subject.mbconv()?,
        "vit_block" => subject.vit_block()?,
        "dual_attention" => subject.dual_attention()?,
        _ => return Ok(None),
    }))
}

impl Subject<'_> {
    fn lpips(&self) -> Result<Prepared> {
        let inputs = ["x0", "x1"];
        let mut builder = self.weights(&inputs);
        let width = |i: usize| self.input(&format!("conv{i}.bias")).map(|bias| bias.shape().elems());
        let widths = [width(0)?, width(1)?, width(2)?, width(3)?, width(4)?];
        let lpips = Lpips::from_builder(&mut builder, widths)?;
        let leaves = self.leaves(&builder.finish()?, &inputs)?;
        let (x0, x1) = (self.input("x0")?, self.input("x1")?);
        let run = move || Ok(Outputs::from([("distance".to_string(), lpips.distance(&x0, &x1)?)]));
        Ok(Prepared { leaves, run: Box::new(run) })
    }

    /// A critic of two convolutions, the second one halving, differentiated twice.
    fn r1_penalty(&self) -> Result<Prepared> {
        let filter = Filter::low_pass(&self.case.floats("resample_filter")?)?;
        let leaves = self.inputs.clone();
        let [x, w0, b0, w1, b1, w2, b2] = ["x", "w0", "b0", "w1", "b1", "w2", "b2"].map(|name| self.input(name));
        let (x, w0, b0, w1, b1, w2, b2) = (x?, w0?, b0?, w1?, b1?, w2?, b2?);
        let run = move || {
            let critic = |x: &Tensor| -> isg::Result<Tensor> {
                let leaky = ActivationParams { alpha: 0.2, gain: std::f64::consts::SQRT_2, clamp: None };
                let same = Conv2d { padding: 1, ..Conv2d::default() };
                let y = x.conv2d(&w0, None, same)?.bias_act(Some(&b0), Activation::LeakyRelu, leaky)?;
                // Padding 1 for the 3x3 kernel, and what the filter needs to keep the grid centred while halving.
                let taps = 4;
                let (before, after) = (1 + (taps - 2 + 1) / 2, 1 + (taps - 2) / 2);
                let blur = Upfirdn2d { padding: [before, after, before, after], ..Upfirdn2d::default() };
                let halve = Conv2d { stride: 2, ..Conv2d::default() };
                let y = y.upfirdn2d(&filter, blur)?.conv2d(&w1, None, halve)?;
                let y = y.bias_act(Some(&b1), Activation::Softplus, ActivationParams::default())?;
                y.reshape([y.shape()[0], y.shape().elems() / y.shape()[0]])?.linear(&w2, Some(&b2))
            };
            // The penalty's inner gradient is with respect to the image, which the outer tape does not watch.
            let tape = Tape::start();
            tape.watch([&x]);
            let logits = critic(&x)?;
            let penalty = r1_penalty(&tape, &logits, &x)?;
            Ok(Outputs::from([("penalty".to_string(), penalty), ("logits".to_string(), logits)]))
        };
        Ok(Prepared { leaves, run: Box::new(run) })
    }

    fn mbconv(&self) -> Result<Prepared> {
        let training = self.case.flag("training")?;
        let config = self.mbconv_config("", self.case.int("stride")?)?;
        let mut builder = self.weights(&["x"]);
        let block = MbConv::new(&mut builder, config)?;
        let leaves = self.leaves(&builder.finish()?, &["x"])?;
        let x = self.input("x")?;
        let statistics: Vec<String> = (self.case.expected.keys())
            .filter_map(|name| name.strip_prefix("out.").filter(|n| n.contains("running")).map(str::to_string))
            .collect();
        let run = move || {
            let (y, stats) = block.forward(&x, training)?;
            let mut outputs = Outputs::from([("y".to_string(), y)]);
            for name in statistics {
                if let Some(value) = stats.get(&name) {
                    outputs.insert(name, value.clone());
                }
            }
            Ok(outputs)
        };
        Ok(Prepared { leaves, run: Box::new(run) })
    }

    /// Sizes of a block as its weights tell them.
    fn mbconv_config(&self, prefix: &str, stride: usize) -> Result<MbConvConfig> {
        let name = |tensor: &str| format!("{prefix}{tensor}");
        let hidden = self.extent(&name("depthwise.weight"), 2)?;
        let inputs = match self.inputs.contains_key(&name("expand.weight")) {
            true => self.extent(&name("expand.weight"), 1)?,
            false => hidden,
        };
        Ok(MbConvConfig {
            inputs,
            outputs: self.extent(&name("project.weight"), 0)?,
            expansion: hidden / inputs,
            kernel: self.extent(&name("depthwise.weight"), 0)?,
            stride,
            squeeze: self.extent(&name("se.reduce.weight"), 0)?,
            norm: NormKind::Batch,
        })
    }

    fn vit_block(&self) -> Result<Prepared> {
        let (heads, shape) = (self.case.int("heads")?, self.input("x")?.shape());
        let [batch, length, width] = shape.as_array().context("x is not [batch, length, width]")?;
        let mut builder = self.weights(&["x"]);
        let block = VitBlock::new(&mut builder, VitConfig { width, heads, mlp: self.extent("fc1.weight", 0)? })?;
        let leaves = self.leaves(&builder.finish()?, &["x"])?;
        let x = self.input("x")?;
        let run = move || {
            let rows = x.reshape([batch * length, width])?;
            let sequences = Sequences::new(&vec![length; batch], x.device())?;
            let y = block.forward(&rows, &sequences, None)?.reshape(shape)?;
            Ok(Outputs::from([("y".to_string(), y)]))
        };
        Ok(Prepared { leaves, run: Box::new(run) })
    }

    /// The whole regressor in the paper's literal form.
    fn dual_attention(&self) -> Result<Prepared> {
        let inputs = ["R", "f"];
        let [n, grid, _, width] = self.input("R")?.shape().nhwc().context("R is not [n, g, g, d]")?;
        let block = self.mbconv_config("mbconv.0.", 1)?;
        let vit_width = self.extent("embed.weight", 0)?;
        let isg = Isg {
            mbconv_blocks: self.case.int("mbconv_blocks")?,
            fusion_every: self.case.int("fusion_every")?,
            mbconv_expansion: block.expansion,
            mbconv_kernel: block.kernel,
            squeeze_ratio: (block.squeeze as f64 + 0.5) / width as f64,
            mbconv_norm: NormKind::Batch,
            fusion_residual: false,
            fusion_norm: false,
            tokens: Tokens::Local,
            transformer: TransformerConfig {
                vit_width,
                vit_depth: self.case.int("vit_depth")?,
                vit_heads: self.case.int("vit_heads")?,
                vit_mlp_ratio: self.extent("vit.0.fc1.weight", 0)? as f64 / vit_width as f64,
                ..TransformerConfig::vit_s()
            },
        };
        let genes = self.extent("head.weight", 0)?;
        // Nothing reads the last global update; the case carries its weights all the same, with gradients of zero.
        let last = isg.mbconv_blocks / isg.fusion_every - 1;
        let unread = ["w_z", "w_p", "w_f"].map(|name| format!("fusion.{last}.{name}"));
        let mut builder = self.weights(&[inputs[0], inputs[1], &unread[0], &unread[1], &unread[2]]);
        let features = FeatureDims { global: width, cell: width, grid };
        let network = isg.network(&mut builder, Dims { features, genes })?;
        let mut leaves = self.leaves(&builder.finish()?, &inputs)?;
        for name in unread {
            leaves.insert(name.clone(), self.input(&name)?);
        }
        let patches = Patches { cube: Some(self.input("R")?), global: Some(self.input("f")?), position: None };
        let device = self.device.clone();
        let run = move || {
            let slide = Sequences::new(&[n], &device)?;
            let y = network.forward(&patches, &slide, &mut Mode::Evaluate)?.reshape([genes])?;
            Ok(Outputs::from([("y".to_string(), y)]))
        };
        Ok(Prepared { leaves, run: Box::new(run) })
    }
}
