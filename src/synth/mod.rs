//! Synthetic H&E-like cohorts whose planted genes follow morphology: slides, expression table, sample sheet and truth.
//!
//! A fair test of a whole pipeline: what a gene follows is visible in the pixels and nowhere else. Stain, tissue area,
//! fibre texture, stromal nuclei, noise, JPEG quality, pen marks and blur are drawn independently of the morphology;
//! neither file names nor TIFF tags know it.
//!
//! Everything is a function of the seed and of the slide's number: slides are drawn in parallel, in any order, and the
//! first slides of a larger cohort are those of a smaller one. Slides already there are kept, so that an interrupted run
//! resumes where it stopped.

pub mod anatomy;
pub mod appearance;
pub mod cohort;
pub mod configuration;
pub mod design;
pub mod fibres;
pub mod modules;
pub mod nuclei;
pub mod paint;
pub mod pyramid;
pub mod random;

use std::{collections::BTreeMap, path::Path};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    image::RgbImage,
    io::atomic,
    progress::Progress,
};
use anatomy::{Morphology, Truth};
use appearance::Appearance;
use cohort::SlidePlan;
use random::Stream;

/// Scale of every slide in micrometres per pixel.
pub const MPP: f64 = 0.5;
const SIZE_PX: std::ops::RangeInclusive<usize> = 256..=8192;
const MOST_SLIDES: usize = 9999;
/// Written first; says what the files in the directory were made from.
const SETTINGS_FILE: &str = "synth.json";
/// Raised when the same seed no longer gives the same images.
const DRAWING_VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynthOptions {
    pub slides: usize,
    pub seed: u64,
    /// Side of the square slides.
    pub size_px: usize,
}

impl Default for SynthOptions {
    fn default() -> SynthOptions {
        SynthOptions { slides: 60, seed: 0, size_px: 1536 }
    }
}

/// What [`generate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynthSummary {
    pub slides: usize,
    pub drawn: usize,
    pub patients: usize,
}

/// The cohort of [`generate`], among the designs.
const PLAIN: &str = "plain";

