//! Training of one network: a loss averaged over slides (paper §3.3: L2), AdamW, a warm-up and a cosine, clipped gradients,
//! patches drawn anew at every step, an average of the weights, early stopping on validation slides. A method with a closed
//! form is solved instead.
//!
//! Passes compute in the precision that the configuration names; weights, moments, the loss and what is stored are f32.
//!
//! A step is a function of the weights, the optimiser's moments, the seed and the step's number. A checkpoint keeps them
//! exactly at the end of an epoch: a run that was killed ends bit-identical to an uninterrupted one.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::targets::TargetScaler,
    device::{Device, graph::GraphedStep, host::HostBuffer},
    dtype::DType,
    error::{Error, Fault, Result},
    io::{
        checkpoint::{Checkpoint, Checkpoints},
        checksum::Digest,
        metrics::MetricsLog,
        safetensors::SafetensorsFile,
    },
    mil::{
        bags::{Bag, BagSet},
        batch::{Batch, BatchValues, Draw},
        config::{FineTuneConfig, TrainConfig},
        features::FeatureScale,
        method::{ClosedForm, Fit, TrainingData},
        model::{Model, ModelHeader},
        network::{Mode, TrainingStep},
        tasks::Task,
        validation,
    },
    nn::builder::Params,
    optim::{Adam, AdamConfig, Ema, Schedule},
    progress::Progress,
    random::Philox,
    shape::Shape,
    tape::Tape,
    tensor::Tensor,
};

pub const MODEL_FILE: &str = "model.safetensors";
pub const METRICS_FILE: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";

/// One network to train.
pub struct Job<'a> {
    pub set: &'a BagSet,
    pub train: &'a [usize],
    pub valid: &'a [usize],
    /// Genes whose error counts.
    pub genes: Vec<usize>,
    /// What a copy is tuned for; `None`: everything.
    pub task: Option<&'a Task>,
    pub seed: u64,
    pub epochs: usize,
    pub learning_rate: f64,
    pub patience: usize,
    /// A stored model to begin with instead of fresh weights.
    pub begin: Option<&'a Path>,
    pub dir: &'a Path,
}

/// One epoch of a training curve.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Optimiser steps done.
    pub step: u64,
    pub epoch: u64,
    pub learning_rate: f64,
    /// `train.loss` over the epoch's steps.
    pub train_loss: f64,
    /// The gradient's norm before clipping, averaged over the steps.
    pub gradient_norm: f64,
    /// Mean squared error on the scaled targets; of probabilities where labels are predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
    /// Mean over genes and projects of the correlation over the project's validation slides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_pearson: Option<f64>,
}

/// What a checkpoint holds beside tensors.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct State {
    key: Digest,
    epoch: u64,
    step: u64,
    /// Epoch and score of the weights under `best`, once there are any.
    best: Option<(u64, f64)>,
    stopped: bool,
}

/// Trains a network in `job.dir`, or resumes where an earlier run stopped. A finished network of the same configuration and
/// data is left alone; anything else in the folder is begun anew.
pub fn fit(job: &Job, config: &TrainConfig, device: &Device, progress: &dyn Progress) -> Result<ModelHeader> {
    let path = job.dir.join(MODEL_FILE);
    let (features, targets) = scales(job, config)?;
    let key = key(job, config, &features, &targets)?;
    if path.is_file() {
        match ModelHeader::read(&path) {
            Ok(header) if header.key == key => {
                progress.advance(job.epochs as u64);
                return Ok(header);
            }
            Ok(_) => {}
            Err(error) if error.fault() == Fault::Input => progress.note(&format!("{error}; it is trained again")),
            Err(error) => return Err(error),
        }
    }
    if let Fit::Closed(form) = config.method.fit() {
        begin_anew(job.dir)?;
        let header = solve(job, form, ModelHeader::of_job(job, config, targets, key, device), &features)?;
        progress.advance(job.epochs as u64);
        return Ok(header);
    }
    let checkpoints = Checkpoints::new(job.dir.join(CHECKPOINTS), 2);
    let checkpoint = checkpoints.resume(progress, |c| c.state::<State>().is_ok_and(|state| state.key == key))?;
    if checkpoint.is_none() {
        begin_anew(job.dir)?;
    }
    let header = ModelHeader::of_job(job, config, targets, key, device);
    let precision = header.precision;
    let _precision = precision.enter(device);
    device.preload(|device| {
        let _precision = precision.enter(device);
        let mut first = Training::start(job, config, header.clone(), features.clone(), None, device)?;
        first.step(&job.train[..job.train.len().min(config.batch_slides)])
    })?;
    let mut training = Training::start(job, config, header, features, checkpoint.as_ref(), device)?;
    progress.advance(training.state.epoch);
    let mut log = MetricsLog::resume(job.dir.join(METRICS_FILE), training.state.step)?;
    training.run(&checkpoints, &mut log, progress)?;
    let header = training.write(&path)?;
    begin_anew(&job.dir.join(CHECKPOINTS))?;
    Ok(header)
}

