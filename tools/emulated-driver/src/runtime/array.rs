//! CUDA arrays, textures and surfaces: arrays are rows in device memory, textures and surfaces handles that the emulator knows.

use std::ffi::{c_int, c_uint, c_void};

use ptx_emulator::{AddressMode, TexelKind, Texture};

use super::{memory::Extent, told};
use crate::{
    abi::{Answer, error, exported, offer, put},
    state::{State, state},
    work::{Copy, Place, Work, queue, synchronise},
};

/// `cudaChannelFormatDesc`: bits of each channel, and what they hold.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Channels {
    bits: [c_int; 4],
    kind: c_int,
}

/// `cudaResourceDesc`
#[repr(C)]
pub struct Resource {
    kind: c_int,
    words: [usize; 16],
    flags: c_uint,
}

/// `cudaTextureDesc`, as far as it is read.
#[repr(C)]
pub struct Sampler {
    address_modes: [c_int; 3],
    filter: c_int,
    read_mode: c_int,
    srgb: c_int,
    border: [f32; 4],
    normalized: c_int,
}

/// A CUDA array: what its texels are and where they lie.
#[derive(Clone)]
pub(crate) struct Array {
    channels: Channels,
    /// As the program gave it: 0 for axes that are not there.
    extent: [usize; 3],
    flags: c_uint,
    texture: Texture,
}

const CUBE: c_uint = 4;

impl Array {
    /// Rows of it, from that byte of that row on.
    pub(super) fn place(&self, x_bytes: usize, y: usize, z: usize) -> Place {
        let row_bytes = self.texture.row_bytes as usize;
        let slice_rows = self.texture.extents[1] as usize;
        let address = self.texture.address as usize + x_bytes + row_bytes * (y + slice_rows * z);
        Place { address, row_bytes, slice_rows }
    }

    pub(super) fn texel_bytes(&self) -> usize {
        self.texture.texel_bytes() as usize
    }

    /// Whether these bytes of these rows lie in it.
    pub(super) fn holds(&self, x_bytes: usize, y: usize, [width, height, depth]: [usize; 3], z: usize) -> bool {
        let [columns, rows, slices] = self.texture.extents.map(|n| n as usize);
        x_bytes + width <= columns * self.texel_bytes() && y + height <= rows && z + depth <= slices
    }
}

/// What channels are as the emulator has them, or why they cannot be.
fn format(channels: &Channels) -> Result<(u32, u32, TexelKind), String> {
    let count = channels.bits.iter().take_while(|bits| **bits > 0).count() as u32;
    let bits = channels.bits[0];
    let kind = match channels.kind {
        0 => TexelKind::Signed,
        1 => TexelKind::Unsigned,
        2 => TexelKind::Float,
        other => return Err(format!("channels of format {other}, which are not emulated")),
    };
    if !matches!(count, 1 | 2 | 4)
        || !matches!(bits, 8 | 16 | 32)
        || channels.bits[..count as usize].iter().any(|b| *b != bits)
    {
        return Err(format!("channels of {:?} bits, not 1, 2 or 4 of 8, 16 or 32 each", channels.bits));
    }
    Ok((count, bits as u32 / 8, kind))
}

impl State {
    fn texels(
        &mut self,
        channels: &Channels,
        extents: [usize; 3],
        address: u64,
        pitch: Option<usize>,
    ) -> Answer<Texture> {
        let (count, channel_bytes, kind) = match format(channels) {
            Ok(format) => format,
            Err(wrong) => {
                self.refuse(&wrong);
                return Err(error::INVALID_VALUE);
            }
        };
        let texel_bytes = (count * channel_bytes) as usize;
        let row_bytes = pitch.unwrap_or_else(|| extents[0].saturating_mul(texel_bytes).next_multiple_of(16));
        let mut all = [1; 3];
        for (to, from) in all.iter_mut().zip(extents) {
            *to = u32::try_from(from.max(1)).map_err(|_| error::INVALID_VALUE)?;
        }
        Ok(Texture {
            address,
            extents: all,
            row_bytes: row_bytes as u64,
            slice_bytes: (row_bytes * all[1] as usize) as u64,
            channels: count,
            channel_bytes,
            kind,
            normalized_values: false,
            normalized_coordinates: false,
            linear: false,
            address_modes: [AddressMode::Clamp; 3],
            border: [0.0; 4],
        })
    }

