//! `wgmma`: matrix products of four warps that run beside them, and the registers and shared memory they hold meanwhile.
//!
//! Each warp computes its sixteen rows when it issues the instruction; the operands are taken from shared memory once, by the
//! first warp that comes. Until the wait, nobody may use the accumulators, change A's registers, or write to the operands.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{bulk, ends};
use crate::{
    ast::{Instruction, Operand},
    decode::{Decoded, Decoder, flow},
    machine::{Block, Class, Code, FULL, Gather, Ins, Step, Warp},
    report::{Fault, FaultKind},
    tensor_core::{self, Descriptor, Element, Lanes, Major, Sums, Tile, WarpgroupForm},
};

/// Bits of 32-bit register slots.
#[derive(Default)]
struct Slots(Vec<u64>);

impl Slots {
    #[inline]
    fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    fn contains(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }
}

/// One product under way.
struct Product {
    /// The instruction.
    pc: u32,
    /// Shared ranges it reads, in the first warp of the group.
    reads: Vec<(u32, u32)>,
}

/// Products of one warp.
#[derive(Default)]
pub(super) struct Products {
    sequence: u64,
    open: Vec<Product>,
    groups: VecDeque<Vec<Product>>,
    /// Room for ranges.
    spare: Vec<Vec<(u32, u32)>>,
    /// Accumulators under way.
    held: Slots,
    /// Registers of A under way.
    lent: Slots,
    /// Registers written since the last `wgmma.fence`.
    fresh: Slots,
    fenced: bool,
}

/// Operands of products under way.
#[derive(Default)]
pub(super) struct Operands {
    /// What one warp has taken from shared memory for all four, by warpgroup and number of the product.
    taken: HashMap<(u32, u64), Taken>,
    /// The tiles that descriptors name: their words without the origin, and the rest of what makes a tile.
    tiles: Vec<((u64, TileForm), Arc<Tile>)>,
    /// Room for what is being taken, and for what was.
    pieces: Vec<[u32; 4]>,
    spare: Vec<tensor_core::Operand>,
}

/// What a tile is made of beside its descriptor: k is always 32 bytes.
type TileForm = (Major, Element, usize);

/// A tile and where it begins.
struct Placed {
    origin: u32,
    tile: Arc<Tile>,
}

impl Placed {
    fn new(operands: &mut Operands, word: u64, form: TileForm) -> Self {
        let descriptor = Descriptor::decode(word);
        let origin = descriptor.origin();
        let key = (word.wrapping_sub(u64::from(origin >> 4)), form);
        let known = operands.tiles.iter().find(|(other, _)| *other == key);
        let tile = known.map(|(_, tile)| tile.clone()).unwrap_or_else(|| {
            let (major, element, mn) = form;
            let tile = Arc::new(descriptor.tile(major, element, mn, 32 / element.bytes()));
            operands.tiles.push((key, tile.clone()));
            tile
        });
        Self { origin, tile }
    }

    fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        self.tile.ranges.iter().map(|(start, bytes)| (self.origin.wrapping_add(*start), *bytes))
    }

    /// Refuses a tile that leaves shared memory or one of its variables.
    fn check(&self, warp: &Warp, block: &Block<'_>) -> Step {
        let ends = |(start, bytes): &(u32, u32)| {
            (u64::from(self.origin) + u64::from(*start), u64::from(self.origin) + u64::from(*start) + u64::from(*bytes))
        };
        if let (Some((from, _)), Some((_, to))) =
            (self.tile.ranges.first().map(ends), self.tile.ranges.last().map(ends))
            && to <= block.shared.limit.into()
            && !block.shared.guarded(from as u32, to as u32)
        {
            return Ok(());
        }
        self.ranges().try_for_each(|(start, bytes)| ends::shared(block, warp, 0, start, bytes, 16).map(drop))
    }
}

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
    let (destinations, sources) = flow.registers().split_at(flow.destinations().len());
    let (mut held, mut lent) = (false, false);
    // Products may follow each other into the same accumulators.
    if !asynchronous || !products.lent.is_empty() {
        for slot in destinations.iter().filter_map(|register| flow::slot32(*register)) {
            held |= !asynchronous && products.held.contains(slot);
            lent |= products.lent.contains(slot);
            if !asynchronous {
                products.fresh.insert(slot);
            }
        }
    }
    held |= sources.iter().filter_map(|register| flow::slot32(*register)).any(|slot| products.held.contains(slot));
    let message = match () {
        () if held => "an accumulator of wgmma is used before the wgmma.wait_group that completes it",
        () if lent => "a register is changed while a wgmma that reads it is under way",
        () => return Ok(()),
    };
    Err(block.fault(warp, 0, FaultKind::AsyncHazard, message))
}

