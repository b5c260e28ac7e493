//! First stage: every patch of every slide is scored, and the ones with texture are kept (paper 3.1).
//!
//! A slide's scores are in `slides/ID.json`, written when the slide is done. A slide that cannot be used is written down
//! with the reason, left out, and tried again by the next run; an error of the machine is no slide's fault and ends the run.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{
    Run,
    config::{RunConfig, SelectConfig},
};
use crate::{
    cohort::SlideEntry,
    device::Device,
    error::{Error, Fault, Result},
    io::{checksum::Digest, file_name, fingerprint::Fingerprint, sealed},
    progress::Progress,
    select::{self, PatchScore, ScoreOptions, Scorer, SlideScores, Threshold, score::score_slide_with},
    slide::{Slide, SlideOptions},
};

/// What is known of one slide, as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlideState {
    pub slide: String,
    /// `None` where the file could not even be read.
    pub fingerprint: Option<Fingerprint>,
    /// Of everything the scores were made from.
    pub key: Digest,
    pub seconds: f64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Scored(Scored),
    Failed { reason: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scored {
    pub width_px: u64,
    pub height_px: u64,
    pub mpp: Option<f64>,
    /// Every whole patch, in rows from the upper left: x, y and bits (or the score, of a selector that counts no bits).
    pub patches: Vec<(u64, u64, f64)>,
}

/// One usable slide with the patches that go on.
pub struct Selected {
    pub entry: SlideEntry,
    /// Of the pixels that are read from it.
    pub pixels: Digest,
    pub size_px: (u64, u64),
    pub mpp: Option<f64>,
    /// Every patch in rows from the upper left, the kept ones marked.
    pub patches: Vec<PatchScore>,
}

impl Selected {
    /// The patches that go on.
    pub fn kept(&self) -> impl Iterator<Item = &PatchScore> {
        self.patches.iter().filter(|patch| patch.kept)
    }

    /// Of the patches that go on, with their scores.
    pub fn kept_digest(&self) -> Digest {
        Digest::of("kept patches", &self.kept().map(|patch| (patch.x, patch.y, patch.score)).collect::<Vec<_>>())
    }
}

/// A slide that was left out, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    pub slide: String,
    pub reason: String,
}

/// Scores what is not scored yet, then keeps patches by the run's threshold.
pub fn scan(run: &Run, device: &Device, progress: &dyn Progress) -> Result<(Vec<Selected>, Vec<LeftOut>)> {
    let select = &run.config.select;
    let settings = Digest::of("settings of scores", &(select.selector()?.digest()?, select.patch_px));
    // Loaded when the first slide needs it: a network is not read to find that everything is scored.
    let mut scorer = None;
    let mut states = Vec::with_capacity(run.cohort.slides.len());
    progress.begin("scoring", run.cohort.slides.len() as u64, "slides");
    for entry in &run.cohort.slides {
        progress.check()?;
        progress.remark(&entry.id);
        let earlier = stored(&state_path(&run.config.out, &entry.id), progress)?;
        let known = earlier.as_ref().and_then(|state| state.fingerprint.as_ref());
        let state = match Fingerprint::renewed(&entry.path, known) {
            Ok(fingerprint) => {
                let key = Digest::of("scores", &(settings, fingerprint.content, entry.mpp));
                match earlier {
                    // Failures are not kept: the file may have been mended.
                    Some(state) if state.key == key && matches!(state.outcome, Outcome::Scored(_)) => {
                        SlideState { fingerprint: Some(fingerprint), ..state }
                    }
                    _ => {
                        let scorer = match &mut scorer {
                            Some(scorer) => scorer,
                            empty => empty.insert(Scorer::new(&select.selector()?, device)?),
                        };
                        score(run, entry, fingerprint, key, scorer, progress)?
                    }
                }
            }
            Err(error) if error.lies_with(&entry.path) => SlideState {
                slide: entry.id.clone(),
                fingerprint: None,
                key: settings,
                seconds: 0.0,
                outcome: Outcome::Failed { reason: error.to_string() },
            },
            Err(error) => return Err(error),
        };
        if let Outcome::Failed { reason } = &state.outcome {
            progress.note(&format!("left out {}: {reason}", entry.id));
        }
        states.push((entry, state));
        progress.advance(1);
    }
    progress.end();
    keep(select, states)
}

pub(super) fn state_path(dir: &Path, slide: &str) -> PathBuf {
    dir.join("slides").join(format!("{}.json", file_name::escaped(slide)))
}

