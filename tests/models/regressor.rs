//! Blocks and the Dual Attention network against reference values; training, cross-validation, and what is predicted.

use approx::assert_abs_diff_eq;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use isg::{
    DType, Device, Error, Result, Shape, Tape, Tensor,
    cohort::{Fold, Splits},
    device::DeviceId,
    eval::{
        metrics::{self, Prediction, Settings},
        permutation::Permutations,
        predictions,
        stats::Bootstrap,
        tables::{self, Comparison, Method},
    },
    io::safetensors::SafetensorsFile,
    mil::{
        bags::BagSet,
        config::{TaskConfig, TaskSet, TrainConfig},
        crossval::{self, CvResult},
        features::{FeatureDims, Reads},
        method::{self, Method as _},
        methods::isg::{Isg, Tokens},
        model::Model,
        network::{Dims, Mode, Network, PatchMap, Patches},
        predictor::Predictor,
        transformer::TransformerConfig,
    },
    nn::{
        builder::{Builder, Params},
        mbconv::{MbConv, MbConvConfig},
        norm::NormKind,
        vit::{Sequences, VitBlock, VitConfig},
    },
    preset::Preset,
    progress::{Progress, Silent},
};

use super::simulation;

// ------------------------------------------------------------------------------------------- reference values

/// One reference case in f64.
struct Case {
    name: String,
    file: SafetensorsFile,
    attributes: serde_json::Value,
    device: Device,
}

impl Case {
    fn all(op: &str) -> Vec<Case> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/cases");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            println!("{}: absent, reference values of {op} are not compared", folder.display());
            return Vec::new();
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{op}-"))));
        paths.sort();
        assert!(!paths.is_empty(), "no case of {op}");
        let open = |path: &PathBuf| {
            let file = SafetensorsFile::open(path).expect("a case");
            let attributes = serde_json::from_str(file.metadata_value("attrs").expect("attributes")).expect("JSON");
            Case { name: path.display().to_string(), file, attributes, device: Device::cpu() }
        };
        paths.iter().map(open).collect()
    }

    fn tensor(&self, name: &str) -> Tensor {
        let view = self.file.get(name).expect(name);
        Tensor::from_f64(&view.to_f64(), view.shape, DType::F64, &self.device).expect(name)
    }

    fn shape(&self, name: &str) -> Shape {
        Shape::from(self.file.get(name).expect(name).shape)
    }

    fn has(&self, name: &str) -> bool {
        self.file.contains(name)
    }

    fn number(&self, name: &str) -> usize {
        self.attributes[name].as_u64().expect(name) as usize
    }

    /// A builder over all arguments but these.
    fn builder(&self, inputs: &[&str]) -> Builder {
        let names = self.file.names().iter().filter_map(|n| n.strip_prefix("in."));
        let weights: HashMap<String, Tensor> =
            names.filter(|n| !inputs.contains(n)).map(|n| (n.to_string(), self.tensor(&format!("in.{n}")))).collect();
        Builder::load(weights, &self.name, DType::F64, &self.device)
    }

    fn close(&self, name: &str, ours: &Tensor, tolerance: f64) {
        let wanted = self.file.get(name).expect(name).to_f64();
        let ours = ours.to_vec::<f64>().expect("values");
        assert_eq!(ours.len(), wanted.len(), "{} {name}", self.name);
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let size = norm(&mut wanted.iter().copied()).max(1e-10 * (wanted.len() as f64).sqrt());
        let error = norm(&mut wanted.iter().zip(&ours).map(|(w, o)| w - o)) / size;
        assert!(error < tolerance, "{} {name}: relative error {error:e}", self.name);
    }

    /// Compares outputs, and gradients of every parameter and input.
    fn compare(&self, inputs: &[(&str, &Tensor)], params: &Params, tape: Tape, outputs: &[(&str, &Tensor)]) {
        for (name, y) in outputs {
            self.close(&format!("out.{name}"), y, 1e-12);
        }
        let seeds: Vec<(&Tensor, Tensor)> = outputs
            .iter()
            .filter(|(name, _)| self.has(&format!("cotangent.{name}")))
            .map(|(name, y)| (*y, self.tensor(&format!("cotangent.{name}"))))
            .collect();
        let grads = tape.backward_from(&seeds).expect("gradients");
        let mut compared = 0;
        for (name, tensor) in params.named().chain(inputs.iter().copied()) {
            if self.has(&format!("grad.{name}")) {
                let zero = tensor.zeros_like().expect("zeros");
                self.close(&format!("grad.{name}"), grads.get(tensor).unwrap_or(&zero), 1e-11);
                compared += 1;
            }
        }
        let wanted = self.file.names().iter().filter(|n| n.starts_with("grad.")).count();
        assert_eq!(compared, wanted, "{}: every gradient is compared", self.name);
    }
}

