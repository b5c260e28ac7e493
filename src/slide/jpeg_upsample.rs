//! Chroma planes back to full resolution: the triangle filter for factors of two, replication for the rest.
//!
//! Source: the "fancy upsampling" of the Independent JPEG Group's decoder and libjpeg-turbo's vertical variant, with
//! their alternating rounding, which every reference reader of slides applies. Edges repeat the last real sample.

/// One component's decoded samples.
pub struct Plane {
    pub samples: Vec<u8>,
    /// Bytes from row to row: whole blocks.
    pub stride: usize,
    /// Samples that belong to the image.
    pub width: usize,
    pub height: usize,
}

impl Plane {
    pub fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.width]
    }
}

/// Row `y` of the plane at full resolution, `across` and `down` being the sampling factors, not both 1; `out` is at least
/// `across * plane.width` long.
pub fn row(plane: &Plane, across: usize, down: usize, y: usize, out: &mut [u8]) {
    let near = plane.row((y / down).min(plane.height - 1));
    match (across, down) {
        (2, 1) if plane.width > 2 => widen(near, out),
        (1, 2) => {
            let far = neighbour(plane, y);
            let bias = 1 + u16::from(y % 2 == 1);
            let pairs = near.iter().zip(far);
            out.iter_mut()
                .zip(pairs)
                .for_each(|(o, (&n, &f))| *o = ((3 * u16::from(n) + u16::from(f) + bias) >> 2) as u8);
        }
        (2, 2) if plane.width > 2 => widen_between(near, neighbour(plane, y), out),
        _ => out.chunks_mut(across).zip(near).for_each(|(o, &n)| o.fill(n)),
    }
}

/// The next nearest row: above for even output rows, below for odd ones.
fn neighbour(plane: &Plane, y: usize) -> &[u8] {
    let i = y / 2;
    plane.row(if y.is_multiple_of(2) { i.saturating_sub(1) } else { (i + 1).min(plane.height - 1) })
}

fn widen(input: &[u8], out: &mut [u8]) {
    let n = input.len();
    let at = |i: usize| u16::from(input[i]);
    out[0] = input[0];
    out[1] = ((3 * at(0) + at(1) + 2) >> 2) as u8;
    for (o, w) in out[2..2 * n - 2].chunks_exact_mut(2).zip(input.windows(3)) {
        let middle = 3 * u16::from(w[1]);
        o[0] = ((middle + u16::from(w[0]) + 1) >> 2) as u8;
        o[1] = ((middle + u16::from(w[2]) + 2) >> 2) as u8;
    }
    out[2 * n - 2] = ((3 * at(n - 1) + at(n - 2) + 1) >> 2) as u8;
    out[2 * n - 1] = input[n - 1];
}

fn widen_between(near: &[u8], far: &[u8], out: &mut [u8]) {
    let n = near.len();
    let sum = |i: usize| 3 * u16::from(near[i]) + u16::from(far[i]);
    out[0] = ((4 * sum(0) + 8) >> 4) as u8;
    out[1] = ((3 * sum(0) + sum(1) + 7) >> 4) as u8;
    let inner = out[2..2 * n - 2].chunks_exact_mut(2).zip(near.windows(3).zip(far.windows(3)));
    for (o, (a, b)) in inner {
        let sum = |i: usize| 3 * u16::from(a[i]) + u16::from(b[i]);
        o[0] = ((3 * sum(1) + sum(0) + 8) >> 4) as u8;
        o[1] = ((3 * sum(1) + sum(2) + 7) >> 4) as u8;
    }
    out[2 * n - 2] = ((3 * sum(n - 1) + sum(n - 2) + 8) >> 4) as u8;
    out[2 * n - 1] = ((4 * sum(n - 1) + 7) >> 4) as u8;
}
