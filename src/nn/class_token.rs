//! A learned token in front of every sequence, as the vision transformer has it: what the others leave there is what the
//! sequence amounts to.

use crate::{device::host::HostBuffer, error::Result, nn::vit::Sequences, tensor::Tensor};

/// Sequences with one more row in front of each. The row numbers lie in the device's memory, so that a captured step can
/// be replayed with other lengths.
pub struct WithClassToken {
    /// The longer ones.
    pub sequences: Sequences,
    /// For each of their rows, the row of `[token; x]` that it is.
    rows: Tensor,
    /// The first row of each.
    first: Tensor,
}

impl WithClassToken {
    pub(super) fn new(sequences: &Sequences) -> Result<WithClassToken> {
        let device = sequences.offsets().device();
        let [rows, first] = numbers(sequences.lengths()).map(|v| Tensor::from_vec(v.clone(), [v.len()], device));
        Ok(WithClassToken {
            sequences: Sequences::new(&longer(sequences.lengths()), device)?,
            rows: rows?,
            first: first?,
        })
    }

    pub(super) fn overwrite(&mut self, lengths: &[usize]) -> Result<()> {
        let [rows, first] = numbers(lengths);
        self.rows.overwrite(HostBuffer::I32(rows))?;
        self.first.overwrite(HostBuffer::I32(first))?;
        self.sequences.overwrite(&longer(lengths))
    }

    /// `token` `[1, width]` before each sequence of `x` `[rows, width]`.
    pub fn prepend(&self, token: &Tensor, x: &Tensor) -> Result<Tensor> {
        Tensor::concat(&[&token.matching(x)?, x], 0)?.gather_rows(&self.rows)
    }

    /// The first rows, `[sequences, width]`.
    pub fn first_rows(&self, x: &Tensor) -> Result<Tensor> {
        x.gather_rows(&self.first)
    }
}

fn longer(lengths: &[usize]) -> Vec<usize> {
    lengths.iter().map(|length| length + 1).collect()
}

/// Rows of `[token; x]` in their new order, and where the tokens then are.
fn numbers(lengths: &[usize]) -> [Vec<i32>; 2] {
    let (mut rows, mut first) = (Vec::new(), Vec::new());
    let mut next = 1;
    for &length in lengths {
        first.push(rows.len() as i32);
        rows.push(0);
        rows.extend(next..next + length as i32);
        next += length as i32;
    }
    [rows, first]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_begins_with_the_token() {
        assert_eq!(numbers(&[2, 1, 3]), [vec![0, 1, 2, 0, 3, 0, 4, 5, 6], vec![0, 3, 5]]);
    }
}
