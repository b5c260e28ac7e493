//! Third stage: kept patches become global vectors and, where they are asked for, p/q x p/q local cubes (paper 3.2), one file a
//! slide.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
    sync::mpsc,
};

use rayon::prelude::*;

use super::{
    Run,
    config::{RunConfig, Scale, SelectConfig},
    extractor_dir,
    scan::{self, LeftOut},
    selection::{Selected, Selection},
};
use crate::{
    cohort::feature_store::{FeatureKey, FeatureStore, Held, LocalPrecision, SlideFeatures, StoredFeatures},
    device::Device,
    encoder::{EncoderConfig, PatchEncoder, Site},
    error::{Error, Result},
    image::RgbImage,
    io::checksum::Digest,
    mil::{
        bags::{Bag, BagSet, Origin},
        features::{FeatureDims, HostFeatures, PatchFeatures, PatchValues, Reads},
    },
    progress::Progress,
    select::{PatchScore, SlideFrame},
    slide::{Plane, Slide, SlideOptions},
};

/// Coarse patches read ahead of the encoder at a time; bounds memory at 2 x this x 3 p² bytes.
const PATCHES_A_READ: usize = 16;

/// The encoders of a run.
pub struct Encoders {
    /// Of whole patches; none where their vectors are pooled from cells.
    pub global: Option<Rc<dyn PatchEncoder>>,
    /// Of fine patches.
    pub local: Option<Rc<dyn PatchEncoder>>,
    /// Whether patches get cubes.
    cells: bool,
}

/// Where the encoder of a scale keeps what it learns in the run directory `dir`.
pub(super) fn at_site<T>(
    config: &RunConfig,
    dir: &Path,
    scale: Scale,
    work: impl FnOnce(Site) -> Result<T>,
) -> Result<T> {
    let folder = extractor_dir(dir, scale);
    work(Site { dir: &folder, extractor: config.extractor.get(scale), precision: config.precision })
}

impl Encoders {
    /// Those of a run of this configuration in `dir`.
    pub fn load(config: &RunConfig, dir: &Path, device: &Device) -> Result<Encoders> {
        let EncoderConfig { encoder, cells, .. } = &config.encoder;
        let mut encoders = Encoders { global: None, local: None, cells: *cells };
        for scale in config.scales() {
            let shared = encoders.global.clone().filter(|_| !encoder.differs_by_scale());
            let load = || at_site(config, dir, scale, |site| encoder.load(site, device).map(Rc::from));
            let loaded = shared.map_or_else(load, Ok)?;
            match scale {
                Scale::Global => encoders.global = Some(loaded),
                Scale::Local => encoders.local = Some(loaded),
            }
        }
        Ok(encoders)
    }

    /// Sizes of a patch's features.
    pub fn dims(&self, select: &SelectConfig) -> FeatureDims {
        let grid = if self.cells { select.grid() } else { 0 };
        FeatureDims { global: self.d(), cell: self.cell_d(), grid }
    }

    /// Length of a patch's vector.
    fn d(&self) -> usize {
        let pooled = self.local.as_ref().map_or(0, |local| 2 * local.d());
        self.global.as_ref().map_or(pooled, |global| global.d())
    }

    /// Length of a cell's vector; 0 without cubes.
    fn cell_d(&self) -> usize {
        self.local.as_ref().filter(|_| self.cells).map_or(0, |local| local.d())
    }

    /// Of what makes patches' vectors, and of what makes cells'; zeros without cubes.
    pub fn digests(&self) -> [Digest; 2] {
        let local = self.local.as_ref().map(|local| local.digest());
        let pooled = Digest::of("mean and deviation over cells", &local);
        let global = self.global.as_ref().map_or(pooled, |global| global.digest());
        [global, local.filter(|_| self.cells).unwrap_or_default()]
    }

    /// Everything that decides the features of a slide: of its pixels, cut at these patches.
    fn key(&self, select: &SelectConfig, slide: &Selected) -> FeatureKey {
        let [global_extractor, local_extractor] = self.digests();
        FeatureKey {
            patch_px: select.patch_px as u32,
            fine_px: select.local_px as u32,
            slide: slide.pixels,
            patches: slide.kept_digest(),
            global_extractor,
            local_extractor,
            local_precision: LocalPrecision::F16,
        }
    }

