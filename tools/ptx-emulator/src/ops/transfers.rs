//! `ld` and `st` at work: addresses of any space, bytes to registers and back, and what is undefined in either.

use super::{
    access::{self, Order, Payload},
    lanes::Operation,
    memory::{
        COUNT, ELEMENT, GENERIC, GLOBAL, LOCAL, PARAM, REGISTER, SHARED, SIGNED, addresses, narrow, order, same_window,
        shared_of_generic,
    },
    shared_access,
};
use crate::{
    decode::flow::{self, AnyRegister},
    machine::{Block, Ins, LANES, R64, Step, Warp},
    memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_SHIFT},
    race,
    report::Fault,
    undefined, weak,
};

pub(super) struct Load<const SPACE: u8, const WIDTH: usize>;

impl<const SPACE: u8, const WIDTH: usize> Operation for Load<SPACE, WIDTH> {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let mut data: Payload = [0; 16 * LANES];
        let at = addresses(warp, ins);
        let holes = match SPACE {
            GLOBAL => access::global_load::<WIDTH>(block, warp, mask, &at, order(ins), &mut data)?,
            SHARED => shared_access::shared_load::<WIDTH>(block, warp, mask, &narrow(&at), order(ins), &mut data)?,
            LOCAL => access::local_load::<WIDTH>(block, warp, mask, &at.map(|a| a & !LOCAL_WINDOW), &mut data)?,
            PARAM => access::param_load::<WIDTH>(block, warp, mask, &at.map(|a| a & !PARAM_WINDOW), &mut data)?,
            _ => generic_load::<WIDTH>(warp, block, ins, mask, &at, &mut data)?,
        };
        let order = order(ins);
        if order.strength.strong() && block.launch.weak.is_some() {
            load_weak::<SPACE, WIDTH>(warp, block, mask, &at, order, &mut data);
        }
        spread::<WIDTH>(warp, ins, mask, &data);
        if holes.is_some() || warp.undefined.any() {
            mark_loaded::<WIDTH>(warp, block, ins, mask, holes);
        }
        Ok(())
    }
}

/// What strong loads found may become something older; strong stores are remembered for that.
#[cold]
#[inline(never)]
fn load_weak<const SPACE: u8, const WIDTH: usize>(
    warp: &Warp,
    block: &mut Block<'_>,
    mask: u32,
    at: &R64,
    order: Order,
    data: &mut Payload,
) {
    for (shared, lanes) in by_space::<SPACE>(at, mask) {
        weak::load::<WIDTH>(block, warp.index, lanes, (shared, &|lane| offset::<SPACE>(at, lane)), order, data);
    }
}

#[cold]
#[inline(never)]
fn store_weak<const SPACE: u8, const WIDTH: usize>(
    warp: &Warp,
    block: &Block<'_>,
    mask: u32,
    at: &R64,
    order: Order,
    data: &Payload,
) {
    for (shared, lanes) in by_space::<SPACE>(at, mask) {
        for lane in race::lanes(lanes) {
            let address = offset::<SPACE>(at, lane);
            let old = match shared {
                true => block.shared.bytes.get(address as usize..address as usize + WIDTH),
                false => block.launch.memory.bytes(address, WIDTH as u64).ok(),
            };
            let new = &data[lane * WIDTH..(lane + 1) * WIDTH];
            weak::store(block, warp.index, (shared, address), order, false, old.unwrap_or(new), new);
        }
    }
}

/// The lanes that access global memory, and those that access the block's shared memory.
fn by_space<const SPACE: u8>(at: &R64, mask: u32) -> [(bool, u32); 2] {
    let within = |window: u64| race::lanes(mask).filter(move |l| at[*l] >> WINDOW_SHIFT << WINDOW_SHIFT == window);
    match SPACE {
        GLOBAL => [(false, mask), (true, 0)],
        SHARED => [(false, 0), (true, mask)],
        GENERIC => {
            [(false, 0), (true, SHARED_WINDOW)].map(|(shared, w)| (shared, within(w).fold(0, |m, l| m | 1 << l)))
        }
        _ => [(false, 0), (true, 0)],
    }
}

/// The address in its space.
fn offset<const SPACE: u8>(at: &R64, lane: usize) -> u64 {
    match SPACE {
        GENERIC if at[lane] >> WINDOW_SHIFT << WINDOW_SHIFT == SHARED_WINDOW => at[lane] & 0xff_ffff,
        _ => at[lane],
    }
}

/// The registers that an access loads or stores.
fn transferred(ins: &Ins) -> Vec<AnyRegister> {
    let file = if ins.slots[REGISTER] == 64 { flow::r64 } else { flow::r32 };
    ins.slots[1..=ins.slots[COUNT] as usize].iter().map(|slot| file(*slot)).collect()
}

