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
        if most > number("max_abs_difference") as u8 {
            failures.push(format!("{name}: {count} samples differ, by up to {most}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The crops derived from one slide: the same 512 px through other containers and codecs.
#[test]
fn derived_crops_equal_their_reference() {
    let Some(data) = data() else { return };
    let reference = png(&data.join("slides/reference_512.png"));
    for (name, levels, mpp, exact) in [
        ("bigtiff_be_pyr_lzw_pred.tif", 3, Some(0.499), true),
        ("ome_subifd_deflate.ome.tif", 3, Some(0.499), true),
        ("planar_deflate.tif", 1, None, true),
        ("bigtiff_pyr_jpeg420.tif", 3, Some(0.499), false),
        ("tiff_pyr_jp2k34712.tif", 3, Some(0.499), false),
        ("tiff_pyr_jpeg444_rgb.tif", 3, Some(0.499), false),
    ] {
        let slide = Slide::open(data.join("slides").join(name)).unwrap();
        assert_eq!(slide.levels().len(), levels, "{name}");
        assert_eq!(slide.mpp().map(|v| (v * 1000.0).round() / 1000.0), mpp, "{name}");
        let (count, most) = difference(&slide.read_region(0, 0, 0, 512, 512).unwrap(), &reference);
        if exact {
            assert_eq!(count, 0, "{name}: lossless, differs by up to {most}");
        } else {
            let mean = slide.read_region(0, 0, 0, 512, 512).unwrap();
            let sum: u64 = mean.pixels.iter().zip(&reference.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / reference.pixels.len() as f64;
            assert!(mean < 6.0, "{name}: a lossy copy is off by {mean} on average");
        }
    }
}
