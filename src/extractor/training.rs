//! Training of the feature extraction networks (paper §3.2, equations 1 and 2).
//!
//! Encoder and generator minimise `w₁·|x − D(E(x))| + w₂·LPIPS + w₃·softplus(−C(D(E(x))))`; the critic minimises
//! `softplus(−C(x)) + softplus(C(D(E(x))))`. The paper prints the game as
//! `min_{D,E} max_C  u(C(x)) + u(−C(D(E(x))))` with u the softplus. Its generator term is ours, the usual non-saturating
//! loss; its critic term pulls the same way but is unbounded, since softplus has no maximum. StyleGAN2 and S2FGAN, which
//! the paper builds on, train the bounded form, and so does this.
//!
//! Every sixteenth step the critic also pays R1, γ/2 times the squared gradient at real images times sixteen, in an update
//! of its own; its learning rate and decay rates are corrected for these extra updates (StyleGAN2 §3.1: to the power
//! 16/17). The critic is shown the reconstructions that the pair's own update was computed from.
//!
//! Passes compute in the precision that the configuration names; weights, moments, losses and what is stored are f32.
//!
//! A step is a function of the weights, the optimisers' moments, the seed and the step's number; a checkpoint keeps them
//! exactly, and a resumed run repeats an uninterrupted one exactly. What the weights follow from (the configuration, the
//! patches, the files of LPIPS) has a digest that checkpoints and the finished file carry, so that a run never resumes from
//! the work of another.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
};

use serde::{Deserialize, Serialize};

use crate::{
    device::{Device, graph::GraphedStep, host::HostBuffer},
    dtype::DType,
    error::{Error, Fault, Result},
    extractor::{
        self, Autoencoder, Header,
        adaptive_augment::{Drawn, Strength, Transforms},
        config::{AugmentConfig, ExtractorConfig, OptimizerConfig},
        discriminator::{Discriminator, r1_penalty},
        lpips::Lpips,
        patches::{BatchLoader, PatchSource},
        quality::{Quality, Yardstick},
    },
    io::{
        checkpoint::{Checkpoint, Checkpoints},
        checksum::Digest,
        metrics::{self, MetricsLog},
        safetensors::SafetensorsFile,
    },
    nn::builder::{Builder, Params},
    ops::upfirdn2d::Filter,
    optim::{Adam, AdamConfig, Ema},
    progress::Progress,
    random::Philox,
    tape::{Grads, Tape},
    tensor::Tensor,
};

/// Steps from one measurement of what the pair is worth to the next; about a fortieth of the time.
const QUALITY_EVERY_STEPS: u64 = 100;
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";

/// What [`train`] leaves behind.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The folder that [`Extractor::load`](extractor::Extractor::load) reads.
    pub dir: PathBuf,
    pub steps: u64,
    /// The last step's losses; absent where the curve was deleted.
    pub last: Option<StepRecord>,
    /// What the pair is worth, as it was measured last.
    pub quality: Option<Quality>,
}

impl Trained {
    fn new(dir: &Path, steps: u64) -> Result<Trained> {
        let curve = curve(dir)?;
        let quality = curve.iter().rev().find_map(|record| record.quality);
        Ok(Trained { dir: dir.to_path_buf(), steps, last: curve.last().cloned(), quality })
    }
}

/// The losses of one step, unweighted; a term that is switched off is absent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    pub step: u64,
    pub l1: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lpips: Option<f64>,
    /// What the pair pays for reconstructions that the critic recognises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adversarial: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critic: Option<f64>,
    /// Mean squared gradient of the critic at real images, on the steps that compute it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r1: Option<f64>,
    /// What the pair is worth after this step, every now and then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// The loss curve of a run, for reports.
pub fn curve(dir: impl AsRef<Path>) -> Result<Vec<StepRecord>> {
    metrics::read(dir.as_ref().join(METRICS))
}

/// Removes what a killed process was writing into a folder of [`train`].
pub fn remove_unfinished(dir: &Path) -> Result<()> {
    Checkpoints::new(dir.join(CHECKPOINTS), 1).remove_unfinished()
}

