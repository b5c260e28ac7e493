//! A bar of known length on a picture of a slide, and its length in words beside it.

use crate::image::RgbImage;

/// Draws a bar of a round length, about a fifth of the picture's width, with its length above it. `um_per_px` is the picture's
/// own scale.
pub fn draw(image: &mut RgbImage, um_per_px: f64) {
    let width_um = image.width_px as f64 * um_per_px;
    if !(width_um.is_finite() && width_um > 0.0) || image.width_px < 60 || image.height_px < 24 {
        return;
    }
    let length_um = round_length(width_um / 5.0);
    let length_px = (length_um / um_per_px).round() as usize;
    let unit = (image.width_px / 200).max(1);
    let (thick, margin) = (3 * unit, 6 * unit);
    let (left, top) = (margin, image.height_px - margin - thick);
    let label = words(length_um);
    // On white, so that it can be read on any tissue.
    let right = (left + length_px.max(label.chars().count() * 6 * unit)).min(image.width_px - 1);
    let text_top = top.saturating_sub(9 * unit);
    fill(image, [left.saturating_sub(unit), text_top - unit.min(text_top), right + unit, top + thick + unit], [255; 3]);
    fill(image, [left, top, left + length_px, top + thick], [0; 3]);
    for (i, letter) in label.chars().enumerate() {
        put(image, letter, [left + i * 6 * unit, text_top], unit);
    }
}

/// The longest of 1, 2 and 5 times a power of ten that is not above `most`.
fn round_length(most: f64) -> f64 {
    let power = 10f64.powf(most.log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|times| times * power).find(|length| *length <= most).unwrap_or(power)
}

fn words(um: f64) -> String {
    if um >= 1000.0 { format!("{} mm", um / 1000.0) } else { format!("{um} µm") }
}

fn fill(image: &mut RgbImage, [x0, y0, x1, y1]: [usize; 4], rgb: [u8; 3]) {
    for y in y0..y1.min(image.height_px) {
        for x in x0..x1.min(image.width_px) {
            image.put(x, y, rgb);
        }
    }
}

/// The letters that a length needs, five by seven, one row a byte.
fn rows(letter: char) -> [u8; 7] {
    match letter {
        '0' => [0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e],
        '1' => [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e],
        '2' => [0x0e, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1f],
        '5' => [0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e],
        '.' => [0, 0, 0, 0, 0, 0x0c, 0x0c],
        'm' => [0, 0, 0x1a, 0x15, 0x15, 0x15, 0x15],
        'µ' => [0, 0, 0x11, 0x11, 0x13, 0x1d, 0x10],
        _ => [0; 7],
    }
}

fn put(image: &mut RgbImage, letter: char, [left, top]: [usize; 2], unit: usize) {
    for (y, row) in rows(letter).into_iter().enumerate() {
        for x in (0..5).filter(|x| row >> (4 - x) & 1 == 1) {
            let corner = [left + x * unit, top + y * unit];
            fill(image, [corner[0], corner[1], corner[0] + unit, corner[1] + unit], [0; 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_round_and_as_long_as_they_say() {
        assert_eq!([3.0, 7.9, 0.42, 1999.0].map(round_length), [2.0, 5.0, 0.2, 1000.0]);
        assert_eq!((words(200.0), words(2000.0)), ("200 µm".into(), "2 mm".into()));
        let mut image = RgbImage::filled(300, 200, [200, 60, 90]);
        draw(&mut image, 10.0); // 3 mm across: a bar of 500 µm is 50 px
        let bar = (0..300).filter(|&x| image.pixel(x, 192) == [0; 3]).count();
        assert_eq!(bar, 50);
        let mut tiny = RgbImage::filled(20, 10, [9; 3]);
        draw(&mut tiny, 1.0);
        assert_eq!(tiny, RgbImage::filled(20, 10, [9; 3]), "there is no room");
        draw(&mut image, f64::NAN);
    }
}
