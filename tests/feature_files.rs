//! Vectors that other programs made, in the layouts that they write: found by their places, and refused where they are not of the
//! slide or of the run's patches.

use std::{collections::BTreeMap, path::Path};

use isg::{
    Device, Result,
    encoder::{Encoder, Parameters, PatchEncoder, Site, named},
    extractor::config::ExtractorConfig,
    io::{
        NamedArray,
        hdf5::{self, Attribute, Value, Written},
        safetensors,
    },
    select::{PatchList, SlideFrame},
};

/// A slide of 4096 x 2048 px whose patches are 512 of them a side.
const FRAME: SlideFrame = SlideFrame { size_px: [4096, 2048], mpp: Some(0.25), patch_px: [512; 2] };

fn number(name: &str, value: i64) -> Attribute {
    let array = NamedArray::from_i64(name, &[], &[value]).expect("one number");
    Attribute { name: name.into(), value: Value::Numbers(array) }
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.into(), value: Value::Text(vec![value.into()]) }
}

/// Vectors of `d` numbers that count up.
fn vectors(name: &str, shape: &[usize]) -> NamedArray {
    let values: Vec<f32> = (0..shape.iter().product()).map(|v: usize| v as f32).collect();
    NamedArray::from_f32(name, shape, &values).expect("a shape that fits")
}

fn write_hdf5(path: &Path, arrays: &[&NamedArray], of_coords: &[Attribute], root: &[Attribute]) -> Result<()> {
    let attributes = |array: &NamedArray| if array.name == "coords" { of_coords } else { &[] };
    let written: Vec<Written> =
        arrays.iter().map(|array| Written { array: array.view(), attributes: attributes(array) }).collect();
    hdf5::write(path, &written, root)
}

/// What TRIDENT says of its corners.
fn trident(patch_px: i64, slide_px: [i64; 2]) -> Vec<Attribute> {
    vec![
        number("patch_size", patch_px / 2),
        number("patch_size_level0", patch_px),
        number("level0_magnification", 40),
        number("target_magnification", 20),
        number("overlap", 0),
        number("level0_width", slide_px[0]),
        number("level0_height", slide_px[1]),
        text("name", "a"),
    ]
}

/// The encoder of a folder, and the same with everything loaded.
struct Opened {
    settings: std::sync::Arc<dyn Encoder>,
    loaded: Box<dyn PatchEncoder>,
}

fn settings(folder: &Path) -> Result<std::sync::Arc<dyn Encoder>> {
    let settings = serde_json::json!({ "features": folder, "patches": "file" });
    let settings: Parameters = settings.as_object().expect("a table").clone();
    named("file", settings)
}

impl Opened {
    fn of(folder: &Path) -> Result<Opened> {
        let encoder = settings(folder)?;
        let small = ExtractorConfig::small();
        let site = Site { dir: folder, extractor: &small, precision: small.precision };
        Ok(Opened { loaded: encoder.load(site, &Device::cpu())?, settings: encoder })
    }

    fn corners(&self, slide: &str) -> Result<Vec<[u64; 2]>> {
        let list: Option<Box<dyn PatchList>> = self.settings.patches(slide)?;
        list.expect("a list of the file's own").corners(&FRAME)
    }

    fn at(&self, slide: &str, corners: &[[i64; 2]]) -> Result<Vec<f32>> {
        Ok(self.loaded.at(slide, &FRAME, corners)?.expect("vectors by place"))
    }
}

#[test]
fn vectors_of_other_programs_are_found_by_their_places() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let coords = NamedArray::from_i64("coords", &[3, 2], &[512, 512, 0, 512, 100, 7])?;
    let (wanted, d) = ([[100, 7], [0, 512], [512, 512]], 2);
    let features = vectors("features", &[3, d]);
    write_hdf5(&path("trident.h5"), &[&features, &coords], &trident(512, [4096, 2048]), &[])?;
    write_hdf5(&path("clam.h5"), &[&vectors("features", &[1, 3, d]), &coords], &[], &[])?;
    write_hdf5(
        &path("patch level 0.h5"),
        &[&features, &coords],
        &[number("patch_size", 512), number("patch_level", 0)],
        &[],
    )?;
    // Level-0 pixels of 0.25 µm.
    let um = NamedArray::from_f32("coords", &[3, 2], &[128.0, 128.0, 0.0, 128.0, 25.0, 1.75])?;
    let of_stamp = [text("unit", "um"), number("tile_size_um", 128)];
    write_hdf5(&path("stamp.h5"), &[&vectors("feats", &[3, d]), &um], &[], &of_stamp)?;
    // A name that this program would write otherwise.
    safetensors::write(path("weird é.safetensors"), &[features.view(), coords.view()], &BTreeMap::new())?;

    let opened = Opened::of(folder.path())?;
    assert_eq!(opened.loaded.d(), d);
    for slide in ["trident", "clam", "patch level 0", "stamp", "weird é"] {
        assert_eq!(opened.corners(slide)?, wanted.map(|corner| corner.map(|v| v as u64)), "{slide}");
        assert_eq!(opened.at(slide, &wanted)?, [4.0, 5.0, 2.0, 3.0, 0.0, 1.0], "{slide}");
    }
    Ok(())
}