/// Solves a closed form and writes its model.
fn solve(job: &Job, form: &dyn ClosedForm, header: ModelHeader, features: &FeatureScale) -> Result<ModelHeader> {
    let data = TrainingData { set: job.set, slides: job.train, features, targets: &header.targets };
    let tensor = |(name, shape, values): (String, Shape, Vec<f64>)| {
        Ok((name, Tensor::from_f64(&values, shape, DType::F32, &Device::cpu())?))
    };
    let weights = form.solve(&data)?.into_iter().map(tensor).collect::<Result<Vec<_>>>()?;
    Model::write(&job.dir.join(MODEL_FILE), &header, features, &weights)?;
    Ok(header)
}

/// The curve that [`fit`] left in a folder; empty where nothing was trained step by step.
pub fn curve(dir: impl AsRef<Path>) -> Result<Vec<EpochRecord>> {
    let path = dir.as_ref().join(METRICS_FILE);
    if path.is_file() { crate::io::metrics::read(path) } else { Ok(Vec::new()) }
}

/// Removes what an earlier run with other settings left.
pub(super) fn begin_anew(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(dir, e)),
        _ => Ok(()),
    }
}

/// Scales of features and targets, fitted on the training slides; those of the stored model where one is tuned.
fn scales(job: &Job, config: &TrainConfig) -> Result<(FeatureScale, TargetScaler)> {
    if job.train.is_empty() {
        return Err(Error::Usage("a fold has no slide to train on; use fewer folds or give more slides".into()));
    }
    if let Some(path) = job.begin {
        let model = Model::load(path, &Device::cpu())?;
        return Ok((model.features, model.header.targets));
    }
    let reads = config.method.reads(job.set.dims);
    let features = match config.standardise_features {
        true => FeatureScale::fit(job.set, job.train, reads)?,
        false => FeatureScale::identity(job.set.dims, reads),
    };
    let scaling = config.loss().scaling(config.target_scaling);
    Ok((features, job.set.fit_targets(scaling, job.train)?))
}

/// Of everything that decides the result. How often checkpoints are written, how many networks there are and how many train
/// at once do not, nor what this one will be tuned for later.
fn key(job: &Job, config: &TrainConfig, features: &FeatureScale, targets: &TargetScaler) -> Result<Digest> {
    let settings = TrainConfig {
        name: String::new(),
        parallel: 0,
        checkpoint_s: 0,
        members: 1,
        // These are the job's.
        epochs: job.epochs,
        learning_rate: job.learning_rate,
        patience: job.patience,
        fine_tune: FineTuneConfig::none(),
        ..config.clone()
    };
    let slide = |&slide: &usize| {
        let Bag { slide: name, patient, project, digest, .. } = &job.set.bags[slide];
        let targets: Vec<u64> = job.set.targets[slide].iter().map(|t| t.to_bits()).collect();
        (name.clone(), patient.clone(), project.clone(), *digest, targets)
    };
    let [train, valid] = [job.train, job.valid].map(|slides| slides.iter().map(slide).collect::<Vec<_>>());
    let parent = job.begin.map(|path| SafetensorsFile::open_own(path).map(|file| file.checksum())).transpose()?;
    let scales = Digest::of_bytes(format!("{features:?} {targets:?}").as_bytes());
    let of_job = (job.seed, job.task, &job.genes, &job.set.genes, job.set.origin, job.set.dims);
    // The criterion that chooses the epoch.
    let validated = "within projects";
    Ok(Digest::of("model", &(validated, settings, of_job, train, valid, scales, parent)))
}

struct Training<'a> {
    job: &'a Job<'a>,
    config: &'a TrainConfig,
    device: &'a Device,
    model: Model,
    /// The model of averaged weights, where they are averaged.
    averaged: Option<(Model, Ema)>,
    optimiser: Adam,
    /// What positives count, per target.
    positives: Vec<f64>,
    /// The update of batches that are shaped as the last one, where the device supports graphs.
    update: Option<Update>,
    best: Vec<(String, Tensor)>,
    state: State,
}