    /// Features of the given patches of one slide. Reading the next patches overlaps with encoding the last.
    pub fn encode(
        &self,
        slide: &str,
        plane: &Plane,
        kept: &[PatchScore],
        select: &SelectConfig,
        progress: &dyn Progress,
    ) -> Result<SlideFeatures> {
        let (p, q, g) = (select.patch_px, select.local_px, select.grid());
        let mut features = SlideFeatures {
            d: self.d(),
            cell_d: self.cell_d(),
            g: if self.cells { g } else { 0 },
            coords: kept.iter().map(|patch| [patch.x as i64, patch.y as i64]).collect(),
            scores: kept.iter().map(|patch| patch.bits.map_or(patch.score, |bits| bits as f64)).collect(),
            ..SlideFeatures::default()
        };
        let frame = SlideFrame::of(plane, p);
        let stored = self.global.as_ref().map_or(Ok(None), |global| global.at(slide, &frame, &features.coords))?;
        let looked_up = stored.is_some();
        features.global = stored.unwrap_or_default();
        if looked_up && self.local.is_none() {
            progress.advance(kept.len() as u64);
            return Ok(features);
        }
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::sync_channel::<Result<Vec<RgbImage>>>(1);
            scope.spawn(move || {
                for patches in kept.chunks(PATCHES_A_READ) {
                    let read = |patch: &PatchScore| plane.read(plane.pixel_at([patch.x, patch.y]), p, p);
                    // A closed channel means that the encoder failed: nobody needs more patches.
                    if send.send(patches.par_iter().map(read).collect()).is_err() {
                        return;
                    }
                }
            });
            for images in receive {
                progress.check()?;
                let images = images?;
                if let Some(local) = &self.local {
                    let cells: Vec<RgbImage> = images
                        .iter()
                        .flat_map(|image| (0..g * g).map(move |cell| image.crop(cell % g * q, cell / g * q, q, q)))
                        .collect();
                    let vectors = local.encode(&cells)?;
                    if self.global.is_none() {
                        let patches = vectors.chunks_exact(g * g * local.d());
                        features.global.extend(patches.flat_map(|cells| mean_and_deviation(cells, local.d())));
                    }
                    if self.cells {
                        features.local.extend(vectors);
                    }
                }
                if let (Some(global), false) = (&self.global, looked_up) {
                    features.global.extend(global.encode(&images)?);
                }
                progress.advance(images.len() as u64);
            }
            Ok(())
        })?;
        Ok(features)
    }
}

/// Means of `d` numbers over vectors, then their standard deviations ([`Pool::MeanSd`](crate::encoder::Pool::MeanSd)).
fn mean_and_deviation(vectors: &[f32], d: usize) -> Vec<f32> {
    let n = (vectors.len() / d) as f64;
    let mut sums = vec![[0.0f64; 2]; d];
    for vector in vectors.chunks_exact(d) {
        sums.iter_mut().zip(vector).for_each(|(s, &v)| *s = [s[0] + f64::from(v), s[1] + f64::from(v) * f64::from(v)]);
    }
    let mean = |&[sum, _]: &[f64; 2]| sum / n;
    let deviation = |s: &[f64; 2]| (s[1] / n - mean(s) * mean(s)).max(0.0).sqrt();
    sums.iter().map(mean).chain(sums.iter().map(deviation)).map(|v| v as f32).collect()
}

/// What makes the features of a run's slides, and where they are kept.
pub(super) struct Extraction<'a> {
    run: &'a Run,
    encoders: Encoders,
    pub store: FeatureStore,
}

