//! The modules design: what is drawn is what was asked for, its files say so, and statistics of colour see nothing of the genes
//! that only texture and shape tell.

use std::{collections::HashMap, fs, path::Path};

use isg::{
    Device,
    encoder::{self, Parameters, Site},
    eval::stats::pearson,
    extractor::config::ExtractorConfig,
    image::RgbImage,
    mil::ridge::Ridge,
    progress::Silent,
    random::Philox,
    select::{Scorer, score::score_plane_by_each},
    slide::{Plane, Slide},
    synth::{
        MPP, SynthOptions,
        fibres::Grid,
        modules::{self, Compartment, GENES, PATCH_PX, Plan},
    },
};
use rayon::prelude::*;

fn options(slides: usize, seed: u64, size_px: usize) -> SynthOptions {
    SynthOptions { slides, seed, size_px }
}

#[test]
fn areas_and_counts_are_what_was_asked_for() {
    let options = options(1, 3, 1536);
    for index in 0..6 {
        let plan = Plan::draw(3, index);
        let (layout, truth) = plan.layout(&options);
        let wanted = plan.morphology;
        let of = |c: Compartment| layout.compartments.values.iter().filter(|v| **v == c).count() as f64;
        let tissue = layout.compartments.values.iter().filter(|v| **v != Compartment::Glass).count() as f64;
        assert!((of(Compartment::Nest) / tissue - wanted.nest_share).abs() < 0.01);
        assert!((of(Compartment::Pool) / tissue - wanted.pool_share).abs() < 0.02);
        // What is claimed last may find a little less room.
        assert!((of(Compartment::Decoy) / tissue - wanted.decoy_share).abs() < 0.05);
        let lymphocytes = (truth.lymphocytes[0] + truth.lymphocytes[1]) as f64;
        assert!(
            (lymphocytes / truth.tissue_mm2 / wanted.lymphocyte_per_mm2 - 1.0).abs() < 0.05,
            "{truth:?} {wanted:?}"
        );
        assert!((truth.lymphocytes[0] as f64 / lymphocytes - wanted.lymphocytes_in_nests).abs() < 0.05);
        let figures = (truth.dividing + truth.dying) as f64;
        assert!((figures / truth.nest_mm2 / 900.0 - 1.0).abs() < 0.05, "{truth:?}");
        let blurred_nest = (0..layout.compartments.values.len())
            .filter(|&i| layout.compartments.values[i] == Compartment::Nest && layout.is_blurred(i))
            .count() as f64;
        assert!(blurred_nest < 0.08 * of(Compartment::Nest), "nests stay in focus");
    }
}

#[test]
fn a_seed_is_a_cohort_and_patches_are_described() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    modules::generate(a.path(), &options(3, 7, 512), &Silent).unwrap();
    modules::generate(b.path(), &options(2, 7, 512), &Silent).unwrap();
    let again = modules::generate(b.path(), &options(3, 7, 512), &Silent).unwrap();
    assert_eq!((again.slides, again.drawn), (3, 1));
    for name in ["truth.csv", "patches.csv", "expression.tsv", "sample_sheet.tsv", "isg.toml"] {
        assert_eq!(fs::read(a.path().join(name)).unwrap(), fs::read(b.path().join(name)).unwrap(), "{name}");
    }
    let patches = fs::read_to_string(a.path().join("patches.csv")).unwrap();
    assert_eq!(patches.lines().count(), 1 + 3 * (512 / PATCH_PX).pow(2));
    for line in patches.lines().skip(1) {
        let shares: Vec<f64> = line.split(',').skip(3).map(|v| v.parse().unwrap()).collect();
        assert!((shares[..5].iter().sum::<f64>() - 1.0).abs() < 0.01, "{line}");
        assert_eq!(shares[7] > 0.0, shares[4] < 0.5, "a number is drawn for tissue alone: {line}");
    }
    let error = isg::synth::generate(a.path(), &options(3, 7, 512), &Silent).unwrap_err().to_string();
    assert!(error.contains("modules"), "a plain cohort does not go into the folder: {error}");
    // The bounds that the configuration names are keys of a run as they stand there.
    let path = a.path().join("isg.toml");
    let commented = fs::read_to_string(&path).unwrap();
    let (head, bounds) = commented.split_at(commented.find("# [select]").unwrap());
    let bounds: String = bounds.lines().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
    fs::write(&path, head.to_string() + &bounds).unwrap();
    let config = isg::pipeline::RunConfig::read(&path).unwrap();
    assert_eq!(config.cohort.genes, GENES);
    let scorer = Scorer::new(&config.select.selector().unwrap(), &Device::cpu()).unwrap();
    let first = Plan::draw(7, 0).slide();
    let slide = Slide::open(a.path().join("slides").join(format!("{first}.tiff"))).unwrap();
    let scores = score_plane_by_each(&Plane::at(&slide, None).unwrap(), PATCH_PX, &[&scorer], &Silent).unwrap();
    let nest: Vec<f64> = patches.lines().skip(1).map(|l| l.split(',').nth(3).unwrap().parse().unwrap()).collect();
    assert!(scores[0].patches.iter().map(|p| p.score).eq(nest[..16].iter().copied()), "{scores:?}");
}

