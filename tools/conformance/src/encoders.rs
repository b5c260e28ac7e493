//! Patch encoders: networks built by the library's own constructors from weights named and laid out as in published files.

use anyhow::{Context, Result, bail};
use isg::{
    Tensor,
    encoder::{
        efficientnet_lite0::{self, EfficientNet},
        resnet::{Block, Resnet, ResnetConfig},
        vit::{self, Mlp, TokenPool, Vit, VitConfig, positions::Positions},
    },
};

use crate::{
    case::CaseFile,
    check::Prepared,
    subject::{Outputs, Subject, one},
};

/// Prepares the encoder that `attrs.encoder` names. Results `features`, and where the case has it `layer3`; leaves are the
/// parameters under their names in the file.
pub fn prepare(subject: &Subject) -> Result<Prepared> {
    let case = subject.case;
    let images = subject.input("image")?;
    let mut b = subject.weights(&["image"]);
    type Features = Box<dyn Fn(&Tensor) -> isg::Result<Outputs>>;
    let network: Features = match case.text("encoder")? {
        "resnet18" | "resnet50" => {
            let net = Resnet::new(&mut b, &resnet(case)?)?;
            Box::new(move |x| {
                let outputs = [("layer3", 3), ("features", 4)]
                    .map(|(name, stages)| net.forward(x, stages).map(|features| (name.to_string(), features)));
                outputs.into_iter().collect()
            })
        }
        "efficientnet-lite0" => {
            let channels = numbers(case, "channels")?;
            let keys = match case.text("keys")? {
                "wheel" => efficientnet_lite0::Keys::Wheel,
                "timm" => efficientnet_lite0::Keys::Timm,
                other => bail!("keys {other}"),
            };
            let net = EfficientNet::new(&mut b, &channels, keys)?;
            Box::new(move |x| net.forward(x).map(|y| one("features", y)))
        }
        "vit" => {
            let net = Vit::new(&mut b, vit(case)?)?;
            Box::new(move |x| net.forward(x).map(|y| one("features", y)))
        }
        other => bail!("unknown encoder {other}"),
    };
    let leaves = subject.leaves(&b.finish()?, &["image"])?;
    let run = move || network(&images);
    Ok(Prepared { leaves, run: Box::new(run) })
}

fn numbers<const N: usize>(case: &CaseFile, key: &str) -> Result<[usize; N]> {
    let numbers: Vec<usize> = case.floats(key)?.into_iter().map(|v| v as usize).collect();
    let count = numbers.len();
    <[usize; N]>::try_from(numbers).ok().with_context(|| format!("attribute {key}: {count} numbers, {N} wanted"))
}

fn resnet(case: &CaseFile) -> Result<ResnetConfig> {
    let block = match case.text("block")? {
        "basic" => Block::Basic,
        "bottleneck" => Block::Bottleneck,
        other => bail!("block {other}"),
    };
    Ok(ResnetConfig { block, layers: numbers(case, "layers")?, widths: numbers(case, "widths")? })
}

fn vit(case: &CaseFile) -> Result<VitConfig> {
    Ok(VitConfig {
        keys: match case.text("keys")? {
            "timm" => vit::Keys::Timm,
            "dinov2" => vit::Keys::Dinov2,
            other => bail!("keys {other}"),
        },
        width: case.int("width")?,
        depth: case.int("depth")?,
        heads: case.int("heads")?,
        patch_px: case.int("patch")?,
        mlp: match case.text("mlp")? {
            "gelu" => Mlp::Gelu,
            "swiglu" => Mlp::SwiGlu,
            other => bail!("mlp {other}"),
        },
        mlp_width: case.int("mlp_width")?,
        registers: case.int("registers")?,
        layer_scale: case.flag("layer_scale")?,
        positions: match case.text("position")? {
            "all" => Positions::All,
            "patches" => Positions::Patches,
            "cls+patches" => Positions::ClsPatches,
            other => bail!("position {other}"),
        },
        stored_grid: numbers(case, "stored_grid")?,
        pool: match case.text("pool")? {
            "cls" => TokenPool::Cls,
            "cls+mean" => TokenPool::ClsMean,
            other => bail!("pool {other}"),
        },
    })
}
