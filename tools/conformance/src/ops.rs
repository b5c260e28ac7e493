//! Single operations: from a case's attributes to a call of the library.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use isg::{
    Tensor,
    activation::{Activation, ActivationParams},
    ops::{
        avg_pool2d::Pool2d,
        batch_norm2d,
        conv2d::Conv2d,
        modulated_conv2d::{ModulatedConv2d, Resampling},
        upfirdn2d::{Filter, Upfirdn2d},
    },
    optim::adam::{self, AdamStep},
};

use crate::{
    case::CaseFile,
    check::Prepared,
    subject::{Outputs, Subject, one},
};

/// The arguments of a case by name.
struct Arguments(HashMap<String, Tensor>);

impl Arguments {
    fn get(&self, name: &str) -> isg::Result<&Tensor> {
        self.0.get(name).ok_or_else(|| isg::Error::Usage(format!("the case holds no argument `{name}`")))
    }
}

/// Prepares an operation for its run; unknown operations are an error.
pub fn prepare(subject: &Subject) -> Result<Prepared> {
    let (case, leaves) = (subject.case, subject.inputs.clone());
    let a = Arguments(leaves.clone());
    let y = |tensor: isg::Result<Tensor>| tensor.map(|t| one("y", t));
    let run: Box<dyn FnOnce() -> isg::Result<Outputs>> = match case.op.as_str() {
        "matmul" => {
            let (ta, tb) = (case.flag("transpose_a")?, case.flag("transpose_b")?);
            Box::new(move || y(a.get("a")?.matmul(a.get("b")?, ta, tb)))
        }
        "linear" => Box::new(move || y(a.get("x")?.linear(a.get("weight")?, Some(a.get("bias")?)))),
        "conv2d" => {
            let conv = Conv2d {
                stride: case.int("stride")?,
                padding: case.int("padding")?,
                dilation: case.int("dilation")?,
                groups: case.int("groups")?,
            };
            Box::new(move || y(a.get("x")?.conv2d(a.get("weight")?, Some(a.get("bias")?), conv)))
        }
        "depthwise_conv2d" => {
            let (stride, padding) = (case.int("stride")?, case.int("padding")?);
            Box::new(move || y(a.get("x")?.depthwise_conv2d(a.get("weight")?, stride, padding)))
        }
        "upfirdn2d" => {
            let padding: Vec<i64> = case.floats("padding")?.into_iter().map(|p| p as i64).collect();
            let padding = padding.try_into().ok().context("attribute padding")?;
            let taps = &case.inputs.get("filter").context("argument filter")?;
            let [height, width] = taps.shape[..] else { bail!("filter is not a matrix") };
            let filter = Filter::new([height, width], &taps.values)?;
            let resample = Upfirdn2d {
                up: case.int("up")?,
                down: case.int("down")?,
                padding,
                flip: case.flag("flip_filter")?,
                gain: case.float("gain")?,
            };
            Box::new(move || y(a.get("x")?.upfirdn2d(&filter, resample)))
        }
        "modulated_conv2d" => {
            let conv = ModulatedConv2d {
                demodulate: case.flag("demodulate")?,
                resampling: Resampling {
                    up: case.int("up")?,
                    down: case.int("down")?,
                    padding: case.int("padding")?,
                    filter: Filter::low_pass(&case.floats("resample_filter")?)?,
                },
            };
            Box::new(move || y(a.get("x")?.modulated_conv2d(a.get("weight")?, a.get("style")?, &conv)))
        }
        "bias_act" => {
            let activation = Activation::parse(case.text("act")?)?;
            let clamp = case.attrs["clamp"].as_f64();
            let options = ActivationParams { alpha: case.float("alpha")?, gain: case.float("gain")?, clamp };
            Box::new(move || y(a.get("x")?.bias_act(Some(a.get("bias")?), activation, options)))
        }
        "layer_norm" => {
            let eps = case.float("eps")?;
            Box::new(move || y(a.get("x")?.layer_norm(a.get("weight")?, a.get("bias")?, eps)))
        }
        "batch_norm2d" => batch_norm(case, a)?,
        "softmax" => Box::new(move || y(a.get("x")?.softmax())),
        "max_pool2d" | "avg_pool2d" => {
            let (kernel, stride, padding) = (case.int("kernel")?, case.int("stride")?, case.int("padding")?);
            let pool = Pool2d { kernel, stride, padding };
            if case.op == "max_pool2d" {
                Box::new(move || y(a.get("x")?.max_pool2d(pool)))
            } else {
                Box::new(move || y(a.get("x")?.avg_pool2d(pool)))
            }
        }
        "global_avg_pool" => Box::new(move || y(a.get("x")?.global_avg_pool())),
        "pixel_norm" => {
            let eps = case.float("eps")?;
            Box::new(move || y(a.get("x")?.pixel_norm(eps)))
        }
        "minibatch_stddev" => {
            let (group, channels) = (case.int("group_size")?, case.int("num_channels")?);
            Box::new(move || y(a.get("x")?.minibatch_stddev(group, channels)))
        }
        "attention" => {
            let scale = case.float("scale")?;
            Box::new(move || y(a.get("q")?.attention(a.get("k")?, a.get("v")?, scale)))
        }
        "local_feature_updater" => Box::new(move || {
            let [w_q, w_k, w_v, w_r] = [a.get("w_q")?, a.get("w_k")?, a.get("w_v")?, a.get("w_r")?];
            a.get("R")?.local_feature_updater(a.get("f")?, w_q, w_k, w_v, w_r).map(|t| one("R", t))
        }),
        "global_feature_updater" => Box::new(move || {
            let [w_z, w_p, w_f] = [a.get("w_z")?, a.get("w_p")?, a.get("w_f")?];
            a.get("R")?.global_feature_updater(a.get("f")?, w_z, w_p, w_f).map(|t| one("f", t))
        }),
        "l1_loss" => Box::new(move || a.get("x")?.l1_loss(a.get("target")?).map(|t| one("loss", t))),
        "mse_loss" => Box::new(move || a.get("x")?.mse_loss(a.get("target")?).map(|t| one("loss", t))),
        "adam_step" => adam_step(case, a)?,
        "segment_softmax" => {
            let offsets = subject.indices("offsets")?;
            Box::new(move || y(a.get("x")?.segment_softmax(&offsets)))
        }
        "segment_weighted_sum" => {
            let offsets = subject.indices("offsets")?;
            Box::new(move || y(a.get("x")?.segment_weighted_sum(a.get("weights")?, &offsets)))
        }
        "segment_topk_mean" => {
            let (offsets, k) = (subject.indices("offsets")?, case.int("k")?);
            Box::new(move || y(a.get("scores")?.segment_topk_mean(&offsets, k)))
        }
        unknown => bail!("unknown operation `{unknown}`"),
    };
    Ok(Prepared { leaves, run })
}