/// The floor `colour` of every comparison: means over a slide's patches.
fn colours(image: &RgbImage) -> Vec<f64> {
    let encoder = encoder::named("colour", Parameters::new()).unwrap();
    let extractor = ExtractorConfig::default();
    let site = Site { dir: Path::new("."), extractor: &extractor, precision: extractor.precision };
    let encoder = encoder.load(site, &Device::cpu()).unwrap();
    let side = image.width_px / PATCH_PX;
    let patch = |i: usize| {
        let (left, top) = ((i % side) * PATCH_PX, (i / side) * PATCH_PX);
        let row = |y: usize| &image.pixels[3 * ((top + y) * image.width_px + left)..][..3 * PATCH_PX];
        let pixels = (0..PATCH_PX).flat_map(|y| row(y).iter().copied()).collect();
        RgbImage { width_px: PATCH_PX, height_px: PATCH_PX, pixels }
    };
    let patches: Vec<RgbImage> = (0..side * side).map(patch).collect();
    let rows = encoder.encode(&patches).unwrap();
    let mean = |j: usize| rows.iter().skip(j).step_by(encoder.d()).map(|v| f64::from(*v)).sum::<f64>();
    (0..encoder.d()).map(|j| mean(j) / patches.len() as f64).collect()
}

#[test]
fn colours_see_nothing_of_texture_and_shape() {
    let (patients, options) = (128, options(1, 11, 512));
    let drawn: Vec<(Vec<f64>, [f64; GENES.len()])> = (0..patients)
        .into_par_iter()
        .map(|index| {
            let plan = Plan::draw(options.seed, index);
            let (layout, truth) = plan.layout(&options);
            let (image, _) = plan.paint(&layout, &options);
            (colours(&image), plan.signals(&truth, options.seed))
        })
        .collect();
    let order = Philox::named(2, "folds").permutation(patients);
    let mut predicted = vec![vec![]; patients];
    for fold in 0..8 {
        let train: Vec<usize> = (0..patients).filter(|&i| order[i] % 8 != fold).collect();
        let x: Vec<Vec<f64>> = train.iter().map(|&i| drawn[i].0.clone()).collect();
        let y: Vec<Vec<f64>> = train.iter().map(|&i| drawn[i].1.to_vec()).collect();
        let model = Ridge::fit(&x, &y).unwrap();
        (0..patients).filter(|&i| order[i] % 8 == fold).for_each(|i| predicted[i] = model.predict(&drawn[i].0));
    }
    let r: HashMap<&str, f64> = (GENES.iter().enumerate())
        .map(|(g, name)| {
            let truth: Vec<f64> = drawn.iter().map(|d| d.1[g]).collect();
            let of_gene: Vec<f64> = predicted.iter().map(|p| p[g]).collect();
            (*name, pearson(&truth, &of_gene).unwrap())
        })
        .collect();
    println!("{r:.2?}");
    for gene in ["NEST", "RATE", "NULL"] {
        assert!(r[gene] < 0.2, "{r:?}");
    }
    // Lymphocytes are dark. What a site does to stains is no linear function of its number.
    assert!(r["MEAN"] > 0.2, "what changes colour is seen: {r:?}");
}

/// The same patient at both ends of NEST: the pixels differ, their values do not.
#[test]
fn chromatin_changes_places_and_not_values() {
    let options = options(1, 5, 512);
    let at = |texture: f64, dividing: f64| {
        let mut plan = Plan::draw(5, 2);
        plan.morphology.texture = texture;
        plan.morphology.dividing_share = dividing;
        let (layout, _) = plan.layout(&options);
        plan.paint(&layout, &options).0
    };
    let base = at(0.0, 0.5);
    let (layout, _) = Plan::draw(5, 2).layout(&options);
    let nest = |pixel: usize| {
        let Grid { side, cell_um, values } = &layout.compartments;
        let cell = |v: usize| (v as f32 * MPP as f32 / cell_um) as usize;
        values[cell(pixel / base.width_px) * side + cell(pixel % base.width_px)] == Compartment::Nest
    };
    // Mean difference of neighbouring pixels within nests: what texture changes.
    let step = |image: &RgbImage| -> f64 {
        let green = |pixel: usize| f64::from(image.pixels[3 * pixel + 1]);
        let inside = (1..image.width_px * image.height_px).filter(|&i| nest(i) && nest(i - 1));
        let (sum, n) = inside.fold((0.0, 0.0), |(sum, n), i| (sum + (green(i) - green(i - 1)).abs(), n + 1.0));
        sum / n
    };
    let [fine, coarse] = [step(&base), step(&at(1.0, 0.5))];
    assert!(fine > 1.05 * coarse, "fine chromatin has more edges: {fine:.2} and {coarse:.2}");
    for other in [at(1.0, 0.5), at(0.0, 0.0), at(0.0, 1.0)] {
        assert_ne!(base.pixels, other.pixels);
        let (a, b) = (colours(&base), colours(&other));
        for (k, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() < 0.01 * a.abs().max(0.2), "statistic {k}: {a} and {b}");
        }
    }
}
