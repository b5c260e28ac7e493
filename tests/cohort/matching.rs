//! Joins: names that agree, names that only look alike, and tables that contradict one another.

use std::path::Path;

use isg::{
    cohort::{Cohort, CohortConfig, ExcludedKind, Findings, MatchBy, Transform, write_matching_csv},
    progress::Silent,
};

use super::write;

/// A cohort of empty slide files and a table, and what became of it.
struct Case {
    dir: tempfile::TempDir,
    config: CohortConfig,
}

struct Outcome {
    cohort: Result<Cohort, String>,
    findings: Findings,
}

impl Case {
    fn new(slides: &[&str], table: &str) -> Case {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("slides")).unwrap();
        slides.iter().for_each(|slide| drop(write(dir.path(), &format!("slides/{slide}"), "pixels")));
        let path = |p: &Path| p.to_string_lossy().into_owned();
        let expression = vec![path(&write(dir.path(), "rna.tsv", table))];
        let slides = vec![path(&dir.path().join("slides"))];
        let config = CohortConfig { slides, expression, transform: Transform::None, ..CohortConfig::default() };
        Case { dir, config }
    }

    fn slide_table(mut self, text: &str) -> Case {
        let path = write(self.dir.path(), "slides.csv", text);
        self.config.slides.insert(0, path.to_string_lossy().into_owned());
        self
    }

    fn sheet(mut self, text: &str) -> Case {
        self.config.sample_sheet = Some(write(self.dir.path(), "sheet.tsv", text));
        self
    }

    fn genes(mut self, genes: &[&str]) -> Case {
        self.config.genes = genes.iter().map(|g| g.to_string()).collect();
        self
    }

    fn run(&self) -> Outcome {
        let mut findings = Findings::default();
        let cohort = Cohort::load(&self.config, &mut findings, &Silent).map_err(|e| e.to_string());
        if let Err(error) = &cohort {
            assert!(!error.contains('\n'), "{error}");
        }
        Outcome { cohort, findings }
    }
}

impl Outcome {
    fn cohort(&self) -> &Cohort {
        self.cohort.as_ref().unwrap_or_else(|e| panic!("{e}"))
    }

    fn refused(&self, words: &[&str]) {
        let error = self.cohort.as_ref().err().unwrap_or_else(|| panic!("accepted: {:?}", self.findings.matching));
        words.iter().for_each(|w| assert!(error.contains(w), "{w:?} in {error}"));
    }

    /// Column and rule of a slide.
    fn of(&self, slide: &str) -> (&str, &str) {
        let row = self.findings.matching.iter().find(|m| m.slide == slide);
        let row = row.unwrap_or_else(|| panic!("{slide} in {:?}", self.findings.matching));
        (&row.column, &row.rule)
    }

    fn left_out(&self, slide: &str, words: &str) {
        let (column, rule) = self.of(slide);
        assert!(column.is_empty() && rule.contains(words), "{slide}: {column:?}, {rule}");
        let listed = |e: &&isg::cohort::Excluded| e.kind == ExcludedKind::Slide && e.name == slide;
        assert_eq!(self.findings.excluded.iter().find(listed).map(|e| e.reason.as_str()), Some(rule));
    }

    fn excluded(&self, name: &str) -> &str {
        let found = self.findings.excluded.iter().find(|e| e.name == name);
        &found.unwrap_or_else(|| panic!("{name} in {:?}", self.findings.excluded)).reason
    }

    /// The first gene's value of a slide.
    fn value(&self, slide: &str) -> f64 {
        let cohort = self.cohort();
        let place = cohort.slides.iter().position(|s| s.id == slide).unwrap_or_else(|| panic!("{slide} is not used"));
        cohort.target(place)[0]
    }

    fn says(&self, words: &str) {
        let remarks = &self.cohort().remarks;
        assert!(remarks.iter().any(|r| r.contains(words)), "{words:?} in {remarks:?}");
    }
}

/// `columns` with 1, 2, ... for gene ACTB and 10, 20, ... for gene GAPDH.
fn matrix(columns: &[&str]) -> String {
    let row = |gene: &str, by: usize| {
        let values: String = (1..=columns.len()).map(|i| format!("\t{}", i * by)).collect();
        format!("{gene}{values}\n")
    };
    format!("gene\t{}\n{}{}", columns.join("\t"), row("ACTB", 1), row("GAPDH", 10))
}

