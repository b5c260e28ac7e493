//! Every kind of expression table, real and generated, and what is said of those that cannot be read.

use std::{io::Write, path::Path};

use isg::cohort::{
    ReadOptions,
    expression::{ExpressionFormat, ExpressionTable, Measure, Orientation},
    gdc::{Manifest, SampleSheet},
    genes::{GeneMap, wanted_names},
    labels::{LabelLow, LabelTable},
};

use super::{real_tables, write};

fn read(path: &Path) -> ExpressionTable {
    ExpressionTable::read(path, &ReadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn with_measure(measure: Measure) -> ReadOptions {
    ReadOptions { measure, ..ReadOptions::default() }
}

fn wanted(genes: &[&str]) -> ReadOptions {
    let genes: Vec<String> = genes.iter().map(|g| g.to_string()).collect();
    ReadOptions { wanted: Some(wanted_names(&genes, &GeneMap::default())), ..ReadOptions::default() }
}

#[test]
fn real_star_counts() {
    let Some(folder) = real_tables() else { return };
    let path = folder.join("test_set_1.final.tsv.gz");
    let value = |measure: Measure, gene: usize| {
        ExpressionTable::read(&path, &with_measure(measure)).unwrap().sample_values(0)[gene]
    };
    let table = read(&path);
    assert_eq!((table.samples.len(), table.samples[0].name.as_str()), (1, "test_set_1.final"));
    assert_eq!(table.genes[0].ensembl.as_deref(), Some("ENSG00000000003.15"));
    assert_eq!(table.genes[0].symbol.as_deref(), Some("TSPAN6"));
    assert!(table.genes.iter().all(|g| g.ensembl.is_some() && g.symbol.is_some()), "N_ rows are no genes");
    assert_eq!(value(Measure::FpkmUq, 0), 7064.554216748428);
    assert_eq!(value(Measure::Tpm, 0), 92548.07751878405);
    assert_eq!(value(Measure::Fpkm, 0), 15420.955417694371);
    assert_eq!(value(Measure::Counts, 1), 2.0);
}

#[test]
fn real_two_column_file() {
    let Some(folder) = real_tables() else { return };
    let table = read(&folder.join("TCGA-PL-A8LX-01A.derived.FPKM-UQ.txt.gz"));
    assert_eq!((table.genes.len(), table.samples.len()), (60_483, 1));
    assert_eq!(table.samples[0].barcode.as_ref().unwrap().sample_vial().unwrap(), "TCGA-PL-A8LX-01A");
    assert_eq!(table.genes[2].ensembl.as_deref(), Some("ENSG00000167578.15"));
    assert_eq!(table.sample_values(0)[2], 115353.3859);
    // Only what is asked for is kept; every name is, for suggestions.
    let few =
        ExpressionTable::read(folder.join("TCGA-PL-A8LX-01A.derived.FPKM-UQ.txt.gz"), &wanted(&["CD3D"])).unwrap();
    assert_eq!((few.genes.len(), few.all_genes.len()), (1, 60_483));
    assert!(few.genes[0].ensembl.as_ref().unwrap().starts_with("ENSG00000167286."));
}

#[test]
fn real_wide_matrix() {
    let Some(folder) = real_tables() else { return };
    let table = read(&folder.join("sequoia_ref_file.csv"));
    assert_eq!((table.samples.len(), table.genes.len()), (5, 20_820));
    assert_eq!(table.samples[1].patient.as_deref(), Some("TCGA-3C-AALI"));
    assert_eq!(table.samples[0].project.as_deref(), Some("TCGA-BRCA"));
    assert!(table.samples[0].name.starts_with("TCGA-3C-AALI-01Z-00-DX1."));
    assert_eq!(table.genes[0].symbol.as_deref(), Some("A1BG"));
    assert_eq!(table.genes.last().unwrap().symbol.as_deref(), Some("ZZZ3"));
    assert_eq!(*table.sample_values(0).last().unwrap(), 1.9149088923472504);
}

#[test]
fn real_sample_sheet_and_manifest() {
    let Some(folder) = real_tables() else { return };
    let sheet = SampleSheet::read(folder.join("gdc_sample_sheet.2020-02-13.tsv")).unwrap();
    assert_eq!(sheet.entries.len(), 149);
    let entry = sheet.of_file(Path::new("x/bc5be208-5934-40dd-81df-567599ea2a51.htseq.counts")).unwrap();
    assert_eq!((entry.sample.as_str(), entry.project.as_str()), ("TCGA-33-6737-01A", "TCGA-LUSC"));
    let by_folder = sheet.of_file(Path::new("e4c62f17-d1e8-4543-9b7e-daa2b68306e0/renamed.txt")).unwrap();
    assert_eq!(by_folder, entry);
    let manifest = Manifest::read(folder.join("gdc_manifest_20200213_235716.txt")).unwrap();
    assert_eq!(manifest.entries[0].size_bytes, Some(251_862));
    assert_eq!(manifest.problems(&[]).len(), manifest.entries.len());
}

/// The same four values, in every form that people have them.
#[test]
fn forms_of_the_same_matrix() {
    let dir = tempfile::tempdir().unwrap();
    let forms: &[(&str, &str)] = &[
        ("plain.tsv", "gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1.5\t2\nKRT8\t3\tNA\n"),
        ("crlf.csv", "\u{feff}gene,TCGA-AA-0001-01A,TCGA-AA-0002-01A\r\nCD3D,1.5,2\r\nKRT8,3,\r\n"),
        ("cr.csv", "gene,TCGA-AA-0001-01A,TCGA-AA-0002-01A\rCD3D,1.5,2\rKRT8,3,\r"),
        (
            "quoted.csv",
            "\"gene\",\"TCGA-AA-0001-01A\",\"TCGA-AA-0002-01A\"\n\"CD3D\",\"1.5\",\"2\"\n\"KRT8\",\"3\",\"NaN\"\n",
        ),
        (
            "comments.tsv",
            "# made by hand\n#\n\ngene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\n# more\nCD3D\t1.5\t2\n\nKRT8\t3\tn/a\n",
        ),
        ("hashed.tsv", "# made by hand\n#gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1.5\t2\nKRT8\t3\tnull\n"),
        ("from_r.tsv", "TCGA.AA.0001.01A\tTCGA.AA.0002.01A\nCD3D\t1.5\t2\nKRT8\t3\tNA\n"),
        ("from_r.csv", "\"TCGA.AA.0001.01A\",\"TCGA.AA.0002.01A\"\n\"CD3D\",1.5,2\n\"KRT8\",3,NA\n"),
        ("r_spaces.txt", "\"TCGA.AA.0001.01A\" \"TCGA.AA.0002.01A\"\n\"CD3D\" 1.5 2\n\"KRT8\" 3 NA\n"),
        ("german.tsv", "gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1,5\t2,0\nKRT8\t3\tNA\n"),
        ("german_quoted.csv", "gene,TCGA-AA-0001-01A,TCGA-AA-0002-01A\nCD3D,\"1,5\",\"2,00E+00\"\nKRT8,3,NA\n"),
        (
            "described.tsv",
            "gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\tdescription\nCD3D\t1.5\t2\t\"delta, \"\"T3\"\"\nchain\"\nKRT8\t3\tNA\t5\" end\n",
        ),
        ("german.csv", "gene;TCGA-AA-0001-01A;TCGA-AA-0002-01A\nCD3D;1,5;2,0\nKRT8;3;\n"),
        ("xena.tsv", "sample\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1.5\t2e0\nKRT8\t3.0\t\n"),
        ("trailing.csv", "gene,TCGA-AA-0001-01A,TCGA-AA-0002-01A,\nCD3D,1.5,2,\nKRT8,3,NA,\n"),
        ("pandas.csv", ",gene,TCGA-AA-0001-01A,TCGA-AA-0002-01A\n0,CD3D,1.5,2\n1,KRT8,3,\n"),
        (
            "gct.gct",
            "#1.2\n2\t2\nName\tDescription\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nENSG00000167286.9\tCD3D\t1.5\t2\nENSG00000170421.12\tKRT8\t3\tNA\n",
        ),
        (
            "both.tsv",
            "gene_id\tgene_name\tgene_type\tlength\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nENSG00000167286.9\tCD3D\tprotein_coding\t900\t1.5\t2\nENSG00000170421.12\tKRT8\tprotein_coding\t800\t3\tNA\n",
        ),
        (
            "firehose.txt",
            "Hybridization REF\tTCGA-AA-0001-01A-11R\tTCGA-AA-0002-01A-11R\n?|100130426\t0\t0\nCD3D|915\t1.5\t2\nKRT8|3856\t3\tNA\n",
        ),
        ("turned.csv", "sample,CD3D,KRT8\nTCGA-AA-0001-01A,1.5,3\nTCGA-AA-0002-01A,2,NA\n"),
        (
            "sequoia.csv",
            "wsi_file_name,patient_id,rna_CD3D,rna_KRT8,age,tcga_project\nTCGA-AA-0001-01Z-00-DX1.F6,TCGA-AA-0001,1.5,3,61,COAD\nTCGA-AA-0002-01Z-00-DX1.A7,TCGA-AA-0002,2,,70,COAD\n",
        ),
        ("turned_ids.tsv", "\tENSG00000167286\tENSG00000170421.3\nTCGA-AA-0001\t1.5\t3\nTCGA-AA-0002\t2\tNA\n"),
    ];
    let index = |table: &ExpressionTable, symbol: &str, id: &str| {
        let here = |g: &isg::cohort::genes::GeneName| {
            g.symbol.as_deref() == Some(symbol) || g.ensembl.as_deref().is_some_and(|e| e.starts_with(id))
        };
        table.genes.iter().position(here).unwrap_or_else(|| panic!("{symbol} in {:?}", table.genes))
    };
    for (name, text) in forms {
        let mut path = write(dir.path(), name, text);
        for packed in [false, true] {
            if packed {
                path = dir.path().join(format!("{name}.gz"));
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(text.as_bytes()).unwrap();
                std::fs::write(&path, gz.finish().unwrap()).unwrap();
            }
            let table = read(&path);
            let patients: Vec<_> = table
                .samples
                .iter()
                .map(|s| s.patient_name().unwrap_or_else(|| panic!("{name}: {}", s.name)))
                .collect();
            assert_eq!(patients, ["TCGA-AA-0001", "TCGA-AA-0002"], "{name}");
            let cd3d = index(&table, "CD3D", "ENSG00000167286");
            let krt8 = index(&table, "KRT8", "ENSG00000170421");
            assert_eq!(table.gene_values(cd3d), [1.5, 2.0], "{name}");
            assert_eq!(table.gene_values(krt8)[0], 3.0, "{name}");
            assert!(table.gene_values(krt8)[1].is_nan(), "{name}");
            assert_eq!(table.genes.len(), 2, "{name}: {:?}", table.genes);
            // Reading only what is wanted gives the same.
            let one = ExpressionTable::read(&path, &wanted(&["cd3d"])).unwrap();
            assert_eq!((one.genes.len(), one.values.as_slice()), (1, &[1.5, 2.0][..]), "{name}");
            assert_eq!(one.all_genes.len(), 2, "{name}");
        }
    }
}

#[test]
fn one_sample_files() {
    let dir = tempfile::tempdir().unwrap();
    let star = "# gene-model: GENCODE v36\ngene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second\ttpm_unstranded\tfpkm_unstranded\tfpkm_uq_unstranded\n\
        N_unmapped\t\t\t9\t9\t9\t\t\t\nN_multimapping\t\t\t9\t9\t9\t\t\t\nN_noFeature\t\t\t9\t9\t9\t\t\t\nN_ambiguous\t\t\t9\t9\t9\t\t\t\n\
        ENSG00000167286.9\tCD3D\tprotein_coding\t10\t5\t5\t1.5\t2.5\t3.5\nENSG00000182378.15_PAR_Y\tPLCXD1\tprotein_coding\t0\t0\t0\t0\t0\t0\n";
    let path = write(dir.path(), "u.rna_seq.augmented_star_gene_counts.tsv", star);
    for (measure, value) in [(Measure::Counts, 10.0), (Measure::Tpm, 1.5), (Measure::Fpkm, 2.5), (Measure::FpkmUq, 3.5)]
    {
        let table = ExpressionTable::read(&path, &with_measure(measure)).unwrap();
        assert_eq!(table.values, [value, 0.0]);
    }
    let raw = write(
        dir.path(),
        "ReadsPerGene.out.tab",
        "N_unmapped\t1\t2\t3\nN_noFeature\t1\t2\t3\nENSG00000167286.9\t7\t3\t4\n",
    );
    assert_eq!(ExpressionTable::read(&raw, &with_measure(Measure::Counts)).unwrap().values, [7.0]);
    let error = ExpressionTable::read(&raw, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no column of fpkm_uq") && error.contains("\"counts\""), "{error}");
    let htseq = write(
        dir.path(),
        "a.htseq.counts",
        "ENSG00000167286.9\t7\nENSG00000170421.3\t0\n__no_feature\t99\n__ambiguous\t9\n",
    );
    let table = read(&htseq);
    assert_eq!((table.values.as_slice(), table.samples[0].name.as_str()), (&[7.0, 0.0][..], "a.htseq"));
    let headed = write(dir.path(), "b.txt", "gene_id,FPKM\nCD3D,1\nKRT8,2\n");
    assert_eq!(read(&headed).values, [1.0, 2.0]);
    let one_column = write(dir.path(), "c.txt", "gene\tTCGA-AA-0001-01A\nCD3D\t1\n");
    assert_eq!(read(&one_column).samples[0].name, "TCGA-AA-0001-01A");
    let rsem = write(
        dir.path(),
        "d.genes.results",
        "gene_id\ttranscript_id(s)\tlength\teffective_length\texpected_count\tTPM\tFPKM\nENSG00000167286.9\tENST1\t900\t800\t12.5\t3\t4\n",
    );
    assert_eq!(ExpressionTable::read(&rsem, &with_measure(Measure::Tpm)).unwrap().values, [3.0]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |name: &str, bytes: &[u8], options: &ReadOptions, wanted: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error =
            ExpressionTable::read(&path, options).err().unwrap_or_else(|| panic!("{name} was read")).to_string();
        assert!(error.contains(wanted) && error.contains(name) && !error.contains('\n'), "{error}");
    };
    let auto = ReadOptions::default();
    refuse("empty.tsv", b"", &auto, "is empty");
    refuse("blank.tsv", b"\n\n  \n# nothing\n", &auto, "is empty");
    refuse("header.tsv", b"gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\n", &auto, "no rows");
    refuse("book.xlsx", b"PK\x03\x04....", &auto, "save it as CSV");
    refuse("binary.tsv", b"gene\0\0\0", &auto, "is not text");
    refuse("wide16.tsv", b"\xff\xfeg\0e\0", &auto, "UTF-16");
    refuse("packed.bz2", b"BZh91AY", &auto, "use gzip");
    let text = "gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1\t2\nKRT8\toops\t3\nKRT18\t5\t5\n";
    refuse("word.tsv", text.as_bytes(), &auto, "line 3 holds \"oops\"");
    refuse(
        "short.tsv",
        b"gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1\t2\nKRT8\t1",
        &auto,
        "line 3 has 2 fields, the header 3",
    );
    refuse(
        "thousands.tsv",
        b"gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1\t\"1,234\"\nKRT8\t1\t3\nA\t1\t2\n",
        &auto,
        "1,234",
    );
    let german = |cells: &str| format!("gene;TCGA-AA-0001-01A;TCGA-AA-0002-01A\nCD3D;{cells}\nKRT8;1;2\nA;1;2\n");
    refuse("mixed.csv", german("9,5;1.234").as_bytes(), &auto, "mixes decimal commas and points: \"9,5\" on line 2");
    refuse("points.csv", german("999;1.234").as_bytes(), &auto, "\"1.234\" on line 2 (column TCGA-AA-0002-01A)");
    refuse("grouped.csv", german("1.234,5;2").as_bytes(), &auto, "line 2 holds \"1.234,5\"");
    let long = "gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\tinfo\nCD3D\t1\t2\tok\n";
    for (name, rows) in [
        ("last.tsv", "KRT8\t1\t2\t\"alpha chain\nKRT18\t5\t5\tok\n"),
        ("next.tsv", "KRT8\t1\t2\t\"alpha chain\nKRT18\t5\t5\tbeta chain\"\nA\t1\t1\tok\n"),
        ("two.tsv", "KRT8\t1\t2\t\"alpha chain\nKRT18\t5\t5\t\"beta chain\nA\t1\t1\tok\n"),
        ("middle.tsv", "\"KRT8\t1\t2\talpha\nKRT18\"\t5\t5\tok\nA\t1\t1\tok\n"),
    ] {
        refuse(name, format!("{long}{rows}").as_bytes(), &auto, "line 3 opens a quote that is not closed");
    }
    refuse("head.tsv", b"gene\t\"TCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1\t2\n", &auto, "line 1 opens a quote");
    refuse("page.tsv", b"<!DOCTYPE html><html>", &auto, "is a web page");
    refuse(
        "twice.tsv",
        b"sample\tpatient\tPatient\tCD3D\tKRT8\nTCGA-AA-0001\tx\ty\t1\t2\n",
        &auto,
        "two columns patient",
    );
    refuse(
        "commas.csv",
        b"gene,TCGA-AA-0001-01A\nCD3D,1,5\nKRT8,2,5\n",
        &auto,
        "line 2 has 3 fields, the header 2; quote fields that hold commas; with decimal commas, separate by semicolons",
    );
    refuse("words.tsv", b"a\tb\tc\nx\ty\tz\n", &auto, "holds no numbers");
    refuse("unclear.tsv", b"x\ts1\ts2\nq1\t1\t2\nq2\t3\t4\n", &auto, "state orientation");
    refuse(
        "infinite.tsv",
        b"gene\tTCGA-AA-0001-01A\tTCGA-AA-0002-01A\nCD3D\t1\t1e999\nKRT8\t1\t3\nA\t1\t2\n",
        &auto,
        "1e999",
    );
    let two = ReadOptions { format: ExpressionFormat::TwoColumn, ..ReadOptions::default() };
    refuse("three.tsv", b"a\tb\tc\nx\t1\t2\n", &two, "has 3 columns");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let long: String = (0..5000).map(|i| format!("ENSG{i:011}\t{}\n", i * 7919 % 1000)).collect();
    gz.write_all(long.as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    refuse("cut.tsv.gz", &gz[..gz.len() / 2], &auto, "cannot be read to its end");
    // The statement decides where nothing shows.
    let path = dir.path().join("unclear.tsv");
    let rows = ReadOptions { orientation: Orientation::GenesInRows, ..ReadOptions::default() };
    assert_eq!(ExpressionTable::read(&path, &rows).unwrap().samples[0].name, "s1");
    let columns = ReadOptions { orientation: Orientation::GenesInColumns, ..ReadOptions::default() };
    assert_eq!(ExpressionTable::read(&path, &columns).unwrap().samples[0].name, "q1");
    // So do names that are known.
    let known = ReadOptions { known_samples: ["s2".to_string()].into(), ..ReadOptions::default() };
    assert_eq!(ExpressionTable::read(&path, &known).unwrap().genes.len(), 2);
    let mut looked_for = wanted(&["S1"]);
    looked_for.known_samples.clear();
    assert_eq!(ExpressionTable::read(&path, &looked_for).unwrap().samples[1].name, "q2");
}

#[test]
fn samples_of_many_files_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let a = write(dir.path(), "TCGA-AA-0001-01A.tsv", "ENSG00000167286.9\t1\nENSG00000170421.3\t2\n");
    let b = write(dir.path(), "TCGA-AA-0002-01A.tsv", "ENSG00000170421.4\t4\nENSG00000148773.1\t5\n");
    let c = write(dir.path(), "TCGA-AA-0003-01A.tsv", "ENSG00000167286.9\t6\nENSG00000170421.3\t7\n");
    let table = ExpressionTable::read_all(&[a, b, c], &ReadOptions::default()).unwrap();
    assert_eq!((table.samples.len(), table.genes.len()), (3, 3));
    assert_eq!(table.sample_values(0)[..2], [1.0, 2.0]);
    assert!(table.sample_values(0)[2].is_nan());
    assert!(table.sample_values(1)[0].is_nan());
    assert_eq!(table.sample_values(1)[1..], [4.0, 5.0]);
    assert_eq!(table.sample_values(2)[..2], [6.0, 7.0]);
}

/// Any text is read or refused: tables out of the pieces that tables are made of.
#[test]
fn no_text_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("any.tsv");
    let pieces = [
        "\t",
        "\t",
        "\t",
        ",",
        ";",
        " ",
        "\n",
        "\n",
        "\r\n",
        "\r",
        "\"",
        "#",
        "|",
        "gene",
        "gene_id",
        "gene_name",
        "sample",
        "unstranded",
        "tpm_unstranded",
        "N_unmapped",
        "__no_feature",
        "ENSG00000167286.9",
        "CD3D",
        "rna_CD3D",
        "NA",
        "1",
        "2.5",
        "-3e400",
        "TCGA-AA-0001-01A",
        "TCGA-AA-0002",
        "é",
        "\u{feff}",
        "MSI-H",
        "patient",
        "fold",
        "File Name",
        "id",
        "filename",
    ];
    let mut state = 7u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let formats = [ExpressionFormat::Auto, ExpressionFormat::Star, ExpressionFormat::TwoColumn, ExpressionFormat::Wide];
    let orientations = [Orientation::Auto, Orientation::GenesInRows, Orientation::GenesInColumns];
    for _ in 0..2000 {
        let text: String = (0..next(60)).map(|_| pieces[next(pieces.len())]).collect();
        std::fs::write(&path, &text).unwrap();
        let options = ReadOptions {
            format: formats[next(4)],
            orientation: orientations[next(3)],
            measure: Measure::Counts,
            ..ReadOptions::default()
        };
        if let Ok(table) = ExpressionTable::read(&path, &options) {
            assert_eq!(table.values.len(), table.genes.len() * table.samples.len(), "{text:?}");
            assert!(table.values.iter().all(|v| !v.is_infinite()), "{text:?}");
        }
        drop(LabelTable::read(&path, LabelLow::Drop));
        drop(SampleSheet::read(&path));
        drop(Manifest::read(&path));
        drop(GeneMap::read(&path));
        drop(isg::cohort::slides::find_slides(&[path.to_string_lossy().into_owned()]));
        drop(isg::cohort::Splits::read(&path, &[], &Default::default()));
    }
}
