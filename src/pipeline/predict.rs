//! Predicting slides that were not in the cohort, with everything a finished run holds.

use std::{path::Path, time::Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    RunConfig,
    features::{self, Encoders},
    maps::{self, SlideMaps},
    model_dir,
    places::Places,
    reach::{FeatureRange, Intervals, Place},
    scales, scan,
    selection::Selection,
};
use crate::{
    cohort::feature_store::SlideFeatures,
    device::Device,
    error::{Error, Result},
    mil::{
        bags::Origin,
        features::{HostFeatures, PatchValues},
        predictor::Predictor,
    },
    op::count_macs,
    progress::{Progress, Silent},
    report::Thumbnail,
    select::{PatchGrid, Scorer},
    slide::{Plane, Slide, SlideOptions, file_name::slide_id},
};

/// A run's networks, ready for slides.
pub struct SlidePredictor {
    config: RunConfig,
    selection: Selection,
    scorer: Scorer,
    encoders: Encoders,
    predictor: Predictor,
    range: Option<FeatureRange>,
}

/// What is predicted for one slide.
pub struct SlidePrediction {
    pub patches: usize,
    pub kept: usize,
    /// Per gene, on the scale of the run's targets, e.g. log10(1 + x).
    pub values: Vec<f64>,
    /// Where the slide lies among those that were trained on, if the run says where those lie.
    pub place: Option<Place>,
    /// What led to it, if it was asked for.
    pub maps: Option<SlideMaps>,
}

/// Where a slide's time goes.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Seconds {
    pub open: f64,
    /// All of its patches read.
    pub decode: f64,
    /// Beyond decoding.
    pub score: f64,
    /// Kept patches read again and encoded, one overlapping with the other.
    pub encode: f64,
    pub regress: f64,
}

impl Seconds {
    pub fn total(&self) -> f64 {
        self.open + self.decode + self.score + self.encode + self.regress
    }
}

