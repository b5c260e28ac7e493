//! Spatial transcriptomics: a made folder in the layout of her2st, what a probe finds in it, and what is said of folders that
//! cannot be read.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use isg::{
    cohort::spots::SpotTable,
    eval::stats::Bootstrap,
    image::RgbImage,
    pipeline::spots::{self, Features, Options, Target},
    progress::Silent,
    random::Philox,
    select::SlideFrame,
};

/// Spots along a side, and pixels between them.
const SIDE: usize = 9;
const PITCH_PX: usize = 24;

/// A section whose tissue is darker where the gene DARK is counted more; every spot has a depth of its own, which all genes
/// follow.
fn section(dir: &Path, name: &str, seed: u64) {
    let random = Philox::named(seed, name);
    let (noise, image_px) = (random.normals(SIDE * SIDE * 12), (SIDE + 1) * PITCH_PX);
    let mut image = RgbImage::filled(image_px, image_px, [240, 240, 240]);
    let mut counts = String::from("\tDARK\tFLAT\tRARE\tNOISE\n");
    let mut places = String::from("x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n");
    for i in 0..SIDE * SIDE {
        let (x, y) = (i % SIDE, i / SIDE);
        let draw = |k: usize| noise[i * 12 + k];
        // Patches of dark tissue, not a smooth trend.
        let dark = f64::from(u8::from((x / 3 + y / 3).is_multiple_of(2))) + 0.2 * draw(0);
        let (px, py) = ((x + 1) * PITCH_PX, (y + 1) * PITCH_PX);
        for dy in 0..PITCH_PX {
            for dx in 0..PITCH_PX {
                let value = (200.0 - 80.0 * dark).clamp(0.0, 255.0) as u8;
                image.put(px + dx - PITCH_PX / 2, py + dy - PITCH_PX / 2, [value, value / 2, value]);
            }
        }
        let depth = (0.5 * draw(1)).exp();
        let count = |rate: f64, k: usize| (depth * rate * (0.15 * draw(k)).exp()).round();
        let _ = writeln!(
            counts,
            "{x}x{y}\t{}\t{}\t{}\t{}",
            count(60.0 * (1.0 + dark.max(0.0)), 2),
            count(400.0, 3),
            count(3.0, 4),
            count(80.0 * (0.6 * draw(5)).exp(), 6)
        );
        let _ = writeln!(places, "{x}\t{y}\t{x}.1\t{y}.02\t{px}.0\t{py}.0\t1");
    }
    // A spot beside the tissue, and one without counts.
    places.push_str("40\t40\t40\t40\t0\t0\t0\n41\t41\t41\t41\t5\t5\t1\n");
    write(dir, &format!("{name}_selection.tsv"), &places);
    write(dir, &format!("{name}.tsv"), &counts);
    image.write_png(dir.join(format!("{name}.png"))).unwrap();
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn folder(sections: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    sections.iter().enumerate().for_each(|(i, name)| section(dir.path(), name, i as u64));
    dir
}

fn options() -> Options {
    Options {
        window_px: PITCH_PX,
        genes: 3,
        bootstrap: Bootstrap { resamples: 200, ..Bootstrap::default() },
        ..Options::default()
    }
}

/// The mean of a window's red, and numbers that have nothing to do with it.
fn rows() -> Vec<Features<'static>> {
    let red = |_: &str, _: &SlideFrame, windows: &[RgbImage], _: &[[i64; 2]]| -> isg::error::Result<Vec<f32>> {
        let mean =
            |w: &RgbImage| w.pixels.iter().step_by(3).map(|v| f32::from(*v)).sum::<f32>() / (w.pixels.len() / 3) as f32;
        Ok(windows.iter().map(mean).collect())
    };
    let noise = |section: &str, _: &SlideFrame, _: &[RgbImage], corners: &[[i64; 2]]| -> isg::error::Result<Vec<f32>> {
        let of = |c: &[i64; 2]| Philox::named(9, &format!("{section} {c:?}")).normals(5);
        Ok(corners.iter().flat_map(of).map(|v| v as f32).collect())
    };
    vec![
        Features { name: "colour".into(), encode: Box::new(red) },
        Features { name: "noise".into(), encode: Box::new(noise) },
    ]
}

