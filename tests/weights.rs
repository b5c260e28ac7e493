//! Weight files: safetensors round trips, and PyTorch files that PyTorch itself wrote (tests/weights/make.py).

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use isg::io::{
    ElementType, NamedArray, Weights,
    pytorch::TorchFile,
    safetensors::{self, SafetensorsFile},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/weights").join(name)
}

fn ramp(n: usize) -> Vec<f64> {
    (0..n).map(|i| i as f64 / 8.0).collect()
}

/// What make.py's checkpoint holds, whichever format it is saved in.
fn check_checkpoint(name: &str) {
    let weights = Weights::read(fixture(name)).unwrap();
    let expect = |key: &str, element: ElementType, shape: &[usize], values: &[f64]| {
        let array = weights.get(key).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((array.element, array.shape.as_slice()), (element, shape), "{name}: {key}");
        assert_eq!(array.to_f64(), values, "{name}: {key}");
    };
    expect("f32", ElementType::F32, &[2, 3], &ramp(6));
    expect("f64", ElementType::F64, &[5], &ramp(5));
    expect("f16", ElementType::F16, &[3, 2], &ramp(6));
    expect("bf16", ElementType::Bf16, &[4], &ramp(4));
    expect("i64", ElementType::I64, &[3], &[-1.0, (1u64 << 40) as f64, 3.0]);
    expect("i32", ElementType::I32, &[2], &[-7.0, 8.0]);
    expect("i16", ElementType::I16, &[2], &[-300.0, 300.0]);
    expect("i8", ElementType::I8, &[2], &[-5.0, 5.0]);
    expect("u8", ElementType::U8, &[2], &[0.0, 255.0]);
    expect("flag", ElementType::Bool, &[3], &[1.0, 0.0, 1.0]);
    expect("scalar", ElementType::F32, &[], &[2.5]);
    expect("empty", ElementType::F32, &[0, 3], &[]);
    expect("whole", ElementType::F32, &[4, 6], &ramp(24));
    let at = |row: usize, column: usize| (row * 6 + column) as f64 / 8.0;
    let transposed: Vec<f64> = (0..6).flat_map(|c| (0..4).map(move |r| at(r, c))).collect();
    expect("transposed", ElementType::F32, &[6, 4], &transposed);
    expect("column", ElementType::F32, &[4], &[at(0, 2), at(1, 2), at(2, 2), at(3, 2)]);
    expect("corner", ElementType::F32, &[2, 3], &[at(1, 2), at(1, 3), at(1, 4), at(2, 2), at(2, 3), at(2, 4)]);
    expect("every_other", ElementType::F32, &[2, 2], &[at(0, 0), at(0, 3), at(2, 0), at(2, 3)]);
    expect("expanded", ElementType::F32, &[3, 2], &[1.5; 6]);
    expect("state_dict.parameter", ElementType::F32, &[2, 2], &ramp(4));
    expect("optimizer.state.0.step", ElementType::F32, &[], &[7.0]);
    expect("optimizer.state.0.exp_avg", ElementType::F32, &[2], &ramp(2));
    expect("list.0", ElementType::F32, &[1], &ramp(1));
    expect("list.1.0", ElementType::F32, &[2], &ramp(2));
    assert_eq!(weights.arrays.len(), 23, "{name}: nothing else is a tensor");
    // Alphabetical order would lose the order of the layers.
    assert_eq!(weights.arrays[0].name, "state_dict.f32");
}

#[test]
fn zip_archives_are_read() {
    check_checkpoint("zip.pth");
    check_checkpoint("protocol4.pth");
}

#[test]
fn old_pickles_are_read() {
    check_checkpoint("legacy.pth");
}

#[test]
fn state_dicts_of_modules() {
    for name in ["state_dict.pth", "state_dict_legacy.pth"] {
        let weights = Weights::read(fixture(name)).unwrap();
        let names: Vec<&str> = weights.arrays.iter().map(|a| a.name.as_str()).collect();
        let batch_norm = ["1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"];
        assert_eq!(names, [&["0.weight", "0.bias"][..], &batch_norm].concat());
        assert_eq!(weights.get_shaped("0.weight", &[2, 1, 3, 3]).unwrap().to_f64(), ramp(18));
        assert_eq!(weights.get("1.num_batches_tracked").unwrap().to_f64(), [6.0]);
        let error = weights.get_shaped("0.weight", &[2, 3]).unwrap_err().to_string();
        assert!(error.contains("[2, 1, 3, 3]") && error.contains("[2, 3]"), "{error}");
        assert!(weights.get("2.weight").unwrap_err().to_string().contains("no array"));
    }
    let untyped = Weights::read(fixture("untyped.pth")).unwrap();
    assert_eq!(untyped.get("u16").unwrap().to_f64(), [1.0, 65535.0]);
    let one = TorchFile::open(fixture("one_tensor.pth")).unwrap();
    assert_eq!((one.tensors()[0].name.as_str(), one.read_all().unwrap()[0].to_f64()), ("tensor", ramp(3)));
}

