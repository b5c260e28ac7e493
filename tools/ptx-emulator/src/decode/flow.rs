//! Which registers an instruction reads and writes, and how what is undefined in them gets from one to the other.

use crate::{
    ast::{Base, Instruction, Operand},
    decode::{Decoder, Reg, Symbol, names},
};

/// A register of any file: the file in the top two bits, the slot below.
pub(crate) type AnyRegister = u32;

const FILE_SHIFT: u32 = 30;
/// A 32-bit register.
pub(crate) const fn r32(slot: u32) -> AnyRegister {
    slot
}
/// A 64-bit register.
pub(crate) const fn r64(slot: u32) -> AnyRegister {
    1 << FILE_SHIFT | slot
}
/// A predicate.
pub(crate) const fn predicate(slot: u32) -> AnyRegister {
    2 << FILE_SHIFT | slot
}
/// The slot, if it is a 32-bit register.
pub(crate) fn slot32(register: AnyRegister) -> Option<u32> {
    (register >> FILE_SHIFT == 0).then_some(register)
}

/// How undefined values pass through an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Each lane's results are undefined if one of its operands is.
    Each,
    /// As the selector chooses.
    Select,
    /// Of predicates: one that is false decides.
    And,
    /// Of predicates: one that is true decides.
    Or,
    /// The results of all lanes depend on the operands of all.
    Together,
    /// The operation says itself.
    Own,
    /// The operands reach memory or decide what happens.
    Sink,
}

/// The registers of one instruction: destinations, then sources, then those that make addresses.
pub(crate) struct Flow {
    pub way: Way,
    registers: Box<[AnyRegister]>,
    destinations: u16,
    sources: u16,
}

impl Flow {
    pub(crate) fn destinations(&self) -> &[AnyRegister] {
        &self.registers[..self.destinations as usize]
    }

    pub(crate) fn sources(&self) -> &[AnyRegister] {
        &self.registers[self.destinations as usize..][..self.sources as usize]
    }

    pub(crate) fn addresses(&self) -> &[AnyRegister] {
        &self.registers[(self.destinations + self.sources) as usize..]
    }

    /// All, destinations first.
    pub(crate) fn registers(&self) -> &[AnyRegister] {
        &self.registers
    }

    /// Of an instruction that only jumps.
    pub(crate) fn nothing() -> Self {
        Self { way: Way::Own, registers: Box::default(), destinations: 0, sources: 0 }
    }

    /// Of an instruction as written.
    pub(crate) fn of<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Self {
        let opcode = i.parts[0];
        let way = match opcode {
            "selp" => Way::Select,
            "and" if i.has("pred") => Way::And,
            "or" if i.has("pred") => Way::Or,
            "vote" | "match" | "redux" => Way::Together,
            "mma" if i.has("f64") => Way::Together,
            "shfl" | "tex" | "suld" | "movmatrix" | "ld" | "ldu" | "st" | "ldmatrix" | "stmatrix" | "mma" | "wmma" => {
                Way::Own
            }
            "atom" | "red" | "sust" | "cp" | "tensormap" | "alloca" | "mbarrier" | "wgmma" | "bar" | "barrier"
            | "brx" | "multimem" => Way::Sink,
            _ => Way::Each,
        };
        // Products of warpgroups add to their accumulators, but what they hold is not watched.
        let writes =
            !matches!(opcode, "bra" | "brx" | "nanosleep") && !matches!(opcode, "bar" | "barrier" if !i.has("red"));
        let (mut to, mut from, mut at) = (Vec::new(), Vec::new(), Vec::new());
        for (index, operand) in i.operands.iter().enumerate() {
            let list = if index == 0 && writes { &mut to } else { &mut from };
            visit(d, operand, list, &mut at);
        }
        if i.has("cc") {
            to.push(predicate(names::CARRY));
        }
        if matches!(opcode, "addc" | "subc" | "madc") {
            from.push(predicate(names::CARRY));
        }
        let (destinations, sources) = (to.len() as u16, from.len() as u16);
        to.extend(from);
        to.extend(at);
        Self { way, registers: to.into(), destinations, sources }
    }
}

fn visit<'t>(d: &mut Decoder<'_, 't>, operand: &Operand<'t>, into: &mut Vec<AnyRegister>, at: &mut Vec<AnyRegister>) {
    match operand {
        Operand::Name(name) | Operand::Not(name) | Operand::Offset(name, _) => into.extend(register(d, name)),
        Operand::Pair(first, second) => into.extend([first, second].into_iter().filter_map(|name| register(d, name))),
        Operand::Vector(all) => all.iter().for_each(|operand| visit(d, operand, into, at)),
        Operand::Address { base, more, .. } => {
            if let Base::Name(name) = base {
                at.extend(register(d, name));
            }
            let mut rest = Vec::new();
            more.iter().for_each(|operand| visit(d, operand, &mut rest, at));
            at.extend(rest);
        }
        _ => {}
    }
}

fn register(d: &mut Decoder<'_, '_>, name: &str) -> Option<AnyRegister> {
    match d.find(name) {
        Some(Symbol::Register(Reg::R32(slot, _))) => Some(r32(slot)),
        Some(Symbol::Register(Reg::R64(slot))) => Some(r64(slot)),
        Some(Symbol::Register(Reg::Predicate(slot))) => Some(predicate(slot)),
        _ => None,
    }
}
