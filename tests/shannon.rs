//! Shannon selection: the stream gives the pixels back, its length is the score, broken streams are refused, scores rank
//! real patches as other compressors do.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use isg::{
    image::RgbImage,
    progress::Silent,
    select::{Codec, ScoreOptions, Threshold, grid::PatchGrid, jpeg, order0, score::score_slide, score_map, shannon},
    slide::Slide,
};
use proptest::prelude::*;

/// Real PNG tiles and golden regions, or nothing with one line where they are absent.
pub(crate) fn real_images() -> Vec<(String, RgbImage)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let mut paths: Vec<PathBuf> = ["tiles/histolab", "golden"]
        .iter()
        .filter_map(|folder| std::fs::read_dir(data.join(folder)).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        println!("no ../shared/data here: real tiles are not tested, drawn ones are");
    }
    let read = |path: PathBuf| {
        let slide = Slide::open(&path).unwrap();
        let (width_px, height_px) = (slide.levels()[0].width_px as usize, slide.levels()[0].height_px as usize);
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            slide.read_region(0, 0, 0, width_px, height_px).unwrap(),
        )
    };
    paths.into_iter().map(read).collect()
}

/// Numbers without order, the same every time.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

pub(crate) fn drawn(width_px: usize, height_px: usize, mut sample: impl FnMut(usize, usize, usize) -> u8) -> RgbImage {
    let mut image = RgbImage::filled(width_px, height_px, [0; 3]);
    for y in 0..height_px {
        for x in 0..width_px {
            image.put(x, y, std::array::from_fn(|c| sample(x, y, c)));
        }
    }
    image
}

/// Images of one size that are hard in different ways.
pub(crate) fn contents(width_px: usize, height_px: usize) -> Vec<(&'static str, RgbImage)> {
    let mut noise = Noise(width_px as u64 * 31 + height_px as u64);
    let white = RgbImage::filled(width_px, height_px, [255; 3]);
    let random = drawn(width_px, height_px, |_, _, _| noise.next() as u8);
    let mut noise = Noise(5);
    let sparse =
        drawn(width_px, height_px, |_, _, _| if noise.next().is_multiple_of(97) { noise.next() as u8 } else { 240 });
    let periodic = drawn(width_px, height_px, |x, y, c| ((x % 7) * 31 + (y % 5) * 17 + c * 90) as u8);
    let ramp = drawn(width_px, height_px, |x, y, c| (x * (c + 1) + y * 3) as u8);
    let two = drawn(width_px, height_px, |x, y, _| if (x / 3 + y / 3) % 2 == 0 { 0 } else { 255 });
    // Residuals that share one hash of eight samples but never repeat for long.
    let mut noise = Noise(11);
    let near_repeats = drawn(width_px, height_px, |x, y, c| {
        let base = ((x * 3 + c) % 11 * 23) as u8;
        if (x + y * width_px) % 4 == 3 { base ^ (noise.next() as u8 & 1) } else { base }
    });
    // A Laplacian-like texture: small differences are common, large ones rare.
    let mut noise = Noise(13);
    let texture = drawn(width_px, height_px, |x, y, _| {
        let ones = (noise.next() & 0xff).count_ones() as i32 - 4;
        (150 + ones * ones * ones.signum() + (x as i32 / 9) - (y as i32 / 5)).clamp(0, 255) as u8
    });
    vec![
        ("white", white),
        ("random", random),
        ("sparse", sparse),
        ("periodic", periodic),
        ("ramp", ramp),
        ("two", two),
        ("near repeats", near_repeats),
        ("texture", texture),
    ]
}

