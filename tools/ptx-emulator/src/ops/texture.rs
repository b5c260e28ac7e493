//! `tex`, `suld.b` and `sust.b`: reads and writes of texels by a handle. Reads of textures are as `ld.global.nc`: nobody may write
//! meanwhile. There are no mipmaps, so that levels and gradients say nothing.

use crate::{
    ast::{Base, Instruction, Operand},
    decode::{Decoded, Decoder, Reg, Symbol, flow},
    machine::{Block, Class, Ins, LANES, R64, Step, Warp},
    memory::Global,
    race::{self, Strength},
    report::{Fault, FaultKind},
    texture::{Tap, Texture},
    undefined::{self, Holes},
};

// Slots: 0..4 registers of the texel, 4 the handle, 5..9 coordinates, then what is known at load.
const HANDLE: usize = 4;
const COORDINATES: usize = 5;
const AXES: usize = 9;
const LAYERED: usize = 10;
const WHOLE: usize = 11;
const COUNT: usize = 12;
const BYTES: usize = 13;
const BEYOND: usize = 14;

/// What a surface does beyond its edge.
const TRAP: u32 = 0;
const CLAMP: u32 = 1;
const ZERO: u32 = 2;

/// Axes and whether there are layers.
fn geometry(i: &Instruction<'_>) -> Option<(u32, bool)> {
    i.parts.iter().find_map(|part| {
        Some(match *part {
            "1d" => (1, false),
            "2d" => (2, false),
            "3d" => (3, false),
            "a1d" => (1, true),
            "a2d" => (2, true),
            _ => return None,
        })
    })
}

/// The handle and the coordinates of `[handle, {x, y}]`.
fn place<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, index: usize, ins: &mut Ins) -> Decoded<()> {
    let Operand::Address { base: Base::Name(name), offset: 0, more } = d.operand(i, index)?.clone() else {
        return Err(d.unsupported(i));
    };
    let Some(Symbol::Register(Reg::R64(handle))) = d.find(name) else {
        return Err(d.refuse(i, "textures are named by a 64-bit register, not by a module's variable"));
    };
    let coordinates = match &more[..] {
        [Operand::Vector(all)] => all.clone(),
        [one] => vec![one.clone()],
        _ => return Err(d.unsupported(i)),
    };
    let Some((axes, layered)) = geometry(i) else { return Err(d.unsupported(i)) };
    if coordinates.len() < (axes + u32::from(layered)) as usize || coordinates.len() > 4 {
        return Err(d.refuse(i, "as many coordinates as axes are needed"));
    }
    (ins.slots[HANDLE], ins.slots[AXES], ins.slots[LAYERED]) = (handle, axes, layered.into());
    for (slot, coordinate) in coordinates.iter().enumerate() {
        ins.slots[COORDINATES + slot] = d.source32(i, coordinate, 32)?;
    }
    Ok(())
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    match (i.parts[0], i.parts.get(1)) {
        ("tex", _) => texture(d, i),
        ("suld" | "sust", Some(&"b")) => surface(d, i),
        _ => Ok(None),
    }
}

fn texture<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let [.., "v4", to @ ("f32" | "s32" | "u32"), from @ ("f32" | "s32")] = i.parts[..] else { return Ok(None) };
    let mut ins = d.blank(sample, Class::Memory);
    let registers = d.elements(i, 0)?;
    if registers.len() != 4 {
        return Err(d.refuse(i, "a texel needs four registers"));
    }
    for (slot, register) in registers.iter().enumerate() {
        ins.slots[slot] = d.destination32(i, register)?;
    }
    place(d, i, 1, &mut ins)?;
    ins.slots[WHOLE] = u32::from(from == "s32");
    ins.slots[COUNT] = 4;
    ins.slots[BEYOND] = u32::from(to == "f32");
    Ok(Some(ins))
}

fn surface<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let load = i.parts[0] == "suld";
    let bytes = i.parts.iter().find_map(|part| match *part {
        "b8" => Some(1),
        "b16" => Some(2),
        "b32" => Some(4),
        "b64" => Some(8),
        _ => None,
    });
    let Some(bytes) = bytes else { return Ok(None) };
    let (texel, at) = if load { (0, 1) } else { (1, 0) };
    let mut ins = d.blank(if load { read } else { write }, Class::Memory);
    let registers = d.elements(i, texel)?;
    let count = if i.has("v4") { 4 } else { 1 + usize::from(i.has("v2")) };
    if registers.len() != count || count * bytes > 16 {
        return Err(d.refuse(i, format!("{count} registers are needed, of at most 16 bytes together")));
    }
    for (slot, register) in registers.iter().enumerate() {
        ins.slots[slot] = match (load, bytes) {
            (true, 8) => d.destination64(i, register)?,
            (true, _) => d.destination32(i, register)?,
            (false, 8) => d.source64(i, register)?,
            (false, _) => d.source32(i, register, 8 * bytes as u32)?,
        };
    }
    place(d, i, at, &mut ins)?;
    (ins.slots[COUNT], ins.slots[BYTES]) = (count as u32, bytes as u32);
    ins.slots[BEYOND] = match () {
        () if i.has("clamp") => CLAMP,
        () if i.has("zero") => ZERO,
        () => TRAP,
    };
    Ok(Some(ins))
}

