//! One training step of the feature extraction networks at the `small` preset, with and without R1, and one forward pass
//! of the encoder. `tools/peers/extractor_step.py` times the same step in PyTorch.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use isg::{
    Device,
    extractor::{config::ExtractorConfig, training::Training},
    random::Philox,
};

fn step(c: &mut Criterion) {
    let device = Device::cpu();
    let config = ExtractorConfig::small();
    let values = config.batch * config.image_px * config.image_px * 3;
    let images: Vec<f32> = Philox::named(1, "bench").uniforms(values).iter().map(|u| (2.0 * u - 1.0) as f32).collect();
    let mut training = Training::new(&config, &device).expect("the preset is valid");
    let mut group = c.benchmark_group("extractor_step");
    group.sample_size(20);
    // R1 is due on steps 1, 17, 33, ...
    for (name, number) in [("without_r1", 2), ("with_r1", 1)] {
        group.bench_function(name, |b| {
            b.iter_batched(
                || images.clone(),
                |images| training.one_step(number, images).expect("finite losses"),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
