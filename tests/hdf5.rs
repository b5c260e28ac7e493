//! HDF5 files: what h5py wrote (tests/hdf5/make.py) bit for bit, what is written here as it was, damage always a sentence.

use std::{io::Read, path::Path};

use isg::{
    error::Result,
    io::{
        ElementType, NamedArray,
        hdf5::{self, Attribute, Hdf5File, Value, Written},
    },
};

const FIXTURES: [&str; 2] = ["earliest", "latest"];

/// The bytes of a fixture, which is packed because most of them are zeros.
fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hdf5").join(format!("{name}.h5.gz"));
    let packed = std::fs::File::open(path).expect("a fixture");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).expect("a whole fixture");
    bytes
}

fn opened(name: &str) -> Result<Hdf5File> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file.h5");
    std::fs::write(&path, fixture(name)).expect("a writable folder");
    // The map outlives the name.
    Hdf5File::open(path)
}

fn count(n: usize) -> Vec<f64> {
    (0..n).map(|i| i as f64).collect()
}

#[test]
fn every_layout_that_h5py_writes_is_read_bit_for_bit() -> Result<()> {
    for name in FIXTURES {
        let file = opened(name)?;
        let expect = |dataset: &str, element: ElementType, shape: &[usize], values: &[f64]| -> Result<()> {
            let array = file.dataset(dataset)?.unwrap_or_else(|| panic!("{name}: {dataset}")).read()?;
            assert_eq!((array.element, array.shape.as_slice()), (element, shape), "{name}: {dataset}");
            assert_eq!(array.to_f64(), values, "{name}: {dataset}");
            Ok(())
        };
        expect("plain", ElementType::F32, &[3, 4], &count(12))?;
        expect("rows", ElementType::F32, &[7, 4], &count(28))?;
        expect("packed", ElementType::I64, &[9, 5], &count(45))?;
        expect("packed_rows", ElementType::F16, &[5, 3], &count(15))?;
        let rows: Vec<f64> = (0..64).map(|i| f64::from(i / 16)).collect();
        expect("lzf", ElementType::I32, &[4, 16], &rows)?;
        let holes = [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 6.0, 7.0, -1.0, -1.0, -1.0, -1.0];
        expect("holes", ElementType::I16, &[6, 2], &holes)?;
        expect("group/big", ElementType::F64, &[2, 3], &count(6))?;
        expect("flags", ElementType::I8, &[4], &[0.0, 1.0, 0.0, 1.0])?;
        expect("scalar", ElementType::F64, &[], &[2.5])?;
        expect("compact", ElementType::U16, &[2, 2], &count(4))?;
        if name == "latest" {
            expect("single", ElementType::F32, &[3, 2], &count(6))?;
            expect("single_packed", ElementType::F32, &[3, 2], &count(6))?;
            expect("fixed", ElementType::F32, &[5, 2], &count(10))?;
            expect("along_second", ElementType::U8, &[3, 5], &count(15))?;
            expect("implicit", ElementType::U8, &[3, 3], &count(9))?;
        }
        assert!(file.dataset("nothing")?.is_none() && file.dataset("plain/nothing")?.is_none());
        assert_eq!(file.names("group")?, ["big"]);
        for (dataset, said) in [
            ("text", "holds text, not numbers"),
            ("group", "is a group, not an array"),
            ("soft", "is a link to another name"),
            ("grows", "can grow along several axes"),
        ] {
            if dataset == "grows" && name != "latest" {
                continue;
            }
            let error = file.dataset(dataset).err().unwrap_or_else(|| panic!("{name}: {dataset}")).to_string();
            assert!(error.contains(&format!("{dataset} {said}")), "{error}");
        }
    }
    Ok(())
}

