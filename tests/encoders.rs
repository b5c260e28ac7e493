//! Patch encoders: networks against timm's numbers (`tests/encoders/make.py`), settings, files of features, what is refused.

use std::{collections::BTreeMap, path::Path};

use isg::{
    DType, Device, Result, Tensor,
    encoder::{
        ENCODERS, EncoderConfig, Parameters, Site,
        efficientnet_lite0::{EfficientNet, Keys},
        named,
        resnet::{Block, Resnet, ResnetConfig},
        state_dict::StateDict,
        vit::{Mlp, Vit, names, positions::Positions},
    },
    extractor::{config::ExtractorConfig, patches::MemoryPatches},
    image::RgbImage,
    io::{NamedArray, safetensors, safetensors::SafetensorsFile},
    progress::Silent,
    random::Philox,
    select::SlideFrame,
};

fn fixture() -> SafetensorsFile {
    SafetensorsFile::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/encoders/networks.safetensors"))
        .expect("the fixture")
}

/// The tensors of one of the fixture's networks, as a wrapped checkpoint.
fn weights(of: &str, anchor: &str, ignored: &[&str]) -> StateDict {
    let arrays = fixture().read_all().expect("the fixture");
    let own = arrays.into_iter().filter(|a| a.name.starts_with(&format!("{of}."))).collect();
    StateDict::of(own, of, &[anchor], ignored).expect("the anchor is there")
}

/// Largest difference of `forward` from timm's features, relative to the largest of those.
fn worst(of: &str, forward: impl Fn(&Tensor) -> Result<Tensor>) -> f64 {
    let file = fixture();
    let array = |what: &str| file.get(&format!("{what}/{of}")).expect("the fixture").to_owned();
    let (image, features) = (array("image"), array("features").to_f64());
    let image = Tensor::from_vec(image.to_f32(), &image.shape[..], &Device::cpu()).expect("an image");
    let ours = forward(&image).expect("a forward pass").to_vec::<f64>().expect("on the CPU");
    assert_eq!(ours.len(), features.len(), "{of}");
    let largest = features.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    ours.iter().zip(&features).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f64::max)
}

#[test]
fn residual_networks_are_timms() -> Result<()> {
    for (name, block, layers, widths) in [
        ("resnet18", Block::Basic, [2, 1, 1, 1], [8, 8, 12, 16]),
        ("resnet50", Block::Bottleneck, [1, 2, 1, 1], [4, 4, 6, 8]),
    ] {
        let mut b = weights(name, "conv1.weight", &["fc."]).into_builder(DType::F32, &Device::cpu())?;
        let mut net = Resnet::new(&mut b, &ResnetConfig { block, layers, widths })?;
        b.finish()?;
        for folded in [false, true] {
            if folded {
                net.fold(DType::F32)?;
            }
            let worst = worst(name, |x| net.forward(x, 4));
            assert!(worst < 1e-5, "{name}: {worst}");
        }
    }
    Ok(())
}

#[test]
fn efficientnet_is_timms() -> Result<()> {
    let weights = weights("lite0", "conv_stem.weight", &["classifier."]);
    let rows = |name: String| weights.shape(&name).map(|shape| shape[0]);
    let mut channels = [rows("conv_stem.weight".into())?; 9];
    for (s, to) in channels[1..8].iter_mut().enumerate() {
        *to = rows(format!("blocks.{s}.0.{}.weight", if s == 0 { "conv_pw" } else { "conv_pwl" }))?;
    }
    channels[8] = rows("conv_head.weight".into())?;
    let mut b = weights.into_builder(DType::F32, &Device::cpu())?;
    let mut net = EfficientNet::new(&mut b, &channels, Keys::Timm)?;
    b.finish()?;
    net.fold(DType::F32)?;
    let worst = worst("lite0", |x| net.forward(x));
    assert!(worst < 1e-5, "{worst}");
    Ok(())
}

