//! `mma.sync`, `ldmatrix`, `stmatrix`, `movmatrix` on a warp: operands to registers, rows to and from shared memory.

use super::{Form, Lanes, element::Element, from_rows, to_rows, transpose};
use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder, Start, flow},
    machine::{Block, Class, FULL, Gather, Ins, R32, Step, Warp},
    ops::{
        access::{integer, ones},
        lanes::{Operation, pick},
        shared_access::beyond_variable,
    },
    race::{self, Strength},
    report::{Fault, FaultKind},
    undefined,
};

/// Forms that instructions name by their place here.
static FORMS: &[Form] = &[
    float(Element::F16, 16, false),
    float(Element::F16, 8, false),
    float(Element::F16, 16, true),
    float(Element::F16, 8, true),
    float(Element::Bf16, 16, false),
    float(Element::Bf16, 8, false),
    float(Element::Tf32, 8, false),
    float(Element::Tf32, 4, false),
    eight_bits(Element::E4m3, Element::E4m3, false),
    eight_bits(Element::E4m3, Element::E5m2, false),
    eight_bits(Element::E5m2, Element::E4m3, false),
    eight_bits(Element::E5m2, Element::E5m2, false),
    eight_bits(Element::E4m3, Element::E4m3, true),
    eight_bits(Element::E4m3, Element::E5m2, true),
    eight_bits(Element::E5m2, Element::E4m3, true),
    eight_bits(Element::E5m2, Element::E5m2, true),
];

const fn eight_bits(a: Element, b: Element, half_accumulator: bool) -> Form {
    Form { a, b, k: 32, half_accumulator, saturate: false }
}

const fn float(element: Element, k: usize, half_accumulator: bool) -> Form {
    Form { a: element, b: element, k, half_accumulator, saturate: false }
}

/// Integer forms are written out as bits behind the table.
fn number(form: Form) -> i64 {
    let signed = |e: Element| i64::from(e == Element::S8);
    match FORMS.iter().position(|f| *f == form) {
        Some(place) => place as i64,
        None => {
            64 | signed(form.a) | signed(form.b) << 1 | i64::from(form.k == 32) << 2 | i64::from(form.saturate) << 3
        }
    }
}

fn form(number: i64) -> Form {
    let byte = |signed: bool| if signed { Element::S8 } else { Element::U8 };
    FORMS.get(number as usize).copied().unwrap_or(Form {
        a: byte(number & 1 != 0),
        b: byte(number & 2 != 0),
        k: if number & 4 != 0 { 32 } else { 16 },
        half_accumulator: false,
        saturate: number & 8 != 0,
    })
}

/// The instructions of this module; `wgmma` runs beside its warps and is at home with what does.
pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let ins = match i.parts[0] {
        "mma" => match super::double::decode(d, i)? {
            Some(ins) => ins,
            None => mma(d, i)?,
        },
        "ldmatrix" | "stmatrix" => matrix(d, i)?,
        "movmatrix" => {
            if i.parts[1..] != ["sync", "aligned", "m8n8", "trans", "b16"] {
                return Err(d.unsupported(i));
            }
            let slots = [d.to32(i, 0)?, d.from32(i, 1, 32)?];
            d.with(move_matrix, Class::Matrix, &slots)
        }
        "wmma" => return super::wmma::decode(d, i),
        "wgmma" => return crate::asynchronous::warpgroup::decode(d, i),
        _ => return Ok(None),
    };
    Ok(Some(Ins { gather: Gather::All, ..ins }))
}

fn mma<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let form = Form::parse(&i.parts[1..]).map_err(|message| d.refuse(i, message))?;
    let counts = [form.c_registers(), form.a_registers(), form.b_registers(), form.c_registers()];
    let mut slots = Vec::new();
    for (index, count) in counts.into_iter().enumerate() {
        let elements = d.elements(i, index)?;
        if elements.len() != count {
            return Err(d.refuse(i, format!("operand {} needs {count} registers", index + 1)));
        }
        for element in &elements {
            slots.push(if index == 0 { d.destination32(i, element)? } else { d.source32(i, element, 32)? });
        }
    }
    let mut ins = d.with(multiply, Class::Matrix, &slots);
    ins.immediate = number(form);
    ins.macs = form.macs() as u32;
    Ok(ins)
}

