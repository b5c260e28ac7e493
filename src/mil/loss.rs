//! What a method minimises, and how its outputs are read: squared error of expression, likelihoods of labels.

use serde::{Deserialize, Serialize};

use crate::{
    cohort::targets::{Scaling, TargetScaler},
    error::Result,
    tensor::Tensor,
};

/// `train.loss`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Squared error of scaled targets.
    #[default]
    Mse,
    /// Binary cross-entropy of every target by itself, positives weighed by negatives / positives of the training slides. Outputs
    /// are logits.
    Bce,
    /// Cross-entropy of one class among all targets, which are one-hot. Outputs are logits.
    CrossEntropy,
}

impl Loss {
    /// How targets are scaled: labels are not.
    pub fn scaling(self, of_expression: Scaling) -> Scaling {
        match self {
            Loss::Mse => of_expression,
            Loss::Bce | Loss::CrossEntropy => Scaling::None,
        }
    }

    /// What it measures, for the axis of a curve.
    pub fn title(self) -> &'static str {
        match self {
            Loss::Mse => "mean squared error, scaled targets",
            Loss::Bce => "binary cross-entropy",
            Loss::CrossEntropy => "cross-entropy",
        }
    }

    /// The loss of outputs `[slides, targets]`, `weights` (of the same shape, summing to one) saying what each counts.
    pub fn of(self, outputs: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
        match self {
            Loss::Mse => outputs.sub(targets)?.square()?.mul(weights)?.sum_all(),
            // −y log σ(x) − (1 − y) log(1 − σ(x)) = log(1 + eˣ) − y x
            Loss::Bce => outputs.softplus()?.sub(&outputs.mul(targets)?)?.mul(weights)?.sum_all(),
            Loss::CrossEntropy => {
                let likelihood = outputs.log_softmax()?.mul(targets)?.mul(weights)?.sum_all()?;
                // A slide's weight is spread over its classes, of which one counts.
                likelihood.scale(-(targets.shape().last() as f64))
            }
        }
    }

    /// What positives count, per target, by the targets of the training slides; 1 where nothing is weighed.
    pub fn positive_weights<'a>(self, targets: usize, slides: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
        let mut counts = vec![[0.0f64; 2]; targets];
        if self == Loss::Bce {
            for row in slides {
                counts
                    .iter_mut()
                    .zip(row)
                    .filter(|(_, t)| t.is_finite())
                    .for_each(|(n, &t)| n[usize::from(t > 0.5)] += 1.0);
            }
        }
        let weight = |&[negatives, positives]: &[f64; 2]| {
            if negatives > 0.0 && positives > 0.0 { negatives / positives } else { 1.0 }
        };
        counts.iter().map(weight).collect()
    }

    /// A slide's outputs as values on the targets' own scale: expression, or probabilities.
    pub fn read(self, outputs: &mut [f64], scaler: &TargetScaler) {
        self.likelihoods(outputs);
        scaler.inverse(outputs);
    }

    /// Logits as probabilities, in place; what are none stay.
    pub fn likelihoods(self, outputs: &mut [f64]) {
        match self {
            Loss::Mse => {}
            Loss::Bce => outputs.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Loss::CrossEntropy => {
                let highest = outputs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                outputs.iter_mut().for_each(|x| *x = (*x - highest).exp());
                let sum: f64 = outputs.iter().sum();
                outputs.iter_mut().for_each(|x| *x /= sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    fn tensor(values: &[f64], shape: [usize; 2]) -> Tensor {
        Tensor::from_f64(values, shape, crate::dtype::DType::F64, &Device::cpu()).expect("a tensor")
    }

    /// Both likelihoods against their definitions by probabilities.
    #[test]
    fn likelihoods_are_their_definitions() {
        let (logits, targets) = ([0.3, -1.2, 2.0, -0.7, 0.1, 0.4], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        let [x, t, w] = [&logits, &targets, &[1.0 / 6.0; 6]].map(|v| tensor(v, [2, 3]));
        for loss in [Loss::Bce, Loss::CrossEntropy] {
            let mut expected = 0.0;
            for (row, truth) in logits.chunks(3).zip(targets.chunks(3)) {
                let mut p = row.to_vec();
                loss.likelihoods(&mut p);
                expected -= match loss {
                    Loss::Bce => {
                        let one = |(p, t): (&f64, &f64)| t * p.ln() + (1.0 - t) * (1.0 - p).ln();
                        p.iter().zip(truth).map(one).sum::<f64>() / 6.0
                    }
                    _ => p.iter().zip(truth).map(|(p, t)| t * p.ln()).sum::<f64>() / 2.0,
                };
            }
            let got = loss.of(&x, &t, &w).and_then(|y| y.to_vec::<f64>()).expect("a loss");
            assert!((got[0] - expected).abs() < 1e-12, "{loss:?}: {} against {expected}", got[0]);
        }
    }

    #[test]
    fn positives_count_what_they_lack_in_number() {
        let rows = [[1.0, 0.0], [0.0, f64::NAN], [0.0, 0.0], [0.0, 0.0]];
        let of = |loss: Loss| loss.positive_weights(2, rows.iter().map(|row| &row[..]));
        assert_eq!((of(Loss::Bce), of(Loss::Mse)), (vec![3.0, 1.0], vec![1.0, 1.0]));
    }
}
