//! Which patches of a run's slides are kept: one rule, made definite by the scores of all its slides and kept with the run.
//!
//! **The number.** The default is one score for the run: the mean over the patches of all its slides that are not
//! [`glass`](super::glass), plus `sigma` of their standard deviations. A slide's share of glass therefore moves nothing: a
//! threshold of each slide's own patches ([`Scope::Slide`]) rises with the tissue on the slide, and keeps nothing of one
//! that is full of it. Glass is never kept under this rule, however noisy.
//!
//! **`sigma` is 0 by default.** The paper puts its number near one standard deviation above the mean of *all* patches (section 4.2). On
//! slides that are half glass that is about the mean of the tissue alone, which is what a run takes; a slide's own
//! threshold, whose mean is over its glass too, stays at 1.
//!
//! **At least.** A slide of which fewer than `least_patches` pass keeps so many with the highest scores, so that no slide with
//! tissue is lost: of those that are not glass, and only where a slide has no other, of those with any cell that is not. A
//! slide of nothing but glass keeps none.
//!
//! **At most.** Of more than `most_patches`, so many are drawn at random: Philox, a function of seed and slide alone. The
//! highest scores instead would be a second selection that nobody asked for, and likely of ink, folds and noise.

use serde::{Deserialize, Serialize};

use super::{
    score::{PatchScore, SlideScores},
    threshold::Threshold,
};
use crate::random::Philox;

/// What the mean and the standard deviation of a [`Threshold::Sigma`] are taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The patches of all slides that are not glass.
    #[default]
    Run,
    /// All patches of each slide, glass too.
    Slide,
}

impl Scope {
    /// `sigma` where none is given.
    pub fn default_sigma(self) -> f64 {
        match self {
            Scope::Run => 0.0,
            Scope::Slide => 1.0,
        }
    }
}

/// How patches are chosen. Plain data: equal choices of equal scores keep equal patches.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Choice {
    pub threshold: Threshold,
    pub scope: Scope,
    /// 0 sets no limit, here and below.
    pub least_patches: usize,
    pub most_patches: usize,
    pub seed: u64,
}

/// The scores that a run's threshold was taken from.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    pub mean: f64,
    /// Of the population: divided by the number of patches.
    pub sd: f64,
    /// Patches that are not glass, those that are, and the slides they are of.
    pub patches: u64,
    pub glass: u64,
    pub slides: u64,
}

impl Spread {
    pub fn of(slides: &[SlideScores]) -> Spread {
        let all = || slides.iter().flat_map(|slide| &slide.patches);
        let scores = || all().filter(|patch| !patch.is_glass()).map(|patch| patch.score);
        let patches = scores().count();
        let n = patches.max(1) as f64;
        let mean = scores().sum::<f64>() / n;
        let variance = scores().map(|score| (score - mean) * (score - mean)).sum::<f64>() / n;
        Spread {
            mean,
            sd: variance.sqrt(),
            patches: patches as u64,
            glass: (all().count() - patches) as u64,
            slides: slides.len() as u64,
        }
    }
}

/// A choice made definite by a run's slides: with a slide's scores, all that decides which of its patches are kept. Plain
/// data, to be stored and hashed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FittedChoice {
    #[serde(flatten)]
    pub choice: Choice,
    /// The score that keeps a patch, where it is one for all slides.
    pub least_score: Option<f64>,
    /// Where it came from, if from the run's patches.
    pub spread: Option<Spread>,
}

impl Choice {
    /// Takes the run's threshold from the scores of its slides.
    pub fn fit(&self, slides: &[SlideScores]) -> FittedChoice {
        let (least_score, spread) = match (self.threshold, self.scope) {
            (Threshold::Sigma(deviations), Scope::Run) => {
                let spread = Spread::of(slides);
                // Less a rounding error, so that equal values are all kept at sigma = 0.
                (Some((spread.mean + deviations * spread.sd) * (1.0 - 1e-12)), Some(spread))
            }
            (Threshold::Min(least), _) => (Some(least), None),
            _ => (None, None),
        };
        FittedChoice { choice: self.clone(), least_score, spread }
    }
}

