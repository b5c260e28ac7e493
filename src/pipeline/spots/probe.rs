//! The probe of a set of features: ridge regression of all genes at once, one penalty for them, by leave-one-out on the
//! training spots. Wide features are first turned into their 256 largest principal components, as HEST-bench does.

use crate::{
    device::Device,
    error::{Error, Result},
    mil::ridge::symmetric_eigen,
    random::Philox,
    tensor::Tensor,
};

const COMPONENTS: usize = 256;
/// Directions iterated beyond those that are kept, and how often: the last kept ones converge by the gap to the dropped.
const SPARE: usize = 32;
const ITERATIONS: usize = 12;

/// Penalties tried, as multiples of the number of training spots.
fn penalties() -> impl Iterator<Item = f64> {
    (-10..=6).map(|half| 10f64.powf(f64::from(half) / 2.0))
}

/// A row-major matrix in f64.
#[derive(Clone, Debug)]
struct Matrix {
    tensor: Tensor,
}

impl Matrix {
    fn new(values: Vec<f64>, rows: usize, columns: usize) -> Result<Matrix> {
        Ok(Matrix { tensor: Tensor::from_vec(values, [rows, columns], &Device::cpu())? })
    }

    fn times(&self, other: &Matrix) -> Result<Matrix> {
        Ok(Matrix { tensor: self.tensor.matmul(&other.tensor, false, false)? })
    }

    fn transposed_times(&self, other: &Matrix) -> Result<Matrix> {
        Ok(Matrix { tensor: self.tensor.matmul(&other.tensor, true, false)? })
    }

    fn values(&self) -> Result<Vec<f64>> {
        self.tensor.to_vec()
    }
}

/// Standardised, and rotated where they are many.
struct Basis {
    mean: Vec<f64>,
    span: Vec<f64>,
    /// `[features, components]`
    rotation: Option<Matrix>,
    width: usize,
}

impl Basis {
    fn fit(x: &[Vec<f64>]) -> Result<Basis> {
        let (n, p) = (x.len() as f64, x[0].len());
        let mean: Vec<f64> = (0..p).map(|j| x.iter().map(|row| row[j]).sum::<f64>() / n).collect();
        let span = (0..p)
            .map(|j| {
                let deviation = (x.iter().map(|row| (row[j] - mean[j]).powi(2)).sum::<f64>() / n).sqrt();
                // A feature that never changes says nothing, whatever its rounding noise is divided by.
                if deviation > 1e-9 * mean[j].abs().max(1e-9) { deviation } else { f64::INFINITY }
            })
            .collect();
        let mut basis = Basis { mean, span, rotation: None, width: p };
        if p > COMPONENTS {
            let scaled = basis.apply(x)?;
            basis.rotation = Some(principal(&scaled.transposed_times(&scaled)?, p)?);
            basis.width = COMPONENTS;
        }
        Ok(basis)
    }

    fn apply(&self, x: &[Vec<f64>]) -> Result<Matrix> {
        let scaled = |row: &Vec<f64>| -> Vec<f64> {
            row.iter().zip(self.mean.iter().zip(&self.span)).map(|(v, (m, s))| (v - m) / s).collect()
        };
        let matrix = Matrix::new(x.iter().flat_map(scaled).collect(), x.len(), self.mean.len())?;
        match &self.rotation {
            Some(rotation) => matrix.times(rotation),
            None => Ok(matrix),
        }
    }
}

/// The directions of the largest variance of a covariance `[p, p]`, by subspace iteration.
fn principal(covariance: &Matrix, p: usize) -> Result<Matrix> {
    let columns = (COMPONENTS + SPARE).min(p);
    let mut basis = orthonormal(Philox::named(0, "principal components").normals(p * columns), p, columns);
    for _ in 0..ITERATIONS {
        basis = orthonormal(covariance.times(&Matrix::new(basis, p, columns)?)?.values()?, p, columns);
    }
    // Within the subspace, in order of variance.
    let q = Matrix::new(basis, p, columns)?;
    let small = q.transposed_times(&covariance.times(&q)?)?.values()?;
    let (values, vectors) = symmetric_eigen(small.chunks(columns).map(<[f64]>::to_vec).collect());
    let mut order: Vec<usize> = (0..columns).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let kept = order.iter().take(COMPONENTS);
    let turn: Vec<f64> = (0..columns).flat_map(|i| kept.clone().map(|&k| vectors[i][k]).collect::<Vec<_>>()).collect();
    q.times(&Matrix::new(turn, columns, COMPONENTS.min(columns))?)
}

