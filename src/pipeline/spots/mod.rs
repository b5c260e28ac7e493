//! How well features of an image predict the expression of its spots: encoders probed on spatial transcriptomics.
//!
//! Sections are held out with all others of their patient, or one by one from those of their patient alone. A probe ([`probe`]) learns from the spots of the
//! other sections to predict the genes that are counted most in them, and is scored within each section that is held out: the
//! mean over genes of the correlation, and the mean over sections of that.
//!
//! Three rows look at no tissue, or hardly, and are what an encoder has to be better than: `depth`, the logarithm of a spot's
//! total count (which the targets are normalised by, and follow all the same); `position`, a smooth trend over the array; and
//! `colour`, seventeen statistics of stain. Beside each correlation stands the partial one, given the depth.

mod probe;
mod report;

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr};

use serde::Serialize;

use crate::{
    cohort::spots::{Section, Spot, SpotTable},
    encoder::PatchEncoder,
    error::{Error, Result},
    eval::{
        blocks::{Correlation, OverSections, SectionSums, blocks},
        stats::{self, Bootstrap},
    },
    image::RgbImage,
    progress::Progress,
    select::SlideFrame,
    slide::Slide,
};

pub use report::{Difference, GeneScore, Report, Row, SectionReport, Split, text};

/// What a gene's counts become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// ln((1 + y) / (genes + total)), as ST-Net normalises.
    #[default]
    StNet,
    /// ln(1 + 10⁴ y / total).
    Log,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Target, String> {
        match text {
            "stnet" => Ok(Target::StNet),
            "log" => Ok(Target::Log),
            _ => Err("give stnet or log".into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if *self == Target::StNet { "stnet" } else { "log" })
    }
}

