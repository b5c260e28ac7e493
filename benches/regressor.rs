//! One training step of the Dual Attention network: `small`, the default, on 8 slides of 16 patches as `isg run` trains it,
//! and `paper` (ISG-10-2, ViT-S, d = 512, cubes of 8 × 8 cells) on 2 slides of 16 patches.
//! `tools/peers/regressor_step.py` times the same steps in PyTorch.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use isg::{
    DType, Device, Result, Tape, Tensor,
    mil::regressor::{Dims, Mode, Regressor, RegressorConfig},
    nn::{
        builder::{Builder, Params},
        norm::RunningStats,
        vit::Sequences,
    },
    optim::{Adam, AdamConfig},
    random::Philox,
};

struct Step {
    params: Params,
    model: Regressor,
    optimiser: Adam,
    cubes: Tensor,
    globals: Tensor,
    targets: Tensor,
    slides: Sequences,
    dropout: f64,
    number: u32,
}

impl Step {
    fn new(config: &RegressorConfig, dims: Dims, slides: usize, patches: usize) -> Result<Step> {
        let device = Device::cpu();
        let mut b = Builder::fresh(0, DType::F32, &device);
        let model = Regressor::new(&mut b, config, dims)?;
        let params = b.finish()?;
        let Dims { width, grid, genes } = dims;
        let normal = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            Tensor::from_f64(&Philox::named(0, name).normals(count), shape, DType::F32, &device)
        };
        Ok(Step {
            optimiser: Adam::new(&params, AdamConfig::default())?,
            cubes: normal("cubes", &[slides * patches, grid, grid, width])?,
            globals: normal("globals", &[slides * patches, width])?,
            targets: normal("targets", &[slides, genes])?,
            slides: Sequences::new(&vec![patches; slides], &device)?,
            dropout: config.dropout,
            number: 0,
            params,
            model,
        })
    }

    /// Forward, backward, clipping, AdamW.
    fn run(&mut self) -> Result<f64> {
        self.number += 1;
        let (mut site, mut stats) = (0, RunningStats::default());
        let mut drop = |x: Tensor, residual: Option<&Tensor>| {
            site += 1;
            x.dropout_onto(residual, self.dropout, Philox::named(site, "dropout"), self.number)
        };
        let tape = Tape::start();
        tape.watch(self.params.trainable());
        let mode = Mode::Train { drop: &mut drop, stats: &mut stats };
        let y = self.model.forward(&self.cubes, &self.globals, &self.slides, mode)?;
        let loss = y.mse_loss(&self.targets)?;
        let value = loss.item()?;
        let grads = tape.backward(&loss)?;
        self.optimiser.step(&self.params, &grads, 1.0)?;
        Ok(value)
    }
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("regressor_step");
    group.sample_size(10);
    let small = Dims { width: 64, grid: 4, genes: 4 };
    let paper = Dims { width: 512, grid: 8, genes: 4 };
    for (name, config, dims, slides) in
        [("small", RegressorConfig::small(), small, 8), ("paper", RegressorConfig::paper(), paper, 2)]
    {
        let mut step = Step::new(&config, dims, slides, 16).expect("the preset is valid");
        group.bench_function(name, |b| b.iter(|| black_box(step.run().expect("shapes that fit"))));
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
