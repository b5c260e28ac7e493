//! Patients, slides and planted genes of a synthetic cohort.
//!
//! | gene | log10(1 + x) follows | reads |
//! |---|---|---|
//! | LYMPH1 | density of lymphocyte-like nuclei | single nuclei: a local gene |
//! | GLAND1 | share of the tissue that is gland | architecture: a global gene |
//! | INTER1 | product of the two, each standardised and shifted | both |
//! | NULL1 | nothing | a control that no model can predict |
//!
//! Density and gland fraction are drawn independently for every patient; the genes are computed from what was really put
//! on the patient's slides, standardised with constants of the population (not of the cohort, so that a patient's values
//! do not depend on who else was drawn), plus noise of a third of a standard deviation: the morphology itself correlates
//! with its gene at about 0.95.

use super::{anatomy::Morphology, random::Stream};

/// Names of the planted genes, in the order of [`expression`].
pub const GENES: [&str; 4] = ["LYMPH1", "GLAND1", "INTER1", "NULL1"];

const LYMPHOCYTE_PER_MM2: (f64, f64) = (150.0, 2600.0);
const GLAND_FRACTION: (f64, f64) = (0.06, 0.44);
/// Tissue source sites: barcodes carry them, and stain differs between them.
const SITES: [&str; 6] = ["SA", "SB", "SC", "SD", "SE", "SF"];
const TWO_SLIDES: f64 = 0.15;

/// The factors are shifted by this many standard deviations before they are multiplied: about a sixth of the variance of
/// INTER1 is then true interaction, and no sum of the two factors explains it.
const INTERACTION_SHIFT: f64 = 1.5;
/// log10(1 + x) of an average patient, and its change for one standard deviation of morphology.
const LEVEL: f64 = 1.5;
const SLOPE: f64 = 0.35;
/// In standard deviations of the signal; correlation 1 / sqrt(1 + NOISE²) = 0.95.
const NOISE: f64 = 0.33;

/// One slide to be drawn.
#[derive(Clone, Debug)]
pub struct SlidePlan {
    /// Number of the slide in the cohort: the key of its random streams.
    pub index: usize,
    /// File stem, a slide barcode such as TCGA-SA-0001-01Z-00-DX1.
    pub name: String,
    pub patient: PatientPlan,
    pub morphology: Morphology,
}

#[derive(Clone, Debug)]
pub struct PatientPlan {
    pub index: usize,
    /// TCGA-SA-0001
    pub barcode: String,
    pub site: usize,
}

impl PatientPlan {
    /// Barcode of the sequenced sample.
    pub fn sample(&self) -> String {
        format!("{}-01A", self.barcode)
    }
}

/// The first `slides` slides of the cohort with this seed. Asking for more slides never changes the first ones.
pub fn plan(slides: usize, seed: u64) -> Vec<SlidePlan> {
    let mut plans = Vec::with_capacity(slides);
    for index in 0.. {
        let mut stream = Stream::new(seed, "patient", index as u64);
        let site = stream.below(SITES.len());
        let patient = PatientPlan { index, barcode: format!("TCGA-{}-{:04}", SITES[site], index + 1), site };
        let density = stream.uniform(LYMPHOCYTE_PER_MM2.0, LYMPHOCYTE_PER_MM2.1);
        let fraction = stream.uniform(GLAND_FRACTION.0, GLAND_FRACTION.1);
        let of_patient = if stream.chance(TWO_SLIDES) { 2 } else { 1 };
        for number in 1..=of_patient {
            if plans.len() == slides {
                return plans;
            }
            // Blocks of one tumour are alike, not equal.
            let mut alike = |value: f64| value * (1.0 + 0.06 * stream.normal().clamp(-2.0, 2.0));
            let morphology = Morphology { lymphocyte_per_mm2: alike(density), gland_fraction: alike(fraction) };
            plans.push(SlidePlan {
                index: plans.len(),
                name: format!("{}-01Z-00-DX{number}", patient.barcode),
                patient: patient.clone(),
                morphology,
            });
        }
    }
    plans
}

/// FPKM-like expression of [`GENES`] in a sample of this morphology.
pub fn expression(morphology: Morphology, patient: usize, seed: u64) -> [f64; 4] {
    let standard = |value: f64, (low, high): (f64, f64)| (value - 0.5 * (low + high)) / ((high - low) / 12f64.sqrt());
    let local = standard(morphology.lymphocyte_per_mm2, LYMPHOCYTE_PER_MM2);
    let global = standard(morphology.gland_fraction, GLAND_FRACTION);
    let s = INTERACTION_SHIFT;
    // Var[(x + s)(y + s)] = 1 + 2 s² for independent standardised x and y.
    let interaction = ((local + s) * (global + s) - s * s) / (1.0 + 2.0 * s * s).sqrt();
    let mut stream = Stream::new(seed, "expression", patient as u64);
    let mut noise = || stream.normal().clamp(-4.0, 4.0);
    let [a, b, c, null] = [noise(), noise(), noise(), noise()];
    let signals = [local + NOISE * a, global + NOISE * b, interaction + NOISE * c, null];
    signals.map(|z| 10f64.powf((LEVEL + SLOPE * z).max(0.01)) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn correlation(x: &[f64], y: &[f64]) -> f64 {
        let n = x.len() as f64;
        let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
        let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(a, b)| f(a - mx, b - my)).sum::<f64>();
        sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
    }

    #[test]
    fn genes_follow_their_morphology_and_the_null_gene_follows_nothing() {
        let slides = plan(4000, 5);
        let genes: Vec<[f64; 4]> = slides.iter().map(|s| expression(s.morphology, s.patient.index, 5)).collect();
        let gene = |g: usize| genes.iter().map(|v| (1.0 + v[g]).log10()).collect::<Vec<_>>();
        let density: Vec<f64> = slides.iter().map(|s| s.morphology.lymphocyte_per_mm2).collect();
        let fraction: Vec<f64> = slides.iter().map(|s| s.morphology.gland_fraction).collect();
        assert!((correlation(&gene(0), &density) - 0.95).abs() < 0.01);
        assert!((correlation(&gene(1), &fraction) - 0.95).abs() < 0.01);
        assert!(correlation(&density, &fraction).abs() < 0.05);
        // Each factor alone explains INTER1 in part.
        assert!((0.45..0.75).contains(&correlation(&gene(2), &density)));
        assert!((0.45..0.75).contains(&correlation(&gene(2), &fraction)));
        for other in [&density, &fraction, &gene(0), &gene(1), &gene(2)] {
            assert!(correlation(&gene(3), other).abs() < 0.06);
        }
        assert!(genes.iter().flatten().all(|v| *v > 0.0));
    }

    #[test]
    fn a_larger_cohort_begins_with_the_smaller_one() {
        let (few, many) = (plan(17, 3), plan(90, 3));
        for (a, b) in few.iter().zip(&many) {
            assert_eq!((&a.name, a.index, a.morphology), (&b.name, b.index, b.morphology));
        }
        assert_eq!((few.len(), many.len()), (17, 90));
        let patients: std::collections::BTreeSet<_> = many.iter().map(|s| &s.patient.barcode).collect();
        assert!(patients.len() < 90 && patients.len() > 60);
    }
}
