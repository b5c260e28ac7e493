//! TCGA barcodes: `TCGA-3C-AALI-01Z-00-DX1` names project, tissue source site, participant, sample type and vial,
//! portion, slide. Found anywhere in a file name, in either case, and with the dots that R puts for hyphens.

/// The parts of a barcode that matching needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Barcode {
    /// Two characters: the tissue source site.
    pub site: String,
    pub participant: String,
    /// Sample type code: 01 primary solid tumour, 11 solid tissue normal, ...
    pub sample_type: Option<u8>,
    pub vial: Option<char>,
    /// `DX1`, `TS1`, `BS1` of a slide's barcode.
    pub slide: Option<String>,
}

impl Barcode {
    /// The first barcode in `text`, if there is one.
    pub fn find(text: &str) -> Option<Barcode> {
        let upper = text.to_ascii_uppercase();
        let mut from = 0;
        while let Some(found) = upper[from..].find("TCGA") {
            let start = from + found;
            let free = start == 0 || !upper.as_bytes()[start - 1].is_ascii_alphanumeric();
            if free && let Some(barcode) = Barcode::at(&upper[start..]) {
                return Some(barcode);
            }
            from = start + 4;
        }
        None
    }

    /// Reads a barcode at the start of upper-case text.
    fn at(text: &str) -> Option<Barcode> {
        let separator = text[4..].chars().next().filter(|c| matches!(c, '-' | '.' | '_'))?;
        let mut fields = text.split(separator);
        fields.next();
        let plain = |s: &&str| s.bytes().all(|b| b.is_ascii_alphanumeric());
        let site = fields.next().filter(|s| s.len() == 2).filter(plain)?;
        // The participant may be the last field, with a file extension or another word behind it.
        let rest = fields.next()?;
        let participant = rest.get(..4).filter(plain)?;
        let mut barcode = Barcode {
            site: site.to_string(),
            participant: participant.to_string(),
            sample_type: None,
            vial: None,
            slide: None,
        };
        if rest.len() > 4 {
            let next = rest.as_bytes()[4];
            return (!next.is_ascii_alphanumeric()).then_some(barcode);
        }
        let Some(sample) = fields.next() else { return Some(barcode) };
        let digits = sample.get(..2).filter(|s| s.bytes().all(|b| b.is_ascii_digit()));
        let Some(code) = digits.and_then(|d| d.parse().ok()) else { return Some(barcode) };
        let mut behind = sample[2..].chars();
        let vial = behind.next();
        match vial {
            None => {}
            Some(v) if v.is_ascii_alphabetic() && !behind.next().is_some_and(|c| c.is_ascii_alphanumeric()) => {
                barcode.vial = Some(v);
            }
            Some(v) if !v.is_ascii_alphanumeric() => {}
            Some(_) => return Some(barcode),
        }
        barcode.sample_type = Some(code);
        barcode.slide = fields.take(3).find_map(|field| {
            let name: String = field.chars().take_while(char::is_ascii_alphanumeric).collect();
            let kind = name.get(..2)?;
            let number = name.get(2..)?;
            (matches!(kind, "DX" | "TS" | "BS" | "MS") && number.chars().all(|c| c.is_ascii_alphanumeric()))
                .then_some(name)
        });
        Some(barcode)
    }

    /// `TCGA-3C-AALI`
    pub fn patient(&self) -> String {
        format!("TCGA-{}-{}", self.site, self.participant)
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

    /// Whether the sample type is a primary tumour (01); `None` where the barcode does not say.
    pub fn is_primary_tumour(&self) -> Option<bool> {
        self.sample_type.map(|code| code == 1)
    }
}

/// In words, for reports.
pub fn sample_type_name(code: u8) -> &'static str {
    match code {
        1 => "primary tumour",
        2 => "recurrent tumour",
        3 => "primary blood-derived cancer",
        5 => "additional new primary tumour",
        6 | 7 => "metastatic tumour",
        10 => "blood-derived normal",
        11 => "solid tissue normal",
        _ => "another kind of sample",
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
        assert_eq!((slide.site.as_str(), slide.slide.as_deref()), ("3C", Some("DX1")));
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
        assert_eq!(
            Barcode::find("TCGA-PL-A8LX-01A.derived.FPKM-UQ.txt.gz").unwrap().sample().unwrap(),
            "TCGA-PL-A8LX-01"
        );
        assert_eq!(Barcode::find("TCGA-PL-A8LX-01.txt").unwrap().sample().unwrap(), "TCGA-PL-A8LX-01");
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