impl FittedChoice {
    /// The threshold as it stands: a number where it is one for all slides.
    pub fn threshold(&self) -> Threshold {
        self.least_score.map_or(self.choice.threshold, Threshold::Min)
    }

    /// Marks the patches of a slide that pass; returns how many do.
    pub fn pass(&self, scores: &mut SlideScores) -> usize {
        scores.mark(self.threshold());
        if self.spread.is_some() {
            scores.patches.iter_mut().for_each(|patch| patch.kept &= !patch.is_glass());
        }
        // The highest so many were asked for in so many words.
        if !matches!(self.choice.threshold, Threshold::Top(_)) {
            at_least(&mut scores.patches, self.choice.least_patches);
        }
        scores.patches.iter().filter(|patch| patch.kept).count()
    }

    /// Of the patches of `slide` that pass, draws those that are kept.
    pub fn draw(&self, slide: &str, patches: &mut [PatchScore]) {
        let passed: Vec<usize> = (0..patches.len()).filter(|&i| patches[i].kept).collect();
        let most = self.choice.most_patches;
        if most > 0 && passed.len() > most {
            let order = Philox::named(self.choice.seed, &format!("patches of {slide}")).permutation(passed.len());
            order[most..].iter().for_each(|&i| patches[passed[i]].kept = false);
        }
    }
}