/// Columns made orthonormal one after the other, each twice against those before it.
fn orthonormal(values: Vec<f64>, rows: usize, columns: usize) -> Vec<f64> {
    let mut by_column: Vec<Vec<f64>> =
        (0..columns).map(|c| (0..rows).map(|r| values[r * columns + c]).collect()).collect();
    for c in 0..columns {
        let (done, rest) = by_column.split_at_mut(c);
        let column = &mut rest[0];
        for _ in 0..2 {
            for before in done.iter() {
                let along: f64 = before.iter().zip(column.iter()).map(|(a, b)| a * b).sum();
                column.iter_mut().zip(before).for_each(|(v, b)| *v -= along * b);
            }
        }
        let length = column.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-300);
        column.iter_mut().for_each(|v| *v /= length);
    }
    (0..rows).flat_map(|r| by_column.iter().map(move |column| column[r])).collect()
}

/// Predictions `[spots][genes]` for `test` of a probe fitted on `train` with targets `y`, both `[spots][...]`.
///
/// # Errors
/// Fewer than three training spots; features that are NaN.
pub fn predict(train: &[Vec<f64>], y: &[Vec<f64>], test: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
    if train.len() < 3 {
        return Err(Error::Usage(format!("{} spots to train on are too few; give sections with more", train.len())));
    }
    if train.iter().chain(test).flatten().any(|v| !v.is_finite()) {
        return Err(Error::Usage("features of a spot are NaN; look at the encoder's weights".into()));
    }
    let (n, genes) = (train.len(), y[0].len());
    let basis = Basis::fit(train)?;
    let x = basis.apply(train)?;
    let gram = x.transposed_times(&x)?.values()?;
    let (values, vectors) = symmetric_eigen(gram.chunks(basis.width).map(<[f64]>::to_vec).collect());
    let largest = values.iter().fold(0.0f64, |m, v| m.max(*v));
    let used: Vec<usize> = (0..values.len()).filter(|&k| values[k] > 1e-10 * largest).collect();
    let mean: Vec<f64> = (0..genes).map(|g| y.iter().map(|row| row[g]).sum::<f64>() / n as f64).collect();
    if used.is_empty() {
        return Ok(vec![mean; test.len()]); // features that never change
    }
    let turn: Vec<f64> =
        (0..basis.width).flat_map(|j| used.iter().map(|&k| vectors[j][k]).collect::<Vec<_>>()).collect();
    let rotation = Matrix::new(turn, basis.width, used.len())?;
    // Columns of U, of unit length.
    let roots: Vec<f64> = used.iter().map(|&k| values[k].sqrt()).collect();
    let mut u = x.times(&rotation)?.values()?;
    u.chunks_exact_mut(used.len()).for_each(|row| row.iter_mut().zip(&roots).for_each(|(v, root)| *v /= root));

    let spread: Vec<f64> = (0..genes)
        .map(|g| (y.iter().map(|row| (row[g] - mean[g]).powi(2)).sum::<f64>() / n as f64).sqrt())
        .map(|s| if s > 0.0 { s } else { 1.0 })
        .collect();
    let scaled: Vec<f64> =
        y.iter().flat_map(|row| (0..genes).map(|g| (row[g] - mean[g]) / spread[g]).collect::<Vec<_>>()).collect();
    let u_matrix = Matrix::new(u.clone(), n, used.len())?;
    let along = u_matrix.transposed_times(&Matrix::new(scaled.clone(), n, genes)?)?.values()?;

    let shrunk = |penalty: f64| -> Vec<f64> { used.iter().map(|&k| values[k] / (values[k] + penalty)).collect() };
    let leave_one_out = |penalty: f64| -> Result<f64> {
        let kept = shrunk(penalty);
        let weighted: Vec<f64> =
            along.chunks(genes).zip(&kept).flat_map(|(row, k)| row.iter().map(move |v| v * k)).collect();
        let fitted = u_matrix.times(&Matrix::new(weighted, used.len(), genes)?)?.values()?;
        let error = |i: usize| {
            let row = &u[i * used.len()..(i + 1) * used.len()];
            let leverage = 1.0 / n as f64 + row.iter().zip(&kept).map(|(u, k)| u * u * k).sum::<f64>();
            let residuals = scaled[i * genes..(i + 1) * genes].iter().zip(&fitted[i * genes..(i + 1) * genes]);
            residuals.map(|(y, f)| (y - f).powi(2)).sum::<f64>() / (1.0 - leverage).max(1e-9).powi(2)
        };
        Ok((0..n).map(error).sum())
    };
    let mut best = (f64::INFINITY, n as f64);
    for penalty in penalties().map(|p| p * n as f64) {
        let error = leave_one_out(penalty)?;
        if error < best.0 {
            best = (error, penalty);
        }
    }
    // What each direction counts under the penalty: √v / (v + penalty).
    let counts = used.iter().map(|&k| values[k].sqrt() / (values[k] + best.1));
    let weights: Vec<f64> =
        along.chunks(genes).zip(counts).flat_map(|(row, count)| row.iter().map(move |v| v * count)).collect();
    let predicted = basis.apply(test)?.times(&rotation)?.times(&Matrix::new(weights, used.len(), genes)?)?.values()?;
    let row = |row: &[f64]| row.iter().zip(spread.iter().zip(&mean)).map(|(v, (s, m))| v * s + m).collect();
    Ok(predicted.chunks(genes).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mil::ridge::Ridge;

    fn rows(n: usize, width: usize, name: &str) -> Vec<Vec<f64>> {
        Philox::named(3, name).normals(n * width).chunks(width).map(<[f64]>::to_vec).collect()
    }

    /// One gene: the same as the ridge regression of slides, which is fitted gene by gene, but for its finer penalties.
    #[test]
    fn one_gene_is_ridge_regression() -> Result<()> {
        let x = rows(90, 6, "x");
        let noise = rows(90, 1, "noise");
        let y: Vec<Vec<f64>> = x.iter().zip(&noise).map(|(x, e)| vec![1.0 + x[0] - 2.0 * x[3] + e[0]]).collect();
        let predicted = predict(&x[..60], &y[..60], &x[60..])?;
        let reference = Ridge::fit(&x[..60], &y[..60])?;
        // Their penalties are of different grids: a quarter of the noise apart at most.
        for (found, x) in predicted.iter().zip(&x[60..]) {
            assert!((found[0] - reference.predict(x)[0]).abs() < 0.25, "{} {}", found[0], reference.predict(x)[0]);
        }
        Ok(())
    }

    /// More features than components, few of which vary much: those are what is kept.
    #[test]
    fn wide_features_keep_their_largest_directions() -> Result<()> {
        let (n, p) = (400, 300);
        let (hidden, mix, noise) = (rows(n, 4, "hidden"), rows(4, p, "mix"), rows(n, p, "small"));
        let x: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                (0..p).map(|j| (0..4).map(|k| hidden[i][k] * mix[k][j]).sum::<f64>() + 0.1 * noise[i][j]).collect()
            })
            .collect();
        let y: Vec<Vec<f64>> = hidden.iter().map(|h| vec![h[1], h[0] - h[3]]).collect();
        let predicted = predict(&x[..300], &y[..300], &x[300..])?;
        for gene in 0..2 {
            let column = |rows: &[Vec<f64>]| rows.iter().map(|row| row[gene]).collect::<Vec<_>>();
            let r = crate::eval::stats::pearson(&column(&predicted), &column(&y[300..]));
            assert!(r.is_some_and(|r| r > 0.98), "{r:?}");
        }
        Ok(())
    }
}
