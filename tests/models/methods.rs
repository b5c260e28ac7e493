//! What holds for every method of the registry: gradients, independence of slides, training that resumes, explanations.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use isg::{
    DType, Device, Error, Result, Tape, Tensor,
    device::DeviceId,
    eval::metrics::Prediction,
    image::RgbImage,
    mil::{
        METHODS,
        bags::BagSet,
        config::TrainConfig,
        crossval,
        features::{FeatureDims, PatchFeatures, PatchValues, Reads},
        method::{self, Fit, Method, MethodSpec},
        model::ModelHeader,
        network::{Dims, Mode, Network, Patches, TrainingStep},
        predictor::Predictor,
        training::MODEL_FILE,
    },
    nn::{
        builder::{Builder, Params},
        vit::Sequences,
    },
    preset::Preset,
    progress::{Progress, Silent},
    random::Philox,
};

use super::{regressor::StopAfter, simulation};

const FEATURES: FeatureDims = FeatureDims { global: 6, cell: 6, grid: 4 };
const GENES: usize = 2;

/// A method's network with its weights, in f64.
struct Built {
    name: String,
    method: Arc<dyn Method>,
    /// Of what it reads, which may be other rows than patches.
    dims: Dims,
    network: Network,
    params: Params,
    device: Device,
}

impl Built {
    fn fresh(spec: &MethodSpec, method: Arc<dyn Method>, dtype: DType, device: &Device) -> Result<Built> {
        let mut b = Builder::fresh(3, dtype, device);
        let dims = Dims { features: method.row_dims(FEATURES), genes: GENES };
        let network = method.network(&mut b, dims)?;
        Ok(Built {
            name: format!("{} {method:?}", spec.name),
            method,
            dims,
            network,
            params: b.finish()?,
            device: device.clone(),
        })
    }

    /// The same with one of its tensors replaced.
    fn with(&self, name: &str, values: &[f64]) -> Result<Network> {
        let mut weights: HashMap<String, Tensor> =
            self.params.named().map(|(n, t)| (n.to_string(), t.clone())).collect();
        let shape = weights[name].shape();
        weights.insert(name.to_string(), Tensor::from_f64(values, shape, DType::F64, &self.device)?);
        let mut b = Builder::load(weights, "the test", DType::F64, &self.device);
        let network = self.method.network(&mut b, self.dims)?;
        b.finish()?;
        Ok(network)
    }

    /// What it reads of so many patches.
    fn patches(&self, n: usize, dtype: DType) -> Result<Patches> {
        let input = self.network.input;
        let drawn = |name: &str, shape: &[usize]| {
            let values = Philox::named(7, name).normals(shape.iter().product());
            Tensor::from_f64(&values, shape, dtype, &self.device)
        };
        let coords: Vec<[f64; 2]> = (0..n).map(|i| [(i % 4) as f64, (i / 4) as f64 + 1.5]).collect();
        let Reads { global, cube, .. } = input.reads;
        let FeatureDims { global: width, cell, grid } = self.dims.features;
        let position = input.position.input(&coords, input.width, dtype);
        let position = position.map(|v| {
            let shape = input.position.input_shape(n, input.width);
            Tensor::from_buffer(v, shape, &self.device)
        });
        Ok(Patches {
            global: global.then(|| drawn("global", &[n, width])).transpose()?,
            cube: cube.then(|| drawn("cube", &[n, grid, grid, cell])).transpose()?,
            position: position.transpose()?,
        })
    }
}

/// Every case of every method.
fn built(dtype: DType, device: &Device) -> Result<Vec<Built>> {
    let cases = METHODS.iter().flat_map(|spec| (spec.cases)().into_iter().map(move |method| (spec, method)));
    cases.map(|(spec, method)| Built::fresh(spec, method, dtype, device)).collect()
}

/// `Σ weight · y` with drawn weights.
fn weighed(y: &Tensor) -> Result<Tensor> {
    let weights = Philox::named(9, "weights").normals(y.shape().elems());
    y.mul(&Tensor::from_f64(&weights, y.shape(), y.dtype(), y.device())?)?.sum_all()
}

fn rows_of(patches: &Patches, begin: usize, n: usize, places: usize) -> Result<Patches> {
    let part = |t: &Option<Tensor>| t.as_ref().map(|t| t.slice(0, begin, n)).transpose();
    let position = match &patches.position {
        // Row numbers of both axes, one axis after the other.
        Some(t) if t.shape().rank() == 1 => {
            Some(Tensor::concat(&[&t.slice(0, begin, n)?, &t.slice(0, places + begin, n)?], 0)?)
        }
        position => part(position)?,
    };
    Ok(Patches { global: part(&patches.global)?, cube: part(&patches.cube)?, position })
}