impl<'a> Extraction<'a> {
    pub fn new(run: &'a Run, device: &Device) -> Result<Extraction<'a>> {
        let encoders = Encoders::load(&run.config, &run.config.out, device)?;
        Ok(Extraction { run, encoders, store: FeatureStore::open(run.path("features"))? })
    }

    /// Everything that decides the features of a slide.
    pub fn key(&self, slide: &Selected) -> FeatureKey {
        self.encoders.key(&self.run.config.select, slide)
    }

    /// The features of a slide that are stored and made from what there is now.
    pub fn find(&self, slide: &Selected, progress: &dyn Progress) -> Result<Option<StoredFeatures>> {
        match self.store.find(&slide.entry.id, &self.key(slide))? {
            Held::Current(stored) => return Ok(Some(*stored)),
            Held::Damaged(why) => progress.note(&format!("{why}; the slide is encoded again")),
            Held::Missing | Held::Changed(_) => {}
        }
        Ok(None)
    }

    /// Encodes a slide and stores what comes of it; why it has to be left out, where that lies with the slide.
    pub fn encode(&self, slide: &Selected, progress: &dyn Progress) -> Result<Result<(), LeftOut>> {
        let (id, select) = (&slide.entry.id, &self.run.config.select);
        progress.remark(id);
        let kept: Vec<PatchScore> = slide.kept().copied().collect();
        let encode = || self.encoders.encode(id, &scan::plane(&slide.entry, select)?, &kept, select, progress);
        match encode() {
            Ok(encoded) => self.store.write(id, &self.key(slide), &encoded).map(Ok),
            Err(error) if error.lies_with(&slide.entry.path) => {
                progress.note(&format!("left out {id}: {error}"));
                Ok(Err(LeftOut { slide: id.clone(), reason: error.to_string() }))
            }
            Err(error) => Err(error),
        }
    }
}

/// Encodes every slide whose stored features are not made from what there is now. Returns the features of the slides, in
/// their order, and the slides that failed, which have none.
pub fn extract(
    run: &Run,
    selected: &[Selected],
    device: &Device,
    progress: &dyn Progress,
) -> Result<(Vec<StoredFeatures>, Vec<LeftOut>)> {
    let extraction = Extraction::new(run, device)?;
    progress.begin("features", patches_of(selected), "patches");
    let (mut features, mut left_out) = (Vec::with_capacity(selected.len()), Vec::new());
    for slide in selected {
        progress.check()?;
        if let Some(stored) = extraction.find(slide, progress)? {
            progress.advance(slide.kept().count() as u64);
            features.push(stored);
            continue;
        }
        match extraction.encode(slide, progress)? {
            Ok(()) => features.push(extraction.store.read(&slide.entry.id)?),
            Err(failed) => left_out.push(failed),
        }
    }
    progress.end();
    extraction.store.write_index(&features)?;
    Ok((features, left_out))
}

/// Kept patches of slides.
pub(super) fn patches_of(selected: &[Selected]) -> u64 {
    selected.iter().map(|slide| slide.kept().count() as u64).sum()
}

/// A slide's features on disk, read patch by patch.
struct StoredPatches {
    stored: StoredFeatures,
    places: Vec<[f64; 2]>,
}

impl PatchFeatures for StoredPatches {
    fn patches(&self) -> usize {
        self.stored.n
    }

    fn read(&self, patches: &[usize], reads: Reads, to: &mut PatchValues) -> Result<()> {
        let StoredFeatures { n, d, .. } = self.stored;
        let none = |patch: usize| Error::shape("features", format!("patch {patch} of {n}"));
        if reads.global {
            let all = self.stored.global()?;
            for &patch in patches {
                to.global.extend_from_slice(all.get(patch * d..(patch + 1) * d).ok_or_else(|| none(patch))?);
            }
        }
        if reads.cube {
            for &patch in patches {
                to.cube.extend(self.stored.local_patch(patch)?);
            }
        }
        if reads.coords {
            for &patch in patches {
                to.coords.push(*self.places.get(patch).ok_or_else(|| none(patch))?);
            }
        }
        Ok(())
    }
}

/// Corners of patches in sides of a patch, which is `side` level-0 pixels.
pub(super) fn places(corners: &[[i64; 2]], side: [u64; 2]) -> Vec<[f64; 2]> {
    let place = |corner: &[i64; 2]| [0, 1].map(|axis| corner[axis] as f64 / side[axis].max(1) as f64);
    corners.iter().map(place).collect()
}

/// Features and the slide that they are of, for methods that look at it.
pub(super) struct WithSlide<F> {
    pub features: F,
    pub slide: SlidePatches,
}

/// A slide and where its patches are cut from it.
pub(super) struct SlidePatches {
    path: PathBuf,
    /// µm per level-0 pixel, over what the file says.
    mpp: Option<f64>,
    /// Of the run.
    select_mpp: Option<f64>,
    patch_px: usize,
    /// In level-0 pixels.
    corners: Vec<[i64; 2]>,
}

impl SlidePatches {
    pub fn new(path: &Path, mpp: Option<f64>, select: &SelectConfig, corners: Vec<[i64; 2]>) -> SlidePatches {
        let (path, select_mpp, patch_px) = (path.to_path_buf(), select.mpp, select.patch_px);
        SlidePatches { path, mpp, select_mpp, patch_px, corners }
    }

