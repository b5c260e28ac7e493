//! Speed of the scores in bytes of RGB pixels per second: on one core, `cargo bench --bench shannon`; on a device with kernels,
//! by its own clock, `ISG_DEVICE=cuda cargo bench --bench shannon -- device`.

use std::{env, hint::black_box, path::Path, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isg::{
    Device, Result, Tensor,
    image::RgbImage,
    select::kernels::shannon::batch,
    select::{Codec, shannon},
    slide::Slide,
};

/// Smooth texture with noise on it: compresses about as tissue does.
fn texture(side_px: usize) -> RgbImage {
    let mut image = RgbImage::filled(side_px, side_px, [0; 3]);
    let mut state = 1u64;
    for y in 0..side_px {
        for x in 0..side_px {
            let wave = (x as f64 / 11.0).sin() * (y as f64 / 17.0).cos() * 40.0;
            image.put(
                x,
                y,
                [180.0, 120.0, 170.0].map(|base| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let noise = ((state >> 33) & 0xffff).count_ones() as f64 - 8.0;
                    (base + wave + 2.0 * noise) as u8
                }),
            );
        }
    }
    image
}

fn images() -> Vec<(String, RgbImage)> {
    let mut images =
        vec![("texture".to_string(), texture(1024)), ("white".to_string(), RgbImage::filled(1024, 1024, [245; 3]))];
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/slides");
    for (name, x, y) in [("CMU-1-Small-Region.svs", 600, 200), ("tcga-cr-7395-01a-01-ts1.svs", 1536, 1280)] {
        if let Ok(patch) = Slide::open(data.join(name)).and_then(|s| s.read_region(0, x, y, 1024, 1024)) {
            images.push((name.to_string(), patch));
        }
    }
    images
}

fn scores(criterion: &mut Criterion) {
    for (name, image) in images() {
        let mut group = criterion.benchmark_group(&name);
        group.throughput(Throughput::Bytes(image.pixels.len() as u64)).sample_size(20);
        for (codec, label) in [(Codec::Lz, "lz"), (Codec::Order0, "order0"), (Codec::Jpeg { quality: 75 }, "jpeg")] {
            group.bench_function(label, |b| b.iter(|| codec.bits(black_box(&image))));
        }
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
        let stream = shannon::encode(&image).expect("an image of pixels");
        group.bench_function("encode", |b| b.iter(|| alone.install(|| shannon::encode(black_box(&image)))));
        group.bench_function("decode", |b| b.iter(|| alone.install(|| shannon::decode(black_box(&stream)))));
        group.finish();
    }
}

type Score = fn(&Tensor) -> Result<Tensor>;

/// Patches in one launch: 4096 chunks, thirty for every SM of an H100.
const BATCH: usize = 64;

fn scores_on_device(criterion: &mut Criterion) {
    let Ok(name) = env::var("ISG_DEVICE") else { return };
    let device = Device::named(&name).unwrap_or_else(|error| panic!("{error}"));
    for (name, image) in images() {
        // An emulator has no speed to measure; one patch shows that it runs.
        let patches = if device.to_string().contains("emulator") { 1 } else { BATCH };
        let pixels = batch(&vec![image; patches], &device).expect("memory for a batch");
        let mut group = criterion.benchmark_group(format!("{name}/device"));
        group.throughput(Throughput::Bytes(pixels.shape().elems() as u64)).sample_size(20);
        let scores: [(&str, Score); 3] =
            [("lz", Tensor::shannon_bits), ("order0", Tensor::shannon_order0), ("jpeg", |x| x.shannon_jpeg(75))];
        for (label, score) in scores {
            group.bench_function(label, |b| {
                b.iter_custom(|times| {
                    let mut all = || (0..times).try_for_each(|_| score(&pixels).map(drop));
                    Duration::from_secs_f64(device.time_ms(&mut all).expect("kernels that run") / 1e3)
                })
            });
        }
        group.finish();
    }
}

criterion_group!(benches, scores, scores_on_device);
criterion_main!(benches);