/// slots: four registers, base, wide base, count, transposed; `immediate` is the offset
fn matrix<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let load = i.parts[0] == "ldmatrix";
    let kind = match i.parts[1..] {
        ["sync", "aligned", ref rest @ ..] => rest.to_vec(),
        _ => return Err(d.unsupported(i)),
    };
    let (mut count, mut transposed) = (0, 0);
    for part in kind {
        match part {
            "x1" => count = 1,
            "x2" => count = 2,
            "x4" => count = 4,
            "trans" => transposed = 1,
            "m8n8" | "shared" | "shared::cta" | "b16" => {}
            _ => return Err(d.unsupported(i)),
        }
    }
    let (registers, address) = if load { (0, 1) } else { (1, 0) };
    let elements = d.elements(i, registers)?;
    if count == 0 || elements.len() != count {
        return Err(d.refuse(i, format!("{count} matrices need as many registers")));
    }
    let mut slots = [0; 8];
    for (slot, element) in slots.iter_mut().zip(&elements) {
        *slot = if load { d.destination32(i, element)? } else { d.source32(i, element, 32)? };
    }
    let place = d.place(i, address)?;
    (slots[4], slots[5]) = match place.start {
        Start::R32(slot) => (slot, 0),
        Start::R64(slot) => (slot, 1),
        Start::None => (d.constant32(0), 0),
    };
    (slots[6], slots[7]) = (count as u32, transposed);
    let mut ins = d.with(if load { pick::<LoadMatrix>() } else { pick::<StoreMatrix>() }, Class::Matrix, &slots);
    ins.immediate = place.offset;
    Ok(ins)
}

/// Matrix instructions need all 32 lanes.
fn whole(warp: &Warp, block: &Block<'_>, mask: u32) -> Step {
    if mask == FULL {
        return Ok(());
    }
    let missing = (!mask).trailing_zeros();
    Err(block.fault(warp, missing, FaultKind::Divergence, "a matrix instruction without all 32 lanes of its warp"))
}

unsafe fn multiply(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    whole(warp, block, mask)?;
    let form = form(ins.immediate);
    let (c, a, b) = (form.c_registers(), form.a_registers(), form.b_registers());
    let registers: [&Lanes; 16] = std::array::from_fn(|n| warp.get32(ins.slots[n]));
    let mut d = [[0; 32]; 4];
    let (a, rest) = registers[c..].split_at(a);
    let (b, rest) = rest.split_at(b);
    match block.launch.options.perturb_approx {
        true => form.multiply_truncating(a, b, &rest[..c], &mut d[..c]),
        false => form.multiply(a, b, &rest[..c], &mut d[..c]),
    }
    let undefined = warp.undefined.any().then(|| undefined_sums(warp, ins, form));
    for (slot, value) in ins.slots.iter().zip(&d[..c]) {
        warp.r32[*slot as usize] = *value;
    }
    for (slot, lanes) in ins.slots.iter().zip(undefined.into_iter().flatten().take(c)) {
        warp.undefined.derive32(*slot, FULL, lanes, &ins.slots[c..]);
    }
    Ok(())
}