impl Target {
    /// `count` of a gene in a spot with `total` counts of `genes` genes.
    pub fn of(self, count: f64, total: f64, genes: usize) -> f64 {
        match self {
            Target::StNet => ((1.0 + count) / (genes as f64 + total)).ln(),
            Target::Log => (1e4 * count / total).ln_1p(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Side of the window around a spot, in pixels of the section's image.
    pub window_px: usize,
    pub genes: usize,
    pub target: Target,
    /// Side of the blocks that intervals are drawn by, in spots.
    pub block: f64,
    pub bootstrap: Bootstrap,
}

impl Default for Options {
    fn default() -> Options {
        Options { window_px: 224, genes: 250, target: Target::StNet, block: 4.0, bootstrap: Bootstrap::default() }
    }
}

/// Vectors of windows: of a section's name and image, its windows and their corners; `[windows, d]`.
pub type Encode<'a> = dyn Fn(&str, &SlideFrame, &[RgbImage], &[[i64; 2]]) -> Result<Vec<f32>> + 'a;

/// A row of the result: what is probed.
pub struct Features<'a> {
    pub name: String,
    pub encode: Box<Encode<'a>>,
}

impl<'a> Features<'a> {
    /// An encoder's vectors of whole windows.
    pub fn of(name: &str, encoder: Box<dyn PatchEncoder + 'a>) -> Features<'a> {
        let encode = move |section: &str, frame: &SlideFrame, windows: &[RgbImage], corners: &[[i64; 2]]| {
            encoder.at(section, frame, corners)?.map_or_else(|| encoder.encode(windows), Ok)
        };
        Features { name: name.to_string(), encode: Box::new(encode) }
    }

    /// Mean and standard deviation of each of an encoder's numbers over the `side` x `side` cells of a window, `[2 d]`.
    pub fn of_cells(name: &str, encoder: Box<dyn PatchEncoder + 'a>, side: usize) -> Features<'a> {
        let encode = move |_: &str, _: &SlideFrame, windows: &[RgbImage], _: &[[i64; 2]]| {
            let mut vectors = Vec::new();
            for window in windows {
                let of_cells = encoder.encode(&cut(window, side))?;
                vectors.extend(mean_and_deviation(&of_cells, encoder.d()));
            }
            Ok(vectors)
        };
        Features { name: name.to_string(), encode: Box::new(encode) }
    }
}

/// The cells of an image, row by row; what is left over at the right and the bottom belongs to none.
fn cut(image: &RgbImage, side: usize) -> Vec<RgbImage> {
    let (width_px, height_px) = ((image.width_px / side).max(1), (image.height_px / side).max(1));
    let cell = |i: usize| {
        let (left, top) = ((i % side) * width_px, (i / side) * height_px);
        let row = |y: usize| &image.pixels[3 * ((top + y) * image.width_px + left)..][..3 * width_px];
        RgbImage { width_px, height_px, pixels: (0..height_px).flat_map(|y| row(y).iter().copied()).collect() }
    };
    (0..side * side).map(cell).collect()
}

/// Of each column of `[rows, d]`: all means, then all deviations.
fn mean_and_deviation(rows: &[f32], d: usize) -> Vec<f32> {
    let n = (rows.len() / d.max(1)) as f64;
    let column = |j: usize| rows.iter().skip(j).step_by(d).map(|v| f64::from(*v));
    let means: Vec<f64> = (0..d).map(|j| column(j).sum::<f64>() / n).collect();
    let deviation = |j: usize| (column(j).map(|v| (v - means[j]).powi(2)).sum::<f64>() / n).sqrt();
    means.iter().copied().chain((0..d).map(deviation)).map(|v| v as f32).collect()
}

/// Windows that an encoder is given at a time.
const WINDOWS_AT_ONCE: usize = 64;

/// `[sections][spots][d]`
type Vectors = Vec<Vec<Vec<f64>>>;

/// Reads the sections of `dir` and probes each row on them.
///
/// # Errors
/// What cannot be read of the folder; a spot that lies outside its image; fewer than two sections.
pub fn run(dir: &Path, features: &[Features], options: &Options, progress: &dyn Progress) -> Result<Report> {
    let table = SpotTable::read(dir)?;
    table.remarks.iter().for_each(|remark| progress.note(remark));
    if table.sections.len() < 2 {
        let problem = format!("holds one section, {}", table.sections.first().map_or("", |s| &s.name));
        return Err(Error::input(dir, problem, "a probe is tested on sections it has not seen: give two or more"));
    }
    let mut rows: Vec<(String, Vectors)> =
        vec![("depth".into(), of_spots(&table, depth)), ("position".into(), positions(&table))];
    let spots: usize = table.sections.iter().map(|s| s.spots.len()).sum();
    progress.begin("windows", (spots * features.len()) as u64, "windows");
    let mut vectors: Vec<Vectors> = features.iter().map(|_| Vec::new()).collect();
    for section in &table.sections {
        let of_section = encode(section, features, options, progress)?;
        vectors.iter_mut().zip(of_section).for_each(|(all, section)| all.push(section));
    }
    progress.end();
    rows.extend(features.iter().map(|f| f.name.clone()).zip(vectors));

    let splits = [held_out_patients(&table), held_out_sections(&table)];
    let mut report = Report::new(dir, &table, options);
    let work = splits.iter().flatten().map(|split| split.1.len() * rows.len()).sum::<usize>();
    progress.begin("probes", work as u64, "fits");
    for (name, folds) in splits.into_iter().flatten() {
        report.splits.push(score(name, &table, &folds, &rows, options, progress)?);
    }
    progress.end();
    Ok(report)
}

fn depth(spot: &Spot) -> Vec<f64> {
    vec![spot.total.ln()]
}

fn of_spots(table: &SpotTable, value: impl Fn(&Spot) -> Vec<f64>) -> Vectors {
    table.sections.iter().map(|section| section.spots.iter().map(&value).collect()).collect()
}

/// A surface of the second degree over each section, its middle at zero.
fn positions(table: &SpotTable) -> Vectors {
    let of_section = |section: &Section| -> Vec<Vec<f64>> {
        let n = section.spots.len() as f64;
        let (x0, y0) = section.spots.iter().fold((0.0, 0.0), |(x, y), s| (x + s.x / n, y + s.y / n));
        let surface = |x: f64, y: f64| vec![x, y, x * x, y * y, x * y];
        section.spots.iter().map(|s| surface(s.x - x0, s.y - y0)).collect()
    };
    table.sections.iter().map(of_section).collect()
}

/// Vectors of a section's windows, row by row of `features`.
fn encode(
    section: &Section,
    features: &[Features],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut out: Vec<Vec<Vec<f64>>> = features.iter().map(|_| Vec::new()).collect();
    if features.is_empty() {
        return Ok(out);
    }
    let slide = Slide::open(&section.image)?;
    let level = slide.levels().first().ok_or_else(|| Error::internal("a slide without levels"))?;
    let size = [level.width_px, level.height_px];
    let frame = SlideFrame { size_px: size, mpp: slide.mpp(), patch_px: [options.window_px as u64; 2] };
    progress.remark(&section.name);
    for spots in section.spots.chunks(WINDOWS_AT_ONCE) {
        progress.check()?;
        let mut corners = Vec::with_capacity(spots.len());
        let mut windows = Vec::with_capacity(spots.len());
        for spot in spots {
            let [x, y] = spot.pixel;
            let inside = |v: f64, size: u64| v >= 0.0 && v < size as f64;
            if !inside(x, size[0]) || !inside(y, size[1]) {
                let at = format!("spot {}x{} at pixel {x:.0}, {y:.0}", spot.x, spot.y);
                let problem =
                    format!("is {} x {} px and does not hold {at} of section {}", size[0], size[1], section.name);
                return Err(Error::input(&section.image, problem, "give the image that the coordinates were taken on"));
            }
            let corner = [x, y].map(|v| v.round() as i64 - options.window_px as i64 / 2);
            windows.push(slide.read_region(0, corner[0], corner[1], options.window_px, options.window_px)?);
            corners.push(corner);
        }
        for (vectors, features) in out.iter_mut().zip(features) {
            let values = (features.encode)(&section.name, &frame, &windows, &corners)?;
            let width = values.len() / spots.len();
            vectors
                .extend(values.chunks(width.max(1)).map(|row| row.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>()));
            progress.advance(spots.len() as u64);
        }
    }
    Ok(out)
}

/// One test: sections to train on, and sections to test.
struct Fold {
    train: Vec<usize>,
    test: Vec<usize>,
}

/// Every patient in turn, where there are several.
fn held_out_patients(table: &SpotTable) -> Option<(&'static str, Vec<Fold>)> {
    let patients = table.patients();
    let fold = |patient: &&str| {
        let (test, train) = (0..table.sections.len()).partition(|&s| table.sections[s].patient == *patient);
        Fold { train, test }
    };
    (patients.len() > 1).then(|| ("patient", patients.iter().map(fold).collect()))
}

/// Every section in turn whose patient has others, which alone are trained on.
fn held_out_sections(table: &SpotTable) -> Option<(&'static str, Vec<Fold>)> {
    let patient = |s: usize| &table.sections[s].patient;
    let fold = |test: usize| {
        let train = (0..table.sections.len()).filter(|&s| s != test && patient(s) == patient(test)).collect();
        Fold { train, test: vec![test] }
    };
    let folds: Vec<Fold> = (0..table.sections.len()).map(fold).filter(|fold| !fold.train.is_empty()).collect();
    (!folds.is_empty()).then_some(("section", folds))
}

/// One section that was held out, and the genes it is scored by.
struct Tested {
    section: usize,
    genes: Vec<u32>,
    truth: Vec<Vec<f64>>,
    depth: Vec<f64>,
    block_of: Vec<usize>,
}

fn score(
    held_out: &'static str,
    table: &SpotTable,
    folds: &[Fold],
    rows: &[(String, Vectors)],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Split> {
    let target = |section: usize, genes: &[u32]| -> Vec<Vec<f64>> {
        let of = |spot: &Spot| -> Vec<f64> {
            genes.iter().map(|&g| options.target.of(spot.count(g), spot.total, table.genes.len())).collect()
        };
        table.sections[section].spots.iter().map(of).collect()
    };
    let mut tested: Vec<Tested> = Vec::new();
    let mut sums: Vec<Vec<SectionSums>> = rows.iter().map(|_| Vec::new()).collect();
    for fold in folds {
        let genes = table.highest(&fold.train, options.genes);
        let y: Vec<Vec<f64>> = fold.train.iter().flat_map(|&s| target(s, &genes)).collect();
        let first = tested.len();
        for &section in &fold.test {
            let spots = &table.sections[section].spots;
            let places: Vec<[f64; 2]> = spots.iter().map(|s| [s.x, s.y]).collect();
            tested.push(Tested {
                section,
                truth: columns(&target(section, &genes)),
                genes: genes.clone(),
                depth: spots.iter().map(|s| s.total.ln()).collect(),
                block_of: blocks(&places, options.block),
            });
        }
        for ((_, vectors), sums) in rows.iter().zip(&mut sums) {
            progress.check()?;
            let train: Vec<Vec<f64>> = fold.train.iter().flat_map(|&s| vectors[s].iter().cloned()).collect();
            let test: Vec<Vec<f64>> = fold.test.iter().flat_map(|&s| vectors[s].iter().cloned()).collect();
            let mut predicted = &probe::predict(&train, &y, &test)?[..];
            for t in &tested[first..] {
                let (own, rest) = predicted.split_at(t.depth.len());
                predicted = rest;
                let name = &table.sections[t.section].name;
                sums.push(SectionSums::new(name, &t.block_of, &t.truth, &columns(own), &t.depth));
            }
            progress.advance(1);
        }
    }
    let over: Vec<OverSections> = sums.iter().map(|sums| OverSections::new(sums, options.bootstrap)).collect();
    let row = |(((name, vectors), sums), over): (((&String, &Vectors), &Vec<SectionSums>), &OverSections)| Row {
        features: name.clone(),
        width: vectors.iter().flatten().next().map_or(0, Vec::len),
        mean: over.mean,
        interval: over.interval(|c| c.pearson),
        partial_interval: over.interval(|c| c.partial),
        sections: tested.iter().zip(sums).map(|(t, s)| (table.sections[t.section].name.clone(), s.mean())).collect(),
        genes: of_genes(table, &tested, sums),
    };
    let named = rows.iter().map(|(name, vectors)| (name, vectors));
    let rows: Vec<Row> = named.zip(&sums).zip(&over).map(row).collect();
    Ok(Split { held_out, differences: differences(&rows, &over), rows })
}

/// Every row against the floor: `colour` where it is there.
fn differences(rows: &[Row], over: &[OverSections]) -> Vec<Difference> {
    let Some(floor) = rows.iter().position(|row| row.features == FLOOR) else { return Vec::new() };
    let against = |i: usize| {
        let (delta, interval) = over[i].difference(&over[floor], |c| c.pearson)?;
        let (partial_delta, partial_interval) = over[i].difference(&over[floor], |c| c.partial).unzip();
        Some(Difference {
            features: rows[i].features.clone(),
            against: FLOOR.to_string(),
            delta,
            interval,
            partial_delta,
            partial_interval: partial_interval.flatten(),
        })
    };
    (0..rows.len()).filter(|&i| i != floor).filter_map(against).collect()
}

/// What encoders are compared with.
const FLOOR: &str = "colour";

/// Means over the sections that a gene was scored in, in order of the genes' names.
fn of_genes(table: &SpotTable, tested: &[Tested], sums: &[SectionSums]) -> Vec<GeneScore> {
    let mut by_gene: BTreeMap<&str, Vec<Correlation>> = BTreeMap::new();
    for (t, sums) in tested.iter().zip(sums) {
        for (place, &gene) in t.genes.iter().enumerate() {
            by_gene.entry(&table.genes[gene as usize]).or_default().push(sums.gene(place));
        }
    }
    let mean = |(gene, each): (&str, Vec<Correlation>)| GeneScore {
        gene: gene.to_string(),
        sections: each.iter().filter(|c| c.pearson.is_some()).count(),
        pearson: stats::mean_defined(each.iter().map(|c| c.pearson)),
        partial: stats::mean_defined(each.iter().map(|c| c.partial)),
    };
    by_gene.into_iter().map(mean).collect()
}

/// `[spots][genes]` as `[genes][spots]`.
fn columns(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|g| rows.iter().map(|row| row[g]).collect()).collect()
}
