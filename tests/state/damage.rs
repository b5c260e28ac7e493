//! Flipped bits: a run makes again what is damaged, `predict` refuses it; nothing damaged is used.

use std::{fs, path::Path};

use isg::{
    Device,
    pipeline::{Stage, predict::SlidePredictor},
    progress::Silent,
};

use super::{Lab, Notes, artefacts, differing, files, run};

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).expect("a file");
    // What an earlier flip damaged, such as the timings, may have become shorter.
    let bit = bit % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).expect("writable");
}

/// A few bits of a file: in its beginning, where headers are, and all over it.
fn bits(len: usize) -> Vec<usize> {
    let all = len * 8;
    let mut bits = vec![3, all / 5 + 1, all / 2 + 6, all.saturating_sub(12)];
    bits.retain(|&bit| bit < all);
    bits.dedup();
    bits
}

#[test]
fn whichever_bit_flips_a_run_ends_with_the_same_numbers() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("run"));
    run(&config, &out, Stage::Report, &Silent).expect("a run");
    let results = |out: &Path| {
        let mut found = artefacts(out);
        for name in ["evaluation.json", "evaluation.csv"] {
            found.insert(name.into(), fs::read(out.join(name)).expect("an evaluation"));
        }
        found
    };
    let expected = results(&out);
    let slide = lab.slides()[0].clone();
    let values = |out: &Path| {
        let predictor = SlidePredictor::load(out, &Device::cpu())?;
        predictor.predict(&slide, None, None, &Silent).map(|prediction| prediction.values)
    };
    let predicted = values(&out).expect("a prediction");
    let mut tried = 0;
    for (number, (name, bytes)) in files(&out).into_iter().enumerate() {
        for (turn, bit) in bits(bytes.len()).into_iter().enumerate() {
            if (number + turn) % 2 == 0 {
                continue; // half of them: a run for each takes its time
            }
            tried += 1;
            flip(&out.join(&name), bit);
            // A prediction from it is refused, or the file had no part in it.
            if let Ok(values) = values(&out) {
                assert_eq!(values, predicted, "bit {bit} of {} was used", name.display());
            }
            match run(&config, &out, Stage::Report, &Silent) {
                Ok(_) => {
                    let wrong = differing(&expected, &results(&out));
                    assert!(wrong.is_empty(), "bit {bit} of {} changed {wrong:?}", name.display());
                }
                Err(error) => panic!("bit {bit} of {}: {error}", name.display()),
            }
        }
    }
    assert!(tried > 40, "{tried} bits are few");
}

#[test]
fn what_is_made_again_is_said_once() {
    let lab = Lab::new();
    let (config, out) = (lab.config(), lab.path.join("run"));
    let expected = artefacts(&out);
    let features = files(&out.join("features")).into_keys().find(|f| f.extension().is_some_and(|e| e == "safetensors"));
    let scores = files(&out.join("slides")).into_keys().next();
    let damaged = [
        Path::new("features").join(features.expect("features")),
        Path::new("slides").join(scores.expect("scores")),
        "extractor/global/extractor.safetensors".into(),
        "model/isg/fold-1/member-0/model.safetensors".into(),
        "model/isg/fold-0/member-0/tasks/0-all-LYMPH1/model.safetensors".into(),
    ];
    for name in damaged {
        let path = out.join(&name);
        let middle = fs::metadata(&path).expect("a file").len() as usize * 4 + 1;
        flip(&path, middle);
        let notes = Notes::default();
        run(&config, &out, Stage::Training, &notes).expect("a run");
        let said = notes.0.into_inner().expect("a list");
        let file = name.file_name().and_then(|n| n.to_str()).expect("a name");
        let of_it: Vec<&String> = said.iter().filter(|line| line.contains(file)).collect();
        assert_eq!(of_it.len(), 1, "{}: {said:?}", name.display());
        assert!(of_it[0].contains("damaged") || of_it[0].contains("no whole"), "{}", of_it[0]);
        assert!(differing(&expected, &artefacts(&out)).is_empty(), "{}", name.display());
    }
}

#[test]
fn weights_of_other_programs_have_no_checksum_and_still_load() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("theirs.safetensors");
    let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(2.5f32.to_le_bytes());
    fs::write(&path, bytes).expect("writable");
    let weights = isg::io::Weights::read(&path).expect("weights");
    assert_eq!(weights.get("x").expect("x").view().to_f32(), [2.5]);
}
