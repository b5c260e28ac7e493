//! Recognised schemes of names: TCGA and TARGET barcodes, CPTAC case ids.
//!
//! `TCGA-3C-AALI-01Z-00-DX1` names project, tissue source site, participant, sample type and vial, portion, slide;
//! `TARGET-30-PAAPFA-01A-01R` has a disease in place of the site. They are found anywhere in a file's name, in either
//! case, and with the dots that R puts for hyphens.

/// Who gave the barcode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Program {
    Tcga,
    Target,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Program::Tcga => "TCGA",
            Program::Target => "TARGET",
        }
    }

    fn participant_length(self) -> usize {
        match self {
            Program::Tcga => 4,
            Program::Target => 6,
        }
    }
}

/// The parts of a barcode that matching needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Barcode {
    pub program: Program,
    /// Two characters: TCGA's tissue source site, TARGET's disease.
    pub code: String,
    pub participant: String,
    /// Sample type code: 01 primary solid tumour, 11 solid tissue normal, ...
    pub sample_type: Option<u8>,
    pub vial: Option<char>,
    /// `DX1`, `TS1`, `BS1` of a slide's barcode.
    pub slide: Option<String>,
}

const SEPARATORS: [char; 3] = ['-', '.', '_'];

/// The first `n` characters, if they are letters and digits.
fn word(text: &str, n: usize) -> Option<&str> {
    text.get(..n).filter(|s| s.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether a word ends at the beginning of `rest`.
fn ends(rest: &str) -> bool {
    !rest.starts_with(|c: char| c.is_ascii_alphanumeric())
}

impl Barcode {
    /// The first barcode in `text`, if there is one.
    pub fn find(text: &str) -> Option<Barcode> {
        let upper = text.to_ascii_uppercase();
        (0..upper.len()).filter(|&i| upper.is_char_boundary(i)).find_map(|start| {
            let free = start == 0 || !upper.as_bytes()[start - 1].is_ascii_alphanumeric();
            let program =
                [Program::Tcga, Program::Target].into_iter().find(|p| upper[start..].starts_with(p.name()))?;
            if free { Barcode::at(program, &upper[start + program.name().len()..]) } else { None }
        })
    }

    /// Reads upper-case text behind the program's name.
    fn at(program: Program, text: &str) -> Option<Barcode> {
        let rest = text.strip_prefix(SEPARATORS)?;
        let separator = text.chars().next()?;
        let code = word(rest, 2)?;
        let rest = rest[2..].strip_prefix(SEPARATORS)?;
        let participant = word(rest, program.participant_length())?;
        let rest = &rest[program.participant_length()..];
        if !ends(rest) {
            return None;
        }
        let mut barcode = Barcode {
            program,
            code: code.to_string(),
            participant: participant.to_string(),
            sample_type: None,
            vial: None,
            slide: None,
        };
        // The participant may be the last field, with a file's extension or another word behind it.
        let Some(sample) = rest.strip_prefix(SEPARATORS) else { return Some(barcode) };
        let same_separator = rest.starts_with(separator);
        let Some(code) = sample.get(..2).filter(|s| s.bytes().all(|b| b.is_ascii_digit())) else {
            return Some(barcode);
        };
        let behind = &sample[2..];
        let vial = behind.chars().next().filter(char::is_ascii_alphabetic);
        let behind = &behind[vial.map_or(0, char::len_utf8)..];
        // Between other separators two digits alone may count anything.
        if !ends(behind) || (vial.is_none() && !same_separator) {
            return Some(barcode);
        }
        barcode.sample_type = code.parse().ok();
        barcode.vial = vial;
        barcode.slide = behind.split(SEPARATORS).skip(1).take(3).find_map(|field| {
            let name: String = field.chars().take_while(char::is_ascii_alphanumeric).collect();
            let kind = name.get(..2)?;
            (matches!(kind, "DX" | "TS" | "BS" | "MS")).then_some(name)
        });
        Some(barcode)
    }

    /// TCGA's tissue source site.
    pub fn site(&self) -> Option<&str> {
        (self.program == Program::Tcga).then_some(self.code.as_str())
    }

    /// `TCGA-3C-AALI`
    pub fn patient(&self) -> String {
        format!("{}-{}-{}", self.program.name(), self.code, self.participant)
    }

    /// `TCGA-3C-AALI-01`: the sample without its vial. The slide of a sample is cut from another vial (01Z) than its RNA
    /// (01A), so this is what they have in common.
    pub fn sample(&self) -> Option<String> {
        Some(format!("{}-{:02}", self.patient(), self.sample_type?))
    }

    /// `TCGA-3C-AALI-01A`
    pub fn sample_vial(&self) -> Option<String> {
        Some(format!("{}{}", self.sample()?, self.vial?))
    }

    /// Whether the sample is of a primary tumour (01) or a primary cancer of the blood (03, 09); `None` where the barcode
    /// does not say.
    pub fn is_primary_tumour(&self) -> Option<bool> {
        self.sample_type.map(|code| matches!(code, 1 | 3 | 9))
    }
}

/// In words, for reports.
pub fn sample_type_name(code: u8) -> &'static str {
    match code {
        1 => "primary tumour",
        2 => "recurrent tumour",
        3 | 9 => "primary blood-derived cancer",
        4 | 40 => "recurrent blood-derived cancer",
        5 => "additional new primary tumour",
        6 | 7 => "metastatic tumour",
        10 => "blood-derived normal",
        11 => "solid tissue normal",
        12..=14 => "normal tissue",
        20 => "control analyte",
        50 => "a cell line",
        60 | 61 => "a xenograft",
        _ => "another kind of sample",
    }
}

/// A CPTAC case id, `C3L-00001` or `C3N-00001`, with what follows it in a slide's or a sample's name: a specimen's
/// number (`C3L-00001-21`) or a word for its tissue (`C3L-00001.N`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CptacName {
    pub case: String,
    /// Whether the name says that the tissue is normal; `None` where it does not say.
    pub normal: Option<bool>,
}