#[test]
fn names_agree_whole_or_as_people_rename_them() {
    let slides = ["LUAD-001-A.svs", "LUAD-002-A.svs", "7-x y.svs", "P01.svs", "q.SVS", "study1.P08.svs"];
    let columns = ["LUAD.001.A", "LUAD.002", "X7.x.y", "p01", "q.svs", "study1.P01"];
    let out = Case::new(&slides, &matrix(&columns)).run();
    assert_eq!(out.of("LUAD-001-A"), ("LUAD.001.A", "name, make.names"));
    assert_eq!(out.of("7-x y"), ("X7.x.y", "name, make.names"));
    assert_eq!(out.of("P01"), ("p01", "name, case"));
    assert_eq!(out.of("q"), ("q.svs", "name"));
    assert_eq!((out.value("LUAD-001-A"), out.value("7-x y"), out.value("q")), (1.0, 3.0, 5.0));
    out.left_out("LUAD-002-A", "LUAD.002 is, whose name is alike");
    out.left_out("study1.P08", "is not in the table");
    assert_eq!(out.excluded("study1.P01"), "has no slide");
    let path = out_path();
    write_matching_csv(&path.1, &out.findings.matching).unwrap();
    let text = std::fs::read_to_string(&path.1).unwrap();
    assert!(text.starts_with("slide,patient,sample,column,rule\n7-x y,X7.x.y,X7.x.y,X7.x.y,\"name, make.names\"\n"));
    assert_eq!(text.lines().count(), 1 + slides.len());
}

fn out_path() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("matching.csv");
    (dir, path)
}

#[test]
fn a_name_that_fits_two_is_an_error_that_names_both() {
    let two_columns = Case::new(&["A-1.svs", "B.svs"], &matrix(&["A.1", "a.1", "B"])).run();
    two_columns.refused(&["A.1", "a.1", "fits two samples", "rna.tsv"]);
    two_columns.left_out("A-1", "fits two samples");
    assert_eq!(two_columns.of("B").0, "B", "the others are matched and said");
    Case::new(&["a.svs"], &matrix(&["A", "A"])).run().refused(&["fits two samples", "A of"]);
    Case::new(&["A-1.svs", "A 1.svs"], &matrix(&["A.1"])).run().refused(&["A-1", "A 1", "A.1"]);
    // The whole name comes first, and a column that is there twice with the same values is one.
    let whole = Case::new(&["A.1.svs"], &matrix(&["A-1", "A.1"])).run();
    assert_eq!((whole.of("A.1"), whole.value("A.1")), (("A.1", "name"), 2.0));
    let twice = Case::new(&["A.svs", "B.svs"], "gene\tA\tA\tB\nACTB\t5\t5\t6\nGAPDH\t1\t1\t2\n").run();
    assert_eq!(twice.value("A"), 5.0);
    assert!(twice.excluded("A").contains("twice with the same values"));
    // Two samples of a patient who is asked for by name.
    let table = "sample,patient,ACTB,GAPDH\nS1,P1,1,2\nS2,P1,3,4\nS3,P2,5,6\n";
    let slides = ["x.svs", "y.svs"];
    let by_patient = "slide,patient\nx,P1\ny,P2\n";
    Case::new(&slides, table).slide_table(by_patient).run().refused(&["fits two samples by its patient", "S1", "S2"]);
    let stated = Case::new(&slides, table).slide_table("slide;patient;sample\nx;P1;s2\ny;p2;\n").run();
    assert_eq!((stated.of("x"), stated.of("y")), (("S2", "sample, case"), ("S3", "patient, case")));
    let equal = "sample,patient,ACTB,GAPDH\nS1,P1,1,2\nS2,P1,1,2\nS3,P2,5,6\n";
    assert_eq!(Case::new(&slides, equal).slide_table(by_patient).run().value("x"), 1.0, "either has the same values");
    let gone = Case::new(&slides, table).slide_table("slide,patient,sample\nx,P1,S9\ny,P2,S3\n").run();
    gone.left_out("x", "neither sample S9 nor patient P1");
}

