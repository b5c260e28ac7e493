//! Operands to slots.

use crate::{
    ast::{Base, Instruction, Operand},
    decode::{Decoded, Decoder, Reg, Symbol, indirect, names},
    machine::{Preset, SINK, Special},
};

/// Negation of a predicate slot, where an operation allows `!p`; read with [`predicate`].
pub(crate) const NEGATED: u32 = 1 << 31;

/// Where an address starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// A constant: only the offset counts.
    None,
    R32(u32),
    R64(u32),
}

/// An address: start, constant offset, and the symbol it was written with, if any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub start: Start,
    pub offset: i64,
    pub symbol: Option<Symbol>,
}

impl<'t> Decoder<'_, 't> {
    fn nothing_called(&self, i: &Instruction<'_>, name: &str) -> crate::report::LoadError {
        self.refuse(i, format!("nothing is called {name}"))
    }

    /// The operand at `index`.
    pub(crate) fn operand<'i>(&self, i: &'i Instruction<'t>, index: usize) -> Decoded<&'i Operand<'t>> {
        i.operands.get(index).ok_or_else(|| self.refuse(i, format!("operand {} is missing", index + 1)))
    }

    /// The register an operand names.
    pub(crate) fn register(&mut self, i: &Instruction<'t>, operand: &Operand<'t>) -> Decoded<Reg> {
        match operand {
            Operand::Name(name) => match self.find(name) {
                Some(Symbol::Register(reg)) => Ok(reg),
                Some(_) => Err(self.refuse(i, format!("{name} is no register"))),
                None => Err(self.nothing_called(i, name)),
            },
            other => Err(self.refuse(i, format!("{other:?} is no register"))),
        }
    }

    /// A destination of up to 32 bits.
    pub(crate) fn to32(&mut self, i: &Instruction<'t>, index: usize) -> Decoded<u32> {
        let operand = self.operand(i, index)?.clone();
        self.destination32(i, &operand)
    }

    pub(crate) fn destination32(&mut self, i: &Instruction<'t>, operand: &Operand<'t>) -> Decoded<u32> {
        if *operand == Operand::Name("_") {
            return Ok(SINK);
        }
        match self.register(i, operand)? {
            Reg::R32(slot, _) => Ok(slot),
            _ => Err(self.refuse(i, "a destination of another width than the instruction's")),
        }
    }

    /// A 64-bit destination.
    pub(crate) fn to64(&mut self, i: &Instruction<'t>, index: usize) -> Decoded<u32> {
        let operand = self.operand(i, index)?.clone();
        self.destination64(i, &operand)
    }

    pub(crate) fn destination64(&mut self, i: &Instruction<'t>, operand: &Operand<'t>) -> Decoded<u32> {
        if *operand == Operand::Name("_") {
            return Ok(SINK);
        }
        match self.register(i, operand)? {
            Reg::R64(slot) => Ok(slot),
            _ => Err(self.refuse(i, "a destination of another width than the instruction's")),
        }
    }

    /// A source of up to 32 bits; constants are cut to `bits`.
    pub(crate) fn from32(&mut self, i: &Instruction<'t>, index: usize, bits: u32) -> Decoded<u32> {
        let operand = self.operand(i, index)?.clone();
        self.source32(i, &operand, bits)
    }

    pub(crate) fn source32(&mut self, i: &Instruction<'t>, operand: &Operand<'t>, bits: u32) -> Decoded<u32> {
        let cut = if bits >= 32 { u32::MAX } else { (1 << bits) - 1 };
        match operand {
            Operand::Integer(value) => Ok(self.constant32(*value as u32 & cut)),
            Operand::Single(value) => Ok(self.constant32(*value)),
            Operand::Double(value) => Ok(self.constant32((f64::from_bits(*value) as f32).to_bits())),
            Operand::Name(name) | Operand::Offset(name, _) => {
                let addend = if let Operand::Offset(_, addend) = operand { *addend } else { 0 };
                if let Some(special) = names::special(name) {
                    self.code.reserved_shared |= matches!(special, Special::Reserved(_));
                    return Ok(self.preset(Preset::Special(special)));
                }
                match *name {
                    "%dynamic_smem_size" => return Err(self.refuse(i, "this special register is not supported")),
                    "_" => return Ok(SINK),
                    _ => {}
                }
                match self.find(name) {
                    Some(Symbol::Register(Reg::R32(slot, _))) => Ok(slot),
                    Some(Symbol::Shared(offset) | Symbol::Local(offset)) => {
                        Ok(self.constant32(i64::from(offset).wrapping_add(addend) as u32))
                    }
                    Some(Symbol::Dynamic) if addend == 0 => Ok(self.dynamic_shared()),
                    Some(Symbol::Register(_)) => {
                        Err(self.refuse(i, format!("{name} has another width than the instruction")))
                    }
                    Some(_) => Err(self.refuse(i, format!("the address of {name} does not fit"))),
                    None => Err(self.nothing_called(i, name)),
                }
            }
            other => Err(self.refuse(i, format!("{other:?} is no 32-bit operand"))),
        }
    }

    /// A 64-bit source.
    pub(crate) fn from64(&mut self, i: &Instruction<'t>, index: usize) -> Decoded<u32> {
        let operand = self.operand(i, index)?.clone();
        self.source64(i, &operand)
    }

    pub(crate) fn source64(&mut self, i: &Instruction<'t>, operand: &Operand<'t>) -> Decoded<u32> {
        match operand {
            Operand::Integer(value) => Ok(self.constant64(*value as u64)),
            Operand::Single(value) => Ok(self.constant64(f64::from(f32::from_bits(*value)).to_bits())),
            Operand::Double(value) => Ok(self.constant64(*value)),
            Operand::Name(name) | Operand::Offset(name, _) => {
                let addend = if let Operand::Offset(_, addend) = operand { *addend } else { 0 };
                match self.find(name) {
                    Some(Symbol::Register(Reg::R64(slot))) => Ok(slot),
                    Some(Symbol::Shared(offset) | Symbol::Local(offset)) => {
                        Ok(self.constant64(i64::from(offset).wrapping_add(addend) as u64))
                    }
                    Some(Symbol::Param(offset)) => {
                        self.param_address_taken = true;
                        Ok(self.constant64(i64::from(offset).wrapping_add(addend) as u64))
                    }
                    Some(Symbol::Global(number)) => Ok(self.preset(Preset::Global(number, addend))),
                    Some(Symbol::Dynamic) => Err(self.refuse(i, "this use of dynamic shared memory is not supported")),
                    Some(Symbol::Register(_)) => {
                        Err(self.refuse(i, format!("{name} has another width than the instruction")))
                    }
                    None => match indirect::address(self.text, name) {
                        Some(address) => Ok(self.constant64(address)),
                        None => Err(self.nothing_called(i, name)),
                    },
                }
            }
            other => Err(self.refuse(i, format!("{other:?} is no 64-bit operand"))),
        }
    }

    /// A predicate destination; `_` is allowed.
    pub(crate) fn to_predicate(&mut self, i: &Instruction<'t>, operand: &Operand<'t>) -> Decoded<u32> {
        match operand {
            Operand::Name("_") => Ok(names::IGNORED),
            Operand::Name(name) => self.predicate_name(i, name),
            other => Err(self.refuse(i, format!("{other:?} is no predicate"))),
        }
    }

    /// A predicate source: a register, `!p`, or a constant. Read it with [`crate::ops::predicate`].
    pub(crate) fn from_predicate(&mut self, i: &Instruction<'t>, index: usize) -> Decoded<u32> {
        match self.operand(i, index)?.clone() {
            Operand::Name(name) => self.predicate_name(i, name),
            Operand::Not(name) => Ok(self.predicate_name(i, name)? | NEGATED),
            Operand::Integer(0) => Ok(names::FALSE),
            Operand::Integer(_) => Ok(names::TRUE),
            other => Err(self.refuse(i, format!("{other:?} is no predicate"))),
        }
    }

    /// A constant operand.
    pub(crate) fn integer(&mut self, i: &Instruction<'t>, index: usize) -> Decoded<i64> {
        match self.operand(i, index)? {
            Operand::Integer(value) => Ok(*value),
            _ => Err(self.refuse(i, format!("operand {} must be a constant", index + 1))),
        }
    }

    /// An address operand.
    pub(crate) fn place(&mut self, i: &Instruction<'t>, index: usize) -> Decoded<Place> {
        let Operand::Address { base, offset, .. } = self.operand(i, index)?.clone() else {
            return Err(self.refuse(i, format!("operand {} must be an address", index + 1)));
        };
        let Base::Name(name) = base else { return Ok(Place { start: Start::None, offset, symbol: None }) };
        let Some(symbol) = self.find(name) else { return Err(self.nothing_called(i, name)) };
        let (start, offset) = match symbol {
            Symbol::Register(Reg::R32(slot, _)) => (Start::R32(slot), offset),
            Symbol::Register(Reg::R64(slot)) => (Start::R64(slot), offset),
            Symbol::Register(Reg::Predicate(_)) => return Err(self.refuse(i, "a predicate is no address")),
            Symbol::Param(at) | Symbol::Shared(at) | Symbol::Local(at) => (Start::None, offset.wrapping_add(at.into())),
            Symbol::Dynamic => (Start::R32(self.dynamic_shared()), offset),
            Symbol::Global(number) => (Start::R64(self.preset(Preset::Global(number, 0))), offset),
        };
        let symbol = (!matches!(symbol, Symbol::Register(_))).then_some(symbol);
        Ok(Place { start, offset, symbol })
    }

    /// The elements of `{a, b}`, or the operand itself.
    pub(crate) fn elements(&self, i: &Instruction<'t>, index: usize) -> Decoded<Vec<Operand<'t>>> {
        Ok(match self.operand(i, index)? {
            Operand::Vector(all) => all.clone(),
            one => vec![one.clone()],
        })
    }
}
