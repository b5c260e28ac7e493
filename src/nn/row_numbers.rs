//! For each row of a matrix of sequences, which sequence it is of and its place in it: how a number for each sequence, or one
//! for each place, comes to the rows by a gather.

use crate::{
    device::{Device, host::HostBuffer},
    error::Result,
    tensor::Tensor,
};

/// Both in the device's memory, so that a captured step can be replayed with other lengths.
pub struct RowNumbers {
    /// i32 `[rows]`: which sequence each row is of.
    pub owners: Tensor,
    /// i32 `[rows]`: each row's place in its sequence.
    pub places: Tensor,
}

impl RowNumbers {
    pub(super) fn new(lengths: &[usize], device: &Device) -> Result<RowNumbers> {
        let [owners, places] = numbers(lengths).map(|values| {
            let rows = values.len();
            Tensor::from_vec(values, [rows], device)
        });
        Ok(RowNumbers { owners: owners?, places: places? })
    }

    pub(super) fn overwrite(&mut self, lengths: &[usize]) -> Result<()> {
        let [owners, places] = numbers(lengths);
        self.owners.overwrite(HostBuffer::I32(owners))?;
        self.places.overwrite(HostBuffer::I32(places))
    }
}

fn numbers(lengths: &[usize]) -> [Vec<i32>; 2] {
    let rows = lengths.iter().enumerate().flat_map(|(owner, &length)| (0..length).map(move |place| (owner, place)));
    let (owners, places) = rows.map(|(owner, place)| (owner as i32, place as i32)).unzip();
    [owners, places]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_by_sequence() {
        assert_eq!(numbers(&[2, 1, 3]), [vec![0, 0, 1, 2, 2, 2], vec![0, 1, 0, 0, 1, 2]]);
    }
}