    fn array(&mut self, channels: &Channels, extent: [usize; 3], flags: c_uint) -> Answer<*mut c_void> {
        if flags & CUBE != 0 {
            self.refuse("a cube map, which is not emulated");
            return Err(error::NOT_SUPPORTED);
        }
        if extent[0] == 0 {
            return Err(error::INVALID_VALUE);
        }
        let mut texture = self.texels(channels, extent, 0, None)?;
        texture.address = self.allocate(texture.slice_bytes as usize * texture.extents[2] as usize)?;
        Ok(self.arrays.insert(Array { channels: *channels, extent, flags, texture }))
    }

    /// What a resource is: a texture without a sampler.
    ///
    /// # Safety
    /// The resource is one.
    unsafe fn resource(&mut self, resource: &Resource) -> Answer<Texture> {
        let words = resource.words;
        let channels = {
            let bytes: *const u8 = resource.words.as_ptr().cast();
            // SAFETY: the channels follow the pointer, and end before the words do.
            unsafe { bytes.add(8).cast::<Channels>().read_unaligned() }
        };
        match resource.kind {
            0 => Ok(self.arrays.get(std::ptr::without_provenance::<c_void>(words[0]))?.texture.clone()),
            2 => {
                let mut texture = self.texels(&channels, [1, 1, 1], words[0] as u64, None)?;
                let count = words[4] as u64 / u64::from(texture.texel_bytes());
                texture.extents[0] = u32::try_from(count).map_err(|_| error::INVALID_VALUE)?;
                Ok(texture)
            }
            3 => self.texels(&channels, [words[4], words[5], 1], words[0] as u64, Some(words[6])),
            _ => {
                self.refuse("a texture of a mipmapped array, which is not emulated");
                Err(error::NOT_SUPPORTED)
            }
        }
    }

    fn handle(&mut self, texture: Texture) -> Answer<u64> {
        self.gpu.add_texture(texture).map_err(|wrong| {
            self.refuse(&wrong);
            error::INVALID_VALUE
        })
    }
}

/// Queues a copy of rows between an array and other memory.
#[allow(clippy::too_many_arguments, reason = "everything a copy is")]
fn rows(
    array: *const c_void,
    to_array: bool,
    x_bytes: usize,
    y: usize,
    memory: usize,
    pitch: usize,
    width: usize,
    height: usize,
    stream: *mut c_void,
) -> Answer {
    let extent = [width, height, 1];
    let array = state().arrays.get(array)?.clone();
    if !array.holds(x_bytes, y, extent, 0) {
        let [columns, rows, _] = array.texture.extents;
        state().refuse(&format!(
            "a copy of {height} rows of {width} bytes at byte {x_bytes} of row {y} of an array of {rows} rows of {} bytes",
            columns as usize * array.texel_bytes()
        ));
        return Err(error::INVALID_VALUE);
    }
    let (own, other) = (array.place(x_bytes, y, 0), Place { address: memory, row_bytes: pitch, slice_rows: 0 });
    let (to, from) = if to_array { (own, other) } else { (other, own) };
    queue(stream, Work::Copy(Copy { to, from, extent }))
}

/// The same of bytes that lie one after the other: whole rows, or part of one.
fn bytes(array: *const c_void, to_array: bool, x_bytes: usize, y: usize, memory: usize, count: usize) -> Answer {
    let whole = {
        let mut state = state();
        let array = state.arrays.get(array)?;
        let whole = array.texture.extents[0] as usize * array.texel_bytes();
        if count > whole && (x_bytes != 0 || !count.is_multiple_of(whole)) {
            state.refuse("a copy of part of several rows of an array; copy rows (cudaMemcpy2DToArray)");
            return Err(error::NOT_SUPPORTED);
        }
        whole
    };
    let (width, height) = if count > whole { (whole, count / whole) } else { (count, 1) };
    rows(array, to_array, x_bytes, y, memory, width, width, height, std::ptr::null_mut())?;
    synchronise(None)
}

/// # Safety
/// None is needed: it joins its arguments.
#[unsafe(no_mangle)]
pub extern "C" fn cudaCreateChannelDesc(x: c_int, y: c_int, z: c_int, w: c_int, kind: c_int) -> Channels {
    Channels { bits: [x, y, z, w], kind }
}

