//! bf16 and TF32 on a device with kernels (the emulator, or with `ISG_DEVICE=cuda` a GPU): every network's passes launch 16-bit
//! kernels, their gradients are f32's within rounding, training lowers its losses, and resumes bit-identical.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ::isg::{
    DType, Device, Error, Result, Tape, Tensor,
    encoder::{self, Parameters, Site},
    extractor::{
        Extractor,
        config::ExtractorConfig,
        discriminator::{Discriminator, r1_penalty},
        patches::MemoryPatches,
        training::{StepRecord, Training, curve, train},
    },
    image::RgbImage,
    mil::{
        METHODS,
        config::TrainConfig,
        features::FeatureDims,
        method::{Fit, Method},
        methods::isg::{Isg, Tokens},
        model::{Model, ModelHeader},
        network::{Dims, Mode, Patches, TrainingStep},
        training::{self, Job, MODEL_FILE, fit},
    },
    nn::{builder::Builder, norm::NormKind, precision::ComputePrecision, vit::Sequences},
    ops::upfirdn2d::Filter,
    preset::Preset,
    progress::{Progress, Silent},
    random::Philox,
};

use crate::{models::simulation, training::device};

/// Launches since the last call of kernels that multiply matrices: of 16 bits, and of f32.
fn products(device: &Device) -> [u64; 2] {
    let mut launches = [0; 2];
    for kernel in device.take_counters() {
        let multiplies = kernel.counts.iter().any(|(name, count)| name.contains("mma") && *count > 0);
        if multiplies {
            launches[usize::from(!kernel.kernel.ends_with("_bf16"))] += kernel.launches;
        }
    }
    launches
}

/// `‖a − b‖ / ‖b‖`.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-12)
}

/// Predictions and all gradients of a training step of a method's network, on 3 and 2 patches.
fn step(method: &Arc<dyn Method>, precision: ComputePrecision, device: &Device) -> Result<[Vec<f64>; 2]> {
    let features = method.row_dims(FeatureDims { global: 8, cell: 8, grid: 4 });
    let mut b = Builder::fresh(3, DType::F32, device);
    let mut network = method.network(&mut b, Dims { features, genes: 2 })?;
    let params = b.finish()?;
    network.precision = precision.on(device);
    let drawn = |name: &str, shape: &[usize]| {
        Tensor::from_f64(&Philox::named(7, name).normals(shape.iter().product()), shape, DType::F32, device)
    };
    let (input, reads) = (network.input, network.input.reads);
    let coords: Vec<[f64; 2]> = (0..5).map(|i| [f64::from(i), 1.5]).collect();
    let position = input.position.input(&coords, input.width, DType::F32);
    let FeatureDims { global, cell, grid } = features;
    let patches = Patches {
        global: reads.global.then(|| drawn("global", &[5, global])).transpose()?,
        cube: reads.cube.then(|| drawn("cube", &[5, grid, grid, cell])).transpose()?,
        position: position
            .map(|v| Tensor::from_buffer(v, input.position.input_shape(5, input.width), device))
            .transpose()?,
    };
    let slides = Sequences::new(&[3, 2], device)?;
    let tape = Tape::start();
    tape.watch(params.trainable());
    let y = network.forward(&patches, &slides, &mut Mode::Train(&mut TrainingStep::new(5, 1, 0)))?;
    assert_eq!(y.dtype(), DType::F32, "losses are of f32");
    let grads = tape.backward(&y.mul(&drawn("weights", &y.shape()[..])?)?.sum_all()?)?;
    let mut all = Vec::new();
    for tensor in params.trainable() {
        if let Some(gradient) = grads.get(tensor) {
            assert_eq!(gradient.dtype(), DType::F32, "so are the gradients that the optimiser reads");
            all.extend(gradient.to_vec::<f64>()?);
        }
    }
    Ok([y.to_vec()?, all])
}

