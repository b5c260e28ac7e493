//! What a run keeps: one threshold whatever a slide's share of glass, patches of one size in µm, and all of it said.

use std::{fs, path::Path};

use isg::{
    Device,
    extractor::patches::PatchSource,
    image::RgbImage,
    pipeline::{
        Run, RunConfig, Scale,
        patches::SlidePatches,
        scan::{self, Scanned},
        selection::{KeptShare, Selected, Selection},
    },
    progress::Silent,
    random::Philox,
};

/// A scene with tissue in its left `tissue` share: stroma with dark nuclei. Glass has the noise of a scanner.
fn scene(side_px: usize, tissue: f64, seed: u64) -> RgbImage {
    let noise = Philox::named(seed, "scene").normals(side_px * side_px);
    let nuclei = Philox::named(seed, "nuclei").uniforms((side_px / 8) * (side_px / 8));
    let mut image = RgbImage::filled(side_px, side_px, [0; 3]);
    for (i, noise) in noise.iter().enumerate() {
        let (x, y) = (i % side_px, i / side_px);
        let nucleus = nuclei[(y / 8).min(side_px / 8 - 1) * (side_px / 8) + (x / 8).min(side_px / 8 - 1)] > 0.75;
        let (colour, grain) = match ((x as f64) < tissue * side_px as f64, nucleus) {
            (false, _) => ([241.0, 239.0, 242.0], 1.0),
            (true, false) => ([216.0, 160.0, 196.0], 6.0),
            (true, true) => ([150.0, 100.0, 160.0], 12.0),
        };
        image.put(x, y, colour.map(|c: f64| (c + grain * noise).round().clamp(0.0, 255.0) as u8));
    }
    image
}

/// Slides of (image, µm per pixel), each a patient's, with a table that says so and an expression table.
fn cohort(dir: &Path, slides: &[(RgbImage, Option<f64>)]) {
    fs::create_dir_all(dir.join("images")).expect("a writable folder");
    let (mut table, mut genes) = ("slide,patient,mpp\n".to_string(), ["gene".to_string(), "G1".to_string()]);
    for (i, (image, mpp)) in slides.iter().enumerate() {
        image.write_png(dir.join(format!("images/S{i:02}.png"))).expect("a writable folder");
        let mpp = mpp.map_or(String::new(), |mpp| mpp.to_string());
        table.push_str(&format!("images/S{i:02}.png,S{i:02},{mpp}\n"));
        genes[0].push_str(&format!("\tS{i:02}"));
        genes[1].push_str(&format!("\t{}", 3 + 7 * i));
    }
    fs::write(dir.join("slides.csv"), table).expect("a writable folder");
    fs::write(dir.join("expression.tsv"), genes.join("\n") + "\n").expect("a writable folder");
}

fn run(dir: &Path, out: &str, select: &str) -> Run {
    opened(dir, out, select).unwrap_or_else(|e| panic!("{e}"))
}

fn opened(dir: &Path, out: &str, select: &str) -> isg::Result<Run> {
    let at = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        "preset = \"small\"\nout = {:?}\n[cohort]\nslides = {:?}\nexpression = {:?}\ngenes = [\"G1\"]\n[splits]\nfolds = 4\nvalid_fraction = 0\n[select]\n{select}",
        at(out),
        at("slides.csv"),
        at("expression.tsv"),
    );
    let table = toml::from_str(&text).expect("a sound table");
    let config = RunConfig::from_table(table).expect("a sound configuration");
    Run::open(config, &Silent)
}

fn scan(run: &Run) -> Scanned {
    scan::scan(run, &Device::cpu(), &Silent).unwrap_or_else(|e| panic!("{e}"))
}

fn shares(scanned: &Scanned) -> Vec<KeptShare> {
    scanned.selected.iter().map(Selected::share).collect()
}