#[test]
fn a_folder_is_read_section_by_section() {
    let dir = folder(&["A1", "A2", "B1"]);
    let table = SpotTable::read(dir.path()).unwrap();
    assert_eq!(table.genes, ["DARK", "FLAT", "RARE", "NOISE"]);
    let of: Vec<(&str, &str, usize)> =
        table.sections.iter().map(|s| (s.name.as_str(), s.patient.as_str(), s.spots.len())).collect();
    assert_eq!(of, [("A1", "A", 81), ("A2", "A", 81), ("B1", "B", 81)]);
    assert!(table.remarks.iter().all(|r| r.contains("1 spots have no row of counts")) && table.remarks.len() == 3);
    let spot = &table.sections[0].spots[10];
    assert_eq!((spot.x, spot.y, spot.pixel), (1.0, 1.0, [2.0 * PITCH_PX as f64; 2]));
    assert_eq!(spot.total, (0..4).map(|g| spot.count(g)).sum::<f64>());
    let spots = || table.sections[..2].iter().flat_map(|s| &s.spots);
    let sums: Vec<f64> = (0..4).map(|g| spots().map(|s| s.count(g)).sum()).collect();
    let highest = table.highest(&[0, 1], 2);
    assert_eq!(highest[0], 1, "FLAT");
    assert!((0..4).all(|g| highest.contains(&g) || sums[g as usize] <= sums[highest[1] as usize]), "{sums:?}");

    // Packed counts, decimals in places, a section that lacks a gene, and patients by a table.
    let plain = fs::read_to_string(dir.path().join("A2.tsv")).unwrap();
    let without = plain.lines().map(|l| l.rsplit_once('\t').unwrap().0.to_string() + "\n").collect::<String>();
    fs::remove_file(dir.path().join("A2.tsv")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, without.as_bytes()).unwrap();
    fs::write(dir.path().join("A2.tsv.gz"), packed.finish().unwrap()).unwrap();
    write(dir.path(), "patients.csv", "section,patient\nA1,p1\nA2,p2\nB1,p2\n");
    let again = SpotTable::read(dir.path()).unwrap();
    assert_eq!(again.patients(), ["p1", "p2"]);
    assert_eq!(again.sections[1].spots[7].count(3), 0.0);
    assert_eq!(again.sections[1].spots[7].count(0), table.sections[1].spots[7].count(0));
}

/// ST-Net's folders: places in `.spots.txt`, a table of tumours that is not asked for, patients by the names of sections.
#[test]
fn st_nets_layout_is_read_too() {
    let dir = folder(&["BC1_C1", "BC1_C2", "BC2_D1"]);
    for name in ["BC1_C1", "BC1_C2", "BC2_D1"] {
        let places = dir.path().join(format!("{name}_selection.tsv"));
        fs::rename(places, dir.path().join(format!("{name}.spots.txt"))).unwrap();
        write(dir.path(), &format!("{name}_Coords.tsv"), "\t0\t0\ttumor\n");
    }
    let table = SpotTable::read(dir.path()).unwrap();
    assert_eq!(table.patients(), ["BC1", "BC2"]);
    assert!(table.sections.iter().all(|s| s.spots.len() == 81));
}