fn batch_norm(case: &CaseFile, a: Arguments) -> Result<Box<dyn FnOnce() -> isg::Result<Outputs>>> {
    let (training, momentum, eps) = (case.flag("training")?, case.float("momentum")?, case.float("eps")?);
    Ok(Box::new(move || {
        let (x, weight, bias) = (a.get("x")?, a.get("weight")?, a.get("bias")?);
        let (mean, var) = (a.get("running_mean")?, a.get("running_var")?);
        let mut outputs = Outputs::new();
        if training {
            let [y, batch_mean, batch_var] = x.batch_norm2d_train(weight, bias, eps)?;
            outputs.insert("running_mean".into(), batch_norm2d::moved(mean, &batch_mean, momentum)?);
            outputs.insert("running_var".into(), batch_norm2d::moved(var, &batch_var, momentum)?);
            outputs.insert("y".into(), y);
        } else {
            outputs.insert("y".into(), x.batch_norm2d_eval(weight, bias, mean, var, eps)?);
            outputs.insert("running_mean".into(), mean.clone());
            outputs.insert("running_var".into(), var.clone());
        }
        Ok(outputs)
    }))
}

fn adam_step(case: &CaseFile, a: Arguments) -> Result<Box<dyn FnOnce() -> isg::Result<Outputs>>> {
    let step = AdamStep {
        lr: case.float("lr")?,
        beta1: case.float("beta1")?,
        beta2: case.float("beta2")?,
        eps: case.float("eps")?,
        weight_decay: case.float("weight_decay")?,
        decoupled: case.flag("decoupled")?,
        step: case.int("step")? as u64,
    };
    Ok(Box::new(move || {
        let (param, m, v) = (a.get("param")?, a.get("m")?, a.get("v")?);
        adam::update(&step, param, a.get("grad")?, m, v)?;
        Ok([("param", param), ("m", m), ("v", v)].map(|(name, t)| (name.to_string(), t.clone())).into())
    }))
}
