//! `wmma`: the matrix instructions of the CUDA C++ API, whose fragments are opaque.
//!
//! Ours hold a matrix in row order, as many neighbours to a lane as it takes; registers left over are zero. Hardware of every
//! generation differs, and code may not care.

use super::element::{Element, half_to_single, tf32, truncated};
use crate::{
    ast::Instruction,
    asynchronous::ends,
    decode::{Decoded, Decoder, Start, flow},
    machine::{Block, Class, FULL, Gather, Ins, R32, R64, Step, Warp},
    race::{self, Strength},
    report::{Fault, FaultKind},
    undefined,
};

/// What a fragment's registers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F32,
    S32,
    Of(Element),
}

impl Kind {
    fn parse(modifier: &str) -> Option<Self> {
        Some(match modifier {
            "f32" => Self::F32,
            "s32" => Self::S32,
            other => Self::Of(Element::parse(other).filter(|e| !e.is_eight_bit_float())?),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::S32 => 4,
            Self::Of(element) => element.bytes(),
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::S32 => 1,
            Self::Of(Element::F16) => 2,
            Self::Of(Element::Bf16) => 3,
            Self::Of(Element::Tf32) => 4,
            Self::Of(Element::S8) => 5,
            Self::Of(_) => 6,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            0 => Self::F32,
            1 => Self::S32,
            2 => Self::Of(Element::F16),
            3 => Self::Of(Element::Bf16),
            4 => Self::Of(Element::Tf32),
            5 => Self::Of(Element::S8),
            _ => Self::Of(Element::U8),
        }
    }

    /// The value of an element's bits.
    fn value(self, bits: u32) -> f64 {
        match self {
            Self::F32 => f32::from_bits(bits).into(),
            Self::S32 => (bits as i32).into(),
            Self::Of(Element::F16) => half_to_single(bits & 0xffff).into(),
            Self::Of(Element::Bf16) => f32::from_bits(bits << 16).into(),
            Self::Of(Element::Tf32) => tf32(bits).into(),
            Self::Of(Element::S8) => (bits as i8).into(),
            Self::Of(_) => (bits as u8).into(),
        }
    }
}

/// m, n and k of a shape.
fn shape(modifier: &str) -> Option<[usize; 3]> {
    Some(match modifier {
        "m16n16k16" => [16, 16, 16],
        "m16n16k8" => [16, 16, 8],
        "m32n8k16" => [32, 8, 16],
        "m8n32k16" => [8, 32, 16],
        _ => return None,
    })
}

const SHARED: i64 = 1;
const GLOBAL: i64 = 2;
const COLUMNS: i64 = 4;
const STORE: i64 = 8;

/// `wmma.load`, `wmma.store`, `wmma.mma`.
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let ins = match i.parts[1..] {
        ["load" | "store", which, "sync", "aligned", layout, dims, ref rest @ ..] => {
            access(d, i, which, layout, dims, rest)?
        }
        ["mma", "sync", "aligned", _, _, dims, ref kinds @ ..] => product(d, i, dims, kinds)?,
        _ => return Err(d.unsupported(i)),
    };
    Ok(Some(Ins { gather: Gather::All, ..ins }))
}

/// slots: base, whether it is wide, stride, rows, columns, kind; more: registers; `immediate`: flags, then the offset
fn access<'t>(
    d: &mut Decoder<'_, 't>,
    i: &Instruction<'t>,
    which: &str,
    layout: &str,
    dims: &str,
    rest: &[&str],
) -> Decoded<Ins> {
    let store = i.parts[1] == "store";
    let (space, kind) = match rest {
        [kind] => (0, *kind),
        ["shared" | "shared::cta", kind] => (SHARED, *kind),
        ["global", kind] => (GLOBAL, *kind),
        _ => return Err(d.unsupported(i)),
    };
    let (Some([m, n, k]), Some(kind)) = (shape(dims), Kind::parse(kind)) else { return Err(d.unsupported(i)) };
    let (rows, columns) = match which {
        "a" => (m, k),
        "b" => (k, n),
        "c" | "d" => (m, n),
        _ => return Err(d.unsupported(i)),
    };
    let by_columns = layout == "col";
    let (fragment, address) = if store { (1, 0) } else { (0, 1) };
    let mut more = Vec::new();
    for element in d.elements(i, fragment)? {
        more.push(if store { d.source32(i, &element, 32)? } else { d.destination32(i, &element)? });
    }
    if more.len() * 32 * (4 / kind.bytes()) < rows * columns {
        return Err(d.refuse(i, "too few registers for the matrix"));
    }
    let place = d.place(i, address)?;
    let stride = match i.operands.len() > 2 {
        true => d.from32(i, 2, 32)?,
        false => d.constant32(if by_columns { rows } else { columns } as u32),
    };
    let (base, wide) = match place.start {
        Start::R32(slot) => (slot, 0),
        Start::R64(slot) => (slot, 1),
        Start::None => (d.constant32(0), 0),
    };
    if space != GLOBAL {
        d.code.narrowest_shared = d.code.narrowest_shared.min(kind.bytes() as u32);
    }
    let slots = [base, wide, stride, rows as u32, columns as u32, kind.code()];
    let mut ins = d.with(move_fragment, Class::Matrix, &slots);
    ins.more = more.into();
    ins.immediate = space | if by_columns { COLUMNS } else { 0 } | if store { STORE } else { 0 } | place.offset << 8;
    Ok(ins)
}

