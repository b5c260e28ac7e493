//! One training step of the Dual Attention network: `small`, the default, on 8 slides of 16 patches as `isg run` trains it,
//! and `paper` (ISG-10-2, ViT-S, d = 512, cubes of 8 × 8 cells) on 2 slides of 16 patches.
//! `tools/peers/regressor_step.py` times the same steps in PyTorch.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use isg::{
    DType, Device, Result, Tape, Tensor,
    mil::{
        features::FeatureDims,
        method::Method,
        methods::isg::Isg,
        network::{Dims, Mode, Network, Patches, TrainingStep},
    },
    nn::{
        builder::{Builder, Params},
        vit::Sequences,
    },
    optim::{Adam, AdamConfig},
    random::Philox,
};

struct Step {
    params: Params,
    network: Network,
    optimiser: Adam,
    patches: Patches,
    targets: Tensor,
    slides: Sequences,
    number: u32,
}

impl Step {
    fn new(isg: &Isg, dims: Dims, slides: usize, patches: usize) -> Result<Step> {
        let device = Device::cpu();
        let mut b = Builder::fresh(0, DType::F32, &device);
        let network = isg.network(&mut b, dims)?;
        let params = b.finish()?;
        let Dims { features: FeatureDims { global, cell, grid }, genes } = dims;
        let normal = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            Tensor::from_f64(&Philox::named(0, name).normals(count), shape, DType::F32, &device)
        };
        Ok(Step {
            optimiser: Adam::new(&params, AdamConfig::default())?,
            patches: Patches {
                cube: Some(normal("cubes", &[slides * patches, grid, grid, cell])?),
                global: Some(normal("globals", &[slides * patches, global])?),
                position: None,
            },
            targets: normal("targets", &[slides, genes])?,
            slides: Sequences::new(&vec![patches; slides], &device)?,
            number: 0,
            params,
            network,
        })
    }

    /// Forward, backward, clipping, AdamW.
    fn run(&mut self) -> Result<f64> {
        self.number += 1;
        let mut step = TrainingStep::new(0, self.number, 0);
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
    let mut group = c.benchmark_group("regressor_step");
    group.sample_size(10);
    let dims = |width, grid| Dims { features: FeatureDims { global: width, cell: width, grid }, genes: 4 };
    let (small, paper) = (dims(64, 4), dims(512, 8));
    for (name, isg, dims, slides) in [("small", Isg::small(), small, 8), ("paper", Isg::paper(), paper, 2)] {
        let mut step = Step::new(&isg, dims, slides, 16).expect("the preset is valid");
        group.bench_function(name, |b| b.iter(|| black_box(step.run().expect("shapes that fit"))));
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