#[test]
fn whole_models_and_odd_tensors_are_refused_in_one_sentence() {
    let error = Weights::read(fixture("refused_model.pth")).err().unwrap().to_string();
    assert!(error.contains("torch.nn.modules.container.Sequential"), "{error}");
    assert!(error.contains("torch.save(model.state_dict(), FILE)"), "{error}");
    let error = Weights::read(fixture("refused_complex.pth")).err().unwrap().to_string();
    assert!(error.contains("torch.ComplexFloatStorage"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let refusal = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Weights::read(&path).err().unwrap().to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
        error
    };
    // os.system("true"), in protocol 2: the classical attack.
    let attack = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02cposix\nsystem\nU\x04true\x85R.";
    assert!(refusal("attack.pth", attack).contains("posix.system"));
    assert!(refusal("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid").contains("git-lfs"));
    assert!(refusal("page.pth", b"<!DOCTYPE html>").contains("web page"));
    assert!(refusal("empty.pth", b"").contains("not a PyTorch weight file"));
    assert!(refusal("plain.pkl", b"\x80\x02K\x01.").contains("torch.save did not write"));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("readme.txt", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"hello").unwrap();
    assert!(refusal("other.zip", &zip.finish().unwrap().into_inner()).contains("data.pkl"));
    assert!(refusal("broken.safetensors", b"12345678{").contains("safetensors"));
}

/// The same archive again, deflated and with its numbers in the other byte order.
#[test]
fn recompressed_and_big_endian_archives() {
    let source = std::fs::read(fixture("zip.pth")).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(source)).unwrap();
    let mut out = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if name.ends_with("/byteorder") {
            bytes = b"big".to_vec();
        } else if name.ends_with("/data/0") {
            assert_eq!(bytes.len(), 24); // f32 [2, 3]
            bytes.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        }
        out.start_file(name, options).unwrap();
        out.write_all(&bytes).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.pth");
    std::fs::write(&path, out.finish().unwrap().into_inner()).unwrap();
    assert_eq!(Weights::read(&path).unwrap().get("state_dict.f32").unwrap().to_f64(), ramp(6));
}

/// Files cut short, and files with bytes changed, are refused or read; never a panic, never without bound.
#[test]
fn damaged_files_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.pth");
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    for name in ["zip.pth", "legacy.pth", "protocol4.pth", "state_dict_legacy.pth", "untyped.pth"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for cut in (0..whole.len()).step_by(37) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(Weights::read(&path).is_err(), "{name} cut at {cut}");
        }
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..1 + next() % 8 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            std::fs::write(&path, &bytes).unwrap();
            drop(Weights::read(&path));
        }
    }
}

/// Few bytes that ask for much: nesting, repetition, cycles, views of one element.
#[test]
fn hostile_pickles_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.pth");
    let head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02".to_vec();
    let try_object = |object: &[u8], storages: &[u8]| {
        let bytes = [&head[..], object, b".", storages].concat();
        std::fs::write(&path, bytes).unwrap();
        Weights::read(&path)
    };
    // A hundred thousand lists inside each other.
    let nested = [vec![b']'; 100_000], vec![b'a'; 99_999]].concat();
    assert!(try_object(&nested, b"\x80\x02].").is_err());
    // A list that contains itself.
    assert!(try_object(b"]q\x00h\x00a", b"\x80\x02].").is_err());
    // Each dictionary mentions the one before it eight times: 8^40 paths.
    let mut laughs = b"}q\x00".to_vec();
    for level in 0..40u8 {
        laughs.extend(b"}(");
        for key in 0..8 {
            laughs.extend([b'K', key, b'h', level]);
        }
        laughs.extend([b'u', b'q', level + 1]);
    }
    assert!(try_object(&laughs, b"\x80\x02].").is_err());
    // One number seen 10^12 times through strides of zero.
    let tensor = |shape: &[u8]| {
        let persistent = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01NtQ";
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &persistent[..], b"K\x00", shape, b"K\x00K\x00\x86\x89}tR"].concat()
    };
    let storage = b"\x80\x02]U\x010a.\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?";
    let error = try_object(&tensor(b"J\x00\x00\x10\x00J\x00\x00\x10\x00\x86"), storage).err().unwrap().to_string();
    assert!(error.contains("far more numbers than bytes"), "{error}");
    let small = try_object(&tensor(b"K\x02K\x03\x86"), storage).unwrap();
    assert_eq!(small.arrays[0].to_f64(), [1.0; 6]);
    // Instructions of one byte that make no value: marks, copies of the top, items of a list.
    for (object, said) in [
        (vec![b'('; 1 << 20], "containers open"),
        ([vec![b'N'], vec![b'2'; 5 << 20]].concat(), "values waiting"),
        ([vec![b']'], b"Kaa".repeat(5 << 20)].concat(), "Python values"),
    ] {
        let error = try_object(&object, b"").err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
    // The same packed: a pickle that unpacks to more than any state dict's is not unpacked.
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("archive/data.pkl", options).unwrap();
    zip.write_all(&vec![b'N'; 40 << 20]).unwrap();
    std::fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
    let error = Weights::read(&path).err().unwrap().to_string();
    assert!(error.contains("unpacks to 40 MiB; more than 32 are not read"), "{error}");
    // A storage that claims more than the file holds.
    let claims = b"\x80\x02]U\x010a.\xff\xff\xff\xff\xff\xff\xff\x0f\x00\x00\x80?";
    assert!(try_object(&tensor(b"K\x01K\x01\x86"), claims).is_err());
}

