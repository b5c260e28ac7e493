//! Synthetic cohorts: files that other readers open, truth that matches the pixels, and nothing that leaks it.

mod design;
mod methods;
mod modules;

use std::{collections::HashMap, fs, path::Path};

use isg::{
    progress::Silent,
    synth::{self, SynthOptions, cohort},
};

fn options(slides: usize, seed: u64) -> SynthOptions {
    SynthOptions { slides, seed, size_px: 512 }
}

fn files(dir: &Path) -> HashMap<String, Vec<u8>> {
    let list =
        |dir: &Path| fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect::<Vec<_>>();
    let all = list(dir).into_iter().chain(list(&dir.join("slides"))).filter(|p| p.is_file());
    all.map(|p| (p.strip_prefix(dir).expect("inside").display().to_string(), fs::read(&p).expect("a file"))).collect()
}

#[test]
fn the_same_seed_draws_the_same_files_and_interrupted_runs_go_on() {
    let (whole, resumed) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let summary = synth::generate(whole.path(), &options(5, 9), &Silent).expect("a cohort");
    assert_eq!((summary.slides, summary.drawn), (5, 5));
    // As if interrupted after three slides, one of them lost.
    synth::generate(resumed.path(), &options(3, 9), &Silent).expect("a cohort");
    let first = cohort::plan(1, 9).remove(0).name;
    fs::remove_file(resumed.path().join("slides").join(format!("{first}.tiff"))).expect("a slide to remove");
    let summary = synth::generate(resumed.path(), &options(5, 9), &Silent).expect("a cohort");
    assert_eq!((summary.slides, summary.drawn), (5, 3));
    assert_eq!(files(whole.path()), files(resumed.path()));
}

#[test]
fn a_directory_of_another_seed_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    synth::generate(dir.path(), &options(1, 1), &Silent).expect("a cohort");
    let error = synth::generate(dir.path(), &options(1, 2), &Silent).expect_err("another seed").to_string();
    assert!(error.contains("seed 1") && error.contains("another directory"), "{error}");
    for wrong in [SynthOptions { slides: 0, ..options(1, 1) }, SynthOptions { size_px: 10, ..options(1, 1) }] {
        assert!(synth::generate(dir.path(), &wrong, &Silent).is_err());
    }
}

/// Reads the directories of a classic little-endian TIFF: tag -> (type, count, value field).
fn directories(bytes: &[u8]) -> Vec<HashMap<u16, (u16, u32, u32)>> {
    let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(&bytes[..4], b"II*\0");
    let (mut at, mut found) = (u32_at(4) as usize, vec![]);
    while at != 0 {
        let count = usize::from(u16_at(at));
        let entry = |i: usize| at + 2 + 12 * i;
        let tags: Vec<u16> = (0..count).map(|i| u16_at(entry(i))).collect();
        assert!(tags.is_sorted_by(|a, b| a < b), "tags must ascend: {tags:?}");
        found.push(
            (0..count)
                .map(|i| (u16_at(entry(i)), (u16_at(entry(i) + 2), u32_at(entry(i) + 4), u32_at(entry(i) + 8))))
                .collect(),
        );
        at = u32_at(entry(count)) as usize;
    }
    found
}

