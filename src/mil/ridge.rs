//! Ridge regression on a slide's mean features: the simplest predictor a network must beat.
//!
//! Features are standardised on the training slides; per gene the penalty of the smallest leave-one-out error is taken,
//! computed in closed form from the hat matrix. Everything in f64, by one singular value decomposition for all penalties and
//! genes.

use crate::error::{Error, Result};

/// A fitted model: `y = intercept + Σ weight · (x - mean) / std`, per gene.
#[derive(Clone, Debug)]
pub struct Ridge {
    mean: Vec<f64>,
    std: Vec<f64>,
    weights: Vec<Vec<f64>>,
    intercepts: Vec<f64>,
}

/// Penalties tried, as multiples of the number of training slides.
fn penalties() -> impl Iterator<Item = f64> {
    (-12..=12).map(|half| 10f64.powf(f64::from(half) / 3.0))
}

impl Ridge {
    /// Fits rows `x` to targets `y` (one row per slide; NaN targets are left out gene by gene). At least three slides
    /// with a value per gene.
    pub fn fit(x: &[Vec<f64>], y: &[Vec<f64>]) -> Result<Ridge> {
        let (features, genes) = (x.first().map_or(0, Vec::len), y.first().map_or(0, Vec::len));
        if x.len() != y.len() || x.iter().any(|r| r.len() != features) || y.iter().any(|r| r.len() != genes) {
            return Err(Error::shape("ridge", format!("{} rows of features, {} of targets", x.len(), y.len())));
        }
        let n = x.len().max(1) as f64;
        let column_mean = |j: usize| x.iter().map(|r| r[j]).sum::<f64>() / n;
        let mean: Vec<f64> = (0..features).map(column_mean).collect();
        let std = (0..features)
            .map(|j| {
                let std = (x.iter().map(|r| (r[j] - mean[j]).powi(2)).sum::<f64>() / n).sqrt();
                if std > 1e-9 * mean[j].abs().max(1e-9) { std } else { f64::INFINITY }
            })
            .collect::<Vec<_>>();
        let scaled: Vec<Vec<f64>> = x.iter().map(|r| standardise(r, &mean, &std)).collect();
        let mut model = Ridge { mean, std, weights: Vec::new(), intercepts: Vec::new() };
        let mut last: Option<(Vec<usize>, Spectrum)> = None;
        for gene in 0..genes {
            let rows: Vec<usize> = (0..y.len()).filter(|&i| y[i][gene].is_finite()).collect();
            if rows.len() < 3 {
                return Err(Error::Usage("ridge regression needs three training slides with a value per gene".into()));
            }
            let spectrum = match last.take() {
                Some((of, spectrum)) if of == rows => spectrum,
                _ => Spectrum::of(&rows.iter().map(|&i| &scaled[i][..]).collect::<Vec<_>>()),
            };
            let targets: Vec<f64> = rows.iter().map(|&i| y[i][gene]).collect();
            let (weights, intercept) = spectrum.solve(&targets);
            model.weights.push(weights);
            model.intercepts.push(intercept);
            last = Some((rows, spectrum));
        }
        Ok(model)
    }

    /// The same line as `y = bias + Σ weight · x`: weights `[genes, features]` row by row, and biases.
    pub fn line(&self) -> (Vec<f64>, Vec<f64>) {
        let scaled = |w: &Vec<f64>| w.iter().zip(&self.std).map(|(w, std)| w / std).collect::<Vec<f64>>();
        let weights: Vec<Vec<f64>> = self.weights.iter().map(scaled).collect();
        let biases = weights.iter().zip(&self.intercepts).map(|(w, intercept)| intercept - dot(w, &self.mean));
        let biases = biases.collect();
        (weights.concat(), biases)
    }

    /// One value per gene.
    pub fn predict(&self, x: &[f64]) -> Vec<f64> {
        let x = standardise(x, &self.mean, &self.std);
        let one = |(w, intercept): (&Vec<f64>, &f64)| intercept + w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>();
        self.weights.iter().zip(&self.intercepts).map(one).collect()
    }
}

fn standardise(x: &[f64], mean: &[f64], std: &[f64]) -> Vec<f64> {
    x.iter().zip(mean.iter().zip(std)).map(|(x, (m, s))| (x - m) / s).collect()
}

/// The centred rows' singular directions: `X = U √values Vᵀ`.
struct Spectrum {
    rows: Vec<Vec<f64>>,
    centre: Vec<f64>,
    values: Vec<f64>,
    /// U; column `k` belongs to value `k`: `left[i][k]`.
    left: Vec<Vec<f64>>,
}