/// One chunk whose residuals are as often as Fibonacci's numbers are large, all in one context: their code would have words of
/// 21 bits, and its counts must be halved until none is longer than 15.
pub(crate) fn skewed() -> RgbImage {
    const SIDE_PX: usize = 128;
    let (mut counts, mut residuals) = ([1usize; 22], Vec::new());
    for n in 2..counts.len() {
        counts[n] = counts[n - 1] + counts[n - 2];
    }
    // Residuals of 56 and more to either side of 0, folded; so large that every neighbour alone makes the last context.
    for (n, count) in counts.iter().enumerate() {
        let folded = 112 + n as u8;
        residuals.extend(std::iter::repeat_n((folded >> 1) ^ 0u8.wrapping_sub(folded & 1), *count));
    }
    residuals.resize(3 * SIDE_PX * SIDE_PX, residuals[residuals.len() - 1]);
    let mut noise = Noise(17);
    for n in (1..residuals.len()).rev() {
        residuals.swap(n, noise.next() as usize % (n + 1));
    }
    let (stride, mut pixels) = (3 * SIDE_PX, vec![0u8; residuals.len()]);
    for n in 0..pixels.len() {
        let left = |n: usize| if n % stride < 3 { None } else { Some(pixels[n - 3]) };
        let up = n.checked_sub(stride).map(|n| pixels[n]);
        let predicted = match (left(n), up) {
            (None, None) => 0,
            (Some(one), None) | (None, Some(one)) => one,
            (Some(left), Some(up)) => {
                // The middle of the two and of what goes on from them as from the corner.
                let (a, b, corner) = (i32::from(left), i32::from(up), i32::from(pixels[n - stride - 3]));
                (a + b - corner).clamp(a.min(b), a.max(b)) as u8
            }
        };
        pixels[n] = predicted.wrapping_add(residuals[n]);
    }
    RgbImage { width_px: SIDE_PX, height_px: SIDE_PX, pixels }
}

#[test]
fn words_are_no_longer_than_the_format_allows() {
    let image = skewed();
    assert_round_trip("skewed", &image);
    // Magic, version, sizes, checksum and the payload's length; then whether there are copies: there are none, so that the
    // code's counts are the residuals'.
    assert_eq!(shannon::encode(&image).unwrap()[4 + 1 + 8 + 4 + 2] & 1, 0);
}

fn assert_round_trip(name: &str, image: &RgbImage) -> usize {
    let stream = shannon::encode(image).unwrap();
    assert_eq!(shannon::bits(image), 8 * stream.len() as u64, "{name}: the score is the stream's length");
    let decoded = shannon::decode(&stream).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(decoded == *image, "{name}: other pixels came back");
    stream.len()
}

#[test]
fn every_size_and_content_comes_back() {
    let sizes =
        [(1, 1), (1, 2), (2, 1), (3, 3), (1, 700), (700, 1), (5, 129), (127, 128), (129, 131), (257, 64), (300, 200)];
    for (width_px, height_px) in sizes {
        for (name, image) in contents(width_px, height_px) {
            assert_round_trip(&format!("{name} {width_px} x {height_px}"), &image);
        }
    }
}

#[test]
fn a_stream_is_never_much_longer_than_the_pixels() {
    for (width_px, height_px) in [(1, 1), (64, 64), (333, 222)] {
        for (name, image) in contents(width_px, height_px) {
            let bytes = assert_round_trip(name, &image);
            let chunks = (width_px * height_px).div_ceil(16384) + 4;
            assert!(bytes <= image.pixels.len() + shannon::HEADER_BYTES + 2 * chunks, "{name}: {bytes}");
        }
    }
}

#[test]
fn flat_and_periodic_images_are_nearly_free() {
    let bits_per_px = |image: &RgbImage| shannon::bits(image) as f64 / (image.width_px * image.height_px) as f64;
    for (name, image) in contents(512, 512) {
        match name {
            "white" => assert!(bits_per_px(&image) < 0.02, "{name}: {}", bits_per_px(&image)),
            "periodic" | "two" => assert!(bits_per_px(&image) < 1.5, "{name}: {}", bits_per_px(&image)),
            "random" => assert!(bits_per_px(&image) >= 24.0),
            _ => {}
        }
    }
}

