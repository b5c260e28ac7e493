//! Full-range BT.601 YCbCr to RGB in 16-bit fixed point.
//!
//! Source: the JFIF definition with the rounding of the Independent JPEG Group's decoder (each chroma term rounded once,
//! green's two terms added before the shift), because that is what every reference reader of slides computes.

use crate::vectorised;

const fn fixed(factor: f64) -> i32 {
    (factor * 65536.0 + 0.5) as i32
}

#[inline(always)]
pub fn ycbcr_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = (const { fixed(1.402) } * cr + HALF) >> 16;
    let green = (HALF - const { fixed(0.34414) } * cb - const { fixed(0.71414) } * cr) >> 16;
    let blue = (const { fixed(1.772) } * cb + HALF) >> 16;
    [y + red, y + green, y + blue].map(|v| v.clamp(0, 255) as u8)
}

/// A row of each component to a row of interleaved RGB.
pub fn row_to_rgb(luma: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    const N: usize = 16;
    let (wide_out, last_out) = out.as_chunks_mut::<{ 3 * N }>();
    let [(luma, last_luma), (cb, last_cb), (cr, last_cr)] = [luma, cb, cr].map(|row| row.as_chunks::<N>());
    vectorised!({
        for (((out, luma), cb), cr) in wide_out.iter_mut().zip(luma).zip(cb).zip(cr) {
            // Apart first and then interleaved: each of the two loops becomes vector code.
            let (mut red, mut green, mut blue) = ([0; N], [0; N], [0; N]);
            for i in 0..N {
                [red[i], green[i], blue[i]] = ycbcr_to_rgb(luma[i], cb[i], cr[i]);
            }
            for i in 0..N {
                (out[3 * i], out[3 * i + 1], out[3 * i + 2]) = (red[i], green[i], blue[i]);
            }
        }
    });
    for (((out, &y), &cb), &cr) in last_out.chunks_exact_mut(3).zip(last_luma).zip(last_cb).zip(last_cr) {
        out.copy_from_slice(&ycbcr_to_rgb(y, cb, cr));
    }
}
