//! Feature extraction: reference values of LPIPS and R1, overfitting, exact resumption, refusals.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use isg::{
    DType, Device, Error, Result, Tape, Tensor,
    activation::{Activation, ActivationParams},
    extractor::{
        Extractor,
        config::ExtractorConfig,
        discriminator::r1_penalty,
        lpips::{ALEXNET_WIDTHS, Lpips},
        patches::{MemoryPatches, PatchSource},
        training::{curve, train},
    },
    image::RgbImage,
    io::{
        NamedArray,
        checksum::Digest,
        safetensors::{self, SafetensorsFile},
    },
    nn::{Builder, equalized::halving},
    ops::{conv2d::Conv2d, modulated_conv2d::Resampling, upfirdn2d::Filter},
    progress::{Progress, Silent},
    random::Philox,
};

fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared")
}

// ------------------------------------------------------------------------------------- reference values
/// One conformance case: its arrays, at the wanted type.
struct Case {
    name: String,
    file: SafetensorsFile,
    dtype: DType,
    device: Device,
}

impl Case {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let view = self.file.get(name)?;
        Tensor::from_f64(&view.to_f64(), view.shape, self.dtype, &self.device)
    }

    /// ‖ours - reference‖ / ‖reference‖ against a bound.
    fn check(&self, name: &str, ours: &Tensor, bound: f64) -> Result<()> {
        let view = self.file.get(name)?;
        assert_eq!(&*ours.shape(), view.shape, "{} {name}", self.name);
        let (ours, reference) = (ours.to_vec::<f64>()?, view.to_f64());
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
        let error = norm(&mut ours.iter().zip(&reference).map(|(a, b)| a - b)) / norm(&mut reference.iter().copied());
        assert!(error <= bound, "{} {name} in {}: relative error {error:e}", self.name, self.dtype);
        Ok(())
    }
}

fn cases(op: &str) -> Result<Vec<Case>> {
    let mut found = Vec::new();
    for index in 0..100 {
        let path = shared().join(format!("conformance/cases/{op}-{index:02}.safetensors"));
        if !path.is_file() {
            break;
        }
        for dtype in [DType::F64, DType::F32] {
            let name = format!("{op}-{index:02}");
            found.push(Case { name, file: SafetensorsFile::open(&path)?, dtype, device: Device::cpu_poisoned() });
        }
    }
    if found.is_empty() {
        println!("no conformance cases of {op} beside the repository: nothing compared");
    }
    Ok(found)
}

fn bounds(dtype: DType) -> (f64, f64) {
    if dtype == DType::F64 { (1e-12, 1e-11) } else { (2e-5, 1e-4) }
}

#[test]
fn lpips_agrees_with_the_reference() -> Result<()> {
    for case in cases("lpips")? {
        let (mut tensors, mut widths) = (HashMap::new(), [0; 5]);
        for (i, width) in widths.iter_mut().enumerate() {
            for name in [format!("conv{i}.weight"), format!("conv{i}.bias"), format!("lin{i}.weight")] {
                let tensor = case.tensor(&format!("in.{name}"))?;
                *width = tensor.shape()[0];
                tensors.insert(name, tensor);
            }
        }
        let lpips = Lpips::from_builder(&mut Builder::load(tensors, &case.name, case.dtype, &case.device), widths)?;
        let (x0, x1) = (case.tensor("in.x0")?, case.tensor("in.x1")?);
        let tape = Tape::start();
        tape.watch([&x0, &x1]);
        let distance = lpips.distance(&x0, &x1)?;
        let grads = tape.backward_from(&[(&distance, case.tensor("cotangent.distance")?)])?;
        let (outputs, gradients) = bounds(case.dtype);
        case.check("out.distance", &distance, outputs)?;
        for (name, x) in [("grad.x0", &x0), ("grad.x1", &x1)] {
            case.check(name, grads.get(x).expect("watched"), gradients)?;
        }
    }
    Ok(())
}

