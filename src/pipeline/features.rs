//! Third stage: kept patches become global vectors and p/q x p/q local cubes (paper 3.2), one file a slide.

use std::{path::Path, sync::mpsc};

use rayon::prelude::*;

use super::{
    Run,
    config::{Scale, SelectConfig},
    extractor_dir,
    scan::{self, LeftOut},
    selection::{Selected, Selection},
};
use crate::{
    cohort::feature_store::{FeatureKey, FeatureStore, Held, LocalPrecision, SlideFeatures, StoredFeatures},
    device::Device,
    error::{Error, Result},
    extractor::Extractor,
    image::RgbImage,
    io::checksum::Digest,
    mil::bags::{Bag, BagSet, HostFeatures, Origin, PatchFeatures},
    progress::Progress,
    select::PatchScore,
    slide::Plane,
};

/// Coarse patches read ahead of the encoder at a time; bounds memory at 2 x this x 3 p² bytes.
const PATCHES_A_READ: usize = 16;

/// The two trained encoders.
pub struct Encoders {
    pub global: Extractor,
    pub local: Extractor,
}

impl Encoders {
    /// Those of the run in `dir`.
    pub fn load(dir: &Path, device: &Device) -> Result<Encoders> {
        let load = |scale: Scale| Extractor::load(extractor_dir(dir, scale), device);
        Ok(Encoders { global: load(Scale::Global)?, local: load(Scale::Local)? })
    }

    /// Everything that decides the features of a slide: of its pixels, cut at these patches.
    fn key(&self, select: &SelectConfig, slide: &Selected) -> FeatureKey {
        FeatureKey {
            patch_px: select.patch_px as u32,
            fine_px: select.local_px as u32,
            slide: slide.pixels,
            patches: slide.kept_digest(),
            global_extractor: self.global.digest(),
            local_extractor: self.local.digest(),
            local_precision: LocalPrecision::F16,
        }
    }

    /// Features of the given patches of one slide. Reading the next patches overlaps with encoding the last.
    pub fn encode(
        &self,
        plane: &Plane,
        kept: &[PatchScore],
        select: &SelectConfig,
        progress: &dyn Progress,
    ) -> Result<SlideFeatures> {
        let (p, q, g) = (select.patch_px, select.local_px, select.grid());
        let mut features = SlideFeatures {
            d: self.global.d(),
            g,
            global: Vec::new(),
            local: Vec::new(),
            coords: kept.iter().map(|patch| [patch.x as i64, patch.y as i64]).collect(),
            scores: kept.iter().map(|patch| patch.bits.map_or(patch.score, |bits| bits as f64)).collect(),
        };
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
                features.global.extend(self.global.encode(&images)?);
                let cells: Vec<RgbImage> = images
                    .iter()
                    .flat_map(|image| (0..g * g).map(move |cell| image.crop(cell % g * q, cell / g * q, q, q)))
                    .collect();
                features.local.extend(self.local.encode(&cells)?);
                progress.advance(images.len() as u64);
            }
            Ok(())
        })?;
        Ok(features)
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
    let encoders = Encoders::load(&run.config.out, device)?;
    let store = FeatureStore::open(run.path("features"))?;
    let patches: usize = selected.iter().map(|slide| slide.kept().count()).sum();
    progress.begin("features", patches as u64, "patches");
    let (mut features, mut left_out) = (Vec::with_capacity(selected.len()), Vec::new());
    for slide in selected {
        progress.check()?;
        let (id, path) = (&slide.entry.id, &slide.entry.path);
        let key = encoders.key(&run.config.select, slide);
        match store.find(id, &key)? {
            Held::Current(stored) => {
                progress.advance(slide.kept().count() as u64);
                features.push(*stored);
                continue;
            }
            Held::Damaged(why) => progress.note(&format!("{why}; the slide is encoded again")),
            Held::Missing | Held::Changed(_) => {}
        }
        progress.remark(id);
        let kept: Vec<PatchScore> = slide.kept().copied().collect();
        let select = &run.config.select;
        let encode = || encoders.encode(&scan::plane(&slide.entry, select)?, &kept, select, progress);
        match encode() {
            Ok(encoded) => {
                store.write(id, &key, &encoded)?;
                features.push(store.read(id)?);
            }
            Err(error) if error.lies_with(path) => {
                progress.note(&format!("left out {id}: {error}"));
                left_out.push(LeftOut { slide: id.clone(), reason: error.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    progress.end();
    store.write_index(&features)?;
    Ok((features, left_out))
}

/// A slide's features on disk, read patch by patch.
struct StoredPatches(StoredFeatures);

impl PatchFeatures for StoredPatches {
    fn patches(&self) -> usize {
        self.0.n
    }

    fn read(&self, patches: &[usize], globals: &mut Vec<f32>, locals: &mut Vec<f32>) -> Result<()> {
        let all = self.0.global()?;
        for &patch in patches {
            let row = all.get(patch * self.0.d..(patch + 1) * self.0.d);
            let row = row.ok_or_else(|| Error::shape("features", format!("patch {patch} of {}", self.0.n)))?;
            globals.extend_from_slice(row);
            locals.extend(self.0.local_patch(patch)?);
        }
        Ok(())
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

/// What the regressor is trained on: stored features with the cohort's targets.
pub fn bags(run: &Run, selection: &Selection, selected: &[Selected], stored: Vec<StoredFeatures>) -> Result<BagSet> {
    let floats: usize = stored.iter().map(|s| s.n * s.d * (1 + s.g * s.g)).sum();
    let mut set = BagSet {
        width: run.config.extractor.global.d,
        grid: run.config.select.grid(),
        genes: run.cohort.gene_labels(),
        origin: origin(selection, &stored)?,
        bags: Vec::with_capacity(stored.len()),
        targets: Vec::with_capacity(stored.len()),
    };
    for (slide, stored) in selected.iter().zip(stored) {
        let digest = Digest::of("features", &stored.checksum);
        let features: Box<dyn PatchFeatures> = if floats <= HELD_FLOATS {
            let (globals, locals) = (stored.global()?.into_owned(), stored.local()?);
            Box::new(HostFeatures { patches: stored.n, globals, locals })
        } else {
            Box::new(StoredPatches(stored))
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
