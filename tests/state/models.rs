//! `isg predict` against run directories that are not what they were: a manifest that lies, networks and extractors that
//! were swapped, mixed, edited or lost.

use std::{fs, path::Path};

use isg::{
    Device, Result,
    io::{ArrayView, ElementType, safetensors::SafetensorsFile},
    pipeline::predict::SlidePredictor,
    progress::Silent,
};
use serde_json::{Value, json};

use super::Lab;

fn predict(lab: &Lab) -> Result<Vec<f64>> {
    let predictor = SlidePredictor::load(&lab.path.join("run"), &Device::cpu())?;
    predictor.predict(&lab.slides()[0], None, None, &Silent).map(|prediction| prediction.values)
}

fn refusal(lab: &Lab, what: &str) -> String {
    match predict(lab) {
        Ok(values) => panic!("{what}: predicted {values:?}"),
        Err(error) => error.to_string(),
    }
}

/// The manifest as somebody would write it by hand: without checksums.
fn by_hand(lab: &Lab) -> Value {
    let text = fs::read_to_string(lab.path.join("run/model/isg/model.json")).expect("a manifest");
    let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
    for key in ["checksum", "models", "origin"] {
        assert!(manifest.as_object_mut().expect("an object").remove(key).is_some(), "it has {key}");
    }
    manifest
}

fn put(lab: &Lab, manifest: &Value) {
    fs::write(lab.path.join("run/model/isg/model.json"), manifest.to_string()).expect("writable");
}

