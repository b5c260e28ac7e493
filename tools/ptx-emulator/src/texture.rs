//! Textures and surfaces: what a handle stands for, and which texels a coordinate means.

/// What the channels of a texel hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TexelKind {
    /// Unsigned integers of 8, 16 or 32 bits.
    Unsigned,
    /// Signed integers of 8, 16 or 32 bits.
    Signed,
    /// Floats of 16 or 32 bits.
    Float,
}

/// What lies beyond the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressMode {
    /// The texture again. Of normalised coordinates only; of others as [`AddressMode::Clamp`].
    Wrap,
    /// The texel at the edge.
    Clamp,
    /// The texture, turned about. Of normalised coordinates only; of others as [`AddressMode::Clamp`].
    Mirror,
    /// The border's colour.
    Border,
}

/// A texture or surface in global memory, by which kernels read and write texels ([`crate::Gpu::add_texture`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Texture {
    /// Address of its first texel.
    pub address: u64,
    /// Texels along x, y and z; 1 where there is no such axis. The layers of layered textures are the last axis.
    pub extents: [u32; 3],
    /// Bytes from one row to the next.
    pub row_bytes: u64,
    /// Bytes from one slice or layer to the next.
    pub slice_bytes: u64,
    /// Channels of a texel: 1, 2 or 4.
    pub channels: u32,
    /// Bytes of a channel: 1, 2 or 4.
    pub channel_bytes: u32,
    /// What channels hold.
    pub kind: TexelKind,
    /// Integers are read as floats, from -1 or 0 to 1.
    pub normalized_values: bool,
    /// Coordinates go from 0 to 1.
    pub normalized_coordinates: bool,
    /// Reads give a mean of the texels around, by weights of 8 bits.
    pub linear: bool,
    /// What lies beyond each axis.
    pub address_modes: [AddressMode; 3],
    /// The colour beyond a border.
    pub border: [f32; 4],
}

/// A texel of one axis and its weight; None beyond a border.
pub(crate) type Tap = (Option<u32>, f32);

impl Texture {
    /// Bytes of a texel.
    pub fn texel_bytes(&self) -> u32 {
        self.channels * self.channel_bytes
    }

    /// Address of a texel.
    pub(crate) fn texel(&self, at: [u32; 3]) -> u64 {
        let [x, y, z] = at.map(u64::from);
        self.address
            .wrapping_add(x * u64::from(self.texel_bytes()))
            .wrapping_add(y * self.row_bytes)
            .wrapping_add(z * self.slice_bytes)
    }

    /// The texel number `at` of an axis, which may lie outside.
    fn inside(&self, axis: usize, at: i64) -> Option<u32> {
        let extent = i64::from(self.extents[axis]);
        let within = |at: i64| at.clamp(0, extent - 1) as u32;
        match self.address_modes[axis] {
            AddressMode::Border => (0..extent).contains(&at).then_some(at as u32),
            AddressMode::Wrap if self.normalized_coordinates => Some(at.rem_euclid(extent) as u32),
            AddressMode::Mirror if self.normalized_coordinates => {
                let at = at.rem_euclid(2 * extent);
                Some(at.min(2 * extent - 1 - at) as u32)
            }
            AddressMode::Wrap | AddressMode::Clamp | AddressMode::Mirror => Some(within(at)),
        }
    }

    /// The texels of an axis that a coordinate reads. With one only, the second has no weight.
    pub(crate) fn taps(&self, axis: usize, coordinate: f32) -> [Tap; 2] {
        let scale = if self.normalized_coordinates { f64::from(self.extents[axis]) } else { 1.0 };
        let at = f64::from(coordinate) * scale;
        if !self.linear {
            return [(self.inside(axis, at.floor() as i64), 1.0), (None, 0.0)];
        }
        let (low, at) = ((at - 0.5).floor(), at - 0.5);
        let weight = ((at - low) * 256.0).round() / 256.0;
        let low = low as i64;
        [(self.inside(axis, low), 1.0 - weight as f32), (self.inside(axis, low.saturating_add(1)), weight as f32)]
    }

    /// The texel that a whole number means: nothing outside.
    pub(crate) fn fetched(&self, axis: usize, at: i32) -> Tap {
        (u32::try_from(at).ok().filter(|at| *at < self.extents[axis]), 1.0)
    }

    /// The layer that a number means.
    pub(crate) fn layer(&self, axis: usize, at: u32) -> Tap {
        (Some(at.min(self.extents[axis].saturating_sub(1))), 1.0)
    }