#[test]
fn r1_and_its_second_order_gradients_agree_with_the_reference() -> Result<()> {
    for case in cases("r1_penalty")? {
        let [x, w0, b0, w1, b1, w2, b2] =
            ["x", "w0", "b0", "w1", "b1", "w2", "b2"].map(|name| case.tensor(&format!("in.{name}")));
        let (x, w0, b0, w1, b1, w2, b2) = (x?, w0?, b0?, w1?, b1?, w2?, b2?);
        let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?;
        let tape = Tape::start();
        tape.watch([&x, &w0, &b0, &w1, &b1, &w2, &b2]);
        let y = x.conv2d(&w0, None, Conv2d { padding: 1, ..Conv2d::default() })?;
        let leaky = ActivationParams { alpha: 0.2, gain: 2f64.sqrt(), clamp: None };
        let y = y.bias_act(Some(&b0), Activation::LeakyRelu, leaky)?;
        let halved = Resampling { padding: 1, ..halving(&filter) };
        let y =
            y.resampled_conv2d(&w1, &halved)?.bias_act(Some(&b1), Activation::Softplus, ActivationParams::default())?;
        let n = x.shape()[0];
        let logits = y.reshape([n, y.shape().elems() / n])?.linear(&w2, Some(&b2))?;
        let penalty = r1_penalty(&tape, &logits, &x)?;
        let seeds = [(&penalty, case.tensor("cotangent.penalty")?), (&logits, case.tensor("cotangent.logits")?)];
        let grads = tape.backward_from(&seeds)?;
        let (outputs, gradients) = bounds(case.dtype);
        case.check("out.penalty", &penalty, outputs)?;
        case.check("out.logits", &logits, outputs)?;
        for (name, tensor) in [("w0", &w0), ("b0", &b0), ("w1", &w1), ("b1", &b1), ("w2", &w2)] {
            case.check(&format!("grad.{name}"), grads.get(tensor).expect("watched"), gradients)?;
        }
    }
    Ok(())
}

// ------------------------------------------------------------------------------------- LPIPS files
#[test]
fn lpips_weights_come_from_an_alexnet_checkpoint_and_linear_layers() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (trunk, linear) = (folder.path().join("alexnet.safetensors"), folder.path().join("linear.safetensors"));
    let shapes = [[64, 3, 11, 11], [192, 64, 5, 5], [384, 192, 3, 3], [256, 384, 3, 3], [256, 256, 3, 3]];
    let mut arrays = Vec::new();
    let mut heads = Vec::new();
    for ((i, shape), layer) in shapes.iter().enumerate().zip([0, 3, 6, 8, 10]) {
        let values: Vec<f32> =
            Philox::named(i as u64, "w").normals(shape.iter().product()).into_iter().map(|v| 0.05 * v as f32).collect();
        arrays.push(NamedArray::from_f32(format!("features.{layer}.weight"), shape, &values)?);
        arrays.push(NamedArray::from_f32(format!("features.{layer}.bias"), &shape[..1], &vec![0.1; shape[0]])?);
        let values: Vec<f32> = (0..shape[0]).map(|c| c as f32 / 1000.0).collect();
        heads.push(NamedArray::from_f32(format!("lin{i}.model.1.weight"), &[1, shape[0], 1, 1], &values)?);
    }
    // The second layer's convolution lies behind the fully connected layers of a whole checkpoint.
    arrays.push(NamedArray::from_f32("classifier.6.bias", &[2], &[0.0, 0.0])?);
    let write = |path: &Path, arrays: &[NamedArray]| {
        let views: Vec<_> = arrays.iter().map(NamedArray::view).collect();
        safetensors::write(path, &views, &Default::default())
    };
    write(&trunk, &arrays)?;
    write(&linear, &heads)?;
    let device = Device::cpu();
    let lpips = Lpips::load(&trunk, &linear, DType::F32, &device)?;

    // The same numbers by hand into the layout of the tensors' own names.
    let mut tensors = HashMap::new();
    for (i, ([k, c, r, s], pair)) in shapes.into_iter().zip(arrays.chunks(2)).enumerate() {
        let (from, mut to) = (pair[0].to_f32(), vec![0.0; k * c * r * s]);
        for (at, value) in from.into_iter().enumerate() {
            let (k, c_at, tap) = (at / (c * r * s), at / (r * s) % c, at % (r * s));
            to[(k * r * s + tap) * c + c_at] = value;
        }
        tensors.insert(format!("conv{i}.weight"), Tensor::from_vec(to, [k, r, s, c], &device)?);
        tensors.insert(format!("conv{i}.bias"), Tensor::from_vec(pair[1].to_f32(), [k], &device)?);
        tensors.insert(format!("lin{i}.weight"), Tensor::from_vec(heads[i].to_f32(), [k], &device)?);
    }
    let expected = Lpips::from_builder(&mut Builder::load(tensors, "test", DType::F32, &device), ALEXNET_WIDTHS)?;
    let images = |seed| {
        let values = Philox::named(seed, "x").uniforms(2 * 33 * 35 * 3).into_iter().map(|v| 2.0 * v as f32 - 1.0);
        Tensor::from_vec(values.collect(), [2, 33, 35, 3], &device)
    };
    let (a, b) = (images(1)?, images(2)?);
    let distance = lpips.distance(&a, &b)?.to_vec::<f32>()?;
    assert_eq!(distance, expected.distance(&a, &b)?.to_vec::<f32>()?);
    assert!(distance.iter().all(|d| *d > 1e-3), "{distance:?}");
    assert_eq!(lpips.distance(&a, &a)?.to_vec::<f32>()?, [0.0, 0.0]);

    let real = shared().join("data/lpips/weights/v0.1/alex.pth");
    if real.is_file() {
        let distance = Lpips::load(&trunk, &real, DType::F32, &device)?.distance(&a, &b)?.to_vec::<f32>()?;
        assert!(distance.iter().all(|d| *d > 0.0 && d.is_finite()), "{distance:?}");
    }
    let message = Lpips::load(&folder.path().join("alexnet-owt-7be5be79.pth"), &linear, DType::F32, &device);
    let message = message.err().expect("no such file").to_string();
    assert!(message.contains("torchvision") && message.contains("random"), "{message}");
    let message = Lpips::load(&trunk, &trunk, DType::F32, &device).err().expect("not the linear layers").to_string();
    assert!(message.contains("lin0.model.1.weight"), "{message}");
    Ok(())
}

