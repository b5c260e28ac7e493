//! Clusters of points by k-means: Lloyd's algorithm (1982) from given centres, and a start by k-means++ (Arthur and
//! Vassilvitskii 2007).
//!
//! On the host, in f64, with one outcome whatever the number of threads: ties go to the lower index, sums have one order,
//! and random numbers are a function of their stream. Points are rows of `dim` numbers, one after the other.

use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    random::Philox,
};

/// Rounds after which Lloyd's algorithm ends, converged or not.
pub const ROUNDS: usize = 100;

/// Points that are added up one after the other; the sums of such runs are added in order.
const RUN: usize = 4096;

/// Which points belong together.
#[derive(Clone, PartialEq, Debug)]
pub struct Clusters {
    /// The cluster of each point.
    pub assignment: Vec<usize>,
    /// `[k, dim]`: where the clusters lie.
    pub centres: Vec<f64>,
    /// The sum of the squared distances of all points to the centre of their cluster.
    pub objective: f64,
    /// How many points each cluster has, at least one.
    pub sizes: Vec<usize>,
}

impl Clusters {
    /// `[k, width]`: the mean over each cluster's points of their features, `[points, width]`.
    pub fn means<T: Copy + Into<f64> + Sync>(&self, features: &[T], width: usize) -> Vec<f64> {
        means(features, width, &self.assignment, &self.sizes)
    }
}

/// `k` of the points as centres, `[k, dim]`: the first at random, each further one with a probability that is proportional to
/// its squared distance from the nearest before it.
pub fn plus_plus(points: &[f64], dim: usize, k: usize, random: Philox) -> Result<Vec<f64>> {
    let n = check(points, dim, k)?;
    let point = |i: usize| &points[i * dim..][..dim];
    let mut chosen = vec![random.below(0, n)];
    let mut nearest = vec![f64::INFINITY; n];
    while chosen.len() < k {
        let last = point(chosen[chosen.len() - 1]);
        nearest.par_iter_mut().with_min_len(RUN / dim.max(1) + 1).zip(points.par_chunks_exact(dim)).for_each(
            |(d, p)| {
                *d = d.min(squared_distance(p, last));
            },
        );
        let total: f64 = nearest.iter().sum();
        let [share, ..] = random.uniform4(chosen.len() as u64);
        let mut left = share * total;
        let drawn = nearest.iter().position(|&d| {
            left -= d;
            d > 0.0 && left <= 0.0
        });
        // Rounding may leave a rest behind the last point; and where all others coincide with centres, any will do.
        let behind = || nearest.iter().rposition(|&d| d > 0.0);
        let unused = || (0..n).find(|i| !chosen.contains(i));
        chosen.push(drawn.or_else(behind).or_else(unused).unwrap_or(0));
    }
    Ok(chosen.into_iter().flat_map(|i| point(i).iter().copied()).collect())
}

/// Lloyd's algorithm from the centres `[k, dim]`.
///
/// Each round assigns every point to the nearest centre, of equals the one of lower index. Then every empty cluster, in
/// order, takes the point that is farthest from its own centre among clusters of two or more (of equals the one of lower
/// index, whose distance then counts as 0). It ends where no assignment changed since the last round, else the
/// centres move to the means, at most [`ROUNDS`] times.
pub fn lloyd(points: &[f64], dim: usize, mut centres: Vec<f64>) -> Result<Clusters> {
    let k = centres.len() / dim.max(1);
    check(points, dim, k)?;
    if centres.len() != k * dim || centres.iter().any(|v| !v.is_finite()) {
        return Err(Error::shape("kmeans", format!("centres of {dim} finite numbers wanted, got {}", centres.len())));
    }
    let mut previous: Option<Vec<usize>> = None;
    let mut sizes = Vec::new();
    for _ in 0..ROUNDS {
        let mut nearest = assign(points, dim, &centres);
        sizes = vec![0; k];
        nearest.iter().for_each(|&(cluster, _)| sizes[cluster] += 1);
        for cluster in 0..k {
            if sizes[cluster] == 0 {
                refill(cluster, &mut nearest, &mut sizes);
            }
        }
        let assignment: Vec<usize> = nearest.into_iter().map(|(cluster, _)| cluster).collect();
        let settled = previous.as_ref() == Some(&assignment);
        previous = Some(assignment);
        if settled {
            break;
        }
        centres = means(points, dim, previous.as_deref().unwrap_or_default(), &sizes);
    }
    let assignment = previous.unwrap_or_default();
    let own = |(point, &cluster): (&[f64], &usize)| squared_distance(point, &centres[cluster * dim..][..dim]);
    let objective = points.chunks_exact(dim).zip(&assignment).map(own).sum();
    Ok(Clusters { assignment, centres, objective, sizes })
}

/// How many points there are.
fn check(points: &[f64], dim: usize, k: usize) -> Result<usize> {
    let n = points.len() / dim.max(1);
    if dim == 0 || points.len() != n * dim || points.iter().any(|v| !v.is_finite()) {
        let message = format!("rows of {dim} finite numbers wanted, got {} numbers", points.len());
        return Err(Error::shape("kmeans", message));
    }
    if k == 0 || k > n {
        return Err(Error::shape(
            "kmeans",
            format!("{k} clusters of {n} points; from one to as many as there are points"),
        ));
    }
    Ok(n)
}

