//! Values that nobody defined: what loads of unwritten memory give, and shuffles from lanes that take no part.
//!
//! Holding one is no fault: a ragged tile computes on rows that it never stores. It follows the values through registers and
//! shared and local memory, lane by lane, and is reported where it decides something: in an address, a branch or guard, an
//! atomic or a barrier, or a store to global memory, which the host and other kernels read.

use std::collections::HashMap;

use crate::{
    decode::flow::{self, AnyRegister, Way},
    machine::{Block, Class, Code, Ins, LANES, R32, Step, Warp},
    ops::access::Payload,
    report::{Fault, FaultKind},
};

/// Where an undefined value came from.
struct Origin {
    kind: FaultKind,
    /// `a load of shared memory that nobody wrote`
    words: String,
    address: Option<u64>,
    allocation: Option<String>,
}

/// The undefined lanes of a register, and the instruction that first made one of them so.
#[derive(Clone, Copy, Default)]
struct Mark {
    lanes: u32,
    origin: u32,
}

/// Which registers of a warp hold undefined values in which lanes.
#[derive(Default)]
pub struct Undefined {
    marks: HashMap<AnyRegister, Mark>,
    /// By instruction.
    origins: HashMap<u32, Origin>,
}

impl Undefined {
    /// Forgets everything: another block's warp.
    pub fn clear(&mut self) {
        self.marks.clear();
        self.origins.clear();
    }

    /// Whether any register does.
    #[inline(always)]
    pub fn any(&self) -> bool {
        !self.marks.is_empty()
    }

    fn get(&self, register: AnyRegister) -> Mark {
        self.marks.get(&register).copied().unwrap_or_default()
    }

    /// The undefined lanes of a 32-bit register.
    pub fn lanes32(&self, slot: u32) -> u32 {
        self.get(flow::r32(slot)).lanes
    }

    /// Of those lanes of a register, `undefined` are so from now on.
    fn set(&mut self, register: AnyRegister, lanes: u32, undefined: u32, origin: u32) {
        let old = self.get(register);
        let mark = Mark {
            lanes: old.lanes & !lanes | undefined & lanes,
            origin: if undefined & lanes != 0 { origin } else { old.origin },
        };
        match mark.lanes {
            0 => drop(self.marks.remove(&register)),
            _ => drop(self.marks.insert(register, mark)),
        }
    }

    /// The same for a 32-bit register whose undefined values come from others.
    pub fn derive32(&mut self, slot: u32, lanes: u32, undefined: u32, sources: &[u32]) {
        let origin = sources.iter().map(|s| self.get(flow::r32(*s))).find(|m| m.lanes != 0).map_or(0, |m| m.origin);
        self.set(flow::r32(slot), lanes, undefined, origin);
    }
}

/// Notes that the instruction under way gives undefined values, and where they come from.
#[cold]
#[inline(never)]
pub(crate) fn begin(
    warp: &mut Warp,
    block: &Block<'_>,
    registers: &[(AnyRegister, u32)],
    kind: FaultKind,
    words: &str,
    place: Option<(u64, Option<String>)>,
) {
    let pc = block.pc;
    warp.undefined.origins.entry(pc).or_insert_with(|| {
        let (address, allocation) = place.map_or((None, None), |(address, name)| (Some(address), name));
        Origin { kind, words: words.to_owned(), address, allocation }
    });
    for (register, lanes) in registers {
        // Slot 0 takes what nobody reads.
        if *register << 2 != 0 {
            warp.undefined.set(*register, *lanes, *lanes, pc);
        }
    }
}

/// The fault of an undefined value in a register that reaches `what`.
#[cold]
#[inline(never)]
fn fault(warp: &Warp, block: &Block<'_>, register: AnyRegister, lanes: u32, what: &str) -> Fault {
    let mark = warp.undefined.get(register);
    let lane = (mark.lanes & lanes).trailing_zeros();
    let from = block.at(mark.origin);
    let Some(origin) = warp.undefined.origins.get(&mark.origin) else {
        return block.fault(warp, lane, FaultKind::Uninitialised, format!("an undefined value reaches {what}"));
    };
    let message = match mark.origin == block.pc {
        true => format!("{} reaches {what}", origin.words),
        false => format!("{}, at {from}, reaches {what}", origin.words),
    };
    block.fault(warp, lane, origin.kind, message).edit(|r| {
        r.address = origin.address;
        r.allocation.clone_from(&origin.allocation);
    })
}