    fn open(&self) -> Result<Slide> {
        Slide::open_with(&self.path, &SlideOptions { mpp: self.mpp, ..SlideOptions::default() })
    }
}

impl<F: PatchFeatures> PatchFeatures for WithSlide<F> {
    fn patches(&self) -> usize {
        self.features.patches()
    }

    fn read(&self, patches: &[usize], reads: Reads, to: &mut PatchValues) -> Result<()> {
        self.features.read(patches, reads, to)
    }

    fn image(&self, side_px: usize) -> Result<RgbImage> {
        const WHITE: [u8; 3] = [255; 3];
        Ok(self.slide.open()?.thumbnail(side_px)?.letterboxed(side_px, WHITE))
    }

    fn pixels(&self, patches: &[usize]) -> Result<Vec<RgbImage>> {
        let SlidePatches { corners, select_mpp, patch_px, .. } = &self.slide;
        let plane = Plane::at(&self.slide.open()?, *select_mpp)?;
        let read = |&patch: &usize| {
            let corner = corners.get(patch).ok_or_else(|| Error::shape("features", format!("patch {patch}")))?;
            plane.read(plane.pixel_at(corner.map(|v| v.max(0) as u64)), *patch_px, *patch_px)
        };
        patches.par_iter().map(read).collect()
    }
}

/// Cohorts whose features are larger than this are read from disk at every step.
pub(super) const HELD_FLOATS: usize = 1 << 29;

/// What a new slide's features must come from as these do.
fn origin(selection: &Selection, stored: &[StoredFeatures]) -> Result<Origin> {
    let selection = selection.digest();
    let of = |key: &FeatureKey| Origin {
        global_extractor: key.global_extractor,
        local_extractor: key.local_extractor,
        selection,
    };
    let first = stored.first().map(|stored| of(&stored.key));
    first.ok_or_else(|| Error::internal("no slide has features"))
}

/// What methods are trained on: stored features with the cohort's targets.
pub fn bags(run: &Run, selection: &Selection, selected: &[Selected], stored: Vec<StoredFeatures>) -> Result<BagSet> {
    let floats: usize = stored.iter().map(|s| s.n * (s.d + s.cell_d * s.g * s.g)).sum();
    let [d, cell_d, grid] = stored.first().map_or([0; 3], |s| [s.d, s.cell_d, s.g]);
    let mut set = BagSet {
        dims: FeatureDims { global: d, cell: cell_d, grid },
        genes: run.cohort.gene_labels(),
        origin: origin(selection, &stored)?,
        bags: Vec::with_capacity(stored.len()),
        targets: Vec::with_capacity(stored.len()),
        whole: false,
    };
    for (slide, stored) in selected.iter().zip(stored) {
        let digest = Digest::of("features", &stored.checksum);
        let corners = stored.coords()?;
        let coords = places(&corners, slide.extent_px);
        let slide_patches = SlidePatches::new(&slide.entry.path, slide.entry.mpp, &run.config.select, corners);
        let features: Box<dyn PatchFeatures> = if floats <= HELD_FLOATS {
            let values = PatchValues { global: stored.global()?.into_owned(), cube: stored.local()?, coords };
            Box::new(WithSlide { features: HostFeatures { patches: stored.n, values }, slide: slide_patches })
        } else {
            Box::new(WithSlide { features: StoredPatches { stored, places: coords }, slide: slide_patches })
        };
        let entry = &slide.entry;
        let index = run.cohort.slides.iter().position(|s| s.id == entry.id);
        let index =
            index.ok_or_else(|| Error::internal(format_args!("slide {} left the cohort while it ran", entry.id)))?;
        set.targets.push(run.cohort.target(index).to_vec());
        set.bags.push(Bag {
            slide: entry.id.clone(),
            patient: entry.patient.clone(),
            project: entry.project.clone().unwrap_or_else(|| "all".to_string()),
            digest,
            features,
        });
    }
    Ok(set)
}
