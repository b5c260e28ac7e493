//! Speed of the selectors on one core, in bytes of RGB pixels per second: `cargo bench --bench selectors`.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isg::{
    Device,
    image::RgbImage,
    select::{Scorer, Selectors},
    slide::Slide,
};

/// A real tile repeated to 1024 px, or drawn texture where there is none.
fn tissue() -> RgbImage {
    let side_px = 1024;
    let mut image = RgbImage::filled(side_px, side_px, [0; 3]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/golden");
    let tile = Slide::open(golden.join("tcga-cr-7395-01a-01-ts1_L0_x1536_y1280_512.png"))
        .and_then(|slide| slide.read_region(0, 0, 0, 512, 512));
    for (y, x) in (0..side_px).flat_map(|y| (0..side_px).map(move |x| (y, x))) {
        let drawn =
            || [180.0, 120.0, 170.0].map(|base| (base + 60.0 * (x as f64 / 5.0).sin() * (y as f64 / 7.0).cos()) as u8);
        image.put(x, y, tile.as_ref().map_or_else(|_| drawn(), |tile| tile.pixel(x % 512, y % 512)));
    }
    image
}

fn selectors(criterion: &mut Criterion) {
    let image = tissue();
    let mut group = criterion.benchmark_group("tissue");
    group.throughput(Throughput::Bytes(image.pixels.len() as u64)).sample_size(20);
    for selector in Selectors::default().all().filter(|selector| selector.is_complete()) {
        let scorer = Scorer::new(selector, &Device::cpu()).expect("no file is needed");
        group.bench_function(selector.name(), |b| b.iter(|| scorer.measure(black_box(&image), None)));
    }
    group.finish();
}

criterion_group!(benches, selectors);
criterion_main!(benches);
