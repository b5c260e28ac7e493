//! First stage: every patch of every slide is scored, and the ones with texture are kept (paper 3.1).
//!
//! A slide's scores are in `slides/ID.json`, written when the slide is done. A slide that cannot be used is written down
//! with the reason, left out, and tried again by the next run; an error of the machine is no slide's fault and ends the run.
//! What the run keeps, its threshold and where that came from are in `selection.json`, which `predict` uses.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{
    Run,
    config::SelectConfig,
    places::Places,
    scales,
    selection::{Selected, Selection},
};
use crate::{
    cohort::SlideEntry,
    device::Device,
    error::{Error, Fault, Result},
    io::{checksum::Digest, file_name, fingerprint::Fingerprint, sealed},
    progress::Progress,
    select::{
        PatchGrid, PatchScore, ScoreOptions, Scorer, SlideScores,
        score::{score_listed_with, score_slide_with},
    },
    slide::{Plane, PlaneRule, Slide, SlideOptions},
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
    /// µm per level-0 pixel.
    pub mpp: Option<f64>,
    /// The pixels that patches are cut from.
    pub plane: PlaneRule,
    /// Width and height of a patch in level-0 pixels.
    pub extent_px: [u64; 2],
    /// Every whole patch, in rows from the upper left.
    pub patches: Vec<ScoredPatch>,
}

/// x and y in level-0 pixels, bits (or the score, of a selector that counts no bits), shares of tissue and of glass.
pub type ScoredPatch = (u64, u64, f64, f32, f32);

/// A slide that was left out, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    pub slide: String,
    pub reason: String,
}

/// What the stage found.
pub struct Scanned {
    pub selected: Vec<Selected>,
    pub left_out: Vec<LeftOut>,
    pub selection: Selection,
}

/// Scores what is not scored yet, then keeps patches by the run's threshold.
///
/// # Errors
/// Those of the machine, and the user's interruption.
pub fn scan(run: &Run, device: &Device, progress: &dyn Progress) -> Result<Scanned> {
    let mut scoring = Scoring::new(run, device, progress)?;
    let mut states = Vec::with_capacity(run.cohort.slides.len());
    progress.begin("scoring", run.cohort.slides.len() as u64, "slides");
    for entry in &run.cohort.slides {
        progress.check()?;
        progress.remark(&entry.id);
        let state = match known(run, entry, scoring.settings, progress)? {
            Known::State(state) => state,
            Known::Open(wanted) => scoring.score(entry, wanted)?,
        };
        say_why(&state, progress);
        states.push((entry, state));
        progress.advance(1);
    }
    progress.end();
    let scanned = keep(run, states)?;
    sealed::write_json(run.path(Selection::FILE), &scanned.selection)?;
    Ok(scanned)
}

/// What [`scan`] would find, where it would have to score nothing. Writes nothing.
///
/// # Errors
/// A slide that is not scored yet.
pub(super) fn scanned(run: &Run, progress: &dyn Progress) -> Result<Scanned> {
    let (settings, all) = (settings(run)?, run.cohort.slides.len());
    let (mut states, mut open) = (Vec::with_capacity(all), Vec::new());
    for entry in &run.cohort.slides {
        progress.check()?;
        match known(run, entry, settings, progress)? {
            Known::State(state) => states.push((entry, state)),
            Known::Open(Wanted { failed: Some(state), .. }) => states.push((entry, state)),
            Known::Open(_) => open.push(&entry.id),
        }
    }
    if let Some(first) = open.first() {
        let problem = format!("{} of {all} slides are not scored yet, {first} among them", open.len());
        return Err(Error::input(&run.config.out, problem, "first run `isg scan` on the same configuration"));
    }
    keep(run, states)
}

pub(super) fn say_why(state: &SlideState, progress: &dyn Progress) {
    if let Outcome::Failed { reason } = &state.outcome {
        progress.note(&format!("left out {}: {reason}", state.slide));
    }
}

/// Of all that decides scores, but for slides.
pub(super) fn settings(run: &Run) -> Result<Digest> {
    let select = &run.config.select;
    Ok(Digest::of("settings of scores", &(select.selector()?.digest()?, select.patch_px, select.mpp)))
}

