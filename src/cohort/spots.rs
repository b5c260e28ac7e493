//! Spatial transcriptomics: sections whose spots have counts of genes and a place on an image, as ST-Net's and her2st's folders
//! have them.
//!
//! A section `NAME` is three files, anywhere below the folder: the image `NAME.jpg` (`.png`, `.tif`; or any one image in a
//! folder `NAME`), the counts `NAME.tsv` (or `.tsv.gz`, `.csv`) with rows `XxY` and a column for each gene, and
//! `NAME_selection.tsv` (her2st) or `NAME.spots.txt` (ST-Net) with the columns `x`, `y`, `pixel_x`, `pixel_y` and, where it is
//! there, `selected`. Other tables, such as ST-Net's `NAME_Coords.tsv`, are passed over.
//! The patient is the name without its last number (`C2` is of `C`) or what stands before its last `_` (`BC23209_C1`), unless
//! `patients.csv` (section,patient) in the folder says otherwise.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use crate::{
    cohort::slides::walk,
    error::{Error, Result},
    io::table::{Source, Table},
};

const IMAGES: [&str; 6] = ["jpg", "jpeg", "png", "tif", "tiff", "bmp"];
const COUNTS: [&str; 6] = [".tsv", ".tsv.gz", ".csv", ".csv.gz", ".txt", ".txt.gz"];
const SELECTIONS: [&str; 2] = ["_selection", ".spots"];
/// What a place in the array may be: capture areas have tens of spots a side, newer ones hundreds.
const FARTHEST: f64 = 1e6;

/// One spot.
#[derive(Clone, PartialEq, Debug)]
pub struct Spot {
    /// Place in the array.
    pub x: f64,
    pub y: f64,
    /// Its centre on the section's image.
    pub pixel: [f64; 2],
    /// Genes that were counted, ascending, as numbers in [`SpotTable::genes`], with how often.
    pub counts: Vec<(u32, f32)>,
    /// All counts together.
    pub total: f64,
}

impl Spot {
    pub fn count(&self, gene: u32) -> f64 {
        let found = self.counts.binary_search_by_key(&gene, |(g, _)| *g);
        found.map_or(0.0, |place| f64::from(self.counts[place].1))
    }
}

/// One section.
#[derive(Clone, PartialEq, Debug)]
pub struct Section {
    pub name: String,
    pub patient: String,
    pub image: PathBuf,
    /// With counts and a place; in order of their place.
    pub spots: Vec<Spot>,
}

/// All sections of a folder.
#[derive(Clone, PartialEq, Debug)]
pub struct SpotTable {
    /// Every gene that a section names; one that a section does not name was not counted there.
    pub genes: Vec<String>,
    /// In order of names.
    pub sections: Vec<Section>,
    /// What was left out, one sentence each.
    pub remarks: Vec<String>,
}

impl SpotTable {
    /// Reads every section of a folder.
    ///
    /// # Errors
    /// A section that lacks one of its files, or has two; counts that are none; a folder without sections. Each in one
    /// sentence that names the file.
    pub fn read(dir: &Path) -> Result<SpotTable> {
        let files = Files::find(dir)?;
        let patients = patients(dir)?;
        let mut table = SpotTable { genes: Vec::new(), sections: Vec::new(), remarks: Vec::new() };
        let mut numbers: HashMap<String, u32> = HashMap::new();
        for (name, selection) in &files.selections {
            let image = files.image(dir, name)?;
            let counts = files.counts(dir, name)?;
            let places = read_places(selection)?;
            let patient = match patients.as_ref().map(|given| given.get(name)) {
                Some(Some(patient)) => patient.clone(),
                Some(None) => {
                    let problem = format!("does not say whose section {name} is");
                    return Err(Error::input(dir.join(PATIENTS), problem, "add its line, or take the file away"));
                }
                None => patient_of(name).to_string(),
            };
            let spots = read_counts(&counts, selection, places, &mut table.genes, &mut numbers, &mut table.remarks)?;
            table.sections.push(Section { name: name.clone(), patient, image, spots });
        }
        Ok(table)
    }

    /// Patients, in order of names.
    pub fn patients(&self) -> Vec<&str> {
        let mut patients: Vec<&str> = self.sections.iter().map(|s| s.patient.as_str()).collect();
        patients.sort_unstable();
        patients.dedup();
        patients
    }

    /// The genes of the highest mean count over the spots of these sections, the highest first; ties by name.
    pub fn highest(&self, sections: &[usize], genes: usize) -> Vec<u32> {
        let mut sums = vec![0.0; self.genes.len()];
        for spot in sections.iter().flat_map(|&s| &self.sections[s].spots) {
            spot.counts.iter().for_each(|(gene, count)| sums[*gene as usize] += f64::from(*count));
        }
        let mut order: Vec<u32> = (0..self.genes.len() as u32).filter(|&g| sums[g as usize] > 0.0).collect();
        let name = |gene: u32| &self.genes[gene as usize];
        order.sort_by(|&a, &b| sums[b as usize].total_cmp(&sums[a as usize]).then_with(|| name(a).cmp(name(b))));
        order.truncate(genes);
        order
    }
}

