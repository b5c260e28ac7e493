//! Any bytes as a JPEG tile. The first byte chooses how much of the rest is taken as tables.
#![no_main]

use isg::slide::decode_jpeg::{Colours, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&split, rest)) = data.split_first() else { return };
    let (tables, stream) = rest.split_at(usize::from(split).min(rest.len()));
    let tables = (!tables.is_empty()).then_some(tables);
    for colours in [Colours::Rgb, Colours::YCbCr, Colours::FromMarkers] {
        if let Ok(decoded) = decode(tables, stream, colours, 1 << 20) {
            assert_eq!(decoded.samples.len(), decoded.width_px * decoded.height_px * decoded.channels);
        }
    }
});