#[test]
fn every_method_is_in_the_list_once_and_has_cases() {
    let mut names: Vec<&str> = METHODS.iter().map(|spec| spec.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), METHODS.len());
    for spec in METHODS {
        assert!(!(spec.cases)().is_empty(), "{} has no cases", spec.name);
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(spec.name.chars().all(plain) && !spec.title.is_empty(), "{}", spec.name);
        for preset in Preset::ALL {
            (spec.preset)(preset).check().expect(spec.name);
        }
    }
}

/// Along a drawn direction of every tensor, by central differences.
#[test]
fn gradients_are_those_of_finite_differences() -> Result<()> {
    for case in built(DType::F64, &Device::cpu_poisoned())? {
        let patches = case.patches(6, DType::F64)?;
        let slides = Sequences::new(&[4, 2], &case.device)?;
        let value = |network: &Network, patches: &Patches| -> Result<Tensor> {
            weighed(&network.forward(patches, &slides, &mut Mode::Evaluate)?)
        };
        let inputs: Vec<&Tensor> = patches.global.iter().chain(&patches.cube).collect();
        let tape = Tape::start();
        tape.watch(case.params.trainable().into_iter().chain(inputs.iter().copied()));
        let grads = tape.backward(&value(&case.network, &patches)?)?;
        // Batch normalisation of a few values is curved: a step of 1e-5 is off by 2e-5 of the largest gradients.
        const STEP: f64 = 1e-6;
        for (name, tensor) in case.params.named_trainable() {
            let at = tensor.to_vec::<f64>()?;
            let direction = Philox::named(11, name).normals(at.len());
            let moved = |by: f64| -> Result<f64> {
                let values: Vec<f64> = at.iter().zip(&direction).map(|(v, d)| v + by * d).collect();
                value(&case.with(name, &values)?, &patches)?.item()
            };
            let measured = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
            let gradient = grads.get(tensor).map(|g| g.to_vec::<f64>()).transpose()?.unwrap_or(vec![0.0; at.len()]);
            let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = measured.abs().max(expected.abs()).max(1e-2);
            assert!((measured - expected).abs() < 1e-5 * size, "{}, {name}: {expected} for {measured}", case.name);
        }
        for (i, input) in inputs.iter().enumerate() {
            let at = input.to_vec::<f64>()?;
            let direction = Philox::named(12, "input").normals(at.len());
            let moved = |by: f64| -> Result<f64> {
                let values: Vec<f64> = at.iter().zip(&direction).map(|(v, d)| v + by * d).collect();
                let other = Tensor::from_f64(&values, input.shape(), DType::F64, &case.device)?;
                let mut patches = patches.clone();
                let global = i == 0 && patches.global.is_some();
                *(if global { &mut patches.global } else { &mut patches.cube }) = Some(other);
                value(&case.network, &patches)?.item()
            };
            let measured = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
            let gradient = grads.get(input).map(|g| g.to_vec::<f64>()).transpose()?.unwrap_or(vec![0.0; at.len()]);
            let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = measured.abs().max(expected.abs()).max(1e-2);
            assert!((measured - expected).abs() < 1e-5 * size, "{}, input: {expected} for {measured}", case.name);
        }
    }
    Ok(())
}

#[test]
fn every_parameter_learns_when_training() -> Result<()> {
    for case in built(DType::F64, &Device::cpu())? {
        let patches = case.patches(7, DType::F64)?;
        let slides = Sequences::new(&[3, 4], &case.device)?;
        let mut silent: Vec<&str> = case.params.named_trainable().map(|(name, _)| name).collect();
        for variant in 0..case.network.variants {
            let mut step = TrainingStep::new(5, 1, variant);
            let tape = Tape::start();
            tape.watch(case.params.trainable());
            let y = case.network.forward(&patches, &slides, &mut Mode::Train(&mut step))?;
            let grads = tape.backward(&weighed(&y)?)?;
            for (name, tensor) in case.params.named_trainable() {
                let gradient = grads.get(tensor).map(|g| g.to_vec::<f64>()).transpose()?.unwrap_or_default();
                if gradient.iter().any(|g| *g != 0.0) {
                    silent.retain(|silent| *silent != name);
                }
            }
        }
        assert!(silent.is_empty(), "{}: {silent:?} get no gradient", case.name);
    }
    Ok(())
}