#[cold]
#[inline(never)]
fn mark_loaded<const WIDTH: usize>(
    warp: &mut Warp,
    block: &Block<'_>,
    ins: &Ins,
    mask: u32,
    holes: Option<Box<undefined::Holes>>,
) {
    undefined::loaded::<WIDTH>(warp, block, &transferred(ins), ins.slots[ELEMENT] as usize, mask, holes);
}

fn generic_load<const WIDTH: usize>(
    warp: &Warp,
    block: &mut Block<'_>,
    ins: &Ins,
    mask: u32,
    at: &R64,
    data: &mut Payload,
) -> Result<Option<Box<undefined::Holes>>, Fault> {
    let (mut left, mut holes): (u32, Option<Box<undefined::Holes>>) = (mask, None);
    while left != 0 {
        let (window, same) = same_window(at, left);
        left &= !same;
        let whole = same == mask;
        let mut part = [0; 16 * LANES];
        let into = if whole { &mut *data } else { &mut part };
        let found = match window {
            SHARED_WINDOW => {
                shared_access::shared_load::<WIDTH>(block, warp, same, &shared_of_generic(at), order(ins), into)?
            }
            LOCAL_WINDOW => access::local_load::<WIDTH>(block, warp, same, &at.map(|a| a & !LOCAL_WINDOW), into)?,
            PARAM_WINDOW => access::param_load::<WIDTH>(block, warp, same, &at.map(|a| a & !PARAM_WINDOW), into)?,
            _ => access::global_load::<WIDTH>(block, warp, same, at, order(ins), into)?,
        };
        match (&mut holes, found) {
            (Some(all), Some(more)) => all.bytes.iter_mut().zip(more.bytes).for_each(|(a, b)| *a |= b),
            (holes, found) => *holes = holes.take().or(found),
        }
        if !whole {
            for lane in (0..LANES).filter(|lane| same >> lane & 1 != 0) {
                data[lane * WIDTH..(lane + 1) * WIDTH].copy_from_slice(&part[lane * WIDTH..(lane + 1) * WIDTH]);
            }
        }
    }
    Ok(holes)
}

#[inline(always)]
fn word<const BYTES: usize>(data: &Payload, at: usize) -> u64 {
    let mut value = [0; 8];
    value[..BYTES].copy_from_slice(&data[at..at + BYTES]);
    u64::from_le_bytes(value)
}

/// From the payload to the registers.
#[inline(always)]
fn spread<const WIDTH: usize>(warp: &mut Warp, ins: &Ins, mask: u32, data: &Payload) {
    match ins.slots[ELEMENT] {
        4 if ins.slots[REGISTER] == 32 => spread32::<WIDTH, 4>(warp, ins, mask, data),
        8 => spread64::<WIDTH, 8>(warp, ins, mask, data),
        2 if ins.slots[REGISTER] <= 32 => spread32::<WIDTH, 2>(warp, ins, mask, data),
        1 if ins.slots[REGISTER] <= 32 => spread32::<WIDTH, 1>(warp, ins, mask, data),
        4 => spread64::<WIDTH, 4>(warp, ins, mask, data),
        2 => spread64::<WIDTH, 2>(warp, ins, mask, data),
        _ => spread64::<WIDTH, 1>(warp, ins, mask, data),
    }
}

#[inline(always)]
fn spread32<const WIDTH: usize, const BYTES: usize>(warp: &mut Warp, ins: &Ins, mask: u32, data: &Payload) {
    if BYTES > WIDTH {
        return;
    }
    for k in 0..WIDTH / BYTES {
        let mut out = [0u32; LANES];
        for lane in 0..LANES {
            out[lane] = word::<BYTES>(data, lane * WIDTH + k * BYTES) as u32;
        }
        if BYTES < 4 && ins.slots[SIGNED] != 0 {
            let cut = if ins.slots[REGISTER] == 16 { 0xffff } else { u32::MAX };
            let shift = 32 - 8 * BYTES as u32;
            out = out.map(|v| ((v << shift) as i32 >> shift) as u32 & cut);
        }
        warp.set32(ins.slots[1 + k], out, mask);
    }
}

#[inline(always)]
fn spread64<const WIDTH: usize, const BYTES: usize>(warp: &mut Warp, ins: &Ins, mask: u32, data: &Payload) {
    if BYTES > WIDTH {
        return;
    }
    for k in 0..WIDTH / BYTES {
        let mut out = [0u64; LANES];
        for lane in 0..LANES {
            out[lane] = word::<BYTES>(data, lane * WIDTH + k * BYTES);
        }
        if BYTES < 8 && ins.slots[SIGNED] != 0 {
            let shift = 64 - 8 * BYTES as u32;
            out = out.map(|v| ((v << shift) as i64 >> shift) as u64);
        }
        warp.set64(ins.slots[1 + k], out, mask);
    }
}