unsafe fn fence(warp: &mut Warp, _: &mut Block<'_>, _: &Ins, _: u32) -> Step {
    let products = &mut warp.asynchronous.products;
    products.fresh.clear();
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
    let done = products.groups.len().saturating_sub(keep);
    let mut shadow = block.race.on.then_some((&mut block.race.shadow, &block.race.clocks));
    for product in products.groups.drain(..done).flatten() {
        if let Some((shadow, clocks)) = &mut shadow {
            shadow.reads_done(clocks, warp.index as usize, &product.reads);
        }
        products.spare.push(product.reads);
    }
    if done > 0
        && let Some((shadow, _)) = &mut shadow
    {
        // The same memory may be read by what is still under way.
        let left = products.groups.iter().flatten().chain(&products.open);
        left.for_each(|product| shadow.still_read(warp.index as usize, &product.reads));
    }
    // All lanes have waited.
    block.race.warp_sync(warp.index);
    products.held.clear();
    products.lent.clear();
    let Products { groups, open, held, lent, .. } = products;
    for product in groups.iter().flatten().chain(open.iter()) {
        hold(&block.launch.entry.code.ins[product.pc as usize], held, lent);
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
    let mut reads = warp.asynchronous.products.spare.pop().unwrap_or_default();
    reads.clear();
    let first = warp.index.is_multiple_of(4);
    let taken = block.asynchronous.operands.taken.contains_key(&(group, sequence));
    if first && block.race.on || !taken {
        let major = |transposed: i64| if ins.immediate & transposed != 0 { Major::Mn } else { Major::K };
        let operands = &mut block.asynchronous.operands;
        let b = Placed::new(operands, words.1, (major(TRANSPOSE_B), form.right, form.n));
        let a = (!from_registers).then(|| Placed::new(operands, words.0, (major(TRANSPOSE_A), form.element, 64)));
        a.iter().chain([&b]).try_for_each(|placed| placed.check(warp, block))?;
        if first && block.race.on {
            reads.extend(a.iter().chain([&b]).flat_map(Placed::ranges));
            reads.sort();
            bulk::begin_reads(warp, block, 0, &reads)?;
        }
        if !taken {
            let b = fetch(warp, block, &b, form.right, form.n, (major(TRANSPOSE_B), ins.immediate & NEGATE_B != 0))?;
            let negated = (major(TRANSPOSE_A), ins.immediate & NEGATE_A != 0);
            let a = a.map(|a| fetch(warp, block, &a, form.element, 64, negated)).transpose()?;
            block.asynchronous.operands.taken.insert((group, sequence), Taken { a, b, words, left: 4 });
        }
    }
    let sums = Sums { accumulate: scale != 0, truncate: block.launch.options.perturb_approx };
    if let Some(taken) = block.asynchronous.operands.taken.get_mut(&(group, sequence)) {
        if taken.words != words {
            return Err(block.fault(warp, 0, FaultKind::Operand, "the warps of a warpgroup name different operands"));
        }
        match &taken.a {
            Some(a) => {
                form.multiply_shared(a, warp.index as usize % 4, &taken.b, sums, &mut warp.r32, &ins.more);
            }
            None => {
                let a: [Lanes; 4] = std::array::from_fn(|n| *warp.get32(ins.slots[n]));
                let negate = ins.immediate & NEGATE_A != 0;
                form.multiply_registers(a.each_ref(), negate, &taken.b, sums, &mut warp.r32, &ins.more);
            }
        }
        taken.left -= 1;
        if taken.left == 0 {
            let operands = &mut block.asynchronous.operands;
            let taken = operands.taken.remove(&(group, sequence));
            operands.spare.extend(taken.into_iter().flat_map(|taken| [Some(taken.b), taken.a]).flatten());
        }
    }
    let products = &mut warp.asynchronous.products;
    products.sequence += 1;
    hold(ins, &mut products.held, &mut products.lent);
    products.open.push(Product { pc: block.pc, reads });
    Ok(())
}

/// Notes the registers of a product.
fn hold(product: &Ins, held: &mut Slots, lent: &mut Slots) {
    product.more.iter().for_each(|slot| held.insert(*slot));
    if product.immediate & A_REGISTERS != 0 {
        product.slots[..4].iter().for_each(|slot| lent.insert(*slot));
    }
}

/// An operand, whose place was checked: of that type, so many rows or columns, and how they lie and whether they are negated.
fn fetch(
    warp: &Warp,
    block: &mut Block<'_>,
    placed: &Placed,
    element: Element,
    mn: usize,
    (major, negate): (Major, bool),
) -> Result<tensor_core::Operand, Fault> {
    if !block.shared.written.is_empty() {
        for (start, bytes) in placed.ranges() {
            let known = &block.shared.written[start as usize..(start + bytes) as usize];
            if known.iter().fold(1, |all, written| all & written) == 0 {
                let hole = start + 16 * (known.iter().position(|written| *written == 0).unwrap_or(0) / 16) as u32;
                let message = format!("wgmma reads shared address {hole:#x}, which nobody has written");
                let fault = block.fault(warp, 0, FaultKind::Uninitialised, message);
                return Err(fault.edit(|r| r.allocation = block.shared_name(hole)));
            }
        }
    }
    let (memory, operands) = (&block.shared.bytes, &mut block.asynchronous.operands);
    operands.pieces.clear();
    operands.pieces.extend(placed.tile.pieces.iter().map(|piece| {
        let at = placed.origin.wrapping_add(*piece) as usize;
        let bytes: &[u8; 16] = memory[at..at + 16].as_array().unwrap_or(&[0; 16]);
        let words = bytes.as_chunks::<4>().0;
        [0, 1, 2, 3].map(|n| u32::from_le_bytes(words[n]))
    }));
    block.counters.shared_load_bytes += 16 * placed.tile.pieces.len() as u64;
    let mut operand = operands.spare.pop().unwrap_or_default();
    operand.fill(element, &operands.pieces, major, mn, negate);
    Ok(operand)
}
