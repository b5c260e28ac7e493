//! `wgmma`: matrix products of four warps that run beside them, and the registers and shared memory they hold meanwhile.
//!
//! Each warp computes its sixteen rows when it issues the instruction; the operands are taken from shared memory once, by the
//! first warp that comes. Until the wait, nobody may use the accumulators, change A's registers, or write to the operands.

use std::collections::{HashMap, VecDeque};

use super::{bulk, ends};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder, flow},
    machine::{Block, Class, Code, FULL, Gather, Ins, Step, Warp},
    race,
    report::{Fault, FaultKind},
    tensor_core::{self, Descriptor, Element, Lanes, Major, Sums, WarpgroupForm},
};

/// Bits of 32-bit register slots.
#[derive(Default)]
struct Slots(Vec<u64>);

impl Slots {
    fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    fn contains(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }
}

/// One product under way.
struct Product {
    accumulators: Box<[u32]>,
    sources: Box<[u32]>,
    /// Shared ranges it reads, in the first warp of the group.
    reads: Vec<(u32, u32)>,
}

/// Products of one warp.
#[derive(Default)]
pub(super) struct Products {
    sequence: u64,
    open: Vec<Product>,
    groups: VecDeque<Vec<Product>>,
    /// Accumulators under way.
    held: Slots,
    /// Registers of A under way.
    lent: Slots,
    /// Registers written since the last `wgmma.fence`.
    fresh: Slots,
    fenced: bool,
}

/// Operands that one warp has taken from shared memory for all four.
#[derive(Default)]
pub(super) struct Operands(HashMap<(u32, u64), Taken>);

struct Taken {
    a: Option<tensor_core::Operand>,
    b: tensor_core::Operand,
    words: (u64, u64),
    left: u32,
}

const A_REGISTERS: i64 = 1;
const NEGATE_A: i64 = 2;
const NEGATE_B: i64 = 4;
const TRANSPOSE_A: i64 = 8;
const TRANSPOSE_B: i64 = 16;
const HALF_ACCUMULATOR: i64 = 32;
const ELEMENT_SHIFT: i64 = 8;
const RIGHT_SHIFT: i64 = 12;
const ELEMENTS: [Element; 5] = [Element::F16, Element::Bf16, Element::Tf32, Element::E4m3, Element::E5m2];
const N_SHIFT: i64 = 16;

/// `wgmma.*`.
pub(crate) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let ins = match i.parts[..] {
        ["wgmma", "fence", "sync", "aligned"] => d.blank(fence, Class::Synchronisation),
        ["wgmma", "commit_group", "sync", "aligned"] => d.blank(commit, Class::Synchronisation),
        ["wgmma", "wait_group", "sync", "aligned"] => {
            let mut ins = d.blank(wait, Class::Synchronisation);
            ins.immediate = d.integer(i, 0)?;
            ins
        }
        ["wgmma", "mma_async", ..] => product(d, i)?,
        _ => return Ok(None),
    };
    Ok(Some(Ins { gather: Gather::All, ..ins }))
}

/// slots: A's descriptor or registers, B's descriptor, scale of D; more: accumulators
fn product<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let form = WarpgroupForm::parse(&i.parts[1..]).map_err(|message| d.refuse(i, message))?;
    let accumulators = d.elements(i, 0)?;
    if accumulators.len() != form.d_registers() {
        return Err(d.refuse(i, format!("{} accumulator registers are needed", form.d_registers())));
    }
    let mut more = Vec::new();
    for operand in &accumulators {
        more.push(d.destination32(i, operand)?);
    }
    let mut slots = [0; 6];
    let mut flags = 0;
    match d.operand(i, 1)?.clone() {
        Operand::Vector(registers) if registers.len() == 4 => {
            flags |= A_REGISTERS;
            for (slot, register) in slots.iter_mut().zip(&registers) {
                *slot = d.source32(i, register, 32)?;
            }
        }
        _ => slots[0] = d.from64(i, 1)?,
    }
    slots[4] = d.from64(i, 2)?;
    slots[5] = d.from_predicate(i, 3)?;
    for (index, flag) in [(4, NEGATE_A), (5, NEGATE_B)] {
        flags |= match d.integer(i, index)? {
            1 => 0,
            -1 => flag,
            _ => return Err(d.refuse(i, "scales must be 1 or -1")),
        };
    }
    let transposes: &[i64] = if flags & A_REGISTERS != 0 { &[TRANSPOSE_B] } else { &[TRANSPOSE_A, TRANSPOSE_B] };
    if form.element.bytes() == 2 {
        for (n, flag) in transposes.iter().enumerate() {
            flags |= if d.integer(i, 6 + n)? != 0 { *flag } else { 0 };
        }
    }
    let number = |element: Element| ELEMENTS.iter().position(|e| *e == element).unwrap_or(0) as i64;
    let mut ins = d.with(multiply, Class::Matrix, &slots);
    ins.immediate = flags
        | if form.half_accumulator { HALF_ACCUMULATOR } else { 0 }
        | number(form.element) << ELEMENT_SHIFT
        | number(form.right) << RIGHT_SHIFT
        | (form.n as i64) << N_SHIFT;
    ins.macs = (form.macs() / 4) as u32;
    ins.more = more.into();
    Ok(ins)
}

