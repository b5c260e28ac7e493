//! Which expression sample belongs to which slide.
//!
//! The rules, in their order; the first that finds a sample decides, and its name is in `matching.csv`:
//! 1. `sample`: the name that the slide table states;
//! 2. `name`: the slide's own name, or its file's;
//! 3. `name without GDC id`: the same without the id that GDC appends to a barcode;
//! 4. `TCGA sample and vial`, then `TCGA sample` (a slide is cut from another vial than the RNA), `TARGET …` likewise;
//! 5. `CPTAC case`;
//! 6. `TCGA patient`, `TARGET patient`, where the kinds of tissue do not contradict; `patient`: as a table states it, or
//!    the slide's own name.
//!
//! Names agree whole, or (said after the rule) but for case, or as R's `make.names` renames columns; never by a part of
//! a name. A name that fits two samples is an error that names both. Of several aliquots of one TCGA sample the first in
//! order of their names is used, and the others are listed.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    cohort::{
        barcode::{Barcode, CptacName},
        config::{CohortConfig, MatchBy},
        expression::{ExpressionTable, Sample},
        findings::{ExcludedKind, Findings, MatchRow},
        labels::patient_name,
        names::{Agreement, NameIndex, folded, plain_number, without_uuid},
        slides::FoundSlide,
    },
    error::{Error, Result},
    slide::file_name::without_extension,
};

/// A slide with the row of the table it is matched with.
pub(super) struct Matched {
    pub slide: FoundSlide,
    pub patient: String,
    pub row: usize,
}

/// Samples by everything they are called. `None` where a sample is left out.
pub(super) struct Samples<'a> {
    samples: &'a [Option<Sample>],
    by_name: NameIndex,
    by_bare_name: NameIndex,
    by_vial: BTreeMap<String, Vec<usize>>,
    by_sample: BTreeMap<String, Vec<usize>>,
    by_participant: BTreeMap<String, Vec<usize>>,
    by_case: BTreeMap<String, Vec<usize>>,
    by_patient: NameIndex,
    /// For hints.
    plain_columns: Vec<(String, &'a str)>,
}

/// The slide's name where a column is called by a slide's file, with or without its folder.
fn file_of_path(name: &str) -> &str {
    let bare = without_extension(name);
    if bare.len() == name.len() { name } else { bare.rsplit(['/', '\\']).next().unwrap_or(bare) }
}

/// What programs append to a sample's name when they name a file after it.
const TOOL_SUFFIXES: [&str; 20] = [
    ".rna_seq.augmented_star_gene_counts",
    ".augmented_star_gene_counts",
    ".star_gene_counts",
    ".readspergene.out",
    ".readspergene",
    ".rsem.genes",
    ".genes.fpkm_tracking",
    ".genes",
    ".htseq",
    ".htseq_counts",
    ".featurecounts",
    ".gene_counts",
    ".genecounts",
    ".counts",
    ".fpkm-uq",
    ".fpkm",
    ".tpm",
    ".rsem",
    ".salmon",
    ".quant",
];

/// A name without what the program appended that wrote the file.
fn without_tool(name: &str) -> &str {
    let has =
        |s: &&&str| name.len() > s.len() && name.get(name.len() - s.len()..).is_some_and(|t| t.eq_ignore_ascii_case(s));
    TOOL_SUFFIXES.iter().find(has).map_or(name, |s| &name[..name.len() - s.len()])
}

/// A name's letters and digits without case.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Rows that a rule found. More than one of a `name` is an error; of a barcode's samples the first is used.
struct Hit {
    rule: String,
    rows: Vec<usize>,
    ordered: bool,
}