#[test]
fn real_tiles_come_back() {
    for (number, (name, image)) in real_images().into_iter().enumerate() {
        assert_round_trip(&name, &image.crop(3, 5, 141, 87));
        if number % 8 == 0 {
            assert_round_trip(&name, &image);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_image_comes_back(
        width_px in 1usize..150,
        height_px in 1usize..150,
        levels in 1u64..256,
        hold in 1u64..40,
        seed in any::<u64>(),
    ) {
        // Samples stay for a random while, then jump to one of a few levels: between constant and white noise.
        let (mut noise, mut held) = (Noise(seed), 0u8);
        let image = drawn(width_px, height_px, |_, _, _| {
            if noise.next() % hold == 0 {
                held = (noise.next() % levels) as u8;
            }
            held
        });
        let stream = shannon::encode(&image).unwrap();
        prop_assert_eq!(shannon::bits(&image), 8 * stream.len() as u64);
        prop_assert_eq!(shannon::decode(&stream).unwrap(), image);
    }

    #[test]
    fn broken_streams_are_refused_without_harm(
        seed in any::<u64>(),
        changes in 1usize..4,
        cut in proptest::option::of(0usize..3000),
        content in 0usize..8,
    ) {
        let (_, image) = contents(40, 33).swap_remove(content);
        let mut stream = shannon::encode(&image).unwrap();
        let mut noise = Noise(seed);
        for _ in 0..changes {
            let at = noise.next() as usize % stream.len();
            stream[at] ^= 1 << (noise.next() % 8);
        }
        if let Some(cut) = cut {
            stream.truncate(cut);
        }
        // Either refused, or the changes undid each other: never other pixels.
        if let Ok(decoded) = shannon::decode(&stream) {
            prop_assert_eq!(decoded, image);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), header in any::<bool>()) {
        if header && bytes.len() > 13 {
            bytes[..5].copy_from_slice(b"ISLZ\x01");
            bytes[7..9].fill(0);
            bytes[11..13].fill(0);
        }
        prop_assert!(shannon::decode(&bytes).is_err());
    }
}

#[test]
fn a_header_cannot_ask_for_memory_that_the_stream_does_not_fill() {
    let mut stream = shannon::encode(&RgbImage::filled(8, 8, [9; 3])).unwrap();
    stream[5..9].copy_from_slice(&18000u32.to_le_bytes());
    stream[9..13].copy_from_slice(&18000u32.to_le_bytes());
    assert!(shannon::decode(&stream).unwrap_err().to_string().contains("table of chunk sizes"));
    stream[5..13].fill(0xff);
    assert!(shannon::decode(&stream).unwrap_err().to_string().contains("too large"));
    assert!(shannon::encode(&RgbImage::filled(0, 3, [0; 3])).is_err());
    assert_eq!(shannon::bits(&RgbImage::filled(0, 3, [0; 3])), 0);
}

/// The stream's definition must not drift: these numbers may change only with the version in the header.
#[test]
fn scores_are_what_they_always_were() {
    let found: Vec<(&str, u64, u64, u64)> = contents(150, 140)
        .into_iter()
        .map(|(name, image)| (name, shannon::bits(&image), order0::bits(&image), jpeg::bits(&image, 75)))
        .collect();
    let wanted = [
        ("white", 680, 166, 7896),
        ("random", 504200, 501788, 112848),
        ("sparse", 38424, 24366, 28448),
        ("periodic", 12792, 79539, 98976),
        ("ramp", 11616, 7534, 39632),
        ("two", 6472, 39477, 108440),
        ("near repeats", 97920, 90178, 48616),
        ("texture", 265544, 265216, 13680),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn jpeg_sizes_are_those_of_a_jpeg_encoder() {
    let mut images: Vec<(String, RgbImage)> =
        real_images().into_iter().step_by(4).map(|(name, image)| (name, image.crop(0, 0, 256, 256))).collect();
    images.push(("texture".to_string(), contents(256, 256).swap_remove(7).1));
    for (name, image) in images {
        for quality in [50, 75] {
            let mut file = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut file, quality);
            encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
            encoder.set_quantization_tables(
                jpeg_encoder::QuantizationTableType::Default,
                jpeg_encoder::QuantizationTableType::Default,
            );
            let (width, height) = (image.width_px as u16, image.height_px as u16);
            encoder.encode(&image.pixels, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
            let ours = jpeg::bits(&image, quality) as f64 / 8.0;
            let ratio = ours / file.len() as f64;
            assert!((0.92..1.04).contains(&ratio), "{name} at {quality}: {ours} against {} bytes", file.len());
        }
    }
}

#[test]
fn selectors_give_higher_numbers_for_more_texture() {
    let images = contents(128, 128);
    let image = |wanted: &str| &images.iter().find(|(name, _)| *name == wanted).unwrap().1;
    for codec in [Codec::Lz, Codec::Order0, Codec::Jpeg { quality: 75 }] {
        let scores = ["white", "texture", "random"].map(|name| codec.bits(image(name)));
        assert!(scores[0] < scores[1] && scores[1] < scores[2], "{}: {scores:?}", codec.name());
        assert_eq!(Codec::named(codec.name(), 75).unwrap(), codec);
    }
    assert!(Codec::named("zip", 75).is_err() && Codec::named("jpeg", 0).is_err());
}

fn deflated_bytes(bytes: &[u8], level: u32) -> f64 {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().len() as f64
}

fn png_bytes(image: &RgbImage) -> f64 {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width_px as u32, image.height_px as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::Adaptive);
    encoder.write_header().unwrap().write_image_data(&image.pixels).unwrap();
    bytes.len() as f64
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let end = start + order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count();
        order[start..end].iter().for_each(|&i| ranks[i] = (start + end - 1) as f64 / 2.0);
        start = end;
    }
    ranks
}

fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn scores_rank_patches_of_slides_as_zlib_and_png_do() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/slides");
    let (mut lz, mut zlib, mut png) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs", "CropBreastSlide.tiff"] {
        let Ok(slide) = Slide::open(data.join(name)) else {
            println!("no {name} here: ranks on real slides are not tested");
            return;
        };
        let grid = PatchGrid::new(slide.levels()[0].width_px, slide.levels()[0].height_px, 512);
        for row in 0..grid.rows as i64 {
            for column in 0..grid.columns as i64 {
                let patch = slide.read_region(0, 512 * column + 128, 512 * row + 128, 256, 256).unwrap();
                lz.push(shannon::bits(&patch) as f64 / 8.0);
                zlib.push(deflated_bytes(&patch.pixels, 6));
                png.push(png_bytes(&patch));
            }
        }
    }
    let (with_zlib, with_png) = (spearman(&lz, &zlib), spearman(&lz, &png));
    println!("{} patches: Spearman {with_zlib:.4} with zlib 6, {with_png:.4} with PNG", lz.len());
    assert!(with_zlib > 0.9 && with_png > 0.97, "{with_zlib} {with_png}");
    let ratio = |other: &[f64]| median(lz.iter().zip(other).map(|(a, b)| a / b).collect());
    assert!(ratio(&zlib) < 0.75 && ratio(&png) < 1.0, "{} {}", ratio(&zlib), ratio(&png));
}

