//! First stage: every patch of every slide is scored, and the ones with texture are kept (paper 3.1).
//!
//! A slide's scores are in `slides/ID.json`, written when the slide is done. A slide that cannot be used is written down
//! with the reason, left out, and tried again by the next run.

use std::{path::PathBuf, time::Instant};

use serde::{Deserialize, Serialize};

use super::{
    Run,
    config::{RunConfig, SelectConfig},
};
use crate::{
    cohort::{SlideEntry, feature_store::SlideFingerprint},
    device::Device,
    error::{Error, Result},
    io::atomic,
    progress::Progress,
    select::{self, PatchScore, ScoreOptions, Scorer, SlideScores, Threshold, score::score_slide_with},
    slide::{Slide, SlideOptions},
};

/// What is known of one slide, as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlideState {
    pub slide: String,
    /// `None` where the file could not even be read.
    pub fingerprint: Option<SlideFingerprint>,
    /// The settings the scores were made with.
    pub key: String,
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
    let key = key(select)?;
    // Loaded when the first slide needs it: a network is not read to find that everything is scored.
    let mut scorer = None;
    let mut states = Vec::with_capacity(run.cohort.slides.len());
    progress.begin("scoring", run.cohort.slides.len() as u64, "slides");
    for entry in &run.cohort.slides {
        progress.check()?;
        progress.remark(&entry.id);
        let key = format!("{key}, mpp {:?}", entry.mpp);
        let state = match stored(run, entry, &key) {
            Some(state) => state,
            None => {
                let scorer = match &mut scorer {
                    Some(scorer) => scorer,
                    empty => empty.insert(Scorer::new(&select.selector()?, device)?),
                };
                score(run, entry, key, scorer, progress)?
            }
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

fn state_path(run: &Run, slide: &str) -> PathBuf {
    run.path("slides").join(format!("{slide}.json"))
}

/// The settings that decide the scores of slides.
fn key(select: &SelectConfig) -> Result<String> {
    Ok(format!("{} {} px", select.selector()?.key(), select.patch_px))
}

/// Scores on disk that are of this file and these settings. Failures are not kept: the file may have been mended.
fn stored(run: &Run, entry: &SlideEntry, key: &str) -> Option<SlideState> {
    let text = std::fs::read_to_string(state_path(run, &entry.id)).ok()?;
    let state: SlideState = serde_json::from_str(&text).ok()?;
    let usable = matches!(state.outcome, Outcome::Scored(_))
        && state.key == key
        && state.fingerprint.as_ref().is_some_and(|f| f.still_fits(&entry.path).unwrap_or(false));
    usable.then_some(state)
}

fn score(run: &Run, entry: &SlideEntry, key: String, scorer: &Scorer, progress: &dyn Progress) -> Result<SlideState> {
    let begun = Instant::now();
    let outcome = match score_patches(run, entry, scorer, progress) {
        Ok(scored) if scored.patches.is_empty() => {
            let side = run.config.select.patch_px;
            let (width, height) = (scored.width_px, scored.height_px);
            Outcome::Failed { reason: format!("{width} x {height} px hold no whole patch of {side} px") }
        }
        Ok(scored) => Outcome::Scored(scored),
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => Outcome::Failed { reason: error.to_string() },
    };
    let state = SlideState {
        slide: entry.id.clone(),
        fingerprint: SlideFingerprint::of(&entry.path).ok(),
        key,
        seconds: begun.elapsed().as_secs_f64(),
        outcome,
    };
    let text = serde_json::to_vec(&state).map_err(|e| Error::Usage(e.to_string()))?;
    atomic::write_bytes(state_path(run, &entry.id), &text)?;
    Ok(state)
}

fn score_patches(run: &Run, entry: &SlideEntry, scorer: &Scorer, progress: &dyn Progress) -> Result<Scored> {
    let slide = open(entry)?;
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
        match state.outcome {
            Outcome::Failed { reason } => left_out.push(LeftOut { slide: entry.id.clone(), reason }),
            Outcome::Scored(scored) => {
                let score = |&(x, y, value): &(u64, u64, f64)| selector.patch_score([x, y], value, area);
                let patches = scored.patches.iter().map(score).collect();
                scores.push(SlideScores { patches, ..SlideScores::default() });
                selected.push((entry, (scored.width_px, scored.height_px), scored.mpp));
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
    for ((entry, size_px, mpp), SlideScores { mut patches, .. }) in selected.into_iter().zip(scores) {
        limit(&mut patches, select.most_patches);
        if patches.iter().any(|patch| patch.kept) {
            usable.push(Selected { entry: entry.clone(), size_px, mpp, patches });
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
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if let Ok(SlideState { outcome: Outcome::Scored(scored), .. }) = serde_json::from_str(&text) {
            values.extend(scored.patches.iter().map(|&(x, y, value)| selector.patch_score([x, y], value, area).score));
        }
    }
    values.sort_by(f64::total_cmp); // the folder's order is not the same everywhere; sums are
    Ok(Threshold::Min(select::threshold::least_score(values.iter().copied(), deviations)))
}
