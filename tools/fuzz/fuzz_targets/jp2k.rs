//! Any bytes as a JPEG 2000 tile.
#![no_main]

use isg::slide::decode_jp2k::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(decoded) = decode(data, 1 << 18) {
        assert_eq!(decoded.samples.len(), decoded.width_px * decoded.height_px * decoded.channels);
    }
});