/// Of the finished extractor in a folder: of the file with its weights.
pub fn checksum(dir: &Path) -> Result<Digest> {
    SafetensorsFile::open_own(dir.join(extractor::FILE)).map(|file| file.checksum().unwrap_or_default())
}

/// What a checkpoint holds beside tensors.
#[derive(Serialize, Deserialize)]
struct State {
    key: Digest,
    /// Patches drawn so far: where the data sequence goes on.
    images: u64,
    pair_updates: u64,
    critic_updates: u64,
    augment: Strength,
}

/// Trains an extractor in `dir`, or resumes where a run of the same configuration and patches stopped; a finished one is
/// left alone. Only the number of steps and how checkpoints are kept may differ from the earlier run.
///
/// # Errors
/// A folder that holds the work of another configuration, other patches or more steps: nothing that was trained is lost
/// without being asked for.
pub fn train(
    config: &ExtractorConfig,
    source: &dyn PatchSource,
    dir: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Trained> {
    config.validate()?;
    let key = key(config, source)?;
    refuse_another(config, key, dir)?;
    bring_up_to_date(config, source, key, dir, device, progress)
}

/// As [`train`], but the work of another configuration or other patches in `dir` is replaced.
pub fn renew(
    config: &ExtractorConfig,
    source: &dyn PatchSource,
    dir: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Trained> {
    config.validate()?;
    bring_up_to_date(config, source, key(config, source)?, dir, device, progress)
}

/// Whether `dir` holds what [`renew`] would leave there.
///
/// # Errors
/// A file of weights that cannot be read, an error of the machine; a damaged extractor is an answer.
pub fn is_finished(config: &ExtractorConfig, source: &dyn PatchSource, dir: &Path) -> Result<bool> {
    let file = dir.join(extractor::FILE);
    if !file.is_file() {
        return Ok(false);
    }
    match Header::read(&file) {
        Ok(found) => Ok(found.key == key(config, source)? && found.step == config.steps),
        Err(error) if error.fault() == Fault::Input => Ok(false),
        Err(error) => Err(error),
    }
}

fn bring_up_to_date(
    config: &ExtractorConfig,
    source: &dyn PatchSource,
    key: Digest,
    dir: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Trained> {
    let file = dir.join(extractor::FILE);
    if file.is_file() {
        match Header::read(&file) {
            Ok(found) if found.key == key && found.step == config.steps => {
                let curve = curve(dir)?;
                if curve.len() as u64 != config.steps {
                    let (left, file) = (curve.len(), dir.join(METRICS));
                    let of = config.steps;
                    progress.note(&format!(
                        "{}: {left} of {of} lines are whole; the curve lacks the others",
                        file.display()
                    ));
                }
                return Trained::new(dir, found.step);
            }
            Ok(_) => {}
            Err(error) if error.fault() == Fault::Input => progress.note(&format!("{error}; it is made again")),
            Err(error) => return Err(error),
        }
        // Whatever comes now, the old file must not pass for its result.
        std::fs::remove_file(&file).map_err(|e| Error::io(&file, e))?;
    }
    if source.is_empty() {
        return Err(Error::Usage("the extractor has no patches to learn from; lower the selection threshold".into()));
    }
    let checkpoints = Checkpoints::new(dir.join(CHECKPOINTS), config.checkpoints_kept);
    let fits = |c: &Checkpoint| c.step() <= config.steps && c.state::<State>().is_ok_and(|s| s.key == key);
    let checkpoint = checkpoints.resume(progress, fits)?;
    device.preload(|device| {
        let images = vec![0.0; config.batch * config.image_px * config.image_px * 3];
        Training::start(config, None, key, dir, device)?.one_step(1, images)
    })?;
    let mut training = Training::start(config, checkpoint.as_ref(), key, dir, device)?;
    let mut log = MetricsLog::resume(dir.join(METRICS), training.step)?;

    progress.begin("extractor", config.steps, "steps");
    progress.advance(training.step);
    let yardstick = Yardstick::new(source, config)?;
    let outcome = training.run(source, &yardstick, &checkpoints, &mut log, progress);
    progress.end();
    outcome?;

    let weights = training.averaged.named(&training.pair.params);
    let trained_in = config.precision.on(device);
    Header { config: config.clone(), step: training.step, key, trained_in }.write(&file, &weights)?;
    let trained = Trained::new(dir, training.step)?;
    trained.quality.and_then(|quality| quality.warning()).iter().for_each(|warning| progress.note(warning));
    Ok(trained)
}

/// Of everything that the weights after any number of steps follow from.
fn key(config: &ExtractorConfig, source: &dyn PatchSource) -> Result<Digest> {
    let mut lpips = Vec::new();
    if config.lpips_weight() > 0.0 && config.lpips.is_trained() {
        let files = [Path::new(&config.lpips.weights), &config.lpips.linear];
        Lpips::check_files(files[0], files[1])?;
        lpips = files.into_iter().map(Digest::of_file).collect::<Result<_>>()?;
    }
    Ok(Digest::of("extractor", &(config.decisive(), lpips, source.digest()?)))
}

/// Errors where a folder holds an extractor, or the beginning of one, that this training would have to replace.
fn refuse_another(config: &ExtractorConfig, key: Digest, dir: &Path) -> Result<()> {
    let refuse = |what: String, remedy: &str| Err(Error::input(dir, what, remedy));
    let anew = "train in a new folder, or give the configuration and the patches that it was begun with";
    let file = dir.join(extractor::FILE);
    let finished = if file.is_file() { Header::read(&file).ok() } else { None };
    let begun = Checkpoints::new(dir.join(CHECKPOINTS), 1).newest().ok().flatten();
    let begun = begun.and_then(|checkpoint| Some((checkpoint.state::<State>().ok()?.key, checkpoint.step())));
    let works = finished.map(|header| (header.key, header.step)).into_iter().chain(begun);
    for (of, step) in works {
        if of != key {
            return refuse("holds an extractor of another configuration or other patches".into(), anew);
        }
        if step > config.steps {
            return refuse(format!("holds an extractor of {step} steps"), "train in a new folder for fewer");
        }
    }
    Ok(())
}

/// A model and what trains it.
struct Learner<M> {
    model: M,
    params: Params,
    adam: Adam,
}

/// A run in memory: the networks and everything that changes from step to step. [`train`] wraps one in checkpoints.
pub struct Training<'a> {
    config: &'a ExtractorConfig,
    key: Digest,
    /// Named in errors.
    dir: &'a Path,
    device: &'a Device,
    pair: Learner<Autoencoder>,
    /// Absent where the adversarial term is switched off.
    critic: Option<Learner<Discriminator>>,
    lpips: Option<Lpips>,
    averaged: Ema,
    augment: Strength,
    batch: Option<Batch>,
    update: GraphedStep<Terms>,
    penalty: GraphedStep<Tensor>,
    /// Steps done.
    step: u64,
}

impl<'a> Training<'a> {
    /// A run from its beginning.
    pub fn new(config: &'a ExtractorConfig, device: &'a Device) -> Result<Training<'a>> {
        config.validate()?;
        Training::start(config, None, Digest::default(), Path::new("extractor"), device)
    }

    fn start(
        config: &'a ExtractorConfig,
        checkpoint: Option<&Checkpoint>,
        key: Digest,
        dir: &'a Path,
        device: &'a Device,
    ) -> Result<Training<'a>> {
        let state = checkpoint.map(Checkpoint::state::<State>).transpose()?;
        let builder = |group: &str| match checkpoint {
            None => Ok(Builder::fresh(config.seed, DType::F32, device)),
            Some(checkpoint) => {
                let origin = checkpoint.file(group).display().to_string();
                Ok(Builder::load(checkpoint.tensors(group, device)?, &origin, DType::F32, device))
            }
        };
        let (model, params) = Autoencoder::new(builder("model")?, config)?;
        let mut pair = Learner { model, adam: Adam::new(&params, adam(config, 1.0))?, params };
        let mut critic = None;
        if config.loss.adversarial > 0.0 {
            let mut b = builder("critic")?;
            let filter = Filter::low_pass(&config.resample_filter)?;
            let model =
                b.scope("critic", |b| Discriminator::new(b, &config.discriminator, &filter, config.precision))?;
            let params = b.finish()?;
            critic =
                Some(Learner { model, adam: Adam::new(&params, adam(config, critic_correction(config)))?, params });
        }
        let mut averaged = Ema::of(&pair.params)?;
        if let (Some(checkpoint), Some(state)) = (checkpoint, &state) {
            let origin = checkpoint.path().display().to_string();
            averaged.restore(&pair.params, &checkpoint.tensors("ema", device)?, &origin)?;
            let moments = checkpoint.tensors("optim", device)?;
            pair.adam.restore(&pair.params, &moments, state.pair_updates, &origin)?;
            if let Some(critic) = &mut critic {
                critic.adam.restore(&critic.params, &moments, state.critic_updates, &origin)?;
            }
        }
        let lpips = perceptual(config, device)?;
        let (step, augment) = (checkpoint.map_or(0, Checkpoint::step), state.map(|s| s.augment).unwrap_or_default());
        let (batch, update, penalty) = Default::default();
        Ok(Training { config, key, dir, device, pair, critic, lpips, averaged, augment, batch, update, penalty, step })
    }

    /// All steps that are left. Batches are made ready on a thread of their own.
    fn run(
        &mut self,
        source: &dyn PatchSource,
        yardstick: &Yardstick,
        checkpoints: &Checkpoints,
        log: &mut MetricsLog,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut worth = String::new();
        let (config, next) = (self.config, self.step + 1);
        std::thread::scope(|scope| {
            // One batch waits while one is in use; dropping `batches` ends the thread.
            let (send, batches) = mpsc::sync_channel(1);
            scope.spawn(move || {
                let mut loader = BatchLoader::new(source, config);
                (next..=config.steps).all(|step| {
                    let batch = loader.batch(step);
                    let whole = batch.is_ok();
                    send.send(batch).is_ok() && whole
                });
            });
            let mut saved = self.step;
            let ended = (next..=config.steps).try_for_each(|step| {
                progress.check()?;
                let images =
                    batches.recv().map_err(|_| Error::Device("cpu: the thread that loads patches died".into()))?;
                let mut record = self.one_step(step, images?)?;
                if step % QUALITY_EVERY_STEPS == 0 || step == config.steps {
                    let quality = yardstick.measure(&self.pair.model, config.batch, self.device)?;
                    (record.quality, worth) = (Some(quality), quality.remark());
                }
                log.append(&record)?;
                self.step = step;
                progress.remark(&format!("{}  {worth}", remark(&record)));
                progress.advance(1);
                if step % config.checkpoint_every_steps == 0 || step == config.steps {
                    self.save(checkpoints)?;
                    saved = step;
                }
                Ok(())
            });
            if matches!(ended, Err(Error::Interrupted)) && self.step > saved {
                self.save(checkpoints)?;
            }
            ended
        })
    }

    /// Step number `step` (from 1) on `[batch, px, px, 3]` images in [-1, 1].
    pub fn one_step(&mut self, step: u64, images: Vec<f32>) -> Result<StepRecord> {
        let _precision = self.config.precision.on(self.device).enter(self.device);
        let values = self.values(step, images);
        match &mut self.batch {
            Some(batch) if batch.holds(&values) => batch.overwrite(values)?,
            batch => {
                *batch = Some(values.into_batch(self.config, self.device)?);
                (self.update, self.penalty) = Default::default();
            }
        }
        let terms = self.update_networks()?;
        let weights = &self.config.loss;
        let r1 = match self.critic {
            Some(_) if weights.r1 > 0.0 && (step - 1).is_multiple_of(weights.r1_every_steps) => Some(self.pay_r1()?),
            _ => None,
        };
        // The first look at results: until here a GPU has everything queued.
        let number = |term: &Option<Tensor>| term.as_ref().map(Tensor::item).transpose();
        let record = StepRecord {
            step,
            l1: terms.l1.item()?,
            lpips: number(&terms.lpips)?,
            adversarial: number(&terms.adversarial)?,
            critic: number(&terms.critic)?,
            r1: number(&r1)?,
            quality: None,
        };
        self.refuse_not_finite(&record)?;
        let AugmentConfig { adaptive_target, adaptive_length_images, .. } = self.config.augment;
        if let Some(logits) = terms.real_logits.filter(|_| adaptive_target > 0.0) {
            self.augment.steer(&logits, adaptive_target, adaptive_length_images)?;
        }
        Ok(record)
    }

    /// What the device needs to know of a step.
    fn values(&self, step: u64, images: Vec<f32>) -> BatchValues {
        let (batch, px) = (self.config.batch, self.config.image_px);
        let chance = Philox::named(self.config.seed, "extractor.adaptive");
        let look = |look: u64| Drawn::new([batch, px], self.augment.p, &chance, (step * 4 + look) * batch as u64);
        let fade = (1.0 - ema_decay(self.config, step)) as f32;
        let fade_steps = self.config.loss.adversarial_fade_steps;
        let grown = if fade_steps == 0 { 1.0 } else { (step as f64 / fade_steps as f64).min(1.0) };
        let adversarial = (self.config.loss.adversarial * grown) as f32;
        BatchValues { images, looks: [0, 1, 2, 3].map(look), fade, adversarial }
    }

    /// One update of the pair, one of the critic, and of the averages.
    fn update_networks(&mut self) -> Result<Terms> {
        self.pair.adam.advance()?;
        self.critic.as_mut().map_or(Ok(()), |critic| critic.adam.advance())?;
        let mut update = std::mem::take(&mut self.update);
        let terms = update.run(self.device, || {
            let (fake, terms) = self.launch_pair()?;
            let terms = self.launch_critic(&fake, terms)?;
            self.averaged.update_by(&self.pair.params, &self.batch()?.fade)?;
            Ok(terms)
        });
        self.update = update;
        terms
    }

    /// The critic's update for R1; returns the penalty.
    fn pay_r1(&mut self) -> Result<Tensor> {
        self.critic.as_mut().map_or(Ok(()), |critic| critic.adam.advance())?;
        let mut penalty = std::mem::take(&mut self.penalty);
        let value = penalty.run(self.device, || self.launch_r1());
        self.penalty = penalty;
        value
    }

    fn batch(&self) -> Result<&Batch> {
        self.batch.as_ref().ok_or_else(|| Error::internal("a training step without a batch"))
    }

    /// One update of encoder and generator; returns the reconstructions it was computed from.
    fn launch_pair(&self) -> Result<(Tensor, Terms)> {
        let (weights, batch) = (&self.config.loss, self.batch()?);
        let tape = Tape::start();
        // Only the pair's weights are watched, so nothing computes gradients of the critic's.
        tape.watch(self.pair.params.trainable());
        let (fake, codes) = self.pair.model.forward_training(&batch.real)?;
        let l1 = fake.l1_loss(&batch.real)?;
        let mut loss = l1.scale(weights.l1)?;
        let (mut lpips, mut adversarial) = (None, None);
        if let Some(net) = &self.lpips {
            let distance = net.distance(&batch.real, &fake)?.mean_all()?;
            loss = loss.add(&distance.scale(weights.lpips)?)?;
            lpips = Some(distance);
        }
        if let Some(critic) = &self.critic {
            let recognised = critic.model.forward(&batch.shown(&fake, 0)?)?.neg()?.softplus()?.mean_all()?;
            loss = loss.add(&recognised.mul(&batch.adversarial)?)?;
            adversarial = Some(recognised);
        }
        self.pair.apply(&tape.backward(&loss)?, self.config)?;
        codes.store()?;
        Ok((fake, Terms { l1, lpips, adversarial, critic: None, real_logits: None }))
    }

    /// One update of the critic.
    fn launch_critic(&self, fake: &Tensor, terms: Terms) -> Result<Terms> {
        let Some(critic) = &self.critic else { return Ok(terms) };
        let batch = self.batch()?;
        let tape = Tape::start();
        tape.watch(critic.params.trainable());
        let real_logits = critic.model.forward(&batch.shown(&batch.real, 1)?)?;
        let fake_logits = critic.model.forward(&batch.shown(fake, 2)?)?;
        let loss = real_logits.neg()?.softplus()?.mean_all()?.add(&fake_logits.softplus()?.mean_all()?)?;
        critic.apply(&tape.backward(&loss)?, self.config)?;
        Ok(Terms { critic: Some(loss), real_logits: Some(real_logits), ..terms })
    }

    fn launch_r1(&self) -> Result<Tensor> {
        let (weights, batch) = (&self.config.loss, self.batch()?);
        let critic = self.critic.as_ref().ok_or_else(|| Error::internal("R1 without a critic"))?;
        let tape = Tape::start();
        tape.watch(critic.params.trainable().into_iter().chain([&batch.real]));
        let logits = critic.model.forward_for_r1(&batch.shown(&batch.real, 3)?)?;
        let penalty = r1_penalty(&tape, &logits, &batch.real)?;
        let loss = penalty.scale(weights.r1 / 2.0 * weights.r1_every_steps as f64)?;
        critic.apply(&tape.backward(&loss)?, self.config)?;
        Ok(penalty)
    }

    fn refuse_not_finite(&self, record: &StepRecord) -> Result<()> {
        let terms = [Some(record.l1), record.lpips, record.adversarial, record.critic, record.r1];
        if terms.into_iter().flatten().all(f64::is_finite) {
            return Ok(());
        }
        let problem = format!("training step {} gave a NaN or infinite loss ({})", record.step, remark(record));
        let remedy = "lower optimizer.lr or set optimizer.clip_norm to 10, and train in a new folder";
        Err(Error::input(self.dir, problem, remedy))
    }

    fn save(&self, checkpoints: &Checkpoints) -> Result<()> {
        let named = |params: &Params| params.named().map(|(n, t)| (n.to_string(), t.clone())).collect::<Vec<_>>();
        let mut optim = self.pair.adam.named(&self.pair.params);
        let mut groups = vec![("model", named(&self.pair.params)), ("ema", self.averaged.named(&self.pair.params))];
        if let Some(critic) = &self.critic {
            groups.push(("critic", named(&critic.params)));
            optim.extend(critic.adam.named(&critic.params));
        }
        groups.push(("optim", optim));
        let state = State {
            key: self.key,
            images: self.step * self.config.batch as u64,
            pair_updates: self.pair.adam.step_count(),
            critic_updates: self.critic.as_ref().map_or(0, |critic| critic.adam.step_count()),
            augment: self.augment,
        };
        checkpoints.save(self.step, &groups, &state).map(|_| ())
    }
}