#[test]
fn mbconv_computes_the_reference() -> Result<()> {
    for case in Case::all("mbconv") {
        let (x, project) = (case.tensor("in.x"), case.shape("in.project.weight"));
        let depthwise = case.shape("in.depthwise.weight");
        let training = case.attributes["training"].as_bool().expect("training");
        let mut b = case.builder(&["x"]);
        let config = MbConvConfig {
            inputs: x.shape().last(),
            outputs: project[0],
            expansion: depthwise[2] / x.shape().last(),
            kernel: depthwise[0],
            stride: case.number("stride"),
            squeeze: case.shape("in.se.reduce.weight")[0],
            norm: NormKind::Batch,
        };
        let block = MbConv::new(&mut b, config)?;
        let params = b.finish()?;
        let tape = Tape::start();
        tape.watch(params.trainable().into_iter().chain([&x]));
        let (y, stats) = block.forward(&x, training)?;
        let mut outputs = vec![("y", &y)];
        for name in case.file.names().iter().filter_map(|n| n.strip_prefix("out.")).filter(|n| *n != "y") {
            outputs.push((name, stats.get(name).expect(name)));
        }
        case.compare(&[("x", &x)], &params, tape, &outputs);
    }
    Ok(())
}

#[test]
fn vit_block_computes_the_reference() -> Result<()> {
    for case in Case::all("vit_block") {
        let x = case.tensor("in.x");
        let [b, length, width]: [usize; 3] = x.shape().as_array().expect("three axes");
        let mut builder = case.builder(&["x"]);
        let config = VitConfig { width, heads: case.number("heads"), mlp: case.shape("in.fc1.weight")[0] };
        let block = VitBlock::new(&mut builder, config)?;
        let params = builder.finish()?;
        let tape = Tape::start();
        tape.watch(params.trainable().into_iter().chain([&x]));
        let sequences = Sequences::new(&vec![length; b], x.device())?;
        let y = block.forward(&x.reshape([b * length, width])?, &sequences, None)?.reshape(x.shape())?;
        case.compare(&[("x", &x)], &params, tape, &[("y", &y)]);
    }
    Ok(())
}

