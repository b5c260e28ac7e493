//! Slide-level methods: a bag of patches, or an image, in; a prediction and its loss out.

use anyhow::{Context, Result, bail};
use isg::{
    Tensor,
    mil::{
        features::FeatureDims,
        method::{self, MethodConfig},
        methods::image_vit::ImageVit,
        network::{Dims, Mode, Network, Patches, TrainingStep},
    },
    nn::{Builder, vit::Sequences},
    preset::Preset,
};

use crate::{
    check::Prepared,
    subject::{Outputs, Subject},
};

/// Prepares the method that `attrs.method` names. Results `prediction` and `loss`; leaves are the parameters under their names
/// in the file, and the inputs.
pub fn prepare(subject: &Subject) -> Result<Prepared> {
    let name = subject.case.text("method")?;
    let data = data(subject)?;
    let mut builder = subject.weights(&data);
    let image = optional(subject, "image");
    let (network, patches, lengths) = match &image {
        Some(image) => image_network(subject, image, &mut builder)?,
        None => bag_network(subject, &config(subject, name)?, &mut builder)?,
    };
    let leaves = subject.leaves(&builder.finish()?, &data)?;
    let slides = Sequences::new(&lengths, subject.device)?;
    let loss = loss(subject)?;
    let wants = |name: &str| subject.case.expected.contains_key(name);
    // A method that draws its form at every step is trained in one of them and evaluated in all.
    let drawn = wants("out.prediction_k").then(|| variant(subject)).transpose()?;
    let wants_weights = wants("out.weights");
    let run = move || {
        let prediction = network.forward(&patches, &slides, &mut Mode::Evaluate)?;
        let mut outputs = Outputs::new();
        let mut trained = prediction.clone();
        if let Some(variant) = drawn {
            trained = network.forward(&patches, &slides, &mut Mode::Train(&mut TrainingStep::new(0, 1, variant)))?;
            outputs.insert("prediction_k".into(), trained.clone());
        }
        if wants_weights {
            outputs.insert("weights".into(), weights(&network, &patches, slides.lengths())?);
        }
        outputs.insert("loss".into(), loss(&trained)?);
        outputs.insert("prediction".into(), prediction);
        Ok(outputs)
    };
    Ok(Prepared { leaves, run: Box::new(run) })
}

/// The arguments that are data, `attrs.inputs`; every other one is a parameter.
fn data<'a>(subject: &'a Subject) -> Result<Vec<&'a str>> {
    let list = subject.case.attrs["inputs"].as_array().context("attribute inputs")?;
    list.iter().map(|name| name.as_str().context("attribute inputs")).collect()
}

fn optional(subject: &Subject, name: &str) -> Option<Tensor> {
    subject.inputs.get(name).cloned()
}

/// Rows of each slide, by the argument `offsets`.
fn lengths(subject: &Subject) -> Result<Vec<usize>> {
    Ok(subject.integers("offsets")?.windows(2).map(|pair| (pair[1] - pair[0]) as usize).collect())
}

/// The method with the case's keys: those that have the same names, and the widths that ours are ratios of.
fn config(subject: &Subject, name: &str) -> Result<MethodConfig> {
    let attrs = &subject.case.attrs;
    let ratio = |of: &str, to: &str, half: f64| Some((attrs[of].as_f64()? + half) / attrs[to].as_f64()?);
    let preset = MethodConfig::preset(method::named(name)?, Preset::Paper);
    Ok(preset.changed(|keys| {
        for (key, value) in keys.iter_mut() {
            let given = match key.as_str() {
                "vit_mlp_ratio" => ratio("vit_mlp", "vit_width", 0.0).map(Into::into),
                "squeeze_ratio" => ratio("mbconv_squeeze", "width", 0.5).map(Into::into),
                "dropout" => Some(0.0.into()),
                key => attrs.get(key).cloned(),
            };
            if let Some(given) = given {
                *value = given;
            }
        }
    })?)
}

type Built = (Network, Patches, Vec<usize>);