#[test]
fn the_command_probes_encoders_beside_the_floors() {
    let dir = folder(&["A1", "A2", "B1"]);
    let isg = |args: &[&str]| {
        let path = dir.path().to_str().unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_isg")).args(["spots", path, "--quiet"]).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let few = ["--window-px", "24", "--genes", "3", "--resamples", "100"];
    let cells = "colour,cells=2";
    let (status, json, said) = isg(&[&few[..], &["--encoder", cells, "--json"]].concat());
    assert_eq!(status, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows: Vec<(&str, u64)> = (report["splits"][0]["rows"].as_array().unwrap().iter())
        .map(|row| (row["features"].as_str().unwrap(), row["width"].as_u64().unwrap()))
        .collect();
    assert_eq!(rows, [("depth", 1), ("position", 5), ("colour", 17), (cells, 34)]);
    let (status, table, said) = isg(&[&few[..], &["--show", "DARK"]].concat());
    assert!(status == 0 && table.contains("each patient held out") && table.contains("DARK"), "{said}{table}");
    for (args, words) in [
        (&["--encoder", "magic"][..], "there is no encoder `magic`"),
        (&["--encoder", "isg"], "what it learned"),
        (&["--encoder", "colour,cells"], "KEY=VALUE"),
        (&["--encoder", "colour,shade=3"], "shade"),
        (&["--encoder", "colour,cells=65"], "cells is 1 to 64"),
        (&["--encoder", "colour,cells=30"], "24 pixels a side"),
        (&["--genes", "0"], "--genes 0"),
        (&["--block", "-1"], "--block"),
        (&["--target", "raw"], "stnet or log"),
    ] {
        let (status, _, said) = isg(&[&few[..2], args].concat());
        assert!(status == 2 && said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn targets_are_st_nets_and_the_logarithm() {
    assert_eq!(Target::StNet.of(3.0, 996.0, 4), (4.0f64 / 1000.0).ln());
    assert_eq!(Target::Log.of(3.0, 1000.0, 4), 31f64.ln());
}

#[test]
fn what_is_in_the_pixels_is_found_and_what_is_not_is_not() {
    let dir = folder(&["A1", "A2", "B1", "B2", "C1"]);
    let report = spots::run(dir.path(), &rows(), &options(), &Silent).unwrap();
    assert_eq!(report.splits.iter().map(|s| s.held_out).collect::<Vec<_>>(), ["patient", "section"]);
    for split in &report.splits {
        let row = |name: &str| split.rows.iter().find(|r| r.features == name).unwrap();
        let gene = |name: &str, gene: &str| row(name).genes.iter().find(|g| g.gene == gene).unwrap().clone();
        assert!(gene("colour", "DARK").pearson.unwrap() > 0.8, "{:?}", gene("colour", "DARK"));
        assert!(gene("noise", "DARK").pearson.unwrap().abs() < 0.15);
        assert!(gene("colour", "NOISE").partial.unwrap().abs() < 0.3);
        // The target is normalised by the depth, which predicts nothing of the tissue beyond it.
        assert_eq!(row("depth").mean.partial.filter(|p| p.abs() > 0.1), None);
        let colour = row("colour");
        let interval = colour.interval.unwrap();
        assert!(interval.low < colour.mean.pearson.unwrap() && colour.mean.pearson.unwrap() < interval.high);
        let against = split.differences.iter().find(|d| d.features == "noise").unwrap();
        assert!(against.delta < 0.0 && against.interval.unwrap().high < 0.0, "{against:?}");
    }
    // Only sections whose patient has others are held out alone.
    assert_eq!(report.splits[0].rows[0].sections.len(), 5);
    assert_eq!(report.splits[1].rows[0].sections.len(), 4);
    let text = spots::text(&report, &["DARK".into(), "ERBB2".into()]);
    assert!(text.contains("DARK") && !text.contains("ERBB2") && text.contains("within one tumour"), "{text}");
    let again = spots::run(dir.path(), &rows(), &options(), &Silent).unwrap();
    assert_eq!(serde_json::to_string(&report).unwrap(), serde_json::to_string(&again).unwrap());
}

#[test]
fn a_broken_folder_is_refused_in_one_sentence() {
    let refused = |change: &dyn Fn(&Path)| {
        let dir = folder(&["A1", "B1"]);
        change(dir.path());
        spots::run(dir.path(), &rows(), &options(), &Silent).unwrap_err().to_string()
    };
    let edit = |dir: &Path, name: &str, edit: &dyn Fn(&str) -> String| {
        let path = dir.join(name);
        fs::write(&path, edit(&fs::read_to_string(&path).unwrap())).unwrap();
    };
    let remove = |dir: &Path, name: &str| fs::remove_file(dir.join(name)).unwrap();
    type Case<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let cases: Vec<Case> = vec![
        ("section A1 has spots and no image", Box::new(|d| remove(d, "A1.png"))),
        ("section A1 has spots and no counts", Box::new(|d| remove(d, "A1.tsv"))),
        ("may both be the counts of section A1", Box::new(|d| drop(write(d, "more/A1.tsv", "\tG\n0x0\t1\n")))),
        ("holds one section, B1", Box::new(|d| remove(d, "A1_selection.tsv"))),
        ("where a number is expected", Box::new(|d| edit(d, "A1.tsv", &|t| t.replacen("0x0\t", "0x0\tmany", 1)))),
        ("not logarithms", Box::new(|d| edit(d, "A1.tsv", &|t| t.replacen("0x0\t", "0x0\t-", 1)))),
        ("where a spot XxY is expected", Box::new(|d| edit(d, "A1.tsv", &|t| t.replacen("\n0x0", "\nspot", 1)))),
        ("is a second row 0x0", Box::new(|d| edit(d, "A1.tsv", &|t| t.replacen("\n1x0", "\n0x0", 1)))),
        ("has two columns DARK", Box::new(|d| edit(d, "A1.tsv", &|t| t.replacen("FLAT", "DARK", 1)))),
        ("has no column pixel_x", Box::new(|d| edit(d, "A1_selection.tsv", &|t| t.replacen("pixel_x", "px", 1)))),
        ("has no spot in common", Box::new(|d| edit(d, "A1.tsv", &|t| t.replace('x', "5000x")))),
        ("does not hold spot", Box::new(|d| RgbImage::filled(30, 30, [9; 3]).write_png(d.join("A1.png")).unwrap())),
        ("A1.png", Box::new(|d| drop(write(d, "A1.png", "no picture")))),
        ("does not say whose section B1 is", Box::new(|d| drop(write(d, "patients.csv", "section,patient\nA1,p\n")))),
    ];
    for (words, change) in cases {
        let error = refused(&*change);
        assert!(error.contains(words) && error.lines().count() == 1, "{words}: {error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = spots::run(empty.path(), &[], &options(), &Silent).unwrap_err().to_string();
    assert!(error.contains("SECTION_selection.tsv"), "{error}");
    let error = spots::run(&empty.path().join("none"), &[], &options(), &Silent).unwrap_err().to_string();
    assert!(error.contains("is no folder"), "{error}");
}
