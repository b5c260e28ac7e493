//! Every size and weight of the feature extraction networks (paper §3.2) as configuration keys.
//!
//! A table names a `preset` and whatever differs from it:
//!
//! ```toml
//! preset = "small"
//! steps = 300
//! [loss]
//! lpips = 0.5
//! ```
//!
//! `paper` (the default) is the paper's own setting where it states one, S2FGAN's where the paper cites it; `small` is the
//! same architecture at 32 pixels for CPUs. The paper leaves p, q, d, channels, batch size, learning rate and number
//! of steps open.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::{Error, Result},
    nn::{norm::NormKind, precision::ComputePrecision},
    preset::Preset,
};

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ExtractorConfig {
    pub preset: Preset,
    /// Patches are resized to this; a power of two, at least 8.
    pub image_px: usize,
    /// Length of a feature vector.
    pub d: usize,
    /// Taps of the separable low-pass filter around every change of size.
    pub resample_filter: Vec<f64>,
    pub encoder: EncoderConfig,
    /// Generator channels at 4, 8, 16, ... `image_px` pixels.
    pub generator_channels: Vec<usize>,
    pub discriminator: DiscriminatorConfig,
    pub loss: LossConfig,
    pub lpips: LpipsConfig,
    pub optimizer: OptimizerConfig,
    pub augment: AugmentConfig,
    /// What passes compute in on a GPU, in training and afterwards.
    pub precision: ComputePrecision,
    /// Images a step.
    pub batch: usize,
    pub steps: u64,
    pub seed: u64,
    pub checkpoint_every_steps: u64,
    /// Checkpoints kept, newest first.
    pub checkpoints_kept: usize,
    /// Resized patches held in memory; the rest are read again when their turn comes.
    pub cache_bytes: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Channels at `image_px`, then after each halving down to 4 pixels.
    pub channels: Vec<usize>,
    /// Per halving: the head sees the stage as this many cells a side.
    pub head_pool_px: Vec<usize>,
    pub head_layers: usize,
    pub merge_layers: usize,
    /// Relative learning rate of heads and merge.
    pub style_lr_mul: f64,
    /// Normalisation of the code: `none`, as S2FGAN, or `batch`, which centres it.
    pub code_norm: NormKind,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Channels at `image_px`, then after each halving down to 4 pixels.
    pub channels: Vec<usize>,
    /// Images whose standard deviation the critic sees as one more channel; 0 leaves it out, as S2FGAN does.
    pub minibatch_stddev_group: usize,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the mean absolute difference; the paper writes 1 for all three.
    pub l1: f64,
    pub lpips: f64,
    pub adversarial: f64,
    /// Steps over which the adversarial weight grows from 0; the critic itself learns from the first step.
    pub adversarial_fade_steps: u64,
    /// γ of R1: the critic pays γ/2 times its squared gradient at real images.
    pub r1: f64,
    /// R1 is computed every so many steps and weighted up by as much.
    pub r1_every_steps: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LpipsConfig {
    /// `random`, `none`, or torchvision's AlexNet checkpoint.
    pub weights: String,
    /// LPIPS's linear layers for AlexNet; read with trained weights only.
    pub linear: PathBuf,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Gradients of one update are scaled down to this norm; 0 leaves them.
    pub clip_norm: f64,
    /// Images after which the averaged weights have half forgotten.
    pub ema_half_life_images: f64,
    /// The half-life is at most this fraction of the images seen; 0 switches the ramp off.
    pub ema_rampup: f64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    pub flips: bool,
    pub rotations: bool,
    /// Largest relative change of contrast and of each colour channel; 0 for none.
    pub colour_jitter: f64,
    /// Adaptive augmentation of what the critic sees: the surplus of positive logits at real images that it aims at;
    /// 0 switches it off.
    pub adaptive_target: f64,
    /// Images within which the adaptive probability can go from 0 to 1.
    pub adaptive_length_images: f64,
}

impl LpipsConfig {
    /// Whether `weights` names a file.
    pub fn is_trained(&self) -> bool {
        !["random", "none"].contains(&self.weights.as_str())
    }
}

impl ExtractorConfig {
    /// The paper's setting, S2FGAN's where the paper is silent.
    pub fn paper() -> ExtractorConfig {
        ExtractorConfig {
            preset: Preset::Paper,
            image_px: 256,
            d: 512,
            resample_filter: vec![1.0, 3.0, 3.0, 1.0],
            encoder: EncoderConfig {
                channels: vec![64, 128, 256, 512, 512, 512, 512],
                head_pool_px: vec![2, 2, 1, 1, 1, 1],
                head_layers: 4,
                merge_layers: 5,
                style_lr_mul: 0.01,
                code_norm: NormKind::None,
            },
            generator_channels: vec![512, 512, 512, 512, 256, 128, 64],
            discriminator: DiscriminatorConfig {
                channels: vec![64, 128, 256, 512, 512, 512, 512],
                minibatch_stddev_group: 0,
            },
            loss: LossConfig {
                l1: 1.0,
                lpips: 1.0,
                adversarial: 1.0,
                adversarial_fade_steps: 0,
                r1: 1.0,
                r1_every_steps: 16,
            },
            lpips: LpipsConfig { weights: "alexnet-owt-7be5be79.pth".into(), linear: "alex.pth".into() },
            optimizer: OptimizerConfig {
                lr: 0.002,
                beta1: 0.0,
                beta2: 0.99,
                eps: 1e-8,
                clip_norm: 0.0,
                ema_half_life_images: 10_000.0,
                ema_rampup: 0.05,
            },
            augment: AugmentConfig {
                flips: true,
                rotations: true,
                colour_jitter: 0.0,
                adaptive_target: 0.6,
                adaptive_length_images: 500_000.0,
            },
            precision: ComputePrecision::default(),
            batch: 4,
            steps: 100_000,
            seed: 0,
            checkpoint_every_steps: 2_000,
            checkpoints_kept: 2,
            cache_bytes: 4 << 30,
        }
    }

    /// The same networks at 32 pixels and few channels: minutes on two CPU cores.
    pub fn small() -> ExtractorConfig {
        let paper = ExtractorConfig::paper();
        ExtractorConfig {
            preset: Preset::Small,
            image_px: 32,
            d: 64,
            encoder: EncoderConfig {
                channels: vec![16, 32, 64, 64],
                head_pool_px: vec![2, 2, 1],
                head_layers: 2,
                merge_layers: 2,
                // At a hundredth of the speed these layers would hardly move in a few hundred steps.
                style_lr_mul: 1.0,
                code_norm: NormKind::Batch,
            },
            generator_channels: vec![64, 64, 32, 16],
            discriminator: DiscriminatorConfig { channels: vec![16, 32, 64, 64], minibatch_stddev_group: 0 },
            // With equal weights the critic wins a short run, and the pair gives one image for all.
            loss: LossConfig { l1: 10.0, adversarial: 0.1, adversarial_fade_steps: 200, ..paper.loss },
            lpips: LpipsConfig { weights: "random".into(), ..paper.lpips },
            augment: AugmentConfig { adaptive_target: 0.0, ..paper.augment },
            batch: 16,
            steps: 400,
            checkpoint_every_steps: 100,
            cache_bytes: 1 << 30,
            ..paper
        }
    }

    pub fn preset(preset: Preset) -> ExtractorConfig {
        match preset {
            Preset::Paper => ExtractorConfig::paper(),
            Preset::Small => ExtractorConfig::small(),
        }
    }

    /// The preset that `table` names (`paper` where it names none), with the table's own keys over it.
    pub fn from_table(table: toml::Table) -> Result<ExtractorConfig, String> {
        let preset = match table.get("preset") {
            None => Preset::default(),
            Some(name) => name.clone().try_into().map_err(|_| format!("preset = {name}: paper or small wanted"))?,
        };
        let mut merged = toml::Table::try_from(ExtractorConfig::preset(preset)).map_err(|e| e.to_string())?;
        overlay(&mut merged, table);
        ExtractorConfig::deserialize(toml::Value::Table(merged)).map_err(|e| e.message().to_string())
    }

    /// How often an image is halved before it is 4 pixels wide.
    pub fn halvings(&self) -> usize {
        (self.image_px / 4).max(1).ilog2() as usize
    }

    /// What cannot work, in one sentence that names the key.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::Usage(format!("extractor: {message}")));
        if !self.image_px.is_power_of_two() || !(8..=1024).contains(&self.image_px) {
            return wrong(format!("image_px = {}: a power of two from 8 to 1024 is wanted", self.image_px));
        }
        let sizes = self.halvings() + 1;
        for (key, channels) in [
            ("encoder.channels", &self.encoder.channels),
            ("generator_channels", &self.generator_channels),
            ("discriminator.channels", &self.discriminator.channels),
        ] {
            if channels.len() != sizes || channels.iter().any(|c| !(1..=4096).contains(c)) {
                let px = self.image_px;
                return wrong(format!("{key} wants {sizes} numbers from 1 to 4096, one per size from 4 to {px} px"));
            }
        }
        let pools = &self.encoder.head_pool_px;
        let sides = (1..sizes).map(|halvings| self.image_px >> halvings);
        if pools.len() != sizes - 1 || pools.iter().zip(sides).any(|(&pool, side)| pool == 0 || side % pool != 0) {
            return wrong(format!("encoder.head_pool_px wants {} numbers that divide their stage's size", sizes - 1));
        }
        if !(1..=16).contains(&self.encoder.head_layers) || !(1..=16).contains(&self.encoder.merge_layers) {
            return wrong("encoder.head_layers and encoder.merge_layers go from 1 to 16".into());
        }
        if !(1..=4096).contains(&self.d) || !(1..=4096).contains(&self.batch) {
            return wrong("d and batch go from 1 to 4096".into());
        }
        if self.steps == 0 || self.checkpoint_every_steps == 0 || self.checkpoints_kept == 0 {
            return wrong("steps, checkpoint_every_steps and checkpoints_kept are at least 1".into());
        }
        let taps = &self.resample_filter;
        let finite = taps.iter().all(|tap| tap.is_finite());
        if !(2..=16).contains(&taps.len()) || !finite || taps.iter().sum::<f64>().abs() < 1e-6 {
            return wrong("resample_filter wants 2 to 16 taps that do not sum to zero".into());
        }
        let OptimizerConfig { lr, beta1, beta2, eps, .. } = self.optimizer;
        if !(lr > 0.0 && lr.is_finite() && eps > 0.0 && (0.0..1.0).contains(&beta1) && (0.0..1.0).contains(&beta2)) {
            return wrong("optimizer.lr and eps are above 0, beta1 and beta2 from 0 to below 1".into());
        }
        if !matches!(self.encoder.code_norm, NormKind::None | NormKind::Batch) {
            return wrong("encoder.code_norm is none or batch".into());
        }
        if self.encoder.code_norm == NormKind::Batch && self.batch < 2 {
            return wrong("encoder.code_norm = \"batch\" needs batch of at least 2".into());
        }
        let LossConfig { l1, lpips, adversarial, r1, r1_every_steps, .. } = self.loss;
        let numbers = [
            ("loss.l1", l1),
            ("loss.lpips", lpips),
            ("loss.adversarial", adversarial),
            ("loss.r1", r1),
            ("optimizer.clip_norm", self.optimizer.clip_norm),
            ("optimizer.ema_half_life_images", self.optimizer.ema_half_life_images),
            ("optimizer.ema_rampup", self.optimizer.ema_rampup),
            ("augment.colour_jitter", self.augment.colour_jitter),
            ("augment.adaptive_target", self.augment.adaptive_target),
            ("augment.adaptive_length_images", self.augment.adaptive_length_images),
        ];
        if let Some((key, value)) = numbers.iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            return wrong(format!("{key} = {value}: a number from 0 is wanted"));
        }
        if r1_every_steps == 0 || !(self.encoder.style_lr_mul > 0.0 && self.encoder.style_lr_mul <= 1.0) {
            return wrong("loss.r1_every_steps is at least 1, encoder.style_lr_mul above 0 and at most 1".into());
        }
        if l1 + self.lpips_weight() + adversarial == 0.0 {
            return wrong("every loss weight is 0; give at least one of l1, lpips, adversarial".into());
        }
        let smallest = super::lpips::MIN_IMAGE_PX;
        if self.lpips_weight() > 0.0 && self.image_px < smallest {
            return wrong(format!("LPIPS needs images of {smallest} px; use 32 px or lpips.weights = \"none\""));
        }
        Ok(())
    }

    /// Weight of the perceptual term; 0 where it is switched off.
    pub fn lpips_weight(&self) -> f64 {
        if self.lpips.weights == "none" { 0.0 } else { self.loss.lpips }
    }

    /// What decides the weights after any number of steps: without how many there are, how they are stored, and where the
    /// files of LPIPS lie.
    pub fn decisive(&self) -> ExtractorConfig {
        ExtractorConfig {
            preset: Preset::Paper,
            steps: 1,
            checkpoint_every_steps: 1,
            checkpoints_kept: 1,
            cache_bytes: 0,
            lpips: LpipsConfig {
                weights: if self.lpips.is_trained() { "trained".into() } else { self.lpips.weights.clone() },
                linear: PathBuf::new(),
            },
            ..self.clone()
        }
    }
}

impl Default for ExtractorConfig {
    fn default() -> ExtractorConfig {
        ExtractorConfig::paper()
    }
}

impl Serialize for ExtractorConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ExtractorConfig::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ExtractorConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExtractorConfig, D::Error> {
        let table = toml::Table::deserialize(deserializer)?;
        ExtractorConfig::from_table(table).map_err(de::Error::custom)
    }
}

/// Lays `over` on `base`, table by table.
fn overlay(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => overlay(base, over),
            // `lr = 1` means 1.0 where a number with a fraction is wanted.
            (Some(toml::Value::Float(base)), toml::Value::Integer(whole)) => *base = whole as f64,
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