/// What is on disk of a slide, if it is whole.
fn stored(path: &Path, progress: &dyn Progress) -> Result<Option<SlideState>> {
    if !path.is_file() {
        return Ok(None);
    }
    match sealed::read_json(path) {
        Ok(state) => Ok(Some(state)),
        Err(error) if error.fault() == Fault::Input => {
            progress.note(&format!("{error}; the slide is scored again"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn score(
    run: &Run,
    entry: &SlideEntry,
    fingerprint: Fingerprint,
    key: Digest,
    scorer: &Scorer,
    progress: &dyn Progress,
) -> Result<SlideState> {
    let begun = Instant::now();
    let outcome = match score_patches(run, entry, scorer, progress) {
        Ok(scored) if scored.patches.is_empty() => {
            let side = run.config.select.patch_px;
            let (width, height) = (scored.width_px, scored.height_px);
            Outcome::Failed { reason: format!("{width} x {height} px hold no whole patch of {side} px") }
        }
        Ok(scored) => Outcome::Scored(scored),
        Err(error) if error.lies_with(&entry.path) => Outcome::Failed { reason: error.to_string() },
        Err(error) => return Err(error),
    };
    let state = SlideState {
        slide: entry.id.clone(),
        fingerprint: Some(fingerprint),
        key,
        seconds: begun.elapsed().as_secs_f64(),
        outcome,
    };
    sealed::write_json(state_path(&run.config.out, &entry.id), &state)?;
    Ok(state)
}

fn score_patches(run: &Run, entry: &SlideEntry, scorer: &Scorer, progress: &dyn Progress) -> Result<Scored> {
    let slide = open(entry)?;
    for remark in slide.remarks() {
        progress.note(&format!("{}: {remark}", entry.id));
    }
    let (width_px, height_px) = (slide.levels()[0].width_px, slide.levels()[0].height_px);
    let select = &run.config.select;
    let side = select.patch_px as u64;
    let patches = if width_px < side || height_px < side {
        Vec::new() // `score_slide` would take the whole slide as one smaller patch, which has no p/q cells
    } else {
        let (selector, threshold) = (scorer.selector().clone(), select.threshold()?);
        let options = ScoreOptions { patch_px: select.patch_px, selector, threshold, ..ScoreOptions::default() };
        score_slide_with(&slide, &options, scorer, progress)?.patches
    };
    let measured = |p: &PatchScore| (p.x, p.y, p.bits.map_or(p.score, |bits| bits as f64));
    Ok(Scored { width_px, height_px, mpp: slide.mpp(), patches: patches.iter().map(measured).collect() })
}

/// Opens a slide of the cohort with the scale its table gives, if it gives one.
pub fn open(entry: &SlideEntry) -> Result<Slide> {
    Slide::open_with(&entry.path, &SlideOptions { mpp: entry.mpp, ..SlideOptions::default() })
}

fn keep(select: &SelectConfig, states: Vec<(&SlideEntry, SlideState)>) -> Result<(Vec<Selected>, Vec<LeftOut>)> {
    let threshold = select.threshold()?;
    let (selector, area) = (select.selector()?, select.patch_px * select.patch_px);
    let (mut selected, mut scores, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for (entry, state) in states {
        let content = state.fingerprint.map(|fingerprint| fingerprint.content).unwrap_or_default();
        match state.outcome {
            Outcome::Failed { reason } => left_out.push(LeftOut { slide: entry.id.clone(), reason }),
            Outcome::Scored(scored) => {
                let score = |&(x, y, value): &(u64, u64, f64)| selector.patch_score([x, y], value, area);
                let patches = scored.patches.iter().map(score).collect();
                scores.push(SlideScores { patches, ..SlideScores::default() });
                selected.push((entry, content, (scored.width_px, scored.height_px), scored.mpp));
            }
        }
    }
    if select.over_cohort {
        select::score::mark_group(&mut scores, threshold);
    } else {
        for slide in &mut scores {
            slide.mark(threshold);
        }
    }
    let mut usable = Vec::new();
    for ((entry, content, size_px, mpp), SlideScores { mut patches, .. }) in selected.into_iter().zip(scores) {
        limit(&mut patches, select.most_patches);
        if patches.iter().any(|patch| patch.kept) {
            let pixels = Digest::of("pixels", &content);
            usable.push(Selected { entry: entry.clone(), pixels, size_px, mpp, patches });
        } else {
            let reason = format!("none of its {} patches passed the threshold", patches.len());
            left_out.push(LeftOut { slide: entry.id.clone(), reason });
        }
    }
    Ok((usable, left_out))
}

/// Keeps the `most` patches with the highest scores. 0 keeps all.
pub(super) fn limit(patches: &mut [PatchScore], most: usize) {
    if most > 0 {
        let mut kept: Vec<usize> = (0..patches.len()).filter(|&i| patches[i].kept).collect();
        // Position decides between equals, so that the choice depends on nothing else.
        kept.sort_by(|&a, &b| patches[b].score.total_cmp(&patches[a].score).then(a.cmp(&b)));
        kept.into_iter().skip(most).for_each(|i| patches[i].kept = false);
    }
}

/// The run's threshold for a slide it has not seen: one over the cohort is the score that its slides gave.
pub(super) fn threshold_for_new_slides(config: &RunConfig) -> Result<Threshold> {
    let threshold = config.select.threshold()?;
    let Threshold::Sigma(deviations) = threshold else { return Ok(threshold) };
    if !config.select.over_cohort {
        return Ok(threshold);
    }
    let folder = config.out.join("slides");
    let (selector, area) = (config.select.selector()?, config.select.patch_px * config.select.patch_px);
    let mut values = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))?.flatten() {
        if let Ok(SlideState { outcome: Outcome::Scored(scored), .. }) = sealed::read_json(entry.path()) {
            values.extend(scored.patches.iter().map(|&(x, y, value)| selector.patch_score([x, y], value, area).score));
        }
    }
    values.sort_by(f64::total_cmp); // the folder's order is not the same everywhere; sums are
    Ok(Threshold::Min(select::threshold::least_score(values.iter().copied(), deviations)))
}