fn form(ins: &Ins) -> WarpgroupForm {
    let element = |shift: i64| ELEMENTS[(ins.immediate >> shift & 15) as usize % ELEMENTS.len()];
    let n = (ins.immediate >> N_SHIFT) as usize;
    let half_accumulator = ins.immediate & HALF_ACCUMULATOR != 0;
    WarpgroupForm { element: element(ELEMENT_SHIFT), right: element(RIGHT_SHIFT), n, half_accumulator }
}

/// Before every instruction of a kernel that uses `wgmma`: nobody touches registers that a product holds.
pub(crate) fn check_registers(warp: &mut Warp, block: &Block<'_>, code: &Code, pc: u32) -> Step {
    let Some(flow) = code.flows.get(pc as usize) else { return Ok(()) };
    let products = &mut warp.asynchronous.products;
    let asynchronous = code.ins[pc as usize].run as usize == multiply as crate::machine::OpFn as usize;
    let mut wrong = None;
    for (n, register) in flow.registers().iter().enumerate() {
        let written = n < flow.destinations().len();
        let Some(slot) = flow::slot32(*register) else { continue };
        if products.held.contains(slot) && !(asynchronous && written) {
            wrong = Some("an accumulator of wgmma is used before the wgmma.wait_group that completes it");
        } else if written && products.lent.contains(slot) {
            wrong = Some("a register is changed while a wgmma that reads it is under way");
        }
        if written && !asynchronous {
            products.fresh.insert(slot);
        }
    }
    match wrong {
        Some(message) => Err(block.fault(warp, 0, FaultKind::AsyncHazard, message)),
        None => Ok(()),
    }
}

unsafe fn fence(warp: &mut Warp, _: &mut Block<'_>, _: &Ins, _: u32) -> Step {
    let products = &mut warp.asynchronous.products;
    products.fresh.0.fill(0);
    products.fenced = true;
    Ok(())
}

unsafe fn commit(warp: &mut Warp, _: &mut Block<'_>, _: &Ins, _: u32) -> Step {
    let products = &mut warp.asynchronous.products;
    let open = std::mem::take(&mut products.open);
    products.groups.push_back(open);
    Ok(())
}

unsafe fn wait(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, _: u32) -> Step {
    let products = &mut warp.asynchronous.products;
    let keep = usize::try_from(ins.immediate).unwrap_or(0);
    while products.groups.len() > keep {
        for done in products.groups.pop_front().unwrap_or_default() {
            if block.race.on {
                for (address, bytes) in done.reads {
                    block.race.shadow.read_done(&block.race.clocks, warp.index as usize, address, bytes);
                }
            }
        }
    }
    // All lanes have waited.
    block.race.warp_sync(warp.index);
    products.held.0.fill(0);
    products.lent.0.fill(0);
    let Products { groups, open, held, lent, .. } = products;
    for product in groups.iter().flatten().chain(open.iter()) {
        product.accumulators.iter().for_each(|slot| held.insert(*slot));
        product.sources.iter().for_each(|slot| lent.insert(*slot));
    }
    Ok(())
}

