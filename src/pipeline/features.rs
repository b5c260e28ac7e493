//! Third stage: kept patches become global vectors and p/q x p/q local cubes (paper 3.2), one file a slide.

use std::{path::Path, sync::mpsc};

use rayon::prelude::*;

use super::{
    Run,
    config::{Scale, SelectConfig},
    extractor_dir,
    scan::{self, LeftOut, Selected},
};
use crate::{
    cohort::feature_store::{
        FeatureKey, FeatureStore, LocalPrecision, SlideFeatures, SlideFingerprint, StoredFeatures,
    },
    device::Device,
    error::{Error, Result},
    extractor::Extractor,
    image::RgbImage,
    mil::bags::{Bag, BagSet, HostFeatures, PatchFeatures},
    progress::Progress,
    select::PatchScore,
    slide::Slide,
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

    pub fn key(&self, select: &SelectConfig, mpp: Option<f64>) -> Result<FeatureKey> {
        let limit = if select.most_patches == 0 { String::new() } else { format!(", most {}", select.most_patches) };
        let over = if select.over_cohort { " over cohort" } else { "" };
        Ok(FeatureKey {
            patch_px: select.patch_px as u32,
            fine_px: select.local_px as u32,
            mpp,
            extractor: format!("{} {}", self.global.hash(), self.local.hash()),
            selector: select.selector()?.key(),
            threshold: format!("{}{over}{limit}", select.threshold()?),
            local_precision: LocalPrecision::F16,
        })
    }

    /// Features of the given patches of one slide. Reading the next patches overlaps with encoding the last.
    pub fn encode(
        &self,
        slide: &Slide,
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
                    let read = |patch: &PatchScore| slide.read_region(0, patch.x as i64, patch.y as i64, p, p);
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

/// Encodes every slide whose stored features are not of these settings. Returns the slides that failed.
pub fn extract(
    run: &Run,
    selected: &[Selected],
    device: &Device,
    progress: &dyn Progress,
) -> Result<(FeatureStore, Vec<LeftOut>)> {
    let encoders = Encoders::load(&run.config.out, device)?;
    let store = FeatureStore::open(run.path("features"))?;
    let patches: usize = selected.iter().map(|slide| slide.kept().count()).sum();
    progress.begin("features", patches as u64, "patches");
    let mut left_out = Vec::new();
    for slide in selected {
        progress.check()?;
        let id = &slide.entry.id;
        let kept: Vec<PatchScore> = slide.kept().copied().collect();
        let key = encoders.key(&run.config.select, slide.mpp)?;
        if store.is_current(id, &key, &slide.entry.path).unwrap_or(false) {
            progress.advance(kept.len() as u64);
            continue;
        }
        progress.remark(id);
        let encode = || {
            let fingerprint = SlideFingerprint::of(&slide.entry.path)?;
            let features = encoders.encode(&scan::open(&slide.entry)?, &kept, &run.config.select, progress)?;
            store.write(id, &key, &fingerprint, &features)
        };
        match encode() {
            Ok(()) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                progress.note(&format!("left out {id}: {error}"));
                left_out.push(LeftOut { slide: id.clone(), reason: error.to_string() });
            }
        }
    }
    progress.end();
    store.rebuild_index()?;
    Ok((store, left_out))
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
const HELD_FLOATS: usize = 1 << 29;

/// What the regressor is trained on: stored features with the cohort's targets.
pub fn bags(run: &Run, selected: &[Selected], store: &FeatureStore) -> Result<BagSet> {
    let stored = selected.iter().map(|slide| store.read(&slide.entry.id)).collect::<Result<Vec<_>>>()?;
    let floats: usize = stored.iter().map(|s| s.n * s.d * (1 + s.g * s.g)).sum();
    let mut set = BagSet {
        width: run.config.extractor.global.d,
        grid: run.config.select.grid(),
        genes: run.cohort.gene_labels(),
        bags: Vec::with_capacity(stored.len()),
        targets: Vec::with_capacity(stored.len()),
    };
    for (slide, stored) in selected.iter().zip(stored) {
        let features: Box<dyn PatchFeatures> = if floats <= HELD_FLOATS {
            let (globals, locals) = (stored.global()?.into_owned(), stored.local()?);
            Box::new(HostFeatures { patches: stored.n, globals, locals })
        } else {
            Box::new(StoredPatches(stored))
        };
        let entry = &slide.entry;
        let index = run.cohort.slides.iter().position(|s| s.id == entry.id);
        let index = index.ok_or_else(|| Error::Usage(format!("slide {} left the cohort while it ran", entry.id)))?;
        set.targets.push(run.cohort.target(index).to_vec());
        set.bags.push(Bag {
            slide: entry.id.clone(),
            patient: entry.patient.clone(),
            project: entry.project.clone().unwrap_or_else(|| "all".to_string()),
            features,
        });
    }
    Ok(set)
}
