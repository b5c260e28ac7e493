//! Rows and columns beside the genes that are none: sums of reads, spike-ins, clinical values, and dates that a
//! spreadsheet made of genes' names.

use crate::{cohort::genes::GeneName, io::table::plain_name};

/// Rows that count reads: STAR's `N_unmapped`, HTSeq's `__no_feature` and its older `no_feature`, featureCounts'
/// `Unassigned_…`, sums.
const SUMMARIES: [&str; 18] = [
    "nofeature",
    "ambiguous",
    "toolowaqual",
    "notaligned",
    "alignmentnotunique",
    "nunmapped",
    "nmultimapping",
    "nnofeature",
    "nambiguous",
    "assigned",
    "total",
    "totalreads",
    "totalcounts",
    "mappedreads",
    "librarysize",
    "libsize",
    "sum",
    "rowsums",
];

/// Words of clinical and technical columns. None is a gene's symbol.
const CLINICAL: &str = "age sex gender race ethnicity bmi weight height smoking smoker pack packyears alcohol survival \
    months month days day years year weeks date time os pfs dfs dss pfi dfi rfs dmfs event vital status \
    death dead deceased alive censored censor censoring followup follow diagnosis stage grade gleason \
    tumor tumour tnm nodes node positive negative metastasis metastatic relapse recurrence progression \
    response responder treatment therapy chemotherapy radiation purity ploidy cellularity stromal \
    necrosis percent percentage fraction score subtype cluster label target class tmb msi msisensor \
    batch plate center centre site fold split cohort mpp magnification rin patches tiles mutation \
    mutations mutated burden ratio volume size diameter number num type histology laterality ecog kps \
    karnofsky dose hospital scanner stain area width pixels index count";

/// Columns that are called so alone, not as a word of a longer name.
const CLINICAL_WHOLE: [&str; 8] = ["id", "index", "n", "row", "count", "unnamed0", "intercept", "group"];

/// Why a row or column of an expression table is no gene, if that shows by its name alone.
pub(super) fn summary(label: &str) -> Option<&'static str> {
    let plain = plain_name(label);
    let star = label.starts_with("N_") || label.starts_with("__");
    if star || SUMMARIES.contains(&plain.as_str()) || plain.starts_with("unassigned") {
        return Some("is a sum of reads, not a gene");
    }
    let spike = label.strip_prefix("ERCC-").or_else(|| label.strip_prefix("ERCC."));
    if spike.is_some_and(|n| n.len() == 5 && n.bytes().all(|b| b.is_ascii_digit())) {
        return Some("is a spike-in, not a gene");
    }
    None
}

/// For each name why it is no gene; `None` for genes. The others of the table help to tell.
pub(super) fn strangers(names: &[GeneName]) -> Vec<Option<&'static str>> {
    let ids = names.iter().filter(|n| n.ensembl.is_some()).count() * 2 > names.len();
    let upper = names.iter().filter(|n| n.label().contains(|c: char| c.is_uppercase())).count() * 2 >= names.len();
    let reason = |name: &GeneName| {
        if name.ensembl.is_some() {
            return None;
        }
        let label = name.label();
        if excel_date(label).is_some() {
            return Some("is a date that Excel made of a gene's name");
        }
        if is_clinical(label) {
            return Some("is a clinical value, not a gene");
        }
        if ids {
            return Some("is no Ensembl id, as the other genes have");
        }
        let lower = label.contains(|c: char| c.is_lowercase()) && !label.contains(|c: char| c.is_uppercase());
        (upper && lower).then_some("is no gene: symbols have capital letters")
    };
    names.iter().map(reason).collect()
}

fn is_clinical(label: &str) -> bool {
    let known = |word: &str| CLINICAL.split(' ').any(|w| w == word);
    let plain = plain_name(label);
    CLINICAL_WHOLE.contains(&plain.as_str()) || known(&plain) || words(label).any(|w| known(&w))
}

/// The words of `survival_months`, `OS.time` and `daysToDeath`, in lower case.
fn words(label: &str) -> impl Iterator<Item = String> + '_ {
    let mut spaced = String::with_capacity(label.len() + 4);
    let mut after_lower = false;
    for c in label.chars() {
        if c.is_uppercase() && after_lower {
            spaced.push(' ');
        }
        after_lower = c.is_lowercase();
        spaced.push(if c.is_alphanumeric() { c } else { ' ' });
    }
    let words: Vec<String> = spaced.split_whitespace().map(str::to_lowercase).collect();
    words.into_iter()
}

/// Months as spreadsheets write them in English, German, French, Spanish and Italian, where a gene begins so.
const MONTHS: [(&str, &str); 22] = [
    ("january", "jan"),
    ("february", "feb"),
    ("march", "mar"),
    ("april", "apr"),
    ("may", "may"),
    ("june", "jun"),
    ("july", "jul"),
    ("august", "aug"),
    ("september", "sep"),
    ("october", "oct"),
    ("november", "nov"),
    ("december", "dec"),
    ("sept", "sep"),
    ("mrz", "mar"),
    ("mär", "mar"),
    ("märz", "mar"),
    ("mars", "mar"),
    ("okt", "oct"),
    ("dez", "dec"),
    ("dic", "dec"),
    ("déc", "dec"),
    ("set", "sep"),
];

