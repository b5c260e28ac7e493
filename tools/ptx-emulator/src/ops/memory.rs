//! `ld` and `st` of every space and width as decoded, their addresses, and what turns addresses into each other: `cvta`,
//! `isspacep`.

use super::{
    access::Order,
    lanes::{compare, pick, unary},
    transfers::{Load, Store},
};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder, Place, Reg, Start, Symbol},
    machine::{Class, Ins, LANES, R32, R64, SINK, Warp},
    memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_SHIFT},
    module::ParamRead,
    race::Strength,
};

pub(crate) const GLOBAL: u8 = 0;
pub(crate) const SHARED: u8 = 1;
pub(crate) const LOCAL: u8 = 2;
pub(crate) const PARAM: u8 = 3;
pub(crate) const GENERIC: u8 = 4;

// Slots of loads and stores: 0 the address, 1..=8 the elements, then what is known at load.
pub(super) const ELEMENT: usize = 10;
pub(super) const COUNT: usize = 11;
pub(super) const SIGNED: usize = 12;
pub(super) const REGISTER: usize = 13;
pub(crate) const START: usize = 14;
pub(crate) const ORDER: usize = 15;

pub(crate) fn order(ins: &Ins) -> Order {
    let bits = ins.slots[ORDER];
    let strength = match bits & 3 {
        0 if bits & READ_ONLY != 0 => Strength::ReadOnly,
        0 => Strength::Plain,
        1 => Strength::Volatile,
        2 => Strength::Strong,
        _ => Strength::Guess,
    };
    Order { strength, release: bits & RELEASE != 0, acquire: bits & ACQUIRE != 0, counted: bits & CONSTANT == 0 }
}

/// What the slot of an access's order holds: its strength in the low two bits, and these.
pub(crate) const GUESS: u32 = 3;
const RELEASE: u32 = 4;
const CONSTANT: u32 = 8;
const READ_ONLY: u32 = 16;
const ACQUIRE: u32 = 32;

/// Puts an address operand into an instruction.
pub(crate) fn set_place(ins: &mut Ins, place: Place) {
    (ins.slots[START], ins.slots[0]) = match place.start {
        Start::None => (0, 0),
        Start::R32(slot) => (1, slot),
        Start::R64(slot) => (2, slot),
    };
    ins.immediate = place.offset;
}

/// The addresses of an instruction, 64 bits wide.
#[inline(always)]
pub(crate) fn addresses(warp: &Warp, ins: &Ins) -> R64 {
    let offset = ins.immediate as u64;
    let mut out = [offset; LANES];
    match ins.slots[START] {
        0 => {}
        1 => {
            let base = warp.get32(ins.slots[0]);
            for lane in 0..LANES {
                out[lane] = u64::from(base[lane].wrapping_add(offset as u32));
            }
        }
        _ => {
            let base = warp.get64(ins.slots[0]);
            for lane in 0..LANES {
                out[lane] = base[lane].wrapping_add(offset);
            }
        }
    }
    out
}

/// The addresses of an instruction in a 32-bit space; what lies past 2^32 fails the bounds check.
#[inline(always)]
pub(super) fn narrow(addresses: &R64) -> R32 {
    let mut out = [0; LANES];
    for lane in 0..LANES {
        out[lane] = addresses[lane].min(u64::from(u32::MAX)) as u32;
    }
    out
}

/// Addresses of shared memory in generic form become 32-bit ones, cluster rank in the top byte.
pub(crate) fn shared_of_generic(addresses: &R64) -> R32 {
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let offset = addresses[lane] & 0xffff_ffff;
        let rank = addresses[lane] >> 32 & 0xff;
        out[lane] = if offset > 0xff_ffff { u32::MAX } else { offset as u32 | (rank as u32) << 24 };
    }
    out
}

/// Lanes of `mask` in the window of its first lane.
pub(crate) fn same_window(addresses: &R64, mask: u32) -> (u64, u32) {
    let window = addresses[(mask.trailing_zeros() & 31) as usize] >> WINDOW_SHIFT;
    let mut same = 0;
    for lane in 0..LANES {
        same |= u32::from(addresses[lane] >> WINDOW_SHIFT == window) << lane;
    }
    (window << WINDOW_SHIFT, same & mask)
}