#[test]
fn recognised_schemes() {
    let slides = [
        "TCGA-AA-0001-01Z-00-DX1.1234ABCD-0000-1111-2222-333344445550.svs",
        "TCGA-AA-0002-01Z-00-DX1.svs",
        "TCGA-AA-0003-01A-01-TS1.svs",
        "TCGA-AA-0004-06Z-00-DX1.svs",
        "TARGET-30-PAAPFA-01A-01D.svs",
        "C3L-00001-21.svs",
        "C3N-00002-22.svs",
        "c3l-00009.svs",
    ];
    let columns = [
        "TCGA.AA.0001.01Z.00.DX1",
        "TCGA.AA.0002.01A.11R.A100.07",
        "TCGA-AA-0003",
        "TCGA-AA-0004-06A",
        "target.30.paapfa.01a.01r",
        "C3L.00001.01",
        "C3N-00002",
        "C3N-00002.N",
        "C3L-0000",
    ];
    let mut case = Case::new(&slides, &matrix(&columns));
    let out = case.run();
    let first = slides[0].strip_suffix(".svs").unwrap();
    assert_eq!(out.of(first).1, "name without GDC id, make.names");
    assert_eq!(out.of("TCGA-AA-0002-01Z-00-DX1"), (columns[1], "TCGA sample"));
    assert_eq!(out.of("TCGA-AA-0003-01A-01-TS1"), (columns[2], "TCGA patient"));
    assert_eq!(out.of("TARGET-30-PAAPFA-01A-01D"), (columns[4], "TARGET sample and vial"));
    assert_eq!(out.of("C3L-00001-21"), (columns[5], "CPTAC case"));
    assert_eq!(out.of("C3N-00002-22"), (columns[6], "CPTAC case"));
    out.left_out("c3l-00009", "patient C3L-00009 is not in the table");
    out.left_out("TCGA-AA-0004-06Z-00-DX1", "metastatic tumour");
    assert!(out.excluded("C3N-00002.N").contains("normal tissue"));
    let patients: Vec<&str> = out.cohort().patients.iter().map(|p| p.id.as_str()).collect();
    let wanted = ["C3L-00001", "C3N-00002", "TARGET-30-PAAPFA", "TCGA-AA-0001", "TCGA-AA-0002", "TCGA-AA-0003"];
    assert_eq!(patients, wanted);
    assert_eq!(out.cohort().patients[2].site, None, "TARGET's code is a disease");
    let mut both = Case::new(&["TCGA-AA-0001.svs"], &matrix(&["TCGA-AA-0001-01A", "TCGA-AA-0001-06A"]));
    assert_eq!(both.run().of("TCGA-AA-0001"), ("TCGA-AA-0001-01A", "TCGA patient"));
    both.config.primary_tumour_only = false;
    both.run().refused(&["TCGA-AA-0001-01A", "TCGA-AA-0001-06A"]);
    let zeros = Case::new(&["001.svs", "2.svs"], &matrix(&["2", "3"])).slide_table("slide,patient\n1,1\n2,2\n").run();
    zeros.left_out("1", "001 lies there, which differs by leading zeros");
    case.config.match_by = MatchBy::Sample;
    case.run().left_out("TCGA-AA-0003-01A-01-TS1", "has no expression");
    // Nothing but metastases: the remedy is not another table.
    let skin = Case::new(&["TCGA-AA-0001-06Z-00-DX1.svs"], &matrix(&["TCGA-AA-0001-06A"])).run();
    skin.refused(&["metastatic tumour", "primary_tumour_only = false"]);
    Case::new(&["001.svs"], &matrix(&["1", "2"])).run().refused(&["leading zeros"]);
    Case::new(&["A-1-x.svs"], &matrix(&["A.1", "B.1"])).run().refused(&["slide,patient"]);
}

