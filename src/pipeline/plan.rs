//! What a run would do, before it does anything: refusals that need no work, and the plan that `isg run --dry-run` prints.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::{
    RunConfig, Scale,
    features::{self, HELD_FLOATS},
    patches::MOST_PATCHES,
    scales, scan,
};
use crate::{
    cohort::{Cohort, SlideEntry, Splits},
    device::{Device, DeviceId},
    dtype::DType,
    encoder::EncoderConfig,
    error::{Error, Result},
    mil::{config::TrainConfig, crossval, features::FeatureDims, loss::Loss, network::Dims},
    nn::builder::Builder,
    select::{Scorer, Threshold},
    slide::{Plane, Slide},
};

/// Refuses what can be refused by looking at the configuration and the cohort: folds against patients, the tasks' genes and
/// projects, files of weights, the scales of the slides.
pub fn check(config: &RunConfig, cohort: &Cohort) -> Result<()> {
    folds(config, cohort)?;
    if config.select.mpp.is_none() {
        // A slide that cannot be opened is left out later.
        let slides = cohort.slides.par_iter().filter_map(openable);
        scales::check(&slides.map(|slide| slide.mpp()).collect::<Vec<_>>())?;
    }
    let projects: Vec<&str> = cohort.slides.iter().map(|slide| slide.project.as_deref().unwrap_or("all")).collect();
    let dims = dims(config)?;
    for method in config.methods() {
        if method.loss == Loss::CrossEntropy && cohort.gene_labels().len() < 2 {
            let why = "train.loss = \"cross_entropy\" chooses among three classes or more, and the labels are of two; use \"bce\"";
            return Err(Error::Usage(why.into()));
        }
        crossval::check_features(method, dims)?;
        trainable(method, dims, cohort.gene_labels().len())?;
        crossval::tuned_tasks(method, &cohort.gene_labels(), &projects)?;
    }
    let cpu = Device::cpu();
    Scorer::new(&config.select.selector()?, &cpu).map(drop)
}

/// Trainable values of a method's network.
fn trainable(config: &TrainConfig, features: FeatureDims, genes: usize) -> Result<usize> {
    let mut fresh = Builder::fresh(0, DType::F32, &Device::cpu());
    config.method.network(&mut fresh, Dims { features, genes })?;
    Ok(fresh.finish()?.count())
}

/// Slides of one fold's sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct FoldPlan {
    pub train: usize,
    pub valid: usize,
    pub test: usize,
}

/// The folds over all matched patients; a slide that cannot be read may still leave them.
fn folds(config: &RunConfig, cohort: &Cohort) -> Result<Vec<FoldPlan>> {
    let patients = cohort.split_patients();
    let (asked, most) = (config.splits.folds, patients.len());
    if most < 3 {
        return Err(Error::Usage(format!("{most} patients are too few for a cross-validation; give at least 3")));
    }
    if config.splits.file.is_none() && !(2..=most).contains(&asked) {
        return Err(Error::Usage(format!("splits.folds = {asked}, and there are {most} patients; give 2 to {most}")));
    }
    let (splits, _) = Splits::new(&patients, &config.splits)?;
    let slides = |patients: &[String]| cohort.slides_of(patients).len();
    let folds = splits.folds.iter().enumerate().map(|(number, fold)| {
        let plan = FoldPlan { train: slides(&fold.train), valid: slides(&fold.valid), test: slides(&fold.test) };
        crossval::check_fold(number, plan.train, plan.test)?;
        Ok(plan)
    });
    folds.collect()
}

/// Whole patches of a cohort's slides.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct PatchPlan {
    pub to_score: u64,
    /// An estimate: of a normal distribution of scores, the part above the threshold; everything where the threshold is a
    /// number of bits or a least score.
    pub kept_expected: u64,
    /// Slides that could not be opened.
    pub unreadable: u64,
}

/// Counts patches by the sizes of the slides; reads headers alone.
pub fn patches(config: &RunConfig, cohort: &Cohort) -> Result<PatchPlan> {
    let select = &config.select;
    let threshold = select.threshold()?;
    let counts: Vec<Option<u64>> = cohort.slides.par_iter().map(|entry| whole_patches(config, entry)).collect();
    let mut plan =
        PatchPlan { unreadable: counts.iter().filter(|n| n.is_none()).count() as u64, ..PatchPlan::default() };
    for n in counts.into_iter().flatten() {
        plan.to_score += n;
        plan.kept_expected += expected(threshold, n, [select.least_patches as u64, select.most_patches as u64]);
    }
    Ok(plan)
}