impl<'a> Samples<'a> {
    pub fn new(samples: &'a [Option<Sample>]) -> Samples<'a> {
        let mut index = Samples {
            samples,
            by_name: NameIndex::default(),
            by_bare_name: NameIndex::default(),
            by_vial: BTreeMap::new(),
            by_sample: BTreeMap::new(),
            by_participant: BTreeMap::new(),
            by_case: BTreeMap::new(),
            by_patient: NameIndex::default(),
            plain_columns: samples.iter().flatten().map(|s| (plain(&s.column), s.column.as_str())).collect(),
        };
        let present = samples.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)));
        let mut in_order: Vec<(usize, &Sample)> = present.collect();
        in_order.sort_by(|(i, a), (j, b)| (&a.name, &a.column, i).cmp(&(&b.name, &b.column, j)));
        for (i, sample) in in_order {
            for name in [&sample.name, &sample.column] {
                let name = file_of_path(name);
                index.by_name.add(without_tool(name), i);
                index.by_name.add(name, i);
                index.by_bare_name.add(without_uuid(name).unwrap_or(name), i);
            }
            let barcode = sample.barcode.as_ref();
            let keys = [
                (&mut index.by_vial, barcode.and_then(Barcode::sample_vial)),
                (&mut index.by_sample, barcode.and_then(Barcode::sample)),
                (&mut index.by_participant, barcode.map(Barcode::patient)),
                (&mut index.by_case, sample.cptac().map(|c| c.case)),
            ];
            for (map, key) in keys {
                key.into_iter().for_each(|key| map.entry(key).or_default().push(i));
            }
            match &sample.patient {
                Some(patient) => index.by_patient.add(patient, i),
                None if barcode.is_none() => index.by_patient.add(&sample.name, i),
                None => {}
            }
        }
        index
    }

    fn get(&self, row: usize) -> Option<&'a Sample> {
        self.samples[row].as_ref()
    }

    /// What the first rule that finds anything finds.
    fn find(&self, slide: &FoundSlide, by: MatchBy) -> Option<Hit> {
        let by_sample = (by != MatchBy::Patient).then(|| self.find_sample(slide)).flatten();
        by_sample.or_else(|| (by != MatchBy::Sample).then(|| self.find_patient(slide, by)).flatten())
    }

    fn find_sample(&self, slide: &FoundSlide) -> Option<Hit> {
        let named = |rule: &str, found: Option<(Agreement, Vec<usize>)>| {
            let (agreement, rows) = found?;
            Some(Hit { rule: format!("{rule}{}", agreement.words()), rows, ordered: false })
        };
        let by_barcode = |words: &str, map: &BTreeMap<String, Vec<usize>>, key: fn(&Barcode) -> Option<String>| {
            let barcode = slide.barcode.as_ref()?;
            let rows = map.get(&key(barcode)?)?.clone();
            Some(Hit { rule: format!("{} {words}", barcode.program.name()), rows, ordered: true })
        };
        let stated = slide.sample.as_deref().or(slide.sheet_sample.as_deref());
        let bare = without_uuid(&slide.id).unwrap_or(&slide.id);
        named("sample", stated.and_then(|s| self.by_name.find(s)))
            .or_else(|| named("name", self.by_name.find(&slide.id)).filter(|_| slide.sample.is_none()))
            .or_else(|| named("name without GDC id", self.by_bare_name.find(bare)).filter(|_| slide.sample.is_none()))
            .or_else(|| by_barcode("sample and vial", &self.by_vial, Barcode::sample_vial))
            .or_else(|| by_barcode("sample", &self.by_sample, Barcode::sample))
    }

    fn find_patient(&self, slide: &FoundSlide, by: MatchBy) -> Option<Hit> {
        let kind = slide.barcode.as_ref().and_then(|b| b.sample_type);
        let agrees = |row: usize| {
            let other = self.get(row).and_then(|s| s.barcode.as_ref()).and_then(|b| b.sample_type);
            by == MatchBy::Patient || kind.is_none() || other.is_none() || kind == other
        };
        // A stated sample that the table does not hold may not become another sample of the patient.
        let is_patients = |row: usize| {
            let keyed_by_patient = self.get(row).is_some_and(|s| s.patient.is_none() && s.cptac().is_none());
            slide.sample.is_none() || slide.barcode.is_some() || keyed_by_patient
        };
        let hit = |rule: String, rows: &[usize], ordered: bool| {
            let rows: Vec<usize> = rows.iter().copied().filter(|&r| agrees(r) && is_patients(r)).collect();
            (!rows.is_empty()).then_some(Hit { rule, rows, ordered })
        };
        // Aliquots of one tissue have an order; a tumour and its metastasis have none.
        let kind_of = |row: usize| self.get(row).and_then(|s| s.barcode.as_ref()).and_then(|b| b.sample_type);
        let one_tissue = |rows: &[usize]| {
            by == MatchBy::Patient || rows.iter().filter(|&&r| agrees(r)).all(|&r| kind_of(r) == kind_of(rows[0]))
        };
        let by_case = || hit("CPTAC case".into(), self.by_case.get(&slide.cptac()?.case)?, false);
        let by_barcode = || {
            let named = slide.patient.as_deref().and_then(Barcode::find);
            let barcode = named.as_ref().or(slide.barcode.as_ref())?;
            let rows = self.by_participant.get(&barcode.patient())?;
            hit(format!("{} patient", barcode.program.name()), rows, one_tissue(rows))
        };
        let by_name = |name: &str| {
            let (agreement, rows) = self.by_patient.find(name)?;
            hit(
                format!("patient{}", agreement.words()),
                &rows,
                rows.iter().all(|&r| self.has_barcode(r)) && one_tissue(&rows),
            )
        };
        by_case().or_else(by_barcode).or_else(|| by_name(slide.patient.as_deref().unwrap_or(&slide.id)))
    }

    fn has_barcode(&self, row: usize) -> bool {
        self.get(row).is_some_and(|s| s.barcode.is_some())
    }

    /// Words about a sample whose name nearly is one of the slide's: what may have happened to it.
    fn near(&self, slide: &FoundSlide) -> Option<String> {
        let names = [Some(slide.id.as_str()), slide.patient.as_deref(), slide.sample.as_deref()];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        for name in &names {
            if let Some(wanted) = plain_number(name)
                && let Some((_, column)) = self.plain_columns.iter().find(|(_, c)| plain_number(c) == Some(wanted))
            {
                return Some(format!("{column} is, which differs by leading zeros that a spreadsheet drops"));
            }
        }
        names.iter().find_map(|name| {
            let wanted = plain(name);
            let alike = |(c, _): &&(String, &str)| c.len() > 2 && (wanted.starts_with(&**c) || c.starts_with(&wanted));
            let (_, column) = self.plain_columns.iter().filter(alike).max_by_key(|(c, _)| c.len())?;
            Some(format!("{column} is, whose name is alike"))
        })
    }
}

