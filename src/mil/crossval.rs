//! Patient-level cross-validation of a method: per fold a network (or several, averaged) trained on all projects and genes, then tuned per "cancer + gene" task as the paper does (§4), and the held-out slides predicted.
//!
//! Small networks do not fill several cores, so folds train side by side, each on one thread; the numbers are the same
//! either way. A folder per network keeps its state: a finished one is never trained again.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::splits::Splits,
    device::{Device, DeviceId},
    error::{Error, Fault, Result},
    eval::metrics::Prediction,
    io::{checksum::Digest, claim::Claim, safetensors::SafetensorsFile},
    mil::{
        bags::{BagSet, FoldSlides},
        config::TrainConfig,
        features::FeatureDims,
        manifest::{Manifest, member_dir, model_name, task_dir},
        method::Fit,
        model::Model,
        tasks::{Task, tasks},
        training::{self, EpochRecord, Job, MODEL_FILE},
    },
    progress::Progress,
    random::Philox,
};

/// One network's training curve.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Curve {
    /// Counted over all repeats, as the folders of the networks are.
    pub fold: usize,
    pub member: usize,
    /// `None`: the network of all projects and genes.
    pub task: Option<String>,
    pub epochs: Vec<EpochRecord>,
}

/// What [`cross_validate`] returns.
pub struct CvResult {
    /// Of every held-out slide of every fold, by the networks that never saw its patient.
    pub predictions: Vec<Prediction>,
    pub curves: Vec<Curve>,
    /// Per slide of the set, the folds (counted over all repeats) that held its patient out.
    pub held_out_by: Vec<Vec<usize>>,
}

/// Trains and tests every fold of a method in `dir`, or resumes where an earlier run stopped. Worker threads open `device`
/// for themselves.
///
/// # Errors
/// `Usage` where the features lack what the method reads, or a fold has too few slides.
pub fn cross_validate(
    config: &TrainConfig,
    set: &BagSet,
    splits: &Splits,
    dir: &Path,
    device: DeviceId,
    progress: &dyn Progress,
) -> Result<CvResult> {
    let networks = Networks::new(config, set, splits, dir, device, progress)?;
    let done = networks
        .each(0..networks.folds.len(), |runner, fold, member| runner.member(&networks.folds[fold], fold, member))?;
    let Networks { folds, tasks, .. } = networks;

    let tested = Tested::new(config, set, splits, &folds)?;
    // Networks of one fold are averaged; folds never are, for a slide may be held out once in every repeat.
    let mut predictions: Vec<Prediction> = Vec::new();
    for (fold, members) in done.chunks(config.members).enumerate() {
        for (place, &slide) in folds[fold].test.iter().enumerate() {
            let mut mean = vec![0.0; set.genes.len()];
            for member in members {
                mean.iter_mut().zip(&member.predicted[place]).for_each(|(m, v)| *m += v / config.members as f64);
            }
            predictions.push(tested.prediction(slide, fold, mean));
        }
    }
    let (mut curves, mut models) = (Vec::new(), BTreeMap::new());
    for member in done {
        curves.extend(member.curves);
        models.extend(member.models);
    }
    let held_out = |slide: usize| (0..folds.len()).filter(|&k| folds[k].test.contains(&slide)).collect();
    let held_out_by = (0..set.bags.len()).map(held_out).collect();
    let manifest = Manifest::new(set.genes.clone(), set.dims, folds.len(), tasks, config, set.origin, models);
    manifest.write(dir)?;
    manifest.remove_others(dir)?;
    Ok(CvResult { predictions, curves, held_out_by })
}

