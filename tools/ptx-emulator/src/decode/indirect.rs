//! Calls through a register: function pointers and virtual functions.
//!
//! The address of a function is its place in the text, in a window of its own. A call through a register is the code of
//! every function that may be meant, one after the other, each entered by the threads whose register holds its address.

use crate::{
    ast::{Function, Initial, Instruction, Operand, Statement, Text},
    decode::{Decoded, Decoder, function::Given, names},
    machine::{Block, Class, Ins, Step, Warp},
    memory::WINDOW_SHIFT,
    ops::lanes::compare,
    race::lanes,
    report::FaultKind,
};

/// First bits of a function's address: no memory is there.
const FUNCTION_WINDOW: u64 = 4 << WINDOW_SHIFT;

fn address_of(place: usize) -> u64 {
    FUNCTION_WINDOW | (place as u64 + 1) << 4
}

/// The address of a device function.
pub(super) fn address(text: &Text<'_>, name: &str) -> Option<u64> {
    let place = text.functions.iter().position(|f| f.name == name && !f.entry && f.body.is_some())?;
    Some(address_of(place))
}

/// Whether the text takes a function's address anywhere.
fn is_taken(text: &Text<'_>, name: &str) -> bool {
    fn in_body(statements: &[Statement<'_>], name: &str) -> bool {
        statements.iter().any(|statement| match statement {
            Statement::Instruction(i) => i.parts.first() != Some(&"call") && i.operands.contains(&Operand::Name(name)),
            Statement::Scope(inner) => in_body(inner, name),
            _ => false,
        })
    }
    let initial = |value: &Initial<'_>| matches!(value, Initial::Address(of, _) if *of == name);
    text.variables.iter().any(|v| v.initial.iter().any(initial))
        || text.functions.iter().any(|f| in_body(f.body.as_deref().unwrap_or_default(), name))
}

impl<'t> Decoder<'_, 't> {
    /// A call of whatever function the register names.
    pub(super) fn call_through(&mut self, i: &Instruction<'t>, register: &'t str, given: &Given) -> Decoded<()> {
        let text = self.text;
        let fits = |f: &Function<'_>| {
            !f.entry
                && f.body.is_some()
                && f.returns.len() == given.returned.len()
                && f.params.len() == given.arguments.len()
        };
        let candidates: Vec<(usize, &Function<'t>)> =
            text.functions.iter().enumerate().filter(|(_, f)| fits(f) && is_taken(text, f.name)).collect();
        let address = self.source64(i, &Operand::Name(register))?;
        let guard = match i.guard {
            Some((guard, negate)) => Some((self.predicate_name(i, guard)?, if negate { !0 } else { 0 })),
            None => None,
        };
        let place = |mut ins: Ins| {
            (ins.line, ins.source) = (i.line, i.source);
            if let Some((slot, flip)) = guard {
                (ins.guard, ins.guard_flip) = (slot, flip);
            }
            ins
        };
        let mut known = self.with(known_function, Class::Control, &[address]);
        known.more = candidates.iter().map(|(n, _)| *n as u32).collect();
        self.push(place(known), i.text.to_owned())?;
        // Which of the threads mean which function, before the first of them changes the register.
        let first = self.code.predicates as u32;
        self.code.predicates += candidates.len();
        for (meant, (n, _)) in (first..).zip(&candidates) {
            let wanted = self.constant64(address_of(*n));
            // Threads that do not call mean none.
            let mut cleared =
                self.with(compare(|_: u64, _: u64| false), Class::CompareMove, &[meant, address, address]);
            (cleared.slots[3], cleared.line, cleared.source) = (names::IGNORED, i.line, i.source);
            self.push(cleared, i.text.to_owned())?;
            let slots = [meant, address, wanted, names::IGNORED];
            let test = self.with(compare(|a: u64, b: u64| a == b), Class::CompareMove, &slots);
            self.push(place(test), i.text.to_owned())?;
        }
        for (meant, (_, function)) in (first..).zip(&candidates) {
            if self.active.contains(&function.name) {
                let mut deeper = self.blank(recursion, Class::Control);
                (deeper.guard, deeper.line, deeper.source) = (meant, i.line, i.source);
                self.push(deeper, i.text.to_owned())?;
            } else {
                self.inline(i, function, given, Some((meant, 0)))?;
            }
        }
        Ok(())
    }
}

/// slots: the address; more: the places of the functions that it may mean
unsafe fn known_function(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let addresses = warp.get64(ins.slots[0]);
    let known = |address: u64| ins.more.iter().any(|place| address_of(*place as usize) == address);
    match lanes(mask).find(|lane| !known(addresses[*lane])) {
        Some(lane) => {
            let message = format!("a call of {:#x}, which is no function with such parameters", addresses[lane]);
            Err(block.fault(warp, lane as u32, FaultKind::Operand, message))
        }
        None => Ok(()),
    }
}

unsafe fn recursion(warp: &mut Warp, block: &mut Block<'_>, _: &Ins, mask: u32) -> Step {
    let message = "a function that calls itself through a pointer, which is not supported";
    Err(block.fault(warp, mask.trailing_zeros(), FaultKind::Operand, message))
}