/// Axis by axis.
fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + (a - b) * (a - b))
}

/// Each point's nearest centre and the squared distance from it.
fn assign(points: &[f64], dim: usize, centres: &[f64]) -> Vec<(usize, f64)> {
    let nearest = |point: &[f64]| {
        let distances = centres.chunks_exact(dim).map(|centre| squared_distance(point, centre)).enumerate();
        distances.fold((0, f64::INFINITY), |best, this| if this.1 < best.1 { this } else { best })
    };
    points.par_chunks_exact(dim).map(nearest).collect()
}

/// Moves the farthest point that can be spared into an empty cluster.
fn refill(cluster: usize, nearest: &mut [(usize, f64)], sizes: &mut [usize]) {
    let spare = (nearest.iter().enumerate()).filter(|(_, (own, _))| sizes[*own] > 1);
    let farthest = spare.fold(None, |best: Option<(usize, f64)>, (i, &(_, distance))| match best {
        Some((_, most)) if distance <= most => best,
        _ => Some((i, distance)),
    });
    // There are as many points as clusters, so that an empty one leaves another with two.
    if let Some((i, _)) = farthest {
        sizes[nearest[i].0] -= 1;
        sizes[cluster] = 1;
        nearest[i] = (cluster, 0.0);
    }
}

fn means<T: Copy + Into<f64> + Sync>(rows: &[T], width: usize, assignment: &[usize], sizes: &[usize]) -> Vec<f64> {
    let partial = |(rows, assignment): (&[T], &[usize])| {
        let mut sums = vec![0.0; sizes.len() * width];
        for (row, &cluster) in rows.chunks_exact(width.max(1)).zip(assignment) {
            sums[cluster * width..][..width].iter_mut().zip(row).for_each(|(sum, &v)| *sum += v.into());
        }
        sums
    };
    let runs = rows.par_chunks((RUN * width).max(1)).zip(assignment.par_chunks(RUN));
    let mut sums = vec![0.0; sizes.len() * width];
    for part in runs.map(partial).collect::<Vec<_>>() {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    for (mean, &size) in sums.chunks_exact_mut(width.max(1)).zip(sizes) {
        mean.iter_mut().for_each(|v| *v /= size as f64);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `k` heaps of 50 points, far from each other.
    fn heaps(k: usize, dim: usize) -> Vec<f64> {
        let noise = Philox::named(3, "heaps").normals(50 * k * dim);
        noise.iter().enumerate().map(|(i, v)| v + 100.0 * (i / (50 * dim)) as f64).collect()
    }

    #[test]
    fn heaps_are_found_from_any_start() {
        for seed in 0..20 {
            let points = heaps(5, 3);
            let found = lloyd(&points, 3, plus_plus(&points, 3, 5, Philox::named(seed, "start")).unwrap()).unwrap();
            assert_eq!(found.sizes, [50; 5], "seed {seed}");
            assert!(found.assignment.chunks(50).all(|heap| heap.iter().all(|c| *c == heap[0])));
            assert!((found.objective - 750.0).abs() < 150.0, "one per number: {}", found.objective);
            let means = found.means(&points, 3);
            assert!(means.iter().zip(&found.centres).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads() {
        let points = Philox::named(1, "points").normals(2 * 9001);
        let run = || {
            let start = plus_plus(&points, 2, 40, Philox::named(1, "start")).unwrap();
            lloyd(&points, 2, start).unwrap()
        };
        let once = run();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(run) == once, "{threads} threads");
        }
    }

    #[test]
    fn no_cluster_stays_empty() {
        // Three points in one place, and two centres that are nobody's nearest: the lowest indices move.
        let found = lloyd(&[1.0, 1.0, 1.0, 5.0], 1, vec![1.0, -50.0, -60.0, 5.0]).unwrap();
        assert_eq!(found.assignment, [1, 2, 0, 3]);
        assert_eq!((found.objective, found.sizes), (0.0, vec![1; 4]));
        let start = plus_plus(&[2.0; 6], 1, 6, Philox::named(0, "start")).unwrap();
        assert_eq!(lloyd(&[2.0; 6], 1, start).unwrap().sizes, [1; 6]);
    }

    #[test]
    fn what_cannot_be_clustered_is_refused() {
        let stream = Philox::named(0, "start");
        assert!(plus_plus(&[1.0, 2.0], 1, 3, stream).is_err(), "more clusters than points");
        assert!(plus_plus(&[1.0, 2.0, 3.0], 2, 1, stream).is_err(), "half a point");
        assert!(plus_plus(&[1.0, f64::NAN], 1, 1, stream).is_err());
        assert!(lloyd(&[1.0, 2.0], 1, vec![]).is_err());
        assert!(lloyd(&[1.0, 2.0], 1, vec![f64::INFINITY]).is_err());
    }
}