/// The texture of a lane's handle.
fn find<'a>(warp: &Warp, block: &Block<'a>, ins: &Ins, lane: usize) -> Result<&'a Texture, Fault> {
    let handle = warp.get64(ins.slots[HANDLE])[lane];
    let textures = block.launch.textures;
    textures.get(&handle).ok_or_else(|| {
        let message = format!("{handle:#x} is the handle of no texture or surface, or of one that was destroyed");
        block.fault(warp, lane as u32, FaultKind::Operand, message)
    })
}

/// The registers that an instruction gives.
fn results(ins: &Ins, wide: bool) -> Vec<flow::AnyRegister> {
    ins.slots[..ins.slots[COUNT] as usize]
        .iter()
        .map(|slot| if wide { flow::r64(*slot) } else { flow::r32(*slot) })
        .collect()
}

/// Bytes of one texel, and whether they were all written.
fn texel(warp: &Warp, block: &Block<'_>, lane: usize, address: u64, into: &mut [u8]) -> Result<bool, Fault> {
    let memory = block.launch.memory;
    let start = Global::offset(address) as usize;
    let Some(allocation) = memory.find(address).filter(|a| (start + into.len()) as u64 <= a.bytes) else {
        let fault = memory.fault(address, into.len() as u64, "a texture read");
        return Err(block.place(fault, warp.index, lane as u32));
    };
    let bytes = block.launch.memory.bytes(address, into.len() as u64).unwrap_or_default();
    into.copy_from_slice(bytes);
    let known = allocation.written.as_ref().map(|written| &written.slice()[start..start + into.len()]);
    Ok(known.is_none_or(|known| !known.contains(&0)))
}

/// The taps of each axis for one lane.
fn taps(warp: &Warp, ins: &Ins, texture: &Texture, lane: usize) -> [[Tap; 2]; 3] {
    let (axes, layered) = (ins.slots[AXES] as usize, ins.slots[LAYERED] != 0);
    let word = |n: usize| warp.get32(ins.slots[COORDINATES + n])[lane];
    let mut all = [[(Some(0), 1.0), (None, 0.0)]; 3];
    for (axis, taps) in all.iter_mut().enumerate().take(axes) {
        let word = word(axis + usize::from(layered));
        *taps = match ins.slots[WHOLE] {
            0 => texture.taps(axis, f32::from_bits(word)),
            _ => [texture.fetched(axis, word as i32), (None, 0.0)],
        };
    }
    if layered {
        all[2] = [texture.layer(2, word(0)), (None, 0.0)];
    }
    all
}

unsafe fn sample(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let mut sums = [[0f32; 4]; LANES];
    let mut whole = [[0u32; 4]; LANES];
    let mut holes: Option<Box<Holes>> = None;
    for lane in race::lanes(mask) {
        let texture = find(warp, block, ins, lane)?;
        if texture.gives_floats() != (ins.slots[BEYOND] != 0) {
            let message = "a texture of floats read as integers, or of integers read as floats";
            return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
        }
        let [xs, ys, zs] = taps(warp, ins, texture, lane);
        for ((x, y), z) in
            xs.iter().flat_map(|x| ys.iter().map(move |y| (x, y))).flat_map(|xy| zs.iter().map(move |z| (xy, z)))
        {
            let weight = x.1 * y.1 * z.1;
            if weight == 0.0 {
                continue;
            }
            let channels = match (x.0, y.0, z.0) {
                (Some(x), Some(y), Some(z)) => {
                    let address = texture.texel([x, y, z]);
                    let mut bytes = [0; 16];
                    let bytes = &mut bytes[..texture.texel_bytes() as usize];
                    let written = texel(warp, block, lane, address, bytes)?;
                    let (addresses, width): (R64, _) = ([address; LANES], bytes.len() as u32);
                    race::global_load(block, warp.index, 1 << lane, &addresses, width, Strength::ReadOnly, None)?;
                    if !written {
                        let holes = holes.get_or_insert_with(|| Box::new(Holes::new("texture")));
                        holes.add(16 * lane, &[0; 16], address, || {
                            block.launch.memory.find(address).map(|a| a.name.clone())
                        });
                    }
                    texture.channels(bytes)
                }
                // What is fetched by number has no border.
                _ if ins.slots[WHOLE] != 0 => [0; 4],
                _ => texture.beyond(),
            };
            for ((sum, whole), channel) in sums[lane].iter_mut().zip(&mut whole[lane]).zip(channels) {
                *sum += weight * f32::from_bits(channel);
                *whole = channel;
            }
            // One texel alone comes as it is.
            if weight == 1.0 {
                sums[lane] = channels.map(f32::from_bits);
                break;
            }
        }
        if texture.gives_floats() {
            whole[lane] = sums[lane].map(f32::to_bits);
        }
    }
    for channel in 0..4 {
        warp.set32(ins.slots[channel], std::array::from_fn(|lane| whole[lane][channel]), mask);
    }
    if holes.is_some() || warp.undefined.any() {
        undefined::loaded::<16>(warp, block, &results(ins, false), 4, mask, holes);
    }
    Ok(())
}

