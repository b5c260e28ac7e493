//! Where an element lies, worked out at launch: the host's side of `kernels/common/index.cuh`.

use super::divmod::FastDivmod;
use crate::{
    error::{Error, Result},
    kernel_params,
};

/// The most axes a box has.
const AXES: usize = 6;
const INNER_AXES: usize = AXES - 1;

kernel_params! {
    /// Extents of a box, innermost axis first; the outermost needs none.
    pub struct Axes { extents: [FastDivmod; INNER_AXES], inner: u32 }

    /// Steps along the axes of a box in the same order, that of the outermost always last.
    pub struct Strides { of: [u64; AXES] }
}

kernel_params! {
    /// Divmods of a linear index over `[n, rows, cols, vectors]`.
    pub struct Pixels { vectors: FastDivmod, cols: FastDivmod, rows: FastDivmod }
}

impl Pixels {
    pub fn new(rows: usize, cols: usize, vectors: usize) -> Pixels {
        let of = |extent: usize| FastDivmod::new(extent as u32);
        Pixels { vectors: of(vectors), cols: of(cols), rows: of(rows) }
    }
}

/// An extent, or how many elements, threads or accesses, as kernels that count in 31 bits take it, or a sentence.
pub fn count31(op: &'static str, count: usize) -> Result<u32> {
    u32::try_from(count).ok().filter(|&count| count < 1 << 31).ok_or_else(|| {
        Error::shape(
            op,
            format!("{count} elements along an axis or in all; a GPU's kernels count to 2^31, split the batch"),
        )
    })
}

/// The widest access of 16, 8, 4, 2 or 1 bytes that divides all of these.
pub fn access_bytes(bytes: &[usize]) -> usize {
    let low_bits = bytes.iter().fold(16, |all, &b| all | b);
    1 << low_bits.trailing_zeros()
}

/// A coalesced loop nest over strided operands (PyTorch's `TensorIterator`). Axes are innermost first; those of extent one are
/// dropped, those contiguous to each other in all operands are merged.
#[derive(Clone, Debug, PartialEq)]
pub struct LoopNest<const OPERANDS: usize> {
    pub extents: Vec<usize>,
    pub strides: [Vec<usize>; OPERANDS],
}

impl<const OPERANDS: usize> LoopNest<OPERANDS> {
    /// `extents` and the operands' strides, outermost axis first as shapes give them.
    pub fn new(extents: &[usize], strides: [&[usize]; OPERANDS]) -> LoopNest<OPERANDS> {
        let mut nest = LoopNest { extents: Vec::new(), strides: std::array::from_fn(|_| Vec::new()) };
        for axis in (0..extents.len()).rev().filter(|&axis| extents[axis] != 1) {
            let together = nest.extents.last().is_some_and(|&inner| {
                (0..OPERANDS).all(|i| nest.strides[i].last().is_some_and(|&s| strides[i][axis] == s * inner))
            });
            if together {
                *nest.extents.last_mut().expect("an axis to join") *= extents[axis];
            } else {
                nest.extents.push(extents[axis]);
                nest.strides.iter_mut().zip(strides).for_each(|(all, strides)| all.push(strides[axis]));
            }
        }
        if nest.extents.is_empty() {
            nest.extents.push(1);
            nest.strides.iter_mut().for_each(|all| all.push(1));
        }
        nest
    }

    /// Whether the operand is broadcast along the innermost axis.
    pub fn repeats(&self, operand: usize) -> bool {
        self.strides[operand][0] == 0
    }

    pub fn axes(&self) -> Axes {
        axes(&self.extents)
    }
}

/// Extents as a kernel takes them, innermost first.
pub fn axes(extents: &[usize]) -> Axes {
    let inner = extents.len().saturating_sub(1);
    let mut divisors = [FastDivmod::new(1); INNER_AXES];
    for (divisor, &extent) in divisors.iter_mut().zip(&extents[..inner]) {
        *divisor = FastDivmod::new(extent as u32);
    }
    Axes { extents: divisors, inner: inner as u32 }
}

/// Steps as a kernel takes them, innermost first.
pub fn strides(steps: &[usize]) -> Strides {
    let mut of = [0; AXES];
    if let Some((&outermost, inner)) = steps.split_last() {
        of.iter_mut().zip(inner).for_each(|(of, &step)| *of = step as u64);
        of[INNER_AXES] = outermost as u64;
    }
    Strides { of }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shapes_are_one_axis_and_repeats_keep_theirs() {
        let whole = LoopNest::new(&[2, 3, 4], [&[12, 4, 1], &[12, 4, 1]]);
        assert_eq!((whole.extents, whole.strides), (vec![24], [vec![1], vec![1]]));
        let rows = LoopNest::new(&[2, 3, 4], [&[12, 4, 1], &[0, 0, 1]]);
        assert_eq!((&rows.extents, &rows.strides), (&vec![4, 6], &[vec![1, 4], vec![1, 0]]));
        assert!(!rows.repeats(1));
        let scalar = LoopNest::new(&[1, 1], [&[1, 1]]);
        assert_eq!(scalar.extents, [1]);
    }

    #[test]
    fn accesses_divide_everything() {
        assert_eq!(
            [access_bytes(&[32, 48]), access_bytes(&[24, 8]), access_bytes(&[6]), access_bytes(&[0, 7])],
            [16, 8, 2, 1]
        );
    }
}