    /// The channels of a texel as registers hold them: floats, or integers where it holds those and they are not normalised.
    pub(crate) fn channels(&self, bytes: &[u8]) -> [u32; 4] {
        let one = if self.gives_floats() { 1f32.to_bits() } else { 1 };
        let mut out = [0, 0, 0, one];
        for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(self.channel_bytes as usize)) {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            let bits = u32::from_le_bytes(word);
            let spare = 32 - 8 * self.channel_bytes;
            let signed = ((bits << spare) as i32) >> spare;
            let most = f64::from(u32::MAX >> spare);
            *out = match self.kind {
                TexelKind::Float if self.channel_bytes == 2 => half::f16::from_bits(bits as u16).to_f32().to_bits(),
                TexelKind::Float => bits,
                TexelKind::Unsigned if self.normalized_values => ((f64::from(bits) / most) as f32).to_bits(),
                TexelKind::Signed if self.normalized_values => {
                    ((f64::from(signed) / ((most - 1.0) / 2.0)).max(-1.0) as f32).to_bits()
                }
                TexelKind::Unsigned => bits,
                TexelKind::Signed => signed as u32,
            };
        }
        out
    }

    /// Registers get floats, not integers.
    pub(crate) fn gives_floats(&self) -> bool {
        self.kind == TexelKind::Float || self.normalized_values
    }

    /// The border's colour, as [`Texture::channels`].
    pub(crate) fn beyond(&self) -> [u32; 4] {
        match self.gives_floats() {
            true => self.border.map(f32::to_bits),
            false => self.border.map(|value| value as i32 as u32),
        }
    }

    /// Why it cannot be.
    pub(crate) fn check(&self) -> Result<(), String> {
        let bytes = match self.kind {
            TexelKind::Float => &[2, 4][..],
            TexelKind::Unsigned | TexelKind::Signed => &[1, 2, 4],
        };
        if !matches!(self.channels, 1 | 2 | 4) || !bytes.contains(&self.channel_bytes) {
            return Err(format!("a texture of {} channels of {} bytes", self.channels, self.channel_bytes));
        }
        if self.extents.contains(&0) {
            return Err("a texture without a texel along one axis".into());
        }
        if self.linear && !self.gives_floats() {
            return Err("a linear filter over integers that are not normalised".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texture(mode: AddressMode, normalized_coordinates: bool, linear: bool) -> Texture {
        Texture {
            address: 0,
            extents: [4, 1, 1],
            row_bytes: 16,
            slice_bytes: 16,
            channels: 1,
            channel_bytes: 4,
            kind: TexelKind::Float,
            normalized_values: false,
            normalized_coordinates,
            linear,
            address_modes: [mode; 3],
            border: [0.0; 4],
        }
    }

    #[test]
    fn coordinates_beyond_the_edge() {
        let at = |mode, normalized, x| texture(mode, normalized, false).taps(0, x)[0].0;
        assert_eq!(
            [-1.0, 0.5, 3.9, 9.0].map(|x| at(AddressMode::Clamp, false, x)),
            [Some(0), Some(0), Some(3), Some(3)]
        );
        assert_eq!([-0.1, 3.0, 4.0].map(|x| at(AddressMode::Border, false, x)), [None, Some(3), None]);
        assert_eq!([-0.1, 1.0, 1.3].map(|x| at(AddressMode::Wrap, true, x)), [Some(3), Some(0), Some(1)]);
        assert_eq!([-0.1, 1.0, 1.3].map(|x| at(AddressMode::Mirror, true, x)), [Some(0), Some(3), Some(2)]);
        assert_eq!(at(AddressMode::Wrap, false, 5.0), Some(3), "as clamped");
    }

    #[test]
    fn filters_weigh_neighbours() {
        let taps = |x| texture(AddressMode::Clamp, false, true).taps(0, x);
        assert_eq!(taps(1.5), [(Some(1), 1.0), (Some(2), 0.0)]);
        assert_eq!(taps(2.0), [(Some(1), 0.5), (Some(2), 0.5)]);
        assert_eq!(taps(0.0), [(Some(0), 0.5), (Some(0), 0.5)]);
        // Weights have eight bits.
        assert_eq!(taps(1.501), [(Some(1), 1.0), (Some(2), 0.0)]);
    }

    #[test]
    fn integers_become_floats_of_one() {
        let mut texture = texture(AddressMode::Clamp, false, false);
        (texture.channels, texture.channel_bytes, texture.kind) = (4, 1, TexelKind::Unsigned);
        assert_eq!(texture.channels(&[0, 1, 128, 255]), [0, 1, 128, 255]);
        texture.normalized_values = true;
        assert_eq!(texture.channels(&[0, 51, 102, 255]).map(f32::from_bits), [0.0, 0.2, 0.4, 1.0]);
        texture.kind = TexelKind::Signed;
        assert_eq!(texture.channels(&[127, 0, 0x81, 0x80]).map(f32::from_bits), [1.0, 0.0, -1.0, -1.0]);
    }
}
