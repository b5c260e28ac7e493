//! How fast pixels come out of a slide.
//!
//! `cargo bench --bench slide` measures the decoders on tiles made here. `cargo bench --bench slide -- --read SLIDE THREADS`
//! reads every native tile of level 0 once and prints MB of RGB per second, for `tools/peers/slide_speed.py`.

use std::{hint::black_box, time::Instant};

use criterion::{Criterion, Throughput};
use isg::slide::{
    Slide, SlideOptions,
    decode_jpeg::{Colours, decode},
};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;

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

fn decoders(c: &mut Criterion) {
    let side = 256;
    let pixels = tissue(side);
    let mut group = c.benchmark_group("jpeg tile 256 px");
    group.throughput(Throughput::Bytes(pixels.len() as u64));
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
        group.bench_function(name, |b| b.iter(|| decode(None, black_box(&bytes), Colours::YCbCr, 1 << 20)));
    }
    group.finish();
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