impl<M> Learner<M> {
    fn apply(&self, grads: &Grads, config: &ExtractorConfig) -> Result<()> {
        self.adam.apply(&self.params, grads, config.optimizer.clip_norm).map(|_| ())
    }
}

/// What changes from step to step.
struct BatchValues {
    images: Vec<f32>,
    /// How the critic sees images in each of the four looks that it takes a step.
    looks: [Option<Drawn>; 4],
    /// What the averages take of the current weights.
    fade: f32,
    /// Weight of the adversarial term.
    adversarial: f32,
}

impl BatchValues {
    fn into_batch(self, config: &ExtractorConfig, device: &Device) -> Result<Batch> {
        let (n, px) = (config.batch, config.image_px);
        let [a, b, c, d] = self.looks.map(|look| look.map(|drawn| drawn.into_tensors(DType::F32, device)).transpose());
        Ok(Batch {
            real: Tensor::from_vec(self.images, [n, px, px, 3], device)?,
            looks: [a?, b?, c?, d?],
            fade: Tensor::from_vec(vec![self.fade], [1], device)?,
            adversarial: Tensor::from_vec(vec![self.adversarial], [1], device)?,
        })
    }
}

/// The same where the launches of a step read it.
struct Batch {
    real: Tensor,
    looks: [Option<Transforms>; 4],
    fade: Tensor,
    adversarial: Tensor,
}