/// Also slides of one patch, whose predictions are finite.
#[test]
fn a_slide_is_predicted_alike_alone_and_among_others() -> Result<()> {
    let lengths = [4usize, 4, 1, 7];
    for case in built(DType::F64, &Device::cpu_poisoned())? {
        let patches = case.patches(16, DType::F64)?;
        let slides = Sequences::new(&lengths, &case.device)?;
        let together = case.network.forward(&patches, &slides, &mut Mode::Evaluate)?.to_vec::<f64>()?;
        assert!(together.iter().all(|v| v.is_finite()), "{}: {together:?}", case.name);
        let mut begin = 0;
        for (slide, &n) in lengths.iter().enumerate() {
            let alone = Sequences::new(&[n], &case.device)?;
            let part = rows_of(&patches, begin, n, 16)?;
            let alone = case.network.forward(&part, &alone, &mut Mode::Evaluate)?.to_vec::<f64>()?;
            for (gene, value) in alone.iter().enumerate() {
                let other = together[GENES * slide + gene];
                assert!((value - other).abs() < 1e-12, "{}: {value} alone, {other} among others", case.name);
            }
            begin += n;
        }
    }
    Ok(())
}

/// The prediction, the mean of what patches contribute, and weights that sum to one.
#[test]
fn explanations_fit_the_prediction() -> Result<()> {
    for case in built(DType::F64, &Device::cpu())? {
        for n in [1, 5] {
            let patches = case.patches(n, DType::F64)?;
            let slide = Sequences::new(&[n], &case.device)?;
            let wanted = case.network.forward(&patches, &slide, &mut Mode::Evaluate)?.to_vec::<f64>()?;
            let e = case.network.explain(&patches)?;
            let agree = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert!(wanted.iter().zip(&e.prediction).all(|(a, b)| agree(*a, *b)), "{}", case.name);
            if let Some(contribution) = &e.contribution {
                for (gene, wanted) in wanted.iter().enumerate() {
                    let mean = contribution.iter().skip(gene).step_by(GENES).sum::<f64>() / n as f64;
                    assert!(agree(mean, *wanted), "{}: {mean} for {wanted}", case.name);
                }
            }
            if let Some(attention) = e.attention() {
                assert_eq!(attention.len(), n, "{}", case.name);
                assert!(agree(attention.iter().sum(), 1.0), "{}", case.name);
            }
            for map in &e.maps {
                assert!(
                    map.values.len().is_multiple_of(n) && map.values.iter().all(|v| v.is_finite()),
                    "{}",
                    case.name
                );
            }
        }
    }
    Ok(())
}

/// A step's loss and gradients on the emulator's kernels, or a GPU's.
#[test]
fn a_step_on_a_device_is_that_of_the_cpu() -> Result<()> {
    let device = crate::training::device();
    let step = |device: &Device| -> Result<Vec<(String, Vec<f64>)>> {
        let mut found = Vec::new();
        for case in built(DType::F32, device)? {
            let patches = case.patches(5, DType::F32)?;
            let slides = Sequences::new(&[3, 2], device)?;
            let tape = Tape::start();
            tape.watch(case.params.trainable());
            let mut step = TrainingStep::new(5, 1, 0);
            let y = case.network.forward(&patches, &slides, &mut Mode::Train(&mut step))?;
            let grads = tape.backward(&weighed(&y)?)?;
            let mut values = y.to_vec::<f64>()?;
            for (_, tensor) in case.params.named_trainable() {
                // A parameter that this variant does not use has none.
                values.push(match grads.get(tensor) {
                    Some(g) => g.to_vec::<f64>()?.iter().map(|g| g * g).sum::<f64>().sqrt(),
                    None => 0.0,
                });
            }
            found.push((case.name, values));
        }
        Ok(found)
    };
    for ((name, expected), (_, ours)) in step(&Device::cpu())?.iter().zip(step(&device)?) {
        let size = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (a, b) in expected.iter().zip(&ours) {
            assert!((a - b).abs() < 2e-4 * size, "{name}: {b} on the device, {a} on the CPU");
        }
    }
    Ok(())
}

fn quick(spec: &'static MethodSpec) -> TrainConfig {
    let mut config = TrainConfig::of(spec, Preset::Small);
    (config.epochs, config.max_patches, config.checkpoint_s, config.members) = (2, 5, 0, 1);
    config
}

fn run(config: &TrainConfig, set: &BagSet, dir: &Path, progress: &dyn Progress) -> Result<Vec<Prediction>> {
    let splits = simulation::splits(set, 2, 1);
    Ok(crossval::cross_validate(config, set, &splits, dir, DeviceId::Cpu, progress)?.predictions)
}

fn bits(predictions: &[Prediction]) -> Vec<Vec<u64>> {
    predictions.iter().map(|p| p.predicted.iter().map(|v| v.to_bits()).collect()).collect()
}