macro_rules! by_width {
    ($shape:ident, $space:expr, $width:expr) => {
        match ($space, $width) {
            (GLOBAL, 1) => pick::<$shape<GLOBAL, 1>>(),
            (GLOBAL, 2) => pick::<$shape<GLOBAL, 2>>(),
            (GLOBAL, 4) => pick::<$shape<GLOBAL, 4>>(),
            (GLOBAL, 8) => pick::<$shape<GLOBAL, 8>>(),
            (GLOBAL, 16) => pick::<$shape<GLOBAL, 16>>(),
            (SHARED, 1) => pick::<$shape<SHARED, 1>>(),
            (SHARED, 2) => pick::<$shape<SHARED, 2>>(),
            (SHARED, 4) => pick::<$shape<SHARED, 4>>(),
            (SHARED, 8) => pick::<$shape<SHARED, 8>>(),
            (SHARED, 16) => pick::<$shape<SHARED, 16>>(),
            (LOCAL, 1) => pick::<$shape<LOCAL, 1>>(),
            (LOCAL, 2) => pick::<$shape<LOCAL, 2>>(),
            (LOCAL, 4) => pick::<$shape<LOCAL, 4>>(),
            (LOCAL, 8) => pick::<$shape<LOCAL, 8>>(),
            (LOCAL, 16) => pick::<$shape<LOCAL, 16>>(),
            (PARAM, 1) => pick::<$shape<PARAM, 1>>(),
            (PARAM, 2) => pick::<$shape<PARAM, 2>>(),
            (PARAM, 4) => pick::<$shape<PARAM, 4>>(),
            (PARAM, 8) => pick::<$shape<PARAM, 8>>(),
            (PARAM, 16) => pick::<$shape<PARAM, 16>>(),
            (GENERIC, 1) => pick::<$shape<GENERIC, 1>>(),
            (GENERIC, 2) => pick::<$shape<GENERIC, 2>>(),
            (GENERIC, 4) => pick::<$shape<GENERIC, 4>>(),
            (GENERIC, 8) => pick::<$shape<GENERIC, 8>>(),
            (GENERIC, 16) => pick::<$shape<GENERIC, 16>>(),
            _ => return Ok(None),
        }
    };
}

/// The space a memory instruction names, generic if none, and whether it is constant memory.
pub(crate) fn space(i: &Instruction<'_>) -> (u8, bool) {
    for part in i.parts.iter().skip(1) {
        let base = part.split("::").next().unwrap_or_default();
        match base {
            "global" => return (GLOBAL, false),
            "const" => return (GLOBAL, true),
            "shared" => return (SHARED, false),
            "local" => return (LOCAL, false),
            "param" => return (PARAM, false),
            _ => {}
        }
    }
    (GENERIC, false)
}

/// What `ld`, `st` and `atom` say of their order, as a slot holds it.
pub(crate) fn order_bits(i: &Instruction<'_>, atomic: bool) -> u32 {
    let strong = atomic || ["relaxed", "acquire", "release", "acq_rel", "mmio"].iter().any(|m| i.has(m));
    let strength = if strong { 2 } else { u32::from(i.has("volatile")) };
    let release = if i.has("release") || i.has("acq_rel") { RELEASE } else { 0 };
    let acquire = if i.has("acquire") || i.has("acq_rel") { ACQUIRE } else { 0 };
    strength | release | acquire
}

/// Notes what an access to a space means for the whole kernel.
pub(crate) fn note(d: &mut Decoder<'_, '_>, space: u8, width: u32, order: u32) {
    if matches!(space, SHARED | GENERIC) {
        d.code.narrowest_shared = d.code.narrowest_shared.min(width);
    }
    // Anything stronger than a plain access may be how blocks talk to each other.
    d.code.communicates |= matches!(space, GLOBAL | GENERIC) && order & 3 != 0;
}

pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    match i.parts[0] {
        "cvta" => convert_address(d, i),
        "isspacep" => in_space(d, i),
        "st" => transfer(d, i, false),
        _ => transfer(d, i, true),
    }
}

/// Modifiers of loads and stores, types and hints for caches aside.
const MODIFIERS: &[&str] = &[
    "weak",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "mmio",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "global",
    "const",
    "shared",
    "shared::cta",
    "shared::cluster",
    "local",
    "param",
    "param::entry",
    "param::func",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "v2",
    "v4",
    "v8",
    "unified",
];