#[test]
fn lpips_has_finite_gradients_where_nothing_is_active() -> Result<()> {
    let device = Device::cpu();
    let mut builder = Builder::fresh(1, DType::F32, &device);
    let lpips = Lpips::from_builder(&mut builder, [4, 4, 4, 4, 4])?;
    // The mid grey of AlexNet's statistics: every activation is zero.
    let grey = [-0.030f32, -0.088, -0.188].repeat(32 * 32);
    let (x0, x1) = (Tensor::from_vec(grey.clone(), [1, 32, 32, 3], &device)?, {
        Tensor::from_vec(grey.iter().map(|v| v + 0.1).collect::<Vec<f32>>(), [1, 32, 32, 3], &device)?
    });
    let tape = Tape::start();
    tape.watch([&x0]);
    let distance = lpips.distance(&x0, &x1)?;
    let grads = tape.backward(&distance)?;
    assert!(grads.get(&x0).expect("watched").to_vec::<f32>()?.iter().all(|v| v.is_finite()));
    Ok(())
}

// ------------------------------------------------------------------------------------- training
/// Stripes of one slope and colour, or blobs, on a pale ground.
fn drawings(count: usize, px: usize) -> MemoryPatches {
    let draw = |index: usize| {
        let chance = Philox::named(index as u64, "drawing");
        let [slope, phase, red, blue] = chance.uniform4(0);
        let [x0, y0, radius, _] = chance.uniform4(1);
        let mut image = RgbImage::filled(px, px, [230, 220, 230]);
        for y in 0..px {
            for x in 0..px {
                let (u, v) = (x as f64 / px as f64, y as f64 / px as f64);
                let inside = if index.is_multiple_of(2) {
                    ((u * slope + v * (1.0 - slope) + phase) * 4.0).fract() < 0.5
                } else {
                    (u - x0).hypot(v - y0) < 0.15 + 0.3 * radius
                };
                if inside {
                    image.put(x, y, [(red * 200.0) as u8, 60, (blue * 200.0) as u8]);
                }
            }
        }
        image
    };
    MemoryPatches((0..count).map(draw).collect())
}

/// The smallest network that is all of it: 16 px, both upsampling sizes, every loss but LPIPS.
fn tiny() -> ExtractorConfig {
    let mut config = ExtractorConfig::small();
    config.image_px = 16;
    config.d = 24;
    config.encoder.channels = vec![8, 12, 16];
    config.encoder.head_pool_px = vec![2, 1];
    config.generator_channels = vec![16, 12, 8];
    config.discriminator.channels = vec![8, 12, 16];
    config.lpips.weights = "none".into();
    config.batch = 6;
    config.steps = 6;
    config.checkpoint_every_steps = 2;
    config
}

