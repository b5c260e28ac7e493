//! Whole cohorts: what is matched, what is left out and why.

use approx::assert_abs_diff_eq;
use std::path::Path;

use isg::{
    cohort::{
        Cohort, CohortConfig, Excluded, ExcludedKind, Findings, MatchBy, Transform, targets::TableScale,
        write_excluded_csv,
    },
    progress::Silent,
};

use super::{real_tables, write};

fn try_load(config: &CohortConfig) -> isg::error::Result<Cohort> {
    Cohort::load(config, &mut Findings::default(), &Silent)
}

fn load(config: &CohortConfig) -> (Cohort, Vec<Excluded>) {
    let mut findings = Findings::default();
    let cohort = Cohort::load(config, &mut findings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    (cohort, findings.excluded)
}

/// The reason given for the thing of this name.
fn reason<'a>(excluded: &'a [Excluded], name: &str) -> &'a str {
    &excluded.iter().find(|e| e.name.contains(name)).unwrap_or_else(|| panic!("{name} in {excluded:?}")).reason
}

fn says(excluded: &[Excluded], name: &str, words: &str) {
    let reason = reason(excluded, name);
    assert!(reason.contains(words), "{name}: {reason}");
}

fn config(folder: &Path, slides: &str, expression: &str) -> CohortConfig {
    CohortConfig {
        slides: vec![folder.join(slides).to_string_lossy().into_owned()],
        expression: vec![folder.join(expression).to_string_lossy().into_owned()],
        ..CohortConfig::default()
    }
}

fn ids(cohort: &Cohort) -> Vec<&str> {
    cohort.slides.iter().map(|s| s.id.as_str()).collect()
}

const MATRIX: &str = "gene\tTCGA-SY-0001-01A\tTCGA-SY-0002-01A\tTCGA-SY-0003-11A\tTCGA-SZ-0009-01A\n\
    LOCAL\t9\t99\t5\t1\nGLOBAL\t0\t999\t5\t1\nNULL1\t3\t4\t5\t1\n";

/// The layout that `isg synth` writes.
fn synthetic(folder: &Path) {
    for slide in [
        "TCGA-SY-0001-01A-01-DX1",
        "TCGA-SY-0002-01A-01-DX1",
        "TCGA-SY-0002-01A-01-DX2",
        "TCGA-SY-0003-01A-01-DX1",
        "TCGA-SZ-0004-11A-01-DX1",
    ] {
        write(folder, &format!("slides/{slide}.tiff"), "pixels");
    }
    write(folder, "slides/.hidden.tiff", "");
    write(folder, "slides/notes.txt", "");
    write(folder, "expression.tsv", MATRIX);
    write(
        folder,
        "sample_sheet.tsv",
        "File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type\n\
         u1\tTCGA-SY-0001-01A-01-DX1.tiff\tBiospecimen\tSlide Image\tSYNTH-A\tTCGA-SY-0001\tTCGA-SY-0001-01A\tPrimary Tumor\n\
         u2\texpression.tsv\tTranscriptome Profiling\tGene Expression Quantification\tSYNTH-B\tTCGA-SY-0002\tTCGA-SY-0002-01A\tPrimary Tumor\n",
    );
}

#[test]
fn a_synthetic_folder_needs_no_settings() {
    let dir = tempfile::tempdir().unwrap();
    synthetic(dir.path());
    let (cohort, excluded) = load(&CohortConfig::of_folder(dir.path()).unwrap());
    assert_eq!(ids(&cohort), ["TCGA-SY-0001-01A-01-DX1", "TCGA-SY-0002-01A-01-DX1", "TCGA-SY-0002-01A-01-DX2"]);
    assert_eq!(cohort.gene_labels(), ["LOCAL", "GLOBAL", "NULL1"]);
    assert_eq!(cohort.target(0)[0], 1.0);
    assert_eq!(cohort.target(1), cohort.target(2), "slides of a patient share their expression");
    assert_abs_diff_eq!(cohort.target(1)[1], 3.0, epsilon = 1e-12);
    assert_eq!(cohort.patients.len(), 2);
    assert_eq!((cohort.patients[1].slides.as_slice(), cohort.patients[1].site.as_deref()), (&[1, 2][..], Some("SY")));
    assert_eq!(cohort.slides[2].patient_index, 1);
    assert_eq!(cohort.slides[0].project.as_deref(), Some("SYNTH-A"));
    assert_eq!(cohort.patient_targets()[3..], *cohort.target(1));
    assert_eq!(cohort.slides_of(&["TCGA-SY-0002".to_string()]), [1, 2]);
    says(&excluded, "TCGA-SY-0003-01A-01-DX1", "only samples that are no primary tumour");
    says(&excluded, "TCGA-SZ-0004-11A", "solid tissue normal");
    assert_eq!(reason(&excluded, "TCGA-SY-0003-11A"), "is solid tissue normal, not a primary tumour");
    assert_eq!(reason(&excluded, "TCGA-SZ-0009-01A"), "has no slide");
    let path = dir.path().join("excluded.csv");
    write_excluded_csv(&path, &excluded).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1 + excluded.len());
    assert!(text.starts_with("kind,name,reason\nslide,TCGA-SZ-0004-11A-01-DX1,"), "{text}");
}