/// slots: m, n, k, kinds of a, b, c and d, saturation, registers of d, of a and of b; more: all registers, d a b c
fn product<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, dims: &str, kinds: &[&str]) -> Decoded<Ins> {
    let saturate = kinds.contains(&"satfinite");
    let kinds: Vec<&str> = kinds.iter().copied().filter(|k| *k != "satfinite").collect();
    let names = match kinds[..] {
        [to, from] => ["f16", "f16", from, to],
        [to, a, b, from] => [a, b, from, to],
        _ => return Err(d.unsupported(i)),
    };
    let Some([m, n, k]) = shape(dims) else { return Err(d.unsupported(i)) };
    let mut slots = [0; 11];
    (slots[0], slots[1], slots[2]) = (m as u32, n as u32, k as u32);
    for (slot, name) in slots[3..7].iter_mut().zip(names) {
        *slot = Kind::parse(name).ok_or_else(|| d.unsupported(i))?.code();
    }
    slots[7] = saturate.into();
    let mut more = Vec::new();
    for operand in 0..4 {
        let elements = d.elements(i, operand)?;
        if operand < 3 {
            slots[8 + operand] = elements.len() as u32;
        }
        for element in &elements {
            more.push(if operand == 0 { d.destination32(i, element)? } else { d.source32(i, element, 32)? });
        }
    }
    let mut ins = d.with(multiply, Class::Matrix, &slots);
    ins.more = more.into();
    ins.macs = (m * n * k) as u32;
    Ok(ins)
}

/// The value of element `e` of a fragment of `count` elements.
fn element(warp: &Warp, registers: &[u32], kind: Kind, count: usize, e: usize) -> u32 {
    let (per_lane, per_register) = (count / 32, 4 / kind.bytes());
    let (lane, j) = (e / per_lane, e % per_lane);
    let bits = warp.get32(registers[j / per_register])[lane] >> (j % per_register * 8 * kind.bytes());
    match kind.bytes() {
        1 => bits & 0xff,
        2 => bits & 0xffff,
        _ => bits,
    }
}

/// Puts element `e` in its place; registers must be zero before.
fn put(fragment: &mut [R32], kind: Kind, count: usize, e: usize, bits: u32) {
    let (per_lane, per_register) = (count / 32, 4 / kind.bytes());
    let (lane, j) = (e / per_lane, e % per_lane);
    fragment[j / per_register][lane] |= bits << (j % per_register * 8 * kind.bytes());
}