#[test]
fn the_runs_threshold_keeps_tissue_whatever_a_slides_share_of_glass() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let tissue = [0.125, 0.25, 0.5, 0.75, 1.0];
    cohort(dir.path(), &tissue.map(|share| (scene(256, share, 7), Some(0.5))));
    let keys = "patch_px = 32\nlocal_px = 16\nsigma = -1\nleast_patches = 0\n";
    for codec in ["lz", "order0", "jpeg"] {
        let run = run(dir.path(), codec, &format!("{keys}codec = \"{codec}\"\n"));
        let scanned = scan(&run);
        let shares = shares(&scanned);
        assert_eq!(shares.len(), tissue.len(), "{codec}: none is lost");
        for (share, tissue) in shares.iter().zip(tissue) {
            // Otsu splits a slide without glass into stroma and nuclei.
            let all = if tissue == 1.0 { share.tissue_share } else { tissue };
            assert!((share.tissue_share - all).abs() < 0.02, "{codec}: {share:?}");
            let of_tissue = share.kept_share / tissue;
            assert!((0.5..=1.0).contains(&of_tissue), "{codec}: {of_tissue} of the tissue, {share:?}");
            assert_eq!(share.remark, None);
        }
        let spread = scanned.selection.choice.spread.expect("over the run");
        assert_eq!((spread.patches, spread.glass), (8 * (1 + 2 + 4 + 6 + 8), 8 * (7 + 6 + 4 + 2)), "{codec}");
        assert_eq!(Selection::read(&run.config.out).expect("stored"), scanned.selection);
    }
    // Each slide's own threshold follows its glass.
    let own = scan(&run(dir.path(), "own", "patch_px = 32\nlocal_px = 16\nscope = \"slide\"\nleast_patches = 0\n"));
    let kept = |slide: &str| own.selected.iter().find(|s| s.entry.id == slide).map_or(0, |s| s.kept().count());
    assert!(kept("S01") > 0 && kept("S04") * 2 < 4 * kept("S01"), "{} {}", kept("S01"), kept("S04"));
}

#[test]
fn little_is_never_lost_and_much_is_drawn() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pale =
        RgbImage { pixels: scene(256, 0.5, 3).pixels.iter().map(|v| v / 4 + 140).collect(), ..scene(256, 0.5, 3) };
    let glass = scene(256, 0.0, 5);
    cohort(dir.path(), &[(scene(256, 1.0, 1), None), (pale, None), (glass.clone(), None), (glass, None)]);
    let keys = "patch_px = 32\nlocal_px = 16\nleast_patches = 5\nmost_patches = 9\n";
    let first = scan(&run(dir.path(), "run", &format!("{keys}sigma = 0\n")));
    let kept = |scanned: &Scanned| -> Vec<(String, Vec<(u64, u64)>)> {
        let places = |slide: &Selected| slide.kept().map(|patch| (patch.x, patch.y)).collect();
        scanned.selected.iter().map(|slide| (slide.entry.id.clone(), places(slide))).collect()
    };
    let [(textured, drawn), (faded, floor)] = &kept(&first)[..] else { panic!("{:?}", kept(&first)) };
    assert_eq!((textured.as_str(), drawn.len(), faded.as_str(), floor.len()), ("S00", 9, "S01", 5));
    assert!(floor.iter().all(|(x, _)| *x < 128), "tissue, not glass: {floor:?}");
    let left_out: Vec<_> =
        first.left_out.iter().map(|out| (out.slide.as_str(), out.reason.contains("glass"))).collect();
    assert_eq!(left_out, [("S02", true), ("S03", true)]);
    let drawn_share = first.selected[0].share();
    assert!(drawn_share.passed > 9 && drawn_share.remark.is_some_and(|said| said.contains("9 of the")));
    // Without the floor the pale slide is left out; the draw of the other one does not know.
    let without =
        scan(&run(dir.path(), "without", "patch_px = 32\nlocal_px = 16\nleast_patches = 0\nmost_patches = 9\n"));
    assert_eq!(kept(&without), [(textured.clone(), drawn.clone())]);
    assert!(first.selected[0].kept_digest() == without.selected[0].kept_digest());
    assert!(first.selected[0].kept_digest() != first.selected[1].kept_digest());
}