/// What is known of a slide before it is scored.
pub(super) enum Known {
    /// Its scores, made from what there is now; or a file that cannot even be read.
    State(SlideState),
    Open(Wanted),
}

/// What the scores of a slide are to be made from.
pub(super) struct Wanted {
    fingerprint: Fingerprint,
    key: Digest,
    places: Option<Places>,
    /// An earlier attempt at the same, which failed. The file is the same, but what reads it may not be.
    pub failed: Option<SlideState>,
}

pub(super) fn known(run: &Run, entry: &SlideEntry, settings: Digest, progress: &dyn Progress) -> Result<Known> {
    let earlier = stored(&state_path(&run.config.out, &entry.id), progress)?;
    let known = earlier.as_ref().and_then(|state| state.fingerprint.as_ref());
    let found = Fingerprint::renewed(&entry.path, known)
        .and_then(|fingerprint| Ok((fingerprint, Places::of(&run.config, &entry.id)?)));
    Ok(match found {
        Ok((fingerprint, places)) => {
            let of_grid = Digest::of("scores", &(settings, fingerprint.content, entry.mpp));
            let listed = places.as_ref().map(Places::digest);
            let key = listed.map_or(of_grid, |listed| Digest::of("scores of places", &(of_grid, listed)));
            let earlier = earlier.filter(|state| state.key == key);
            match earlier {
                Some(state) if matches!(state.outcome, Outcome::Scored(_)) => {
                    Known::State(SlideState { fingerprint: Some(fingerprint), ..state })
                }
                failed => Known::Open(Wanted { fingerprint, key, places, failed }),
            }
        }
        Err(error) if error.lies_with(&entry.path) => Known::State(SlideState {
            slide: entry.id.clone(),
            fingerprint: None,
            key: settings,
            seconds: 0.0,
            outcome: Outcome::Failed { reason: error.to_string() },
        }),
        Err(error) => return Err(error),
    })
}

/// What scores slides.
pub(super) struct Scoring<'a> {
    run: &'a Run,
    device: &'a Device,
    progress: &'a dyn Progress,
    pub settings: Digest,
    /// Loaded when the first slide needs it: a network is not read to find that everything is scored.
    scorer: Option<Scorer>,
}

