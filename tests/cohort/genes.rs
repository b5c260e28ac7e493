//! Names of genes: what is found, what is remarked, what is suggested.

use isg::cohort::genes::{GeneIndex, GeneMap, GeneName, ensembl_base, is_ensembl};
use proptest::prelude::*;

use super::write;

fn names(labels: &[(&str, &str)]) -> Vec<GeneName> {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_string());
    labels.iter().map(|(id, symbol)| GeneName { ensembl: some(id), symbol: some(symbol) }).collect()
}

#[test]
fn ids_with_and_without_version() {
    for id in [
        "ENSG00000167286",
        "ENSG00000167286.15",
        "ensg00000167286",
        "ENSG00000182378.15_PAR_Y",
        "ENSGR0000182378.10",
        "ENSMUSG00000064341",
    ] {
        assert!(is_ensembl(id), "{id}");
    }
    for symbol in
        ["", "ENSG", "ENS", "ENSA", "ENST00000167286", "ENSG00000167286.", "ENSG00000167286.1a", "CD3D", "éNSG"]
    {
        assert!(!is_ensembl(symbol), "{symbol}");
    }
    assert_eq!(ensembl_base("ENSG00000167286.15"), "ENSG00000167286");
    assert_eq!(ensembl_base("ENSG00000182378.15_PAR_Y"), "ENSG00000182378_PAR_Y");
    let both = |id: &str, symbol: &str| names(&[(id, symbol)]).remove(0);
    assert_eq!(GeneName::parse("CD3D|915"), both("", "CD3D"));
    assert_eq!(GeneName::parse("?|100130426"), both("", ""));
    assert_eq!(GeneName::parse("ENSG00000167286.15|CD3D"), both("ENSG00000167286.15", "CD3D"));
    assert_eq!(GeneName::parse("ENSG00000167286.15_CD3D"), both("ENSG00000167286.15", "CD3D"));
    assert_eq!(GeneName::parse("ENSG00000182378.15_PAR_Y"), both("ENSG00000182378.15_PAR_Y", ""));
    assert_eq!(GeneName::parse("HLA-A"), both("", "HLA-A"));
    assert_eq!(GeneName::parse("915"), both("", "915"));
}

#[test]
fn symbols_and_ids_find_each_other() {
    let map = GeneMap::default();
    let both =
        names(&[("ENSG00000167286.9", "CD3D"), ("ENSG00000156738.17", "MS4A1"), ("ENSG00000148773.14", "MKI67")]);
    let index = GeneIndex::new(&both);
    let at = |gene: &str| index.find(gene, &map).unwrap();
    for gene in ["CD3D", "ENSG00000167286", "ENSG00000167286.9", "ENSG00000167286.12"] {
        assert_eq!((at(gene).index, at(gene).remark), (0, None), "{gene}");
    }
    assert_eq!(at("CD20").index, 1, "the paper's name of MS4A1");
    assert!(at("mki67").remark.unwrap().contains("differs in case"));
    // Ids alone: symbols through the built-in map, or the user's.
    let ids = names(&[("ENSG00000167286.9", ""), ("ENSG00000075624.1", "")]);
    let index = GeneIndex::new(&ids);
    assert_eq!(index.find("CD3D", &map).unwrap().index, 0);
    assert!(index.find("ACTB", &map).is_err());
    let dir = tempfile::tempdir().unwrap();
    for text in [
        "gene_id,gene_name\nENSG00000075624.17,ACTB\n",
        "ENSG00000075624\tACTB\n",
        "symbol\tentrez\tensembl_gene_id\nACTB\t60\tENSG00000075624\n",
    ] {
        let map = GeneMap::read(write(dir.path(), "map.txt", text)).unwrap();
        assert_eq!(index.find("ACTB", &map).unwrap().index, 1, "{text}");
        assert_eq!(map.symbol_of("ENSG00000167286.3"), Some("CD3D"));
    }
    assert!(GeneMap::read(write(dir.path(), "bad.txt", "a,b\n1,2\n")).is_err());
    // Symbols alone: ids through the map.
    let symbols = names(&[("", "KRT8"), ("", "CD3D")]);
    assert_eq!(GeneIndex::new(&symbols).find("ENSG00000167286", &map).unwrap().index, 1);
}

#[test]
fn duplicates_are_remarked_and_the_copy_on_y_is_not_one() {
    let map = GeneMap::default();
    let list = names(&[
        ("ENSG00000182378.15_PAR_Y", "PLCXD1"),
        ("ENSG00000182378.15", "PLCXD1"),
        ("ENSG1", "X"),
        ("ENSG00000000001", "MATR3"),
        ("ENSG00000000002", "MATR3"),
    ]);
    let index = GeneIndex::new(&list);
    let found = index.find("PLCXD1", &map).unwrap();
    assert_eq!((found.index, found.remark), (1, None));
    let found = index.find("MATR3", &map).unwrap();
    assert_eq!(found.index, 3);
    assert!(found.remark.unwrap().contains("occurs 2 times"));
    assert_eq!(index.find("ENSG00000000002", &map).unwrap().index, 4);
}

#[test]
fn unknown_genes_list_near_ones() {
    let map = GeneMap::default();
    let list = names(&[
        ("", "CD3D"),
        ("", "CD3E"),
        ("", "CD3G"),
        ("", "MKI67"),
        ("", "HLA-A"),
        ("", "HLA-B"),
        ("", "KRT18"),
        ("", "KRT8"),
        ("", "ACTB"),
        ("", "TP63"),
    ]);
    let index = GeneIndex::new(&list);
    let near = |gene: &str| index.find(gene, &map).unwrap_err();
    assert_eq!(near("MK167")[0], "MKI67", "the paper's own misprint");
    assert_eq!(near("CD3X"), ["CD3D", "CD3E", "CD3G"]);
    assert_eq!(near("HLAA")[0], "HLA-A");
    assert_eq!(near("KTR8")[0], "KRT8", "two letters swapped");
    assert_eq!(near("CD3"), ["CD3D", "CD3E", "CD3G"]);
    assert_eq!(near("HLA"), ["HLA-A", "HLA-B"]);
    assert!(near("ZZZZZZ").is_empty());
    // Ids that the map can name are suggested by their symbol.
    let ids = names(&[("ENSG00000167286.9", "")]);
    assert_eq!(GeneIndex::new(&ids).find("CD3X", &map).unwrap_err(), ["CD3D"]);
}

proptest! {
    #[test]
    fn any_label_is_read(label in "\\PC{0,24}") {
        let name = GeneName::parse(&label);
        let list = [name];
        let _ = GeneIndex::new(&list).find(&label, &GeneMap::default());
        let _ = isg::cohort::barcode::Barcode::find(&label);
    }

    #[test]
    fn any_barcode_like_label_is_read(label in "[TCGAtcga.\\-_01Z9éx]{0,30}") {
        let _ = isg::cohort::barcode::Barcode::find(&label);
    }
}