/// Columns called by GDC's file ids, as they are or after R; by files with their folder; by a barcode's two spellings.
#[test]
fn columns_called_by_files() {
    let uuids = ["0a1b2c3d-aaaa-bbbb-cccc-000000000001", "9a1b2c3d-aaaa-bbbb-cccc-000000000002"];
    let renamed = uuids.map(|u| format!("X{}", u.replace('-', ".")));
    let sheet = format!(
        "File ID\tFile Name\tProject ID\tCase ID\tSample ID\tSample Type\n\
         {}\ta.tsv\tTCGA-COAD\tTCGA-AA-0001\tTCGA-AA-0001-01A\tPrimary Tumor\n\
         {}\tb.tsv\tTCGA-COAD\tTCGA-AA-0002\tTCGA-AA-0002-11A\tSolid Tissue Normal\n",
        uuids[0], uuids[1]
    );
    let slides = ["TCGA-AA-0001-01Z-00-DX1.svs", "TCGA-AA-0002-01Z-00-DX1.svs"];
    for columns in [uuids.map(String::from), uuids.map(str::to_uppercase), renamed, ["a.tsv".into(), "b.tsv".into()]] {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut case = Case::new(&slides, &matrix(&columns)).sheet(&sheet);
        case.config.orientation = isg::cohort::expression::Orientation::GenesInRows;
        let out = case.run();
        assert_eq!(out.of("TCGA-AA-0001-01Z-00-DX1"), (columns[0], "TCGA sample"));
        out.left_out("TCGA-AA-0002-01Z-00-DX1", "only samples that are no primary tumour");
    }
    let out = Case::new(&["P-1.svs", "P-2.svs"], &matrix(&["slides/P-1.svs", "P.2.SVS"])).run();
    assert_eq!((out.of("P-1").1, out.of("P-2").1), ("name", "name, make.names"));
    let tools = Case::new(&["P-1.svs", "P-2.svs"], &matrix(&["P-1.htseq", "P.2.ReadsPerGene.out"])).run();
    assert_eq!((tools.of("P-1").1, tools.of("P-2").1), ("name", "name, make.names"));
    let same = Case::new(&["P01.svs", "P02.svs"], "slide,patient,ACTB,GAPDH\nP01,A,1,2\nP01,B,1,2\nP02,C,3,4\n").run();
    same.refused(&["fits two samples"]);
    Case::new(&["P01.svs"], &matrix(&["P01", "P01.1"])).run().says("P01.1 may be a second column P01");
}

#[test]
fn sheets_that_say_two_things_say_nothing() {
    let header = "File ID\tFile Name\tProject ID\tCase ID\tSample ID\tSample Type\n";
    let columns = ["f1.tsv", "f2.tsv", "f3.tsv", "f4.tsv"];
    let slides: Vec<String> = (1..=4).map(|i| format!("TCGA-AA-000{i}-01Z-00-DX1.svs")).collect();
    let slides: Vec<&str> = slides.iter().map(String::as_str).collect();
    let rows = "u1\tf1.tsv\tX\tTCGA-AA-0001, TCGA-AA-0002\tTCGA-AA-0001-01A, TCGA-AA-0001-01A\tPrimary Tumor\n\
        u2\tf2.tsv\tX\tTCGA-AA-0002, TCGA-AA-0002\tTCGA-AA-0002-01A, TCGA-AA-0002-01B\tPrimary Tumor, Primary Tumor\n\
        u3\tf3.tsv\tX\tTCGA-AA-0003\tTCGA-AA-0003-01A\tPrimary Tumor\n\
        u4\tf4.tsv\tX\tTCGA-AA-0004\tTCGA-AA-0004-01A, TCGA-AA-0004-11A\tPrimary Tumor, Solid Tissue Normal\n";
    let out = Case::new(&slides, &matrix(&columns)).sheet(&format!("{header}{rows}")).run();
    assert_eq!(out.of("TCGA-AA-0002-01Z-00-DX1"), ("f2.tsv", "TCGA sample"));
    assert_eq!(out.cohort().slides.len(), 2);
    assert!(
        out.excluded("f1.tsv").contains("line 2 of the sample sheet gives it two cases, TCGA-AA-0001 and TCGA-AA-0002")
    );
    assert!(out.excluded("f4.tsv").contains("two samples"));
    let twice = format!("{header}{rows}u3\tf3.tsv\tX\tTCGA-AA-0005\tTCGA-AA-0005-01A\tPrimary Tumor\n");
    let out = Case::new(&slides, &matrix(&columns)).sheet(&twice).run();
    assert!(out.excluded("f3.tsv").contains("gives it to TCGA-AA-0003-01A and, on line 6, to TCGA-AA-0005-01A"));
}