unsafe fn multiply(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let hazard = |block: &Block<'_>, warp: &Warp, message: &str| block.fault(warp, 0, FaultKind::AsyncHazard, message);
    if mask != FULL {
        return Err(block.fault(warp, 0, FaultKind::Divergence, "wgmma without all 32 lanes of its warp"));
    }
    let form = form(ins);
    let from_registers = ins.immediate & A_REGISTERS != 0;
    let scale = crate::ops::lanes::predicate(warp, ins.slots[5]);
    if scale != 0 && scale != FULL {
        return Err(block.fault(warp, 0, FaultKind::Operand, "the lanes of a warp disagree about the scale of D"));
    }
    let products = &warp.asynchronous.products;
    let stale = |slot: &u32| products.fresh.contains(*slot);
    let sources = if from_registers { &ins.slots[..4] } else { &[] };
    if !products.fenced || scale != 0 && ins.more.iter().any(stale) || sources.iter().any(stale) {
        return Err(hazard(block, warp, "registers of this wgmma were written without a wgmma.fence since"));
    }
    let words = (if from_registers { 0 } else { warp.get64(ins.slots[0])[0] }, warp.get64(ins.slots[4])[0]);
    let (group, sequence) = (warp.index / 4, products.sequence);
    let mut reads = Vec::new();
    let first = warp.index.is_multiple_of(4);
    if first || !block.asynchronous.operands.0.contains_key(&(group, sequence)) {
        let b_major = if ins.immediate & TRANSPOSE_B != 0 { Major::Mn } else { Major::K };
        let b_pieces = Descriptor::decode(words.1).pieces(b_major, form.element, form.n, form.k());
        let a_major = if ins.immediate & TRANSPOSE_A != 0 { Major::Mn } else { Major::K };
        let a_pieces = match from_registers {
            true => Vec::new(),
            false => Descriptor::decode(words.0).pieces(a_major, form.element, 64, form.k()),
        };
        if first && block.race.on {
            reads = lend(warp, block, a_pieces.iter().chain(&b_pieces))?;
        }
        if !block.asynchronous.operands.0.contains_key(&(group, sequence)) {
            let b = form.right(&fetch(warp, block, &b_pieces)?, b_major, ins.immediate & NEGATE_B != 0);
            let a = match from_registers {
                true => None,
                false => {
                    let pieces = fetch(warp, block, &a_pieces)?;
                    Some(form.left(&pieces, a_major, ins.immediate & NEGATE_A != 0))
                }
            };
            block.asynchronous.operands.0.insert((group, sequence), Taken { a, b, words, left: 4 });
        }
    }
    let sums = Sums { accumulate: scale != 0, truncate: block.launch.options.perturb_approx };
    let mut d: Vec<Lanes> = ins.more.iter().map(|slot| *warp.get32(*slot)).collect();
    if let Some(taken) = block.asynchronous.operands.0.get_mut(&(group, sequence)) {
        if taken.words != words {
            return Err(block.fault(warp, 0, FaultKind::Operand, "the warps of a warpgroup name different operands"));
        }
        match &taken.a {
            Some(a) => form.multiply_shared(a, warp.index as usize % 4, &taken.b, sums, &mut d),
            None => {
                let a: [&Lanes; 4] = std::array::from_fn(|n| warp.get32(ins.slots[n]));
                form.multiply_registers(&a, ins.immediate & NEGATE_A != 0, &taken.b, sums, &mut d);
            }
        }
        taken.left -= 1;
        if taken.left == 0 {
            block.asynchronous.operands.0.remove(&(group, sequence));
        }
    }
    for (slot, value) in ins.more.iter().zip(d) {
        warp.r32[*slot as usize] = value;
    }
    let products = &mut warp.asynchronous.products;
    products.sequence += 1;
    ins.more.iter().for_each(|slot| products.held.insert(*slot));
    let sources: Box<[u32]> = if from_registers { ins.slots[..4].into() } else { Box::default() };
    sources.iter().for_each(|slot| products.lent.insert(*slot));
    products.open.push(Product { accumulators: ins.more.clone(), sources, reads });
    Ok(())
}

/// Marks the operands as being read by this warp, on behalf of its warpgroup.
fn lend<'p>(
    warp: &Warp,
    block: &mut Block<'_>,
    pieces: impl Iterator<Item = &'p u32>,
) -> Result<Vec<(u32, u32)>, Fault> {
    let mut pieces: Vec<u32> = pieces.copied().collect();
    pieces.sort_unstable();
    pieces.dedup();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for piece in pieces {
        match ranges.last_mut() {
            Some((start, bytes)) if *start + *bytes == piece => *bytes += 16,
            _ => ranges.push((piece, 16)),
        }
    }
    for (address, bytes) in &ranges {
        ends::shared(block, warp, 0, *address, *bytes, 16)?;
        bulk::readable(warp, block, 0, *address, *bytes)?;
        let races = &mut block.race;
        let begun = races.shadow.begin_read(&mut races.clocks, warp.index as usize, 0, *address, *bytes);
        begun.map_err(|c| race::shared_fault(block, warp.index, c, "asynchronous read"))?;
    }
    Ok(ranges)
}

/// The pieces of an operand.
fn fetch(warp: &Warp, block: &mut Block<'_>, pieces: &[u32]) -> Result<Vec<[u32; 4]>, Fault> {
    let mut words = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let range = ends::shared(block, warp, 0, *piece, 16, 16)?;
        if !block.shared.written.is_empty() && block.shared.written[range.clone()].contains(&0) {
            let message = format!("wgmma reads shared address {piece:#x}, which nobody has written");
            let fault = block.fault(warp, 0, FaultKind::Uninitialised, message);
            return Err(fault.edit(|r| r.allocation = block.shared_name(*piece)));
        }
        let bytes = &block.shared.bytes[range];
        let word = |n: usize| u32::from_le_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
        words.push([word(0), word(4), word(8), word(12)]);
    }
    block.counters.shared_load_bytes += 16 * pieces.len() as u64;
    Ok(words)
}
