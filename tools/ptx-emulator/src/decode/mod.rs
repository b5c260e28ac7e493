//! The parsed text to code: names to register slots, labels to indices, device functions inlined, opcodes to functions.

pub(crate) mod flow;
mod function;
mod guesses;
mod indirect;
mod names;
mod operands;

use std::collections::HashMap;

use flow::Flow;
pub(crate) use names::{RESERVED_SHARED_BYTES, Reg, Symbol};
pub(crate) use operands::{NEGATED, Place, Start};

use crate::{
    ast::{Function, Initial, Instruction, Space, Text, Variable},
    lexer::error,
    machine::{Class, Code, Control, Gather, Ins, OpFn, Preset, Special},
    module::{Entry, GlobalVariable, Image, Param, ParamRead},
    ops,
    report::LoadError,
};

pub(crate) type Decoded<T> = Result<T, LoadError>;

/// So much lies between variables of shared memory that no access may touch: a multiple of all banks and swizzles.
pub(crate) const SHARED_GUARD_BYTES: u32 = 1024;

/// Inlining stops here; recursion is refused before.
const MOST_INSTRUCTIONS: usize = 1 << 20;

/// Decodes one entry.
pub(crate) struct Decoder<'a, 't> {
    pub(crate) text: &'a Text<'t>,
    pub(crate) code: Code,
    scopes: Vec<names::Scope<'t>>,
    presets: HashMap<Preset, (bool, u32)>,
    /// Module-level shared variables used so far.
    shared: HashMap<&'t str, u32>,
    shared_bytes: u32,
    dynamic_shared: bool,
    global_numbers: &'a HashMap<&'t str, u32>,
    pub(crate) reads: Vec<ParamRead>,
    pub(crate) param_address_taken: bool,
    /// Loads that may only guess what a compare-and-swap will find.
    pub(crate) guesses: guesses::Guesses,
    /// Device functions being inlined.
    active: Vec<&'t str>,
}

/// Entries that cannot be executed, by name.
pub(crate) type Refused = Vec<(String, LoadError)>;

/// All entries of a text.
pub(crate) fn decode(text: &Text<'_>) -> Decoded<(Image, Refused)> {
    let mut global_numbers = HashMap::new();
    let mut globals = Vec::new();
    let kept = text.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const));
    let kept: Vec<&Variable<'_>> = kept.filter(|v| !(v.external && v.bytes == 0)).collect();
    for variable in &kept {
        global_numbers.insert(variable.name, global_numbers.len() as u32);
    }
    for variable in &kept {
        globals.push(global(text, variable, &global_numbers)?);
    }
    let (mut entries, mut refused): (Vec<Entry>, Refused) = Default::default();
    for function in text.functions.iter().filter(|f| f.entry && f.body.is_some()) {
        if entries.iter().any(|e| e.name == function.name) {
            return Err(error(function.line, format!("a second entry named {}", function.name)));
        }
        match entry(text, function, &global_numbers) {
            Ok(decoded) => entries.push(decoded),
            Err(reason) => refused.push((function.name.to_owned(), reason)),
        }
    }
    let (target, version) = (text.target.to_owned(), text.version.to_owned());
    Ok((Image { number: 0, target, version, entries, globals }, refused))
}

fn global(text: &Text<'_>, variable: &Variable<'_>, numbers: &HashMap<&str, u32>) -> Decoded<GlobalVariable> {
    let element = variable.element_bytes as usize;
    if variable.bytes > 1 << 30 {
        return Err(error(variable.line, "a module-level variable past 1 GiB"));
    }
    let mut initial = vec![0u8; variable.bytes as usize];
    let mut pointers = Vec::new();
    for (index, value) in variable.initial.iter().enumerate() {
        let at = index * element;
        let Some(place) = initial.get_mut(at..at + element) else {
            return Err(error(variable.line, format!("more initial values than {} holds", variable.name)));
        };
        let bits = match value {
            Initial::Bits(bits) => *bits,
            Initial::Single(bits) if element == 8 => f64::from(f32::from_bits(*bits)).to_bits(),
            Initial::Single(bits) => u64::from(*bits),
            Initial::Double(bits) if element == 4 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            Initial::Double(bits) => *bits,
            Initial::Address(name, 0) if element == 8 && indirect::address(text, name).is_some() => {
                indirect::address(text, name).unwrap_or(0)
            }
            Initial::Address(name, addend) => {
                let Some(number) = numbers.get(name) else {
                    return Err(error(variable.line, format!("the address of {name}, which is no global variable")));
                };
                if element != 8 {
                    return Err(error(variable.line, "an address in an element that is not 64 bits wide"));
                }
                pointers.push((at, *number as usize, *addend));
                0
            }
        };
        let bytes = bits.to_le_bytes();
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = from;
        }
    }
    Ok(GlobalVariable {
        name: variable.name.to_owned(),
        bytes: variable.bytes,
        constant: variable.space == Space::Const,
        initial,
        pointers,
    })
}