#[test]
fn slides_are_tiled_pyramids_with_a_scale() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = SynthOptions { slides: 1, seed: 4, size_px: 600 };
    synth::generate(dir.path(), &options, &Silent).expect("a cohort");
    let plan = cohort::plan(1, 4).remove(0);
    let path = dir.path().join("slides").join(format!("{}.tiff", plan.name));
    let bytes = fs::read(&path).expect("a slide");
    let levels = directories(&bytes);
    let sizes: Vec<u32> = levels.iter().map(|d| d[&256].2).collect();
    assert_eq!(sizes, [600, 300]);
    for (number, level) in levels.iter().enumerate() {
        let tiles = level[&256].2.div_ceil(256).pow(2);
        assert_eq!((level[&324].1, level[&325].1), (tiles, tiles));
        assert_eq!((level[&254].2, level[&259].2, level[&296].2), (u32::from(number > 0), 7, 3));
        let at = level[&282].2 as usize;
        let value = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let mpp = 1e4 * f64::from(value(at + 4)) / f64::from(value(at));
        assert!((mpp - 0.5 * f64::from(1 << number)).abs() < 1e-6, "level {number}: {mpp}");
    }
    // The pixels that come back are those that were drawn, within what JPEG loses.
    let (drawn, _, _) = synth::draw(&plan, &options);
    // The tile in the second row, second column, of three across: a complete JPEG.
    let value = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let (start, length) = (value(levels[0][&324].2 as usize + 4 * 4), value(levels[0][&325].2 as usize + 4 * 4));
    let source = zune_core::bytestream::ZCursor::new(&bytes[start..start + length]);
    let tile = zune_jpeg::JpegDecoder::new(source).decode().expect("a tile");
    let mut error = 0.0;
    for y in 0..256 {
        for x in 0..256 {
            let luma = |rgb: &[u8]| 0.299 * f64::from(rgb[0]) + 0.587 * f64::from(rgb[1]) + 0.114 * f64::from(rgb[2]);
            error += (luma(&tile[(y * 256 + x) * 3..]) - luma(&drawn.pixel(256 + x, 256 + y))).abs();
        }
    }
    assert!(error / 65536.0 < 4.0, "mean luma error {}", error / 65536.0);
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        xy += (a - mx) * (b - my);
        xx += (a - mx).powi(2);
        yy += (b - my).powi(2);
    }
    xy / (xx * yy).sqrt()
}

#[test]
fn truth_is_in_the_pixels_and_not_in_tissue_area() {
    let options = SynthOptions { slides: 20, seed: 11, size_px: 512 };
    let (mut density, mut fraction, mut area, mut dark) = (vec![], vec![], vec![], vec![]);
    for plan in cohort::plan(options.slides, options.seed) {
        let (image, appearance, truth) = synth::draw(&plan, &options);
        let morphology = truth.morphology();
        assert!((morphology.lymphocyte_per_mm2 / plan.morphology.lymphocyte_per_mm2 - 1.0).abs() < 0.05);
        assert!((morphology.gland_fraction - plan.morphology.gland_fraction).abs() < 0.06, "{plan:?} {truth:?}");
        let glass = f64::from(appearance.glass[0]);
        // Red is what haematoxylin absorbs and eosin hardly does. The share of the tissue that is as dark as a
        // lymphocyte's nucleus is a crude count of lymphocytes; pen marks would be counted too.
        if !appearance.pen.is_empty() {
            continue;
        }
        let red: Vec<f64> = image.pixels.chunks_exact(3).map(|p| f64::from(p[0]) / glass).collect();
        let nuclear = red.iter().filter(|v| **v < (-0.62 * f64::from(appearance.haematoxylin[0]) * 2.0).exp()).count();
        dark.push(nuclear as f64 / truth.tissue_mm2);
        density.push(morphology.lymphocyte_per_mm2);
        fraction.push(morphology.gland_fraction);
        area.push(truth.tissue_mm2);
    }
    assert!(correlation(&dark, &density) > 0.9, "dark nuclei follow density: {}", correlation(&dark, &density));
    assert!(correlation(&area, &density).abs() < 0.6 && correlation(&area, &fraction).abs() < 0.6);
}

#[test]
fn tables_have_the_shape_of_the_archives() {
    let dir = tempfile::tempdir().expect("a folder");
    synth::generate(dir.path(), &options(8, 2), &Silent).expect("a cohort");
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).expect("a table");
    let expression = text("expression.tsv");
    let rows: Vec<Vec<&str>> = expression.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(rows.iter().map(|r| r[0]).collect::<Vec<_>>(), ["gene", "LYMPH1", "GLAND1", "INTER1", "NULL1"]);
    assert!(rows.iter().all(|r| r.len() == rows[0].len()));
    assert!(rows[1..].iter().flat_map(|r| &r[1..]).all(|v| v.parse::<f64>().expect("a number") > 0.0));
    let sheet = text("sample_sheet.tsv");
    assert_eq!(sheet.lines().count(), 9);
    for row in sheet.lines().skip(1) {
        let cells: Vec<&str> = row.split('\t').collect();
        assert_eq!(cells.len(), 8);
        assert!(dir.path().join("slides").join(cells[1]).exists());
        assert!(rows[0].contains(&format!("{}-01A", cells[5]).as_str()), "{} has expression", cells[5]);
    }
    assert!(text("isg.toml").parse::<toml::Table>().is_ok());
    assert_eq!(text("truth.csv").lines().count(), 9);
}