fn check(warp: &Warp, block: &Block<'_>, registers: &[AnyRegister], lanes: u32, what: &str) -> Step {
    match registers.iter().find(|r| warp.undefined.get(**r).lanes & lanes != 0) {
        Some(register) => Err(fault(warp, block, *register, lanes, what)),
        None => Ok(()),
    }
}

/// The guard of an instruction that `lanes` have come to.
#[cold]
#[inline(never)]
pub(crate) fn check_guard(warp: &Warp, block: &Block<'_>, ins: &Ins, lanes: u32) -> Step {
    let what = if ins.class == Class::Control { "a branch" } else { "the guard of an instruction" };
    check(warp, block, &[flow::predicate(ins.guard)], lanes, what)
}

/// The operands of control flow and barriers, which the scheduler executes itself.
#[cold]
#[inline(never)]
pub(crate) fn check_operands(warp: &Warp, block: &Block<'_>, code: &Code, lanes: u32) -> Step {
    let Some(flow) = code.flows.get(block.pc as usize) else { return Ok(()) };
    check(warp, block, flow.addresses(), lanes, "an address")?;
    if flow.way == Way::Sink { check(warp, block, flow.sources(), lanes, "a barrier or a jump") } else { Ok(()) }
}

/// Executes the instruction at the block's place, of a warp with undefined values.
#[cold]
#[inline(never)]
pub(crate) fn step(warp: &mut Warp, block: &mut Block<'_>, code: &Code, lanes: u32) -> Step {
    let ins = &code.ins[block.pc as usize];
    // SAFETY: decoding chose the function by what this processor has.
    let run = |warp: &mut Warp, block: &mut Block<'_>| unsafe { (ins.run)(warp, block, ins, lanes) };
    let Some(flow) = code.flows.get(block.pc as usize) else { return run(warp, block) };
    check(warp, block, flow.addresses(), lanes, "an address")?;
    let marks: Vec<Mark> = flow.sources().iter().map(|source| warp.undefined.get(*source)).collect();
    let all = marks.iter().fold(0, |all, mark| all | mark.lanes);
    let known = |warp: &Warp, n: usize, value: bool| {
        let slot = (flow.sources()[n] << 2 >> 2) as usize;
        (if value { warp.predicates[slot] } else { !warp.predicates[slot] }) & !marks[n].lanes
    };
    let undefined = match flow.way {
        Way::Each => all,
        Way::Select => {
            // Of the slots, because constants stand among them that have no marks.
            let file = flow.destinations().first().map_or(0, |d| d >> 30 << 30);
            let lanes = |register| warp.undefined.get(register).lanes;
            let which = crate::ops::lanes::predicate(warp, ins.slots[3]);
            let [a, b] = [ins.slots[1], ins.slots[2]].map(|slot| lanes(file | slot));
            lanes(flow::predicate(ins.slots[3] & !crate::decode::NEGATED)) | which & a | !which & b
        }
        Way::And if marks.len() == 2 => all & !known(warp, 0, false) & !known(warp, 1, false),
        Way::Or if marks.len() == 2 => all & !known(warp, 0, true) & !known(warp, 1, true),
        Way::And | Way::Or => all,
        Way::Together => {
            if all & lanes != 0 {
                lanes
            } else {
                0
            }
        }
        Way::Sink => {
            let what = if ins.class == Class::Memory { "memory" } else { "an instruction that others see" };
            check(warp, block, flow.sources(), lanes, what)?;
            0
        }
        Way::Own => 0,
    };
    // What the operation reads must still be known to it; what it makes undefined itself comes after.
    let own = flow.way == Way::Own;
    if own {
        return run(warp, block);
    }
    run(warp, block)?;
    let origin = marks.iter().find(|mark| mark.lanes & lanes != 0).map_or(0, |mark| mark.origin);
    for destination in flow.destinations() {
        warp.undefined.set(*destination, lanes, undefined, origin);
    }
    Ok(())
}

