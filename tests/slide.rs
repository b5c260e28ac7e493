//! Slides: golden pixels on real files, declarative broken files, formats written here byte by byte.

mod builder;
mod damage;
mod foreign;
mod openslide;
mod tiff_crate;

use std::path::{Path, PathBuf};

use builder::{Builder, LONG, SHORT, Value, image_tags};
use isg::{
    image::RgbImage,
    slide::{MppSource, MppTable, Slide, SlideOptions},
};
use proptest::prelude::*;

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

// ---------------------------------------------------------------------------------------------- broken files, declared

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// Builds the file that a case describes: `raw` bytes, or directories and data, then `patch` and `truncate`.
fn file_of(case: &toml::Table) -> Vec<u8> {
    let integers = |v: &toml::Value| v.as_array().unwrap().iter().map(|n| n.as_integer().unwrap() as u64).collect();
    let mut file = if let Some(raw) = case.get("raw") {
        hex(raw.as_str().unwrap())
    } else {
        let mut builder = Builder {
            last_points_to: case.get("last_points_to").map(|k| k.as_integer().unwrap() as usize),
            ..Builder::default()
        };
        for blob in case["data"].as_array().unwrap() {
            builder.data.push(match blob.get("hex") {
                Some(text) => hex(text.as_str().unwrap()),
                None => vec![0; blob["zeros"].as_integer().unwrap() as usize],
            });
        }
        for directory in case["directory"].as_array().unwrap() {
            let tag = |tag: &toml::Value| {
                let (number, kind, value) = (&tag[0], &tag[1], &tag[2]);
                let value = match value {
                    toml::Value::String(text) => Value::Text(text.clone()),
                    toml::Value::Array(list) if list.first().is_some_and(|v| v.is_str()) => {
                        Value::Places(list.iter().map(|v| v.as_str().unwrap().to_string()).collect())
                    }
                    list => Value::Numbers(integers(list)),
                };
                (number.as_integer().unwrap() as u16, kind.as_integer().unwrap() as u16, value)
            };
            builder.directories.push(directory["tags"].as_array().unwrap().iter().map(tag).collect());
        }
        builder.build()
    };
    for patch in case.get("patch").and_then(|p| p.as_array()).unwrap_or(&Vec::new()) {
        let (at, bytes) = (patch[0].as_integer().unwrap() as usize, hex(patch[1].as_str().unwrap()));
        file[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    if let Some(len) = case.get("truncate") {
        file.truncate(len.as_integer().unwrap() as usize);
    }
    file
}

/// What one sentence looks like to the user: path, problem, remedy.
fn reads_as_one_sentence(message: &str, path: &Path) -> bool {
    let rest = message.strip_prefix(&format!("{}: ", path.display()));
    rest.is_some_and(|rest| !rest.contains('\n') && rest.contains("; ") && rest.len() < 300)
}

fn read_all_levels(slide: &Slide) -> isg::Result<()> {
    for level in 0..slide.levels().len() {
        for tile in slide.tiles(level, 1024)? {
            slide.read_tile(tile)?;
        }
    }
    Ok(())
}

/// Every folder `tests/slide/<vendor>-<defect>` holds one broken file and the error it must give, at opening or at reading.
#[test]
fn broken_files_give_their_sentence() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slide");
    let scratch = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(path.join("case.toml")) else { continue };
        count += 1;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let case: toml::Table = toml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = scratch.path().join(format!("{name}.tif"));
        std::fs::write(&file, file_of(&case)).unwrap();
        let opened = Slide::open(&file);
        let stage = if opened.is_err() { "open" } else { "read" };
        match opened.and_then(|slide| read_all_levels(&slide)) {
            Ok(()) => failures.push(format!("{name}: was read without an error")),
            Err(error) => {
                let message = error.to_string();
                if !message.contains(case["error"].as_str().unwrap())
                    || case["fails"].as_str() != Some(stage)
                    || !reads_as_one_sentence(&message, &file)
                {
                    failures.push(format!("{name}: at {stage}: {message}"));
                }
            }
        }
    }
    assert!(count >= 50, "only {count} cases found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Damaged real files: each is refused in one sentence or read, quickly, whatever is wrong with it.
#[test]
fn damaged_and_odd_files_are_read_or_refused() {
    let Some(data) = data() else { return };
    let mut files = vec![data.join("slides/bad_cmu_truncated60.svs")];
    let mut folders = vec![data.join("bad"), data.join("odd-tiff")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 250);
    for file in files {
        let start = std::time::Instant::now();
        let result = Slide::open(&file).and_then(|slide| read_all_levels(&slide));
        let seconds = start.elapsed().as_secs_f64();
        // Ten seconds is what a release build is held to; an unoptimised one on a busy machine gets more.
        let limit = if cfg!(debug_assertions) { 100.0 } else { 10.0 };
        assert!(seconds < limit, "{}: {seconds} s", file.display());
        if let Err(error) = result {
            let message = error.to_string();
            assert!(reads_as_one_sentence(&message, &file), "{message}");
        }
    }
    let error = Slide::open(data.join("slides/bad_cmu_truncated60.svs")).unwrap_err().to_string();
    assert!(error.contains("lies past the end of the file") && error.contains("truncated"), "{error}");
}

// ------------------------------------------------------------------------------------------------ formats, made here

/// An image without symmetry: every pixel says where it is.
fn test_image(width: usize, height: usize) -> RgbImage {
    let mut image = RgbImage::filled(width, height, [0; 3]);
    for y in 0..height {
        for x in 0..width {
            image.put(x, y, [(x * 7 + y) as u8, (y * 5 + x / 3) as u8, (x ^ y) as u8]);
        }
    }
    image
}

/// The image cut into tiles or strips of a TIFF, deflated or not, 8 or 16 bits, chunky or planar.
#[derive(Clone, Copy, Debug)]
struct Form {
    big_endian: bool,
    big_tiff: bool,
    tile: Option<(usize, usize)>,
    rows_per_strip: usize,
    wide: bool,
    planar: bool,
    deflate: bool,
    predictor: bool,
}

fn write_tiff(image: &RgbImage, form: Form) -> Vec<u8> {
    let mut builder = Builder { big_endian: form.big_endian, big_tiff: form.big_tiff, ..Builder::default() };
    let (width, height) = (image.width_px, image.height_px);
    let (tile_w, tile_h) = form.tile.unwrap_or((width, form.rows_per_strip));
    let planes: Vec<Vec<usize>> = if form.planar { vec![vec![0], vec![1], vec![2]] } else { vec![vec![0, 1, 2]] };
    for channels in &planes {
        for top in (0..height).step_by(tile_h) {
            for left in (0..width).step_by(tile_w) {
                let rows = if form.tile.is_some() { tile_h } else { tile_h.min(height - top) };
                let mut bytes = Vec::new();
                for y in top..top + rows {
                    let mut previous = [0_u16; 3];
                    for x in left..left + tile_w {
                        let inside = x < width && y < height;
                        for &c in channels {
                            let value = if inside { image.pixel(x, y)[c] } else { 77 };
                            // The low byte must not matter.
                            let sample = if form.wide { u16::from(value) << 8 | 0x5a } else { u16::from(value) };
                            let coded = if form.predictor { sample.wrapping_sub(previous[c]) } else { sample };
                            previous[c] = sample;
                            bytes.extend(if form.wide {
                                builder.number(u64::from(coded), 2)
                            } else {
                                vec![coded as u8]
                            });
                        }
                    }
                }
                if form.deflate {
                    use std::io::Write;
                    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(&bytes).unwrap();
                    bytes = encoder.finish().unwrap();
                }
                builder.data.push(bytes);
            }
        }
    }
    let counts = builder.data.iter().map(|d| d.len() as u64).collect();
    let mut tags = image_tags(
        (width as u64, height as u64),
        form.tile.map(|(w, h)| (w as u64, h as u64)),
        form.rows_per_strip as u64,
        (3, if form.wide { 16 } else { 8 }),
        if form.deflate { 8 } else { 1 },
        0..builder.data.len(),
        counts,
    );
    tags.push((284, SHORT, Value::Numbers(vec![if form.planar { 2 } else { 1 }])));
    tags.push((317, SHORT, Value::Numbers(vec![if form.predictor { 2 } else { 1 }])));
    builder.directories.push(tags);
    builder.build()
}

fn open_bytes(folder: &tempfile::TempDir, bytes: &[u8]) -> Slide {
    let path = folder.path().join("slide.tif");
    std::fs::write(&path, bytes).unwrap();
    Slide::open(path).unwrap()
}

fn forms() -> impl Strategy<Value = Form> {
    let tiles = prop_oneof![Just(None), (1_usize..5, 1_usize..5).prop_map(|(w, h)| Some((16 * w, 16 * h)))];
    (any::<[bool; 6]>(), tiles, 1_usize..90).prop_map(|(flags, tile, rows_per_strip)| Form {
        big_endian: flags[0],
        big_tiff: flags[1],
        tile,
        rows_per_strip,
        wide: flags[2],
        planar: flags[3],
        deflate: flags[4],
        predictor: flags[4] && flags[5],
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_layout_gives_the_same_pixels(form in forms(), width in 1_usize..100, height in 1_usize..90) {
        let form = Form { rows_per_strip: form.rows_per_strip.min(height), ..form };
        let image = test_image(width, height);
        let folder = tempfile::tempdir().unwrap();
        let slide = open_bytes(&folder, &write_tiff(&image, form));
        prop_assert_eq!(slide.read_region(0, 0, 0, width, height).unwrap(), image);
    }

    #[test]
    fn a_region_is_a_crop_with_white_around(x in -80_i64..120, y in -80_i64..120, w in 0_usize..150, h in 0_usize..150) {
        let image = test_image(97, 61);
        let folder = tempfile::tempdir().unwrap();
        let form = Form {
            big_endian: false, big_tiff: false, tile: Some((32, 16)), rows_per_strip: 1, wide: false, planar: false,
            deflate: true, predictor: false,
        };
        let region = open_bytes(&folder, &write_tiff(&image, form)).read_region(0, x, y, w, h).unwrap();
        prop_assert_eq!((region.width_px, region.height_px), (w, h));
        for row in 0..h {
            for column in 0..w {
                let (sx, sy) = (x + column as i64, y + row as i64);
                let inside = (0..97).contains(&sx) && (0..61).contains(&sy);
                let wanted = if inside { image.pixel(sx as usize, sy as usize) } else { [255; 3] };
                prop_assert_eq!(region.pixel(column, row), wanted);
            }
        }
    }
}

/// A single uncompressed strip is read in bands; the bands must join without a seam.
#[test]
fn one_large_strip_is_read_in_bands() {
    let image = test_image(700, 1900);
    let folder = tempfile::tempdir().unwrap();
    let form = Form {
        big_endian: true,
        big_tiff: false,
        tile: None,
        rows_per_strip: 1900,
        wide: false,
        planar: false,
        deflate: false,
        predictor: false,
    };
    let slide = open_bytes(&folder, &write_tiff(&image, form));
    assert!(slide.levels()[0].tile_height_px < 1900);
    assert_eq!(slide.read_region(0, 0, 0, 700, 1900).unwrap(), image);
    assert_eq!(slide.tile_byte_counts(0).unwrap().unwrap().iter().sum::<u64>(), 700 * 1900 * 3);
}

fn two_levels(finer_tile_is_there: bool) -> Builder {
    let mut builder = Builder::default();
    let fine = test_image(128, 128);
    builder.data.push(fine.pixels.clone());
    builder.data.push(vec![9; 64 * 64 * 3]);
    let count = if finer_tile_is_there { 128 * 128 * 3 } else { 0 };
    builder.directories.push(image_tags((128, 128), Some((128, 128)), 0, (3, 8), 1, 0..1, vec![count]));
    let mut coarse = image_tags((64, 64), Some((64, 64)), 0, (3, 8), 1, 1..2, vec![0]);
    coarse.push((254, LONG, Value::Numbers(vec![1])));
    builder.directories.push(coarse);
    builder
}

#[test]
fn a_tile_left_out_is_shrunk_from_the_finer_level_and_white_on_level_0() {
    let folder = tempfile::tempdir().unwrap();
    let slide = open_bytes(&folder, &two_levels(true).build());
    assert_eq!(slide.levels()[1].downsample, 2.0);
    let expected = test_image(128, 128).resize_area(64, 64);
    assert_eq!(slide.read_region(1, 0, 0, 64, 64).unwrap(), expected);
    let slide = open_bytes(&folder, &two_levels(false).build());
    assert_eq!(slide.read_region(0, 0, 0, 128, 128).unwrap(), RgbImage::filled(128, 128, [255; 3]));
}

#[test]
fn scale_comes_from_the_file_the_caller_or_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let with = |resolution: Option<[u64; 2]>, unit: u64, description: Option<&str>| {
        let mut builder = Builder::default();
        builder.data.push(vec![0; 16 * 16 * 3]);
        let mut tags = image_tags((16, 16), Some((16, 16)), 0, (3, 8), 1, 0..1, vec![16 * 16 * 3]);
        if let Some(pair) = resolution {
            tags.push((282, 5, Value::Numbers(pair.to_vec())));
            tags.push((283, 5, Value::Numbers(pair.to_vec())));
            tags.push((296, SHORT, Value::Numbers(vec![unit])));
        }
        tags.extend(description.map(|text| (270, 2, Value::Text(text.into()))));
        builder.directories.push(tags);
        open_bytes(&folder, &builder.build())
    };
    let of = |slide: &Slide| (slide.mpp().map(|v| (v * 1e4).round() / 1e4), slide.mpp_source());
    assert_eq!(of(&with(Some([40_000, 1]), 3, None)), (Some(0.25), Some(MppSource::TiffResolution)));
    assert_eq!(of(&with(Some([96, 1]), 2, None)), (None, None));
    assert_eq!(of(&with(Some([0, 0]), 2, None)), (None, None));
    assert_eq!(of(&with(Some([40_000, 1]), 1, None)), (None, None));
    let aperio = "Aperio Image Library v12\r\n16x16 (16x16) JPEG/RGB Q=70|AppMag = 40|MPP = 0.2527";
    let slide = with(None, 1, Some(aperio));
    assert_eq!(of(&slide), (Some(0.2527), Some(MppSource::Vendor)));
    assert_eq!((slide.vendor(), slide.magnification()), ("aperio", Some(40.0)));
    let ome =
        "<OME xmlns=\"x\"><Image><Pixels SizeC=\"3\" PhysicalSizeX=\"500\" PhysicalSizeXUnit=\"nm\"/></Image></OME>";
    assert_eq!(of(&with(Some([40_000, 1]), 3, Some(ome))), (Some(0.5), Some(MppSource::OmeXml)));

    let path = folder.path().join("slide.tif");
    let error = with(None, 1, None).require_mpp().unwrap_err().to_string();
    assert!(error.contains("--mpp") && reads_as_one_sentence(&error, &path), "{error}");
    let forced = |mpp| Slide::open_with(&path, &SlideOptions { mpp: Some(mpp), ..SlideOptions::default() });
    assert_eq!(of(&forced(0.5).unwrap()), (Some(0.5), Some(MppSource::Override)));
    assert!(forced(264.6).unwrap_err().to_string().contains("is not a scale"));
}

#[test]
fn a_table_of_scales_fits_the_slides_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("mpp.csv");
    let slides = |names: &[&str]| names.iter().map(std::path::PathBuf::from).collect::<Vec<_>>();
    let scales = |text: &str, names: &[&str]| {
        std::fs::write(&csv, text).unwrap();
        MppTable::read(&csv).and_then(|table| table.of_slides(&slides(names)))
    };
    let two = ["b/slide.tif", "a/other.svs", "none.svs"];
    for text in [
        "slide, mpp\nother.svs,0.5\nslide,0.25\n",
        "\u{feff}wsi\tMPP\r\na/other.svs\t0.5\r\nb/slide.tif\t0.25\r\n",
        "slide_id;um_per_px\nother;0,5\nslide;0,25\n",
        "filename,mpp\nother.svs,0.5\nother,0.5\nslide,0.25\n",
    ] {
        assert_eq!(scales(text, &two).unwrap(), [Some(0.25), Some(0.5), None], "{text}");
    }
    for (text, wanted) in [
        ("slide,mpp\na.svs,96\n", "line 2: 96 is not a scale"),
        ("slide,mpp\nother,\n", "line 2"),
        ("slide,scale\nother,0.5\n", "has no column mpp"),
        ("slide,mpp\nslide,0.25\nnosuchslide,0.25\n", "line 3: \"nosuchslide\" is none of the slides"),
        ("slide,mpp\nother.svs,0.25\nother,0.5\n", "lines 2 and 3"),
        ("slide,mpp\n\"other,0.25\nslide,0.5\n", "line 2 opens a quote"),
        ("slide;mpp\nother;0,25\nslide;0.5\n", "mixes decimal commas and points"),
        ("slide,mpp\nother,0,25\n", "line 2 has 3 fields"),
    ] {
        let error = scales(text, &two).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("mpp.csv") && !error.contains('\n'), "{error}");
    }
    let twice = scales("slide,mpp\nx,0.25\n", &["a/x.svs", "b/x.svs"]).unwrap_err().to_string();
    assert!(twice.contains("fits two slides, a/x.svs and b/x.svs"), "{twice}");
}

#[test]
fn many_threads_read_the_same_pixels_within_the_cache_limit() {
    let image = test_image(400, 300);
    let folder = tempfile::tempdir().unwrap();
    let form = Form {
        big_endian: false,
        big_tiff: true,
        tile: Some((64, 64)),
        rows_per_strip: 1,
        wide: true,
        planar: true,
        deflate: true,
        predictor: true,
    };
    let path = folder.path().join("slide.tif");
    std::fs::write(&path, write_tiff(&image, form)).unwrap();
    for cache_bytes in [0, 40_000, 1 << 20] {
        let slide = Slide::open_with(&path, &SlideOptions { mpp: None, cache_bytes }).unwrap();
        std::thread::scope(|scope| {
            for k in 0..4_usize {
                let (slide, image) = (slide.clone(), &image);
                scope.spawn(move || {
                    for step in 0..20 {
                        let (x, y) = ((k * 67 + step * 31) % 300, (k * 41 + step * 17) % 200);
                        let region = slide.read_region(0, x as i64, y as i64, 100, 100).unwrap();
                        assert_eq!(region, image.crop(x, y, 100, 100));
                    }
                });
            }
        });
    }
}

#[test]
fn a_thumbnail_is_the_area_mean_and_never_larger() {
    let image = test_image(210, 150);
    let folder = tempfile::tempdir().unwrap();
    let form = Form {
        big_endian: false,
        big_tiff: false,
        tile: Some((48, 16)),
        rows_per_strip: 1,
        wide: false,
        planar: false,
        deflate: true,
        predictor: false,
    };
    let slide = open_bytes(&folder, &write_tiff(&image, form));
    let small = slide.thumbnail(70).unwrap();
    assert_eq!((small.width_px, small.height_px), (70, 50));
    let (_, most) = difference(&small, &image.resize_area(70, 50));
    assert!(most <= 1, "off by {most}");
    let odd = slide.thumbnail(64).unwrap();
    let (_, most) = difference(&odd, &image.resize_area(odd.width_px, odd.height_px));
    assert!(most <= 1, "off by {most}");
    assert_eq!(slide.thumbnail(5000).unwrap(), image);
    assert!(slide.thumbnail(0).is_err());
}

#[test]
fn tiles_cover_a_level_once() {
    let image = test_image(100, 70);
    let folder = tempfile::tempdir().unwrap();
    let form = Form {
        big_endian: false,
        big_tiff: false,
        tile: Some((32, 32)),
        rows_per_strip: 1,
        wide: false,
        planar: false,
        deflate: false,
        predictor: false,
    };
    let slide = open_bytes(&folder, &write_tiff(&image, form));
    for grid in [slide.tiles(0, 33).unwrap(), slide.native_tiles(0).unwrap()] {
        assert_eq!(grid.len() as u64, grid.columns() * grid.rows());
        assert_eq!(grid.clone().map(|t| t.width_px * t.height_px).sum::<u64>(), 7000);
        for tile in grid {
            let (x, y) = (tile.x_px as usize, tile.y_px as usize);
            assert_eq!(
                slide.read_tile(tile).unwrap(),
                image.crop(x, y, tile.width_px as usize, tile.height_px as usize)
            );
        }
    }
    let counts = slide.tile_byte_counts(0).unwrap().unwrap();
    assert_eq!(counts, vec![32 * 32 * 3; 12]);
    assert!(slide.tiles(1, 10).unwrap_err().to_string().contains("has no level 1; it has levels 0 to 0"));
    let error = slide.read_region(0, 0, 0, usize::MAX, 3).unwrap_err().to_string();
    assert!(error.contains("does not fit in memory"), "{error}");
}

/// Files of our own JPEG encoder, as a peer that is not the decoder: every subsampling, grey, progressive.
#[test]
fn jpeg_files_are_slides_of_one_level() {
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
    let folder = tempfile::tempdir().unwrap();
    let (width, height) = (123_usize, 77_usize);
    let mut smooth = RgbImage::filled(width, height, [0; 3]);
    for y in 0..height {
        for x in 0..width {
            smooth.put(x, y, [(2 * x) as u8, (3 * y) as u8, (x + y) as u8]);
        }
    }
    for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_1_2, SamplingFactor::F_2_2] {
        for (progressive, restart) in [(false, 0), (false, 3), (true, 0), (true, 5)] {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, 95);
            encoder.set_sampling_factor(sampling);
            encoder.set_progressive(progressive);
            if restart > 0 {
                encoder.set_restart_interval(restart);
            }
            encoder.encode(&smooth.pixels, width as u16, height as u16, ColorType::Rgb).unwrap();
            let path = folder.path().join("slide.jpg");
            std::fs::write(&path, &bytes).unwrap();
            let slide = Slide::open(&path).unwrap();
            assert_eq!(slide.vendor(), "jpeg");
            let image = slide.read_region(0, 0, 0, width, height).unwrap();
            let sum: u64 = image.pixels.iter().zip(&smooth.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / image.pixels.len() as f64;
            assert!(mean < 2.5, "{sampling:?} progressive {progressive} restart {restart}: mean {mean}");
            // Cut anywhere, it must be refused, not filled.
            std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
            assert!(Slide::open(&path).is_err());
        }
    }
}