fn transfer<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, load: bool) -> Decoded<Option<Ins>> {
    let kind = super::kind(i);
    let known = |part: &&str| MODIFIERS.contains(part) || part.starts_with("L1::") || part.starts_with("L2::");
    if !i.parts[1..i.parts.len() - 1].iter().all(known) {
        return Ok(None);
    }
    let Some(bytes) = crate::parse::type_bytes(kind).filter(|b| *b <= 8) else { return Ok(None) };
    let (mut space, constant) = space(i);
    let (address_at, data_at) = if load { (1, 0) } else { (0, 1) };
    let place = d.place(i, address_at)?;
    let elements = d.elements(i, data_at)?;
    let count = elements.len() as u32;
    let declared = i.parts.iter().find_map(|p| p.strip_prefix('v')?.parse::<u32>().ok()).unwrap_or(1);
    if count != declared || count == 0 || count > 8 {
        return Err(d.refuse(i, "another number of elements than the vector has"));
    }
    let width = bytes * count;
    if space == PARAM {
        match place.symbol {
            // Parameters of calls live in local memory.
            Some(Symbol::Local(_)) => space = LOCAL,
            Some(Symbol::Param(_)) if load && place.start == Start::None => {
                let offset = u32::try_from(place.offset).map_err(|_| d.refuse(i, "a negative parameter offset"))?;
                d.reads.push(ParamRead { offset, bytes: width });
            }
            _ => d.param_address_taken = true,
        }
    } else if place.symbol.is_some_and(|s| matches!(s, Symbol::Param(_))) {
        return Err(d.refuse(i, "a parameter's address in another space"));
    }
    let class = Class::Memory;
    let run = if load { by_width!(Load, space, width) } else { by_width!(Store, space, width) };
    let mut ins = d.blank(run, class);
    set_place(&mut ins, place);
    let mut register = None;
    for (k, element) in elements.iter().enumerate() {
        let (slot, found) = match (load, element) {
            (true, Operand::Name("_")) => (SINK, None),
            (_, Operand::Name(_)) => match d.register(i, element) {
                Ok(Reg::R32(slot, bits)) => (slot, Some(bits.max(if bytes == 4 { 32 } else { 8 }))),
                Ok(Reg::R64(slot)) => (slot, Some(64)),
                Ok(Reg::Predicate(_)) => return Err(d.refuse(i, "predicates have no place in memory")),
                Err(e) if load => return Err(e),
                Err(_) if bytes == 8 => (d.source64(i, element)?, Some(64)),
                Err(_) => (d.source32(i, element, 8 * bytes)?, Some(32)),
            },
            (false, _) if bytes == 8 => (d.source64(i, element)?, Some(64)),
            (false, _) => (d.source32(i, element, 8 * bytes)?, Some(32)),
            (true, _) => return Err(d.refuse(i, "the destination must be a register")),
        };
        // Elements may mix constants and registers of one file, never both files.
        match (register, found) {
            (Some(a), Some(b)) if (a == 64) != (b == 64) => {
                return Err(d.refuse(i, "vector elements of different widths"));
            }
            (None, Some(_)) => register = found,
            _ => {}
        }
        ins.slots[1 + k] = slot;
    }
    let register = register.unwrap_or(if bytes == 8 { 64 } else { 32 });
    if register < 64 && bytes == 8 {
        return Err(d.refuse(i, "the register is too narrow"));
    }
    ins.slots[ELEMENT] = bytes;
    ins.slots[COUNT] = count;
    ins.slots[SIGNED] = u32::from(kind.starts_with('s'));
    ins.slots[REGISTER] = register;
    let order = order_bits(i, false);
    let read_only = load && (i.has("nc") || i.parts[0] == "ldu");
    ins.slots[ORDER] = order | if constant { CONSTANT } else { 0 } | if read_only { READ_ONLY } else { 0 };
    d.code.strong_stores |= !load && matches!(space, GLOBAL | GENERIC) && order & 3 != 0;
    if load && count == 1 && ins.slots[ORDER] & (3 | READ_ONLY) == 0 {
        d.guesses.load(d.here(), &ins, bytes);
    }
    note(d, space, bytes, order);
    Ok(Some(ins))
}

fn convert_address<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let (space, _) = space(i);
    let to_space = i.has("to");
    let class = Class::Integer;
    if super::kind(i) != "u64" {
        return Ok(None);
    }
    if space == PARAM {
        d.param_address_taken = true;
    }
    let run = match (space, to_space) {
        (GLOBAL, _) => unary(|a: u64| a),
        (SHARED, false) => unary(|a: u64| (a & 0xff_ffff) | (a >> 24 & 0xff) << 32 | SHARED_WINDOW),
        (SHARED, true) => unary(|a: u64| a & 0xff_ffff | (a >> 32 & 0xff) << 24),
        (LOCAL, false) => unary(|a: u64| a | LOCAL_WINDOW),
        (LOCAL, true) => unary(|a: u64| a & !LOCAL_WINDOW),
        (PARAM, false) => unary(|a: u64| a | PARAM_WINDOW),
        (PARAM, true) => unary(|a: u64| a & !PARAM_WINDOW),
        _ => return Ok(None),
    };
    // The operand may be a variable: its address in its space.
    let dynamic = match d.operand(i, 1)?.clone() {
        Operand::Name(name) => matches!(d.find(name), Some(Symbol::Dynamic)),
        _ => false,
    };
    if dynamic {
        let slots = [d.to64(i, 0)?, d.dynamic_shared()];
        return Ok(Some(d.with(unary(|a: u32| u64::from(a) | SHARED_WINDOW), class, &slots)));
    }
    let slots = [d.to64(i, 0)?, d.from64(i, 1)?];
    Ok(Some(d.with(run, class, &slots)))
}

fn in_space<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let run = match space(i) {
        (GLOBAL, _) => compare(|a: u64, _: u64| a >> WINDOW_SHIFT == 0),
        (SHARED, _) => compare(|a: u64, _: u64| a >> WINDOW_SHIFT == 1),
        (LOCAL, _) => compare(|a: u64, _: u64| a >> WINDOW_SHIFT == 2),
        (PARAM, _) => compare(|a: u64, _: u64| a >> WINDOW_SHIFT == 3),
        _ => return Ok(None),
    };
    let to = d.operand(i, 0)?.clone();
    let a = d.from64(i, 1)?;
    let slots = [d.to_predicate(i, &to)?, a, a, d.to_predicate(i, &Operand::Name("_"))?];
    Ok(Some(d.with(run, Class::CompareMove, &slots)))
}