/// Of a load into `registers` of `bytes` each, `WIDTH` bytes a lane: marks what comes from bytes that nobody wrote, unmarks
/// the rest. `holes` is not zero where a byte is unwritten.
pub(crate) fn loaded<const WIDTH: usize>(
    warp: &mut Warp,
    block: &Block<'_>,
    registers: &[AnyRegister],
    bytes: usize,
    mask: u32,
    holes: Option<Box<Holes>>,
) {
    if warp.undefined.any() {
        registers.iter().for_each(|register| warp.undefined.set(*register, mask, 0, 0));
    }
    let Some(holes) = holes else { return };
    let hole = |lane: usize, k: usize| {
        let at = lane * WIDTH + k * bytes;
        holes.bytes[at..at + bytes].iter().any(|b| *b != 0)
    };
    let lanes = |k: usize| (0..LANES).filter(|lane| mask >> lane & 1 != 0 && hole(*lane, k)).fold(0, |m, l| m | 1 << l);
    let marks: Vec<_> = registers.iter().enumerate().map(|(k, r)| (*r, lanes(k))).filter(|(_, l)| *l != 0).collect();
    let words = format!("a load of {} memory that nobody wrote", holes.what);
    begin(warp, block, &marks, FaultKind::Uninitialised, &words, Some((holes.address, holes.allocation)));
}

/// Unwritten bytes of a load: which, and where the first is.
pub(crate) struct Holes {
    /// One byte for each of the payload.
    pub bytes: Payload,
    pub what: &'static str,
    pub address: u64,
    pub allocation: Option<String>,
}

impl Holes {
    /// None yet, in that kind of memory.
    pub fn new(what: &'static str) -> Self {
        Self { bytes: [0; 16 * LANES], what, address: 0, allocation: None }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.bytes.iter().any(|b| *b != 0)
    }

    /// The bytes at `at` of the payload, from that address, are known to be written where `written` is not zero.
    pub fn add(&mut self, at: usize, written: &[u8], address: u64, allocation: impl FnOnce() -> Option<String>) {
        let Some(first) = written.iter().position(|w| *w == 0) else { return };
        if !self.any() {
            (self.address, self.allocation) = (address + first as u64, allocation());
        }
        self.bytes[at..at + written.len()].iter_mut().zip(written).for_each(|(hole, w)| *hole = u8::from(*w == 0));
    }
}

/// Which bytes of a store of `WIDTH` bytes a lane are undefined, if any are: not zero there.
#[inline(always)]
pub(crate) fn stored<const WIDTH: usize>(
    warp: &Warp,
    registers: &[AnyRegister],
    bytes: usize,
    mask: u32,
) -> Option<Box<Payload>> {
    if !warp.undefined.any() {
        return None;
    }
    stored_bytes::<WIDTH>(warp, registers, bytes, mask)
}

#[cold]
#[inline(never)]
fn stored_bytes<const WIDTH: usize>(
    warp: &Warp,
    registers: &[AnyRegister],
    bytes: usize,
    mask: u32,
) -> Option<Box<Payload>> {
    let mut found = None;
    for (k, register) in registers.iter().enumerate() {
        for lane in crate::race::lanes(warp.undefined.get(*register).lanes & mask) {
            let all = found.get_or_insert_with(|| Box::new([0; 16 * LANES]));
            let at = lane * WIDTH + k * bytes;
            all[at..at + bytes].fill(1);
        }
    }
    found
}

/// The fault of a store of undefined values to global memory.
pub(crate) fn stored_globally(warp: &Warp, block: &Block<'_>, registers: &[AnyRegister], mask: u32) -> Step {
    check(warp, block, registers, mask, "global memory")
}

/// All ones in the undefined lanes of a 32-bit register, zero in the others: for operations that move values about.
pub(crate) fn flags(warp: &Warp, slot: u32) -> R32 {
    let lanes = warp.undefined.lanes32(slot);
    std::array::from_fn(|lane| if lanes >> lane & 1 != 0 { u32::MAX } else { 0 })
}

/// The lanes of a register that are not zero.
pub(crate) fn raised(flags: &R32) -> u32 {
    crate::race::runs::bits(&flags.map(|flag| u8::from(flag != 0)))
}