#[test]
fn every_method_resumes_bit_identical() -> Result<()> {
    let set = simulation::bags(8, 8, 4, 5);
    for spec in METHODS {
        let config = quick(spec);
        let (whole, pieces) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let wanted = run(&config, &set, whole.path(), &Silent)?;
        assert!(wanted.iter().flat_map(|p| &p.predicted).all(|v| v.is_finite()), "{}", spec.name);
        let mut attempts = 0;
        let resumed = loop {
            attempts += 1;
            match run(&config, &set, pieces.path(), &StopAfter(AtomicU64::new(attempts))) {
                Err(Error::Interrupted) => {}
                other => break other?,
            }
        };
        let steps = matches!(config.method.fit(), Fit::Gradient);
        assert!(!steps || attempts > 1, "{} was never interrupted", spec.name);
        assert_eq!(bits(&resumed), bits(&wanted), "{}", spec.name);
        // What is stored predicts what was predicted.
        let predictor = Predictor::load(whole.path(), &Device::cpu())?;
        for (slide, bag) in set.bags.iter().enumerate() {
            let found = wanted.iter().find(|p| p.slide == bag.slide).expect("a prediction");
            let e = predictor.explain_held_out(&*bag.features, None, &[found.fold])?.expect("a network");
            for (ours, theirs) in e.prediction.iter().zip(&found.predicted) {
                assert!((ours - theirs).abs() < 1e-4, "{}, slide {slide}: {ours} for {theirs}", spec.name);
            }
        }
    }
    Ok(())
}

/// Features that cannot be read for anything else than what a method says.
struct Only<'a>(&'a dyn PatchFeatures, Reads);

impl PatchFeatures for Only<'_> {
    fn patches(&self) -> usize {
        self.0.patches()
    }

    fn read(&self, patches: &[usize], reads: Reads, to: &mut PatchValues) -> Result<()> {
        let Reads { global, cube, coords } = self.1;
        assert!(global >= reads.global && cube >= reads.cube && coords >= reads.coords, "{reads:?} is read");
        self.0.read(patches, reads, to)
    }

    fn image(&self, side_px: usize) -> Result<RgbImage> {
        self.0.image(side_px)
    }

    fn pixels(&self, patches: &[usize]) -> Result<Vec<RgbImage>> {
        self.0.pixels(patches)
    }
}

#[test]
fn nothing_is_read_beyond_what_a_method_says() -> Result<()> {
    let set = simulation::bags(8, 8, 4, 5);
    for spec in METHODS {
        let config = quick(spec);
        let dir = tempfile::tempdir().expect("a folder");
        run(&config, &set, dir.path(), &Silent)?;
        let predictor = Predictor::load(dir.path(), &Device::cpu())?;
        let reads = config.method.reads(set.dims);
        predictor.predict(&Only(&*set.bags[0].features, reads), None)?;
        let lack = FeatureDims { global: 8, cell: 0, grid: 0 };
        let outcome = crossval::check_features(&config, lack);
        assert_eq!(outcome.is_err(), config.method.reads(lack).cube, "{}", spec.name);
    }
    Ok(())
}

/// HE2RNA goes over from super-tiles to tiles.
#[test]
fn tuned_networks_may_read_other_rows() -> Result<()> {
    let set = simulation::bags(8, 8, 4, 5);
    let mut config = quick(method::named("he2rna")?);
    config.method = config.method.changed(|keys| drop(keys.insert("supertiles".into(), 3.into())))?;
    (config.fine_tune.enabled, config.fine_tune.epochs) = (true, 2);
    let dir = tempfile::tempdir().expect("a folder");
    let wanted = run(&config, &set, dir.path(), &Silent)?;
    let predictor = Predictor::load(dir.path(), &Device::cpu())?;
    let rows = config.method.rows(&*set.bags[0].features)?.expect("super-tiles");
    assert_eq!((rows.features.patches, rows.of_patch.len()), (3, set.bags[0].features.patches()));
    assert!(config.tuned().is_some_and(|tuned| tuned.method.rows(&*set.bags[0].features).is_ok_and(|r| r.is_none())));
    let mut folders = vec![dir.path().to_path_buf()];
    let mut tuned = 0;
    while let Some(folder) = folders.pop() {
        folders
            .extend(std::fs::read_dir(&folder).expect("a folder").flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        let model = folder.join(MODEL_FILE);
        if let Some(header) = model.is_file().then(|| ModelHeader::read(&model)).transpose()?
            && header.task.is_some()
        {
            assert_eq!(Some(header.method), config.method.tuned());
            tuned += 1;
        }
    }
    assert_eq!(tuned, 2, "one a fold");
    for found in wanted {
        let bag = set.bags.iter().find(|bag| bag.slide == found.slide).expect("a slide");
        let e = predictor.explain_held_out(&*bag.features, Some("SIM"), &[found.fold])?.expect("a network");
        for (ours, theirs) in e.prediction.iter().zip(&found.predicted) {
            assert!((ours - theirs).abs() < 1e-6, "{}: {ours} for {theirs}", found.slide);
        }
    }
    Ok(())
}