#[test]
fn background_is_far_below_tissue() {
    let images = real_images();
    let score = |wanted: &str| {
        let (_, image) = images.iter().find(|(name, _)| name.contains(wanted)).unwrap();
        shannon::bits(image) as f64 / (image.width_px * image.height_px) as f64
    };
    if images.is_empty() {
        return;
    }
    let tissue = ["tissue-level0-4302", "x1536_y1280", "medium-nuclei-score-level1"].map(score);
    let background = ["almost-white-1", "x4352_y3328", "x2100_y2900", "no-tissue.png"].map(score);
    for (b, t) in background.iter().flat_map(|b| tissue.iter().map(move |t| (b, t))) {
        assert!(b * 4.0 < *t, "background {b}, tissue {t} bits per pixel");
    }
}

#[test]
fn a_slide_is_scored_in_order_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drawn.png");
    let mut noise = Noise(3);
    let image = drawn(300, 230, |x, y, _| if x > 150 && y > 100 { noise.next() as u8 } else { 250 });
    image.write_png(&path).unwrap();
    let slide = Slide::open(&path).unwrap();
    let options = ScoreOptions { patch_px: 100, threshold: Threshold::Sigma(0.5), ..ScoreOptions::default() };
    let scores = score_slide(&slide, &options, &Silent).unwrap();
    assert_eq!(scores.patches.len(), 6);
    for patch in &scores.patches {
        let pixels = image.crop(patch.x as usize, patch.y as usize, 100, 100);
        assert_eq!(patch.bits, Some(shannon::bits(&pixels)));
        assert_eq!(patch.score, shannon::bits(&pixels) as f64 / 10000.0);
        assert_eq!(patch.kept, (patch.x, patch.y) == (200, 100) || (patch.x, patch.y) == (100, 100), "{patch:?}");
    }
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(alone.install(|| score_slide(&slide, &options, &Silent).unwrap()), scores);
    // A PNG has no tile sizes: the pre-filter leaves nothing out.
    let filtered = ScoreOptions { prefilter: Some(0.5), ..options.clone() };
    assert_eq!(score_slide(&slide, &filtered, &Silent).unwrap(), scores);
    assert!(score_slide(&slide, &ScoreOptions { level: 1, ..options.clone() }, &Silent).is_err());
    assert!(score_slide(&slide, &ScoreOptions { patch_px: 0, ..options.clone() }, &Silent).is_err());
    let map = score_map::draw(&options.plane(&slide).unwrap(), 100, &scores.patches).unwrap();
    assert_eq!((map.width_px, map.height_px), (300, 230));
    assert_ne!(map.pixel(250, 150), image.pixel(250, 150));
    assert_eq!(map.pixel(250, 220), image.pixel(250, 220), "what is no patch keeps its colour");
}

