//! What methods learn from: per slide a bag of patches with their features, and one expression value per gene.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    cohort::{
        splits::{Fold, Splits},
        targets::{Scaling, TargetScaler},
    },
    error::{Error, Result},
    io::checksum::Digest,
    mil::{
        features::{FeatureDims, PatchFeatures, PatchValues, READ_PATCHES, Reads},
        method::{Method, Rows},
    },
};

/// One slide.
pub struct Bag {
    pub slide: String,
    pub patient: String,
    pub project: String,
    /// Of the features: what is learned from them depends on it.
    pub digest: Digest,
    pub features: Box<dyn PatchFeatures>,
}

/// What turned slides into features. A network predicts only from features of the same origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    pub global_extractor: Digest,
    pub local_extractor: Digest,
    /// Of the rule by which patches of a new slide are chosen.
    pub selection: Digest,
}

/// A cohort's slides with their targets.
pub struct BagSet {
    /// Sizes of a patch's features.
    pub dims: FeatureDims,
    pub genes: Vec<String>,
    pub origin: Origin,
    pub bags: Vec<Bag>,
    /// Per slide one value per gene, such as log10(1 + x); NaN where it was not measured.
    pub targets: Vec<Vec<f64>>,
    /// Rows stand for their slide together: training takes all of them at every step, none turned.
    pub whole: bool,
}

/// One fold as indices into [`BagSet::bags`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FoldSlides {
    pub train: Vec<usize>,
    pub valid: Vec<usize>,
    pub test: Vec<usize>,
}

impl BagSet {
    /// Errors that name the slide whose data do not fit the others.
    pub fn validate(&self) -> Result<()> {
        let wrong = |slide: &str, what: String| {
            Err(Error::Usage(format!("slide {slide}: {what}; compute its features again with this run's settings")))
        };
        if self.targets.len() != self.bags.len() {
            let message = format!("{} rows of targets for {} slides", self.targets.len(), self.bags.len());
            return Err(Error::shape("bags", message));
        }
        let (global, cube) = (self.dims.global, self.dims.cube());
        let reads = Reads { global: global > 0, cube: cube > 0, coords: false };
        for (bag, targets) in self.bags.iter().zip(&self.targets) {
            if bag.features.patches() == 0 {
                return wrong(&bag.slide, "has no patches".into());
            }
            if targets.len() != self.genes.len() {
                let message = format!("{}: {} targets for {} genes", bag.slide, targets.len(), self.genes.len());
                return Err(Error::shape("bags", message));
            }
            let mut values = PatchValues::default();
            bag.features.read(&[0], reads, &mut values)?;
            let ours = (values.global.len(), values.cube.len());
            if ours != (global, cube) {
                let what = format!("a patch has {} and {} features, not {global} and {cube}", ours.0, ours.1);
                return wrong(&bag.slide, what);
            }
        }
        Ok(())
    }

    /// The same slides in the rows that a method makes of their patches; `None` where patches are its rows.
    ///
    /// # Errors
    /// Features that cannot be read.
    pub fn in_rows(&self, method: &dyn Method) -> Result<Option<BagSet>> {
        let rows = self.bags.par_iter().map(|bag| method.rows(&*bag.features)).collect::<Result<Vec<_>>>()?;
        let Some(rows) = rows.into_iter().collect::<Option<Vec<Rows>>>() else { return Ok(None) };
        let bag = |(bag, rows): (&Bag, Rows)| Bag {
            slide: bag.slide.clone(),
            patient: bag.patient.clone(),
            project: bag.project.clone(),
            digest: bag.digest,
            features: Box::new(rows.features),
        };
        Ok(Some(BagSet {
            dims: method.row_dims(self.dims),
            genes: self.genes.clone(),
            origin: self.origin,
            bags: self.bags.iter().zip(rows).map(bag).collect(),
            targets: self.targets.clone(),
            whole: true,
        }))
    }

    /// The folds by slide. Slides of patients that a fold does not mention are in none of its sets.
    pub fn fold_slides(&self, splits: &Splits) -> Vec<FoldSlides> {
        let mut of_patient: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, bag) in self.bags.iter().enumerate() {
            of_patient.entry(&bag.patient).or_default().push(i);
        }
        let slides = |patients: &[String]| {
            let mut found: Vec<usize> =
                patients.iter().filter_map(|p| of_patient.get(p.as_str())).flatten().copied().collect();
            found.sort_unstable();
            found
        };
        let fold = |f: &Fold| FoldSlides { train: slides(&f.train), valid: slides(&f.valid), test: slides(&f.test) };
        splits.folds.iter().map(fold).collect()
    }

    /// Fits the targets' scale on these slides, gene by gene, over the values that were measured.
    pub fn fit_targets(&self, scaling: Scaling, slides: &[usize]) -> Result<TargetScaler> {
        let mut scaler = TargetScaler { scaling, offset: Vec::new(), span: Vec::new() };
        for gene in 0..self.genes.len() {
            let values: Vec<[f64; 1]> =
                slides.iter().map(|&s| [self.targets[s][gene]]).filter(|[v]| v.is_finite()).collect();
            if values.is_empty() {
                let name = &self.genes[gene];
                return Err(Error::Usage(format!("gene {name}: no training slide has a value; leave the gene out")));
            }
            let one = TargetScaler::fit(scaling, values.iter().map(|v| &v[..]))?;
            scaler.offset.extend(one.offset);
            scaler.span.extend(one.span);
        }
        Ok(scaler)
    }

    /// Means over a slide's patches of the global vectors and of the cubes' cells, as far as `reads` names them, one after
    /// the other.
    pub fn mean_features(&self, slide: usize, reads: Reads) -> Result<Vec<f64>> {
        mean_features(&*self.bags[slide].features, self.dims, reads)
    }
}

/// The same of any slide's features.
pub fn mean_features(features: &dyn PatchFeatures, dims: FeatureDims, reads: Reads) -> Result<Vec<f64>> {
    let n = features.patches();
    let FeatureDims { global, cell, grid } = dims;
    let mut means = [vec![0.0; global], vec![0.0; cell]];
    let counts = [n, n * grid * grid];
    for chunk in (0..n).collect::<Vec<_>>().chunks(READ_PATCHES) {
        let mut values = PatchValues::default();
        features.read(chunk, Reads { coords: false, ..reads }, &mut values)?;
        for ((mean, count), values) in means.iter_mut().zip(counts).zip([&values.global, &values.cube]) {
            for row in values.chunks_exact(mean.len().max(1)) {
                mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / count as f64);
            }
        }
    }
    let [global, cell] = means;
    let kept = reads.global.then_some(global).into_iter().chain(reads.cube.then_some(cell));
    Ok(kept.flatten().collect())
}