#[test]
fn deep_zoom_tiles_of_he2rna_lie_where_their_level_says() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // 4096 px are level 12: tiles of level 11 are 448 level-0 pixels a side. Level, x, y and two features.
    let rows: [f32; 10] = [11.0, 0.0, 1.0, 0.5, 1.5, 11.0, 8.0, 2.0, 2.5, 3.5];
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 5), }";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(rows.iter().flat_map(|v| v.to_le_bytes()));
    std::fs::write(folder.path().join("a.npy"), &bytes).expect("a writable folder");
    let opened = Opened::of(folder.path())?;
    assert_eq!(opened.loaded.d(), 2);
    let said = opened.corners("a").expect_err("another side").to_string();
    assert!(said.contains("patches of 448 level-0 pixels a side, the run cuts patches of 512 x 512"), "{said}");
    let frame = SlideFrame { patch_px: [448; 2], ..FRAME };
    assert_eq!(opened.loaded.at("a", &frame, &[[3584, 896], [0, 448]])?, Some(vec![2.5, 3.5, 0.5, 1.5]));
    Ok(())
}

#[test]
fn files_of_other_slides_other_patches_and_no_places_are_refused() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let features = vectors("features", &[1, 2]);
    let corner = |x: i64, y: i64| NamedArray::from_i64("coords", &[1, 2], &[x, y]);
    write_hdf5(&path("large.h5"), &[&features, &corner(0, 0)?], &trident(1024, [4096, 2048]), &[])?;
    write_hdf5(&path("foreign.h5"), &[&features, &corner(0, 0)?], &trident(512, [4096, 4096]), &[])?;
    write_hdf5(&path("beyond.h5"), &[&features, &corner(0, 2048)?], &[], &[])?;
    write_hdf5(&path("before.h5"), &[&features, &corner(-1, 0)?], &[], &[])?;
    write_hdf5(&path("clusters.h5"), &[&vectors("cluster_features", &[1, 2])], &[], &[])?;
    write_hdf5(&path("none.h5"), &[&corner(0, 0)?], &[], &[])?;
    write_hdf5(&path("few.h5"), &[&vectors("features", &[3, 2]), &corner(0, 0)?], &[], &[])?;
    write_hdf5(&path("inches.h5"), &[&features, &corner(0, 0)?], &[], &[text("unit", "inch")])?;
    std::fs::write(path("broken.h5"), b"\x89HDF\r\n\x1a\n\x00").expect("a writable folder");
    let tensor = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/weights/one_tensor.pth");
    std::fs::copy(tensor, path("tensor.pt")).expect("a writable folder");

    let settings = settings(folder.path())?;
    for (slide, said) in [
        ("large", "large.h5: has patches of 1024 level-0 pixels a side, the run cuts patches of 512 x 512"),
        ("foreign", "was made of a slide of 4096 x 4096 px, this one has 4096 x 2048 px"),
        ("beyond", "has a patch at 0, 2048, beyond the slide's 4096 x 2048 px"),
        ("before", "has a patch at -1, 0, which begins outside the slide"),
        ("clusters", "says nowhere where its patches lie"),
        ("none", "has no `features`"),
        ("few", "has 3 vectors of 1 corners"),
        ("inches", "has corners in inch"),
        ("broken", "broken.h5: is damaged"),
        ("tensor", "tensor.pt: "),
        ("absent", "absent.h5: is not there"),
    ] {
        let found = settings.patches(slide).and_then(|list| list.expect("the file's own").corners(&FRAME));
        let found = found.expect_err(slide).to_string();
        assert!(found.contains(said), "{slide}: {found}");
    }
    Ok(())
}