unsafe fn move_fragment(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    if mask != FULL {
        return Err(block.fault(warp, 0, FaultKind::Divergence, "wmma without all 32 lanes of its warp"));
    }
    let [base, wide, stride, rows, columns, kind] = [0, 1, 2, 3, 4, 5].map(|n| ins.slots[n]);
    let (kind, count) = (Kind::from_code(kind), (rows * columns) as usize);
    let size = kind.bytes();
    let base = match wide {
        0 => u64::from(warp.get32(base)[0]),
        _ => warp.get64(base)[0],
    };
    let base = base.wrapping_add_signed(ins.immediate >> 8);
    let (shared, base) = match ins.immediate & (SHARED | GLOBAL) {
        SHARED => (true, u64::from(base as u32)),
        GLOBAL => (false, base),
        _ => match crate::asynchronous::cluster::generic(base) {
            Some((_, offset)) => (true, offset.into()),
            None => (false, base),
        },
    };
    let stride = u64::from(warp.get32(stride)[0]);
    let per_lane = count / 32;
    let store = ins.immediate & STORE != 0;
    let mut fragment = vec![[0u32; 32]; ins.more.len()];
    let mut unknown = vec![0; ins.more.len()];
    for j in 0..per_lane {
        let addresses: R64 = std::array::from_fn(|lane| {
            let e = lane * per_lane + j;
            let (row, column) = (e as u64 / u64::from(columns), e as u64 % u64::from(columns));
            let index = if ins.immediate & COLUMNS != 0 { column * stride + row } else { row * stride + column };
            base + index * size as u64
        });
        let bits = |lane: usize| element(warp, &ins.more, kind, count, lane * per_lane + j);
        if store {
            let lanes = warp.undefined.lanes32(ins.more[j / (4 / size)]);
            if !shared && lanes != 0 {
                undefined::stored_globally(warp, block, &[flow::r32(ins.more[j / (4 / size)])], FULL)?;
            }
            store_lanes(warp, block, shared, &addresses, size, &bits)?;
            for lane in race::lanes(lanes) {
                let start = addresses[lane] as u32 as usize;
                block.shared.written.get_mut(start..start + size).unwrap_or_default().fill(0);
            }
        } else {
            let (values, holes) = load_lanes(warp, block, shared, &addresses, size)?;
            for (lane, bits) in values.into_iter().enumerate() {
                put(&mut fragment, kind, count, lane * per_lane + j, bits);
            }
            unknown[j / (4 / size)] |= holes;
        }
    }
    if !store {
        for (slot, value) in ins.more.iter().zip(fragment) {
            warp.r32[*slot as usize] = value;
        }
        for (slot, lanes) in ins.more.iter().zip(unknown) {
            if warp.undefined.any() {
                warp.undefined.derive32(*slot, FULL, 0, &[]);
            }
            if lanes != 0 {
                let words = "a wmma load of shared memory that nobody has written";
                undefined::begin(warp, block, &[(flow::r32(*slot), lanes)], FaultKind::Uninitialised, words, None);
            }
        }
    }
    Ok(())
}

/// What each lane loads, and which lanes find what nobody has written.
fn load_lanes(warp: &Warp, block: &mut Block<'_>, shared: bool, at: &R64, size: usize) -> Result<(R32, u32), Fault> {
    let (mut values, mut holes) = ([0; 32], 0);
    let narrow = at.map(|a| a as u32);
    if shared {
        for lane in 0..32 {
            ends::shared(block, warp, lane, narrow[lane], size as u32, size as u32)?;
        }
        race::shared_load(block, warp.index, FULL, &narrow, size as u32, Strength::Plain)?;
    } else {
        race::global_load(block, warp.index, FULL, at, size as u32, Strength::Plain, None)?;
        ends::count_load(block, at.iter().map(|a| (*a, size as u32)));
    }
    for lane in 0..32 {
        let mut bytes = [0; 4];
        if shared {
            let range = narrow[lane] as usize..narrow[lane] as usize + size;
            if !block.shared.written.is_empty() && block.shared.written[range.clone()].contains(&0) {
                holes |= 1 << lane;
            }
            bytes[..size].copy_from_slice(&block.shared.bytes[range]);
        } else {
            ends::global(block, warp, lane, at[lane], size, ends::Use::Read)?.read(&mut bytes[..size]);
        }
        values[lane] = u32::from_le_bytes(bytes);
    }
    Ok((values, holes))
}

fn store_lanes(
    warp: &Warp,
    block: &mut Block<'_>,
    shared: bool,
    at: &R64,
    size: usize,
    bits: &dyn Fn(usize) -> u32,
) -> Step {
    let narrow = at.map(|a| a as u32);
    let bytes = |lane: usize| {
        let mut padded = [0; 16];
        padded[..size].copy_from_slice(&bits(lane).to_le_bytes()[..size]);
        padded
    };
    let (width, index) = (size as u32, warp.index);
    if shared {
        for lane in 0..32 {
            ends::shared(block, warp, lane, narrow[lane], width, width)?;
        }
        race::shared_store(block, index, FULL, &narrow, width, Strength::Plain, false, Some(&bytes))?;
    } else {
        race::global_store(block, index, FULL, at, width, Strength::Plain, false, false, None, Some(&bytes))?;
    }
    for lane in 0..32 {
        let value = &bits(lane).to_le_bytes()[..size];
        if shared {
            let range = narrow[lane] as usize..narrow[lane] as usize + size;
            block.shared.bytes[range.clone()].copy_from_slice(value);
            if !block.shared.written.is_empty() {
                block.shared.written[range].fill(1);
            }
        } else {
            ends::global(block, warp, lane, at[lane], size, ends::Use::Write)?.write(value);
        }
    }
    Ok(())
}

