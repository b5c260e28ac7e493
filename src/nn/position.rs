//! Where a token lies on its slide, as a vector that is added to it: sines and cosines of both coordinates, as the vision
//! transformer's MoCo v3 and MAE, or learned rows of a table.
//!
//! Places are counted in patches, absolute, so that a patch's vector depends on nothing but its own place. What follows from
//! places is computed on the host in f64 and uploaded with the batch.

use serde::{Deserialize, Serialize};

use crate::{
    device::host::HostBuffer,
    dtype::DType,
    error::{Error, Result},
    nn::builder::{Builder, Init},
    shape::Shape,
    tensor::Tensor,
};

/// What a token is told of its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionKind {
    /// Nothing: the tokens of a slide are a set.
    #[default]
    None,
    /// `[sin ωx, cos ωx, sin ωy, cos ωy]`, a quarter of the width each, `ω_j = 10000^(-j/quarter)`.
    Sincos2d,
    /// A learned row for every column of patches plus a learned row for every row of patches.
    Learned,
}

/// Columns and rows of patches that learned positions tell apart; whatever lies beyond shares the last.
const LEARNED_PLACES: usize = 256;

impl PositionKind {
    /// What [`Position::add`] reads for patches at these places (x, y); `None` where it reads nothing.
    pub fn input(self, places: &[[f64; 2]], width: usize, dtype: DType) -> Option<HostBuffer> {
        match self {
            PositionKind::None => None,
            PositionKind::Sincos2d => Some(HostBuffer::F64(sincos2d(places, width)).cast(dtype)),
            PositionKind::Learned => {
                let index = |axis: usize| {
                    let last = (LEARNED_PLACES - 1) as f64;
                    places.iter().map(move |p| (axis * LEARNED_PLACES) as i32 + p[axis].floor().clamp(0.0, last) as i32)
                };
                Some(HostBuffer::I32(index(0).chain(index(1)).collect()))
            }
        }
    }

    /// Shape of [`PositionKind::input`] for `n` patches.
    pub fn input_shape(self, n: usize, width: usize) -> Shape {
        match self {
            PositionKind::Learned => [2 * n].into(),
            _ => [n, width].into(),
        }
    }
}

/// Adds positions to tokens.
pub struct Position {
    kind: PositionKind,
    /// `[2 · places, width]`: the columns', then the rows'.
    table: Option<Tensor>,
}

impl Position {
    /// Parameter `position` `[2 · 256, width]` where they are learned.
    ///
    /// # Errors
    /// A width that four does not divide, for sines and cosines.
    pub fn new(b: &mut Builder, kind: PositionKind, width: usize) -> Result<Position> {
        if kind == PositionKind::Sincos2d && !width.is_multiple_of(4) {
            return Err(Error::shape("position", format!("a width that 4 divides wanted, got {width}")));
        }
        let table = match kind {
            // As BERT and the vision transformer begin them.
            PositionKind::Learned => Some(b.param("position", [2 * LEARNED_PLACES, width], Init::Normal(0.02))?),
            _ => None,
        };
        Ok(Position { kind, table })
    }

    /// `tokens` `[n, width]`; `input` is [`PositionKind::input`] of their places.
    pub fn add(&self, tokens: &Tensor, input: Option<&Tensor>) -> Result<Tensor> {
        if self.kind == PositionKind::None {
            return Ok(tokens.clone());
        }
        let input = input.ok_or_else(|| Error::shape("position", "the places of the patches were not read"))?;
        let Some(table) = &self.table else { return tokens.add(&input.matching(tokens)?) };
        let [n, width] = [tokens.shape().rows(), tokens.shape().last()];
        let both = table.gather_rows(input)?.reshape([2, n, width])?;
        tokens.add(&both.sum(&[0])?.reshape([n, width])?.cast(tokens.dtype())?)
    }
}

/// `[places, width]`; `width` is a multiple of 4.
fn sincos2d(places: &[[f64; 2]], width: usize) -> Vec<f64> {
    let quarter = width / 4;
    let omega = |j: usize| 10_000f64.powf(-(j as f64) / quarter as f64);
    let one = |place: &[f64; 2]| {
        let of_axis = |v: f64| {
            let phases = (0..quarter).map(move |j| omega(j) * v);
            phases.clone().map(f64::sin).chain(phases.map(f64::cos)).collect::<Vec<_>>()
        };
        [of_axis(place[0]), of_axis(place[1])].concat()
    };
    places.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_sines_and_cosines_of_both_axes() {
        let row = sincos2d(&[[3.0, 5.0]], 8);
        let wanted = [
            3f64.sin(),
            (0.03f64).sin(),
            3f64.cos(),
            (0.03f64).cos(),
            5f64.sin(),
            (0.05f64).sin(),
            5f64.cos(),
            (0.05f64).cos(),
        ];
        assert!(row.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-15), "{row:?}");
    }

    #[test]
    fn places_beyond_the_table_share_its_ends() {
        let places = [[-1.0, 0.5], [1e9, 255.0]];
        let Some(HostBuffer::I32(rows)) = PositionKind::Learned.input(&places, 8, DType::F32) else {
            panic!("row numbers")
        };
        assert_eq!(rows, [0, 255, 256, 511]);
    }
}