#[test]
fn patches_are_of_one_size_in_micrometres() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fine = scene(512, 0.75, 11);
    let coarse = fine.resize_area(256, 256);
    let slides = [
        (fine.clone(), Some(0.25)),
        (coarse.clone(), Some(0.5)),
        (coarse.resize_area(128, 128), Some(1.0)),
        (fine, None),
    ];
    cohort(dir.path(), &slides);

    // In level-0 pixels slides of several scales are refused before any is scored.
    let keys = "patch_px = 32\nlocal_px = 16\n";
    let said = opened(dir.path(), "mixed", keys).err().expect("three scales").to_string();
    for part in ["1 at 0.25", "1 at 0.5", "1 at 1 µm/px", "(1 do not say)", "select.mpp = 1"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!dir.path().join("mixed/slides").exists() && !dir.path().join("mixed").join(Selection::FILE).exists());

    let run = run(dir.path(), "run", &format!("{keys}mpp = 0.5\n"));
    let scanned = scan(&run);
    let reasons: Vec<_> = scanned.left_out.iter().map(|out| (out.slide.as_str(), out.reason.as_str())).collect();
    let [("S02", coarser), ("S03", silent)] = reasons[..] else { panic!("{reasons:?}") };
    assert!(coarser.contains("1.0000 µm/px") && silent.contains("how large its pixels are"), "{reasons:?}");
    let [a, b] = &scanned.selected[..] else { panic!("two slides") };
    assert_eq!((a.extent_px, b.extent_px, scanned.selection.slides_mpp), ([64; 2], [32; 2], Some([0.25, 0.5])));
    assert!(a.patches.len() == 64 && a.kept().count() > 16);
    for (a, b) in a.patches.iter().zip(&b.patches) {
        assert_eq!(((a.x, a.y), a.bits, a.kept), ((2 * b.x, 2 * b.y), b.bits, b.kept));
    }
    // What extractors learn from and what is encoded are the same pixels, fine patches cut out of coarse ones.
    let source = |scale| SlidePatches::new(&scanned.selected, &run.config, scale).expect("a source");
    let (global, local) = (source(Scale::Global), source(Scale::Local));
    let kept = a.kept().count();
    for (index, patch) in b.kept().enumerate() {
        let wanted = coarse.crop(patch.x as usize, patch.y as usize, 32, 32);
        assert_eq!(global.load(index).expect("a patch"), wanted);
        assert_eq!(global.load(kept + index).expect("a patch"), wanted);
        for cell in 0..4 {
            assert_eq!(
                local.load(4 * index + cell).expect("a patch"),
                wanted.crop(cell % 2 * 16, cell / 2 * 16, 16, 16)
            );
        }
    }
    // Another scale is another score: nothing of the first run's is taken for it.
    let config = RunConfig {
        select: isg::pipeline::config::SelectConfig { mpp: Some(0.6), ..run.config.select.clone() },
        ..run.config.clone()
    };
    drop(run);
    let again = scan(&Run::open(config, &Silent).expect("the same directory"));
    assert_eq!(again.selected.iter().map(|s| s.patches.len()).collect::<Vec<_>>(), [36, 36]);
}

#[test]
fn the_command_scores_at_a_scale() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("fine.png");
    let fine = scene(256, 0.75, 11);
    fine.write_png(&path).expect("a writable folder");
    fine.resize_area(128, 128).write_png(dir.path().join("coarse.png")).expect("a writable folder");
    let score = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_isg"))
            .current_dir(dir.path())
            .args(["score", "--patch-px", "32", "--quiet"])
            .args(arguments)
            .output()
            .expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let rows = |table: &str| -> Vec<Vec<String>> {
        table.lines().skip(1).map(|line| line.split(',').map(str::to_string).collect()).collect()
    };
    let (status, resampled, said) = score(&["fine.png", "--at-mpp", "0.5", "--mpp", "0.25", "--map", "map.png"]);
    assert_eq!(status, Some(0), "{said}");
    fs::write(dir.path().join("scales.csv"), "slide,mpp\ncoarse.png,0.5\n").expect("a writable folder");
    let (_, plain, _) = score(&["coarse.png", "--at-mpp", "0.5", "--mpp-table", "scales.csv"]);
    let (resampled, plain) = (rows(&resampled), rows(&plain));
    assert_eq!((resampled.len(), plain.len()), (16, 16));
    for (fine, coarse) in resampled.iter().zip(&plain) {
        assert_eq!(fine[4..], coarse[4..], "bits, bits per pixel, kept");
        let doubled = |at: usize| (2 * coarse[at].parse::<u64>().expect("a number")).to_string();
        assert_eq!(fine[1..3], [doubled(1), doubled(2)], "in level-0 pixels");
    }
    for (arguments, word) in [
        (&["fine.png", "--at-mpp", "0.5"][..], "how large its pixels are"),
        (&["fine.png", "--at-mpp", "0.1", "--mpp", "0.25"], "nothing is upsampled"),
        (&["fine.png", "--at-mpp", "0.5", "--level", "1"], "--level"),
        (&["fine.png", "--at-mpp=-3"], "µm per pixel"),
    ] {
        let (status, _, said) = score(arguments);
        assert!(status != Some(0) && said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn keys_that_are_gone_or_cannot_be_are_one_sentence() {
    let refused = |select: &str| {
        let text = format!("[cohort]\nslides = \"s\"\nexpression = \"e\"\n[select]\n{select}\n");
        RunConfig::from_table(toml::from_str(&text).expect("a table")).expect_err(select).to_string()
    };
    for (select, word) in [
        ("over_cohort = true", "scope = \"run\""),
        ("mpp = 0", "select.mpp"),
        ("mpp = 250", "µm per pixel"),
        ("scope = \"cohort\"", "scope"),
        ("sigma = 0\ntop = 3", "one of"),
    ] {
        let said = refused(select);
        assert!(said.contains(word) && !said.contains('\n'), "{select}: {said}");
    }
}