#[test]
fn the_paper_literal_network_computes_the_reference() -> Result<()> {
    for case in Case::all("dual_attention") {
        let (cubes, globals) = (case.tensor("in.R"), case.tensor("in.f"));
        let [n, grid, _, width]: [usize; 4] = cubes.shape().nhwc().expect("cubes");
        let (embed, head) = (case.shape("in.embed.weight"), case.shape("in.head.weight"));
        let isg = Isg {
            mbconv_blocks: case.number("mbconv_blocks"),
            fusion_every: case.number("fusion_every"),
            mbconv_expansion: case.shape("in.mbconv.0.expand.weight")[0] / width,
            mbconv_norm: NormKind::Batch,
            fusion_residual: false,
            fusion_norm: false,
            tokens: Tokens::Local,
            transformer: TransformerConfig {
                vit_width: embed[0],
                vit_depth: case.number("vit_depth"),
                vit_heads: case.number("vit_heads"),
                vit_mlp_ratio: case.shape("in.vit.0.fc1.weight")[0] as f64 / embed[0] as f64,
                ..TransformerConfig::vit_s()
            },
            ..Isg::paper()
        };
        // Nothing reads the last global update; the reference carries its weights all the same, with gradients of zero.
        let last = isg.mbconv_blocks / isg.fusion_every - 1;
        let unread = ["w_z", "w_p", "w_f"].map(|name| format!("fusion.{last}.{name}"));
        let mut b = case.builder(&["R", "f", &unread[0], &unread[1], &unread[2]]);
        let features = FeatureDims { global: width, cell: width, grid };
        let network = isg.network(&mut b, Dims { features, genes: head[0] })?;
        let params = b.finish()?;
        let unread: Vec<(String, Tensor)> =
            unread.into_iter().map(|name| (name.clone(), case.tensor(&format!("in.{name}")))).collect();
        let tape = Tape::start();
        tape.watch(params.trainable().into_iter().chain([&cubes, &globals]));
        let slide = Sequences::new(&[n], cubes.device())?;
        let patches = Patches { cube: Some(cubes.clone()), global: Some(globals.clone()), position: None };
        let y = network.forward(&patches, &slide, &mut Mode::Evaluate)?.reshape([head[0]])?;
        let mut inputs = vec![("R", &cubes), ("f", &globals)];
        inputs.extend(unread.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        case.compare(&inputs, &params, tape, &[("y", &y)]);
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------- the network

fn small_network(genes: usize) -> Result<(Network, Device)> {
    let device = Device::cpu_poisoned();
    let mut b = Builder::fresh(3, DType::F64, &device);
    let isg = Isg {
        mbconv_blocks: 2,
        transformer: TransformerConfig { vit_depth: 2, ..TransformerConfig::small() },
        ..Isg::small()
    };
    let features = FeatureDims { global: 6, cell: 6, grid: 3 };
    let network = isg.network(&mut b, Dims { features, genes })?;
    b.finish()?;
    Ok((network, device))
}

fn drawn(shape: impl Into<Shape>, name: &str, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let values = isg::random::Philox::named(11, name).normals(shape.elems());
    Tensor::from_f64(&values, shape, DType::F64, device)
}

#[test]
fn contributions_average_to_the_prediction_and_attention_sums_to_one() -> Result<()> {
    let (network, device) = small_network(3)?;
    let patches = Patches {
        cube: Some(drawn([5, 3, 3, 6], "cubes", &device)?),
        global: Some(drawn([5, 6], "globals", &device)?),
        position: None,
    };
    let slide = Sequences::new(&[5], &device)?;
    let wanted = network.forward(&patches, &slide, &mut Mode::Evaluate)?.to_vec::<f64>()?;
    let e = network.explain(&patches)?;
    assert!(wanted.iter().zip(&e.prediction).all(|(w, p)| (w - p).abs() < 1e-12));
    let attention = e.attention().expect("weights of patches");
    assert!(attention.len() == 5 && attention.iter().all(|a| *a > 0.0));
    assert_abs_diff_eq!(attention.iter().sum::<f64>(), 1.0, epsilon = 1e-12);
    let of = |what: &str| e.maps.iter().filter(|map| map.name.ends_with(what)).collect::<Vec<&PatchMap>>();
    assert_eq!((of("score").len(), of("weight").len()), (2, 2));
    for map in of("weight").iter().flat_map(|m| m.values.chunks(9)) {
        assert_abs_diff_eq!(map.iter().sum::<f64>(), 1.0, epsilon = 1e-12);
    }
    assert!(of("score").iter().flat_map(|m| &m.values).all(|s| (0.0..=1.0).contains(s)));
    Ok(())
}

#[test]
fn the_paper_preset_has_the_papers_sizes() -> Result<()> {
    let isg = Isg::paper();
    let TransformerConfig { vit_width, vit_depth, vit_heads, .. } = isg.transformer;
    assert_eq!((isg.mbconv_blocks, isg.fusion_every, vit_width, vit_depth, vit_heads), (10, 2, 384, 12, 6));
    let mut b = Builder::fresh(0, DType::F32, &Device::cpu());
    let transformer = TransformerConfig { vit_depth: 1, ..isg.transformer };
    let features = FeatureDims { global: 16, cell: 16, grid: 8 };
    Isg { transformer, mbconv_blocks: 4, ..isg }.network(&mut b, Dims { features, genes: 7 })?;
    let params = b.finish()?;
    assert_eq!(params.get("fusion.0.w_z").map(|t| t.shape()), Some([64, 16].into()));
    assert!(params.get("fusion.1.w_q").is_some() && params.get("fusion.1.w_z").is_none(), "nothing reads the last one");
    assert_eq!(params.get("head.weight").map(|t| t.shape()), Some([7, 384].into()));
    // Without a fusion block nothing reads the global vectors.
    assert_eq!(Isg { fusion_every: 99, ..Isg::paper() }.reads(features), Reads::CUBE);
    Ok(())
}

// ------------------------------------------------------------------------------------------- training

/// A configuration that trains in seconds.
fn quick(epochs: usize) -> TrainConfig {
    let mut config = TrainConfig::preset(Preset::Small);
    (config.epochs, config.max_patches, config.checkpoint_s, config.members) = (epochs, 6, 0, 1);
    config
}

fn ridge() -> TrainConfig {
    TrainConfig::of(method::named("ridge").expect("it is in the list"), Preset::Small)
}

fn run(config: &TrainConfig, set: &BagSet, dir: &Path, progress: &dyn Progress) -> Result<CvResult> {
    crossval::cross_validate(config, set, &simulation::splits(set, 3, 1), dir, DeviceId::Cpu, progress)
}

fn bits(predictions: &[Prediction]) -> Vec<(String, Vec<u64>)> {
    predictions.iter().map(|p| (p.slide.clone(), p.predicted.iter().map(|v| v.to_bits()).collect())).collect()
}

/// Asks to stop after so many epochs.
pub(super) struct StopAfter(pub AtomicU64);

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

#[test]
fn an_interrupted_run_ends_as_an_uninterrupted_one() -> Result<()> {
    let set = simulation::bags(12, 8, 2, 5);
    let mut config = quick(4);
    (config.members, config.fine_tune.enabled, config.fine_tune.epochs) = (1, true, 2);
    let task = TaskConfig { project: Some("SIM".into()), genes: vec!["LOCAL".into(), "BOTH".into()] };
    config.fine_tune.tasks = TaskSet::Given(vec![task]);
    let (whole, pieces) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let wanted = run(&config, &set, whole.path(), &Silent)?;
    let mut attempts = 0;
    let resumed = loop {
        attempts += 1;
        match run(&config, &set, pieces.path(), &StopAfter(AtomicU64::new(5 * attempts))) {
            Err(Error::Interrupted) => {}
            other => break other?,
        }
    };
    assert!(attempts > 2, "it was interrupted only {} times", attempts - 1);
    assert_eq!(bits(&resumed.predictions), bits(&wanted.predictions));
    assert_eq!(resumed.curves, wanted.curves);
    let file = "fold-1/member-0/model.safetensors";
    let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(file)).expect("a model");
    assert!(read(&whole) == read(&pieces), "the stored models differ");
    // A finished network is kept, not trained again.
    let modified =
        |dir: &tempfile::TempDir| dir.path().join(file).metadata().and_then(|m| m.modified()).expect("a time");
    let before = modified(&whole);
    run(&config, &set, whole.path(), &Silent)?;
    assert_eq!(modified(&whole), before);
    // Other data are not mistaken for these.
    let other = simulation::bags(12, 8, 2, 6);
    let again = run(&config, &other, whole.path(), &Silent)?;
    assert_ne!(bits(&again.predictions), bits(&wanted.predictions));
    Ok(())
}

#[test]
fn results_do_not_depend_on_how_many_folds_train_at_once() -> Result<()> {
    let set = simulation::bags(12, 8, 2, 7);
    let predict = |parallel: usize| {
        let dir = tempfile::tempdir().expect("a folder");
        let config = TrainConfig { parallel, ..quick(3) };
        run(&config, &set, dir.path(), &Silent).map(|cv| bits(&cv.predictions))
    };
    assert_eq!(predict(1)?, predict(3)?);
    Ok(())
}

#[test]
fn planted_genes_are_found_on_held_out_slides() -> Result<()> {
    let mut set = simulation::bags(36, 16, 2, 9);
    // Two values were not measured.
    (set.targets[3][0], set.targets[20][1]) = (f64::NAN, f64::NAN);
    let dir = tempfile::tempdir().expect("a folder");
    let (config, splits) = (TrainConfig { max_patches: 12, ..quick(20) }, simulation::splits(&set, 3, 1));
    let cv = run(&config, &set, dir.path(), &Silent)?;
    assert_eq!(cv.predictions.len(), 36);
    let settings = Settings {
        bootstrap: Bootstrap { resamples: 200, ..Bootstrap::default() },
        permutations: Permutations { draws: 1000, seed: 0 },
        ..Settings::default()
    };
    let method = |name, predictions| Method { name, genes: &set.genes, predictions };
    let ridge = run(&ridge(), &set, tempfile::tempdir().expect("a folder").path(), &Silent)?;
    let methods = [method("isg", &cv.predictions[..]), method("ridge", &ridge.predictions[..])];
    let comparison = Comparison::new(&methods, settings)?;
    let results = comparison.results();
    let pooled = |gene: usize| results[gene].pooled_pearson.expect("a correlation");
    assert!(pooled(0) > 0.5 && pooled(2) > 0.4, "{} {}", pooled(0), pooled(2));
    assert!(results[0].p_value.is_some_and(|p| p < 0.05), "{:?}", results[0]);
    assert_eq!(results[0].n, 35, "the missing value does not count");
    assert!(results[0].others["ridge_pearson"].is_some());
    // Scaled errors are on the scale that the fold's own training slides give.
    let first = &cv.predictions[0];
    let span = set.fit_targets(config.target_scaling, &set.fold_slides(&splits)[first.fold].train)?.span;
    assert_eq!(first.target_span, span);
    assert!(results[0].mse_scaled.is_some());

    let path = dir.path().join(tables::PREDICTIONS_FILE);
    predictions::write(&path, &methods)?;
    let mut read = predictions::read_methods(&path)?;
    assert_eq!(read.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["isg", "ridge"]);
    let (_, read) = read.remove(0);
    assert_eq!((&read.genes, read.without_truth), (&set.genes, 2));
    let again = metrics::evaluate(&read.genes, &read.predictions, settings)?;
    assert_eq!(again.groups, comparison.first().groups);

    // Maps of a slide of the run come from the networks that never saw it, and no others.
    let predictor = Predictor::load(dir.path(), &Device::cpu())?;
    let held_out = cv.predictions.iter().find(|p| p.slide == set.bags[0].slide).expect("a prediction");
    assert_eq!(cv.held_out_by[0], [held_out.fold]);
    let e = predictor.explain_held_out(&*set.bags[0].features, None, &cv.held_out_by[0])?.expect("a network");
    assert!(e.prediction.iter().zip(&held_out.predicted).all(|(a, b)| (a - b).abs() < 1e-4));
    assert!(predictor.explain_held_out(&*set.bags[0].features, None, &[])?.is_none());

    // A new slide is predicted by the mean of the folds' networks.
    let features = &*set.bags[0].features;
    let predicted = predictor.predict(features, None)?;
    let e = predictor.explain(features, None)?;
    for (gene, (predicted, explained)) in predicted.iter().zip(&e.prediction).enumerate() {
        assert!((predicted - explained).abs() < 1e-4, "{predicted} {explained}");
        let n = features.patches();
        let contribution = e.contribution.as_ref().expect("an additive method");
        let mean = contribution.iter().skip(gene).step_by(4).sum::<f64>() / n as f64;
        assert_abs_diff_eq!(mean, predicted, epsilon = 1e-4);
    }
    assert_abs_diff_eq!(e.attention().expect("weights").iter().sum::<f64>(), 1.0, epsilon = 1e-6);
    Ok(())
}

/// One set of folds done twice: a slide has two predictions, each of its own fold's network and none a sum.
#[test]
fn repeats_of_a_cross_validation_are_kept_apart() -> Result<()> {
    let set = simulation::bags(8, 8, 2, 3);
    let once = simulation::splits(&set, 2, 1);
    let again = once.folds.iter().cloned().map(|fold| Fold { repeat: 1, ..fold });
    let splits = Splits { folds: once.folds.iter().cloned().chain(again).collect() };
    assert_eq!(splits.numbers(), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    let dir = tempfile::tempdir().expect("a folder");
    let cv = crossval::cross_validate(&quick(1), &set, &splits, dir.path(), DeviceId::Cpu, &Silent)?;
    let ridge_dir = tempfile::tempdir().expect("a folder");
    let of_ridge = crossval::cross_validate(&ridge(), &set, &splits, ridge_dir.path(), DeviceId::Cpu, &Silent)?;
    let slides = set.bags.len();
    assert_eq!((cv.predictions.len(), of_ridge.predictions.len()), (2 * slides, 2 * slides));
    for (slide, bag) in set.bags.iter().enumerate() {
        let of_slide: Vec<&Prediction> = cv.predictions.iter().filter(|p| p.slide == bag.slide).collect();
        assert_eq!([of_slide[0].repeat, of_slide[1].repeat], [0, 1]);
        assert_eq!(of_slide[0].fold, of_slide[1].fold);
        for (p, &fold) in of_slide.iter().zip(&cv.held_out_by[slide]) {
            let model =
                Model::load(&dir.path().join(format!("fold-{fold}/member-0/model.safetensors")), &Device::cpu())?;
            assert_eq!(p.predicted, model.predict(&*bag.features)?);
        }
        let ridge: Vec<&Prediction> = of_ridge.predictions.iter().filter(|p| p.slide == bag.slide).collect();
        assert_eq!(ridge[0].predicted, ridge[1].predicted, "the same folds, the same line");
    }
    Ok(())
}

#[test]
fn unusable_cohorts_are_one_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut set = simulation::bags(6, 8, 2, 1);
    set.targets.iter_mut().for_each(|t| t[1] = f64::NAN);
    let message = run(&quick(1), &set, dir.path(), &Silent).map(drop).expect_err("a gene without values").to_string();
    assert!(message.contains("GLOBAL") && !message.contains('\n'), "{message}");
    let mut config = quick(1);
    config.fine_tune.enabled = true;
    let task = TaskConfig { project: Some("LIHC".into()), genes: vec!["LOCAL".into()] };
    config.fine_tune.tasks = TaskSet::Given(vec![task]);
    let set = simulation::bags(6, 8, 2, 1);
    let message = run(&config, &set, dir.path(), &Silent).map(drop).expect_err("no such project").to_string();
    assert!(message.contains("LIHC") && message.contains("SIM"), "{message}");
}
