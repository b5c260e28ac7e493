//! What a run keeps of its slides: the rule, with the numbers it came to, and the patches of each slide that are kept.
//!
//! Everything here is plain data and decides all that later stages read: [`Selection`] is `selection.json`, the digests of a
//! [`Selected`] stand for its pixels and for the places kept.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{RunConfig, scan::Scored};
use crate::{
    cohort::SlideEntry,
    error::{Error, Result},
    io::{checksum::Digest, sealed},
    select::{FittedChoice, PatchScore},
    slide::PlaneRule,
};

/// Where less of Otsu's tissue is kept, the report says so.
pub const LEAST_TISSUE_KEPT: f64 = 0.25;

/// How a run selects, as its slides made it definite.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Selection {
    /// Everything that decides a score ([`crate::select::Selector::key`]), and what it is a number of.
    pub selector: String,
    /// The same down to the bytes of its files.
    pub selector_digest: Digest,
    pub unit: String,
    /// Sides of coarse and fine patches in pixels of `mpp`, or in level-0 pixels without it.
    pub patch_px: usize,
    pub local_px: usize,
    pub mpp: Option<f64>,
    /// The finest and the coarsest µm per level-0 pixel among the slides used, of those that say it.
    pub slides_mpp: Option<[f64; 2]>,
    pub choice: FittedChoice,
}

impl Selection {
    pub const FILE: &str = "selection.json";

    /// That of the run in `dir`.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn read(dir: &Path) -> Result<Selection> {
        let path = dir.join(Selection::FILE);
        if !path.is_file() {
            let problem = format!("holds no {}", Selection::FILE);
            return Err(Error::input(dir, problem, "run `isg run` on its configuration again"));
        }
        sealed::read_json(path)
    }

    /// Of everything that decides which patches of a slide are kept, whether it is of the cohort or new.
    pub fn digest(&self) -> Digest {
        Digest::of("selection", self)
    }

    /// Whether it is what this configuration comes to.
    ///
    /// # Errors
    /// A selector that cannot be used.
    pub fn is_of(&self, config: &RunConfig) -> Result<bool> {
        let select = &config.select;
        let wanted = (select.selector()?.digest()?, select.patch_px, select.local_px, select.mpp);
        let held = (self.selector_digest, self.patch_px, self.local_px, self.mpp);
        Ok(held == wanted && self.choice.choice == select.choice(config.seed)?)
    }

    /// The rule in words, e.g. `at least 10.743 bits per pixel: the mean + 0 standard deviations of 3791 patches of 30
    /// slides, 969 of glass left out`.
    pub fn describe(&self) -> String {
        let FittedChoice { choice, least_score, spread } = &self.choice;
        match (least_score, spread) {
            (Some(least), Some(spread)) => format!(
                "at least {least:.4} {}: {} over {} patches of {} slides, {} of glass left out",
                self.unit,
                choice.threshold.to_string().trim_start_matches("at least "),
                spread.patches,
                spread.slides,
                spread.glass
            ),
            (Some(least), None) => format!("at least {least} {}", self.unit),
            _ => format!("{} of each slide", choice.threshold),
        }
    }
}

/// One usable slide with the patches that are kept.
pub struct Selected {
    pub entry: SlideEntry,
    /// Of the pixels that are read from it: the slide's bytes, and how patches are cut from them.
    pub pixels: Digest,
    pub size_px: (u64, u64),
    pub mpp: Option<f64>,
    pub plane: PlaneRule,
    /// Width and height of a patch in level-0 pixels.
    pub extent_px: [u64; 2],
    /// Every patch in rows from the upper left, places in level-0 pixels, the kept ones marked.
    pub patches: Vec<PatchScore>,
    /// Patches that pass the threshold, of which those kept were drawn.
    passed: usize,
}

/// How much of a slide goes on, for people.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeptShare {
    pub slide: String,
    pub patches: u64,
    pub passed: u64,
    pub kept: u64,
    /// Of the slide's patches, 0 to 1.
    pub kept_share: f64,
    /// Of the slide's area, by Otsu's threshold.
    pub tissue_share: f64,
    /// Of that tissue.
    pub tissue_kept_share: f64,
    pub remark: Option<String>,
}

impl Selected {
    /// Draws what goes on of the patches that passed.
    pub(super) fn new(
        entry: &SlideEntry,
        content: Digest,
        scored: Scored,
        mut patches: Vec<PatchScore>,
        passed: usize,
        choice: &FittedChoice,
    ) -> Selected {
        choice.draw(&entry.id, &mut patches);
        Selected {
            entry: entry.clone(),
            pixels: Digest::of("pixels", &(content, scored.plane, scored.extent_px)),
            size_px: (scored.width_px, scored.height_px),
            mpp: scored.mpp,
            plane: scored.plane,
            extent_px: scored.extent_px,
            patches,
            passed,
        }
    }

    /// The kept patches.
    pub fn kept(&self) -> impl Iterator<Item = &PatchScore> {
        self.patches.iter().filter(|patch| patch.kept)
    }

    /// Of the kept patches, with their scores.
    pub fn kept_digest(&self) -> Digest {
        Digest::of("kept patches", &self.kept().map(|patch| (patch.x, patch.y, patch.score)).collect::<Vec<_>>())
    }

    pub fn share(&self) -> KeptShare {
        let (patches, kept) = (self.patches.len(), self.kept().count());
        let tissue = |patches: &mut dyn Iterator<Item = &PatchScore>| -> f64 {
            patches.map(|patch| f64::from(patch.tissue_share)).sum()
        };
        let all = tissue(&mut self.patches.iter());
        let tissue_kept_share = if all > 0.0 { tissue(&mut self.kept()) / all } else { 0.0 };
        let remark = (tissue_kept_share < LEAST_TISSUE_KEPT && all > 0.0).then(|| {
            let drawn = (kept < self.passed).then(|| format!("; {kept} of the {} that pass were drawn", self.passed));
            format!(
                "less than a quarter of the tissue that Otsu's threshold finds is kept{}",
                drawn.unwrap_or_default()
            )
        });
        KeptShare {
            slide: self.entry.id.clone(),
            patches: patches as u64,
            passed: self.passed as u64,
            kept: kept as u64,
            kept_share: kept as f64 / patches.max(1) as f64,
            tissue_share: all / patches.max(1) as f64,
            tissue_kept_share,
            remark,
        }
    }
}