/// Which lanes of the results are undefined: products of flags, each undefined element of one side with all of the other.
#[cold]
#[inline(never)]
fn undefined_sums(warp: &Warp, ins: &Ins, form: Form) -> [u32; 4] {
    let (c, a, b) = (form.c_registers(), form.a_registers(), form.b_registers());
    let flags = |slot: u32, one: u32| undefined::flags(warp, slot).map(|flag| flag & one);
    let (one_a, one_b) = (form.a.ones(), form.b.ones());
    let left: Vec<Lanes> = ins.slots[c..c + a].iter().map(|slot| flags(*slot, one_a)).collect();
    let right: Vec<Lanes> = ins.slots[c + a..c + a + b].iter().map(|slot| flags(*slot, one_b)).collect();
    let (all_left, all_right) = (vec![[one_a; 32]; a], vec![[one_b; 32]; b]);
    let zero = vec![[0; 32]; c];
    let mut found = [0; 4];
    for (left, right) in [(&left, &all_right), (&all_left, &right)] {
        let mut sums = [[0; 32]; 4];
        let (left, right, zero): (Vec<_>, Vec<_>, Vec<_>) =
            (left.iter().collect(), right.iter().collect(), zero.iter().collect());
        form.multiply(&left, &right, &zero, &mut sums[..c]);
        found.iter_mut().zip(&sums).for_each(|(found, sum)| *found |= undefined::raised(sum));
    }
    found.iter_mut().zip(&ins.slots[c + a + b..]).take(c).for_each(|(f, slot)| *f |= warp.undefined.lanes32(*slot));
    found
}

unsafe fn move_matrix(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    whole(warp, block, mask)?;
    let undefined = undefined::raised(&transpose(&undefined::flags(warp, ins.slots[1])));
    warp.r32[ins.slots[0] as usize] = transpose(warp.get32(ins.slots[1]));
    if warp.undefined.any() {
        warp.undefined.derive32(ins.slots[0], FULL, undefined, &ins.slots[1..2]);
    }
    Ok(())
}

/// Addresses of rows, checked; and how well they suit the banks.
#[inline(always)]
fn rows(warp: &Warp, block: &mut Block<'_>, ins: &Ins) -> Result<(R32, u32), Fault> {
    let base = ins.slots[4];
    let mut addresses: R32 = match ins.slots[5] {
        0 => warp.get32(base).map(|a| a.wrapping_add(ins.immediate as u32)),
        _ => warp.get64(base).map(|a| (a as u32).wrapping_add(ins.immediate as u32)),
    };
    let count = ins.slots[6];
    // What the other lanes hold names no row.
    let first = addresses[0];
    addresses[8 * count as usize..].fill(first);
    for (lane, address) in addresses.iter().enumerate().take(8 * count as usize) {
        if !address.is_multiple_of(16) {
            let message = format!("a matrix row at shared address {address:#x}, no multiple of 16");
            return Err(block.fault(warp, lane as u32, FaultKind::Misaligned, message));
        }
        if u64::from(*address) + 16 > u64::from(block.shared.limit) {
            let message = format!("a matrix row at shared address {address:#x} of {} bytes", block.shared.limit);
            return Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message));
        }
    }
    let lanes = if count == 4 { FULL } else { (1 << (8 * count)) - 1 };
    if let Some(lane) = race::lanes(lanes).find(|lane| block.shared.guarded(addresses[*lane], addresses[*lane] + 16)) {
        return Err(beyond_variable(block, warp, lane, addresses[lane], 16, "matrix row"));
    }
    block.counters.shared_requests += 1;
    for rows in addresses.chunks_exact(8).take(count as usize) {
        block.counters.shared_ideal_wavefronts += 1;
        // Rows that use all the banks meet nowhere.
        if rows.iter().fold(0, |used, row| used | 1 << (row / 16 % 8)) == 0xff {
            block.counters.shared_wavefronts += 1;
            continue;
        }
        let mut groups = [0u8; 8];
        for (n, row) in rows.iter().enumerate() {
            if !rows[..n].contains(row) {
                groups[(row / 16 % 8) as usize] += 1;
            }
        }
        block.counters.shared_wavefronts += u64::from(groups.into_iter().max().unwrap_or(1));
    }
    Ok((addresses, lanes))
}

struct LoadMatrix;

impl Operation for LoadMatrix {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        load_matrix(warp, block, ins, mask)
    }
}

struct StoreMatrix;

impl Operation for StoreMatrix {
    #[inline(always)]
    fn run(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
        store_matrix(warp, block, ins, mask)
    }
}

