//! Bodies: declarations, labels, and calls, which are inlined: the callee's parameters are the caller's variables.

use crate::{
    ast::{Function, Instruction, Operand, Space, Statement, Variable},
    decode::{Decoded, Decoder, Symbol},
    lexer::error,
    machine::{Class, Control},
    ops,
};

impl<'t> Decoder<'_, 't> {
    /// The statements of a scope that is already open.
    pub(crate) fn body(&mut self, statements: &[Statement<'t>]) -> Decoded<()> {
        for statement in statements {
            match statement {
                Statement::Label(name) => {
                    let line = self.code.ins.last().map_or(1, |i| i.line);
                    self.label(name, line)?;
                }
                Statement::Registers(kind, name, count) => self.declare_registers(kind, name, *count)?,
                Statement::Variable(variable) => self.variable(variable)?,
                Statement::Targets(label, targets) => self.declare_targets(label, targets.clone()),
                Statement::Scope(inner) => {
                    self.push_scope(false);
                    self.body(inner)?;
                    let line = self.code.ins.last().map_or(1, |i| i.line);
                    self.pop_scope(line)?;
                }
                Statement::Instruction(i) => match i.parts.first() {
                    Some(&"call") => self.call(i)?,
                    Some(&"ret") if !self.active.is_empty() => self.jump(i, RETURN)?,
                    _ => self.instruction(i)?,
                },
            }
        }
        Ok(())
    }

    fn variable(&mut self, v: &Variable<'t>) -> Decoded<()> {
        let symbol = match v.space {
            Space::Shared if v.external && v.bytes == 0 => Symbol::Dynamic,
            Space::Shared => Symbol::Shared(self.allocate_shared(v.name, v.bytes, v.align, v.line)?),
            Space::Local | Space::Param => Symbol::Local(self.allocate_local(v.bytes, v.align, v.line)?),
            Space::Global | Space::Const => {
                return Err(error(v.line, "global variables inside a function are not supported"));
            }
        };
        self.declare(v.name, symbol, v.line)
    }

    /// A jump with the guard of `i`.
    fn jump(&mut self, i: &Instruction<'t>, label: &'t str) -> Decoded<()> {
        let mut ins = self.blank(ops::control::nothing, Class::Control);
        ins.control = Control::Branch;
        if let Some((name, negate)) = i.guard {
            ins.guard = self.predicate_name(i, name)?;
            ins.guard_flip = if negate { !0 } else { 0 };
        }
        (ins.line, ins.source) = (i.line, i.source);
        self.jump_to(label, None, i.line);
        self.push(ins, i.text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// `vprintf(format, arguments)`.
    fn print(&mut self, i: &Instruction<'t>, returned: &[Operand<'t>], arguments: &[Operand<'t>]) -> Decoded<()> {
        let mut slots = [0; 3];
        for (slot, operand) in slots.iter_mut().zip(returned.iter().chain(arguments)) {
            let Operand::Name(name) = operand else { return Err(self.refuse(i, "arguments must be .param variables")) };
            let Some(Symbol::Local(offset)) = self.find(name) else {
                return Err(self.refuse(i, format!("argument {name} must be a .param variable")));
            };
            *slot = offset;
        }
        if returned.len() != 1 || arguments.len() != 2 {
            return Err(self.refuse(i, "vprintf takes a format and its arguments, and returns a number"));
        }
        self.code.prints = true;
        let mut ins = self.with(ops::print::print, Class::Control, &slots);
        if let Some((name, negate)) = i.guard {
            ins.guard = self.predicate_name(i, name)?;
            ins.guard_flip = if negate { !0 } else { 0 };
        }
        (ins.line, ins.source) = (i.line, i.source);
        self.push(ins, i.text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// `call (returned), name, (arguments);` or the same through a register.
    fn call(&mut self, i: &Instruction<'t>) -> Decoded<()> {
        let empty = Vec::new();
        let mut operands = i.operands.iter();
        let mut next = operands.next();
        let returned = match next {
            Some(Operand::Arguments(all)) => {
                next = operands.next();
                all
            }
            _ => &empty,
        };
        let Some(Operand::Name(name)) = next else { return Err(self.refuse(i, "a call needs a function")) };
        let arguments = match operands.next() {
            Some(Operand::Arguments(all)) => all,
            None => &empty,
            Some(_) => return Err(self.refuse(i, "arguments must stand in parentheses")),
        };
        if let Some(Symbol::Register(_)) = self.find(name) {
            let given = Given { returned: self.given(i, returned)?, arguments: self.given(i, arguments)? };
            return self.call_through(i, name, &given);
        }
        if operands.next().is_some() {
            return Err(self.refuse(i, "a call with a prototype, but not through a register"));
        }
        match *name {
            "__assertfail" => {
                let mut ins = self.blank(ops::control::assertion, Class::Control);
                if let Some((name, negate)) = i.guard {
                    ins.guard = self.predicate_name(i, name)?;
                    ins.guard_flip = if negate { !0 } else { 0 };
                }
                (ins.line, ins.source) = (i.line, i.source);
                return self.push(ins, i.text.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            "vprintf" => return self.print(i, returned, arguments),
            _ => {}
        }
        let text = self.text;
        let Some(callee) = text.functions.iter().find(|f| f.name == *name && f.body.is_some()) else {
            return Err(self.refuse(i, format!("function {name} has no body in this text")));
        };
        if self.active.contains(name) {
            return Err(self.refuse(i, "recursion is not supported"));
        }
        let given = Given { returned: self.given(i, returned)?, arguments: self.given(i, arguments)? };
        if callee.returns.len() != returned.len() || callee.params.len() != arguments.len() {
            return Err(self.refuse(i, format!("{name} takes another number of arguments")));
        }
        let guard = match i.guard {
            Some((guard, negate)) => Some((self.predicate_name(i, guard)?, if negate { !0 } else { 0 })),
            None => None,
        };
        self.inline(i, callee, &given, guard)
    }

    /// The caller's variables that stand for parameters.
    fn given(&mut self, i: &Instruction<'t>, operands: &[Operand<'t>]) -> Decoded<Vec<Symbol>> {
        let variable = |operand: &Operand<'t>| {
            let Operand::Name(name) = operand else {
                return Err(self.refuse(i, "arguments must be .param variables"));
            };
            match self.find(name) {
                Some(symbol @ Symbol::Local(_)) => Ok(symbol),
                _ => Err(self.refuse(i, format!("argument {name} must be a .param variable"))),
            }
        };
        operands.iter().map(variable).collect()
    }

    /// A function's code, whose parameters are the caller's variables; threads whose guard is false go around it.
    pub(super) fn inline(
        &mut self,
        i: &Instruction<'t>,
        callee: &Function<'t>,
        given: &Given,
        guard: Option<(u32, u32)>,
    ) -> Decoded<()> {
        let body = callee.body.as_deref().unwrap_or_default();
        let kept = if ops::stack::allocates(body) { Some(ops::stack::save(self)?) } else { None };
        self.push_scope(true);
        if let Some((slot, flip)) = guard {
            let mut ins = self.blank(ops::control::nothing, Class::Control);
            (ins.control, ins.guard, ins.line, ins.source) = (Control::Branch, slot, i.line, i.source);
            ins.guard_flip = !flip;
            self.jump_to(RETURN, None, i.line);
            self.push(ins, i.text.to_owned())?;
        }
        let returns = callee.returns.iter().zip(&given.returned);
        for (variable, symbol) in returns.chain(callee.params.iter().zip(&given.arguments)) {
            self.declare(variable.name, *symbol, i.line)?;
        }
        self.active.push(callee.name);
        self.body(body)?;
        self.active.pop();
        self.label(RETURN, i.line)?;
        if let Some(kept) = kept {
            ops::stack::restore(self, kept)?;
        }
        self.pop_scope(i.line)
    }
}

/// What a call gives its callee: where the caller keeps it.
pub(super) struct Given {
    pub returned: Vec<Symbol>,
    pub arguments: Vec<Symbol>,
}

/// The label behind an inlined call; no PTX name contains a space.
const RETURN: &str = "end of call";
