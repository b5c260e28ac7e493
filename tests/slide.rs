//! Slides: golden pixels on real files, declarative broken files, formats written here byte by byte.

use std::path::{Path, PathBuf};

use isg::{image::RgbImage, slide::Slide};

/// The folder of real files, or `None` with one line where it is absent.
fn data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if data.is_dir() {
        return Some(data);
    }
    println!("no ../shared/data here: real slides are not tested, generated ones are");
    None
}

fn png(path: &Path) -> RgbImage {
    Slide::open(path)
        .and_then(|s| s.read_region(0, 0, 0, s.levels()[0].width_px as usize, s.levels()[0].height_px as usize))
        .unwrap()
}

/// How many samples differ, and by how much at most.
fn difference(a: &RgbImage, b: &RgbImage) -> (usize, u8) {
    assert_eq!((a.width_px, a.height_px), (b.width_px, b.height_px));
    let each = a.pixels.iter().zip(&b.pixels).map(|(a, b)| a.abs_diff(*b)).filter(|d| *d > 0);
    each.fold((0, 0), |(count, most), d| (count + 1, most.max(d)))
}

#[test]
fn golden_regions_are_exact() {
    let Some(data) = data() else { return };
    let text = std::fs::read_to_string(data.join("golden/golden.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut failures = Vec::new();
    for case in cases.as_array().unwrap() {
        let number = |key: &str| case[key].as_i64().unwrap();
        let slide = Slide::open(data.join("slides").join(case["slide"].as_str().unwrap())).unwrap();
        let region = slide
            .read_region(
                number("level") as usize,
                number("x_level_px"),
                number("y_level_px"),
                number("width") as usize,
                number("height") as usize,
            )
            .unwrap();
        let name = case["png"].as_str().unwrap();
        let (count, most) = difference(&region, &png(&data.join("golden").join(name)));
        if most > number("max_abs_difference").max(1) as u8 {
            failures.push(format!("{name}: {count} samples differ, by up to {most}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
