//! Labels of patients: how tables are read, how they find their slides, what becomes of them.

use std::path::Path;

use isg::{
    cohort::{
        Cohort, CohortConfig, Findings, SplitConfig, Splits, Stratify,
        labels::{Label, LabelLow, LabelTable},
    },
    progress::Silent,
};

use super::{real_tables, write};

fn read(text: &str, low: LabelLow) -> isg::error::Result<LabelTable> {
    let dir = tempfile::tempdir().unwrap();
    LabelTable::read(write(dir.path(), "labels.csv", text), low)
}

#[test]
fn he2rnas_msi_table() {
    let Some(folder) = real_tables() else { return };
    let count = |low, class| {
        let labels = LabelTable::read(folder.join("msi_COAD.csv"), low).unwrap();
        assert_eq!((labels.name.as_str(), &labels.classes[..]), ("msi", &["MSS".to_string(), "MSI-H".to_string()][..]));
        assert_eq!(labels.class("TCGA-3L-AA1B-01Z-00-DX1"), Some(0));
        assert!(matches!(labels.by_patient["TCGA-4T-AA8H"], Label::Undecided(_)));
        labels.by_patient.values().filter(|l| **l == Label::Class(class)).count()
    };
    // HE2RNA counts 76 MSI-H and 266 MSS among the patients that have slides; the table has some more.
    let (high, stable) = (count(LabelLow::Drop, 1), count(LabelLow::Drop, 0));
    assert!((76..90).contains(&high) && (266..320).contains(&stable), "{high} {stable}");
    assert!(count(LabelLow::Stable, 0) > stable);
}

#[test]
fn msi_in_other_spellings() {
    let text = "patient;msi_status\nTCGA-AA-0001-01A;MSI-H\ntcga-aa-0002;msi-l\nTCGA-AA-0003;MSS\nTCGA-AA-0004;\n\
                TCGA-AA-0003;MSI-H\n";
    let labels = read(text, LabelLow::Drop).unwrap();
    assert_eq!(labels.name, "msi_status");
    assert_eq!(labels.class("TCGA-AA-0001-01Z-00-DX1"), Some(1));
    assert_eq!(labels.class("TCGA-AA-0002"), None);
    assert_eq!(read(text, LabelLow::Stable).unwrap().class("TCGA-AA-0002"), Some(0));
    assert_eq!(labels.by_patient["TCGA-AA-0003"], Label::Undecided("given two labels".into()));
}

#[test]
fn any_classes() {
    let classes = |text: &str| read(text, LabelLow::Drop).unwrap().classes;
    assert_eq!(classes("patient,label\na,1\nb,0\n"), ["0", "1"]);
    assert_eq!(classes("patient,TP53\na,mutated\nb,WT\nc,Mutated\n"), ["WT", "mutated"]);
    assert_eq!(classes("patient,her2\na,positive\nb,negative\nc,NA\n"), ["negative", "positive"]);
    assert_eq!(classes("patient\tgrade\na\t10\nb\t9\nc\t2\n"), ["2", "9", "10"]);
    assert_eq!(classes("patient,age,subtype\na,61,LumA\nb,50,Basal\nc,1,Her2\n"), ["Basal", "Her2", "LumA"]);
    for (text, words) in [
        ("patient,age,stage\na,61,1\nb,50,2\n", "call that column label"),
        ("name,label\na,x\nb,y\n", "no column of patients"),
        ("patient,label\na,x\nb,x\n", "one class"),
        ("patient,label\na,\nb,\n", "no patient with a label"),
        ("patient,msi\na,MSS\nb,MSI-H\nc,MSS\nd,MSS\ne,MSS\nf,MSS\ng,MSS\nh,MSS\ni,MSS\nj,odd\n", "odd"),
    ] {
        let error = read(text, LabelLow::Drop).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("labels.csv"), "{text:?}: {error}");
    }
    let many: String = (0..30).map(|i| format!("p{i},{}\n", i * i)).collect();
    let error = read(&format!("patient,label\n{many}"), LabelLow::Drop).unwrap_err().to_string();
    assert!(error.contains("30 different values") && error.contains("expression table"), "{error}");
}

fn load(dir: &Path, config: CohortConfig) -> (isg::error::Result<Cohort>, Findings) {
    let mut findings = Findings::default();
    let text = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let config = CohortConfig { slides: vec![text("slides")], labels: Some(dir.join("labels.csv")), ..config };
    (Cohort::load(&config, &mut findings, &Silent), findings)
}

/// Two slides of the first patient, one of each other; normal tissue; a slide that the table does not know.
fn cohort(labels: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["0001-01A-01-DX1", "0001-01A-01-DX2", "0002-01A-01-DX1", "0003-01A-01-DX1", "0004-11A-01-DX1"] {
        write(dir.path(), &format!("slides/TCGA-SY-{name}.tiff"), "pixels");
    }
    write(dir.path(), "slides/TCGA-SY-0009-01A-01-DX1.tiff", "pixels");
    write(dir.path(), "labels.csv", labels);
    dir
}