impl Batch {
    /// Whether these values fit in: a step with transforms is made of other launches than one without.
    fn holds(&self, values: &BatchValues) -> bool {
        self.real.shape().elems() == values.images.len()
            && self.looks.iter().zip(&values.looks).all(|(ours, theirs)| ours.is_some() == theirs.is_some())
    }

    fn overwrite(&mut self, values: BatchValues) -> Result<()> {
        self.real.overwrite(HostBuffer::F32(values.images))?;
        self.fade.overwrite(HostBuffer::F32(vec![values.fade]))?;
        self.adversarial.overwrite(HostBuffer::F32(vec![values.adversarial]))?;
        let looks = self.looks.iter_mut().flatten().zip(values.looks.into_iter().flatten());
        looks.into_iter().try_for_each(|(look, drawn)| look.overwrite(drawn))
    }

    /// What the critic sees of `images` in a look.
    fn shown(&self, images: &Tensor, look: usize) -> Result<Tensor> {
        self.looks[look].as_ref().map_or_else(|| Ok(images.clone()), |transforms| transforms.apply(images))
    }
}

/// The unweighted losses of an update, not looked at.
#[derive(Clone)]
struct Terms {
    l1: Tensor,
    lpips: Option<Tensor>,
    adversarial: Option<Tensor>,
    critic: Option<Tensor>,
    real_logits: Option<Tensor>,
}