/// What `isg synth` really writes, by its own configuration.
#[test]
fn a_drawn_cohort_loads_by_its_own_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let options = isg::synth::SynthOptions { slides: 7, seed: 3, size_px: 256 };
    let summary = isg::synth::generate(dir.path(), &options, &Silent).unwrap();
    let text = std::fs::read_to_string(dir.path().join("isg.toml")).unwrap();
    let run: toml::Table = toml::from_str(&text).unwrap();
    let mut config: CohortConfig = run["cohort"].clone().try_into().unwrap();
    config.resolve(dir.path());
    let (cohort, excluded) = load(&config);
    assert!(excluded.is_empty(), "{excluded:?}");
    assert_eq!((cohort.slides.len(), cohort.patients.len()), (7, summary.patients));
    assert_eq!(cohort.genes.len(), config.genes.len());
    assert!(cohort.patients.iter().all(|p| p.site.is_some() && p.project.is_some()));
    let by_itself = load(&CohortConfig::of_folder(dir.path()).unwrap()).0;
    assert_eq!((by_itself.slides, by_itself.targets), (cohort.slides, cohort.targets));
}

/// Names that are no barcodes: a slide belongs to the patient whose name it begins with.
#[test]
fn slides_named_after_their_patients() {
    let dir = tempfile::tempdir().unwrap();
    for slide in ["C3L-00001-21.svs", "C3L-00001-22.svs", "C3L-00010_1.svs", "C3L-0.svs"] {
        write(dir.path(), &format!("slides/{slide}"), "");
    }
    write(dir.path(), "rna.tsv", "gene\tC3L-00001\tC3L-00010\nLOCAL\t9\t99\nGLOBAL\t1\t3\n");
    let (cohort, excluded) = load(&config(dir.path(), "slides", "rna.tsv"));
    assert_eq!(ids(&cohort), ["C3L-00001-21", "C3L-00001-22", "C3L-00010_1"]);
    assert_eq!(cohort.patients.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["C3L-00001", "C3L-00010"]);
    says(&excluded, "C3L-0", "patient C3L-0 is not in the table");
    let strict = CohortConfig { match_by: MatchBy::Sample, ..config(dir.path(), "slides", "rna.tsv") };
    assert!(try_load(&strict).is_err());
}

#[test]
fn genes_are_chosen_and_misspelt_ones_named() {
    let dir = tempfile::tempdir().unwrap();
    synthetic(dir.path());
    let with_genes = |genes: &[&str]| CohortConfig {
        genes: genes.iter().map(|g| g.to_string()).collect(),
        ..CohortConfig::of_folder(dir.path()).unwrap()
    };
    let (cohort, _) = load(&with_genes(&["GLOBAL", "local", "GLOBAL"]));
    assert_eq!(cohort.gene_labels(), ["GLOBAL", "LOCAL"]);
    assert!(cohort.remarks.iter().any(|r| r.contains("asked for twice")));
    let error = try_load(&with_genes(&["LOCL", "GLOBAL", "ZZZZZZ"])).unwrap_err().to_string();
    assert!(error.contains("LOCL (near: LOCAL") && error.contains("ZZZZZZ;"), "{error}");
    // Ids alone: the sentence says what would help.
    let text = MATRIX
        .replace("LOCAL", "ENSG00000167286.2")
        .replace("GLOBAL", "ENSG00000075624")
        .replace("NULL1", "ENSG00000000003");
    write(dir.path(), "expression.tsv", &text);
    assert_eq!(load(&with_genes(&["CD3D"])).0.genes[0].ensembl.as_deref(), Some("ENSG00000167286.2"));
    assert_eq!(load(&with_genes(&["CD3D"])).0.gene_labels(), ["CD3D"], "shown by the symbol that is known");
    let error = try_load(&with_genes(&["ACTB"])).unwrap_err().to_string();
    assert!(error.contains("gene_map"), "{error}");
    let mut mapped = with_genes(&["ACTB"]);
    mapped.gene_map = Some(write(dir.path(), "map.csv", "ensembl,symbol\nENSG00000075624,ACTB\n"));
    assert_eq!(load(&mapped).0.target(0), [0.0]);
}