#[test]
fn safetensors_round_trip_of_every_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b.safetensors");
    let arrays = [
        NamedArray::from_u8("u8", &[3], &[1, 2, 255]).unwrap(),
        NamedArray::from_f32("f32", &[2, 2], &[1.5, -0.0, f32::INFINITY, 3.25]).unwrap(),
        NamedArray::from_f64("f64", &[1], &[0.1]).unwrap(),
        NamedArray::f16_from_f32("f16", &[2], &[0.5, 65504.0]).unwrap(),
        NamedArray::bf16_from_f32("bf16", &[2], &[0.5, -2.0]).unwrap(),
        NamedArray::from_i64("i64", &[2], &[i64::MIN, 7]).unwrap(),
        NamedArray::from_i32("i32", &[2], &[-1, 7]).unwrap(),
        NamedArray::from_f32("none", &[0, 5], &[]).unwrap(),
        NamedArray::from_f32("scalar \"quoted\"", &[], &[9.0]).unwrap(),
    ];
    let metadata = BTreeMap::from([("key".to_string(), "värde\n".to_string()), ("b".to_string(), String::new())]);
    let views: Vec<_> = arrays.iter().map(NamedArray::view).collect();
    safetensors::write(&path, &views, &metadata).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.metadata(), metadata);
    assert_eq!(file.names().len(), arrays.len());
    for array in &arrays {
        assert_eq!(&file.get(&array.name).unwrap().to_owned(), array);
    }
    assert_eq!(file.get("i64").unwrap().to_i64().unwrap(), [i64::MIN, 7]);
    assert!(file.get("f32").unwrap().to_i64().is_none());
    // Equal contents, equal bytes, in whichever order they are given.
    let first = std::fs::read(&path).unwrap();
    let reversed: Vec<_> = arrays.iter().rev().map(NamedArray::view).collect();
    safetensors::write(&path, &reversed, &metadata).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert!(file.get("nothing").unwrap_err().to_string().contains("it holds 9 arrays"));

    let twice = [arrays[0].view(), arrays[0].view()];
    assert!(safetensors::write(&path, &twice, &metadata).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), first, "a failed write leaves the file as it was");
    std::fs::write(&path, &first[..first.len() - 1]).unwrap();
    assert!(SafetensorsFile::open(&path).is_err());
    assert!(NamedArray::from_f32("short", &[3], &[1.0]).is_err());
}

/// The LPIPS linear layers as published: Python 2 pickles of 2018.
#[test]
fn published_lpips_weights() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/lpips/weights");
    if !root.is_dir() {
        println!("no ../shared/data/lpips here: the generated fixtures stand in for it");
        return;
    }
    for version in ["v0.0", "v0.1"] {
        let channels: [(&str, &[usize]); 3] = [
            ("alex", &[64, 192, 384, 256, 256]),
            ("vgg", &[64, 128, 256, 512, 512]),
            ("squeeze", &[64, 128, 256, 384, 384, 512, 512]),
        ];
        for (network, channels) in channels {
            let weights = Weights::read(root.join(version).join(format!("{network}.pth"))).unwrap();
            assert_eq!(weights.arrays.len(), channels.len());
            for (i, &c) in channels.iter().enumerate() {
                let array = weights.get_shaped(&format!("lin{i}.model.1.weight"), &[1, c, 1, 1]).unwrap();
                let values = array.to_f64();
                assert!(values.iter().all(|v| v.is_finite() && v.abs() < 20.0), "{version}/{network} lin{i}");
                assert!(values.iter().any(|v| *v > 0.01));
                if version == "v0.1" {
                    assert!(values.iter().all(|v| *v >= 0.0), "v0.1 weights are projected to be non-negative");
                }
            }
        }
    }
}