#[test]
fn slide_tables_that_contradict_themselves() {
    let slides = ["P01.svs", "P02.svs"];
    let table = matrix(&["P01", "P02"]);
    let with = |text: &str| Case::new(&slides, &table).slide_table(text).run();
    with("slide,patient\nP01,P01\nP02,P02\nP01,P02\n").refused(&["lines 2 and 4", "P01", "patient P02", "slides.csv"]);
    with("slide,patient,mpp\nP01,P01,0.5\nP01,P01,0.25\n").refused(&["lines 2 and 3", "mpp"]);
    let merged = with("wsi\tpatient\tmpp\nP01.svs\tP01\t\nP02\tP02\t0.5\nP01\tp01\t0.25\n");
    assert_eq!(merged.cohort().slides.len(), 2);
    assert_eq!((merged.cohort().slides[0].mpp, merged.value("P01")), (Some(0.25), 1.0));
    let part = with("slide,patient\nP02,P02\n");
    part.left_out("P01", "is not listed in");
    for name in ["slide_id", "filename", "wsi", "Slide", "file name"] {
        assert_eq!(with(&format!("{name};patient\nP01;P01\nP02;P02\n")).cohort().slides.len(), 2, "{name}");
    }
    assert_eq!(
        with("slide,patient\nslides\\P01.svs,P01\nD:\\scans\\P02.svs,P02\n").cohort().slides.len(),
        2,
        "Windows"
    );
    with("slide,patient,note\nP01,P01,\"blurred\nP02,P02,ok\n").refused(&["slides.csv", "line 2 opens a quote"]);
    with("slide,patient,note\nP01,P01,\"blurred\nP02,P02,ok\"\n").refused(&["line 2 opens a quote"]);
    with("slide,patient,note\nP01,P01,\"blurred\nP02,P02,\"ok\"\n").refused(&["line 2 opens a quote"]);
    with("slide,patient,note\nP01,P01\nP02,P02,ok\n").refused(&["line 2 has 2 fields, the header 3"]);
    let remark = with("slide,patient,note\nP01,P01,\"seen twice,\nby \"\"two\"\"\"\nP02,P02,ok\n");
    assert_eq!(remark.cohort().slides.len(), 2, "a cell of two lines is one cell");
    let barcodes = Case::new(&["TCGA-AA-0001-01Z.svs"], &matrix(&["TCGA-AA-0001-01A", "TCGA-AA-0002-01A"]));
    let crossed = barcodes.slide_table("slide,patient\nTCGA-AA-0001-01Z,TCGA-AA-0002\n").run();
    crossed.refused(&["line 2", "TCGA-AA-0002", "its name says TCGA-AA-0001"]);
    let keyed = Case::new(&slides, "slide,patient,ACTB,GAPDH\nP01,A,1,2\nP02,B,3,4\n");
    keyed.slide_table("slide,patient\nP01,B\nP02,B\n").run().refused(&["P01 is of patient B", "of patient A"]);
}

#[test]
fn patients_are_not_split_by_their_spelling() {
    let table = matrix(&["s1", "s2", "s3"]);
    let slides = ["s1.svs", "s2.svs", "s3.svs"];
    let out = Case::new(&slides, &table).slide_table("slide,patient\ns1,Anna\ns2,ANNA\ns3,Bea\n").run();
    assert_eq!(out.cohort().patients.len(), 2);
    out.says("patients Anna and ANNA differ only in case");
    let columns = Case::new(&["P1.svs", "p1.svs"], &matrix(&["P1", "p1"])).run();
    columns.refused(&["P1 and p1 differ only in case"]);
    // One sample for two patients.
    let shared = Case::new(&slides, &table).slide_table("slide,patient,sample\ns1,A,s1\ns2,B,s1\n").run();
    shared.refused(&["s1", "patient A", "patient B"]);
    // Keyed by slide: a patient's values once for each slide.
    let keyed = |names: [&str; 4]| {
        let table =
            format!("slide,ACTB,GAPDH\n{},10,1\n{},10,1\n{},11,2\n{},11,2\n", names[0], names[1], names[2], names[3]);
        let files: Vec<String> = names.iter().map(|n| format!("{n}.svs")).collect();
        Case::new(&files.iter().map(String::as_str).collect::<Vec<_>>(), &table).run()
    };
    let cptac = keyed(["C3L-00001-21", "C3L-00001-22", "C3L-00002-21", "C3L-00002-22"]);
    assert_eq!(cptac.cohort().patients.len(), 2);
    cptac.says("CPTAC case");
    let own = keyed(["K7_1", "K7_2", "K9_1", "K9_2"]);
    assert_eq!(own.cohort().patients.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["K7", "K9"]);
    own.says("slides K7_1, K7_2 have the same expression and count as one patient, K7");
    let unlike = keyed(["K7", "K8", "K9", "L1"]);
    assert_eq!(unlike.cohort().patients.len(), 4, "two equal numbers may be chance");
}