fn entry<'t>(text: &Text<'t>, function: &Function<'t>, global_numbers: &HashMap<&'t str, u32>) -> Decoded<Entry> {
    let mut decoder = Decoder::new(text, global_numbers);
    let mut params = Vec::new();
    let mut end = 0u32;
    decoder.push_scope(true);
    for param in &function.params {
        let offset = end.next_multiple_of(param.align);
        let bytes = u32::try_from(param.bytes).ok().filter(|b| *b <= 32764);
        let bytes = bytes.ok_or_else(|| error(param.line, "a parameter past 32764 bytes"))?;
        end = offset + bytes;
        if end > 32764 {
            return Err(error(param.line, "more than 32764 bytes of parameters"));
        }
        params.push(Param { name: param.name.to_owned(), offset, bytes, align: param.align });
        decoder.declare(param.name, Symbol::Param(offset), param.line)?;
    }
    decoder.body(function.body.as_deref().unwrap_or_default())?;
    let mut last = decoder.blank(ops::control::nothing, Class::Control);
    last.control = Control::Exit;
    decoder.push(last, "ret;".into())?;
    decoder.pop_scope(function.line)?;
    decoder.reads.sort_unstable();
    decoder.reads.dedup();
    if decoder.code.stack_start.is_some() {
        decoder.code.stack_start = Some(decoder.allocate_local(ops::stack::STACK_BYTES.into(), 16, function.line)?);
    }
    let mut code = decoder.code;
    decoder.guesses.mark(&mut code);
    code.products = code.text.iter().any(|text| text.contains("wgmma.mma_async"));
    code.files = text.files.clone();
    code.presets = decoder.presets.iter().map(|(preset, (wide, slot))| (*wide, *slot, *preset)).collect();
    code.presets.sort_by_key(|(wide, slot, _)| (*wide, *slot));
    Ok(Entry {
        name: function.name.to_owned(),
        params,
        param_bytes: end,
        max_threads: function.max_threads,
        required_threads: function.required_threads,
        cluster: function.cluster,
        shared_bytes: decoder.shared_bytes,
        dynamic_shared: decoder.dynamic_shared,
        param_reads: decoder.reads,
        param_address_taken: decoder.param_address_taken,
        code,
    })
}

impl<'a, 't> Decoder<'a, 't> {
    fn new(text: &'a Text<'t>, global_numbers: &'a HashMap<&'t str, u32>) -> Self {
        // Slot 0 of the register files takes what nobody reads; predicates 0 and 1 are true and false.
        let code = Code { slots32: 1, slots64: 1, predicates: 4, narrowest_shared: 16, ..Code::default() };
        Self {
            text,
            code,
            scopes: Vec::new(),
            presets: HashMap::new(),
            shared: HashMap::new(),
            shared_bytes: 0,
            dynamic_shared: false,
            global_numbers,
            reads: Vec::new(),
            param_address_taken: false,
            guesses: guesses::Guesses::default(),
            active: Vec::new(),
        }
    }

    /// An instruction that does nothing yet; the caller fills slots and the rest, the decoder guard and place.
    pub(crate) fn blank(&self, run: OpFn, class: Class) -> Ins {
        Ins {
            run,
            slots: [0; 16],
            immediate: 0,
            more: Box::default(),
            target: 0,
            guard: names::TRUE,
            guard_flip: 0,
            control: Control::Plain,
            gather: Gather::No,
            class,
            macs: 0,
            line: 0,
            source: (0, 0),
        }
    }

    /// An instruction with its slots.
    pub(crate) fn with(&self, run: OpFn, class: Class, slots: &[u32]) -> Ins {
        let mut ins = self.blank(run, class);
        for (to, from) in ins.slots.iter_mut().zip(slots) {
            *to = *from;
        }
        ins
    }

    pub(crate) fn push(&mut self, ins: Ins, text: String) -> Decoded<()> {
        if self.code.ins.len() >= MOST_INSTRUCTIONS {
            return Err(error(ins.line, "more than a million instructions after inlining"));
        }
        self.code.ins.push(ins);
        self.code.text.push(text);
        Ok(())
    }

    /// Index of the next instruction.
    pub(crate) fn here(&self) -> u32 {
        self.code.ins.len() as u32
    }