/// A prediction with its price.
pub struct Timed {
    pub seconds: Seconds,
    pub patches: usize,
    pub kept: usize,
    /// Multiply-adds of encoding the kept ones.
    pub macs: u64,
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
        let range = FeatureRange::read(dir, predictor.origin)?;
        Ok(SlidePredictor { config, selection: ours, scorer, encoders, predictor, range })
    }

    /// Intervals from what the run missed on held-out slides; `None` where it left no predictions.
    ///
    /// # Errors
    /// A table that cannot be read.
    pub fn intervals(&self, level: f64) -> Result<Option<Intervals>> {
        Intervals::read(&self.config.out, self.genes(), level)
    }

    pub fn genes(&self) -> &[String] {
        &self.predictor.manifest.genes
    }

    /// Predicts one slide step by step, by the clock. Every step opens the slide anew, so that none finds tiles that another
    /// decoded.
    ///
    /// # Errors
    /// As [`SlidePredictor::predict`].
    pub fn timed(&self, path: &Path, mpp: Option<f64>) -> Result<Timed> {
        let select = &self.config.select;
        let open = || Slide::open_with(path, &SlideOptions { mpp, ..SlideOptions::default() });
        let (open_s, slide) = timed(open)?;
        let (decode, ()) = timed(|| {
            let plane = Plane::at(&slide, select.mpp)?;
            let grid = PatchGrid::of(&plane, select.patch_px);
            (0..grid.len()).into_par_iter().try_for_each(|i| grid.read(&plane, i).map(drop))
        })?;
        let slide = open()?;
        let id = slide_id(path);
        let places = Places::of(&self.config, &id)?;
        let score = || scan::score_patches(&slide, select, places.as_ref(), &self.scorer, &Silent);
        let (scored, (plane, mut scores)) = timed(score)?;
        let patches = scores.patches.len();
        self.selection.choice.pass(&mut scores);
        self.selection.choice.draw(&id, &mut scores.patches);
        scores.patches.retain(|patch| patch.kept);
        let kept = scores.patches.len();
        if kept == 0 {
            return Err(Error::input(path, "nothing passed the run's threshold", "look at `isg score` of it"));
        }
        let work = || timed(|| self.encoders.encode(&id, &plane, &scores.patches, select, &Silent));
        let (encoded, macs) = count_macs(work);
        let (encode, encoded) = encoded?;
        let bag = self.bag(path, mpp, &plane, encoded);
        let (regress, _) = timed(|| self.predictor.predict(&bag, None))?;
        let seconds = Seconds { open: open_s, decode, score: (scored - decode).max(0.0), encode, regress };
        Ok(Timed { seconds, patches, kept, macs })
    }

    /// A slide's features as networks read them; `mpp` as the slide was opened with.
    fn bag(
        &self,
        path: &Path,
        mpp: Option<f64>,
        plane: &Plane,
        encoded: SlideFeatures,
    ) -> features::WithSlide<HostFeatures> {
        let side = PatchGrid::of(plane, self.config.select.patch_px).extent(plane);
        let coords = features::places(&encoded.coords, side);
        let patches = encoded.coords.len();
        let values = PatchValues { global: encoded.global, cube: encoded.local, coords };
        let slide = features::SlidePatches::new(path, mpp, &self.config.select, encoded.coords);
        features::WithSlide { features: HostFeatures { patches, values }, slide }
    }

    /// Predicts one slide: scored, selected and encoded as the run's own slides were, by the run's threshold. `mpp` is its
    /// µm per level-0 pixel, over what the file says; `mapped` are numbers of genes to explain on the slide, `None` explains
    /// nothing.
    ///
    /// # Errors
    /// The slide cannot be read, is of another scale than the run's where that matters, or nothing of it passes.
    pub fn predict(
        &self,
        path: &Path,
        mpp: Option<f64>,
        mapped: Option<&[usize]>,
        progress: &dyn Progress,
    ) -> Result<SlidePrediction> {
        let slide = Slide::open_with(path, &SlideOptions { mpp, ..SlideOptions::default() })?;
        let select = &self.config.select;
        if select.mpp.is_none() {
            let remark = scales::check_new(path, slide.mpp(), self.selection.slides_mpp)?;
            remark.iter().for_each(|remark| progress.note(remark));
        }
        // The name that the slide would have in a run, so that the same patches of it are drawn.
        let id = slide_id(path);
        let places = Places::of(&self.config, &id)?;
        let (plane, mut scores) = scan::score_patches(&slide, select, places.as_ref(), &self.scorer, progress)?;
        let scored = scores.patches.len();
        if self.selection.choice.pass(&mut scores) == 0 {
            let problem = format!("none of its {scored} patches passed the run's threshold");
            return Err(Error::input(path, problem, "look at `isg score` of it"));
        }
        self.selection.choice.draw(&id, &mut scores.patches);
        scores.patches.retain(|patch| patch.kept);
        let kept = scores.patches.len();
        let encoded = self.encoders.encode(&id, &plane, &scores.patches, select, progress)?;
        let side = PatchGrid::of(&plane, select.patch_px).extent(&plane);
        let bag = self.bag(path, mpp, &plane, encoded);
        let place = match &self.range {
            Some(range) => range.place(&bag, self.predictor.manifest.dims)?,
            None => None,
        };
        let Some(genes) = mapped else {
            return Ok(SlidePrediction {
                patches: scored,
                kept,
                values: self.predictor.predict(&bag, None)?,
                place,
                maps: None,
            });
        };
        let explanation = self.predictor.explain(&bag, None)?;
        let (width, height) = (slide.levels()[0].width_px, slide.levels()[0].height_px);
        let maps = SlideMaps {
            slide: id,
            thumbnail: Thumbnail { image: slide.thumbnail(maps::PICTURE_PX)?, slide_px: (width, height) },
            mpp: slide.mpp(),
            corners: scores.patches.iter().map(|patch| [patch.x, patch.y]).collect(),
            side_px: side,
            layers: maps::layers(&explanation, self.genes(), genes),
        };
        Ok(SlidePrediction { patches: scored, kept, values: explanation.prediction, place, maps: Some(maps) })
    }
}

/// Seconds that a piece of work takes, and its result.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begun = Instant::now();
    let result = work()?;
    Ok((begun.elapsed().as_secs_f64(), result))
}
