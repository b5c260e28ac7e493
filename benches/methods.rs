//! One training step of every method that learns step by step, at the sizes of its preset `paper`, on two slides: forward,
//! backward, clipping, AdamW. `tools/peers/method_step.py` times the same steps in PyTorch.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use isg::{
    DType, Device, Result, Tape, Tensor,
    mil::{
        METHODS,
        features::FeatureDims,
        method::{Fit, Method, MethodConfig},
        network::{Dims, Mode, Network, Patches, TrainingStep},
    },
    nn::{
        builder::{Builder, Params},
        vit::Sequences,
    },
    optim::{Adam, AdamConfig},
    preset::Preset,
    random::Philox,
};

const SLIDES: usize = 2;
const GENES: usize = 4;

struct Step {
    network: Network,
    params: Params,
    optimiser: Adam,
    patches: Patches,
    slides: Sequences,
    targets: Tensor,
    number: u32,
}

impl Step {
    fn new(method: &dyn Method, rows: usize, features: FeatureDims) -> Result<Step> {
        let device = Device::cpu();
        let mut b = Builder::fresh(0, DType::F32, &device);
        let network = method.network(&mut b, Dims { features, genes: GENES })?;
        let params = b.finish()?;
        let n = SLIDES * rows;
        let normal = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            Tensor::from_f64(&Philox::named(0, name).normals(count), shape, DType::F32, &device)
        };
        let FeatureDims { global, cell, grid } = features;
        let patches = Patches {
            global: network.input.reads.global.then(|| normal("global", &[n, global])).transpose()?,
            cube: network.input.reads.cube.then(|| normal("cube", &[n, grid, grid, cell])).transpose()?,
            position: None,
        };
        Ok(Step {
            optimiser: Adam::new(&params, AdamConfig::default())?,
            patches,
            slides: Sequences::new(&[rows; SLIDES], &device)?,
            targets: normal("targets", &[SLIDES, GENES])?,
            number: 0,
            params,
            network,
        })
    }

    fn run(&mut self) -> Result<f64> {
        self.number += 1;
        let mut step = TrainingStep::new(0, self.number, self.number as usize % self.network.variants);
        let tape = Tape::start();
        tape.watch(self.params.trainable());
        let y = self.network.forward(&self.patches, &self.slides, &mut Mode::Train(&mut step))?;
        let loss = y.mse_loss(&self.targets)?;
        let value = loss.item()?;
        let grads = tape.backward(&loss)?;
        self.optimiser.step(&self.params, &grads, 1.0)?;
        Ok(value)
    }
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("method_step");
    group.sample_size(10);
    for spec in METHODS {
        let method = MethodConfig::preset(spec, Preset::Paper);
        if matches!(method.fit(), Fit::Closed(_)) {
            continue;
        }
        let (rows, features) = spec.slide;
        let mut step = Step::new(&*method, rows, features).expect("the preset is valid");
        group.bench_function(spec.name, |b| b.iter(|| black_box(step.run().expect("shapes that fit"))));
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