pub(super) struct Store<const SPACE: u8, const WIDTH: usize>;

impl<const SPACE: u8, const WIDTH: usize> Operation for Store<SPACE, WIDTH> {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        let at = addresses(warp, ins);
        let mut data: Payload = [0; 16 * LANES];
        gather::<WIDTH>(warp, ins, &mut data);
        let order = order(ins);
        if order.strength.strong() && block.launch.weak.is_some() {
            store_weak::<SPACE, WIDTH>(warp, block, mask, &at, order, &data);
        }
        if warp.undefined.any() {
            return store_undefined::<SPACE, WIDTH>(warp, block, ins, mask, &at, &data);
        }
        store::<SPACE, WIDTH>(warp, block, ins, mask, &at, &data)
    }
}

#[inline(always)]
fn store<const SPACE: u8, const WIDTH: usize>(
    warp: &mut Warp,
    block: &mut Block<'_>,
    ins: &Ins,
    mask: u32,
    at: &R64,
    data: &Payload,
) -> Step {
    match SPACE {
        GLOBAL => access::global_store::<WIDTH>(block, warp, mask, at, order(ins), data),
        SHARED => shared_access::shared_store::<WIDTH>(block, warp, mask, &narrow(at), order(ins), data),
        LOCAL => access::local_store::<WIDTH>(block, warp, mask, &at.map(|a| a & !LOCAL_WINDOW), data),
        _ => {
            let mut left = mask;
            while left != 0 {
                let (window, same) = same_window(at, left);
                left &= !same;
                match window {
                    SHARED_WINDOW => {
                        let at = shared_of_generic(at);
                        shared_access::shared_store::<WIDTH>(block, warp, same, &at, order(ins), data)?;
                    }
                    LOCAL_WINDOW => {
                        access::local_store::<WIDTH>(block, warp, same, &at.map(|a| a & !LOCAL_WINDOW), data)?;
                    }
                    _ => access::global_store::<WIDTH>(block, warp, same, at, order(ins), data)?,
                }
            }
            Ok(())
        }
    }
}

/// A store by a warp that holds undefined values, some of them perhaps in what it stores.
#[cold]
#[inline(never)]
fn store_undefined<const SPACE: u8, const WIDTH: usize>(
    warp: &mut Warp,
    block: &mut Block<'_>,
    ins: &Ins,
    mask: u32,
    at: &R64,
    data: &Payload,
) -> Step {
    let registers = transferred(ins);
    let window = |lane: usize| match SPACE {
        GLOBAL => 0,
        SHARED => SHARED_WINDOW,
        LOCAL => LOCAL_WINDOW,
        _ => at[lane] >> WINDOW_SHIFT << WINDOW_SHIFT,
    };
    let globally = race::lanes(mask).filter(|lane| window(*lane) == 0).fold(0, |m, lane| m | 1 << lane);
    undefined::stored_globally(warp, block, &registers, globally)?;
    store::<SPACE, WIDTH>(warp, block, ins, mask, at, data)?;
    let Some(holes) = undefined::stored::<WIDTH>(warp, &registers, ins.slots[ELEMENT] as usize, mask) else {
        return Ok(());
    };
    for lane in race::lanes(mask) {
        let holes = &holes[lane * WIDTH..(lane + 1) * WIDTH];
        match window(lane) {
            SHARED_WINDOW => {
                let address = if SPACE == SHARED { at[lane] as u32 } else { shared_of_generic(at)[lane] };
                shared_access::unwrite(block, address, holes);
            }
            _ => access::local_unwrite(block, warp, lane, at[lane] & !LOCAL_WINDOW, holes),
        }
    }
    Ok(())
}

/// From the registers to the payload.
#[inline(always)]
fn gather<const WIDTH: usize>(warp: &Warp, ins: &Ins, data: &mut Payload) {
    let bytes = ins.slots[ELEMENT] as usize;
    if WIDTH == 4 && bytes == 4 && ins.slots[REGISTER] == 32 {
        let from = warp.get32(ins.slots[1]);
        for lane in 0..LANES {
            data[lane * 4..lane * 4 + 4].copy_from_slice(&from[lane].to_le_bytes());
        }
        return;
    }
    for (k, slot) in ins.slots[1..=ins.slots[COUNT] as usize].iter().enumerate() {
        for lane in 0..LANES {
            let value = match ins.slots[REGISTER] {
                64 => warp.get64(*slot)[lane],
                _ => u64::from(warp.get32(*slot)[lane]),
            };
            let at = lane * WIDTH + k * bytes;
            match bytes {
                4 => data[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
                8 => data[at..at + 8].copy_from_slice(&value.to_le_bytes()),
                2 => data[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes()),
                _ => data[at] = value as u8,
            }
        }
    }
}