/// Address of a surface's bytes; None where the access has no effect.
fn spot(warp: &Warp, block: &Block<'_>, ins: &Ins, lane: usize) -> Result<Option<u64>, Fault> {
    let surface = find(warp, block, ins, lane)?;
    let (axes, layered) = (ins.slots[AXES] as usize, ins.slots[LAYERED] != 0);
    let word = |n: usize| i64::from(warp.get32(ins.slots[COORDINATES + n])[lane] as i32);
    let bytes = i64::from(ins.slots[COUNT] * ins.slots[BYTES]);
    let mut at = [0i64; 3];
    for (axis, at) in at.iter_mut().enumerate().take(axes) {
        *at = word(axis + usize::from(layered));
    }
    if layered {
        at[2] = word(0);
    }
    let [width, height, depth] = surface.extents.map(i64::from);
    let last = [width * i64::from(surface.texel_bytes()) - bytes, height - 1, depth - 1];
    let outside = at.iter().zip(last).any(|(at, last)| *at < 0 || *at > last);
    match ins.slots[BEYOND] {
        ZERO if outside => return Ok(None),
        CLAMP => at.iter_mut().zip(last).for_each(|(at, last)| *at = (*at).clamp(0, last.max(0))),
        _ if outside => {
            let [x, y, z] = at;
            let message = format!(
                "a surface access of {bytes} bytes at byte {x} of row {y} of slice {z}, of {} bytes, {height} rows and {depth} \
                 slices",
                width * i64::from(surface.texel_bytes())
            );
            return Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message));
        }
        _ => {}
    }
    if at[0] % bytes != 0 {
        let message = format!("a surface access of {bytes} bytes at byte {} of a row", at[0]);
        return Err(block.fault(warp, lane as u32, FaultKind::Misaligned, message));
    }
    let [x, y, z] = at.map(|at| at as u64);
    Ok(Some(surface.address.wrapping_add(x + y * surface.row_bytes + z * surface.slice_bytes)))
}

unsafe fn read(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (count, width) = (ins.slots[COUNT] as usize, ins.slots[BYTES] as usize);
    let mut found = [[0u8; 16]; LANES];
    let mut holes: Option<Box<Holes>> = None;
    for lane in race::lanes(mask) {
        let Some(address) = spot(warp, block, ins, lane)? else { continue };
        let written = texel(warp, block, lane, address, &mut found[lane][..count * width])?;
        let bytes = (count * width) as u32;
        race::global_load(block, warp.index, 1 << lane, &[address; LANES], bytes, Strength::Plain, None)?;
        if !written {
            let holes = holes.get_or_insert_with(|| Box::new(Holes::new("surface")));
            holes.add(16 * lane, &[0; 16], address, || block.launch.memory.find(address).map(|a| a.name.clone()));
        }
    }
    let value = |lane: usize, n: usize| {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&found[lane][n * width..(n + 1) * width]);
        u64::from_le_bytes(word)
    };
    for n in 0..count {
        match width {
            8 => warp.set64(ins.slots[n], std::array::from_fn(|lane| value(lane, n)), mask),
            _ => warp.set32(ins.slots[n], std::array::from_fn(|lane| value(lane, n) as u32), mask),
        }
    }
    if holes.is_some() || warp.undefined.any() {
        undefined::loaded::<16>(warp, block, &results(ins, width == 8), width, mask, holes);
    }
    Ok(())
}

unsafe fn write(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let (count, width) = (ins.slots[COUNT] as usize, ins.slots[BYTES] as usize);
    for lane in race::lanes(mask) {
        let Some(address) = spot(warp, block, ins, lane)? else { continue };
        let mut bytes = [0u8; 16];
        for n in 0..count {
            let value = match width {
                8 => warp.get64(ins.slots[n])[lane],
                _ => u64::from(warp.get32(ins.slots[n])[lane]),
            };
            bytes[n * width..(n + 1) * width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let bytes = &bytes[..count * width];
        let target = crate::asynchronous::ends::surface(block, warp, lane, address, bytes.len())?;
        let length = bytes.len() as u32;
        race::global_store(
            block,
            warp.index,
            1 << lane,
            &[address; LANES],
            length,
            Strength::Plain,
            false,
            false,
            None,
            None,
        )?;
        target.write(bytes);
    }
    Ok(())
}
