//! Shannon scores on a device with kernels: the CPU's numbers and the CPU's streams, for every size and content, in every
//! schedule. The device is the emulator with all its checks, each time under another seed, or with `ISG_DEVICE=cuda` a GPU.

use std::env;

use isg::{
    Device,
    device::emulator::{Emulator, Options},
    image::RgbImage,
    progress::Silent,
    select::kernels::shannon::{batch, encode},
    select::{Codec, ScoreOptions, Scorer, jpeg, order0, score::score_slide_with, shannon},
    slide::Slide,
};
use proptest::prelude::*;

use crate::shannon::{Noise, contents, drawn, real_images, skewed};

fn device(seed: u64) -> Device {
    match env::var("ISG_DEVICE") {
        Ok(name) if !name.is_empty() && !name.starts_with("emulator") => {
            Device::named(&name).unwrap_or_else(|error| panic!("{error}"))
        }
        _ => Device::gpu(Emulator::new(&Options { seed, ..Options::default() })),
    }
}

/// All codecs of a batch of images of one size, on the device and on the CPU.
fn assert_scores(name: &str, images: &[RgbImage], device: &Device) {
    let pixels = batch(images, device).unwrap();
    let on_cpu = |score: &dyn Fn(&RgbImage) -> u64| images.iter().map(score).collect::<Vec<_>>();
    let of =
        |scores: isg::Result<isg::Tensor>| scores.and_then(|s| s.to_scores()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(of(pixels.shannon_bits()), on_cpu(&shannon::bits), "lz of {name}");
    assert_eq!(of(pixels.shannon_order0()), on_cpu(&order0::entropy_q16), "order0 of {name}");
    for quality in [50, 95] {
        let wanted = on_cpu(&|image| jpeg::coded_bits(image, quality));
        assert_eq!(of(pixels.shannon_jpeg(quality)), wanted, "jpeg {quality} of {name}");
    }
}

fn assert_stream(name: &str, image: &RgbImage, device: &Device) {
    let stream = encode(image, device).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(stream == shannon::encode(image).unwrap(), "{name}: another stream");
    assert!(shannon::decode(&stream).unwrap() == *image, "{name}: other pixels");
}

const SIZES: [(usize, usize); 12] =
    [(1, 1), (1, 2), (2, 1), (3, 3), (4, 1), (1, 700), (700, 1), (5, 129), (127, 128), (129, 131), (257, 64), (48, 33)];

#[test]
fn every_size_and_content_has_the_bits_of_the_cpu() {
    for (seed, (width_px, height_px)) in (1..).zip(SIZES) {
        let (names, images): (Vec<_>, Vec<_>) = contents(width_px, height_px).into_iter().unzip();
        assert_scores(&format!("{names:?} {width_px} x {height_px}"), &images, &device(seed));
    }
}

#[test]
fn every_size_and_content_has_the_stream_of_the_cpu() {
    for (seed, (width_px, height_px)) in (1..).zip(SIZES) {
        let device = device(seed);
        for (name, image) in contents(width_px, height_px) {
            assert_stream(&format!("{name} {width_px} x {height_px}"), &image, &device);
        }
    }
}

#[test]
fn real_tiles_have_the_bits_and_streams_of_the_cpu_under_any_seed() {
    for (seed, (name, image)) in (100..).zip(real_images().into_iter().step_by(3)) {
        let device = device(seed);
        // Sizes that divide into no whole chunks, units or vectors.
        let image = image.crop(7, 5, 233, 150);
        assert_scores(&name, std::slice::from_ref(&image), &device);
        assert_stream(&name, &image, &device);
    }
}

/// Images made to be hard for the parse: copies that begin, overlap and end anywhere, hashes that collide, several segments.
#[test]
fn images_against_the_parse_have_the_stream_of_the_cpu() {
    let mut noise = Noise(77);
    let mut images = Vec::new();
    for colours in [2u64, 3, 5] {
        images.push(drawn(128, 100, |_, _, _| (noise.next() % colours * 40) as u8));
    }
    // Pieces of one line of noise, cut and put together at random: copies of every length and distance.
    let line: Vec<u8> = (0..600).map(|_| noise.next() as u8).collect();
    let mut pieced = Vec::new();
    while pieced.len() < 3 * 128 * 128 {
        let (start, length) = (noise.next() as usize % 180, 1 + noise.next() as usize % 20);
        pieced.extend_from_slice(&line[3 * start..3 * (start + length)]);
    }
    pieced.truncate(3 * 128 * 128);
    images.push(RgbImage { width_px: 128, height_px: 128, pixels: pieced });
    // One copy over the whole chunk, and one that covers all but the last pixels of a segment.
    images.push(RgbImage::filled(128, 128, [9; 3]));
    images.push(drawn(128, 128, |x, y, _| if x + 128 * y < 1020 { 9 } else { (x * 7 + y * 13) as u8 }));
    images.push(drawn(1024, 16, |x, y, c| {
        if y < 3 { (x * x / 7 + 31 * c) as u8 } else { (x * x / 7 + 31 * c) as u8 ^ (y / 5) as u8 }
    }));
    images.push(skewed());
    for (seed, image) in (200..).zip(&images) {
        let device = device(seed);
        assert_scores(&format!("image {seed}"), std::slice::from_ref(image), &device);
        assert_stream(&format!("image {seed}"), image, &device);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_image_has_the_stream_of_the_cpu(
        width_px in 1usize..150,
        height_px in 1usize..60,
        colours in 1u64..256,
        period in 1usize..500,
        seed in any::<u64>(),
    ) {
        let mut noise = Noise(seed);
        let samples: Vec<u8> = (0..period).map(|_| (noise.next() % colours) as u8).collect();
        let mut at = 0;
        let image = drawn(width_px, height_px, |_, _, _| {
            // Mostly the period, sometimes off it.
            at += if noise.next().is_multiple_of(50) { 1 + noise.next() as usize % 7 } else { 1 };
            samples[at % period]
        });
        let device = device(seed);
        assert_scores("the image", std::slice::from_ref(&image), &device);
        assert_stream("the image", &image, &device);
    }
}

#[test]
fn a_slide_has_the_same_scores_on_every_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drawn.png");
    let mut noise = Noise(3);
    drawn(300, 230, |x, y, _| if x > 150 && y > 100 { noise.next() as u8 } else { 250 }).write_png(&path).unwrap();
    let slide = Slide::open(&path).unwrap();
    for codec in [Codec::Lz, Codec::Order0, Codec::Jpeg { quality: 75 }] {
        // More patches than one batch holds.
        let options = ScoreOptions { patch_px: 25, selector: codec.into(), ..ScoreOptions::default() };
        let scores = |device: &Device| {
            let scorer = Scorer::new(&options.selector, device).unwrap();
            score_slide_with(&slide, &options, &scorer, &Silent).unwrap()
        };
        let on_cpu = scores(&Device::cpu());
        assert_eq!(on_cpu.patches.len(), 108);
        assert_eq!(scores(&device(5)), on_cpu, "{codec:?}");
    }
}

#[test]
fn what_is_no_batch_of_images_is_refused() {
    let device = Device::cpu();
    let tensor = |shape: &[usize]| {
        isg::Tensor::from_vec(vec![0u8; shape.iter().product()], isg::Shape::try_new(shape).unwrap(), &device).unwrap()
    };
    assert!(tensor(&[1, 2, 3, 4]).shannon_bits().is_err());
    assert!(tensor(&[2, 3, 3]).shannon_payloads().is_err());
    assert!(isg::Tensor::zeros([1, 2, 2, 3], isg::DType::F32, &device).unwrap().shannon_order0().is_err());
    assert_eq!(tensor(&[0, 2, 2, 3]).shannon_bits().unwrap().to_scores().unwrap(), [0u64; 0]);
    assert_eq!(tensor(&[2, 0, 2, 3]).shannon_bits().unwrap().to_scores().unwrap(), [0, 0]);
    assert!(batch(&[RgbImage::filled(1, 2, [0; 3]), RgbImage::filled(2, 1, [0; 3])], &device).is_err());
    assert!(encode(&RgbImage::filled(0, 2, [0; 3]), &device).is_err());
}