#[test]
fn attributes_are_read_whichever_way_they_are_stored() -> Result<()> {
    for name in FIXTURES {
        let file = opened(name)?;
        let plain = file.dataset("plain")?.expect("it is there");
        let attribute = |name: &str| plain.attribute(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(attribute("patch_size").number(), Some(256.0));
        assert_eq!(attribute("name").text(), Some("slide é"));
        assert_eq!(attribute("bytes").text(), Some("fixed"));
        assert!(matches!(&attribute("factors").value, Value::Numbers(n) if n.to_f64() == [0.5, 2.0]));
        assert!(matches!(&attribute("texts").value, Value::Text(texts) if texts == &["a", "", "bcd"]));
        assert!(plain.attribute("nothing").is_none());
        if name == "latest" {
            assert!((0..12).all(|i| attribute(&format!("more{i}")).number() == Some(f64::from(i))));
        }
    }
    Ok(())
}

/// Everything of a file, by every way in. Whether anything was refused.
fn read_all(path: &Path) -> bool {
    let Ok(file) = Hdf5File::open(path) else { return true };
    let mut refused = file.attributes("").is_err();
    for name in file.names("").unwrap_or_default() {
        match file.dataset(&name) {
            Ok(Some(dataset)) => refused |= dataset.read().is_err(),
            Ok(None) => {}
            Err(error) => refused |= !error.to_string().contains("is a group") || file.names(&name).is_err(),
        }
    }
    refused
}

/// Bytes of every fixture in turn take values that lead elsewhere (few of the many zeros do), and every file is cut short.
#[test]
fn damage_is_refused_or_harmless_and_never_a_panic() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("damaged.h5");
    let (mut all, mut refused) = (0, 0);
    for name in FIXTURES {
        let whole = fixture(name);
        for at in (0..whole.len()).filter(|&at| whole[at] != 0 || at % 29 == 0) {
            let mut bytes = whole.clone();
            bytes[at] = match at % 3 {
                0 => !whole[at],
                1 => whole[at].wrapping_add(1),
                _ => whole[at] ^ 0x80,
            };
            std::fs::write(&path, &bytes).expect("a writable folder");
            (all, refused) = (all + 1, refused + usize::from(read_all(&path)));
        }
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&path, &whole[..length]).expect("a writable folder");
            assert!(read_all(&path), "{name} cut to {length} bytes");
        }
    }
    assert!(refused > all / 20, "{refused} of {all}");
}

#[test]
fn what_is_written_is_read_again() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("written.h5");
    let features = NamedArray::from_f32("features", &[3, 2], &[0.5, -1.0, f32::MIN_POSITIVE, 3.25, 1e30, -0.0])?;
    let coords = NamedArray::from_i64("coords", &[3, 2], &[0, 0, 256, 0, -1, i64::MAX])?;
    let half = NamedArray::f16_from_f32("half", &[5], &[1.0, 2.0, 3.0, 4.0, 5.0])?;
    let none = NamedArray::from_f64("none", &[0, 4], &[])?;
    let text = |name: &str, texts: &[&str]| Attribute {
        name: name.into(),
        value: Value::Text(texts.iter().map(|text| (*text).to_string()).collect()),
    };
    let number = |value| -> Result<Attribute> {
        let name = "patch_size".to_string();
        Ok(Attribute { value: Value::Numbers(NamedArray::from_i64(name.as_str(), &[], &[value])?), name })
    };
    let of_coords = [number(256)?, text("name", &["slide é"]), text("empty", &[""]), text("texts", &["a", "b"])];
    let root = [text("made by", &["isg"])];
    let arrays = [&features, &coords, &half, &none];
    let written: Vec<Written> = arrays
        .iter()
        .map(|array| Written { array: array.view(), attributes: if array.name == "coords" { &of_coords } else { &[] } })
        .collect();
    hdf5::write(&path, &written, &root)?;
    let file = Hdf5File::open(&path)?;
    for array in arrays {
        assert_eq!(&file.dataset(&array.name)?.expect("it is there").read()?, array);
    }
    assert_eq!(file.dataset("coords")?.expect("it is there").attributes(), of_coords);
    assert_eq!(file.attributes("")?, root);
    Ok(())
}
