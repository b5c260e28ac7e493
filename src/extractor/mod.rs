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
pub mod quality;
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
        discriminator::Discriminator,
        encoder::Encoder,
        generator::Generator,
        patches::{scaled, squared},
    },
    image::RgbImage,
    io::{checkpoint, checksum::Digest, safetensors::SafetensorsFile},
    nn::{
        builder::{Builder, Params},
        norm::RunningStats,
        precision::ComputePrecision,
    },
    ops::upfirdn2d::Filter,
    tensor::Tensor,
};

const FORMAT: &str = "isg-extractor-2";
pub(super) const FILE: &str = "extractor.safetensors";

/// Encoder and generator as one model: `encoder.*` and `generator.*`.
pub(super) struct Autoencoder {
    pub encoder: Encoder,
    pub generator: Generator,
}

impl Autoencoder {
    pub fn new(mut b: Builder, config: &ExtractorConfig) -> Result<(Autoencoder, Params)> {
        let filter = Filter::low_pass(&config.resample_filter)?;
        let encoder = b.scope("encoder", |b| Encoder::new(b, &config.encoder, config.d, &filter, config.precision))?;
        let generator = b.scope("generator", |b| {
            Generator::new(b, &config.generator_channels, config.d, &filter, config.precision)
        })?;
        Ok((Autoencoder { encoder, generator }, b.finish()?))
    }

    /// As [`Autoencoder::forward`] on a training batch, and the running statistics of codes that it moves on.
    pub fn forward_training(&self, images: &Tensor) -> Result<(Tensor, RunningStats)> {
        let (code, stats) = self.encoder.forward_training(images)?;
        Ok((self.generator.forward(&code)?, stats))
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
    digest: Digest,
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
        let file = SafetensorsFile::open_own(&path)?;
        let Header { config, .. } = Header::of(&file)?;
        let tensors = checkpoint::tensors_of(&file, device)?;
        if let Some(name) = checkpoint::not_finite(&tensors)? {
            let problem = format!("holds NaN or infinite values, in {name}");
            return Err(Error::input(&path, problem, "train the extractor again"));
        }
        let digest = content_digest(&config, &tensors)?;
        let builder = Builder::load(tensors, &path.display().to_string(), DType::F32, device);
        let (model, _) = Autoencoder::new(builder, &config)?;
        Ok(Extractor { config, model, device: device.clone(), digest })
    }

    /// The same networks with drawn weights, as training would begin with them.
    ///
    /// # Errors
    /// A configuration that cannot be, a device that fails.
    pub fn untrained(config: &ExtractorConfig, device: &Device) -> Result<Extractor> {
        config.validate()?;
        let (model, params) = Autoencoder::new(Builder::fresh(config.seed, DType::F32, device), config)?;
        let tensors = params.named().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
        let digest = content_digest(config, &tensors)?;
        Ok(Extractor { config: config.clone(), model, device: device.clone(), digest })
    }

    pub fn config(&self) -> &ExtractorConfig {
        &self.config
    }

    /// Length of a feature vector.
    pub fn d(&self) -> usize {
        self.config.d
    }

    /// Of the encoder's weights, architecture and precision: two extractors of one digest give the same features.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Feature vectors `[images, d]`, row after row. Images of any size; each is resized to the network's.
    pub fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        let _precision = self.precision().enter(&self.device);
        let mut features = Vec::with_capacity(images.len() * self.config.d);
        for part in images.chunks(self.images_a_pass()) {
            features.extend(self.model.encoder.forward(&self.batch(part)?)?.to_vec::<f32>()?);
        }
        Ok(features)
    }

    /// What the generator makes of each image's feature vector, at the network's size.
    pub fn reconstruct(&self, images: &[RgbImage]) -> Result<Vec<RgbImage>> {
        let px = self.config.image_px;
        let _precision = self.precision().enter(&self.device);
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

    fn precision(&self) -> ComputePrecision {
        self.config.precision.on(&self.device)
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

/// The configuration of the extractor in `dir`; nothing where there is none.
///
/// # Errors
/// An extractor that cannot be used.
pub fn config_of(dir: &Path) -> Result<Option<ExtractorConfig>> {
    let path = dir.join(FILE);
    path.is_file().then(|| Header::read(&path).map(|header| header.config)).transpose()
}

/// Trainable values of encoder, generator and critic.
pub fn parameters(config: &ExtractorConfig) -> Result<usize> {
    let device = Device::cpu();
    let fresh = || Builder::fresh(config.seed, DType::F32, &device);
    let (_, pair) = Autoencoder::new(fresh(), config)?;
    let mut critic = fresh();
    let filter = Filter::low_pass(&config.resample_filter)?;
    Discriminator::new(&mut critic, &config.discriminator, &filter, config.precision)?;
    Ok(pair.count() + critic.finish()?.count())
}

/// What an extractor's file says beside its weights.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub config: ExtractorConfig,
    pub step: u64,
    /// Of everything its weights follow from but the number of steps.
    pub key: Digest,
    /// What its passes computed in while it was trained.
    pub trained_in: ComputePrecision,
}

impl Header {
    /// Of a file whose every byte was checked.
    pub fn read(path: &Path) -> Result<Header> {
        Header::of(&SafetensorsFile::open_own(path)?)
    }

    fn of(file: &SafetensorsFile) -> Result<Header> {
        let unusable = |what: &str| Error::input(file.path(), what, "train the extractor in a new folder");
        if file.metadata_value("format") != Some(FORMAT) {
            return Err(unusable("is not an extractor of this version"));
        }
        let value = |name: &str| file.metadata_value(name);
        let config = value("config").and_then(|text| serde_json::from_str::<ExtractorConfig>(text).ok());
        let step = value("step").and_then(|text| text.parse().ok());
        let key = value("key").and_then(|text| text.parse().ok());
        let trained_in = value("precision").and_then(|text| serde_json::from_str(text).ok());
        let (Some(config), Some(step), Some(key), Some(trained_in)) = (config, step, key, trained_in) else {
            return Err(unusable("does not say how it was trained"));
        };
        config.validate()?;
        Ok(Header { config, step, key, trained_in })
    }

    /// Writes the file that [`Extractor::load`] reads.
    pub fn write(&self, path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
        // Where files lay and how checkpoints were kept is no part of what was trained.
        let config = ExtractorConfig { steps: self.step, ..self.config.decisive() };
        let config = serde_json::to_string(&config).map_err(|e| Error::io(path, e.into()))?;
        let metadata = [
            ("format", FORMAT.to_string()),
            ("config", config),
            ("step", self.step.to_string()),
            ("key", self.key.to_string()),
            ("precision", serde_json::to_string(&self.trained_in).map_err(|e| Error::io(path, e.into()))?),
        ];
        let metadata: BTreeMap<String, String> = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        checkpoint::write_tensors(path, tensors, &metadata).map(drop)
    }
}

fn content_digest(config: &ExtractorConfig, tensors: &HashMap<String, Tensor>) -> Result<Digest> {
    let architecture = (config.image_px, config.d, &config.resample_filter, &config.encoder, config.precision);
    let encoder = tensors.iter().filter(|(name, _)| name.starts_with("encoder."));
    let weights = encoder.map(|(name, tensor)| Ok((name, Digest::of_bytes(tensor.to_buffer()?.bytes()))));
    Ok(Digest::of("encoder", &(architecture, weights.collect::<Result<BTreeMap<_, _>>>()?)))
}
