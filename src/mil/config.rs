//! Every choice of the regressor's training, with two presets: `paper`, and `small` for cohorts of tens of slides.
//!
//! A configuration names a preset and overrides what it wants:
//! ```toml
//! [train]
//! preset = "small"
//! epochs = 40
//! model.vit_depth = 1
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    cohort::targets::Scaling,
    error::{Error, Result},
    mil::regressor::RegressorConfig,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// ISG-10-2 with ViT-S, for hundreds of slides and more.
    Paper,
    /// A narrow, strongly regularised network for tens of slides.
    #[default]
    Small,
}

/// How a regressor is trained.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TrainConfig {
    pub preset: Preset,
    pub seed: u64,
    pub model: RegressorConfig,
    /// Passes over the training slides, at most.
    pub epochs: usize,
    /// Slides a step; the loss is averaged over them.
    pub batch_slides: usize,
    /// Patches drawn from each slide at every step; 0 takes all.
    pub max_patches: usize,
    pub learning_rate: f64,
    /// The rate rises linearly over these epochs, then falls along a cosine.
    pub warmup_epochs: f64,
    /// What the rate falls to, as a part of it.
    pub final_rate: f64,
    pub betas: [f64; 2],
    /// Decoupled, as AdamW; weights and matrices alone, not biases and normalisations.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; 0 leaves them.
    pub clip_norm: f64,
    /// The weights' running average that is evaluated and kept; 0 keeps the weights themselves.
    pub ema_decay: f64,
    /// Epochs without a better validation score before training stops; 0 never stops early.
    pub patience: usize,
    /// With fewer validation slides their score is too noisy to choose an epoch by: the schedule runs to its end and the
    /// last weights are kept.
    pub min_valid_slides: usize,
    /// How targets are scaled, fitted on the training slides of a fold; predictions are scaled back.
    pub target_scaling: Scaling,
    /// Divides features by their deviation over the training slides after taking away their mean.
    pub standardise_features: bool,
    /// Cubes are rotated by quarter turns and mirrored at random.
    pub augment_cubes: bool,
    /// Deviation of the normal noise added to (standardised) features in training.
    pub feature_noise: f64,
    /// Deviation of the normal shift that all patches of a slide share, one number a feature, drawn anew at every step:
    /// staining and scanning shift a slide's features as a whole.
    pub slide_noise: f64,
    /// Networks a fold, from different seeds; their predictions are averaged.
    pub members: usize,
    /// Folds trained at the same time, each on one thread; 0 takes one per core where there are at least as many
    /// networks to train as cores, else one after another on all cores. Results do not depend on it.
    pub parallel: usize,
    /// A checkpoint is written when the last is this old.
    pub checkpoint_s: u64,
    pub fine_tune: FineTuneConfig,
}

/// After a network was trained on all projects and genes, a copy is tuned for each task: a project and its genes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTuneConfig {
    pub enabled: bool,
    pub epochs: usize,
    pub learning_rate: f64,
    pub patience: usize,
    /// None: every gene of every project by itself.
    pub tasks: Vec<TaskConfig>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Absent: slides of all projects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    pub genes: Vec<String>,
}

impl TrainConfig {
    pub fn preset(preset: Preset) -> TrainConfig {
        let paper = TrainConfig {
            preset,
            seed: 0,
            model: RegressorConfig::paper(),
            epochs: 50,
            batch_slides: 16,
            max_patches: 100,
            learning_rate: 5e-4,
            warmup_epochs: 2.0,
            final_rate: 0.05,
            betas: [0.9, 0.999],
            weight_decay: 1e-4,
            clip_norm: 1.0,
            ema_decay: 0.0,
            patience: 15,
            min_valid_slides: 20,
            target_scaling: Scaling::MinMax,
            standardise_features: true,
            augment_cubes: true,
            feature_noise: 0.0,
            slide_noise: 0.0,
            members: 1,
            parallel: 0,
            checkpoint_s: 60,
            fine_tune: FineTuneConfig {
                enabled: true,
                epochs: 20,
                learning_rate: 1e-4,
                patience: 8,
                tasks: Vec::new(),
            },
        };
        match preset {
            Preset::Paper => paper,
            Preset::Small => TrainConfig {
                model: RegressorConfig::small(),
                epochs: 60,
                batch_slides: 8,
                max_patches: 16,
                learning_rate: 2e-3,
                warmup_epochs: 3.0,
                final_rate: 0.02,
                weight_decay: 0.1,
                ema_decay: 0.98,
                patience: 0,
                target_scaling: Scaling::Standard,
                feature_noise: 0.05,
                members: 2,
                checkpoint_s: 10,
                fine_tune: FineTuneConfig { enabled: false, ..paper.fine_tune },
                ..paper
            },
        }
    }

    /// One sentence on the first key that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::Usage(format!("train: {what}")));
        self.model.validate()?;
        if [self.epochs, self.batch_slides, self.members].contains(&0) {
            return bad("epochs, batch_slides and members must be at least 1");
        }
        let rates = [self.learning_rate, self.fine_tune.learning_rate];
        if rates.iter().any(|r| !(*r > 0.0 && r.is_finite())) {
            return bad("learning_rate must be above 0");
        }
        let noise = [self.feature_noise, self.slide_noise];
        let not_negative = [self.warmup_epochs, self.final_rate, self.weight_decay, self.clip_norm];
        if not_negative.iter().chain(&noise).any(|v| !(*v >= 0.0 && v.is_finite())) {
            return bad(
                "warmup_epochs, final_rate, weight_decay, clip_norm, feature_noise and slide_noise must not be negative",
            );
        }
        if self.betas.iter().chain([&self.ema_decay]).any(|b| !(0.0..1.0).contains(b)) {
            return bad("betas and ema_decay must be from 0 to below 1");
        }
        if self.fine_tune.enabled && self.fine_tune.epochs == 0 {
            return bad("fine_tune.epochs must be at least 1; set fine_tune.enabled = false to leave it out");
        }
        Ok(())
    }
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig::preset(Preset::default())
    }
}

impl Serialize for TrainConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TrainConfig::serialize(self, serializer)
    }
}

/// The given keys laid over those of the named preset.
impl<'de> Deserialize<'de> for TrainConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrainConfig, D::Error> {
        let given = serde_json::Value::deserialize(deserializer)?;
        let preset = match given.get("preset") {
            Some(name) => Preset::deserialize(name).map_err(D::Error::custom)?,
            None => Preset::default(),
        };
        let mut all = serde_json::to_value(TrainConfig::preset(preset)).map_err(D::Error::custom)?;
        overlay(&mut all, given);
        TrainConfig::deserialize(all).map_err(D::Error::custom)
    }
}

fn overlay(base: &mut serde_json::Value, over: serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(held) => overlay(held, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_over_their_preset() {
        let config: TrainConfig = toml::from_str("preset = \"paper\"\nepochs = 7\nmodel.vit_depth = 3").expect("valid");
        assert_eq!((config.epochs, config.model.vit_depth, config.model.mbconv_blocks), (7, 3, 10));
        assert_eq!(toml::from_str::<TrainConfig>("").expect("valid"), TrainConfig::preset(Preset::Small));
        let again: TrainConfig =
            toml::from_str(&toml::to_string(&config).expect("a configuration")).expect("what was written");
        assert_eq!(again, config);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = toml::from_str::<TrainConfig>("model.vit_dept = 3").expect_err("misspelt").to_string();
        assert!(error.contains("vit_dept"), "{error}");
    }
}
