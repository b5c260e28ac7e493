//! Shapes: row-major, always contiguous, at most six dimensions.

use std::{fmt, ops::Deref};

use crate::dtype::DType;

/// The most dimensions a tensor has.
pub const MAX_RANK: usize = 6;

/// The extents of a tensor, outermost first. Copied freely; dereferences to a slice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// `None` where there are more than [`MAX_RANK`] dimensions or more elements than memory could hold.
    pub fn try_new(dims: &[usize]) -> Option<Shape> {
        let elems = dims.iter().try_fold(1usize, |product, &d| product.checked_mul(d))?;
        if dims.len() > MAX_RANK || elems > isize::MAX as usize / 8 {
            return None;
        }
        let mut shape = Shape { dims: [1; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        Some(shape)
    }

    pub const fn scalar() -> Shape {
        Shape { dims: [1; MAX_RANK], rank: 0 }
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn elems(&self) -> usize {
        self.iter().product()
    }

    /// Elements between neighbours along each axis.
    pub fn strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [1; MAX_RANK];
        for axis in (0..self.rank.saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * self.dims[axis + 1];
        }
        strides
    }

    /// The last extent (channels, columns); 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims[self.rank.max(1) - 1]
    }

    /// All elements but the last axis: the number of rows of the tensor seen as a matrix.
    pub fn rows(&self) -> usize {
        self.dims[..self.rank.saturating_sub(1)].iter().product()
    }

    /// The same shape with one extent replaced.
    pub fn with(mut self, axis: usize, extent: usize) -> Shape {
        self.dims[axis] = extent;
        self
    }

    /// `[n, h, w, c]` of an image batch, or `None`.
    pub fn nhwc(&self) -> Option<[usize; 4]> {
        self.as_array()
    }

    pub fn as_array<const N: usize>(&self) -> Option<[usize; N]> {
        (**self).try_into().ok()
    }

    /// The shape both operands broadcast to by NumPy's rules, or `None`.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank.max(other.rank);
        let mut out = Shape { dims: [1; MAX_RANK], rank };
        for back in 1..=rank {
            let extent = |s: &Shape| if back <= s.rank { s.dims[s.rank - back] } else { 1 };
            out.dims[rank - back] = match (extent(self), extent(other)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(out)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape::try_new(&dims).expect("at most six dimensions and fewer elements than memory holds")
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape::try_new(dims).expect("at most six dimensions and fewer elements than memory holds")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Shape and element type: all that is known of a tensor without its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spec {
    pub shape: Shape,
    pub dtype: DType,
}

impl Spec {
    pub fn new(shape: impl Into<Shape>, dtype: DType) -> Spec {
        Spec { shape: shape.into(), dtype }
    }

    pub fn bytes(&self) -> usize {
        self.shape.elems() * self.dtype.bytes()
    }
}