const PATIENTS: &str = "patients.csv";

/// Whose section this is by its name.
fn patient_of(section: &str) -> &str {
    if let Some((patient, _)) = section.rsplit_once('_').filter(|(patient, _)| !patient.is_empty()) {
        return patient;
    }
    match section.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "" => section,
        letters => letters.trim_end_matches('-'),
    }
}

fn patients(dir: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = dir.join(PATIENTS);
    if !path.is_file() {
        return Ok(None);
    }
    let table = Table::read(&path)?;
    let (section, patient) = (table.required(&["section", "slide", "name"])?, table.required(&["patient"])?);
    Ok(Some(table.rows.iter().map(|row| (row.get(section).to_string(), row.get(patient).to_string())).collect()))
}

/// The files of a folder by what their names say they are.
struct Files {
    /// By section.
    selections: BTreeMap<String, PathBuf>,
    tables: Vec<PathBuf>,
    images: Vec<PathBuf>,
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A table's name without its ending.
fn table_stem(path: &Path) -> Option<String> {
    let name = file_name(path);
    let lower = name.to_ascii_lowercase();
    let ending = COUNTS.iter().find(|ending| lower.ends_with(**ending))?;
    Some(name[..name.len() - ending.len()].to_string())
}

impl Files {
    fn find(dir: &Path) -> Result<Files> {
        if !dir.is_dir() {
            return Err(Error::input(dir, "is no folder", "name the folder of the sections' images, counts and spots"));
        }
        let mut files = Files { selections: BTreeMap::new(), tables: Vec::new(), images: Vec::new() };
        let mut twice = None;
        walk(dir, 0, &mut |path| {
            let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
            if IMAGES.contains(&&*extension) {
                files.images.push(path.to_path_buf());
            } else if let Some(stem) = table_stem(path) {
                match SELECTIONS.iter().find_map(|ending| stem.strip_suffix(ending)) {
                    Some(section) => {
                        let before = files.selections.insert(section.to_string(), path.to_path_buf());
                        twice = twice.take().or(before.map(|before| (section.to_string(), before)));
                    }
                    None => files.tables.push(path.to_path_buf()),
                }
            }
        })?;
        if let Some((section, path)) = twice {
            let problem = format!("and another file both give the spots of section {section}");
            return Err(Error::input(path, problem, "keep one of the two"));
        }
        if files.selections.is_empty() {
            let problem = "holds no section: there is no file SECTION_selection.tsv or SECTION.spots.txt";
            let remedy = "lay it out as her2st or ST-Net: SECTION.jpg, SECTION.tsv, SECTION_selection.tsv";
            return Err(Error::input(dir, problem, remedy));
        }
        files.images.sort();
        files.tables.sort();
        Ok(files)
    }

    fn image(&self, dir: &Path, section: &str) -> Result<PathBuf> {
        let named = |path: &&PathBuf| path.file_stem().is_some_and(|stem| stem.to_string_lossy() == section);
        let in_folder = |path: &&PathBuf| path.parent().is_some_and(|folder| file_name(folder) == section);
        let own: Vec<&PathBuf> = self.images.iter().filter(named).collect();
        let found = if own.is_empty() { self.images.iter().filter(in_folder).collect() } else { own };
        only_one(dir, section, "image", "jpg", found)
    }

    fn counts(&self, dir: &Path, section: &str) -> Result<PathBuf> {
        let named = |path: &&PathBuf| table_stem(path).is_some_and(|stem| stem == section);
        only_one(dir, section, "counts", "tsv", self.tables.iter().filter(named).collect())
    }
}

fn only_one(dir: &Path, section: &str, what: &str, ending: &str, found: Vec<&PathBuf>) -> Result<PathBuf> {
    match found[..] {
        [one] => Ok(one.clone()),
        [] => {
            let problem = format!("section {section} has spots and no {what}");
            Err(Error::input(dir, problem, format!("add {section}.{ending}, or take the section's spots away")))
        }
        [first, second, ..] => {
            let problem = format!("and {} may both be the {what} of section {section}", second.display());
            Err(Error::input(first, problem, "keep one of the two"))
        }
    }
}

/// A place in the array as text, `XxY`.
fn key(x: f64, y: f64) -> String {
    format!("{x}x{y}")
}

/// The spots that lie under the tissue: array place and pixel.
fn read_places(path: &Path) -> Result<HashMap<String, [f64; 4]>> {
    let table = Table::read(path)?;
    let column = |name: &str| table.required(&[name]);
    let columns = [column("x")?, column("y")?, column("pixel_x")?, column("pixel_y")?];
    let selected = table.column(&["selected"])?;
    let values = columns.map(|c| table.numbers(c));
    let [x, y, pixel_x, pixel_y] = values;
    let (x, y, pixel_x, pixel_y) = (x?, y?, pixel_x?, pixel_y?);
    let mut places = HashMap::new();
    for (i, row) in table.rows.iter().enumerate() {
        if row.present(selected).is_some_and(|s| matches!(s, "0" | "0.0" | "false" | "False" | "FALSE")) {
            continue;
        }
        let place = [x[i], y[i], pixel_x[i], pixel_y[i]];
        if place.iter().any(|v| !v.is_finite() || v.abs() > FARTHEST) {
            let problem = format!("line {} has a place that is none", row.line);
            return Err(Error::input(path, problem, "give x, y, pixel_x and pixel_y of every spot"));
        }
        if places.insert(key(x[i].round(), y[i].round()), place).is_some() {
            let problem = format!("line {} is a second spot {}", row.line, key(x[i].round(), y[i].round()));
            return Err(Error::input(path, problem, "keep one of the two"));
        }
    }
    Ok(places)
}

/// `10x13`, also with decimals.
fn parse_key(text: &str) -> Option<String> {
    let (x, y) = text.trim().split_once('x')?;
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|v| v.abs() <= FARTHEST).map(f64::round);
    Some(key(number(x)?, number(y)?))
}

