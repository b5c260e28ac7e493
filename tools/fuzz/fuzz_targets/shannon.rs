//! Any bytes as a stream, and any bytes as an image: streams are refused or give an image, images come back, and the score is the
//! stream's length. The first two bytes choose the image's width and how often its bytes repeat.
#![no_main]

use isg::{image::RgbImage, select::shannon};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(image) = shannon::decode(data) {
        assert_eq!(image.pixels.len(), 3 * image.width_px * image.height_px);
    }
    let [width, repeats, pixels @ ..] = data else { return };
    let width_px = 1 + usize::from(*width);
    let pixels = pixels.repeat(1 + usize::from(*repeats));
    let height_px = (pixels.len() / (3 * width_px)).min(300);
    if height_px == 0 {
        return;
    }
    let image = RgbImage { width_px, height_px, pixels: pixels[..3 * width_px * height_px].to_vec() };
    let mut stream = shannon::encode(&image).expect("an image of pixels");
    assert_eq!(shannon::bits(&image), 8 * stream.len() as u64);
    assert!(shannon::decode(&stream).expect("a sound stream") == image);
    // A broken stream is refused, or, where the checksum does not cover the bit, gives the same image.
    let at = (pixels.len() * 31) % stream.len();
    stream[at] ^= 1 << (pixels.len() % 8);
    if let Ok(other) = shannon::decode(&stream) {
        assert!(other == image);
    }
});