#[inline(always)]
fn load_matrix(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    whole(warp, block, mask)?;
    let (addresses, lanes) = rows(warp, block, ins)?;
    race::shared_load(block, warp.index, lanes, &addresses, 16, Strength::Plain)?;
    block.counters.shared_load_bytes += u64::from(ins.slots[6]) * 128;
    for matrix in 0..ins.slots[6] as usize {
        let mut values = [[0u32; 4]; 8];
        let mut hole = None;
        for (row, values) in values.iter_mut().enumerate() {
            let lane = 8 * matrix + row;
            let at = addresses[lane] as usize;
            if !block.shared.written.is_empty() && integer::<16>(&block.shared.written[at..at + 16]) != ones::<16>() {
                hole = hole.or(Some(at));
            }
            let bytes = &block.shared.bytes[at..at + 16];
            for (word, four) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
        }
        warp.r32[ins.slots[matrix] as usize] = from_rows(&values, ins.slots[7] != 0);
        if hole.is_some() || warp.undefined.any() {
            mark_rows(warp, block, ins, matrix, &addresses, hole);
        }
    }
    Ok(())
}

/// Marks what came from the holes of a matrix, and unmarks the rest.
#[cold]
#[inline(never)]
fn mark_rows(warp: &mut Warp, block: &Block<'_>, ins: &Ins, matrix: usize, addresses: &R32, hole: Option<usize>) {
    let slot = ins.slots[matrix];
    warp.undefined.derive32(slot, FULL, 0, &[]);
    let Some(hole) = hole else { return };
    let mut flags = [[0u32; 4]; 8];
    for (row, flags) in flags.iter_mut().enumerate() {
        let known = block.shared.written.get(addresses[8 * matrix + row] as usize..).unwrap_or_default();
        for (flag, four) in flags.iter_mut().zip(known.chunks_exact(4)) {
            *flag = u32::from_le_bytes([four[0], four[1], four[2], four[3]].map(|w| if w == 0 { 0xff } else { 0 }));
        }
    }
    let lanes = undefined::raised(&from_rows(&flags, ins.slots[7] != 0));
    let place = Some((hole as u64, block.shared_name(hole as u32)));
    let words = "a matrix row of shared memory that nobody has written whole";
    undefined::begin(warp, block, &[(flow::r32(slot), lanes)], FaultKind::Uninitialised, words, place);
}

#[inline(always)]
fn store_matrix(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    whole(warp, block, mask)?;
    let (addresses, lanes) = rows(warp, block, ins)?;
    race::shared_store(block, warp.index, lanes, &addresses, 16, Strength::Plain, false, None)?;
    block.counters.shared_store_bytes += u64::from(ins.slots[6]) * 128;
    for matrix in 0..ins.slots[6] as usize {
        let values = to_rows(warp.get32(ins.slots[matrix]), ins.slots[7] != 0);
        for (row, values) in values.iter().enumerate() {
            let at = addresses[8 * matrix + row] as usize;
            for (four, word) in block.shared.bytes[at..at + 16].chunks_exact_mut(4).zip(values) {
                four.copy_from_slice(&word.to_le_bytes());
            }
            if !block.shared.written.is_empty() {
                block.shared.written[at..at + 16].fill(1);
            }
        }
        if warp.undefined.lanes32(ins.slots[matrix]) != 0 && !block.shared.written.is_empty() {
            let flags = to_rows(&undefined::flags(warp, ins.slots[matrix]), ins.slots[7] != 0);
            for (row, flags) in flags.iter().enumerate() {
                let at = addresses[8 * matrix + row] as usize;
                for (written, flag) in
                    block.shared.written[at..at + 16].iter_mut().zip(flags.map(u32::to_le_bytes).as_flattened())
                {
                    *written &= u8::from(*flag == 0);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_every_form() {
        for text in ["m16n8k32.row.col.s32.s8.u8.s32", "m16n8k16.row.col.satfinite.s32.u8.u8.s32"] {
            let parts: Vec<&str> = ["sync", "aligned"].into_iter().chain(text.split('.')).collect();
            let parsed = Form::parse(&parts).unwrap();
            assert_eq!(form(number(parsed)), parsed);
        }
        for f in FORMS {
            assert_eq!(form(number(*f)), *f);
        }
    }
}
