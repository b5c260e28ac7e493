//! The arms of the paper's tables: a configuration with a few keys changed, each an ordinary run.

use toml::{Table, Value};

use super::paper;
use crate::{cohort::config::CohortConfig, mil::METHODS, pipeline::config::overlay, preset::Preset, select::SELECTORS};

/// One row of a table before it is run.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its folder, and its name in results.
    pub name: String,
    /// As the paper's table calls it, or as people do.
    pub title: String,
    /// Keys laid over the configuration's.
    pub keys: Table,
    /// The paper's average correlation and mean squared error.
    pub paper: Option<PaperAverage>,
}

/// What the paper prints for an arm.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub struct PaperAverage {
    pub pearson: f64,
    pub l2: Option<f64>,
}

/// A table of the paper.
#[derive(Clone, Debug)]
pub struct TablePlan {
    pub number: u8,
    pub title: &'static str,
    /// The arm that the others are compared with.
    pub reference: &'static str,
    pub arms: Vec<Arm>,
    /// What is to be known of how it was made.
    pub note: &'static str,
}

/// What table 5 compares besides the encoders that need no file.
pub type EncoderTables = Vec<Table>;

/// The plan of a table, where the cohort has what it is about: table 3 labels, the others expression. `encoders` are those of
/// `[reproduce]`.
pub fn plan(number: u8, encoders: &EncoderTables, cohort: &CohortConfig) -> Option<TablePlan> {
    match (number, cohort.labels.is_some()) {
        (1, false) => Some(methods()),
        (2, false) => Some(selectors()),
        (3, true) => Some(labels()),
        (4, false) => Some(thresholds()),
        (5, false) => Some(probes(encoders)),
        (6, false) => Some(architectures()),
        _ => None,
    }
}

fn table(text: &str) -> Table {
    text.parse().unwrap_or_default()
}

fn average(row: &paper::Average) -> Option<PaperAverage> {
    Some(PaperAverage { pearson: row.pearson, l2: Some(row.l2) })
}

/// Table 1: every method of the list, on the same patches and the same vectors.
fn methods() -> TablePlan {
    let of_paper = |name: &str| paper::METHODS.iter().find(|row| row.arm == name);
    let arm = |spec: &&crate::mil::method::MethodSpec| Arm {
        name: spec.name.to_string(),
        title: spec.title.to_string(),
        keys: table(&format!("train.method = {:?}", spec.name)),
        paper: of_paper(spec.name).map(|row| PaperAverage { pearson: row.average, l2: None }),
    };
    let of_expression = METHODS.iter().filter(|spec| !(spec.preset)(Preset::default()).wants_labels());
    TablePlan {
        number: 1,
        title: "Gene expression predictions by method",
        reference: "isg",
        arms: of_expression.map(arm).chain([he2rna_otsu()]).collect(),
        note: "All methods read the same patches through the same encoder, so that only the method differs; in the paper HE2RNA \
               has Otsu's tiles and ResNet50's vectors. Its last arm here has Otsu's: the paper finds 7.5 % more with Shannon's.",
    }
}

/// HE2RNA on the patches that its authors choose.
fn he2rna_otsu() -> Arm {
    Arm {
        name: "he2rna-otsu".into(),
        title: "HE2RNA, Otsu's patches".into(),
        keys: table("train.method = \"he2rna\"\nselect.selector = \"otsu\""),
        paper: None,
    }
}

/// Table 2: every selector in front of ISG, one encoder for all of them.
fn selectors() -> TablePlan {
    let arm = |name: &str| {
        let row = paper::SELECTORS.iter().find(|row| row.arm == name);
        Arm {
            name: format!("select-{name}"),
            title: row.map_or(name.to_string(), |row| row.name.to_string()),
            keys: table(&format!("train.method = \"isg\"\nselect.selector = {name:?}")),
            paper: row.map(|row| PaperAverage { pearson: row.average, l2: None }),
        }
    };
    TablePlan {
        number: 2,
        title: "Ways to select patches",
        reference: "select-shannon",
        arms: SELECTORS.iter().map(|spec| arm(spec.name)).collect(),
        note: "Each selector with its default threshold. One encoder for all, trained on tissue whatever is selected.",
    }
}

/// Table 3: methods that tell classes apart, on the labels of the cohort.
fn labels() -> TablePlan {
    let arm = |&(name, title, _): &(&str, &str, [f64; 3])| Arm {
        name: format!("labels-{name}"),
        title: title.to_string(),
        keys: table(match name {
            // The MLP that HE2RNA's authors train on a slide's mean features.
            "he2rna" => {
                "train.method = \"mean-mlp\"\ntrain.mean-mlp.hidden = [256, 128]\ntrain.mean-mlp.activation = \"sigmoid\""
            }
            "msifromhe" => "train.method = \"tile-vote\"",
            _ => "train.method = \"isg\"",
        }),
        paper: None,
    };
    TablePlan {
        number: 3,
        title: "Labels of patients: area under the ROC curve",
        reference: "labels-isg",
        arms: paper::INSTABILITY.iter().map(arm).collect(),
        note: "All on the run's encoder. MSIfromHE's votes of tiles are those of layers on its vectors; its authors tune the last layers \
               of a ResNet18. The paper's areas (TCGA-CRC-DX, CRC-KR, STAD): ISG 0.86, 0.87, 0.78; HE2RNA 0.82, 0.83, 0.76; MSIfromHE \
               0.77, 0.84, 0.81. Cells and differences are of areas.",
    }
}

