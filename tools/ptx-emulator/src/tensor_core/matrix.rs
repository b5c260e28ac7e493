//! `ldmatrix`, `stmatrix`, `movmatrix`: 8x8 matrices of 16-bit elements between rows of 16 bytes and fragments.
//!
//! Lane `4r+t` holds the elements (r, 2t) and (r, 2t+1); transposed, (2t, r) and (2t+1, r).

use super::Lanes;

/// Eight rows of 16 bytes, as words.
pub type Rows = [[u32; 4]; 8];

/// Rows of an 8x8 matrix as the fragment that `ldmatrix` makes of them.
#[inline(always)]
pub fn from_rows(rows: &Rows, transposed: bool) -> Lanes {
    let mut fragment = [0; 32];
    for (r, row) in rows.iter().enumerate() {
        fragment[4 * r..4 * r + 4].copy_from_slice(row);
    }
    if transposed { transpose(&fragment) } else { fragment }
}

/// The rows that `stmatrix` writes for a fragment.
#[inline(always)]
pub fn to_rows(fragment: &Lanes, transposed: bool) -> Rows {
    let fragment = if transposed { transpose(fragment) } else { *fragment };
    std::array::from_fn(|r| std::array::from_fn(|t| fragment[4 * r + t]))
}

/// The fragment of the transposed matrix: `movmatrix`.
#[inline(always)]
pub fn transpose(fragment: &Lanes) -> Lanes {
    let element = |row: usize, column: usize| fragment[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    std::array::from_fn(|lane| {
        let (r, t) = (lane / 4, lane % 4);
        element(2 * t, r) | element(2 * t + 1, r) << 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered() -> Rows {
        let at = |r: usize, c: usize| (8 * r + c) as u32;
        std::array::from_fn(|r| std::array::from_fn(|t| at(r, 2 * t) | at(r, 2 * t + 1) << 16))
    }

    #[test]
    fn lanes_hold_neighbours_of_a_row() {
        let fragment = from_rows(&numbered(), false);
        for lane in 0..32 {
            let (r, t) = (lane / 4, lane % 4);
            assert_eq!(fragment[lane] & 0xffff, (8 * r + 2 * t) as u32);
            assert_eq!(fragment[lane] >> 16, (8 * r + 2 * t + 1) as u32);
        }
    }

    #[test]
    fn transposed_lanes_hold_neighbours_of_a_column() {
        let fragment = from_rows(&numbered(), true);
        for lane in 0..32 {
            let (r, t) = (lane / 4, lane % 4);
            assert_eq!(fragment[lane] & 0xffff, (8 * 2 * t + r) as u32);
            assert_eq!(fragment[lane] >> 16, (8 * (2 * t + 1) + r) as u32);
        }
    }

    #[test]
    fn stores_undo_loads() {
        for transposed in [false, true] {
            assert_eq!(to_rows(&from_rows(&numbered(), transposed), transposed), numbered());
        }
    }
}