/// Keeps the highest scores where fewer than `least` patches are kept.
fn at_least(patches: &mut [PatchScore], least: usize) {
    let of = |patches: &[PatchScore], tissue: &dyn Fn(&PatchScore) -> bool| -> Vec<usize> {
        (0..patches.len()).filter(|&i| patches[i].kept || tissue(&patches[i])).collect()
    };
    let mut candidates = of(patches, &|patch| !patch.is_glass());
    if candidates.is_empty() {
        candidates = of(patches, &|patch| patch.glass_share < 1.0);
    }
    let kept = patches.iter().filter(|patch| patch.kept).count();
    // Those kept first; position decides between equals, so that the choice depends on nothing else.
    candidates.sort_by(|&a, &b| {
        let (one, other) = (&patches[a], &patches[b]);
        other.kept.cmp(&one.kept).then(other.score.total_cmp(&one.score)).then(a.cmp(&b))
    });
    candidates.into_iter().take(least.max(kept)).for_each(|i| patches[i].kept = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patches as (score, share of glass).
    fn slide(patches: &[(f64, f32)]) -> SlideScores {
        let patch = |&(score, glass_share): &(f64, f32)| PatchScore { score, glass_share, ..PatchScore::default() };
        SlideScores { patches: patches.iter().map(patch).collect(), ..SlideScores::default() }
    }

    fn kept(scores: &SlideScores) -> Vec<usize> {
        (0..scores.patches.len()).filter(|&i| scores.patches[i].kept).collect()
    }

    fn choice(threshold: Threshold, scope: Scope) -> Choice {
        Choice { threshold, scope, least_patches: 0, most_patches: 0, seed: 0 }
    }

    #[test]
    fn glass_neither_moves_the_threshold_of_a_run_nor_passes_it() {
        let tissue = [(10.0, 0.0), (12.0, 0.1), (14.0, 0.3)];
        let with_glass = |n: usize| {
            let mut patches = tissue.to_vec();
            patches.resize(3 + n, (15.0, 1.0)); // noisier than tissue
            patches.resize(3 + 2 * n, (0.2, 0.97));
            slide(&patches)
        };
        for glass in [0, 1, 50] {
            let slides = [with_glass(glass), with_glass(3 * glass)];
            let fitted = choice(Threshold::Sigma(0.0), Scope::Run).fit(&slides);
            let spread = fitted.spread.expect("of the run");
            assert!((spread.mean - 12.0).abs() < 1e-9 && (spread.sd - (8.0f64 / 3.0).sqrt()).abs() < 1e-9);
            assert_eq!((spread.patches, spread.glass, spread.slides), (6, 8 * glass as u64, 2));
            for mut scores in slides {
                assert_eq!(fitted.pass(&mut scores), 2);
                assert_eq!(kept(&scores), [1, 2]);
            }
        }
        // A slide's own threshold follows its glass: what issue it takes with tissue depends on how much there is of it.
        let fitted = choice(Threshold::Sigma(0.0), Scope::Slide).fit(&[]);
        let [mut little, mut much] = [with_glass(0), with_glass(50)];
        assert_ne!(fitted.pass(&mut little) - 2, fitted.pass(&mut much) - 2);
    }

    #[test]
    fn a_slide_with_tissue_keeps_its_best_and_one_of_glass_nothing() {
        let mut rule = choice(Threshold::Sigma(0.0), Scope::Run);
        rule.least_patches = 2;
        let textured = slide(&[(20.0, 0.0); 4]);
        let mut pale = slide(&[(5.0, 0.0), (9.0, 1.0), (6.0, 0.5), (1.0, 0.0)]);
        let mut faint = slide(&[(3.0, 1.0), (2.0, 0.97), (2.5, 0.96)]);
        let mut glass = slide(&[(9.0, 1.0), (0.1, 1.0)]);
        let fitted = rule.fit(&[textured, pale.clone(), faint.clone(), glass.clone()]);
        fitted.pass(&mut pale);
        assert_eq!(kept(&pale), [0, 2]);
        fitted.pass(&mut faint);
        assert_eq!(kept(&faint), [1, 2]);
        fitted.pass(&mut glass);
        assert_eq!(kept(&glass), [0usize; 0]);
        // What passes by itself stays, and is no fewer for the floor.
        let mut many = slide(&[(20.0, 0.0), (21.0, 0.0), (22.0, 0.0), (1.0, 0.0)]);
        assert_eq!(fitted.pass(&mut many), 3);
        let top = Choice { threshold: Threshold::Top(1), ..rule }.fit(&[]);
        assert_eq!(top.pass(&mut many), 1);
    }

    #[test]
    fn a_draw_follows_from_seed_and_slide_and_not_from_scores() {
        let mut rule = choice(Threshold::Min(0.0), Scope::Run);
        rule.most_patches = 300;
        let drawn = |seed: u64, name: &str| {
            let patches: Vec<(f64, f32)> = (0..1000).map(|i| (f64::from(i), 0.0)).collect();
            let (fitted, mut scores) = (Choice { seed, ..rule.clone() }.fit(&[]), slide(&patches));
            assert_eq!(fitted.pass(&mut scores), 1000);
            fitted.draw(name, &mut scores.patches);
            kept(&scores)
        };
        let first = drawn(1, "a");
        assert_eq!((first.len(), &first), (300, &drawn(1, "a")));
        assert!(first != drawn(2, "a") && first != drawn(1, "b"));
        let mean = first.iter().sum::<usize>() as f64 / 300.0;
        assert!((mean - 499.5).abs() < 60.0, "a fair draw's mean rank is 500 +- 14, not {mean}");
    }

    #[test]
    fn a_stored_choice_is_the_same_choice() {
        let fitted = choice(Threshold::Sigma(0.5), Scope::Run).fit(&[slide(&[(1.0, 0.0), (2.5, 0.0), (9.0, 1.0)])]);
        let text = serde_json::to_string(&fitted).expect("plain data");
        assert_eq!(serde_json::from_str::<FittedChoice>(&text).expect("plain data"), fitted);
        for threshold in [Threshold::Bits(1.6e6), Threshold::Min(2.0), Threshold::Top(9)] {
            let fitted = choice(threshold, Scope::Slide).fit(&[]);
            let text = serde_json::to_string(&fitted).expect("plain data");
            assert_eq!(serde_json::from_str::<FittedChoice>(&text).expect("plain data"), fitted);
        }
    }
}
