//! Full-range BT.601 YCbCr to RGB in 16-bit fixed point.
//!
//! Source: the JFIF definition with the rounding of the Independent JPEG Group's decoder (each chroma term rounded once,
//! green's two terms added before the shift), because that is what every reference reader of slides computes.

use std::sync::LazyLock;

/// The chroma terms by byte value: red and blue already rounded, green's two still scaled by 2^16.
pub struct ChromaTables {
    pub red_from_cr: [i32; 256],
    pub blue_from_cb: [i32; 256],
    pub green_from_cr: [i32; 256],
    pub green_from_cb: [i32; 256],
}

pub static CHROMA: LazyLock<ChromaTables> = LazyLock::new(|| {
    const HALF: i32 = 1 << 15;
    let fixed = |factor: f64| (factor * 65536.0 + 0.5) as i32;
    let each = |term: &dyn Fn(i32) -> i32| std::array::from_fn(|i| term(i as i32 - 128));
    ChromaTables {
        red_from_cr: each(&|x| (fixed(1.402) * x + HALF) >> 16),
        blue_from_cb: each(&|x| (fixed(1.772) * x + HALF) >> 16),
        green_from_cr: each(&|x| -fixed(0.71414) * x),
        green_from_cb: each(&|x| -fixed(0.34414) * x + HALF),
    }
});

pub fn ycbcr_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (tables, y, cb, cr) = (&*CHROMA, i32::from(y), usize::from(cb), usize::from(cr));
    let green = (tables.green_from_cb[cb] + tables.green_from_cr[cr]) >> 16;
    [y + tables.red_from_cr[cr], y + green, y + tables.blue_from_cb[cb]].map(|v| v.clamp(0, 255) as u8)
}
