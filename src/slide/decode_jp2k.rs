//! JPEG 2000 tiles.
pub struct Decoded {
    pub width_px: usize,
    pub height_px: usize,
    pub channels: usize,
    pub samples: Vec<u8>,
}
pub fn decode(data: &[u8], _max_px: usize) -> Result<Decoded, String> {
    let settings = hayro_jpeg2000::DecodeSettings::default();
    let image = hayro_jpeg2000::Image::new(data, &settings).map_err(|e| format!("{e}"))?;
    let mut context = hayro_jpeg2000::DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(|e| format!("{e}"))?;
    Ok(Decoded {
        width_px: image.width() as usize,
        height_px: image.height() as usize,
        channels: decoded.components().len(),
        samples: decoded.data_u8(),
    })
}