fn plain() -> String {
    PLAIN.to_string()
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Settings {
    #[serde(default = "plain")]
    design: String,
    drawing_version: u32,
    seed: u64,
    size_px: usize,
}

/// Draws a cohort into `dir`: `slides/*.tiff`, `expression.tsv`, `sample_sheet.tsv`, `truth.csv`, `isg.toml`.
///
/// # Errors
/// Options out of range; a directory that holds a cohort of another seed or size; input and output errors; interruption.
pub fn generate(dir: &Path, options: &SynthOptions, progress: &dyn Progress) -> Result<SynthSummary> {
    claim(dir, PLAIN, options)?;
    let plans = cohort::plan(options.slides, options.seed);
    progress.begin("drawing slides", plans.len() as u64, "slides");
    let drawn: Result<Vec<(Truth, bool)>> = plans
        .par_iter()
        .map(|plan| {
            progress.check()?;
            let result = draw_file(dir, plan, options);
            progress.advance(1);
            result
        })
        .collect();
    progress.end();
    let drawn = drawn?;
    let truths: Vec<Truth> = drawn.iter().map(|d| d.0).collect();
    let patients = write_tables(dir, &plans, &truths, options.seed)?;
    Ok(SynthSummary { slides: plans.len(), drawn: drawn.iter().filter(|d| d.1).count(), patients })
}

/// One slide and what is on it.
pub fn draw(plan: &SlidePlan, options: &SynthOptions) -> (RgbImage, Appearance, Truth) {
    let anatomy = plan_anatomy(plan, options);
    let appearance = plan_appearance(plan, options);
    let mut stream = Stream::new(options.seed, "paint", plan.index as u64);
    let image = paint::paint(&anatomy, &appearance, options.size_px, MPP as f32, &mut stream);
    (image, appearance, anatomy.truth)
}

fn size_um(options: &SynthOptions) -> f32 {
    (options.size_px as f64 * MPP) as f32
}

fn plan_anatomy(plan: &SlidePlan, options: &SynthOptions) -> anatomy::Anatomy {
    let mut stream = Stream::new(options.seed, "anatomy", plan.index as u64);
    anatomy::plan(size_um(options), plan.morphology, &mut stream)
}

fn plan_appearance(plan: &SlidePlan, options: &SynthOptions) -> Appearance {
    let mut site = Stream::new(options.seed, "site", plan.patient.site as u64);
    let mut slide = Stream::new(options.seed, "appearance", plan.index as u64);
    Appearance::draw(size_um(options), &mut site, &mut slide)
}

/// Makes the directory this cohort's, or refuses if it is another's, or if there is no such cohort.
fn claim(dir: &Path, design: &str, options: &SynthOptions) -> Result<()> {
    if !SIZE_PX.contains(&options.size_px) {
        return Err(Error::Usage(format!(
            "a synthetic slide is {} to {} pixels wide, not {}",
            SIZE_PX.start(),
            SIZE_PX.end(),
            options.size_px
        )));
    }
    if options.slides == 0 || options.slides > MOST_SLIDES {
        return Err(Error::Usage(format!("a synthetic cohort has 1 to {MOST_SLIDES} slides, not {}", options.slides)));
    }
    let SynthOptions { seed, size_px, .. } = *options;
    let wanted = Settings { design: design.to_string(), drawing_version: DRAWING_VERSION, seed, size_px };
    let path = dir.join(SETTINGS_FILE);
    let write = || {
        let text = serde_json::to_vec_pretty(&wanted).map_err(|e| Error::io(&path, e.into()))?;
        atomic::write_bytes(&path, &text)
    };
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Settings>(&bytes) {
            Ok(found) if found == wanted => Ok(()),
            Ok(found) => Err(Error::input(
                dir,
                format!(
                    "holds a cohort of the design {}, seed {} with slides of {} px (drawing version {})",
                    found.design, found.seed, found.size_px, found.drawing_version
                ),
                "give another directory, or delete this one",
            )),
            Err(error) => Err(Error::input(
                &path,
                format!("is not a record of a synthetic cohort ({error})"),
                "give another directory, or delete this one",
            )),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write(),
        Err(error) => Err(Error::io(&path, error)),
    }
}

/// Draws a slide unless it is there; the truth comes from its anatomy either way.
fn draw_file(dir: &Path, plan: &SlidePlan, options: &SynthOptions) -> Result<(Truth, bool)> {
    let path = dir.join("slides").join(format!("{}.tiff", plan.name));
    if path.exists() {
        return Ok((plan_anatomy(plan, options).truth, false));
    }
    let (image, appearance, truth) = draw(plan, options);
    write_slide(&path, &image, appearance.jpeg_quality)?;
    Ok((truth, true))
}

/// Writes a slide as a pyramid of JPEG tiles, once it is whole.
fn write_slide(path: &Path, image: &RgbImage, jpeg_quality: u8) -> Result<()> {
    let pyramid = pyramid::PyramidOptions {
        tile_px: 256,
        quality: jpeg_quality,
        mpp: MPP,
        smallest_level_px: 512,
        description: format!(
            "isg synthetic slide {}x{} (256x256) JPEG/YCC Q={}|AppMag = 20|MPP = {MPP}",
            image.width_px, image.height_px, jpeg_quality
        ),
    };
    atomic::write(path, |out| pyramid::write(image, &pyramid, out))
}

/// Writes the tables; returns the number of patients.
fn write_tables(dir: &Path, plans: &[SlidePlan], truths: &[Truth], seed: u64) -> Result<usize> {
    let mut truth_rows = vec![
        "slide,patient,site,lymphocyte_per_mm2,gland_fraction,tissue_mm2,lymphocytes,glands,other_nuclei".to_string(),
    ];
    let mut sheet_rows =
        vec!["File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type".to_string()];
    let mut patients: BTreeMap<usize, (String, Vec<Morphology>)> = BTreeMap::new();
    for (plan, truth) in plans.iter().zip(truths) {
        let morphology = truth.morphology();
        truth_rows.push(format!(
            "{},{},{},{:.3},{:.6},{:.6},{},{},{}",
            plan.name,
            plan.patient.barcode,
            plan.patient.barcode.split('-').nth(1).unwrap_or_default(),
            morphology.lymphocyte_per_mm2,
            morphology.gland_fraction,
            truth.tissue_mm2,
            truth.lymphocytes,
            truth.glands,
            truth.other_nuclei
        ));
        sheet_rows.push(format!(
            "{}\t{}.tiff\tBiospecimen\tSlide Image\tTCGA-SYNT\t{}\t{}-01Z\tPrimary Tumor",
            file_id(seed, plan.index),
            plan.name,
            plan.patient.barcode,
            plan.patient.barcode
        ));
        patients.entry(plan.patient.index).or_insert_with(|| (plan.patient.sample(), vec![])).1.push(morphology);
    }

    // The sequenced sample is a mixture of the patient's blocks.
    let columns: Vec<(&str, [f64; 4])> = patients
        .iter()
        .map(|(index, (sample, slides))| {
            let mean = |f: fn(&Morphology) -> f64| slides.iter().map(f).sum::<f64>() / slides.len() as f64;
            let mixture = Morphology {
                lymphocyte_per_mm2: mean(|m| m.lymphocyte_per_mm2),
                gland_fraction: mean(|m| m.gland_fraction),
            };
            (sample.as_str(), cohort::expression(mixture, *index, seed))
        })
        .collect();
    let mut expression_rows =
        vec![["gene"].into_iter().chain(columns.iter().map(|c| c.0)).collect::<Vec<_>>().join("\t")];
    for (row, gene) in cohort::GENES.iter().enumerate() {
        let values = columns.iter().map(|c| format!("{:.4}", c.1[row]));
        expression_rows.push([gene.to_string()].into_iter().chain(values).collect::<Vec<_>>().join("\t"));
    }

    let save = |name: &str, rows: &[String]| atomic::write_bytes(dir.join(name), (rows.join("\n") + "\n").as_bytes());
    save("truth.csv", &truth_rows)?;
    save("sample_sheet.tsv", &sheet_rows)?;
    save("expression.tsv", &expression_rows)?;
    let configuration = dir.join("isg.toml");
    if !configuration.exists() {
        let text = configuration::run_configuration(&cohort::GENES, seed);
        atomic::write_bytes(configuration, text.as_bytes())?;
    }
    Ok(patients.len())
}

/// A version 4 UUID, as GDC names its files.
fn file_id(seed: u64, slide: usize) -> String {
    let mut stream = Stream::new(seed, "file id", slide as u64);
    let (high, low) = (stream.bits(), stream.bits());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}
