//! How fast pixels come out of a slide.
//!
//! `cargo bench --bench slide` measures the decoders beside zune-jpeg and hayro-jpeg2000, on tiles made here and, where real slides
//! are at hand, on tiles of theirs. `cargo bench --bench slide -- --read SLIDE THREADS` reads every native tile of level 0 once and
//! prints MB of RGB per second, for `tools/peers/slide_speed.py`.

use std::{fs::File, hint::black_box, path::Path, time::Instant};

use criterion::{Criterion, Throughput};
use isg::slide::{
    Slide, SlideOptions, decode_jp2k,
    decode_jpeg::{self, Colours},
};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;
use tiff::tags::Tag;
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

/// MB of RGB per second through level 0, every tile decoded once.
fn read_level_0(path: &str, threads: usize) -> isg::Result<f64> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| isg::Error::Usage(format!("{threads} threads cannot be started: {e}")))?;
    let slide = Slide::open_with(path, &SlideOptions { mpp: None, cache_bytes: 0 })?;
    let tiles: Vec<_> = slide.native_tiles(0)?.collect();
    let bytes: u64 = tiles.iter().map(|t| t.width_px * t.height_px * 3).sum();
    let start = Instant::now();
    pool.install(|| {
        tiles.into_par_iter().try_for_each(|tile| slide.read_tile(tile).map(|image| drop(black_box(image))))
    })?;
    Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Nucleus-like blobs over a stain with grain: compresses as tissue does.
fn tissue(side: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as i32 - 8
    };
    let mut pixels = Vec::with_capacity(side * side * 3);
    for y in 0..side {
        for x in 0..side {
            let (cx, cy) = (x as f32 % 23.0 - 11.0, y as f32 % 19.0 - 9.0);
            let dark = (1.0 - (cx * cx + cy * cy) / 60.0).max(0.0);
            for base in [225.0, 170.0, 205.0] {
                pixels.push((base - 120.0 * dark) as i32 as u8 ^ (noise() & 7) as u8);
            }
        }
    }
    pixels
}

/// RGB of one tile, or nothing where the decoder does not take it.
type Decode<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;

/// Every decoder over the same tiles.
fn beside(c: &mut Criterion, what: &str, tiles: &[Vec<u8>], decoders: &[(&str, Decode)]) {
    let mut group = c.benchmark_group(what);
    let bytes = tiles.iter().filter_map(|tile| decoders[0].1(tile)).map(|rgb| rgb.len() as u64).sum();
    group.throughput(Throughput::Bytes(bytes)).sample_size(20);
    for (name, decode) in decoders {
        group.bench_function(*name, |b| b.iter(|| tiles.iter().for_each(|tile| drop(black_box(decode(tile))))));
    }
    group.finish();
}

fn jpeg(c: &mut Criterion, what: &str, tables: Option<&[u8]>, tiles: &[Vec<u8>]) {
    let ours = |tile: &[u8]| Some(decode_jpeg::decode(tables, tile, Colours::YCbCr, 1 << 24).ok()?.samples);
    let zune = |tile: &[u8]| {
        // It wants one stream: tables without their end, the tile without its beginning.
        let whole = tables.map(|tables| [&tables[..tables.len() - 2], &tile[2..]].concat());
        let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
        let stream = ZCursor::new(whole.as_deref().unwrap_or(tile));
        zune_jpeg::JpegDecoder::new_with_options(stream, options).decode().ok()
    };
    beside(c, what, tiles, &[("isg", &ours), ("zune-jpeg", &zune)]);
}

fn jpeg2000(c: &mut Criterion, what: &str, tiles: &[Vec<u8>]) {
    let ours = |tile: &[u8]| Some(decode_jp2k::decode(tile, 1 << 24).ok()?.samples);
    let hayro = |tile: &[u8]| {
        let image = hayro_jpeg2000::Image::new(tile, &hayro_jpeg2000::DecodeSettings::default()).ok()?;
        Some(image.decode(&mut hayro_jpeg2000::DecoderContext::default()).ok()?.data_u8())
    };
    beside(c, what, tiles, &[("isg", &ours), ("hayro-jpeg2000", &hayro)]);
}

/// JPEG tables and tiles as a slide stores them.
type Stored = (Option<Vec<u8>>, Vec<Vec<u8>>);

/// Up to `most` tiles of a slide's first level, evenly spread.
fn stored_tiles(path: &Path, most: usize) -> Option<Stored> {
    let mut container = tiff::decoder::Decoder::new(File::open(path).ok()?).ok()?;
    let offsets = container.get_tag_u64_vec(Tag::TileOffsets).ok()?;
    let lengths = container.get_tag_u64_vec(Tag::TileByteCounts).ok()?;
    let tables = container.get_tag_u8_vec(Tag::JPEGTables).ok();
    let bytes = std::fs::read(path).ok()?;
    let tile = |(&at, &length): (&u64, &u64)| bytes.get(at as usize..(at + length) as usize).map(<[u8]>::to_vec);
    let step = (offsets.len() / most).max(1);
    Some((tables, offsets.iter().zip(&lengths).step_by(step).filter_map(tile).take(most).collect()))
}

fn decoders(c: &mut Criterion) {
    let side = 256;
    let pixels = tissue(side);
    for (name, sampling) in
        [("4:4:4", SamplingFactor::F_1_1), ("4:2:2", SamplingFactor::F_2_1), ("4:2:0", SamplingFactor::F_2_2)]
    {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, 80);
        encoder.set_sampling_factor(sampling);
        if let Err(e) = encoder.encode(&pixels, side as u16, side as u16, ColorType::Rgb) {
            eprintln!("{name}: {e}");
            continue;
        }
        jpeg(c, &format!("jpeg tile 256 px {name}"), None, &[bytes]);
    }
    let slides = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/slides");
    for name in ["CMU-1-Small-Region.svs", "CropBreastSlide.tiff"] {
        match stored_tiles(&slides.join(name), 16) {
            Some((tables, tiles)) => jpeg(c, name, tables.as_deref(), &tiles),
            None => eprintln!("{name}: not at hand"),
        }
    }
    let name = "tcga-cr-7395-01a-01-ts1.svs";
    match stored_tiles(&slides.join(name), 8) {
        Some((_, tiles)) => jpeg2000(c, name, &tiles),
        None => eprintln!("{name}: not at hand"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|a| a == "--read") {
        let threads = args.get(at + 2).and_then(|n| n.parse().ok()).unwrap_or(1);
        match args.get(at + 1).map(|path| read_level_0(path, threads)) {
            Some(Ok(speed)) => println!("{speed:.1} MB/s"),
            Some(Err(e)) => eprintln!("{e}"),
            None => eprintln!("--read needs a slide"),
        }
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    decoders(&mut criterion);
    criterion.final_summary();
}
