//! Whole training steps on a device with kernels (the emulator, or with `ISG_DEVICE=cuda` a GPU): the losses are the CPU's, and
//! a captured step replayed is the step itself, bit for bit.

use std::{cell::RefCell, env};

use ::isg::{
    DType, Device, Result, Shape, Tape, Tensor,
    device::emulator::{Emulator, Options},
    extractor::{config::ExtractorConfig, training::Training},
    mil::{
        config::TrainConfig,
        features::FeatureDims,
        method::Method as _,
        methods::isg::Isg,
        network::{Dims, Mode, Network, Patches, TrainingStep},
        training::{Job, curve, fit},
    },
    nn::{
        builder::{Builder, Params},
        precision::ComputePrecision,
        vit::Sequences,
    },
    optim::{Adam, AdamConfig, Ema},
    preset::Preset,
    progress::Silent,
    random::Philox,
};

use crate::models::simulation;

pub(crate) fn device() -> Device {
    match env::var("ISG_DEVICE") {
        Ok(name) if !name.is_empty() && !name.starts_with("emulator") => {
            Device::named(&name).unwrap_or_else(|error| panic!("{error}"))
        }
        _ => Device::gpu(Emulator::new(&Options { seed: 21, ..Options::default() })),
    }
}

/// A small Dual Attention network on two slides of 3 and 5 patches.
struct Regression {
    network: Network,
    params: Params,
    adam: RefCell<Adam>,
    averaged: Ema,
    slides: Sequences,
    patches: Patches,
    targets: Tensor,
}

impl Regression {
    fn new(device: &Device) -> Result<Regression> {
        let isg = Isg { mbconv_blocks: 2, ..Isg::small() };
        let features = FeatureDims { global: 12, cell: 12, grid: 3 };
        let mut b = Builder::fresh(5, DType::F32, device);
        let network = isg.network(&mut b, Dims { features, genes: 3 })?;
        let params = b.finish()?;
        let drawn = |name: &str, shape: &[usize]| {
            let shape = Shape::from(shape);
            Tensor::from_f64(&Philox::named(3, name).normals(shape.elems()), shape, DType::F32, device)
        };
        let settings = AdamConfig { lr: 3e-3, weight_decay: 0.01, ..AdamConfig::default() };
        Ok(Regression {
            network,
            adam: RefCell::new(Adam::new(&params, settings)?),
            averaged: Ema::of(&params)?,
            params,
            slides: Sequences::new(&[3, 5], device)?,
            patches: Patches {
                cube: Some(drawn("cubes", &[8, 3, 3, 12])?),
                global: Some(drawn("globals", &[8, 12])?),
                position: None,
            },
            targets: drawn("targets", &[2, 3])?,
        })
    }

    /// Everything of a step that happens on the device; returns the loss and the gradient's norm, not looked at.
    fn launches(&self, number: u32) -> Result<[Tensor; 2]> {
        let mut step = TrainingStep::new(3, number, 0);
        let tape = Tape::start();
        tape.watch(self.params.trainable());
        let y = self.network.forward(&self.patches, &self.slides, &mut Mode::Train(&mut step))?;
        let loss = y.mse_loss(&self.targets)?;
        let grads = tape.backward(&loss)?;
        let norm = self.adam.borrow().apply(&self.params, &grads, 0.5)?.expect("gradients");
        self.averaged.update(&self.params, 0.9)?;
        Ok([loss, norm])
    }

    fn step(&self, number: u32) -> Result<[f64; 2]> {
        self.adam.borrow_mut().advance()?;
        let [loss, norm] = self.launches(number)?;
        Ok([loss.item()?, norm.item()?])
    }

    fn weights(&self) -> Result<Vec<Vec<f32>>> {
        self.params.trainable().iter().map(|t| t.to_vec()).collect()
    }
}

fn near(ours: f64, reference: f64, limit: f64) -> bool {
    (ours - reference).abs() <= limit * reference.abs().max(1e-3)
}

#[test]
fn a_regressor_trains_as_on_the_cpu() -> Result<()> {
    let (here, there) = (Regression::new(&Device::cpu())?, Regression::new(&device())?);
    let mut first = None;
    for number in 1..=4 {
        let (expected, ours) = (here.step(number)?, there.step(number)?);
        for (ours, expected) in ours.into_iter().zip(expected) {
            assert!(near(ours, expected, 2e-3), "step {number}: {ours} on the device, {expected} on the CPU");
        }
        first = first.or(Some(ours[0]));
    }
    let last = there.step(5)?[0];
    assert!(first.is_some_and(|first| last < first), "five steps do not lower the loss: {first:?} to {last}");
    Ok(())
}