fn bag_network(subject: &Subject, config: &MethodConfig, builder: &mut Builder) -> Result<Built> {
    let attrs = &subject.case.attrs;
    let size = |name: &str| attrs[name].as_u64().unwrap_or(0) as usize;
    let features = FeatureDims { global: size("width"), cell: size("width"), grid: size("grid") };
    let network = config.network(builder, Dims { features, genes: subject.case.int("genes")? })?;
    let input = network.input;
    let position = match optional(subject, "coords") {
        None => None,
        Some(coords) => {
            let side = attrs["patch_px"].as_f64().context("attribute patch_px")?;
            let places: Vec<[f64; 2]> =
                coords.to_vec::<f64>()?.chunks_exact(2).map(|c| [c[0] / side, c[1] / side]).collect();
            let values = input.position.input(&places, input.width, subject.dtype);
            let shape = input.position.input_shape(places.len(), input.width);
            values.map(|values| Tensor::from_buffer(values, shape, subject.device)).transpose()?
        }
    };
    let patches = Patches { global: optional(subject, "global"), cube: optional(subject, "cube"), position };
    Ok((network, patches, lengths(subject)?))
}

/// The squares of each image are the rows of its bag.
fn image_network(subject: &Subject, image: &Tensor, builder: &mut Builder) -> Result<Built> {
    let int = |name: &str| subject.case.int(name);
    let [slides, height, width, channels] = image.shape().nhwc().context("image is not [slides, h, w, c]")?;
    let square_px = int("patch")?;
    let [rows, columns] = [height / square_px, width / square_px];
    let method = ImageVit {
        square_px,
        vit_width: int("width")?,
        vit_depth: int("depth")?,
        vit_heads: int("heads")?,
        vit_mlp_ratio: int("mlp_width")? / int("width")?,
        dropout: 0.0,
        ..ImageVit::paper()
    };
    let network = method.of_squares(builder, rows * columns, int("genes")?)?;
    let squares =
        image.reshape([slides, rows, square_px, columns, square_px, channels])?.permute(&[0, 1, 3, 2, 4, 5])?;
    let squares = squares.reshape([slides * rows * columns, square_px, square_px, channels])?;
    Ok((network, Patches { cube: Some(squares), ..Patches::default() }, vec![rows * columns; slides]))
}

/// Which of the `ks` the case trains.
fn variant(subject: &Subject) -> Result<usize> {
    let (ks, drawn) = (subject.case.attrs["ks"].as_array().context("attribute ks")?, subject.case.int("train_k")?);
    ks.iter().position(|k| k.as_u64() == Some(drawn as u64)).context("train_k is not one of ks")
}

/// What each patch counts in its slide.
fn weights(network: &Network, patches: &Patches, lengths: &[usize]) -> isg::Result<Tensor> {
    let tokens = network.encoder.tokens(patches, &mut Mode::Evaluate)?;
    let (mut all, mut first) = (Vec::new(), 0);
    for &length in lengths {
        let maps = network.aggregator.maps(&tokens.slice(0, first, length)?)?;
        all.extend(maps.into_iter().flat_map(|map| map.values));
        first += length;
    }
    let rows = all.len();
    Tensor::from_f64(&all, [rows], tokens.dtype(), tokens.device())
}

type Loss = Box<dyn Fn(&Tensor) -> isg::Result<Tensor>>;

fn loss(subject: &Subject) -> Result<Loss> {
    let target = subject.input("target")?;
    // Heads give f32 where the network has 16 bits.
    Ok(match subject.case.text("loss")? {
        "mse" => Box::new(move |y| y.mse_loss(&target.cast(y.dtype())?)),
        "bce" => {
            let weight = optional(subject, "pos_weight");
            Box::new(move |y| {
                let weight = weight.as_ref().map(|weight| weight.cast(y.dtype())).transpose()?;
                y.bce_with_logits(&target.cast(y.dtype())?, weight.as_ref())
            })
        }
        "cross_entropy" => {
            let classes = subject.integers("target")?;
            let classes = Tensor::from_vec(classes.clone(), [classes.len()], subject.device)?;
            Box::new(move |y| y.cross_entropy(&classes, None))
        }
        unknown => bail!("unknown loss `{unknown}`"),
    })
}