fn month(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase();
    MONTHS.iter().find(|(name, short)| word == *name || word == *short).map(|(_, short)| *short)
}

/// Whether a label is a date, as spreadsheets make them of `MARCH1`, `SEPT2`, `DEC1`: `1-Mar`, `Mar-01`, `2.Sep`,
/// `2024-03-01`, `3/1/2024`. Gives the month, if it is spelt.
pub(super) fn excel_date(label: &str) -> Option<Option<&'static str>> {
    let label = label.trim().strip_suffix("00:00:00").unwrap_or(label).trim();
    let parts: Vec<&str> = label.split(['-', '/', '.', ' ']).filter(|p| !p.is_empty()).collect();
    let number = |p: &str, limit: u32| p.parse::<u32>().is_ok_and(|n| (1..=limit).contains(&n)) && p.len() <= 4;
    match parts[..] {
        [a, b] if number(a, 31) => month(b).map(Some),
        [a, b] if number(b, 2100) => month(a).filter(|_| label.contains(['-', '/', ' '])).map(Some),
        [a, b, c] if number(a, 31) && number(c, 2100) && month(b).is_some() => month(b).map(Some),
        [a, b, c] if number(b, 31) => {
            let year = |p: &str| p.len() == 4 && number(p, 2100);
            let dated = (year(a) && number(c, 31)) || (year(c) && number(a, 31));
            dated.then_some(None)
        }
        _ => None,
    }
}

/// Whether a gene's symbol is one that a spreadsheet takes for a date: a month's name and a number.
pub(super) fn date_of_gene(symbol: &str) -> bool {
    let letters = symbol.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &symbol[letters.len()..];
    let letters = letters.to_lowercase();
    let month =
        month(&letters).is_some() || matches!(letters.as_str(), "marc" | "marchf" | "mtarc" | "septin" | "delec");
    month && (1..=2).contains(&digits.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_genes() {
        for (label, month) in [
            ("1-Mar", Some("mar")),
            ("2-Sep", Some("sep")),
            ("Mar-01", Some("mar")),
            ("01-Dec", Some("dec")),
            ("2.Sep", Some("sep")),
            ("2. Mrz", Some("mar")),
            ("1-Mar-2024", Some("mar")),
            ("2024-03-01", None),
            ("2024-03-01 00:00:00", None),
            ("3/1/2024", None),
            ("01.03.2024", None),
        ] {
            assert_eq!(excel_date(label), Some(month), "{label}");
        }
        for gene in
            ["MARCH1", "SEPT2", "DEC1", "JUN", "MAR1", "HLA-A", "NKX2-1", "ERCC1", "RP11-34P13.7", "CH507-9B2.3"]
        {
            assert_eq!(excel_date(gene), None, "{gene}");
        }
        for gene in ["MARCH1", "MARC2", "MARCHF8", "SEPT2", "SEPTIN9", "SEP15", "DEC1", "MAR1"] {
            assert!(date_of_gene(gene), "{gene}");
        }
        for gene in ["JUN", "JUND", "MARCKS", "CD3D", "SEPT", "MARS1X"] {
            assert!(!date_of_gene(gene), "{gene}");
        }
    }

    #[test]
    fn what_is_no_gene() {
        for label in [
            "__no_feature",
            "no_feature",
            "too_low_aQual",
            "__ambiguous",
            "N_unmapped",
            "Unassigned_NoFeatures",
            "ERCC-00002",
        ] {
            assert!(summary(label).is_some(), "{label}");
        }
        for gene in ["ERCC1", "ERCC2", "NOS1", "SUMO1", "TOTAL1", "NAGLU"] {
            assert_eq!(summary(gene), None, "{gene}");
        }
        let names = |labels: &[&str]| labels.iter().map(|l| GeneName::parse(l)).collect::<Vec<_>>();
        let genes = [
            "CD3D",
            "MKI67",
            "AGER",
            "STAG2",
            "C1orf112",
            "HLA-A",
            "OSM",
            "KIT",
            "MET",
            "SET",
            "REST",
            "CAT",
            "MAX",
            "TIMELESS",
            "Y_RNA",
            "NKX2-1",
            "MT-CO1",
            "POLR2J3",
            "EVI2A",
            "GRB2",
            "DAYSLEEPER",
            "TP53",
            "MSI1",
            "IMPACT",
        ];
        assert!(strangers(&names(&genes)).iter().all(Option::is_none), "{:?}", strangers(&names(&genes)));
        let clinical = [
            "age",
            "survival_months",
            "stage",
            "os_time",
            "OS.time",
            "daysToDeath",
            "Age",
            "fibrosis",
            "BMI",
            "tumor_size",
            "PFS",
        ];
        let all = [&genes[..], &clinical[..]].concat();
        let found = strangers(&names(&all));
        assert!(found[..genes.len()].iter().all(Option::is_none));
        for (label, reason) in clinical.iter().zip(&found[genes.len()..]) {
            assert!(reason.is_some(), "{label}");
        }
        let ids = names(&["ENSG00000167286", "ENSG00000148773.1", "ENSG00000000003", "TUMORSIZE"]);
        assert!(strangers(&ids)[3].is_some());
    }
}