#[test]
fn foreign_formats_in_a_folder_are_listed() {
    let slides =
        ["P01.svs", "Q1.vsi", "Q2.CZI", "Q3.mrxs", "Q4.svs.gz", "Q5.zarr/0/c.tif", "s.vms", "s_macro.jpg", "n.txt"];
    let out = Case::new(&slides, &matrix(&["P01", "Q1"])).run();
    assert_eq!(out.cohort().slides.len(), 1);
    for (name, words) in [
        ("Q1.vsi", "Olympus VSI"),
        ("Q2.CZI", "Zeiss CZI"),
        ("Q3.mrxs", "MIRAX"),
        ("Q4.svs.gz", "unpack it"),
        ("Q5.zarr", "OME-Zarr"),
        ("s.vms", "Hamamatsu VMS"),
    ] {
        out.left_out(name, words);
    }
    assert_eq!(out.findings.matching.len(), 7, "{:?}", out.findings.matching);
    Case::new(&["Q1.vsi"], &matrix(&["Q1", "Q2"])).run().refused(&["no slide found", "Q1.vsi is a slide of a format"]);
}

#[test]
fn what_is_no_gene_is_listed() {
    let slides = ["P01.svs", "P02.svs", "P03.svs"];
    let rows = "ACTB\t1\t2\t3\nno_feature\t9\t9\t9\n__ambiguous\t9\t9\t9\nN_unmapped\t9\t9\t9\nERCC-00002\t9\t9\t9\n1-Mar\t5\t6\t7\n";
    let out = Case::new(&slides, &format!("gene\tP01\tP02\tP03\n{rows}")).run();
    assert_eq!(out.cohort().gene_labels(), ["ACTB"]);
    for (name, words) in [
        ("no_feature", "reads"),
        ("__ambiguous", "reads"),
        ("N_unmapped", "reads"),
        ("ERCC-00002", "spike"),
        ("1-Mar", "Excel"),
    ] {
        assert!(out.excluded(name).contains(words), "{name}: {}", out.excluded(name));
    }
    let table = "sample,age,survival_months,OS.time,stage,ACTB,MKI67\nP01,61,12,300,II,1,2\nP02,50,9,200,I,3,4\nP03,40,2,100,IV,5,6\n";
    let out = Case::new(&slides, table).run();
    assert_eq!(out.cohort().gene_labels(), ["ACTB", "MKI67"]);
    ["age", "survival_months", "OS.time", "stage"].iter().for_each(|name| drop(out.excluded(name).to_string()));
    let dates =
        Case::new(&slides, "gene\tP01\tP02\tP03\n1-Mar\t1\t2\t3\n2-Sep\t1\t2\t3\n").genes(&["MARCH1", "SEPT2"]).run();
    dates.refused(&["MARCH1", "1-Mar, 2-Sep", "Excel"]);
    let gap = "gene\tP01\tP02\tP03\nACTB\t1\tNA\t\nMKI67\t1\t2\t3\n";
    Case::new(&slides, gap).genes(&["ACTB", "MKI67"]).run().refused(&["no value of ACTB in 2 of 3 samples"]);
    let unset = Case::new(&slides, gap).run();
    assert_eq!(unset.excluded("ACTB"), "has no value in 2 of 3 samples");
    assert_eq!(unset.cohort().gene_labels(), ["MKI67"]);
}