#[test]
fn labels_find_their_slides_as_expression_does() {
    let dir = cohort(
        "patient,msi\nTCGA-SY-0001,MSI-H\nTCGA-SY-0002,MSS\nTCGA-SY-0003,MSI-L\nTCGA-SY-0004,MSS\nTCGA-SY-0008,MSS\n",
    );
    let (cohort, findings) = load(dir.path(), CohortConfig::default());
    let cohort = cohort.unwrap();
    assert_eq!(cohort.gene_labels(), ["msi"]);
    assert_eq!((cohort.slides.len(), cohort.patients.len()), (3, 2));
    assert_eq!((0..3).map(|s| cohort.target(s)[0]).collect::<Vec<_>>(), [1.0, 1.0, 0.0]);
    assert_eq!(cohort.classes.as_ref().unwrap().names, ["MSS", "MSI-H"]);
    let labels: Vec<_> = cohort.split_patients().into_iter().map(|p| p.label.unwrap()).collect();
    assert_eq!(labels, ["MSI-H", "MSS"]);
    assert!(
        cohort.remarks.iter().any(|r| r.contains("MSS (1 patients) is 0, MSI-H (1 patients) is 1")),
        "{:?}",
        cohort.remarks
    );
    let rule = |slide: &str| &findings.matching.iter().find(|m| m.slide.contains(slide)).unwrap().rule;
    assert_eq!(rule("0001-01A-01-DX2"), "TCGA patient");
    assert!(
        rule("0003").contains("has no label: patient TCGA-SY-0003 is MSI-L, which is neither class"),
        "{}",
        rule("0003")
    );
    assert!(rule("0004").contains("normal"), "{}", rule("0004"));
    assert!(rule("0009").contains("has no label: neither sample"), "{}", rule("0009"));
    let reason = |name: &str| &findings.excluded.iter().find(|e| e.name == name).unwrap().reason;
    assert_eq!(reason("TCGA-SY-0008"), "has no slide");
    assert!(reason("TCGA-SY-0003").starts_with("is MSI-L"));

    let (cohort, _) = load(dir.path(), CohortConfig { label_low: LabelLow::Stable, ..CohortConfig::default() });
    assert_eq!(cohort.unwrap().slides.len(), 4);
}

#[test]
fn several_classes_are_a_target_each_and_one_is_none() {
    let text = "patient,subtype\nTCGA-SY-0001,LumA\nTCGA-SY-0002,Basal\nTCGA-SY-0003,Her2\nTCGA-SY-0008,Normal\n";
    let dir = cohort(text);
    let cohort = load(dir.path(), CohortConfig::default()).0.unwrap();
    assert_eq!(cohort.gene_labels(), ["subtype=Basal", "subtype=Her2", "subtype=LumA"]);
    assert_eq!(cohort.target(0), [0.0, 0.0, 1.0]);
    assert_eq!(cohort.target(3), [0.0, 1.0, 0.0]);
    assert_eq!(cohort.split_patients()[1].label.as_deref(), Some("Basal"));

    let alone = self::cohort("patient,msi\nTCGA-SY-0001,MSS\nTCGA-SY-0002,MSS\nTCGA-SY-0008,MSI-H\n");
    let error = load(alone.path(), CohortConfig::default()).0.unwrap_err().to_string();
    assert!(error.contains("says MSS of all 2 patients with slides"), "{error}");
}

#[test]
fn what_contradicts_labels_is_refused() {
    let dir = cohort("patient,msi\nTCGA-SY-0001,MSI-H\nTCGA-SY-0002,MSS\n");
    let refused = |config| load(dir.path(), config).0.unwrap_err().to_string();
    let expression = vec![dir.path().join("expression.tsv").to_string_lossy().into_owned()];
    let error = refused(CohortConfig { expression, ..CohortConfig::default() });
    assert!(error.contains("both given"), "{error}");
    let error = refused(CohortConfig { genes: vec!["CD3D".into()], ..CohortConfig::default() });
    assert!(error.contains("cohort.genes"), "{error}");
}

/// Every fold, and its validation, gets its part of a rare class, whatever else is balanced.
#[test]
fn folds_are_stratified_by_label() {
    let patient = |i: usize| isg::cohort::SplitPatient {
        id: format!("p{i:03}"),
        site: Some(format!("s{}", i % 4)),
        project: None,
        label: Some(if i.is_multiple_of(7) { "MSI-H" } else { "MSS" }.into()),
    };
    let patients: Vec<_> = (0..140).map(patient).collect();
    let rare = |ids: &[String]| ids.iter().filter(|id| id[1..].parse::<usize>().unwrap() % 7 == 0).count();
    for stratify in [Stratify::None, Stratify::Project] {
        let config = SplitConfig { stratify, ..SplitConfig::default() };
        for fold in Splits::draw(&patients, &config).unwrap().folds {
            assert_eq!((rare(&fold.test), fold.test.len()), (4, 28));
            assert!((1..=2).contains(&rare(&fold.valid)), "{} of {}", rare(&fold.valid), fold.valid.len());
        }
    }
}
