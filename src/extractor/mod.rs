//! A trained extractor: patches in, feature vectors out (paper §3.2, f = E(x)).
//!
//! Training leaves `extractor.safetensors` in its folder: the averaged weights of encoder and generator, with the
//! configuration in the file's metadata. Nothing else is needed to use it.

pub mod adaptive_augment;
pub mod config;
pub mod discriminator;
pub mod encoder;
pub mod generator;
pub mod lpips;
pub mod patches;
pub mod training;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use rayon::prelude::*;

use crate::{
    device::Device,
    dtype::DType,
    error::{Error, Result},
    extractor::{
        config::ExtractorConfig,
        encoder::Encoder,
        generator::Generator,
        patches::{scaled, squared},
    },
    image::RgbImage,
    io::{checkpoint, safetensors::SafetensorsFile},
    nn::builder::{Builder, Params},
    ops::upfirdn2d::Filter,
    random::fnv1a,
    tensor::Tensor,
};

const FORMAT: &str = "isg-extractor-1";
pub(super) const FILE: &str = "extractor.safetensors";

/// Encoder and generator as one model: `encoder.*` and `generator.*`.
pub(super) struct Autoencoder {
    pub encoder: Encoder,
    pub generator: Generator,
}

impl Autoencoder {
    pub fn new(mut b: Builder, config: &ExtractorConfig) -> Result<(Autoencoder, Params)> {
        let filter = Filter::low_pass(&config.resample_filter)?;
        let encoder = b.scope("encoder", |b| Encoder::new(b, &config.encoder, config.d, &filter))?;
        let generator = b.scope("generator", |b| Generator::new(b, &config.generator_channels, config.d, &filter))?;
        Ok((Autoencoder { encoder, generator }, b.finish()?))
    }

    /// Images `[n, px, px, 3]` in [-1, 1] to their reconstructions.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.generator.forward(&self.encoder.forward(images)?)
    }
}

/// A trained pair of encoder and generator.
pub struct Extractor {
    config: ExtractorConfig,
    model: Autoencoder,
    device: Device,
    hash: String,
}

impl Extractor {
    /// Reads what training left in `dir`.
    pub fn load(dir: impl AsRef<Path>, device: &Device) -> Result<Extractor> {
        let dir = dir.as_ref();
        let path = dir.join(FILE);
        if !path.is_file() {
            let remedy = "train one first (isg extractor train), or finish its training by the same command";
            return Err(Error::input(dir, "holds no trained extractor", remedy));
        }
        let (config, _) = read_header(&path)?;
        let tensors = checkpoint::read_tensors(&path, device)?;
        let hash = content_hash(&config, &tensors)?;
        let builder = Builder::load(tensors, &path.display().to_string(), DType::F32, device);
        let (model, _) = Autoencoder::new(builder, &config)?;
        Ok(Extractor { config, model, device: device.clone(), hash })
    }

    pub fn config(&self) -> &ExtractorConfig {
        &self.config
    }

    /// Length of a feature vector.
    pub fn d(&self) -> usize {
        self.config.d
    }

    /// Names weights and architecture: two extractors of one hash give the same features.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Feature vectors `[images, d]`, row after row. Images of any size; each is resized to the network's.
    pub fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        let mut features = Vec::with_capacity(images.len() * self.config.d);
        for part in images.chunks(self.images_a_pass()) {
            features.extend(self.model.encoder.forward(&self.batch(part)?)?.to_vec::<f32>()?);
        }
        Ok(features)
    }

    /// What the generator makes of each image's feature vector, at the network's size.
    pub fn reconstruct(&self, images: &[RgbImage]) -> Result<Vec<RgbImage>> {
        let px = self.config.image_px;
        let mut out = Vec::with_capacity(images.len());
        for part in images.chunks(self.images_a_pass()) {
            let values = self.model.forward(&self.batch(part)?)?.to_vec::<f32>()?;
            out.extend(values.chunks_exact(px * px * 3).map(|image| RgbImage {
                width_px: px,
                height_px: px,
                pixels: image.iter().map(|v| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8).collect(),
            }));
        }
        Ok(out)
    }

    /// Bounds the memory of a forward pass; enough images for matrix products to be efficient.
    fn images_a_pass(&self) -> usize {
        ((1 << 18) / (self.config.image_px * self.config.image_px)).clamp(2, 64)
    }

    fn batch(&self, images: &[RgbImage]) -> Result<Tensor> {
        let px = self.config.image_px;
        let scale = |image: &RgbImage| Ok(squared(image, px)?.pixels.iter().map(|&p| scaled(f32::from(p))).collect());
        let rows: Vec<Vec<f32>> = images.par_iter().map(scale).collect::<Result<_>>()?;
        Tensor::from_vec(rows.concat(), [images.len(), px, px, 3], &self.device)
    }
}

/// Writes the file that [`Extractor::load`] reads.
pub(super) fn write(path: &Path, config: &ExtractorConfig, step: u64, tensors: &[(String, Tensor)]) -> Result<()> {
    let config = serde_json::to_string(config).map_err(|e| Error::io(path, e.into()))?;
    let metadata = [("format", FORMAT.to_string()), ("config", config), ("step", step.to_string())];
    let metadata: BTreeMap<String, String> = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    checkpoint::write_tensors(path, tensors, &metadata)
}

/// The configuration a finished extractor was trained with, and its last step.
pub(super) fn read_header(path: &Path) -> Result<(ExtractorConfig, u64)> {
    let file = SafetensorsFile::open(path)?;
    let damaged = |what: &str| Error::input(path, what, "train the extractor in a new folder");
    if file.metadata_value("format") != Some(FORMAT) {
        return Err(damaged("is not an extractor of this version"));
    }
    let config = file.metadata_value("config").and_then(|text| serde_json::from_str::<ExtractorConfig>(text).ok());
    let step = file.metadata_value("step").and_then(|text| text.parse().ok());
    let (config, step) = config.zip(step).ok_or_else(|| damaged("does not say how it was trained"))?;
    config.validate()?;
    Ok((config, step))
}

/// 64 bits over the encoder's configuration and weights, as 16 hexadecimal digits.
fn content_hash(config: &ExtractorConfig, tensors: &HashMap<String, Tensor>) -> Result<String> {
    let architecture = (config.image_px, config.d, &config.resample_filter, &config.encoder);
    let mut text = format!("{architecture:?}").into_bytes();
    let mut names: Vec<&String> = tensors.keys().filter(|name| name.starts_with("encoder.")).collect();
    names.sort();
    for name in names {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(&fnv1a(tensors[name].to_buffer()?.bytes()).to_le_bytes());
    }
    Ok(format!("{:016x}", fnv1a(&text)))
}
