//! `isg reproduce`: arms are ordinary runs that share what they can, are not run twice, and are compared on the same patients.
//! And what a finished run says about a new slide beside its number: intervals, maps, whether it lies among the others.

use approx::assert_abs_diff_eq;
use std::{fs, path::Path};

use isg::{
    Device,
    device::DeviceId,
    pipeline::{
        predict::SlidePredictor,
        reproduce::{Options, Reproduction, reproduce},
    },
    progress::Silent,
};

use super::{Lab, files};

fn made(lab: &Lab, tables: &[u8], arms: &[&str], seeds: usize) -> Reproduction {
    let options = Options {
        tables: tables.to_vec(),
        seeds,
        fast: false,
        arms: arms.iter().map(|name| name.to_string()).collect(),
        out: None,
    };
    reproduce(&lab.path.join("run.toml"), &options, DeviceId::Cpu, &Silent).expect("tables")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn arms_share_what_they_can_and_are_not_run_twice() {
    let lab = Lab::new();
    let extra = "\n[[reproduce.encoders]]\nkind = \"resnet18\"\nweights = \"nowhere.pth\"\n";
    fs::write(lab.path.join("run.toml"), text(&lab.path.join("run.toml")) + extra).expect("writable");
    let found = made(&lab, &[1, 5], &["isg", "ridge", "mean", "probe-isg", "probe-colour", "probe-resnet18"], 2);
    let out = &found.out;
    assert_eq!((found.slides, found.seeds, found.tables.len()), (8, 2, 2));
    let [methods, probes] = &found.tables[..] else { panic!("two tables") };
    let names =
        |rows: &[isg::pipeline::reproduce::RowResult]| rows.iter().map(|row| row.arm.clone()).collect::<Vec<_>>();
    assert_eq!(names(&methods.rows), ["isg", "ridge", "mean"]);
    // Every arm but the reference is compared in every gene and over all of them.
    let genes = methods.columns.len();
    assert_eq!(methods.differences.len(), 2 * (1 + genes));
    assert!(methods.rows.iter().all(|row| row.seeds == 2 && row.cells.len() == genes && row.skipped.is_none()));
    let broken = probes.rows.iter().find(|row| row.arm == "probe-resnet18").expect("a row");
    let why = broken.skipped.as_deref().expect("it has no weights");
    assert!(why.contains("nowhere.pth"), "{why}");
    assert!(probes.rows.iter().filter(|row| row.arm != "probe-resnet18").all(|row| row.skipped.is_none()));

    // The extractors are those of the first arm, to the byte.
    let of = |arm: &str, file: &str| out.join("arms").join(arm).join("seed-3").join(file);
    let extractor = "extractor/global/extractor.safetensors";
    for arm in ["ridge", "mean", "probe-isg"] {
        assert!(
            fs::read(of("isg", extractor)).expect("an extractor") == fs::read(of(arm, extractor)).expect("one"),
            "{arm}"
        );
    }
    let scores = text(&out.join("results.csv"));
    assert!(scores.starts_with("table,arm,seed,project,gene,fold,n,pearson,mse,mse_scaled\n"));
    assert!(scores.lines().any(|line| line.starts_with("1,ridge,1,")), "{scores}");
    let differences = text(&out.join("comparison.csv"));
    assert!(differences.lines().next().is_some_and(|line| line.starts_with("table,arm,")), "{differences}");
    assert!(text(&out.join("report.html")).contains("Table 5"));

    // Once more: the same tables, and no run was touched.
    let before = files(&out.join("arms"));
    let again = made(&lab, &[1, 5], &["isg", "ridge", "mean", "probe-isg", "probe-colour", "probe-resnet18"], 2);
    let arms = files(&out.join("arms"));
    let timings = |name: &Path| name.ends_with("timings.json");
    let changed: Vec<_> =
        arms.iter().filter(|(name, bytes)| !timings(name) && before.get(*name) != Some(bytes)).collect();
    assert!(changed.is_empty(), "{:?}", changed.iter().map(|(name, _)| name).collect::<Vec<_>>());
    let tables = |of: &Reproduction| {
        let rows = of.tables.iter().flat_map(|table| &table.rows);
        rows.map(|row| (row.arm.clone(), row.average.map(f64::to_bits))).collect::<Vec<_>>()
    };
    assert_eq!(tables(&found), tables(&again));
}

#[test]
fn selectors_share_one_encoder_and_thresholds_have_runs_of_their_own() {
    let lab = Lab::new();
    let found = made(&lab, &[2, 4], &["select-shannon", "select-otsu", "select-dexined", "bits-8e5", "bits-1.6e6"], 1);
    let rows: Vec<_> = found.tables.iter().flat_map(|table| &table.rows).collect();
    let skipped: Vec<&str> = rows.iter().filter(|row| row.skipped.is_some()).map(|row| &*row.arm).collect();
    assert_eq!(skipped, ["select-dexined"], "it wants weights");
    let file = |arm: &str| {
        let path = found.out.join("arms").join(arm).join("seed-3/extractor/local/extractor.safetensors");
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    assert!(file("select-shannon") == file("select-otsu"));
    assert!(text(&found.out.join("report.html")).contains("Figure 2"));
}

#[test]
fn a_new_slide_has_an_interval_a_place_and_maps() {
    let lab = Lab::new();
    let predictor = SlidePredictor::load(&lab.path.join("run"), &Device::cpu()).expect("a run");
    let intervals = predictor.intervals(0.5).expect("readable").expect("the run has predictions");
    assert!(intervals.half_widths.iter().all(|half| half.is_some_and(|half| half >= 0.0)));
    let too_few = predictor.intervals(0.95).expect("readable").expect("the run has predictions");
    assert!(too_few.half_widths.iter().all(Option::is_none), "eight slides say nothing of 95 %");

    let plain = predictor.predict(&lab.slides()[0], None, None, &Silent).expect("a prediction");
    assert!(plain.place.is_some_and(|place| !place.outside), "a training slide: {:?}", plain.place);
    let mapped = predictor.predict(&lab.slides()[0], None, Some(&[1]), &Silent).expect("a prediction");
    let maps = mapped.maps.expect("maps");
    assert_eq!(maps.layers[0].name, predictor.genes()[1]);
    // The prediction is the mean of what the patches add.
    let mean = maps.layers[0].values.iter().sum::<f64>() / maps.layers[0].values.len() as f64;
    assert!((mean - mapped.values[1]).abs() < 1e-5 * mapped.values[1].abs().max(1.0), "{mean} {}", mapped.values[1]);
    assert_abs_diff_eq!(mapped.values[1], plain.values[1], epsilon = 1e-6);
    let out = lab.path.join("maps");
    let written = maps.write(&out).expect("writable");
    assert!(written.iter().all(|path| path.is_file()) && written.len() == 2 + maps.layers.len());
    // A blank slide of another colour is not one of these.
    let odd = lab.path.join("odd.png");
    let mut noise = isg::image::RgbImage::filled(256, 256, [30, 200, 40]);
    let random = isg::random::Philox::named(1, "noise");
    noise
        .pixels
        .iter_mut()
        .zip(random.uniforms(256 * 256 * 3))
        .for_each(|(v, u)| *v = v.wrapping_add((u * 90.0) as u8));
    noise.write_png(&odd).expect("writable");
    match predictor.predict(&odd, Some(0.5), None, &Silent) {
        Ok(prediction) => assert!(prediction.place.is_some_and(|place| place.outside), "{:?}", prediction.place),
        Err(error) => panic!("{error}"),
    }
}