/// Matches every slide. Slides without expression and samples without a slide are listed. Errors where a name fits two
/// samples, or tables contradict one another; every slide is in `findings` even then. `without` says of patients, by their
/// folded names, why nothing of theirs counts.
pub(super) fn match_slides(
    slides: Vec<FoundSlide>,
    samples: &[Option<Sample>],
    without: &HashMap<String, String>,
    config: &CohortConfig,
    table: &ExpressionTable,
    findings: &mut Findings,
) -> Result<Vec<Matched>> {
    let index = Samples::new(samples);
    let mut passed_over: BTreeMap<usize, usize> = BTreeMap::new();
    let mut out: Vec<Matched> = Vec::new();
    let mut renamed: HashMap<usize, String> = HashMap::new();
    let mut contested: HashSet<usize> = HashSet::new();
    let mut first_error = None;
    for slide in slides {
        let known = slide.known_patient();
        let Some(hit) = index.find(&slide, config.match_by) else {
            let reason = reason_without(&slide, &index, without, config.wanted());
            findings.leave_out_slide(&slide.id, known, &reason);
            continue;
        };
        let Some((sample, row)) = hit.rows.first().and_then(|&r| Some((index.get(r)?, r))) else { continue };
        let mut refuse = |problem: String, remedy: &str| {
            findings.leave_out_slide(&slide.id, known.clone(), &problem);
            first_error
                .get_or_insert_with(|| Error::input(&sample.path, format!("slide {} {problem}", slide.id), remedy));
        };
        // A patient's values may stand there once for each slide; which of them is taken does not matter.
        let other = |&&r: &&usize| !table.same_values(row, r) || differing_patients(samples, row, r);
        let mut others = hit.rows[1..].iter().filter(other).filter_map(|&r| index.get(r));
        let twin = others.find(|s| !hit.ordered || s.name == sample.name);
        if let Some(twin) = twin {
            contested.extend(&hit.rows);
            let (a, b) = (described(sample), described(twin));
            let both =
                if a == b { format!("{a}, which is there twice with other values") } else { format!("{a} and {b}") };
            let problem = format!("fits two samples by its {}: {both}", hit.rule);
            refuse(problem, "rename or remove one, or say which in a column sample of the slide table");
            continue;
        }
        if let Some(problem) = contradiction(&slide, sample) {
            refuse(problem, "correct the slide table or the expression table");
            continue;
        }
        if hit.rule == "name, make.names" {
            let first = renamed.entry(row).or_insert_with(|| slide.id.clone());
            if folded(first) != folded(&slide.id) {
                let problem = format!("and slide {first} both become {} when R renames them", sample.column);
                refuse(problem, "give the slides' samples in a column sample of the slide table");
                continue;
            }
        }
        passed_over.extend(hit.rows[1..].iter().map(|&other| (other, row)));
        let of_sample = sample.patient_name().unwrap_or_else(|| sample.name.clone());
        let patient = known.unwrap_or_else(|| patient_name(&of_sample));
        findings.matching.push(MatchRow {
            slide: slide.id.clone(),
            patient: patient.clone(),
            sample: sample.name.clone(),
            column: sample.column.clone(),
            rule: hit.rule,
        });
        out.push(Matched { slide, patient, row });
    }
    let used: HashSet<usize> = out.iter().map(|m| m.row).collect();
    for (row, sample) in samples.iter().enumerate() {
        let Some(sample) = sample.as_ref().filter(|_| !used.contains(&row) && !contested.contains(&row)) else {
            continue;
        };
        let reason = match passed_over.get(&row).and_then(|r| samples[*r].as_ref()) {
            Some(other) => format!("is another sample of the same patient; {} is used", other.name),
            None => "has no slide".to_string(),
        };
        findings.leave_out(ExcludedKind::Sample, sample.name.clone(), reason);
    }
    first_error.map_or(Ok(out), Err)
}