#[test]
fn a_few_dozen_steps_learn_a_few_drawings() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = tiny();
    config.steps = 60;
    config.checkpoint_every_steps = 60;
    config.augment.flips = false;
    config.augment.rotations = false;
    let source = drawings(6, 24);
    let device = Device::cpu();
    train(&config, &source, folder.path(), &device, &Silent)?;
    let curve = curve(folder.path())?;
    let mean = |records: &[isg::extractor::training::StepRecord]| {
        records.iter().map(|r| r.l1).sum::<f64>() / records.len() as f64
    };
    let (first, last) = (mean(&curve[..3]), mean(&curve[57..]));
    assert!(last < 0.5 * first, "L1 {first:.3} -> {last:.3}");
    assert!(curve.iter().all(|r| r.critic.is_some() && r.r1.is_some() == ((r.step - 1) % 16 == 0)));

    // The averaged model, read back, reconstructs what it learnt and tells the drawings apart.
    let extractor = Extractor::load(folder.path(), &device)?;
    let features = extractor.encode(&source.0)?;
    assert_eq!(features.len(), 6 * config.d);
    let rows: Vec<&[f32]> = features.chunks(config.d).collect();
    assert!(rows[1..].iter().all(|row| row != &rows[0]));
    let alone = extractor.encode(&source.0[2..3])?;
    assert!(alone.iter().zip(rows[2]).all(|(a, b)| (a - b).abs() < 1e-4), "batches change nothing");
    let mut error = 0.0;
    for (image, back) in source.0.iter().zip(extractor.reconstruct(&source.0)?) {
        let image = image.resize_bilinear(16, 16);
        error += image.pixels.iter().zip(&back.pixels).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    }
    let l1 = error / (6.0 * 16.0 * 16.0 * 3.0) / 127.5;
    assert!(l1 < 0.6 * first, "L1 of the averaged model {l1:.3}, at the start {first:.3}");
    assert_eq!(extractor.digest(), Extractor::load(folder.path(), &device)?.digest());
    Ok(())
}

/// Asks to stop after so many units of work.
struct StopAfter(AtomicU64);