/// The counts of the spots that have a place.
fn read_counts(
    path: &Path,
    selection: &Path,
    places: HashMap<String, [f64; 4]>,
    genes: &mut Vec<String>,
    numbers: &mut HashMap<String, u32>,
    remarks: &mut Vec<String>,
) -> Result<Vec<Spot>> {
    let mut source = Source::open(path)?;
    let mut fields = Vec::new();
    let mut more = source.next_row(&mut fields)?;
    let columns: Vec<u32> = source.first[1.min(source.first.len())..]
        .iter()
        .map(|gene| {
            *numbers.entry(gene.clone()).or_insert_with(|| {
                genes.push(gene.clone());
                genes.len() as u32 - 1
            })
        })
        .collect();
    let mut seen = columns.clone();
    seen.sort_unstable();
    if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
        let problem = format!("has two columns {}", genes[twice[0] as usize]);
        return Err(Error::input(path, problem, "keep one of them"));
    }
    let (mut spots, mut without_place, mut empty): (HashMap<String, Spot>, usize, usize) = (HashMap::new(), 0, 0);
    while more {
        let Some(at) = parse_key(&fields[0]) else {
            let shown: String = fields[0].chars().take(40).collect();
            let problem = format!("line {} begins with {shown:?} where a spot XxY is expected", source.line());
            return Err(Error::input(path, problem, "give one row for every spot and one column for every gene"));
        };
        let mut counts = Vec::new();
        let mut total = 0.0;
        for (column, &gene) in columns.iter().enumerate() {
            let count = source.number(&fields[column + 1], &genes[gene as usize])?;
            if !(count >= 0.0 && count.is_finite()) {
                let problem = format!("line {} has {} of {}", source.line(), fields[column + 1], genes[gene as usize]);
                return Err(Error::input(path, problem, "give counts, zero or more, not logarithms"));
            }
            if count > 0.0 {
                counts.push((gene, count as f32));
                total += count;
            }
        }
        counts.sort_unstable_by_key(|(gene, _)| *gene);
        match places.get(&at) {
            None => without_place += 1,
            Some(_) if total == 0.0 => empty += 1,
            Some(&[x, y, pixel_x, pixel_y]) => {
                let spot = Spot { x, y, pixel: [pixel_x, pixel_y], counts, total };
                if spots.insert(at.clone(), spot).is_some() {
                    let problem = format!("line {} is a second row {at}", source.line());
                    return Err(Error::input(path, problem, "keep one of the two"));
                }
            }
        }
        more = source.next_row(&mut fields)?;
    }
    let mut spots: Vec<Spot> = spots.into_values().collect();
    spots.sort_by(|a, b| a.y.total_cmp(&b.y).then(a.x.total_cmp(&b.x)));
    if spots.is_empty() {
        let problem = format!("has no spot in common with {}", selection.display());
        return Err(Error::input(path, problem, "give the counts and the spots of one section the same name"));
    }
    for (n, what) in [(without_place, "rows have no place on the image"), (empty, "spots have no counts")] {
        if n > 0 {
            remarks.push(format!("{}: {n} {what} and are left out", path.display()));
        }
    }
    let without_counts = places.len() - spots.len() - empty;
    if without_counts > 0 {
        remarks.push(format!("{}: {without_counts} spots have no row of counts and are left out", path.display()));
    }
    Ok(spots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patients_by_the_names_of_sections() {
        for (section, patient) in
            [("C2", "C"), ("B4", "B"), ("BC23209_C1", "BC23209"), ("A-12", "A"), ("17", "17"), ("H", "H"), ("_1", "_")]
        {
            assert_eq!(patient_of(section), patient, "{section}");
        }
    }

    #[test]
    fn spots_by_the_names_of_rows() {
        assert_eq!(parse_key("10x13"), Some("10x13".to_string()));
        assert_eq!(parse_key("9.97x13.02"), Some("10x13".to_string()));
        assert_eq!(parse_key("ENSG00000000003"), None);
        assert_eq!(parse_key("axb"), None);
    }
}