/// Whether the table states different patients for two of its samples.
fn differing_patients(samples: &[Option<Sample>], a: usize, b: usize) -> bool {
    let patient = |row: usize| samples[row].as_ref().and_then(|s| s.patient.as_deref()).map(folded);
    patient(a) != patient(b)
}

/// A sample as its table has it.
fn described(sample: &Sample) -> String {
    let name = if sample.column == sample.name { String::new() } else { format!(" ({})", sample.name) };
    format!("{}{name} of {}", sample.column, sample.path.display())
}

/// What the slide and its sample say of the patient, where both say it and differ.
fn contradiction(slide: &FoundSlide, sample: &Sample) -> Option<String> {
    let differ = |a: &str, b: &str| folded(&patient_name(a)) != folded(&patient_name(b));
    let stated = slide.patient.as_deref().zip(sample.patient.as_deref());
    let barcodes = slide.barcode.as_ref().map(Barcode::patient).zip(sample.barcode.as_ref().map(Barcode::patient));
    let barcodes = barcodes.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
    let (of_slide, of_sample) = [stated, barcodes].into_iter().flatten().find(|(a, b)| differ(a, b))?;
    Some(format!("is of patient {of_slide} but its sample {} is of patient {of_sample}", sample.name))
}

fn reason_without(slide: &FoundSlide, index: &Samples, without: &HashMap<String, String>, wanted: &str) -> String {
    let patient = slide.known_patient().unwrap_or_else(|| slide.id.clone());
    if let Some(why) = without.get(&folded(&patient)) {
        return format!("has no {wanted}: patient {patient} {why}");
    }
    let stated = slide.sample.clone();
    let missing = match stated.or_else(|| slide.barcode.as_ref().and_then(Barcode::sample)) {
        Some(sample) => format!("has no {wanted}: neither sample {sample} nor patient {patient} is in the table"),
        None => format!("has no {wanted}: patient {patient} is not in the table"),
    };
    match index.near(slide) {
        Some(near) => format!("{missing} ({near})"),
        None => missing,
    }
}

impl FoundSlide {
    /// The patient as a table states it, or as a recognised name shows it.
    pub(super) fn known_patient(&self) -> Option<String> {
        let of_barcode = || self.barcode.as_ref().map(Barcode::patient);
        self.patient.clone().or_else(of_barcode).or_else(|| self.cptac().map(|c| c.case))
    }

    pub(super) fn cptac(&self) -> Option<CptacName> {
        let patient = self.patient.as_deref().and_then(CptacName::of);
        patient.or_else(|| CptacName::of(&self.id))
    }
}