/// Adam as configured, its rates corrected for updates that are not of the loss itself.
fn adam(config: &ExtractorConfig, correction: f64) -> AdamConfig {
    let OptimizerConfig { lr, beta1, beta2, eps, .. } = config.optimizer;
    AdamConfig {
        lr: lr * correction,
        beta1: beta1.powf(correction),
        beta2: beta2.powf(correction),
        eps,
        ..AdamConfig::default()
    }
}

/// Share of the critic's updates that are not R1's, by which its learning rate and decay rates are corrected.
fn critic_correction(config: &ExtractorConfig) -> f64 {
    let every = config.loss.r1_every_steps as f64;
    if config.loss.r1 > 0.0 { every / (every + 1.0) } else { 1.0 }
}

/// Decay of the averaged weights at `step`: their half-life in images is the configured one, but early on no more than
/// a fraction of what was seen, so that they forget the random start.
fn ema_decay(config: &ExtractorConfig, step: u64) -> f64 {
    let batch = config.batch as f64;
    let OptimizerConfig { ema_half_life_images, ema_rampup, .. } = config.optimizer;
    let seen = step as f64 * batch;
    let half_life = if ema_rampup > 0.0 { ema_half_life_images.min(seen * ema_rampup) } else { ema_half_life_images };
    0.5f64.powf(batch / half_life.max(1e-8))
}

fn perceptual(config: &ExtractorConfig, device: &Device) -> Result<Option<Lpips>> {
    if config.lpips_weight() == 0.0 {
        return Ok(None);
    }
    match config.lpips.weights.as_str() {
        "random" => Lpips::random(config.seed, DType::F32, device),
        path => Lpips::load(path.as_ref(), &config.lpips.linear, DType::F32, device),
    }
    .map(Some)
}

/// `l1 0.213  lpips 0.401  adversarial 0.9  critic 1.1`, as far as the terms are there.
fn remark(record: &StepRecord) -> String {
    let terms = [
        ("l1", Some(record.l1)),
        ("lpips", record.lpips),
        ("adversarial", record.adversarial),
        ("critic", record.critic),
        ("r1", record.r1),
    ];
    let shown = terms.iter().filter_map(|(name, value)| value.map(|v| format!("{name} {v:.4}")));
    shown.collect::<Vec<_>>().join("  ")
}