exported! { told;
    fn cudaMallocArray(array: *mut *mut c_void, channels: *const Channels, width: usize, height: usize, flags: c_uint) {
        put(array, state().array(&*channels, [width, height, 0], flags)?)
    }

    fn cudaMalloc3DArray(array: *mut *mut c_void, channels: *const Channels, extent: Extent, flags: c_uint) {
        put(array, state().array(&*channels, extent.sizes(), flags)?)
    }

    fn cudaFreeArray(array: *mut c_void) {
        if array.is_null() {
            return Ok(());
        }
        let mut state = state();
        let array = state.arrays.remove(array)?;
        state.free(array.texture.address as usize)
    }

    fn cudaGetChannelDesc(channels: *mut Channels, array: *const c_void) {
        put(channels, state().arrays.get(array)?.channels)
    }

    fn cudaArrayGetInfo(channels: *mut Channels, extent: *mut Extent, flags: *mut c_uint, array: *const c_void) {
        let array = state().arrays.get(array)?.clone();
        offer(channels, array.channels);
        offer(extent, Extent::from(array.extent));
        offer(flags, array.flags);
        Ok(())
    }

    fn cudaMemcpy2DToArray(
        array: *mut c_void,
        x_bytes: usize,
        y: usize,
        from: *const c_void,
        pitch: usize,
        width: usize,
        height: usize,
        _kind: c_int,
    ) {
        rows(array, true, x_bytes, y, from.addr(), pitch, width, height, std::ptr::null_mut())?;
        synchronise(None)
    }

    fn cudaMemcpy2DToArrayAsync(
        array: *mut c_void,
        x_bytes: usize,
        y: usize,
        from: *const c_void,
        pitch: usize,
        width: usize,
        height: usize,
        _kind: c_int,
        stream: *mut c_void,
    ) {
        rows(array, true, x_bytes, y, from.addr(), pitch, width, height, stream)
    }

    fn cudaMemcpy2DFromArray(
        to: *mut c_void,
        pitch: usize,
        array: *const c_void,
        x_bytes: usize,
        y: usize,
        width: usize,
        height: usize,
        _kind: c_int,
    ) {
        rows(array, false, x_bytes, y, to.addr(), pitch, width, height, std::ptr::null_mut())?;
        synchronise(None)
    }

    fn cudaMemcpy2DFromArrayAsync(
        to: *mut c_void,
        pitch: usize,
        array: *const c_void,
        x_bytes: usize,
        y: usize,
        width: usize,
        height: usize,
        _kind: c_int,
        stream: *mut c_void,
    ) {
        rows(array, false, x_bytes, y, to.addr(), pitch, width, height, stream)
    }

    fn cudaMemcpyToArray(
        array: *mut c_void,
        x_bytes: usize,
        y: usize,
        from: *const c_void,
        count: usize,
        _kind: c_int,
    ) {
        bytes(array, true, x_bytes, y, from.addr(), count)
    }

    fn cudaMemcpyFromArray(
        to: *mut c_void,
        array: *const c_void,
        x_bytes: usize,
        y: usize,
        count: usize,
        _kind: c_int,
    ) {
        bytes(array, false, x_bytes, y, to.addr(), count)
    }

    fn cudaCreateTextureObject(
        handle: *mut u64,
        resource: *const Resource,
        sampler: *const Sampler,
        view: *const c_void,
    ) {
        let mut state = state();
        if !view.is_null() {
            state.refuse("a texture of another view of its resource, which is not emulated");
            return Err(error::NOT_SUPPORTED);
        }
        let (mut texture, sampler) = (state.resource(&*resource)?, &*sampler);
        let mode = |mode: c_int| match mode {
            0 => AddressMode::Wrap,
            2 => AddressMode::Mirror,
            3 => AddressMode::Border,
            _ => AddressMode::Clamp,
        };
        texture.address_modes = sampler.address_modes.map(mode);
        texture.linear = sampler.filter == 1;
        texture.normalized_values = sampler.read_mode == 1;
        texture.normalized_coordinates = sampler.normalized != 0;
        texture.border = sampler.border;
        if sampler.srgb != 0 {
            state.refuse("a texture of sRGB values, which are not converted here");
            return Err(error::NOT_SUPPORTED);
        }
        put(handle, state.handle(texture)?)
    }

    fn cudaDestroyTextureObject(handle: u64) {
        if state().gpu.remove_texture(handle) { Ok(()) } else { Err(error::INVALID_VALUE) }
    }

    fn cudaCreateSurfaceObject(handle: *mut u64, resource: *const Resource) {
        let mut state = state();
        let surface = state.resource(&*resource)?;
        put(handle, state.handle(surface)?)
    }

    fn cudaDestroySurfaceObject(handle: u64) {
        if state().gpu.remove_texture(handle) { Ok(()) } else { Err(error::INVALID_VALUE) }
    }
}

const _: () = assert!(size_of::<Resource>() == 144 && size_of::<Channels>() == 20);