    /// A load error at an instruction.
    pub(crate) fn refuse(&self, i: &Instruction<'_>, message: impl Into<String>) -> LoadError {
        let source = self.text.files.get(i.source.0 as usize).filter(|_| i.source.1 > 0);
        LoadError {
            line: i.line,
            source: source.map(|file| format!("{file}:{}", i.source.1)),
            message: format!("{}: {}", i.text, message.into()),
        }
    }

    /// The refusal of a form nobody wrote an operation for.
    pub(crate) fn unsupported(&self, i: &Instruction<'_>) -> LoadError {
        let reason = match i.parts[..] {
            ["multimem", ..] => ": it works on memory that several GPUs share, and here is one",
            ["tex" | "tld4" | "txq" | "istypep", ..] => {
                ": textures have one to three axes or layers of them, and one level"
            }
            ["suld" | "sust" | "sured" | "suq", ..] => ": surfaces are loaded from and stored to, byte by byte",
            ["tcgen05" | "clusterlaunchcontrol", ..] => ": it is of a later GPU than sm_90a",
            ["mma", sparse, ..] if sparse.starts_with("sp") => ": products of sparse matrices are not executed here",
            _ => "",
        };
        self.refuse(i, format!("{} is not supported{reason}", i.parts.join(".")))
    }

    pub(crate) fn preset(&mut self, preset: Preset) -> u32 {
        let wide = matches!(preset, Preset::Bits64(_) | Preset::Global(..));
        if let Some((_, slot)) = self.presets.get(&preset) {
            return *slot;
        }
        let slot = if wide { self.new64() } else { self.new32() };
        self.presets.insert(preset, (wide, slot));
        slot
    }

    /// A 32-bit constant in all lanes.
    pub(crate) fn constant32(&mut self, value: u32) -> u32 {
        self.preset(Preset::Bits32(value))
    }

    /// A 64-bit constant in all lanes.
    pub(crate) fn constant64(&mut self, value: u64) -> u32 {
        self.preset(Preset::Bits64(value))
    }

    /// A fresh 32-bit slot.
    pub(crate) fn new32(&mut self) -> u32 {
        self.code.slots32 += 1;
        self.code.slots32 as u32 - 1
    }

    /// A fresh 64-bit slot.
    pub(crate) fn new64(&mut self) -> u32 {
        self.code.slots64 += 1;
        self.code.slots64 as u32 - 1
    }

    /// The predicate that holds the carry flag.
    pub(crate) fn carry_slot(&mut self) -> u32 {
        names::CARRY
    }

    /// The address of dynamic shared memory.
    pub(crate) fn dynamic_shared(&mut self) -> u32 {
        self.dynamic_shared = true;
        self.preset(Preset::Special(Special::DynamicShared))
    }

    pub(crate) fn allocate_shared(&mut self, name: &str, bytes: u64, align: u32, line: u32) -> Decoded<u32> {
        let start = self.shared_bytes.next_multiple_of(align);
        let end = u64::from(start) + bytes;
        if end > 1 << 20 {
            return Err(error(line, "more than a mebibyte of shared memory"));
        }
        self.shared_bytes = end as u32;
        // Each variable moves up by the guards before it, which changes neither its alignment nor its banks.
        let start = start + self.code.guard_bytes.next_multiple_of(align);
        self.code.guard_bytes = start + bytes as u32 - self.shared_bytes + SHARED_GUARD_BYTES;
        self.code.shared.push((name.to_owned(), start, bytes as u32));
        Ok(start)
    }

    pub(crate) fn allocate_local(&mut self, bytes: u64, align: u32, line: u32) -> Decoded<u32> {
        let start = self.code.local_bytes.next_multiple_of(align);
        let end = u64::from(start) + bytes;
        if end > 1 << 19 {
            return Err(error(line, "more than 512 KiB of local memory"));
        }
        self.code.local_bytes = end as u32;
        Ok(start)
    }

    /// Decodes an instruction that is not a call or a label, and appends it.
    fn instruction(&mut self, i: &Instruction<'t>) -> Decoded<()> {
        let before = self.code.ins.len();
        let mut ins = ops::decode(self, i)?.ok_or_else(|| self.unsupported(i))?;
        if let Some((name, negate)) = i.guard {
            ins.guard = self.predicate_name(i, name)?;
            ins.guard_flip = if negate { !0 } else { 0 };
        }
        ins.line = i.line;
        ins.source = i.source;
        debug_assert_eq!(before, self.code.ins.len());
        if matches!(i.parts[0], "mov" | "cvta") {
            self.guesses.copy(&ins);
        }
        let flow = Flow::of(self, i);
        self.code.flows.resize_with(before, Flow::nothing);
        self.code.flows.push(flow);
        self.push(ins, i.text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