impl<'a> Training<'a> {
    fn start(
        job: &'a Job,
        config: &'a TrainConfig,
        header: ModelHeader,
        features: FeatureScale,
        checkpoint: Option<&Checkpoint>,
        device: &'a Device,
    ) -> Result<Training<'a>> {
        let group = |stem: &str, checkpoint: &Checkpoint| {
            let weights = checkpoint.tensors(stem, device)?;
            let origin = checkpoint.file(stem).display().to_string();
            Model::of_weights(header.clone(), features.clone(), weights, &origin, device)
        };
        let model = match (checkpoint, job.begin) {
            (Some(checkpoint), _) => group("model", checkpoint)?,
            (None, Some(path)) => {
                let parent = Model::load(path, device)?;
                let weights = parent.params.named().map(|(n, t)| (n.to_string(), t.clone())).collect();
                Model::of_weights(header.clone(), features.clone(), weights, &path.display().to_string(), device)?
            }
            (None, None) => Model::fresh(header.clone(), features.clone(), job.seed, device)?,
        };
        let averaged = match (config.ema_decay > 0.0, checkpoint) {
            (false, _) => None,
            (true, Some(checkpoint)) => Some(group("ema", checkpoint)?),
            (true, None) => {
                let weights = model.params.named().map(|(n, t)| (n.to_string(), t.clone())).collect();
                Some(Model::of_weights(header.clone(), features.clone(), weights, "fresh weights", device)?)
            }
        };
        let averaged = averaged.map(|m| {
            let ema = Ema::over(&m.params);
            (m, ema)
        });
        let [beta1, beta2] = config.betas;
        let adam = AdamConfig { beta1, beta2, weight_decay: config.weight_decay, ..AdamConfig::default() };
        let mut optimiser = Adam::new(&model.params, adam)?;
        let mut best = Vec::new();
        let state = match checkpoint {
            Some(checkpoint) => {
                let state: State = checkpoint.state()?;
                let origin = checkpoint.file("optim").display().to_string();
                optimiser.restore(&model.params, &checkpoint.tensors("optim", device)?, state.step, &origin)?;
                if state.best.is_some() {
                    let held = group("best", checkpoint)?;
                    best = named(&held.params);
                }
                state
            }
            None => State { key: header.key, epoch: 0, step: 0, best: None, stopped: false },
        };
        let targets = job.train.iter().map(|&slide| &job.set.targets[slide][..]);
        let positives = config.loss.positive_weights(job.set.genes.len(), targets);
        Ok(Training { job, config, device, model, averaged, optimiser, positives, update: None, best, state })
    }

    /// Whether validation chooses the epoch.
    fn selects(&self) -> bool {
        self.job.valid.len() >= self.config.min_valid_slides.max(2)
    }

    fn run(&mut self, checkpoints: &Checkpoints, log: &mut MetricsLog, progress: &dyn Progress) -> Result<()> {
        let mut saved = Instant::now();
        if self.state.epoch == 0 && self.job.begin.is_some() && self.selects() {
            // Tuning may only improve on what it begins with.
            let (_, score) = self.validate()?;
            self.keep_if_best(score)?;
        }
        while self.state.epoch < self.job.epochs as u64 && !self.state.stopped {
            if let Err(interrupted) = progress.check() {
                self.save(checkpoints)?;
                return Err(interrupted);
            }
            let record = self.epoch()?;
            log.append(&record)?;
            progress.remark(&remark(&record));
            progress.advance(1);
            if saved.elapsed() >= Duration::from_secs(self.config.checkpoint_s) {
                self.save(checkpoints)?;
                saved = Instant::now();
            }
        }
        progress.advance(self.job.epochs as u64 - self.state.epoch);
        Ok(())
    }

    fn epoch(&mut self) -> Result<EpochRecord> {
        let epoch = self.state.epoch;
        let order = Philox::named(self.job.seed, &format!("slides {epoch}")).permutation(self.job.train.len());
        // Batches of nearly equal size: a last one of a single slide would be a step of its own weight.
        let batches = order.len().div_ceil(self.config.batch_slides);
        let schedule = self.schedule(batches);
        let (mut loss, mut norm, mut rate) = (0.0, 0.0, 0.0);
        for batch in 0..batches {
            let (begin, end) = (batch * order.len() / batches, (batch + 1) * order.len() / batches);
            let slides: Vec<usize> = order[begin..end].iter().map(|&i| self.job.train[i]).collect();
            rate = self.job.learning_rate * schedule.factor(self.state.step as f64);
            self.optimiser.config.lr = rate;
            let [step_loss, step_norm] = self.step(&slides)?;
            loss += step_loss / batches as f64;
            norm += step_norm / batches as f64;
        }
        self.state.epoch += 1;
        let (valid_loss, valid_pearson) = self.validate()?;
        if self.selects() {
            self.keep_if_best(valid_pearson)?;
            // Without any correlation nothing can have stopped to improve.
            let since = self.state.best.map_or(0, |(epoch, _)| self.state.epoch - epoch);
            self.state.stopped = self.job.patience > 0 && since >= self.job.patience as u64;
        }
        Ok(EpochRecord {
            step: self.state.step,
            epoch: self.state.epoch,
            learning_rate: rate,
            train_loss: loss,
            gradient_norm: norm,
            valid_loss,
            valid_pearson,
        })
    }

    /// A warm-up of at most half the epochs, then a cosine.
    fn schedule(&self, steps_an_epoch: usize) -> Schedule {
        let (epochs, steps) = (self.job.epochs as f64, steps_an_epoch as f64);
        let warm_up = (self.config.warmup_epochs.min(0.5 * epochs) * steps).round() as u64;
        Schedule::Cosine { warm_up, total: (epochs * steps) as u64, final_factor: self.config.final_rate }
    }

    /// One update; returns the loss and the gradient's norm.
    fn step(&mut self, slides: &[usize]) -> Result<[f64; 2]> {
        let values = self.draw().values(slides, self.state.step)?;
        self.optimiser.advance()?;
        let results = if self.device.supports_graphs() {
            self.graphed(values)?
        } else {
            self.launches(&values.upload(&self.draw(), self.device)?, None)?
        };
        // The only look at results: until here a GPU has everything queued.
        let [value, norm] = [results[0].item()?, results[1].item()?];
        if !value.is_finite() {
            let problem = format!("epoch {} gave a NaN or infinite loss", self.state.epoch + 1);
            return Err(Error::input(self.job.dir, problem, "lower train.learning_rate and run again"));
        }
        self.state.step += 1;
        Ok([value, norm])
    }

    /// The update as a CUDA graph, for as long as batches keep their shape.
    fn graphed(&mut self, values: BatchValues) -> Result<[Tensor; 2]> {
        let (shape, ema_weight) = ((values.shape(), self.variant()), vec![(1.0 - self.decay()) as f32]);
        let mut update = match self.update.take().filter(|update| update.shape == shape) {
            Some(mut update) => {
                update.batch.overwrite(values, &self.draw())?;
                update.ema_weight.overwrite(HostBuffer::F32(ema_weight))?;
                update
            }
            None => {
                let batch = values.upload(&self.draw(), self.device)?;
                let ema_weight = Tensor::from_vec(ema_weight, [1], self.device)?;
                Update { batch, ema_weight, shape, step: GraphedStep::default() }
            }
        };
        let Update { batch, ema_weight, step, .. } = &mut update;
        let results = step.run(self.device, || self.launches(batch, Some(ema_weight)))?;
        self.update = Some(update);
        Ok(results)
    }

    fn draw(&self) -> Draw<'_> {
        Draw {
            set: self.job.set,
            config: self.config,
            input: self.model.network.input,
            features: &self.model.features,
            targets: &self.model.header.targets,
            genes: &self.job.genes,
            positives: &self.positives,
            seed: self.job.seed,
        }
    }

    /// The form of the network that this step trains.
    fn variant(&self) -> usize {
        match self.model.network.variants {
            0 | 1 => 0,
            variants => Philox::named(self.job.seed, "variants").below(self.state.step, variants),
        }
    }

    /// What the averaged weights keep. Young averages forget faster, or they would remember the fresh weights.
    fn decay(&self) -> f64 {
        Ema::warmed_up(self.config.ema_decay, self.state.step)
    }

    /// All that an update does on the device, without reading any value on the host; returns the loss and the gradient's norm.
    /// `ema_weight` is where a graph finds what the averages take of the current weights.
    fn launches(&self, batch: &Batch, ema_weight: Option<&Tensor>) -> Result<[Tensor; 2]> {
        let mut step = TrainingStep::new(self.job.seed, self.state.step as u32, self.variant());
        let tape = Tape::start();
        tape.watch(self.model.params.trainable());
        let predicted = self.model.network.forward(&batch.patches, &batch.slides, &mut Mode::Train(&mut step))?;
        let loss = match self.model.network.patchwise {
            false => self.config.loss.of(&predicted, &batch.targets, &batch.weights)?,
            true => {
                let slide = &batch.slides.row_numbers()?.owners;
                let each = batch.slides.lengths().len() as f64 / predicted.shape().rows() as f64;
                let weights = batch.weights.gather_rows(slide)?.scale(each)?;
                self.config.loss.of(&predicted, &batch.targets.gather_rows(slide)?, &weights)?
            }
        };
        let grads = tape.backward(&loss)?;
        let norm = self.optimiser.apply(&self.model.params, &grads, self.config.clip_norm)?;
        step.stats.store()?;
        match (&self.averaged, ema_weight) {
            (None, _) => {}
            (Some((_, ema)), None) => ema.update(&self.model.params, self.decay())?,
            (Some((_, ema)), Some(weight)) => ema.update_by(&self.model.params, weight)?,
        }
        let norm = norm.map_or_else(|| loss.zeros_like(), Ok)?;
        Ok([loss, norm])
    }

    /// The model that is evaluated and kept.
    fn evaluated(&self) -> &Model {
        self.averaged.as_ref().map_or(&self.model, |(model, _)| model)
    }

    /// Mean squared error and mean correlation on the validation slides.
    fn validate(&self) -> Result<(Option<f64>, Option<f64>)> {
        let model = self.evaluated();
        let mut slides = Vec::new();
        for &slide in self.job.valid {
            let bag = &self.job.set.bags[slide];
            let mut truth = self.job.set.targets[slide].clone();
            model.header.targets.transform(&mut truth);
            let mut predicted = model.outputs(&*bag.features)?;
            model.header.loss.likelihoods(&mut predicted);
            slides.push(validation::Validated { project: &bag.project, truth, predicted });
        }
        Ok(validation::scores(&slides, &self.job.genes))
    }

    fn keep_if_best(&mut self, score: Option<f64>) -> Result<()> {
        if let Some(score) = score
            && self.state.best.is_none_or(|(_, best)| score > best)
        {
            self.state.best = Some((self.state.epoch, score));
            self.best = copies(&self.evaluated().params)?;
        }
        Ok(())
    }

    fn save(&self, checkpoints: &Checkpoints) -> Result<()> {
        let mut groups =
            vec![("model", named(&self.model.params)), ("optim", self.optimiser.named(&self.model.params))];
        if let Some((model, _)) = &self.averaged {
            groups.push(("ema", named(&model.params)));
        }
        if self.state.best.is_some() {
            groups.push(("best", self.best.clone()));
        }
        checkpoints.save(self.state.epoch, &groups, &self.state).map(drop)
    }

    /// Writes the chosen weights.
    fn write(&self, path: &Path) -> Result<ModelHeader> {
        let mut header = self.model.header.clone();
        let weights = match self.state.best {
            Some((epoch, score)) => {
                (header.epoch, header.valid_pearson) = (epoch, Some(score));
                self.best.clone()
            }
            None => {
                (header.epoch, header.valid_pearson) = (self.state.epoch, self.validate()?.1);
                named(&self.evaluated().params)
            }
        };
        Model::write(path, &header, &self.model.features, &weights)?;
        Ok(header)
    }
}

/// An update that the device repeats by itself: on the values that are in `batch` and `ema_weight`.
struct Update {
    batch: Batch,
    ema_weight: Tensor,
    /// Patches and slides of the batch, and the network's variant.
    shape: ([usize; 2], usize),
    /// Random numbers count on with its replays, which are the steps that follow each other.
    step: GraphedStep<[Tensor; 2]>,
}

fn named(params: &Params) -> Vec<(String, Tensor)> {
    params.named().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect()
}

/// The same values in memory of their own.
fn copies(params: &Params) -> Result<Vec<(String, Tensor)>> {
    let copy = |t: &Tensor| Tensor::from_buffer(t.to_buffer()?, t.shape(), t.device());
    params.named().map(|(name, tensor)| Ok((name.to_string(), copy(tensor)?))).collect()
}

fn remark(record: &EpochRecord) -> String {
    match record.valid_pearson {
        Some(pearson) => format!("loss {:.3}, validation PCC {pearson:.2}", record.train_loss),
        None => format!("loss {:.3}", record.train_loss),
    }
}