impl Spectrum {
    fn of(rows: &[&[f64]]) -> Spectrum {
        let (n, p) = (rows.len(), rows.first().map_or(0, |r| r.len()));
        let centre: Vec<f64> = (0..p).map(|j| rows.iter().map(|r| r[j]).sum::<f64>() / n as f64).collect();
        let rows: Vec<Vec<f64>> = rows.iter().map(|r| r.iter().zip(&centre).map(|(v, c)| v - c).collect()).collect();
        // The smaller of X Xᵀ and Xᵀ X has all there is to know.
        if n <= p {
            let gram = rows.iter().map(|a| rows.iter().map(|b| dot(a, b)).collect()).collect();
            let (values, left) = symmetric_eigen(gram);
            return Spectrum { rows, centre, values: values.into_iter().map(|v| v.max(0.0)).collect(), left };
        }
        let columns: Vec<Vec<f64>> = (0..p).map(|j| rows.iter().map(|r| r[j]).collect()).collect();
        let gram = columns.iter().map(|a| columns.iter().map(|b| dot(a, b)).collect()).collect();
        let (values, right) = symmetric_eigen(gram);
        let largest = values.iter().fold(0.0f64, |m, v| m.max(*v));
        let used: Vec<usize> = (0..p).filter(|&k| values[k] > 1e-12 * largest).collect();
        let project = |row: &Vec<f64>, k: usize| (0..p).map(|j| row[j] * right[j][k]).sum::<f64>() / values[k].sqrt();
        let left = rows.iter().map(|row| used.iter().map(|&k| project(row, k)).collect()).collect();
        Spectrum { rows, centre, values: used.iter().map(|&k| values[k]).collect(), left }
    }

    /// Weights and intercept at the penalty of the smallest leave-one-out error.
    fn solve(&self, y: &[f64]) -> (Vec<f64>, f64) {
        let (n, ranks) = (y.len(), self.values.len());
        let mean = y.iter().sum::<f64>() / n as f64;
        let along: Vec<f64> = (0..ranks).map(|k| (0..n).map(|i| self.left[i][k] * (y[i] - mean)).sum()).collect();
        let leave_one_out = |penalty: f64| -> f64 {
            let kept: Vec<f64> = self.values.iter().map(|v| v / (v + penalty)).collect();
            let error = |i: usize| {
                let u = &self.left[i];
                let fitted: f64 = (0..ranks).map(|k| u[k] * kept[k] * along[k]).sum();
                let leverage: f64 = 1.0 / n as f64 + (0..ranks).map(|k| u[k] * u[k] * kept[k]).sum::<f64>();
                ((y[i] - mean - fitted) / (1.0 - leverage).max(1e-9)).powi(2)
            };
            (0..n).map(error).sum()
        };
        let scored = penalties().map(|p| p * n as f64).map(|penalty| (leave_one_out(penalty), penalty));
        let (_, penalty) = scored.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, n as f64));
        // w = Xᵀ U (values + penalty)⁻¹ Uᵀ (y - mean)
        let dual: Vec<f64> =
            (0..n).map(|i| (0..ranks).map(|k| self.left[i][k] * along[k] / (self.values[k] + penalty)).sum()).collect();
        let weights: Vec<f64> =
            (0..self.centre.len()).map(|j| self.rows.iter().zip(&dual).map(|(r, a)| r[j] * a).sum()).collect();
        (weights.clone(), mean - dot(&weights, &self.centre))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Eigenvalues and column eigenvectors of a symmetric matrix, by Jacobi's cyclic rotations.
pub fn symmetric_eigen(mut a: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = a.len();
    let mut v: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let total: f64 = a.iter().flatten().map(|x| x * x).sum();
    for _ in 0..MAX_SWEEPS {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| 2.0 * a[i][j] * a[i][j]).sum();
        if off <= 1e-26 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in a.iter_mut().chain(v.iter_mut()) {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (upper, lower) = a.split_at_mut(q);
                for (x, y) in upper[p].iter_mut().zip(lower[0].iter_mut()) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), v)
}

const MAX_SWEEPS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Philox;

    #[test]
    fn eigenvectors_rebuild_the_matrix() {
        let n = 9;
        let draw = Philox::named(4, "matrix").normals(n * n);
        let a: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| draw[i * n + j] + draw[j * n + i]).collect()).collect();
        let (values, vectors) = symmetric_eigen(a.clone());
        for i in 0..n {
            for j in 0..n {
                let rebuilt: f64 = (0..n).map(|k| vectors[i][k] * values[k] * vectors[j][k]).sum();
                assert!((rebuilt - a[i][j]).abs() < 1e-10, "{i},{j}: {rebuilt} for {}", a[i][j]);
            }
        }
    }

    /// The closed form against fitting without each row in turn, at one penalty: the weights of a tiny penalty are those
    /// of least squares.
    #[test]
    fn a_line_is_found_through_noise_dimensions() -> Result<()> {
        let (n, p) = (60, 5);
        let draw = Philox::named(5, "ridge").normals(n * (p + 1));
        let x: Vec<Vec<f64>> = (0..n).map(|i| draw[i * p..(i + 1) * p].to_vec()).collect();
        let y: Vec<Vec<f64>> =
            x.iter().enumerate().map(|(i, x)| vec![2.0 + 3.0 * x[1] - x[4] + 0.05 * draw[n * p + i]]).collect();
        let model = Ridge::fit(&x[..40], &y[..40])?;
        for (x, y) in x[40..].iter().zip(&y[40..]) {
            assert!((model.predict(x)[0] - y[0]).abs() < 0.25);
        }
        Ok(())
    }

    #[test]
    fn missing_targets_are_left_out() -> Result<()> {
        let x: Vec<Vec<f64>> = (0..12).map(|i| vec![f64::from(i)]).collect();
        let mut y: Vec<Vec<f64>> = (0..12).map(|i| vec![f64::from(i), 2.0 * f64::from(i)]).collect();
        y[3][1] = f64::NAN;
        let predicted = Ridge::fit(&x, &y)?.predict(&[20.0]);
        assert!((predicted[0] - 20.0).abs() < 0.5 && (predicted[1] - 40.0).abs() < 1.0, "{predicted:?}");
        Ok(())
    }
}