#[test]
fn every_method_steps_in_bf16() -> Result<()> {
    let device = device();
    for spec in METHODS.iter().filter(|spec| (spec.cases)().iter().all(|m| matches!(m.fit(), Fit::Gradient))) {
        for method in (spec.cases)() {
            let [y, gradient] = step(&method, ComputePrecision::F32, &Device::cpu())?;
            device.take_counters();
            let [ours, ours_gradient] = step(&method, ComputePrecision::Bf16, &device)?;
            let [narrow, wide] = products(&device);
            // Heads alone are f32: three GEMMs.
            assert!(narrow > 0 || wide <= 3, "{method:?}: {narrow} products in bf16, {wide} in f32");
            let (of_y, of_gradient) = (distance(&ours, &y), distance(&ours_gradient, &gradient));
            // A batch of five patches is normalised over, and one may take another's place among the highest: the paper's network has
            // neither.
            let [most_of_y, most_of_gradient] = if spec.name == "isg" { [0.03, 0.06] } else { [0.3, f64::INFINITY] };
            assert!(
                of_y < most_of_y && of_gradient < most_of_gradient,
                "{method:?}: {of_y} from the values, {of_gradient} from the gradients"
            );
            assert!(of_gradient > 1e-5, "{method:?} was not rounded");
        }
    }
    Ok(())
}

fn job<'a>(set: &'a ::isg::mil::bags::BagSet, train: &'a [usize], dir: &'a std::path::Path) -> Job<'a> {
    Job {
        set,
        train,
        valid: &[],
        genes: vec![0, 1, 2, 3],
        task: None,
        seed: 9,
        epochs: 4,
        learning_rate: 2e-3,
        patience: 0,
        begin: None,
        dir,
    }
}