#[test]
fn vision_transformers_are_timms_and_tell_their_sizes() -> Result<()> {
    for (name, heads) in [("timm", 3), ("dinov2", 2)] {
        let weights = weights(name, "patch_embed.proj.weight", &["head"]);
        let mut config = names::sizes(&weights)?;
        config.heads = heads;
        match name {
            "timm" => assert_eq!((config.mlp, config.registers, config.stored_grid), (Mlp::Gelu, 0, [3, 3])),
            _ => assert_eq!((config.mlp, config.registers, config.positions), (Mlp::SwiGlu, 3, Positions::Patches)),
        }
        let mut b = weights.into_builder(DType::F32, &Device::cpu())?;
        let net = Vit::new(&mut b, config)?;
        b.finish()?;
        // timm resamples positions in f32.
        let worst = worst(name, |x| net.forward(x));
        assert!(worst < 1e-5, "{name}: {worst}");
    }
    Ok(())
}

fn images(count: usize) -> Vec<RgbImage> {
    let image = |i: usize| {
        let side = 40 + 3 * i;
        let pixels = Philox::named(i as u64, "image").uniforms(side * side * 3);
        RgbImage { width_px: side, height_px: side, pixels: pixels.iter().map(|u| (u * 255.0) as u8).collect() }
    };
    (0..count).map(image).collect()
}

fn parameters(json: serde_json::Value) -> Parameters {
    json.as_object().expect("a table").clone()
}