impl Progress for StopAfter {
    fn begin(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, by: u64) {
        self.0.fetch_sub(by.min(self.0.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
    fn remark(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_resumed_run_repeats_an_uninterrupted_one_to_the_bit() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let source = drawings(8, 20);
    let config = ExtractorConfig { steps: 20, checkpoint_every_steps: 9, ..tiny() };
    train(&config, &source, &whole, &Device::cpu(), &Silent)?;
    let expected = curve(&whole)?;
    assert_eq!(expected.len(), 20);

    // Interrupted at step 3, which saves a checkpoint of its own.
    let stopped = train(&config, &source, &parts, &Device::cpu(), &StopAfter(AtomicU64::new(3)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(curve(&parts)?, expected[..3]);
    assert!(Extractor::load(&parts, &Device::cpu()).is_err(), "not finished yet");
    // Killed at step 14: the curve is ahead of the checkpoint of step 9, and a half-written folder lies about.
    let mut killed = config.clone();
    killed.steps = 14;
    train(&killed, &source, &parts, &Device::cpu(), &Silent)?;
    std::fs::remove_dir_all(parts.join("checkpoints/step-000014")).expect("a checkpoint");
    std::fs::create_dir(parts.join("checkpoints/tmp-step-000018")).expect("writable");
    train(&config, &source, &parts, &Device::cpu(), &Silent)?;
    assert_eq!(curve(&parts)?, expected);
    let bytes = |dir: &Path| std::fs::read(dir.join("extractor.safetensors")).expect("finished");
    assert_eq!(bytes(&parts), bytes(&whole));
    Ok(())
}

/// A source that must not be read.
struct Untouchable;

impl PatchSource for Untouchable {
    fn len(&self) -> usize {
        4
    }
    fn load(&self, index: usize) -> Result<RgbImage> {
        Err(Error::input(format!("patch-{index}"), "cannot be decoded", "leave it out"))
    }
    /// Claims to be the source that it stands in for.
    fn digest(&self) -> Result<Digest> {
        drawings(4, 16).digest()
    }
}

#[test]
fn a_finished_run_is_left_alone_and_another_configuration_refused() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = ExtractorConfig { steps: 2, ..tiny() };
    let trained = train(&config, &drawings(4, 16), folder.path(), &Device::cpu(), &Silent)?;
    let again = train(&config, &Untouchable, folder.path(), &Device::cpu(), &Silent)?;
    assert_eq!((again.steps, again.last), (trained.steps, trained.last));
    let other = ExtractorConfig { d: 25, ..config.clone() };
    let message = train(&other, &Untouchable, folder.path(), &Device::cpu(), &Silent).expect_err("another d");
    assert!(message.to_string().contains("another configuration"), "{message}");
    let message = train(&config, &drawings(5, 16), folder.path(), &Device::cpu(), &Silent).expect_err("other patches");
    assert!(message.to_string().contains("other patches"), "{message}");
    // More steps go on, and a patch that cannot be read is named.
    let longer = ExtractorConfig { steps: 3, ..config };
    let message = train(&longer, &Untouchable, folder.path(), &Device::cpu(), &Silent).expect_err("unreadable");
    assert!(message.to_string().contains("patch-"), "{message}");
    train(&longer, &drawings(4, 16), folder.path(), &Device::cpu(), &Silent)?;
    assert_eq!(curve(folder.path())?.len(), 3);
    Ok(())
}

#[test]
fn a_loss_that_is_no_number_names_its_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = tiny();
    config.optimizer.lr = 1e30;
    let message = train(&config, &drawings(4, 16), folder.path(), &Device::cpu(), &Silent).expect_err("it explodes");
    assert!(message.to_string().contains("training step 1 "), "{message}");
}

#[test]
fn lpips_and_every_switch_train() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = tiny();
    config.image_px = 32;
    config.encoder.channels = vec![4, 4, 6, 6];
    config.encoder.head_pool_px = vec![4, 2, 4];
    config.generator_channels = vec![6, 6, 4, 4];
    config.discriminator.channels = vec![4, 4, 6, 6];
    config.discriminator.minibatch_stddev_group = 4;
    config.augment.colour_jitter = 0.2;
    config.optimizer.clip_norm = 0.5;
    config.lpips.weights = "random".into();
    config.steps = 2;
    let trained = train(&config, &drawings(5, 32), &folder.path().join("a"), &Device::cpu(), &Silent)?;
    let last = trained.last.expect("two steps");
    assert!(last.lpips.is_some_and(|v| v > 0.0), "{last:?}");
    config.loss.adversarial = 0.0;
    let trained = train(&config, &drawings(5, 32), &folder.path().join("b"), &Device::cpu(), &Silent)?;
    assert_eq!(trained.last.map(|r| (r.adversarial, r.critic, r.r1)), Some((None, None, None)));
    Ok(())
}

// ------------------------------------------------------------------------------------- configuration
#[test]
fn a_configuration_is_a_preset_and_what_differs() {
    let parse = |text: &str| toml::from_str::<ExtractorConfig>(text);
    assert_eq!(parse("").expect("the default"), ExtractorConfig::paper());
    assert_eq!(parse("preset = \"small\"").expect("a preset"), ExtractorConfig::small());
    let config = parse("preset = \"small\"\nsteps = 7\n[loss]\nlpips = 2\n[optimizer]\nlr = 0.01").expect("keys");
    assert_eq!((config.steps, config.loss.lpips, config.optimizer.lr, config.d), (7, 2.0, 0.01, 64));
    let json = serde_json::to_string(&config).expect("plain data");
    assert_eq!(serde_json::from_str::<ExtractorConfig>(&json).expect("what was written"), config);
    for (text, named) in [
        ("stepz = 3", "stepz"),
        ("[loss]\nlipips = 1.0", "lipips"),
        ("preset = \"big\"", "preset"),
        ("d = \"many\"", "invalid type"),
    ] {
        let message = parse(text).expect_err("nonsense").to_string();
        assert!(message.contains(named), "{text}: {message}");
    }
    for (text, named) in [
        ("image_px = 48", "image_px"),
        ("image_px = 128", "encoder.channels"),
        ("batch = 0", "batch"),
        ("[loss]\nl1 = -1", "loss.l1"),
        ("[loss]\nl1 = 0\nlpips = 0\nadversarial = 0", "every loss"),
        ("[optimizer]\nbeta2 = 1", "beta2"),
        ("resample_filter = [1.0, -1.0]", "resample_filter"),
    ] {
        let message = parse(text).expect("well formed").validate().expect_err("useless").to_string();
        assert!(message.contains(named), "{text}: {message}");
    }
    for config in [ExtractorConfig::paper(), ExtractorConfig::small(), tiny()] {
        config.validate().expect("our own");
    }
}