#[test]
fn the_pre_filter_reads_only_tile_sizes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/slides/CMU-1-Small-Region.svs");
    let Ok(slide) = Slide::open(&path) else {
        println!("no JPEG slide here: the pre-filter is not tested on one");
        return;
    };
    let options = ScoreOptions { patch_px: 256, threshold: Threshold::Top(10), ..ScoreOptions::default() };
    let all = score_slide(&slide, &options, &Silent).unwrap();
    let half = score_slide(&slide, &ScoreOptions { prefilter: Some(0.5), ..options.clone() }, &Silent).unwrap();
    assert_eq!(half.patches.len(), all.patches.len().div_ceil(2));
    assert_eq!(half.left_out_bits_per_px.len() + half.patches.len(), all.patches.len());
    let kept = |scores: &isg::select::SlideScores| {
        scores.patches.iter().filter(|p| p.kept).map(|p| (p.x, p.y)).collect::<Vec<_>>()
    };
    let lost = kept(&all).iter().filter(|p| !kept(&half).contains(p)).count();
    assert!(lost <= 1, "{lost} of the ten best patches were lost");
}

fn isg(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_isg")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_scores_encodes_and_reports_bad_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (_, image) = contents(150, 140).swap_remove(7);
    image.write_png(file("a.png")).unwrap();
    RgbImage::filled(90, 300, [240; 3]).write_png(file("b.png")).unwrap();
    std::fs::write(file("bad.png"), b"no image").unwrap();

    let (status, table, _) = isg(&["score", &file("a.png"), &file("b.png"), "--patch-px", "100"]);
    assert_eq!(status, 0);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "slide,x,y,patch_px,bits,bits_per_px,kept");
    assert_eq!(lines.len(), 1 + 1 + 3, "{table}");
    let whole = image.crop(0, 0, 100, 100);
    assert!(lines[1].starts_with(&format!("{},0,0,100,{},", file("a.png"), shannon::bits(&whole))), "{table}");
    assert!(lines[1].ends_with(",1") && lines[4].starts_with(&format!("{},0,200,100,", file("b.png"))), "{table}");

    let out = file("scores.csv");
    let arguments = ["score", &file("bad.png"), &file("a.png"), "--out", &out, "--top", "1", "--codec", "jpeg"];
    let (status, said, complaint) = isg(&arguments);
    assert_eq!(status, 3, "{complaint}");
    assert_eq!(complaint.lines().filter(|l| l.contains("bad.png")).count(), 1, "{complaint}");
    assert!(said.contains("1 of 1 patches kept"), "{said}");
    assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), 2);
    assert_eq!(isg(&["score", &file("bad.png")]).0, 1);
    assert_eq!(isg(&["score", &file("a.png"), "--codec", "zip"]).0, 2);
    assert_eq!(isg(&["score", &file("a.png"), "--bits", "1", "--top", "2"]).0, 2);

    let (status, text, _) = isg(&["score", &file("b.png"), "--json", "--map", &file("map.png"), "--over", "cohort"]);
    assert_eq!(status, 0);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["slides"][0]["patches"][0]["bits"], shannon::bits(&RgbImage::filled(90, 300, [240; 3])));
    assert!(Slide::open(file("map.png")).is_ok());

    let (status, ..) = isg(&["shannon", "encode", &file("a.png"), &file("a.islz")]);
    assert_eq!(status, 0);
    assert_eq!(8 * std::fs::metadata(file("a.islz")).unwrap().len(), shannon::bits(&image));
    assert_eq!(isg(&["shannon", "decode", &file("a.islz"), &file("again.png")]).0, 0);
    let again = Slide::open(file("again.png")).unwrap().read_region(0, 0, 0, 150, 140).unwrap();
    assert!(again == image);
    let (status, _, complaint) = isg(&["shannon", "decode", &file("bad.png"), &file("never.png")]);
    assert_eq!((status, complaint.lines().count()), (1, 1), "{complaint}");
    assert!(!Path::new(&file("never.png")).exists());
}