/// Every encoder of the list: learned where it learns, the same vectors on every call, in one batch or several, and a digest that
/// names them.
#[test]
fn every_encoder_encodes() -> Result<()> {
    let (cpu, images) = (Device::cpu(), images(5));
    let small = ExtractorConfig { steps: 2, ..ExtractorConfig::small() };
    let cases: Vec<_> = ENCODERS.iter().flat_map(|spec| (spec.cases)()).collect();
    assert!(cases.len() >= 7, "{cases:?}");
    for encoder in cases {
        let name = encoder.spec().name;
        encoder.check()?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let site = Site { dir: folder.path(), extractor: &small, precision: small.precision };
        if encoder.learns() {
            assert!(encoder.load(site, &cpu).is_err(), "{}: nothing is learned yet", name);
            encoder.learn(site, &MemoryPatches(images.clone()), &cpu, &Silent)?;
        }
        assert_eq!(encoder.digest(site)?, encoder.digest(site)?);
        let loaded = encoder.load(site, &cpu)?;
        assert_eq!(loaded.d(), encoder.probe(site)?, "{}", name);
        let all = loaded.encode(&images)?;
        assert_eq!(all.len(), 5 * loaded.d(), "{}", name);
        assert!(all.iter().all(|v| v.is_finite()), "{}", name);
        assert_ne!(all[..loaded.d()], all[loaded.d()..2 * loaded.d()], "{}: two images, one vector", name);
        let again = encoder.load(site, &cpu)?;
        assert_eq!(again.digest(), loaded.digest());
        let close = |a: &f32, b: &f32| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
        assert!(again.encode(&images[3..])?.iter().zip(&all[3 * loaded.d()..]).all(|(a, b)| close(a, b)), "{}", name);
        assert!(loaded.encode(&[RgbImage { width_px: 0, height_px: 0, pixels: vec![] }]).is_err(), "{}", name);
        // What is written in a run's folder reads back as the same encoder.
        let config = EncoderConfig::of(encoder);
        let written = toml::to_string(&config).expect("plain values");
        assert_eq!(toml::from_str::<EncoderConfig>(&written).expect("what was written"), config, "{written}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_is_said_in_a_sentence() {
    let said = |text: &str| toml::from_str::<EncoderConfig>(text).expect_err(text).to_string();
    for (text, part) in [
        ("kind = \"resnet51\"", "there is no encoder `resnet51`; choose one of isg,"),
        ("kind = \"resnet50\"", "encoder.weights is missing"),
        ("kind = \"resnet50\"\nweights = \"random\"\nwidth = 3", "unknown field `width`"),
        ("kind = \"resnet50\"\nweights = \"random\"\ntile_px = 5", "a side from 32 to 2048"),
        ("kind = \"vit\"\nweights = \"random\"", "name the network to draw, one of uni,"),
        ("kind = \"vit\"\nweights = \"random\"\npreset = \"uni3\"", "\"uni3\": unknown; known are uni,"),
        ("kind = \"vit\"\nweights = \"random\"\npreset = \"uni2-h\"\ntile_px = 225", "whole patches of 14 px"),
        ("kind = \"file\"", "encoder.features is missing"),
        ("pool = \"max\"", "\"patch\" or \"mean_sd\""),
    ] {
        assert!(said(text).contains(part), "{text}: {}", said(text));
    }
}

/// A file of another network is refused by what it is.
#[test]
fn weights_of_another_network_are_refused() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("net.safetensors");
    let arrays: Vec<NamedArray> = fixture().read_all()?.into_iter().filter(|a| a.name.starts_with("timm.")).collect();
    let views: Vec<_> = arrays.iter().map(NamedArray::view).collect();
    safetensors::write(&path, &views, &BTreeMap::new())?;
    let small = ExtractorConfig::small();
    let site = Site { dir: Path::new("nowhere"), extractor: &small, precision: small.precision };
    let load = |name: &str, more: serde_json::Value| {
        let mut settings = parameters(more);
        settings.insert("weights".into(), path.display().to_string().into());
        let loaded = named(name, settings).and_then(|encoder| encoder.load(site, &Device::cpu()));
        loaded.map(|encoder| encoder.d()).map_err(|e| e.to_string())
    };
    let said = load("resnet50", serde_json::json!({})).expect_err("a transformer");
    assert!(said.contains("net.safetensors") && said.contains("holds no tensor `conv1.weight`"), "{said}");
    let said = load("vit", serde_json::json!({ "preset": "uni" })).expect_err("a small one");
    assert!(
        said.contains("holds a network 24 wide, 2 blocks, patches of 8 px") && said.contains("uni is 1024 wide"),
        "{said}"
    );
    assert_eq!(load("vit", serde_json::json!({ "tile_px": 48, "heads": 3 })), Ok(24));
    assert_eq!(load("vit", serde_json::json!({ "tile_px": 48, "heads": 3, "tokens": "cls+mean" })), Ok(48));
    Ok(())
}

#[test]
fn features_made_elsewhere_are_found_by_their_corners() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |slide: &str, d: usize, corners: &[i64]| {
        let n = corners.len() / 2;
        let features: Vec<f32> = (0..n * d).map(|v| v as f32).collect();
        let features = NamedArray::f16_from_f32("features", &[n, d], &features)?;
        let coords = NamedArray::from_i64("coords", &[n, 2], corners)?;
        let path = folder.path().join(format!("{slide}.safetensors"));
        safetensors::write(path, &[features.view(), coords.view()], &BTreeMap::new()).map(drop)
    };
    write("a", 3, &[0, 0, 256, 0, 0, 256])?;
    write("b", 2, &[0, 0])?;
    let encoder = named("file", parameters(serde_json::json!({ "features": folder.path() })))?;
    let small = ExtractorConfig::small();
    let site = Site { dir: folder.path(), extractor: &small, precision: small.precision };
    let loaded = encoder.load(site, &Device::cpu())?;
    assert_eq!(loaded.d(), 3);
    let frame = SlideFrame { size_px: [512, 512], mpp: None, patch_px: [256; 2] };
    assert_eq!(loaded.at("a", &frame, &[[0, 256], [0, 0]])?, Some(vec![6.0, 7.0, 8.0, 0.0, 1.0, 2.0]));
    let said = |slide: &str| loaded.at(slide, &frame, &[[0, 0], [9, 9]]).expect_err("cannot be").to_string();
    assert!(said("a").contains("no vector of 1 of the 2 patches kept, such as the one at 9, 9"), "{}", said("a"));
    assert!(said("b").contains("vectors of 2 numbers, other slides' have 3"), "{}", said("b"));
    assert!(said("c").contains("c.h5: is not there"), "{}", said("c"));
    let before = encoder.digest(site)?;
    write("b", 3, &[0, 0])?;
    assert_ne!(encoder.digest(site)?, before, "a changed file is another encoder");
    Ok(())
}