impl CptacName {
    /// Reads a name that begins with a case id.
    pub fn of(text: &str) -> Option<CptacName> {
        let upper = text.trim().to_ascii_uppercase();
        // make.names leaves a name that begins with a letter as it begins.
        let kind = upper.get(..3).filter(|k| matches!(*k, "C3L" | "C3N"))?;
        let rest = upper[3..].strip_prefix(SEPARATORS)?;
        let number = rest.get(..5).filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?;
        let rest = &rest[5..];
        if !ends(rest) {
            return None;
        }
        let words = rest.split(|c: char| !c.is_ascii_alphanumeric());
        let normal = words.into_iter().find_map(|word| match word {
            "N" | "NAT" | "NORMAL" => Some(true),
            "T" | "TUMOR" | "TUMOUR" => Some(false),
            _ => None,
        });
        Some(CptacName { case: format!("{kind}-{number}"), normal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_occur() {
        let slide = Barcode::find("TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291.svs").unwrap();
        assert_eq!(slide.patient(), "TCGA-3C-AALI");
        assert_eq!((slide.sample().unwrap().as_str(), slide.vial), ("TCGA-3C-AALI-01", Some('Z')));
        assert_eq!((slide.site(), slide.slide.as_deref()), (Some("3C"), Some("DX1")));
        let frozen = Barcode::find("tcga-cr-7395-01a-01-ts1.svs").unwrap();
        assert_eq!(
            (frozen.sample_vial().unwrap().as_str(), frozen.slide.as_deref()),
            ("TCGA-CR-7395-01A", Some("TS1"))
        );
        assert_eq!(Barcode::find("TCGA-SY-0001-01A-01-DX1").unwrap().sample_vial().unwrap(), "TCGA-SY-0001-01A");
        let dotted = Barcode::find("TCGA.33.6737.01A.11R.1820.07").unwrap();
        assert_eq!(dotted.sample_vial().unwrap(), "TCGA-33-6737-01A");
        let tile = Barcode::find("blk-ABCDEFGHIJKL-TCGA-AA-3489-01Z-00-DX1.png").unwrap();
        assert_eq!(tile.sample().unwrap(), "TCGA-AA-3489-01");
        let normal = Barcode::find("TCGA-33-6737-11A").unwrap();
        assert_eq!(normal.is_primary_tumour(), Some(false));
        assert_eq!(Barcode::find("TCGA-33-6737").unwrap().sample(), None);
        assert_eq!(Barcode::find("TCGA-33-6737.svs").unwrap().patient(), "TCGA-33-6737");
        for (text, sample) in [
            ("TCGA-PL-A8LX-01A.derived.FPKM-UQ.txt.gz", "TCGA-PL-A8LX-01"),
            ("TCGA-PL-A8LX-01.txt", "TCGA-PL-A8LX-01"),
            ("TCGA-PL.A8LX-01A", "TCGA-PL-A8LX-01"),
            ("TCGA-PL-A8LX.11A", "TCGA-PL-A8LX-11"),
        ] {
            assert_eq!(Barcode::find(text).unwrap().sample().unwrap(), sample, "{text}");
        }
        assert_eq!(Barcode::find("TCGA-PL-A8LX_11.svs").unwrap().sample_type, None, "the eleventh slide, perhaps");
    }

    #[test]
    fn target_and_cptac() {
        let target = Barcode::find("TARGET-30-PAAPFA-01A-01R").unwrap();
        assert_eq!(
            (target.patient().as_str(), target.sample_vial().as_deref(), target.site()),
            ("TARGET-30-PAAPFA", Some("TARGET-30-PAAPFA-01A"), None)
        );
        assert_eq!(Barcode::find("target.20.pabcde.09a").unwrap().is_primary_tumour(), Some(true));
        assert_eq!(Barcode::find("TARGET-30-PAAPFA1"), None);
        let case = |text: &str| CptacName::of(text).map(|c| (c.case, c.normal));
        let some = |case: &str, normal| Some((case.to_string(), normal));
        assert_eq!(case("C3L-00001-21"), some("C3L-00001", None));
        assert_eq!(case("c3n.00123"), some("C3N-00123", None));
        assert_eq!(case("C3L-00001.N"), some("C3L-00001", Some(true)));
        assert_eq!(case("C3L-00001_T"), some("C3L-00001", Some(false)));
        assert_eq!((case("C3L-000011"), case("C3L-0"), case("XC3L-00001")), (None, None, None));
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "TCGA",
            "TCGA-",
            "TCGA-LUSC",
            "TCGA-3",
            "xTCGA-33-6737",
            "TCGA-33-67",
            "CMU-1",
            "TCGA-BRCA-1234",
            "é-TCGA-é",
        ] {
            assert_eq!(Barcode::find(text), None, "{text}");
        }
        // A participant that runs on is no participant.
        assert_eq!(Barcode::find("TCGA-33-67370"), None);
    }
}