/// Table 4: thresholds of Shannon selection with the codec that fits the paper's bits, as bits per pixel.
fn thresholds() -> TablePlan {
    let arm = |row: &paper::Average, bits: f64| Arm {
        name: row.arm.to_string(),
        title: row.name.to_string(),
        keys: table(&format!(
            "train.method = \"isg\"\nselect.selector = \"shannon\"\nselect.shannon.codec = \"jpeg\"\nselect.bits_per_px = {:?}",
            bits / (1024.0 * 1024.0)
        )),
        paper: average(row),
    };
    TablePlan {
        number: 4,
        title: "The threshold of Shannon selection",
        reference: "bits-1.6e6",
        arms: paper::THRESHOLDS.iter().zip([8e5, 1.6e6, 2.4e6]).map(|(row, bits)| arm(row, bits)).collect(),
        note: "Bits of a baseline JPEG of the patch, which is what the paper's numbers fit, per pixel: 0.76, 1.53 and 2.29. A slide \
               of which fewer patches pass keeps those with the most.",
    }
}

/// Table 5: a two-layer MLP on the mean of a slide's vectors, the same for every encoder.
fn probes(encoders: &EncoderTables) -> TablePlan {
    let own = ["isg", "untrained", "colour", "texture-words"].map(|kind| table(&format!("kind = {kind:?}")));
    let arm = |encoder: &Table| {
        let kind = encoder.get("kind").and_then(Value::as_str).unwrap_or("isg").to_string();
        let drawn = encoder.get("weights").and_then(Value::as_str) == Some("random");
        let name = if drawn { format!("probe-{kind}-random") } else { format!("probe-{kind}") };
        let row = paper::PROBES.iter().find(|row| row.0 == kind && !drawn);
        let mut keys = table(PROBE);
        let mut of_arm = encoder.clone();
        of_arm.insert("cells".into(), false.into());
        keys.insert("encoder".into(), of_arm.into());
        Arm {
            name,
            title: row.map_or(if drawn { format!("{kind}, random weights") } else { kind }, |row| row.1.to_string()),
            keys,
            paper: row.and_then(|row| row.2).map(|pearson| PaperAverage { pearson, l2: None }),
        }
    };
    TablePlan {
        number: 5,
        title: "What an encoder's vectors hold",
        reference: "probe-isg",
        arms: own.iter().chain(encoders).map(arm).collect(),
        note: "One MLP (512 hidden, ReLU) for all encoders, on the mean of a slide's vectors. `colour`, `untrained` and \
               `texture-words` are floors: an encoder that does not pass them has learned nothing that pays.",
    }
}

/// The probe of table 5.
const PROBE: &str = "
train.method = \"mean-mlp\"
train.mean-mlp.hidden = [512]
train.mean-mlp.activation = \"relu\"
train.learning_rate = 1e-3
train.weight_decay = 1e-4
";

/// Table 6: ISG-a-b.
fn architectures() -> TablePlan {
    let arm = |row: &paper::Average| {
        let numbers: Vec<&str> = row.arm.split('-').skip(1).collect();
        let (a, b) = (numbers.first().copied().unwrap_or("10"), numbers.last().copied().unwrap_or("2"));
        Arm {
            name: row.arm.to_string(),
            title: row.name.to_string(),
            keys: table(&format!(
                "train.method = \"isg\"\ntrain.isg.mbconv_blocks = {a}\ntrain.isg.fusion_every = {b}"
            )),
            paper: average(row),
        }
    };
    TablePlan {
        number: 6,
        title: "Depth of the Dual Attention network",
        reference: "isg-10-2",
        arms: paper::ARCHITECTURES.iter().map(arm).collect(),
        note: "ISG-a-b: a MBConv blocks, a fusion after every b-th.",
    }
}

/// Keys of a run's configuration that say how patches pass the threshold; an arm with a selector or threshold of its own is
/// not to inherit them.
const THRESHOLD_KEYS: [&str; 5] = ["sigma", "bits", "bits_per_px", "min", "top"];

/// The configuration of an arm: its keys over the given ones. What belongs to another method or selector goes.
pub fn configuration(given: &Table, arm: &Arm, seed: i64) -> Table {
    let mut config = given.clone();
    config.remove("reproduce");
    config.insert("compare".into(), Value::Array(Vec::new()));
    if arm.keys.contains_key("encoder") {
        config.remove("encoder");
    }
    let own_method = arm.keys.get("train").and_then(|train| train.get("method")).and_then(Value::as_str);
    if let (Some(method), Some(Value::Table(train))) = (own_method, config.get_mut("train")) {
        METHODS.iter().filter(|spec| spec.name != method).for_each(|spec| drop(train.remove(spec.name)));
        train.remove("name");
    }
    if let (true, Some(Value::Table(select))) = (arm.keys.contains_key("select"), config.get_mut("select")) {
        THRESHOLD_KEYS.iter().for_each(|key| drop(select.remove(*key)));
    }
    overlay(&mut config, arm.keys.clone());
    overlay(
        &mut config,
        Table::from_iter([("train".to_string(), Table::from_iter([("seed".to_string(), seed.into())]).into())]),
    );
    config
}