unsafe fn multiply(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    if mask != FULL {
        return Err(block.fault(warp, 0, FaultKind::Divergence, "wmma without all 32 lanes of its warp"));
    }
    let [m, n, k] = [0, 1, 2].map(|s| ins.slots[s] as usize);
    let kinds = [3, 4, 5, 6].map(|s| Kind::from_code(ins.slots[s]));
    let counts = [8, 9, 10].map(|s| ins.slots[s] as usize);
    let (to, rest) = ins.more.split_at(counts[0]);
    let (a, rest) = rest.split_at(counts[1]);
    let (b, c) = rest.split_at(counts[2]);
    let all = |registers: &[u32], kind: Kind, count: usize| -> Vec<f64> {
        (0..count).map(|e| kind.value(element(warp, registers, kind, count, e))).collect()
    };
    let (a, b, c) = (all(a, kinds[0], m * k), all(b, kinds[1], k * n), all(c, kinds[2], m * n));
    let mut fragment = vec![[0u32; 32]; to.len()];
    for e in 0..m * n {
        let (row, column) = (e / n, e % n);
        let bits = match kinds[3] {
            Kind::S32 => {
                let sum = c[e] + (0..k).map(|x| a[row * k + x] * b[x * n + column]).sum::<f64>();
                if ins.slots[7] != 0 { sum as i32 as u32 } else { sum as i64 as u32 }
            }
            Kind::F32 if block.launch.options.perturb_approx => {
                let products = (0..k).map(|x| a[row * k + x] * b[x * n + column]);
                truncated(products.fold(c[e], |sum, product| sum + product)).to_bits()
            }
            kind => {
                let start = c[e] as f32;
                let sum = (0..k).fold(start, |s, x| s + (a[row * k + x] * b[x * n + column]) as f32);
                if kind == Kind::F32 { sum.to_bits() } else { half::f16::from_f32(sum).to_bits().into() }
            }
        };
        put(&mut fragment, kinds[3], m * n, e, bits);
    }
    let unknown = warp.undefined.any().then(|| undefined_sums(warp, ins, [m, n, k], kinds));
    for (slot, value) in to.iter().zip(fragment) {
        warp.r32[*slot as usize] = value;
    }
    for (slot, lanes) in to.iter().zip(unknown.into_iter().flatten()) {
        warp.undefined.derive32(*slot, FULL, lanes, &ins.more[counts[0]..]);
    }
    Ok(())
}

/// Which lanes of the results are undefined: rows and columns of undefined elements, and what they are added to.
#[cold]
#[inline(never)]
fn undefined_sums(warp: &Warp, ins: &Ins, [m, n, k]: [usize; 3], kinds: [Kind; 4]) -> Vec<u32> {
    let counts = [8, 9, 10].map(|s| ins.slots[s] as usize);
    let (_, rest) = ins.more.split_at(counts[0]);
    let (a, rest) = rest.split_at(counts[1]);
    let (b, c) = rest.split_at(counts[2]);
    let unknown = |registers: &[u32], kind: Kind, count: usize, e: usize| {
        let (per_lane, per_register) = (count / 32, 4 / kind.bytes());
        warp.undefined.lanes32(registers[e % per_lane / per_register]) >> (e / per_lane) & 1 != 0
    };
    let rows: Vec<bool> = (0..m).map(|row| (0..k).any(|x| unknown(a, kinds[0], m * k, row * k + x))).collect();
    let columns: Vec<bool> = (0..n).map(|column| (0..k).any(|x| unknown(b, kinds[1], k * n, x * n + column))).collect();
    let mut flags = vec![[0; 32]; counts[0]];
    for e in 0..m * n {
        let hit = rows[e / n] || columns[e % n] || unknown(c, kinds[2], m * n, e);
        put(&mut flags, kinds[3], m * n, e, hit.into());
    }
    flags.iter().map(undefined::raised).collect()
}