/// Trains the networks of some folds, numbered over all repeats, beside other processes that train others in the same `dir`;
/// [`cross_validate`] then finds them. How many there are now, and how many another process trains.
///
/// # Errors
/// Those of [`cross_validate`].
pub fn train_folds(
    config: &TrainConfig,
    set: &BagSet,
    splits: &Splits,
    wanted: &[usize],
    dir: &Path,
    device: DeviceId,
    progress: &dyn Progress,
) -> Result<[usize; 2]> {
    let networks = Networks::new(config, set, splits, dir, device, progress)?;
    let done = networks.each(wanted.iter().copied(), |runner, fold, member| {
        match Claim::take(&member_dir(dir, fold, member))? {
            Some(_claim) => runner.member(&networks.folds[fold], fold, member).map(|_| true),
            None => {
                progress.note(&format!("another process trains fold {fold} member {member} of {}", config.name));
                progress.advance(networks.epochs() as u64);
                Ok(false)
            }
        }
    })?;
    let here = done.iter().filter(|here| **here).count();
    Ok([here, done.len() - here])
}

/// The networks of a cross-validation, once nothing stands against training them.
struct Networks<'a> {
    config: &'a TrainConfig,
    set: &'a BagSet,
    folds: Vec<FoldSlides>,
    /// What each network is tuned for.
    tasks: Vec<Task>,
    dir: &'a Path,
    device: DeviceId,
    progress: &'a dyn Progress,
}

impl<'a> Networks<'a> {
    fn new(
        config: &'a TrainConfig,
        set: &'a BagSet,
        splits: &Splits,
        dir: &'a Path,
        device: DeviceId,
        progress: &'a dyn Progress,
    ) -> Result<Networks<'a>> {
        config.validate()?;
        check_features(config, set.dims)?;
        set.validate()?;
        let folds = set.fold_slides(splits);
        for (number, fold) in folds.iter().enumerate() {
            check_fold(number, fold.train.len(), fold.test.len())?;
        }
        let projects: Vec<&str> = set.bags.iter().map(|bag| bag.project.as_str()).collect();
        let tasks = tuned_tasks(config, &set.genes, &projects)?;
        Ok(Networks { config, set, folds, tasks, dir, device, progress })
    }

    /// Of one network and its tuned copies.
    fn epochs(&self) -> usize {
        self.config.epochs + self.tasks.len() * self.config.fine_tune.epochs
    }

    /// Calls `train` with fold and member of each network of these folds, several at a time where they are small; what it
    /// returns, in their order.
    fn each<T: Send>(
        &self,
        folds: impl Iterator<Item = usize>,
        train: impl Fn(&FoldRunner, usize, usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let Networks { config, set, tasks, dir, device, progress, .. } = self;
        let jobs: Vec<(usize, usize)> = folds.flat_map(|k| (0..config.members).map(move |m| (k, m))).collect();
        let tuned_config = config.tuned();
        let in_rows = set.in_rows(&*config.method)?;
        let pooled = Stage { config, set: in_rows.as_ref().unwrap_or(set) };
        let tuned_rows = match &tuned_config {
            Some(tuned) if !tasks.is_empty() => set.in_rows(&*tuned.method)?,
            _ => None,
        };
        let tuned = match &tuned_config {
            Some(config) => Stage { config, set: tuned_rows.as_ref().unwrap_or(set) },
            None => pooled,
        };
        progress.begin(&config.name, (self.epochs() * jobs.len()) as u64, "epochs");
        let outcome = side_by_side(jobs.len(), workers(config, jobs.len(), *device), |i| {
            let device = device.open()?;
            let (fold, member) = jobs[i];
            train(&FoldRunner { pooled, tuned, tasks, dir, device: &device, progress: *progress }, fold, member)
        });
        progress.end();
        outcome
    }
}

/// # Errors
/// `Usage` where features of these sizes lack what the method reads.
pub fn check_features(config: &TrainConfig, dims: FeatureDims) -> Result<()> {
    match dims.lack(config.method.reads(dims)) {
        None => Ok(()),
        Some(what) => Err(Error::Usage(format!(
            "{} reads {what}, and these features have none; choose another method (`isg methods` lists them)",
            config.name
        ))),
    }
}

/// The tasks that the method's networks are tuned for: none where they are not trained step by step.
pub fn tuned_tasks(config: &TrainConfig, genes: &[String], projects: &[&str]) -> Result<Vec<Task>> {
    match config.method.fit() {
        Fit::Gradient => tasks(&config.fine_tune, genes, projects),
        Fit::Closed(_) => Ok(Vec::new()),
    }
}

