//! The problem size of a two-dimensional convolution on NHWC images: what its CPU and its GPU form share.

use crate::error::{Error, Result};

/// How the kernel moves over the image, alike in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conv2d {
    pub stride: usize,
    /// Zeros around the image on each side.
    pub padding: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
    /// Input and output channels fall into this many groups that do not see each other.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Conv2d {
        Conv2d { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

/// Every extent of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub conv: Conv2d,
    pub n: usize,
    /// Of `x`.
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// Of the kernel.
    pub r: usize,
    pub s: usize,
    pub k: usize,
    /// Of `y`.
    pub oh: usize,
    pub ow: usize,
}

impl Geometry {
    pub fn new(op: &'static str, conv: Conv2d, x: [usize; 4], w: [usize; 4]) -> Result<Geometry> {
        let ([n, h, width, c], [k, r, s, c_group]) = (x, w);
        let Conv2d { groups, stride, dilation, .. } = conv;
        let wrong = |what: String| Err(Error::shape(op, what));
        if groups == 0 || stride == 0 || dilation == 0 || r == 0 || s == 0 {
            return wrong(format!("{conv:?} with a {r}x{s} kernel: extents of zero"));
        }
        if c % groups != 0 || k % groups != 0 || c / groups != c_group {
            return wrong(format!("{c} channels, weight {w:?}, {groups} groups"));
        }
        let (Some(oh), Some(ow)) = (conv.out(h, r), conv.out(width, s)) else {
            return wrong(format!("the {r}x{s} kernel does not fit into {h}x{width} with {conv:?}"));
        };
        Ok(Geometry { conv, n, h, w: width, c, r, s, k, oh, ow })
    }

    pub fn x(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c]
    }

    pub fn y(&self) -> [usize; 4] {
        [self.n, self.oh, self.ow, self.k]
    }

    pub fn weight(&self) -> [usize; 4] {
        [self.k, self.r, self.s, self.c_group()]
    }

    pub fn c_group(&self) -> usize {
        self.c / self.conv.groups
    }

    pub fn k_group(&self) -> usize {
        self.k / self.conv.groups
    }

    /// Whether every output pixel sees its own input pixel alone: a 1 × 1 kernel, one plain GEMM per group.
    pub fn is_pointwise(&self) -> bool {
        let Conv2d { stride, padding, .. } = self.conv;
        [self.r, self.s, stride] == [1; 3] && padding == 0
    }

    /// Output pixels.
    pub fn pixels(&self) -> usize {
        self.n * self.oh * self.ow
    }

    /// Elements of an im2col row: all taps of a group's channels.
    pub fn depth(&self) -> usize {
        self.r * self.s * self.c_group()
    }
}

impl Conv2d {
    /// Positions of a kernel of `taps` along an extent, or `None` where it does not fit.
    fn out(&self, extent: usize, taps: usize) -> Option<usize> {
        let reach = self.dilation.checked_mul(taps - 1)?.checked_add(1)?;
        Some((extent + 2 * self.padding).checked_sub(reach)? / self.stride + 1)
    }
}