#[test]
fn a_slide_table_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    write(folder, "a/one.svs", "");
    write(folder, "a/two.ome.tiff", "");
    write(folder, "three.png", "");
    write(
        folder,
        "slides.csv",
        "\u{feff}Slide,Patient,Site,MPP,Project\r\na/one.svs,P1,north,0.25,X\r\ntwo,P2,,,Y\r\nthree.png,P1,north,0.5,X\r\ngone.svs,P3,,,\r\n",
    );
    write(folder, "rna.csv", "patient,LOCAL,GLOBAL\nP1,1,2\nP2,3,4\nP7,5,6\n");
    let mut config = config(folder, "slides.csv", "rna.csv");
    config.slides.push(folder.join("a").to_string_lossy().into_owned());
    config.transform = Transform::None;
    let (cohort, excluded) = load(&config);
    assert_eq!(ids(&cohort), ["one", "three", "two"]);
    assert_eq!(cohort.slides[0].mpp, Some(0.25));
    assert_eq!((cohort.slides[2].patient.as_str(), cohort.slides[2].mpp), ("P2", None));
    assert_eq!(cohort.projects(), ["X", "Y"]);
    assert_eq!((cohort.target(1), cohort.target(2)), (&[1.0, 2.0][..], &[3.0, 4.0][..]));
    says(&excluded, "gone.svs", "its file was not found");
    assert_eq!(reason(&excluded, "P7"), "has no slide");
    config.project_groups = [("X".to_string(), "XY".to_string()), ("Y".to_string(), "XY".to_string())].into();
    assert_eq!(load(&config).0.projects(), ["XY"]);
    write(folder, "slides.csv", "slide,patient,mpp\na/one.svs,P1,quarter\n");
    let error = try_load(&config).unwrap_err().to_string();
    assert!(error.contains("\"quarter\""), "{error}");
    write(folder, "slides.csv", "image_file,patient\na/one.svs,P1\n");
    assert!(try_load(&config).unwrap_err().to_string().contains("has no column slide (it has: image_file, patient)"));
}

