//! Clusters of a slide's patches in the place of the patches: k-means of where they lie (HE2RNA's super-tiles) or of their
//! features (SEQUOIA), each cluster standing for its patches by the mean of their vectors.

use crate::{
    error::{Error, Result},
    kmeans,
    mil::{
        features::{HostFeatures, PatchFeatures, PatchValues, Reads},
        method::Rows,
    },
    random::{Philox, fnv1a},
};

/// What patches of a cluster have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// They lie together.
    Places,
    /// Their global vectors are alike.
    Features,
}

/// At most `count` clusters; a slide of fewer patches keeps them all. A function of the features alone: the centres that k-means
/// begins with are drawn from a stream that the points name.
///
/// # Errors
/// `Shape` where there is no patch or no cluster; features that cannot be read.
pub fn clustered(features: &dyn PatchFeatures, by: By, count: usize) -> Result<Rows> {
    let patches: Vec<usize> = (0..features.patches()).collect();
    let k = count.min(patches.len());
    if k == 0 {
        return Err(Error::shape("clusters", format!("{count} clusters of {} patches", patches.len())));
    }
    let mut values = PatchValues::default();
    features.read(&patches, Reads { coords: by == By::Places, ..Reads::GLOBAL }, &mut values)?;
    let points: Vec<f64> = match by {
        By::Places => values.coords.iter().flatten().copied().collect(),
        By::Features => values.global.iter().map(|&v| f64::from(v)).collect(),
    };
    let dim = points.len() / patches.len();
    let bytes: Vec<u8> = points.iter().flat_map(|v| v.to_le_bytes()).collect();
    let begin = kmeans::plus_plus(&points, dim, k, Philox::named(fnv1a(&bytes), "clusters"))?;
    let found = kmeans::lloyd(&points, dim, begin)?;
    let corners: Vec<f64> = values.coords.iter().flatten().copied().collect();
    let width = values.global.len() / patches.len();
    let global = found.means(&values.global, width).into_iter().map(|v| v as f32).collect();
    let coords = found.means(&corners, 2).chunks_exact(2).map(|c| [c[0], c[1]]).collect();
    let values = PatchValues { global, coords, cube: Vec::new() };
    Ok(Rows { features: HostFeatures { patches: k, values }, of_patch: found.assignment })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three patches around each of four corners, features that say which.
    fn corners() -> HostFeatures {
        let places = (0..12).map(|i| [f64::from(i % 4 / 2) * 1e4, f64::from(i % 2) * 1e4 + f64::from(i / 4)]);
        let global = (0..12).flat_map(|i| [(i % 4) as f32, i as f32]).collect();
        let values = PatchValues { global, cube: Vec::new(), coords: places.collect() };
        HostFeatures { patches: 12, values }
    }

    #[test]
    fn neighbours_become_one_row_of_their_mean() -> Result<()> {
        let rows = clustered(&corners(), By::Places, 4)?;
        assert_eq!(rows.features.patches, 4);
        for (patch, &row) in rows.of_patch.iter().enumerate() {
            assert_eq!(row, rows.of_patch[patch % 4], "patch {patch} stays with its neighbours");
            let corner = patch % 4;
            assert_eq!(rows.features.values.global[2 * row..][..2], [corner as f32, (corner + 4) as f32]);
            let y = (corner % 2) as f64 * 1e4 + 1.0;
            assert_eq!(rows.features.values.coords[row], [(corner / 2) as f64 * 1e4, y]);
        }
        Ok(())
    }

    #[test]
    fn a_short_slide_keeps_its_patches() -> Result<()> {
        let rows = clustered(&corners(), By::Features, 100)?;
        let mut seen = rows.of_patch.clone();
        seen.sort_unstable();
        assert_eq!((rows.features.patches, seen), (12, (0..12).collect()));
        assert!(clustered(&corners(), By::Places, 0).is_err());
        Ok(())
    }
}