#[test]
fn a_manifest_is_believed_only_as_far_as_the_networks_agree() {
    let lab = Lab::new();
    let expected = predict(&lab).expect("a prediction");
    let good = by_hand(&lab);
    put(&lab, &good);
    assert_eq!(predict(&lab).expect("a manifest without checksums that tells the truth"), expected);
    let genes = good["genes"].as_array().expect("a list").clone();
    let reversed: Vec<Value> = genes.iter().rev().cloned().collect();
    let mut doubled = genes.clone();
    doubled[1] = doubled[0].clone();
    let mut renamed = genes.clone();
    renamed[2] = json!("CD3D");
    let lies: Vec<(&str, Value, &str)> = vec![
        ("/folds", json!(0), "folds = 0"),
        ("/folds", json!(1), "says 1 folds"),
        ("/folds", json!(3), "says 3 folds"),
        ("/folds", json!(u64::MAX), "folds"),
        ("/folds", json!(-2), "invalid value"),
        ("/folds", json!(2.5), "invalid type"),
        ("/folds", json!("2"), "invalid type"),
        ("/folds", json!(null), "invalid type"),
        ("/members", json!(0), "members = 0"),
        ("/members", json!(2), "members"),
        ("/members", json!(1e30), "invalid type"),
        ("/config/members", json!(3), "members"),
        ("/genes", json!(reversed), "where model.json has"),
        ("/genes", json!(doubled), "twice"),
        ("/genes", json!(renamed), "where model.json has CD3D"),
        ("/genes", json!([]), "no gene"),
        ("/genes", json!(genes[..2]), "2"),
        ("/genes", json!({ "LYMPH1": 0 }), "invalid type"),
        ("/dims/global", json!(64), "sizes"),
        ("/dims/cell", json!(0), "sizes"),
        ("/dims/grid", json!(4), "sizes"),
        ("/tasks", json!([]), "does not name the task"),
        ("/tasks/0/genes", json!([999]), "999"),
        ("/tasks/0/genes", json!([1]), "other genes"),
        ("/tasks/0/genes", json!([0, 0]), "twice"),
        ("/tasks/0/genes", json!([]), "no gene"),
        ("/tasks/0/genes", json!([-1]), "invalid value"),
        ("/tasks/0/project", json!("TCGA-X"), "another project"),
        ("/tasks/0/name", json!("../../../tmp"), "no folder of a run"),
        ("/tasks/0/name", json!("other"), "other"),
        ("/config/isg/vit_width", json!(16), "another method or shape"),
        ("/config/isg/dropout", json!("much"), "invalid type"),
        ("/format", json!("isg-cross-validation-9"), "isg-cross-validation-9"),
    ];
    for (place, value, words) in lies {
        let mut manifest = good.clone();
        *manifest.pointer_mut(place).expect("it is there") = value.clone();
        put(&lab, &manifest);
        let message = refusal(&lab, &format!("{place} = {value}"));
        assert!(message.contains(words), "{place} = {value}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    for key in ["genes", "folds", "members", "tasks", "config", "dims", "format"] {
        let mut manifest = good.clone();
        manifest.as_object_mut().expect("an object").remove(key);
        put(&lab, &manifest);
        assert!(refusal(&lab, key).contains(key), "without {key}");
    }
    for text in ["", "{", "[]", "null", "\u{0}", "{\"format\": \"isg-cross-validation-2\"}"] {
        fs::write(lab.path.join("run/model/isg/model.json"), text).expect("writable");
        assert!(refusal(&lab, text).contains("model.json"), "{text}");
    }
}

#[test]
fn an_edited_manifest_with_its_checksum_is_refused() {
    let lab = Lab::new();
    let path = lab.path.join("run/model/isg/model.json");
    let text = fs::read_to_string(&path).expect("a manifest");
    fs::write(&path, text.replace("LYMPH1", "LYMPH9")).expect("writable");
    assert!(refusal(&lab, "edited").contains("checksum"));
    let spaced: Value = serde_json::from_str(&text).expect("JSON");
    fs::write(&path, spaced.to_string()).expect("writable");
    predict(&lab).expect("only its spaces changed");
}

#[test]
fn swapped_lost_and_foreign_networks_are_refused() {
    let lab = Lab::new();
    let other = Lab::new();
    let mut config = other.config();
    config.extractor.global.seed = 77;
    other.finish(&config, &other.path.join("run"));
    let mut third = lab.config();
    third.train.seed = 78;
    let of_same_features = lab.path.join("third");
    lab.finish(&third, &of_same_features);

    let model = |dir: &Path, name: &str| dir.join("model/isg").join(name);
    let (pooled, second) = ("fold-0/member-0/model.safetensors", "fold-1/member-0/model.safetensors");
    let tuned = "fold-0/member-0/tasks/0-all-LYMPH1/model.safetensors";
    type Spoil<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, Spoil, &str)> = vec![
        (
            "a network of other features",
            Box::new(|run| copy(&model(&other.path.join("run"), second), &model(run, second))),
            "fold-1",
        ),
        (
            "a network of another run",
            Box::new(|run| copy(&model(&of_same_features, second), &model(run, second))),
            "fold-1",
        ),
        (
            "a tuned network as the pooled one",
            Box::new(|run| copy(&model(run, tuned), &model(run, pooled))),
            "the task 0-all-LYMPH1",
        ),
        (
            "the pooled network as a tuned one",
            Box::new(|run| copy(&model(run, pooled), &model(run, tuned))),
            "all genes",
        ),
        ("a network lost", Box::new(|run| remove(&model(run, pooled))), "fold-0"),
        ("a tuned network lost", Box::new(|run| remove(&model(run, tuned))), "LYMPH1"),
        ("the folder of a task lost", Box::new(|run| remove(&model(run, "fold-1/member-0/tasks"))), "LYMPH1"),
        ("the folder of a fold lost", Box::new(|run| remove(&model(run, "fold-1"))), "says 2 folds"),
        ("the manifest lost", Box::new(|run| remove(&model(run, "model.json"))), "model.json"),
        (
            "an extractor lost",
            Box::new(|run| remove(&run.join("extractor/local/extractor.safetensors"))),
            "no trained extractor",
        ),
        (
            "swapped extractors",
            Box::new(|run| {
                let [a, b] = ["global", "local"].map(|name| run.join("extractor").join(name));
                fs::rename(&a, run.join("x")).expect("writable");
                fs::rename(&b, &a).expect("writable");
                fs::rename(run.join("x"), &b).expect("writable");
            }),
            "in place of the local one",
        ),
        (
            "another run's extractor",
            Box::new(|run| {
                let file = "extractor/global/extractor.safetensors";
                copy(&other.path.join("run").join(file), &run.join(file));
            }),
            "not trained with",
        ),
        (
            "another choice of patches",
            Box::new(|run| {
                let text = fs::read_to_string(run.join("config.toml")).expect("a configuration");
                let (_, document) = text.split_once('\n').expect("a checksum");
                fs::write(run.join("config.toml"), document.replace("sigma = -1.0", "sigma = 0.5")).expect("writable");
            }),
            "config.toml",
        ),
        (
            "an edited configuration",
            Box::new(|run| {
                let text = fs::read_to_string(run.join("config.toml")).expect("a configuration");
                fs::write(run.join("config.toml"), text.replace("most_patches = 1000", "most_patches = 3"))
                    .expect("writable");
            }),
            "checksum",
        ),
        ("NaN in a network", Box::new(|run| poison(&model(run, pooled))), "NaN or infinite"),
        (
            "NaN in an extractor",
            Box::new(|run| poison(&run.join("extractor/global/extractor.safetensors"))),
            "NaN or infinite",
        ),
    ];
    let whole = lab.path.join("whole");
    super::copy_folder(&lab.path.join("run"), &whole);
    for (what, spoil, words) in cases {
        let run = lab.path.join("run");
        remove(&run);
        super::copy_folder(&whole, &run);
        spoil(&run);
        let message = refusal(&lab, what);
        assert!(message.contains(words), "{what}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("writable");
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("it was there");
}

/// Writes the file again, with its checksum, and one NaN weight.
fn poison(path: &Path) {
    let file = SafetensorsFile::open(path).expect("a file");
    let mut arrays = file.read_all().expect("arrays");
    let metadata = file.metadata();
    let last = arrays.iter_mut().rfind(|a| a.view().element == ElementType::F32).expect("weights");
    let mut values = last.view().to_f32();
    values[0] = f32::NAN;
    let (name, shape) = (last.name.clone(), last.shape.clone());
    *last = isg::io::NamedArray::from_f32(&name, &shape, &values).expect("an array");
    let views: Vec<ArrayView> = arrays.iter().map(isg::io::NamedArray::view).collect();
    isg::io::safetensors::write(path, &views, &metadata).expect("writable");
}
