//! The feature store: what is written comes back, and what is out of date is noticed.

use approx::assert_abs_diff_eq;
use isg::{
    cohort::{
        FeatureKey, FeatureStore,
        feature_store::{Held, LocalPrecision, SlideFeatures},
    },
    io::checksum::Digest,
};

fn key() -> FeatureKey {
    FeatureKey {
        patch_px: 1024,
        fine_px: 128,
        slide: Digest::of_bytes(b"slide"),
        patches: Digest::of_bytes(b"patches"),
        global_extractor: Digest::of_bytes(b"global"),
        local_extractor: Digest::of_bytes(b"local"),
        local_precision: LocalPrecision::F32,
    }
}

fn features(n: usize, g: usize, d: usize) -> SlideFeatures {
    let ramp = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    SlideFeatures {
        d,
        cell_d: d,
        g,
        global: ramp(n * d),
        local: ramp(n * g * g * d),
        coords: (0..n as i64).map(|i| [i * 1024, 7 - i]).collect(),
        scores: (0..n).map(|i| i as f64 * 1.5).collect(),
    }
}

#[test]
fn features_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = FeatureStore::open(dir.path().join("features")).unwrap();
    for (name, n, precision) in
        [("a", 3, LocalPrecision::F32), ("b", 5, LocalPrecision::F16), ("none", 0, LocalPrecision::F16)]
    {
        let written = features(n, 4, 6);
        store.write(name, &FeatureKey { local_precision: precision, ..key() }, &written).unwrap();
        let read = store.read(name).unwrap();
        assert_eq!((read.n, read.d, read.g, read.slide.as_str()), (n, 6, 4, name));
        assert_eq!(read.global().unwrap().as_ref(), written.global);
        assert!(matches!(read.global().unwrap(), std::borrow::Cow::Borrowed(_)), "global vectors lie aligned");
        assert_eq!((read.coords().unwrap(), read.scores().unwrap()), (written.coords.clone(), written.scores.clone()));
        let local = read.local().unwrap();
        let tolerance = if precision == LocalPrecision::F32 { 0.0 } else { 5e-4 };
        assert!(local.iter().zip(&written.local).all(|(a, b)| (a - b).abs() <= tolerance), "{name}");
        let means = read.local_means().unwrap();
        assert_eq!(means.len(), n * 6);
        for patch in 0..n {
            assert_eq!(read.local_patch(patch).unwrap(), local[patch * 96..(patch + 1) * 96]);
            let by_hand = (0..16).map(|c| local[patch * 96 + c * 6 + 2]).sum::<f32>() / 16.0;
            assert_abs_diff_eq!(means[patch * 6 + 2], by_hand, epsilon = 1e-6);
        }
        assert!(read.local_patch(n).is_err());
    }
    store.write_index(&[store.read("b").unwrap(), store.read("a").unwrap()]).unwrap();
    let index: serde_json::Value = isg::io::sealed::read_json(store.folder().join("index.json")).unwrap();
    assert_eq!((&index["slides"][0]["slide"], &index["slides"][1]["patches"]), (&"a".into(), &5.into()));
}

/// Vectors of patches and of cells may be of two lengths, and there may be no cells.
#[test]
fn cubes_are_of_their_own_width_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let store = FeatureStore::open(dir.path()).unwrap();
    let wide = SlideFeatures { d: 5, global: (0..15).map(|v| v as f32).collect(), ..features(3, 2, 4) };
    store.write("wide", &key(), &wide).unwrap();
    let read = store.read("wide").unwrap();
    assert_eq!((read.n, read.d, read.cell_d, read.g), (3, 5, 4, 2));
    assert_eq!((read.local_patch(1).unwrap().len(), read.local_means().unwrap().len()), (16, 12));
    let alone = SlideFeatures { cell_d: 0, g: 0, local: Vec::new(), ..wide };
    store.write("alone", &key(), &alone).unwrap();
    let read = store.read("alone").unwrap();
    assert_eq!((read.n, read.d, read.cell_d, read.g), (3, 5, 0, 0));
    assert_eq!(read.global().unwrap().as_ref(), alone.global);
    assert!(read.local().unwrap().is_empty() && read.local_patch(1).unwrap().is_empty());
}

#[test]
fn changes_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = FeatureStore::open(dir.path()).unwrap();
    let held = |slide: &str, key: &FeatureKey| store.find(slide, key).unwrap();
    assert!(matches!(held("s/1", &key()), Held::Missing));
    store.write("s/1", &key(), &features(2, 8, 4)).unwrap();
    assert!(matches!(held("s/1", &key()), Held::Current(stored) if stored.n == 2));
    let other = Digest::of_bytes(b"other");
    for (field, changed) in [
        ("patch_px", FeatureKey { patch_px: 512, ..key() }),
        ("fine_px", FeatureKey { fine_px: 256, ..key() }),
        ("slide", FeatureKey { slide: other, ..key() }),
        ("patches", FeatureKey { patches: other, ..key() }),
        ("global_extractor", FeatureKey { global_extractor: other, ..key() }),
        ("local_extractor", FeatureKey { local_extractor: other, ..key() }),
        ("local_precision", FeatureKey { local_precision: LocalPrecision::F16, ..key() }),
    ] {
        match held("s/1", &changed) {
            Held::Changed(words) => assert!(words.starts_with(field), "{words}"),
            _ => panic!("{field} went unnoticed"),
        }
    }
    let path = store.path_of("s/1");
    assert_eq!(path.parent(), Some(store.folder()), "no id leaves the folder");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(store.path_of("s/2"), &whole).unwrap();
    assert!(matches!(held("s/2", &key()), Held::Damaged(why) if why.contains("of s/1, not of s/2")));
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    assert!(matches!(held("s/1", &key()), Held::Damaged(_)), "cut short");
    for bit in (0..whole.len() * 8).step_by(61) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(held("s/1", &key()), Held::Damaged(_)), "bit {bit}");
    }
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = FeatureStore::open(dir.path()).unwrap();
    let mut wrong = features(2, 2, 3);
    wrong.global.pop();
    assert!(store.write("x", &key(), &wrong).is_err());
    let mut nan = features(2, 2, 3);
    nan.local[3] = f32::NAN;
    assert!(store.write("x", &key(), &nan).unwrap_err().to_string().contains("not finite"));
    assert!(!store.path_of("x").exists());
    // A safetensors file of something else is no feature file.
    let other = isg::io::NamedArray::from_f32("global", &[1], &[1.0]).unwrap();
    isg::io::safetensors::write(store.path_of("x"), &[other.view()], &Default::default()).unwrap();
    assert!(store.read("x").err().unwrap().to_string().contains("is no feature file"));
}