fn whole_patches(config: &RunConfig, entry: &SlideEntry) -> Option<u64> {
    let side = config.select.patch_px as u64;
    let [width, height] = Plane::at(&openable(entry)?, config.select.mpp).ok()?.size_px();
    Some((width / side) * (height / side))
}

/// The slide, without waiting for a pipe.
fn openable(entry: &SlideEntry) -> Option<Slide> {
    entry.path.is_file().then(|| scan::open(entry).ok()).flatten()
}

/// Patches of a slide that a threshold is expected to keep, were none of it glass.
fn expected(threshold: Threshold, patches: u64, [least, most]: [u64; 2]) -> u64 {
    let kept = match threshold {
        Threshold::Top(n) => patches.min(n as u64),
        Threshold::Sigma(deviations) => {
            (patches as f64 * 0.5 * libm::erfc(deviations / std::f64::consts::SQRT_2)).round() as u64
        }
        Threshold::Bits(_) | Threshold::Min(_) => patches,
    };
    let kept = kept.max(least.min(patches));
    if most > 0 { kept.min(most) } else { kept }
}

/// Sizes of the features that a run computes. Every file of weights is looked at.
pub fn dims(config: &RunConfig) -> Result<FeatureDims> {
    let EncoderConfig { encoder, cells, .. } = &config.encoder;
    let mut found = [None; 2];
    for scale in config.scales() {
        let shared = found[0].filter(|_| !encoder.differs_by_scale());
        let probe = || features::at_site(config, &config.out, scale, |site| encoder.probe(site));
        found[usize::from(scale == Scale::Local)] = Some(shared.map_or_else(probe, Ok)?);
    }
    let [global, local] = found;
    let of_cell = local.unwrap_or(0);
    let [cell, grid] = if *cells { [of_cell, config.select.grid()] } else { [0, 0] };
    Ok(FeatureDims { global: global.unwrap_or(2 * of_cell), cell, grid })
}

/// Bytes of the features of so many patches: a global vector in f32, a cube in f16, corner and score.
pub fn features_bytes(dims: FeatureDims, patches: u64) -> u64 {
    patches * (4 * dims.global + 2 * dims.cube() + 24) as u64
}

/// Refuses to begin what the disk of the run directory has no room for.
pub fn check_room(config: &RunConfig, patches: u64) -> Result<()> {
    let wanted = features_bytes(dims(config)?, patches);
    let held = folder_bytes(&config.out.join("features"));
    match free_bytes(&config.out) {
        Some(free) if free.saturating_add(held) < wanted => Err(Error::input(
            &config.out,
            format!("features of {patches} patches take {}, and the disk has {} left", size(wanted), size(free)),
            "free some space, put the run on another disk with --out, or keep fewer patches (select.most_patches)",
        )),
        _ => Ok(()),
    }
}

fn folder_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
}

/// What an ordinary user may still write where `path` is or would be; `None` where the system does not say.
#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let there = absolute.ancestors().find(|ancestor| ancestor.exists())?;
    let found = nix::sys::statvfs::statvfs(there).ok()?;
    Some(found.blocks_available() * found.fragment_size())
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Trainable values of each autoencoder, generator and critic included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Parameters {
    /// What the encoder learns by gradient: with its generator and critic.
    pub global_extractor: usize,
    pub local_extractor: usize,
}

/// What would be trained of a method.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MethodPlan {
    pub name: String,
    /// Trained from their beginning, one a fold and member.
    pub networks: usize,
    /// Tuned copies of each.
    pub tasks: usize,
    /// Trainable values of one.
    pub parameters: usize,
}

/// What a run would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub run: String,
    pub slides: usize,
    pub left_out: usize,
    pub patients: usize,
    pub genes: Vec<String>,
    pub folds: Vec<FoldPlan>,
    /// The run's method first.
    pub methods: Vec<MethodPlan>,
    pub patches: PatchPlan,
    pub parameters: Parameters,
    pub features_bytes: u64,
    pub free_bytes: Option<u64>,
    /// Roughly, of the stage that takes most.
    pub memory_bytes: u64,
    /// Why the run would be refused.
    pub refused: Option<String>,
}