/// As `isg run` trains: as CUDA graphs, interrupted after any epoch.
#[test]
fn a_network_fitted_in_bf16_resumes_bit_identical() -> Result<()> {
    let device = device();
    let set = simulation::bags(6, 8, 2, 4);
    let mut config = TrainConfig::preset(Preset::Small);
    (config.max_patches, config.batch_slides, config.checkpoint_s) = (4, 2, 0);
    assert_eq!(config.precision, ComputePrecision::Bf16, "the default");
    let train: Vec<usize> = (0..6).collect();
    let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let header = fit(&job(&set, &train, whole.path()), &config, &device, &Silent)?;
    assert_eq!(header.precision, ComputePrecision::Bf16);
    let losses: Vec<f64> = training::curve(whole.path())?.iter().map(|record| record.train_loss).collect();
    assert!(losses[3] < losses[0], "{losses:?}");
    let stopped = fit(&job(&set, &train, parts.path()), &config, &device, &StopAfter(AtomicU64::new(2)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    fit(&job(&set, &train, parts.path()), &config, &device, &Silent)?;
    let bytes = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(MODEL_FILE)).expect("a model");
    assert!(bytes(&whole) == bytes(&parts), "the stored models differ");
    // The same settings on the CPU are f32, and what is stored says so; weights are f32 everywhere.
    let on_cpu = tempfile::tempdir().expect("a folder");
    let header = fit(&job(&set, &train, on_cpu.path()), &config, &Device::cpu(), &Silent)?;
    assert_eq!(
        (header.precision, header.key),
        (ComputePrecision::F32, ModelHeader::read(&whole.path().join(MODEL_FILE))?.key)
    );
    let model = Model::load(&whole.path().join(MODEL_FILE), &device)?;
    assert!(model.params.named().all(|(_, tensor)| tensor.dtype() == DType::F32));
    device.take_counters();
    let predicted = model.predict(&*set.bags[0].features)?;
    assert!(products(&device)[0] > 0, "predicted as it was trained");
    let cpu = Model::load(&whole.path().join(MODEL_FILE), &Device::cpu())?.predict(&*set.bags[0].features)?;
    assert!(distance(&predicted, &cpu) < 0.02, "{predicted:?} in bf16, {cpu:?} in f32");
    // Another precision is another network.
    let other = TrainConfig { precision: ComputePrecision::Tf32, ..config };
    assert_ne!(fit(&job(&set, &train, on_cpu.path()), &other, &Device::cpu(), &Silent)?.key, header.key);
    Ok(())
}

struct StopAfter(AtomicU64);

impl Progress for StopAfter {
    fn begin(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, by: u64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(by)));
    }
    fn remark(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Encoder, generator and critic at 16 pixels, with R1 in every other step.
fn tiny() -> ExtractorConfig {
    let mut config = ExtractorConfig::small();
    (config.image_px, config.d, config.batch, config.steps) = (16, 16, 2, 6);
    config.encoder.channels = vec![8, 8, 16];
    config.encoder.head_pool_px = vec![2, 1];
    config.generator_channels = vec![16, 8, 8];
    config.discriminator.channels = vec![8, 8, 16];
    config.lpips.weights = "none".into();
    (config.loss.r1_every_steps, config.checkpoint_every_steps) = (2, 100);
    config
}

fn images(count: usize) -> Vec<RgbImage> {
    let image = |i: usize| {
        let noise = Philox::named(i as u64, "image").uniforms(16 * 16 * 3);
        RgbImage { width_px: 16, height_px: 16, pixels: noise.iter().map(|u| (u * 90.0) as u8 + 60).collect() }
    };
    (0..count).map(image).collect()
}

#[test]
fn an_extractor_steps_in_bf16() -> Result<()> {
    let (config, device) = (tiny(), device());
    let exact = ExtractorConfig { precision: ComputePrecision::F32, ..config.clone() };
    let (mut here, mut there) = (Training::new(&exact, &device)?, Training::new(&config, &device)?);
    let mut losses = Vec::new();
    for number in 1..=8 {
        // One batch over and over.
        let drawn = Philox::named(1, "images").uniforms(config.batch * 16 * 16 * 3);
        let values: Vec<f32> = drawn.into_iter().map(|u| (2.0 * u - 1.0) as f32).collect();
        let expected = here.one_step(number, values.clone())?;
        device.take_counters();
        let ours = there.one_step(number, values)?;
        let [narrow, wide] = products(&device);
        assert!(narrow > 2 * wide, "step {number}: {narrow} products in bf16, {wide} in f32");
        let terms = |r: &StepRecord| [Some(r.l1), r.adversarial, r.critic, r.r1].map(|v| v.unwrap_or(0.0));
        for (ours, expected) in terms(&ours).into_iter().zip(terms(&expected)) {
            let limit = if number == 1 { 0.02 } else { 0.1 };
            assert!(
                (ours - expected).abs() <= limit * expected.abs().max(0.05),
                "step {number}: {ours} for {expected}"
            );
        }
        losses.push(ours.l1);
    }
    assert!(losses[7] < losses[0], "{losses:?}");
    Ok(())
}

/// The penalty's gradient in the critic's weights, which is of second order, at the resolutions that StyleGAN rounds.
#[test]
fn r1_has_16_bits_at_the_four_highest_resolutions() -> Result<()> {
    let device = device();
    let mut config = tiny().discriminator;
    config.channels = vec![4; 6];
    let gradient = |precision: ComputePrecision| -> Result<(Vec<f64>, [u64; 2])> {
        let mut b = Builder::fresh(2, DType::F32, &device);
        let critic = Discriminator::new(&mut b, &config, &Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?, precision)?;
        let params = b.finish()?;
        let real = Philox::named(4, "real").uniforms(128 * 128 * 3);
        let real = Tensor::from_f64(&real, [1, 128, 128, 3], DType::F32, &device)?;
        device.take_counters();
        let tape = Tape::start();
        tape.watch(params.trainable().into_iter().chain([&real]));
        let penalty = r1_penalty(&tape, &critic.forward_for_r1(&real)?, &real)?;
        let grads = tape.backward(&penalty)?;
        let mut all = Vec::new();
        for tensor in params.trainable() {
            all.extend(grads.get(tensor).map(|g| g.to_vec::<f64>()).transpose()?.unwrap_or_default());
        }
        Ok((all, products(&device)))
    };
    let (expected, [none, _]) = gradient(ComputePrecision::F32)?;
    let (ours, [narrow, wide]) = gradient(ComputePrecision::Bf16)?;
    assert!(none == 0 && narrow > 0 && wide > 0, "{narrow} products in bf16, {wide} in f32");
    assert!(distance(&ours, &expected) < 0.06, "{}", distance(&ours, &expected));
    Ok(())
}

#[test]
fn an_extractor_trained_in_bf16_resumes_bit_identical() -> Result<()> {
    let (config, device) = (tiny(), device());
    let source = MemoryPatches(images(5));
    let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    train(&config, &source, whole.path(), &device, &Silent)?;
    let stopped = train(&config, &source, parts.path(), &device, &StopAfter(AtomicU64::new(3)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    train(&config, &source, parts.path(), &device, &Silent)?;
    assert_eq!(curve(parts.path())?, curve(whole.path())?);
    let bytes = |dir: &tempfile::TempDir| std::fs::read(dir.path().join("extractor.safetensors")).expect("finished");
    assert!(bytes(&whole) == bytes(&parts), "the stored extractors differ");
    // Features in bf16 are those of f32 to its rounding, and of another digest than those asked for in f32.
    device.take_counters();
    let features = Extractor::load(whole.path(), &device)?.encode(&source.0)?;
    assert!(products(&device)[0] > 0);
    let exact = Extractor::load(whole.path(), &Device::cpu())?.encode(&source.0)?;
    let [features, exact] = [features, exact].map(|v| v.into_iter().map(f64::from).collect::<Vec<_>>());
    assert!(distance(&features, &exact) < 0.05, "{}", distance(&features, &exact));
    Ok(())
}

#[test]
fn image_networks_encode_in_bf16() -> Result<()> {
    let device = device();
    let (pair, folder) = (tiny(), tempfile::tempdir().expect("a folder"));
    for (name, more) in [("resnet18", ("tile_px", 32)), ("untrained", ("", 0))] {
        let mut settings = Parameters::new();
        if name == "resnet18" {
            settings.extend([("weights".to_string(), "random".into()), (more.0.to_string(), more.1.into())]);
        }
        let encoder = encoder::named(name, settings)?;
        let at = |precision| {
            let extractor = &ExtractorConfig { precision, ..pair.clone() };
            let loaded = encoder.load(Site { dir: folder.path(), extractor, precision }, &device)?;
            device.take_counters();
            Ok::<_, Error>((loaded.encode(&images(2))?, products(&device), loaded.digest()))
        };
        let (exact, [none, _], digest) = at(ComputePrecision::F32)?;
        let (ours, [narrow, _], other) = at(ComputePrecision::Bf16)?;
        assert!(none == 0 && narrow > 0 && digest != other, "{name}: {none} and {narrow} products in bf16");
        let [ours, exact] = [ours, exact].map(|v| v.into_iter().map(f64::from).collect::<Vec<_>>());
        assert!(distance(&ours, &exact) < 0.05, "{name}: {}", distance(&ours, &exact));
    }
    Ok(())
}

/// The Dual Attention network as the paper prints it, all of it in 16 bits: error of the prediction, of all gradients as one vector, and
/// of the worst single gradient, whose name comes with it. The reference is f64 on the same rounded weights and inputs.
fn errors_of_literal(seed: u64, dtype: DType, device: &Device) -> Result<(f64, f64, (f64, String))> {
    let literal = Isg {
        mbconv_blocks: 2,
        fusion_every: 1,
        mbconv_norm: NormKind::Batch,
        fusion_residual: false,
        fusion_norm: false,
        tokens: Tokens::Local,
        ..Isg::small()
    };
    let dims = Dims { features: FeatureDims { global: 16, cell: 16, grid: 4 }, genes: 6 };
    let mut b = Builder::fresh(seed, dtype, device);
    let _ = literal.network(&mut b, dims)?;
    let weights = b.finish()?;
    let drawn = |name: &str, shape: &[usize]| {
        Tensor::from_f64(&Philox::named(seed, name).normals(shape.iter().product()), shape, dtype, device)
    };
    let inputs = [drawn("cube", &[5, 4, 4, 16])?, drawn("global", &[5, 16])?, drawn("weights", &[1, 6])?];
    type Gradients = Vec<(String, Vec<f64>)>;
    let gradients = |dtype: DType, device: &Device| -> Result<(Vec<f64>, Gradients)> {
        let at = |t: &Tensor| Tensor::from_buffer(t.to_buffer()?.cast(dtype), t.shape(), device);
        let held = weights.named().map(|(name, t)| Ok((name.to_string(), at(t)?))).collect::<Result<_>>()?;
        let mut b = Builder::load(held, "the test", dtype, device);
        let network = literal.network(&mut b, dims)?;
        let params = b.finish()?;
        let [cube, global, seed] = [&inputs[0], &inputs[1], &inputs[2]].map(at);
        let patches = Patches { cube: Some(cube?), global: Some(global?), position: None };
        let tape = Tape::start();
        tape.watch(params.trainable());
        let y = network.forward(&patches, &Sequences::new(&[5], device)?, &mut Mode::Evaluate)?;
        let grads = tape.backward_from(&[(&y, seed?.cast(y.dtype())?)])?;
        let one = |(name, t): (&str, &Tensor)| {
            Ok((name.to_string(), grads.get(t).map(|g| g.to_vec::<f64>()).transpose()?.unwrap_or_default()))
        };
        Ok((y.to_vec()?, params.named_trainable().map(one).collect::<Result<_>>()?))
    };
    let (wanted_y, wanted) = gradients(DType::F64, &Device::cpu())?;
    let (y, ours) = gradients(dtype, device)?;
    let all = |gradients: &[(String, Vec<f64>)]| gradients.iter().flat_map(|(_, g)| g.clone()).collect::<Vec<_>>();
    let single = ours.iter().zip(&wanted).map(|((name, a), (_, b))| (distance(a, b), name.clone()));
    let worst = single.fold((0.0, String::new()), |a, b| if b.0 > a.0 { b } else { a });
    Ok((distance(&y, &wanted_y), distance(&all(&ours), &all(&wanted)), worst))
}

/// The CPU computes every op in f32 and rounds what it stores: no 16-bit kernel can do better. Kernels are as near, on the whole and in
/// their worst single gradient, which is a bias's: the small difference of large numbers, of which a few hundredths are rounding.
#[test]
fn kernels_err_as_rounding_alone_does() -> Result<()> {
    let device = device();
    for (dtype, outputs, gradients) in [(DType::Bf16, 3e-2, 8e-2), (DType::F16, 5e-3, 2e-2)] {
        let (mut here, mut there) = ([0.0f64; 3], [0.0f64; 3]);
        for seed in 1..=8 {
            for (worst, device) in [(&mut here, &Device::cpu()), (&mut there, &device)] {
                let (of_y, of_all, (of_one, name)) = errors_of_literal(seed, dtype, device)?;
                println!(
                    "{dtype} seed {seed} on {device}: outputs {of_y:.2e}, gradients {of_all:.2e}, {name} {of_one:.2e}"
                );
                assert!(of_y < outputs && of_all < gradients, "{dtype}, seed {seed} on {device}: {of_y}, {of_all}");
                *worst = [worst[0].max(of_y), worst[1].max(of_all), worst[2].max(of_one)];
            }
        }
        for (ours, rounding) in there.iter().zip(&here) {
            assert!(*ours < 1.5 * rounding, "{dtype}: {there:?} by kernels, {here:?} by rounding");
        }
    }
    Ok(())
}
