//! The feature store: what is written comes back, and what is out of date is noticed.

use isg::cohort::{
    FeatureKey, FeatureStore,
    feature_store::{Freshness, LocalPrecision, SlideFeatures, SlideFingerprint},
};

fn key() -> FeatureKey {
    FeatureKey {
        patch_px: 1024,
        fine_px: 128,
        mpp: Some(0.2527),
        extractor: "9f3a".into(),
        selector: "shannon:lz".into(),
        threshold: "sigma 1".into(),
        local_precision: LocalPrecision::F32,
    }
}

fn features(n: usize, g: usize, d: usize) -> SlideFeatures {
    let ramp = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    SlideFeatures {
        d,
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
    let slide = dir.path().join("slide.tiff");
    std::fs::write(&slide, vec![3u8; 5000]).unwrap();
    let fingerprint = SlideFingerprint::of(&slide).unwrap();
    for (name, n, precision) in
        [("a", 3, LocalPrecision::F32), ("b", 5, LocalPrecision::F16), ("none", 0, LocalPrecision::F16)]
    {
        let written = features(n, 4, 6);
        store.write(name, &FeatureKey { local_precision: precision, ..key() }, &fingerprint, &written).unwrap();
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
            assert!((means[patch * 6 + 2] - by_hand).abs() < 1e-6);
        }
        assert!(read.local_patch(n).is_err());
    }
    let (index, damaged) = store.rebuild_index().unwrap();
    assert_eq!(
        index.iter().map(|e| (e.slide.as_str(), e.patches)).collect::<Vec<_>>(),
        [("a", 3), ("b", 5), ("none", 0)]
    );
    assert!(damaged.is_empty() && store.folder().join("index.json").is_file());
}

#[test]
fn changes_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = FeatureStore::open(dir.path()).unwrap();
    let slide = dir.path().join("slide.svs");
    let pixels: Vec<u8> = (0..3_000_000u32).map(|i| (i * 31 % 251) as u8).collect();
    std::fs::write(&slide, &pixels).unwrap();
    let state = |key: &FeatureKey| store.freshness("s/1", key, &slide).unwrap();
    assert_eq!(state(&key()), Freshness::Missing);
    store.write("s/1", &key(), &SlideFingerprint::of(&slide).unwrap(), &features(2, 8, 4)).unwrap();
    assert_eq!(state(&key()), Freshness::Current);
    assert!(store.is_current("s/1", &key(), &slide).unwrap());
    for (field, changed) in [
        ("patch_px", FeatureKey { patch_px: 512, ..key() }),
        ("fine_px", FeatureKey { fine_px: 256, ..key() }),
        ("mpp", FeatureKey { mpp: None, ..key() }),
        ("extractor", FeatureKey { extractor: "other".into(), ..key() }),
        ("selector", FeatureKey { selector: "otsu".into(), ..key() }),
        ("threshold", FeatureKey { threshold: "sigma 2".into(), ..key() }),
        ("local_precision", FeatureKey { local_precision: LocalPrecision::F16, ..key() }),
    ] {
        match state(&changed) {
            Freshness::SettingChanged(words) => assert!(words.starts_with(field), "{words}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    // The same bytes at another time are the same slide; other bytes are not, wherever a look is taken.
    std::fs::write(&slide, &pixels).unwrap();
    assert_eq!(state(&key()), Freshness::Current);
    for at in [0, pixels.len() - 1] {
        let mut other = pixels.clone();
        other[at] ^= 1;
        std::fs::write(&slide, other).unwrap();
        assert_eq!(state(&key()), Freshness::SlideChanged, "byte {at}");
    }
    std::fs::write(&slide, &pixels[1..]).unwrap();
    assert_eq!(state(&key()), Freshness::SlideChanged);

    let path = store.path_of("s/1");
    assert_eq!(path.parent(), Some(store.folder()), "no id leaves the folder");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    assert!(matches!(state(&key()), Freshness::Damaged(_)));
    let (index, damaged) = store.rebuild_index().unwrap();
    assert_eq!((index.len(), damaged.len()), (0, 1));
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = FeatureStore::open(dir.path()).unwrap();
    let fingerprint = SlideFingerprint { size_bytes: 1, modified_ns: 1, hash: String::new() };
    let mut wrong = features(2, 2, 3);
    wrong.global.pop();
    assert!(store.write("x", &key(), &fingerprint, &wrong).is_err());
    let mut nan = features(2, 2, 3);
    nan.local[3] = f32::NAN;
    assert!(store.write("x", &key(), &fingerprint, &nan).unwrap_err().to_string().contains("not finite"));
    assert!(!store.path_of("x").exists());
    // A safetensors file of something else is no feature file.
    let other = isg::io::NamedArray::from_f32("global", &[1], &[1.0]).unwrap();
    isg::io::safetensors::write(store.path_of("x"), &[other.view()], &Default::default()).unwrap();
    assert!(store.read("x").err().unwrap().to_string().contains("is no feature file"));
}