/// A GDC download: a folder per file, names that say nothing, a sample sheet that says everything.
#[test]
fn a_gdc_download() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let star = |value: f64| {
        format!(
            "# gene-model: GENCODE v36\ngene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second\ttpm_unstranded\tfpkm_unstranded\tfpkm_uq_unstranded\n\
             N_unmapped\t\t\t9\t9\t9\t\t\t\nENSG00000167286.9\tCD3D\tprotein_coding\t1\t1\t1\t1\t1\t{value}\nENSG00000148773.14\tMKI67\tprotein_coding\t1\t1\t1\t1\t1\t{}\n",
            value + 90.0
        )
    };
    let mut sheet =
        "File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type\n".to_string();
    let mut manifest = "id\tfilename\tmd5\tsize\tstate\n".to_string();
    for (id, sample, kind, value) in [
        ("f1", "TCGA-AA-0001-01A", "Primary Tumor", 9.0),
        ("f2", "TCGA-AA-0001-01B", "Primary Tumor", 19.0),
        ("f3", "TCGA-AA-0002-01A, TCGA-AA-0002-01A", "Primary Tumor, Primary Tumor", 99.0),
        ("f4", "TCGA-AA-0003-11A", "Solid Tissue Normal", 99.0),
        ("f5", "TCGA-AA-0004-01A", "Primary Tumor", 999.0),
    ] {
        let name = format!("{id}.rna_seq.augmented_star_gene_counts.tsv");
        let text = if id == "f5" { star(value)[..200].to_string() } else { star(value) };
        manifest.push_str(&format!("{id}\t{name}\tmd5\t{}\tlive\n", star(value).len()));
        write(folder, &format!("rna/{id}/{name}"), &text);
        let patient = &sample[..12];
        sheet.push_str(&format!("{id}\t{name}\tTranscriptome Profiling\tGene Expression Quantification\tTCGA-COAD\t{patient}\t{sample}\t{kind}\n"));
    }
    manifest.push_str("f6\tf6.tsv\tmd5\t10\tlive\n");
    write(folder, "rna/f1/annotations.txt", "id\tsubmitter_id\n");
    write(folder, "rna/MANIFEST.txt", &manifest);
    for slide in [
        "TCGA-AA-0001-01Z-00-DX1.AAAA.svs",
        "TCGA-AA-0002-01Z-00-DX1.BBBB.svs",
        "TCGA-AA-0003-01Z-00-DX1.CCCC.svs",
        "TCGA-AA-0004-01Z-00-DX1.DDDD.svs",
        "TCGA-AA-0005-01Z-00-DX1.EEEE.svs",
    ] {
        write(folder, &format!("slides/{slide}"), "");
    }
    let mut config = config(folder, "slides/*/../TCGA*.svs", "rna");
    config.slides = vec![folder.join("slides/TCGA-*-DX?.*.svs").to_string_lossy().into_owned()];
    config.sample_sheet = Some(write(folder, "gdc_sample_sheet.tsv", &sheet));
    config.manifest = Some(folder.join("rna/MANIFEST.txt"));
    config.genes = vec!["MKI67".into(), "ENSG00000167286".into()];
    let (cohort, excluded) = load(&config);
    assert_eq!(cohort.slides.len(), 2);
    assert_eq!(cohort.slides[0].sample, "TCGA-AA-0001-01A", "01A before 01B");
    assert_eq!(cohort.slides[0].project.as_deref(), Some("TCGA-COAD"));
    assert_eq!(cohort.gene_labels(), ["MKI67", "CD3D"]);
    assert_abs_diff_eq!(cohort.target(0)[1], 1.0, epsilon = 1e-12);
    assert_abs_diff_eq!(cohort.target(1)[1], 2.0, epsilon = 1e-12);
    assert_eq!(
        reason(&excluded, "TCGA-AA-0001-01B"),
        "is another sample of the same patient; TCGA-AA-0001-01A is used"
    );
    says(&excluded, "TCGA-AA-0003-01Z", "only samples that are no primary tumour");
    says(&excluded, "f5.rna_seq", "the manifest says");
    assert!(excluded.iter().any(|e| e.kind == ExcludedKind::File && e.reason.contains("fields, the header 9")));
    assert_eq!(reason(&excluded, "f6.tsv"), "is in the manifest but not on disk");
    says(&excluded, "TCGA-AA-0005-01Z", "neither sample TCGA-AA-0005-01 nor patient");
    // By patient, normal tissue allowed, everyone has something.
    config.match_by = MatchBy::Patient;
    config.primary_tumour_only = false;
    assert_eq!(load(&config).0.slides.len(), 3);
}

#[test]
fn the_real_wide_table_matches_its_slides() {
    let Some(folder) = real_tables() else { return };
    let dir = tempfile::tempdir().unwrap();
    // One slide under its full name, one without GDC's id, one of another patient.
    for slide in [
        "TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291.svs",
        "TCGA-3C-AALJ-01Z-00-DX2.svs",
        "TCGA-ZZ-0000-01Z-00-DX1.svs",
    ] {
        write(dir.path(), slide, "");
    }
    let config = CohortConfig {
        slides: vec![dir.path().to_string_lossy().into_owned()],
        expression: vec![folder.join("sequoia_ref_file.csv").to_string_lossy().into_owned()],
        genes: vec!["CD3D".into(), "MKI67".into(), "ENSG00000170421".into()],
        transform: Transform::None,
        ..CohortConfig::default()
    };
    let (cohort, excluded) = load(&config);
    assert_eq!(cohort.slides.len(), 2);
    assert_eq!(cohort.gene_labels(), ["CD3D", "MKI67", "KRT8"]);
    assert_eq!((cohort.patients[0].id.as_str(), cohort.patients[0].site.as_deref()), ("TCGA-3C-AALI", Some("3C")));
    assert_eq!(cohort.projects(), ["TCGA-BRCA"]);
    assert!(cohort.targets.iter().all(|v| (0.0..20.0).contains(v)));
    says(&excluded, "TCGA-ZZ-0000", "has no expression");
    // The table is on a log scale; whoever does not say so is told.
    let linear = CohortConfig { transform: Transform::Log10p1, genes: Vec::new(), ..config.clone() };
    let (cohort, _) = load(&linear);
    assert!(cohort.remarks.iter().any(|r| r.contains("table_scale")), "{:?}", cohort.remarks);
    assert!(cohort.genes.len() > 15_000, "all genes with nonzero median");
    let stated = CohortConfig { table_scale: TableScale::Log2p1, ..linear };
    let remarks = load(&stated).0.remarks;
    assert_eq!(remarks, ["60 genes whose median is zero are left out"]);
}