/// Fewest slides that a network can learn from.
const LEAST_TRAINING_SLIDES: usize = 3;

/// Errors where a fold has too few slides.
pub fn check_fold(number: usize, train: usize, test: usize) -> Result<()> {
    if train < LEAST_TRAINING_SLIDES {
        return Err(Error::Usage(format!(
            "fold {number} has {train} slides to train on, and {LEAST_TRAINING_SLIDES} are the least; give more slides"
        )));
    }
    if test == 0 {
        return Err(Error::Usage(format!("fold {number} has no slide to test on; set fewer splits.folds")));
    }
    Ok(())
}

/// The networks that an earlier cross-validation left in `dir`, by their checksums; `None` where one of them is not as it
/// was written.
pub fn whole_networks(dir: &Path) -> Result<Option<BTreeMap<String, Digest>>> {
    let unless_damaged = |error: Error| if error.fault() == Fault::Input { Ok(None) } else { Err(error) };
    let models = match Manifest::read(dir) {
        Ok(manifest) => manifest.models,
        Err(error) => return unless_damaged(error),
    };
    for (name, checksum) in models.iter().flatten() {
        match SafetensorsFile::open_own(dir.join(name)) {
            Ok(file) if file.checksum() == Some(*checksum) => {}
            Ok(_) => return Ok(None),
            Err(error) => return unless_damaged(error),
        }
    }
    Ok(models)
}

/// The slides that are held out, fold by fold.
struct Tested<'a> {
    set: &'a BagSet,
    /// Repeat and number within it, per fold.
    numbers: Vec<(usize, usize)>,
    /// The targets' scale of every fold, fitted on its training slides.
    spans: Vec<Vec<f64>>,
}

impl<'a> Tested<'a> {
    fn new(config: &TrainConfig, set: &'a BagSet, splits: &Splits, folds: &[FoldSlides]) -> Result<Tested<'a>> {
        let span = |fold: &FoldSlides| Ok(set.fit_targets(config.target_scaling, &fold.train)?.span);
        Ok(Tested { set, numbers: splits.numbers(), spans: folds.iter().map(span).collect::<Result<_>>()? })
    }

    fn prediction(&self, slide: usize, fold: usize, predicted: Vec<f64>) -> Prediction {
        let bag = &self.set.bags[slide];
        let (repeat, number) = self.numbers[fold];
        Prediction {
            slide: bag.slide.clone(),
            patient: bag.patient.clone(),
            project: bag.project.clone(),
            repeat,
            fold: number,
            truth: self.set.targets[slide].clone(),
            predicted,
            target_span: self.spans[fold].clone(),
        }
    }
}

/// How many networks train at the same time.
pub(crate) fn workers(config: &TrainConfig, jobs: usize, device: DeviceId) -> usize {
    let threads = rayon::current_num_threads();
    match config.parallel {
        0 if device == DeviceId::Cpu && jobs >= threads => threads,
        0 => 1,
        given => given.min(jobs),
    }
}

/// Runs `jobs` jobs on `workers` threads of their own, each with a pool of one; with one worker, one after another on the
/// current pool. The first error (by job) wins.
fn side_by_side<T: Send>(jobs: usize, workers: usize, run: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    if workers <= 1 {
        return (0..jobs).map(run).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<Option<Result<T>>>> = Mutex::new((0..jobs).map(|_| None).collect());
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                return;
            }
            let result = run(job);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.lock().unwrap_or_else(PoisonError::into_inner)[job] = Some(result);
        }
    };
    let one_thread = || rayon::ThreadPoolBuilder::new().num_threads(1).build();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| match one_thread() {
                    Ok(pool) => pool.install(work),
                    // Without a pool of its own a worker shares the process's.
                    Err(_) => work(),
                })
            })
            .collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = results.iter_mut().find_map(|r| r.take_if(|r| r.is_err())) {
        return error.map(|_| Vec::new());
    }
    results.into_iter().map(|r| r.unwrap_or(Err(Error::Interrupted))).collect()
}

