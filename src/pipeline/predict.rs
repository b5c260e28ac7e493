//! Predicting slides that were not in the cohort, with everything a finished run holds.

use std::path::Path;

use super::{
    RunConfig,
    features::{self, Encoders},
    model_dir, scales, scan,
    selection::Selection,
};
use crate::{
    device::Device,
    error::{Error, Result},
    mil::{
        bags::Origin,
        features::{HostFeatures, PatchValues},
        predictor::Predictor,
    },
    progress::Progress,
    select::{PatchGrid, Scorer},
    slide::{Slide, SlideOptions, file_name::slide_id},
};

/// A run's networks, ready for slides.
pub struct SlidePredictor {
    config: RunConfig,
    selection: Selection,
    scorer: Scorer,
    encoders: Encoders,
    predictor: Predictor,
}

/// What is predicted for one slide.
pub struct SlidePrediction {
    pub patches: usize,
    pub kept: usize,
    /// Per gene, on the scale of the run's targets, e.g. log10(1 + x).
    pub values: Vec<f64>,
}

impl SlidePredictor {
    /// Loads a finished run from its directory.
    ///
    /// # Errors
    /// `Input` where a file is missing, damaged, or not of the same run as the others.
    pub fn load(dir: &Path, device: &Device) -> Result<SlidePredictor> {
        let path = dir.join("config.toml");
        if !path.is_file() {
            return Err(Error::input(dir, "holds no config.toml", "name the directory of a finished `isg run`"));
        }
        let mut config = RunConfig::read(&path)?;
        config.out = dir.to_path_buf();
        let predictor = Predictor::load(&model_dir(&config.out, &config.train), device)?;
        let encoders = Encoders::load(&config, dir, device)?;
        let Origin { global_extractor, local_extractor, selection } = predictor.origin;
        let ours = encoders.digests();
        if ours != [global_extractor, local_extractor] {
            let problem = if ours == [local_extractor, global_extractor] {
                "holds the global extractor in place of the local one, and the other way round"
            } else {
                "holds extractors that the networks were not trained with"
            };
            return Err(Error::input(
                dir.join("extractor"),
                problem,
                "give the directory that one run left, as it left it",
            ));
        }
        let ours = Selection::read(dir)?;
        if selection != ours.digest() || !ours.is_of(&config)? {
            let problem = "chooses patches otherwise than when the networks were trained";
            return Err(Error::input(&path, problem, "run the same command again to its end"));
        }
        let (sizes, given) = (predictor.manifest.dims, encoders.dims(&config.select));
        if sizes != given {
            let problem = format!("gives features of other sizes than the networks' {sizes:?}");
            return Err(Error::input(&path, problem, "give the directory that one run left, as it left it"));
        }
        let scorer = Scorer::new(&config.select.selector()?, device)?;
        Ok(SlidePredictor { config, selection: ours, scorer, encoders, predictor })
    }

    pub fn genes(&self) -> &[String] {
        &self.predictor.manifest.genes
    }

    /// Predicts one slide: scored, selected and encoded as the run's own slides were, by the run's threshold. `mpp` is its
    /// µm per level-0 pixel, over what the file says.
    ///
    /// # Errors
    /// The slide cannot be read, is of another scale than the run's where that matters, or nothing of it passes.
    pub fn predict(&self, path: &Path, mpp: Option<f64>, progress: &dyn Progress) -> Result<SlidePrediction> {
        let slide = Slide::open_with(path, &SlideOptions { mpp, ..SlideOptions::default() })?;
        let select = &self.config.select;
        if select.mpp.is_none() {
            let remark = scales::check_new(path, slide.mpp(), self.selection.slides_mpp)?;
            remark.iter().for_each(|remark| progress.note(remark));
        }
        let (plane, mut scores) = scan::score_patches(&slide, select, &self.scorer, progress)?;
        let scored = scores.patches.len();
        if self.selection.choice.pass(&mut scores) == 0 {
            let problem = format!("none of its {scored} patches passed the run's threshold");
            return Err(Error::input(path, problem, "look at `isg score` of it"));
        }
        // The name that the slide would have in a run, so that the same patches of it are drawn.
        let id = slide_id(path);
        self.selection.choice.draw(&id, &mut scores.patches);
        scores.patches.retain(|patch| patch.kept);
        let kept = scores.patches.len();
        let encoded = self.encoders.encode(&id, &plane, &scores.patches, select, progress)?;
        let side = PatchGrid::of(&plane, select.patch_px).extent(&plane);
        let coords = features::places(&encoded.coords, side);
        let values = PatchValues { global: encoded.global, cube: encoded.local, coords };
        let bag = features::WithSlide { features: HostFeatures { patches: kept, values }, path: path.to_path_buf() };
        Ok(SlidePrediction { patches: scored, kept, values: self.predictor.predict(&bag, None)? })
    }
}