#[test]
fn a_recorded_regressor_step_is_the_step() -> Result<()> {
    let device = device();
    let (eager, recorded) = (Regression::new(&device)?, Regression::new(&device)?);
    assert_eq!(eager.step(1)?, recorded.step(1)?);
    recorded.adam.borrow_mut().advance()?;
    let (graph, [loss, norm]) = device.capture(|| recorded.launches(2))?;
    for number in 2..=4 {
        if number > 2 {
            recorded.adam.borrow_mut().advance()?;
        }
        graph.replay()?;
        assert_eq!([loss.item()?, norm.item()?], eager.step(number)?, "step {number}");
    }
    assert_eq!(recorded.weights()?, eager.weights()?);
    Ok(())
}

/// As `isg run` trains a network: from the second step of one shape on, the device replays a recording.
#[test]
fn a_network_is_fitted_as_on_the_cpu() -> Result<()> {
    let set = simulation::bags(6, 8, 2, 4);
    let mut config = TrainConfig { precision: ComputePrecision::F32, ..TrainConfig::preset(Preset::Small) };
    (config.max_patches, config.batch_slides, config.checkpoint_s) = (4, 2, 3600);
    let curve_on = |device: &Device| {
        let folder = tempfile::tempdir().expect("a folder");
        let job = Job {
            set: &set,
            train: &[0, 1, 2, 3, 4, 5],
            valid: &[],
            genes: vec![0, 1, 2, 3],
            task: None,
            seed: 9,
            epochs: 3,
            learning_rate: 2e-3,
            patience: 0,
            begin: None,
            dir: folder.path(),
        };
        fit(&job, &config, device, &Silent)?;
        curve(folder.path())
    };
    let (expected, ours) = (curve_on(&Device::cpu())?, curve_on(&device())?);
    assert_eq!((expected.len(), ours.len()), (3, 3));
    for (ours, expected) in ours.iter().zip(&expected) {
        let agree = near(ours.train_loss, expected.train_loss, 5e-3)
            && near(ours.gradient_norm, expected.gradient_norm, 2e-2)
            && ours.learning_rate == expected.learning_rate;
        assert!(agree, "{ours:?} on the device, {expected:?} on the CPU");
    }
    Ok(())
}

/// Encoder, generator and critic at 16 pixels. Both updates and R1's, due in odd steps, are run, recorded and replayed; after
/// the fourth step the critic's view changes, and all of it begins anew.
#[test]
fn an_extractor_trains_as_on_the_cpu() -> Result<()> {
    let mut config = ExtractorConfig { precision: ComputePrecision::F32, ..ExtractorConfig::small() };
    (config.image_px, config.d, config.batch, config.steps) = (16, 12, 2, 3);
    config.encoder.channels = vec![8, 8, 12];
    config.encoder.head_pool_px = vec![2, 1];
    config.generator_channels = vec![12, 8, 8];
    config.discriminator.channels = vec![8, 8, 12];
    config.lpips.weights = "none".into();
    // This seed's critic is sure enough of itself to be shown transformed images.
    (config.seed, config.loss.r1_every_steps) = (3, 2);
    (config.augment.adaptive_target, config.augment.adaptive_length_images) = (1e-9, 40.0);
    let (cpu, other) = (Device::cpu(), device());
    let (mut here, mut there) = (Training::new(&config, &cpu)?, Training::new(&config, &other)?);
    for step in 1..=7 {
        let count = config.batch * 16 * 16 * 3;
        let drawn = Philox::named(step, "images").uniforms(count);
        let images: Vec<f32> = drawn.into_iter().map(|u| (2.0 * u - 1.0) as f32).collect();
        let (expected, ours) = (here.one_step(step, images.clone())?, there.one_step(step, images)?);
        let terms = [
            (Some(ours.l1), Some(expected.l1)),
            (ours.adversarial, expected.adversarial),
            (ours.critic, expected.critic),
            (ours.r1, expected.r1),
        ];
        for (term, (ours, expected)) in ["l1", "adversarial", "critic", "r1"].iter().zip(terms) {
            let agree = match (ours, expected) {
                (None, None) => true,
                (Some(ours), Some(expected)) => near(ours, expected, if step == 1 { 1e-3 } else { 1e-2 }),
                _ => false,
            };
            assert!(agree, "step {step}, {term}: {ours:?} on the device, {expected:?} on the CPU");
        }
    }
    Ok(())
}