/// A method with the cohort in its rows.
#[derive(Clone, Copy)]
struct Stage<'a> {
    config: &'a TrainConfig,
    set: &'a BagSet,
}

/// What every network of a run is given.
struct FoldRunner<'a> {
    pooled: Stage<'a>,
    tuned: Stage<'a>,
    tasks: &'a [Task],
    dir: &'a Path,
    device: &'a Device,
    progress: &'a dyn Progress,
}

/// What one network of one fold left.
struct Member {
    /// Predictions of the fold's test slides, in their order.
    predicted: Vec<Vec<f64>>,
    curves: Vec<Curve>,
    /// Checksums of the network and its tuned copies.
    models: Vec<(String, Digest)>,
}

impl FoldRunner<'_> {
    /// One network of one fold, its tuned copies, and what they predict of the fold's test slides.
    fn member(&self, slides: &FoldSlides, fold: usize, member: usize) -> Result<Member> {
        let Stage { config, set } = self.pooled;
        let dir = member_dir(self.dir, fold, member);
        let seed = Philox::named(config.seed, &format!("fold {fold} member {member}")).block(0);
        let seed = u64::from(seed[0]) << 32 | u64::from(seed[1]);
        // What needs no validation trains on everything that is not tested.
        let (train, valid): (Vec<usize>, &[usize]) = match config.method.fit() {
            Fit::Gradient => (slides.train.clone(), &slides.valid),
            Fit::Closed(_) => (slides.train.iter().chain(&slides.valid).copied().collect(), &[]),
        };
        let job = Job {
            set,
            train: &train,
            valid,
            genes: (0..set.genes.len()).collect(),
            task: None,
            seed,
            epochs: config.epochs,
            learning_rate: config.learning_rate,
            patience: config.patience,
            begin: None,
            dir: &dir,
        };
        training::fit(&job, config, self.device, self.progress)?;
        let mut curves = vec![Curve { fold, member, task: None, epochs: training::curve(&dir)? }];
        let pooled = dir.join(MODEL_FILE);
        let model = Model::load(&pooled, self.device)?;
        let named = |path: &Path, model: &Model| (model_name(self.dir, path), model.checksum.unwrap_or_default());
        let mut models = vec![named(&pooled, &model)];
        let predict = |model: &Model, set: &BagSet, slide: usize| model.predict(&*set.bags[slide].features);
        let mut predicted = slides.test.iter().map(|&s| predict(&model, set, s)).collect::<Result<Vec<_>>>()?;
        let Stage { config, set } = self.tuned;
        for task in self.tasks {
            let of_task = |list: &[usize]| -> Vec<usize> {
                list.iter().copied().filter(|s: &usize| task.tunes_on(&set.bags[*s].project)).collect()
            };
            let (train, valid, dir) = (of_task(&slides.train), of_task(&slides.valid), task_dir(&dir, task));
            if train.is_empty() {
                training::begin_anew(&dir)?;
                self.progress.advance(config.fine_tune.epochs as u64);
                continue;
            }
            let tune = Job {
                set,
                train: &train,
                valid: &valid,
                genes: task.genes.clone(),
                task: Some(task),
                epochs: config.fine_tune.epochs,
                learning_rate: config.fine_tune.learning_rate,
                patience: config.fine_tune.patience,
                begin: Some(&pooled),
                dir: &dir,
                ..job
            };
            training::fit(&tune, config, self.device, self.progress)?;
            let epochs = training::curve(&dir)?;
            curves.push(Curve { fold, member, task: Some(task.name.clone()), epochs });
            let path = dir.join(MODEL_FILE);
            let tuned = Model::load(&path, self.device)?;
            models.push(named(&path, &tuned));
            for (&slide, values) in slides.test.iter().zip(&mut predicted) {
                if task.is_for(&set.bags[slide].project) {
                    let again = predict(&tuned, set, slide)?;
                    task.genes.iter().for_each(|&g| values[g] = again[g]);
                }
            }
        }
        Ok(Member { predicted, curves, models })
    }
}