#[test]
fn missing_values_and_impossible_ones() {
    let dir = tempfile::tempdir().unwrap();
    synthetic(dir.path());
    let table = |local: &str, null: &str| {
        let rows = format!("LOCAL\t{local}\nNULL1\t{null}\n");
        write(
            dir.path(),
            "expression.tsv",
            &format!("gene\tTCGA-SY-0001-01A\tTCGA-SY-0002-01A\tTCGA-SY-0003-01A\n{rows}"),
        );
    };
    let config = CohortConfig::of_folder(dir.path()).unwrap();
    table("9\t99\t1", "NA\tNA\t3");
    let (cohort, excluded) = load(&config);
    assert_eq!(cohort.gene_labels(), ["LOCAL"]);
    assert_eq!(reason(&excluded, "NULL1"), "has no value in 2 of 3 samples");
    let lenient = CohortConfig { max_missing_fraction: 0.5, ..config.clone() };
    table("9\t99\t1", "1\tNA\t3");
    let (cohort, excluded) = load(&lenient);
    assert_eq!(ids(&cohort), ["TCGA-SY-0001-01A-01-DX1", "TCGA-SY-0003-01A-01-DX1"]);
    says(&excluded, "TCGA-SY-0002-01A-01-DX2", "has no value of NULL1");
    table("9\t-99\t1", "1\t2\t3");
    let error = try_load(&config).unwrap_err().to_string();
    assert!(error.contains("-99") && error.contains("table_scale"), "{error}");
    let as_is = CohortConfig { transform: Transform::None, ..config };
    assert_eq!(load(&as_is).0.target(1)[0], -99.0);
}

#[test]
fn nothing_found_is_an_error_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |config: &CohortConfig, wanted: &str| {
        let error = try_load(config).err().unwrap_or_else(|| panic!("{wanted}: accepted")).to_string();
        assert!(error.contains(wanted) && !error.contains('\n'), "{error}");
    };
    refused(&CohortConfig::default(), "set cohort.slides");
    refused(&config(dir.path(), "nowhere", "x.tsv"), "does not exist");
    refused(&config(dir.path(), "*.svs", "x.tsv"), "matches no file");
    write(dir.path(), "slides/readme.md", "");
    refused(&config(dir.path(), "slides", "x.tsv"), "no slide found");
    write(dir.path(), "slides/CMU-1.svs", "");
    refused(&config(dir.path(), "slides", "x.tsv"), "does not exist");
    write(dir.path(), "rna/readme.md", "");
    refused(&config(dir.path(), "slides", "rna"), "holds no expression table");
    write(dir.path(), "x.tsv", MATRIX);
    refused(&config(dir.path(), "slides", "x.tsv"), "none of the 1 slides has expression (CMU-1 has no expression");
    assert!(CohortConfig::of_folder(dir.path()).is_err());
}

#[test]
fn configurations_are_read_from_toml() {
    let text = "slides = \"slides\"\nexpression = [\"a.tsv\", \"/b.tsv\"]\ngenes = [\"CD3D\"]\nmeasure = \"tpm\"\n\
        table_scale = \"log2p1\"\ntransform = \"none\"\nmatch = \"patient\"\nexpression_format = \"two_column\"\n\
        orientation = \"genes_in_columns\"\nsample_sheet = \"sheet.tsv\"\n[project_groups]\nTCGA-LUAD = \"LUNG\"\n";
    let mut config: CohortConfig = toml::from_str(text).unwrap();
    config.resolve(Path::new("/data"));
    assert_eq!(
        (config.slides.as_slice(), config.expression.as_slice()),
        (&["/data/slides".to_string()][..], &["/data/a.tsv".to_string(), "/b.tsv".to_string()][..])
    );
    assert_eq!(config.match_by, MatchBy::Patient);
    assert_eq!(config.sample_sheet.as_deref(), Some(Path::new("/data/sheet.tsv")));
    assert_eq!(toml::from_str::<CohortConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    assert!(toml::from_str::<CohortConfig>("slide = \"x\"").unwrap_err().to_string().contains("unknown field"));
}