/// Plans a run of a loaded cohort. What would be refused is in the plan.
pub fn plan(config: &RunConfig, cohort: &Cohort, left_out: usize, device: DeviceId) -> Result<Plan> {
    let patches = patches(config, cohort)?;
    let mut refused = check(config, cohort).and_then(|()| check_room(config, patches.kept_expected)).err();
    if patches.unreadable == cohort.slides.len() as u64 {
        refused.get_or_insert(Error::Usage("none of the slides can be opened; `isg slide info` says why".into()));
    }
    let genes = cohort.gene_labels();
    let dims = dims(config).unwrap_or_default();
    let learned = |scale: Scale| {
        let used = config.scales().contains(&scale);
        let count = || features::at_site(config, &config.out, scale, |site| config.encoder.encoder.trainable(site));
        if used { count() } else { Ok(0) }
    };
    let parameters = Parameters { global_extractor: learned(Scale::Global)?, local_extractor: learned(Scale::Local)? };
    let folds = folds(config, cohort).unwrap_or_default();
    let projects: Vec<&str> = cohort.slides.iter().map(|slide| slide.project.as_deref().unwrap_or("all")).collect();
    let method = |train: &TrainConfig| MethodPlan {
        name: train.name.clone(),
        networks: folds.len() * train.members,
        tasks: crossval::tuned_tasks(train, &genes, &projects).map_or(0, |tasks| tasks.len()),
        // What cannot be built is refused above.
        parameters: trainable(train, dims, genes.len()).unwrap_or(0),
    };
    let methods: Vec<MethodPlan> = config.methods().map(method).collect();
    Ok(Plan {
        run: config.out.display().to_string(),
        slides: cohort.slides.len(),
        left_out,
        patients: cohort.patients.len(),
        memory_bytes: memory(config, dims, &parameters, patches, &methods, device),
        features_bytes: features_bytes(dims, patches.kept_expected),
        free_bytes: free_bytes(&config.out),
        refused: refused.map(|error| error.to_string()),
        genes,
        folds,
        methods,
        patches,
        parameters,
    })
}

/// The largest of: an extractor's training (weights, gradients, two moments and averages, resized patches), and the
/// networks that train side by side with the features that are held for them.
fn memory(
    config: &RunConfig,
    dims: FeatureDims,
    parameters: &Parameters,
    patches: PatchPlan,
    methods: &[MethodPlan],
    device: DeviceId,
) -> u64 {
    const COPIES: u64 = 5 * 4;
    let places = patches.kept_expected.min(MOST_PATCHES as u64);
    let extractor = |scale: Scale, parameters: usize| {
        if parameters == 0 {
            return 0;
        }
        let extractor = config.extractor.get(scale);
        let pixels = (extractor.image_px * extractor.image_px * 3) as u64;
        parameters as u64 * COPIES + (places * pixels).min(extractor.cache_bytes)
    };
    let floats = patches.kept_expected * (dims.global + dims.cube()) as u64;
    let held = if floats <= HELD_FLOATS as u64 { 4 * floats } else { 0 };
    let networks = |(train, plan): (&TrainConfig, &MethodPlan)| {
        let side_by_side = crossval::workers(train, plan.networks, device).max(1) as u64;
        side_by_side * plan.parameters as u64 * COPIES + held
    };
    let networks = config.methods().zip(methods).map(networks).max().unwrap_or(0);
    extractor(Scale::Global, parameters.global_extractor)
        .max(extractor(Scale::Local, parameters.local_extractor))
        .max(networks)
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_follow_the_threshold() {
        assert_eq!(expected(Threshold::Sigma(1.0), 10_000, [16, 0]), 1587);
        assert_eq!(expected(Threshold::Sigma(-0.5), 10_000, [16, 1000]), 1000);
        assert_eq!(expected(Threshold::Top(20), 7, [16, 0]), 7);
        assert_eq!(expected(Threshold::Sigma(1.0), 20, [16, 0]), 16);
        assert_eq!(expected(Threshold::Min(0.3), 70, [0, 0]), 70);
    }

    #[test]
    fn sizes_are_read_at_a_glance() {
        assert_eq!((size(999), size(3_400_000)), ("999 bytes".into(), "3.4 MB".into()));
    }
}
