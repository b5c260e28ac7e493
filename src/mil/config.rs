//! Every choice of a method's training, with two presets: `paper`, and `small` for cohorts of tens of slides.
//!
//! A configuration names a preset and a method, and overrides what it wants; the method's own keys are in a table of its name:
//! ```toml
//! [train]
//! preset = "small"
//! method = "isg"
//! epochs = 40
//! isg.vit_depth = 1
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::{
    cohort::targets::Scaling,
    error::{Error, Result},
    mil::{
        METHODS,
        loss::Loss,
        method::{self, Fit, METHOD, MethodConfig, MethodSpec, Parameters},
    },
    nn::precision::ComputePrecision,
    preset::Preset,
};

pub use super::tasks::{FineTuneConfig, NamedTasks, Scope, TaskConfig, TaskSet};

/// A method and how it is trained.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct TrainConfig {
    pub preset: Preset,
    /// What tables and folders call it; by default the method's name.
    pub name: String,
    #[serde(flatten)]
    pub method: MethodConfig,
    pub seed: u64,
    /// What passes compute in on a GPU.
    pub precision: ComputePrecision,
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
    /// What is minimised; of labels by default their binary cross-entropy. A closed form has its own.
    pub loss: Loss,
    /// How expression is scaled, fitted on the training slides of a fold; predictions are scaled back.
    pub target_scaling: Scaling,
    /// Divides features by their standard deviation over the training slides after taking away their mean.
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

impl TrainConfig {
    /// The first method of the list.
    pub fn preset(preset: Preset) -> TrainConfig {
        TrainConfig::of(METHODS[0], preset)
    }

    pub fn of(spec: &'static MethodSpec, preset: Preset) -> TrainConfig {
        let mut config = TrainConfig::before_method(spec, preset);
        (spec.training)(preset, &mut config);
        config
    }

    /// What the method's outputs are: a closed form solves for squared error whatever is asked.
    pub fn loss(&self) -> Loss {
        match self.method.fit() {
            Fit::Gradient => self.loss,
            Fit::Closed(_) => Loss::Mse,
        }
    }

    /// What networks are tuned with, where it is another method than the pooled ones'.
    pub fn tuned(&self) -> Option<TrainConfig> {
        Some(TrainConfig { method: self.method.tuned()?, ..self.clone() })
    }

    /// What holds for every method that says nothing else.
    fn before_method(spec: &'static MethodSpec, preset: Preset) -> TrainConfig {
        let paper = TrainConfig {
            preset,
            name: spec.name.to_string(),
            method: MethodConfig::preset(spec, preset),
            seed: 0,
            precision: ComputePrecision::default(),
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
            loss: Loss::Mse,
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
                scope: Scope::Task,
                tasks: TaskSet::Named(NamedTasks::Projects),
            },
        };
        match preset {
            Preset::Paper => paper,
            Preset::Small => TrainConfig {
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
                feature_noise: 0.15,
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
        let name = self.method.name();
        self.method.check().map_err(|e| Error::Usage(format!("train.{name}: {e}")))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return bad("name is made of letters, digits, and dots, underscores and hyphens within");
        }
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

/// The given keys laid over those of the named preset and method.
impl<'de> Deserialize<'de> for TrainConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrainConfig, D::Error> {
        let given = Parameters::deserialize(deserializer)?;
        let preset = match given.get("preset") {
            Some(name) => Preset::deserialize(name).map_err(D::Error::custom)?,
            None => Preset::default(),
        };
        let spec = match given.get(METHOD) {
            Some(name) => method::named(name.as_str().unwrap_or_default()).map_err(D::Error::custom)?,
            None => METHODS[0],
        };
        let mut all = serde_json::to_value(TrainConfig::of(spec, preset)).map_err(D::Error::custom)?;
        overlay(&mut all, Value::Object(given));
        let mut config = TrainConfig::deserialize(all).map_err(D::Error::custom)?;
        if let Fit::Closed(_) = config.method.fit() {
            // Solved twice, it would be the same twice.
            config.members = 1;
        }
        Ok(config)
    }
}

fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
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
        let config: TrainConfig = toml::from_str("preset = \"paper\"\nepochs = 7\nisg.vit_depth = 3").expect("valid");
        let isg = config.method.parameters();
        assert_eq!((config.epochs, &isg["vit_depth"], &isg["mbconv_blocks"]), (7, &3.into(), &10.into()));
        assert_eq!(toml::from_str::<TrainConfig>("").expect("valid"), TrainConfig::preset(Preset::Paper));
        let again: TrainConfig =
            toml::from_str(&toml::to_string(&config).expect("a configuration")).expect("what was written");
        assert_eq!(again, config);
    }

    #[test]
    fn every_method_is_written_and_read_again() {
        for spec in METHODS {
            for preset in Preset::ALL {
                let config = TrainConfig::of(spec, preset);
                config.validate().expect(spec.name);
                let text = toml::to_string(&config).expect(spec.name);
                assert_eq!(toml::from_str::<TrainConfig>(&text).expect(&text), config);
            }
        }
    }

    #[test]
    fn unknown_keys_are_errors_that_name_them() {
        let error = |text: &str| toml::from_str::<TrainConfig>(text).expect_err(text).to_string();
        assert!(error("isg.vit_dept = 3").contains("vit_dept"));
        assert!(error("epoch = 3").contains("`epoch`"));
        assert!(error("model.vit_depth = 3").contains("table isg"));
        assert!(error("method = \"ridge\"\nisg.vit_depth = 3").contains("another method than ridge"));
        assert!(error("method = \"magic\"").contains("isg, he2rna"));
    }
}