impl<'a> Scoring<'a> {
    pub fn new(run: &'a Run, device: &'a Device, progress: &'a dyn Progress) -> Result<Scoring<'a>> {
        Ok(Scoring { run, device, progress, settings: settings(run)?, scorer: None })
    }

    /// Scores a slide and stores what comes of it.
    pub fn score(&mut self, entry: &SlideEntry, wanted: Wanted) -> Result<SlideState> {
        let scorer = match &mut self.scorer {
            Some(scorer) => scorer,
            empty => empty.insert(Scorer::new(&self.run.config.select.selector()?, self.device)?),
        };
        score(self.run, entry, (wanted.fingerprint, wanted.key), wanted.places.as_ref(), scorer, self.progress)
    }
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
    (fingerprint, key): (Fingerprint, Digest),
    places: Option<&Places>,
    scorer: &Scorer,
    progress: &dyn Progress,
) -> Result<SlideState> {
    let begun = Instant::now();
    let select = &run.config.select;
    let scored = open(entry).and_then(|slide| {
        slide.remarks().iter().for_each(|remark| progress.note(&format!("{}: {remark}", entry.id)));
        score_patches(&slide, select, places, scorer, progress)
    });
    let outcome = match scored {
        Ok((plane, scores)) => Outcome::Scored(scored_of(&plane, select, scores)),
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

/// Scores of every whole patch of a slide, or of those at `places`, and the pixels that they were cut from. Nothing is chosen yet.
///
/// # Errors
/// A slide without the scale asked for or without a whole patch, a tile that cannot be decoded, or the user's interruption.
pub(super) fn score_patches(
    slide: &Slide,
    select: &SelectConfig,
    places: Option<&Places>,
    scorer: &Scorer,
    progress: &dyn Progress,
) -> Result<(Plane, SlideScores)> {
    let plane = Plane::at(slide, select.mpp)?;
    let ([width, height], side) = (plane.size_px(), select.patch_px as u64);
    // Scoring would take the whole slide as one smaller patch, which has no p/q cells.
    if width < side || height < side {
        let scale = select.mpp.map_or(String::new(), |mpp| format!(" at {mpp} µm/px"));
        let problem = format!("its {width} x {height} px{scale} hold no whole patch of {side} px");
        return Err(Error::input(slide.path(), problem, "give a larger slide, or a smaller select.patch_px"));
    }
    let (selector, threshold) = (scorer.selector().clone(), select.threshold()?);
    let patch_px = select.patch_px;
    let options = ScoreOptions { patch_px, selector, mpp: select.mpp, threshold, ..ScoreOptions::default() };
    let scores = match places {
        None => score_slide_with(slide, &options, scorer, progress)?,
        Some(places) => {
            let corners = places.corners(&plane, patch_px)?;
            score_listed_with(slide, &options, scorer, &corners, progress)?
        }
    };
    Ok((plane, scores))
}

fn scored_of(plane: &Plane, select: &SelectConfig, scores: SlideScores) -> Scored {
    let level = &plane.slide().levels()[0];
    let measured =
        |p: &PatchScore| (p.x, p.y, p.bits.map_or(p.score, |bits| bits as f64), p.tissue_share, p.glass_share);
    Scored {
        width_px: level.width_px,
        height_px: level.height_px,
        mpp: plane.slide().mpp(),
        plane: plane.rule(),
        extent_px: PatchGrid::of(plane, select.patch_px).extent(plane),
        patches: scores.patches.iter().map(measured).collect(),
    }
}

/// Opens a slide of the cohort with the scale its table gives, if it gives one.
pub fn open(entry: &SlideEntry) -> Result<Slide> {
    Slide::open_with(&entry.path, &SlideOptions { mpp: entry.mpp, ..SlideOptions::default() })
}

/// The pixels that patches of a slide are cut from.
pub fn plane(entry: &SlideEntry, select: &SelectConfig) -> Result<Plane> {
    Plane::at(&open(entry)?, select.mpp)
}

fn keep(run: &Run, states: Vec<(&SlideEntry, SlideState)>) -> Result<Scanned> {
    let select = &run.config.select;
    let (selector, area) = (select.selector()?, select.patch_px * select.patch_px);
    let (mut entries, mut scores, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for (entry, state) in states {
        let content = state.fingerprint.map(|fingerprint| fingerprint.content).unwrap_or_default();
        match state.outcome {
            Outcome::Failed { reason } => left_out.push(LeftOut { slide: entry.id.clone(), reason }),
            Outcome::Scored(mut scored) => {
                let score = |(x, y, value, tissue_share, glass_share): ScoredPatch| PatchScore {
                    tissue_share,
                    glass_share,
                    ..selector.patch_score([x, y], value, area)
                };
                let patches = std::mem::take(&mut scored.patches).into_iter().map(score).collect();
                scores.push(SlideScores { patches, ..SlideScores::default() });
                entries.push((entry, content, scored));
            }
        }
    }
    let choice = select.choice(run.config.seed)?.fit(&scores);
    let mut selected = Vec::new();
    for ((entry, content, scored), mut scores) in entries.into_iter().zip(scores) {
        let passed = choice.pass(&mut scores);
        if passed > 0 {
            selected.push(Selected::new(entry, content, scored, scores.patches, passed, &choice));
        } else {
            let count = scores.patches.len();
            let glass = scores.patches.iter().all(PatchScore::is_glass);
            let why = if glass { "are more than glass" } else { "passed the threshold" };
            left_out.push(LeftOut { slide: entry.id.clone(), reason: format!("none of its {count} patches {why}") });
        }
    }
    let selection = Selection {
        selector: selector.key(),
        selector_digest: selector.digest()?,
        unit: selector.unit().to_string(),
        patch_px: select.patch_px,
        local_px: select.local_px,
        mpp: select.mpp,
        slides_mpp: scales::range(selected.iter().filter_map(|slide| slide.mpp)),
        choice,
    };
    Ok(Scanned { selected, left_out, selection })
}
