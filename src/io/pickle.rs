//! A reader of Python pickles (protocols 2 to 5) that executes nothing.
//!
//! A pickle is a program for a stack machine whose `GLOBAL` and `REDUCE` instructions may call any function of the
//! reading process. This machine has no functions: it knows the few names a PyTorch state dict mentions ([`Global`]),
//! refuses every other, and records a call as data ([`Node::Call`]) for `io::pytorch` to understand.
//!
//! Values live in one flat arena and refer to each other by index, so that cyclic or absurdly nested pickles cannot
//! overflow the stack, here or when dropped. Each instruction makes at most one value; [`MAX_NODES`] bounds them all, and
//! likewise the stack, the marks and the memo, which instructions of one byte fill without making values.
//! Text protocols 0 and 1, persistent ids as text and out-of-band buffers are refused.

use std::{borrow::Cow, collections::HashMap, ops::Range};

use crate::io::array::ElementType;

/// 4 Mi values: some 100,000 tensors; a hostile file costs at most 150 MB.
const MAX_NODES: usize = 4 << 20;
/// What is on the stack at once is one dictionary's items at most.
const MAX_STACK: usize = 4 << 20;
/// Containers that are open at once.
const MAX_MARKS: usize = 10_000;

/// Index of a value in [`Pickle::nodes`].
pub(crate) type Ref = u32;

/// The Python names that may occur in a state dict.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Global {
    /// Dictionaries and what else `REDUCE` turns into a plain container.
    Dict,
    Set,
    /// `torch._utils._rebuild_tensor(storage, offset, size, stride)`, and v2 with more arguments behind.
    RebuildTensor,
    /// v3: as v2, then the dtype, because its storage is untyped.
    RebuildTensorV3,
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`
    RebuildFromType,
    Storage(ElementType),
    UntypedStorage,
    DType(ElementType),
    /// Known, harmless, and of no use for weights: sizes, devices, classes of tensors, encoded byte strings.
    Other,
}

impl Global {
    fn known(module: &str, name: &str) -> Option<Global> {
        use ElementType::*;
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => Global::Dict,
            ("builtins" | "__builtin__", "set" | "frozenset") => Global::Set,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
            ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Global::UntypedStorage,
            ("torch", "Size" | "device" | "Tensor")
            | ("torch.nn.parameter", "Parameter" | "Buffer")
            | ("_codecs", "encode")
            | ("builtins" | "__builtin__", "list" | "tuple" | "int" | "float" | "bool" | "str" | "bytearray") => {
                Global::Other
            }
            ("torch" | "torch.cuda", class) if class.ends_with("Storage") => Global::Storage(match class {
                "DoubleStorage" => F64,
                "FloatStorage" => F32,
                "HalfStorage" => F16,
                "BFloat16Storage" => Bf16,
                "LongStorage" => I64,
                "IntStorage" => I32,
                "ShortStorage" => I16,
                "CharStorage" => I8,
                "ByteStorage" => U8,
                "BoolStorage" => Bool,
                _ => return None,
            }),
            ("torch", dtype) => Global::DType(match dtype {
                "float64" => F64,
                "float32" => F32,
                "float16" => F16,
                "bfloat16" => Bf16,
                "int64" => I64,
                "int32" => I32,
                "int16" => I16,
                "int8" => I8,
                "uint8" => U8,
                "uint16" => U16,
                "uint32" => U32,
                "uint64" => U64,
                "bool" => Bool,
                _ => return None,
            }),
            _ => return None,
        })
    }
}

#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// Floats and integers beyond 64 bits: present, never needed.
    Opaque,
    /// Bytes of the input: a Python string or byte string.
    Text(Range<usize>),
    /// Tuples, lists and sets.
    Sequence(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Global(Global),
    /// A call that was not made.
    Call {
        function: Global,
        arguments: Ref,
    },
    /// What the file calls by a persistent id: in PyTorch's files always a storage.
    Persistent(Ref),
}

/// A pickle that was read: its values and which of them is the result.
pub(crate) struct Pickle<'a> {
    input: &'a [u8],
    pub nodes: Vec<Node>,
    pub root: Ref,
    /// Bytes up to and including `STOP`.
    pub length_bytes: usize,
}

impl<'a> Pickle<'a> {
    pub fn node(&self, r: Ref) -> &Node {
        &self.nodes[r as usize]
    }

    pub fn text(&self, r: Ref) -> Option<Cow<'a, str>> {
        match self.node(r) {
            Node::Text(range) => Some(decode(&self.input[range.clone()])),
            _ => None,
        }
    }

    pub fn int(&self, r: Ref) -> Option<i64> {
        match self.node(r) {
            Node::Int(n) => Some(*n),
            Node::Bool(b) => Some(i64::from(*b)),
            _ => None,
        }
    }

    pub fn sequence(&self, r: Ref) -> Option<&[Ref]> {
        match self.node(r) {
            Node::Sequence(items) => Some(items),
            // torch.Size((2, 3))
            Node::Call { function: Global::Other, arguments } => match self.node(*arguments) {
                Node::Sequence(args) => match args.as_slice() {
                    [one] => match self.node(*one) {
                        Node::Sequence(items) => Some(items),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }
}

/// Python 2 wrote byte strings without saying in which encoding; those that are not UTF-8 are taken as Latin-1.
fn decode(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|&b| b as char).collect()),
    }
}

/// Reads one pickle from the start of `input`. The error is a problem and a remedy.
pub(crate) fn read(input: &[u8]) -> Result<Pickle<'_>, Refusal> {
    let mut machine = Machine {
        input,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
        items: 0,
    };
    let root = machine.run()?;
    Ok(Pickle { input, nodes: machine.nodes, root, length_bytes: machine.at })
}

/// Why a pickle is not read, and what to do.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub problem: String,
    pub remedy: &'static str,
}

const BROKEN: &str = "write or download it again";
const STATE_DICT: &str = "save a plain state dict: torch.save(model.state_dict(), FILE)";

fn too_many() -> Refusal {
    Refusal { problem: format!("holds more than {MAX_NODES} Python values"), remedy: "save the weights alone" }
}

fn too_deep() -> Refusal {
    Refusal {
        problem: format!("keeps more than {MAX_MARKS} containers open or {MAX_STACK} values waiting"),
        remedy: "save the weights alone",
    }
}

fn broken(problem: impl Into<String>) -> Refusal {
    Refusal { problem: problem.into(), remedy: BROKEN }
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Ref>,
    /// Stack heights at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
    /// Items copied from one container into another: the one way in which few bytes could make many items.
    copied: usize,
    items: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Ref, Refusal> {
        loop {
            let op = self.byte()?;
            match op {
                0x80 => {
                    let protocol = self.byte()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(broken(format!("is a pickle of protocol {protocol}, which is not read")));
                    }
                }
                0x95 => drop(self.take(8)?), // FRAME: a hint for buffered readers
                b'.' => return self.pop(),
                b'(' => self.mark()?,
                b'0' => self.pop_or_mark()?,
                b'1' => drop(self.since_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.push_ref(top)?;
                }
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Node::Int(i64::from(n)))?;
                }
                b'K' => {
                    let n = self.byte()?;
                    self.push(Node::Int(i64::from(n)))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Node::Int(i64::from(n)))?;
                }
                0x8a => {
                    let n = self.byte()? as usize;
                    self.long(n)?;
                }
                0x8b => {
                    let n = u32::from_le_bytes(self.array()?) as usize;
                    self.long(n)?;
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Opaque)?;
                }
                // SHORT_BINSTRING, SHORT_BINBYTES, SHORT_BINUNICODE
                b'U' | b'C' | 0x8c => {
                    let n = self.byte()? as usize;
                    self.text(n)?;
                }
                // BINSTRING, BINBYTES, BINUNICODE
                b'T' | b'B' | b'X' => {
                    let n = u32::from_le_bytes(self.array()?) as usize;
                    self.text(n)?;
                }
                // BINUNICODE8, BINBYTES8, BYTEARRAY8
                0x8d | 0x8e | 0x96 => {
                    let n = usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
                    self.text(n)?;
                }
                b')' | b']' | 0x8f => self.push(Node::Sequence(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b't' | b'l' | 0x91 => {
                    let items = self.since_mark()?;
                    self.push(Node::Sequence(items))?;
                }
                b'd' => {
                    let items = self.since_mark()?;
                    self.push(Node::Dict(pairs(&items)?))?;
                }
                0x85..=0x87 => {
                    let n = usize::from(op - 0x84);
                    let from = self.floor(n)?;
                    let items = self.stack.split_off(from);
                    self.push(Node::Sequence(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.since_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let from = self.floor(2)?;
                    let items = self.stack.split_off(from);
                    self.set_items(&items)?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set_items(&items)?;
                }
                b'q' => {
                    let slot = u32::from(self.byte()?);
                    self.put(slot)?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.put(slot)?;
                }
                0x94 => {
                    let slot = self.memo.len() as u32;
                    self.put(slot)?;
                }
                b'h' => {
                    let slot = u32::from(self.byte()?);
                    self.get(slot)?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.get(slot)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (module, name) = (self.string(module)?, self.string(name)?);
                    self.global(&module, &name)?;
                }
                b'R' | 0x81 => self.call()?,
                // BUILD gives an object its attributes; a state dict's `_metadata` is all they are, and of no use here.
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id))?;
                }
                b'i' | b'o' | 0x92 => {
                    return Err(Refusal {
                        problem: "holds Python objects, which are not executed".into(),
                        remedy: STATE_DICT,
                    });
                }
                b'I' | b'L' | b'F' | b'S' | b'V' | b'P' | b'p' | b'g' => {
                    return Err(Refusal {
                        problem: "is a pickle of a text protocol, which is not read".into(),
                        remedy: "save it with PyTorch's default pickle protocol",
                    });
                }
                _ => {
                    return Err(broken(format!(
                        "is not a whole pickle (instruction 0x{op:02x} at byte {})",
                        self.at - 1
                    )));
                }
            }
        }
    }

    // ---- input
    fn take(&mut self, n: usize) -> Result<&'a [u8], Refusal> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.input.len());
        let end = end.ok_or_else(|| broken("ends in the middle of its pickle"))?;
        let bytes = &self.input[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> Result<String, Refusal> {
        let rest = &self.input[self.at..];
        let n = rest.iter().take(1024).position(|&b| b == b'\n').ok_or_else(|| broken("holds an endless name"))?;
        let line = decode(&rest[..n]).into_owned();
        self.at += n + 1;
        Ok(line)
    }

    // ---- values
    fn make(&mut self, node: Node) -> Result<Ref, Refusal> {
        if self.nodes.len() >= MAX_NODES {
            return Err(too_many());
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Ref)
    }

    fn push(&mut self, node: Node) -> Result<(), Refusal> {
        let r = self.make(node)?;
        self.push_ref(r)
    }

    fn push_ref(&mut self, r: Ref) -> Result<(), Refusal> {
        if self.stack.len() >= MAX_STACK {
            return Err(too_deep());
        }
        self.stack.push(r);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Refusal> {
        if self.marks.len() >= MAX_MARKS {
            return Err(too_deep());
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn long(&mut self, n: usize) -> Result<(), Refusal> {
        let bytes = self.take(n)?;
        let node = if n > 8 {
            // PyTorch's magic number is the one long integer of its files; it is told apart by its bytes.
            Node::Text(self.at - n..self.at)
        } else {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..n].copy_from_slice(bytes);
            Node::Int(i64::from_le_bytes(wide))
        };
        self.push(node)
    }

    fn text(&mut self, n: usize) -> Result<(), Refusal> {
        self.take(n)?;
        self.push(Node::Text(self.at - n..self.at))
    }

    fn string(&self, r: Ref) -> Result<String, Refusal> {
        match &self.nodes[r as usize] {
            Node::Text(range) if range.len() <= 1024 => Ok(decode(&self.input[range.clone()]).into_owned()),
            _ => Err(broken("names a global by something that is not a name")),
        }
    }

    // ---- stack
    /// The lowest stack height instructions may reach: that of the last open mark.
    fn bottom(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// Height of the stack without its upper `n` values.
    fn floor(&self, n: usize) -> Result<usize, Refusal> {
        self.stack
            .len()
            .checked_sub(n)
            .filter(|&from| from >= self.bottom())
            .ok_or_else(|| broken("is not a whole pickle (it takes a value from an empty stack)"))
    }

    fn pop(&mut self) -> Result<Ref, Refusal> {
        let from = self.floor(1)?;
        let top = self.stack[from];
        self.stack.truncate(from);
        Ok(top)
    }

    fn top(&self) -> Result<Ref, Refusal> {
        Ok(self.stack[self.floor(1)?])
    }

    fn pop_or_mark(&mut self) -> Result<(), Refusal> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn since_mark(&mut self) -> Result<Vec<Ref>, Refusal> {
        let from = self.marks.pop().ok_or_else(|| broken("is not a whole pickle (a mark is missing)"))?;
        Ok(self.stack.split_off(from))
    }

    fn put(&mut self, slot: u32) -> Result<(), Refusal> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        if self.memo.len() > MAX_NODES { Err(too_many()) } else { Ok(()) }
    }

    fn get(&mut self, slot: u32) -> Result<(), Refusal> {
        let r = *self.memo.get(&slot).ok_or_else(|| broken("is not a whole pickle (it recalls what it never kept)"))?;
        self.push_ref(r)
    }

    // ---- containers and calls
    fn extend(&mut self, items: Vec<Ref>) -> Result<(), Refusal> {
        self.count_items(items.len())?;
        let top = self.top()? as usize;
        match &mut self.nodes[top] {
            Node::Sequence(list) => list.extend(items),
            _ => return Err(broken("is not a whole pickle (it appends to what is no list)")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Ref]) -> Result<(), Refusal> {
        let top = self.top()? as usize;
        let items = pairs(items)?;
        self.count_items(items.len())?;
        match &mut self.nodes[top] {
            Node::Dict(dict) => dict.extend(items),
            _ => return Err(broken("is not a whole pickle (it sets an item of what is no dictionary)")),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Refusal> {
        let Some(global) = Global::known(module, name) else {
            let shown: String = format!("{module}.{name}").chars().filter(|c| !c.is_control()).take(120).collect();
            return Err(Refusal {
                problem: format!("needs the Python object {shown}, and nothing in a weight file is ever executed"),
                remedy: STATE_DICT,
            });
        };
        self.push(Node::Global(global))
    }

    fn call(&mut self) -> Result<(), Refusal> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Node::Global(function) = self.nodes[function as usize] else {
            return Err(broken("is not a whole pickle (it calls what is no function)"));
        };
        let node = match function {
            Global::Dict => Node::Dict(self.initial_items(arguments)?),
            Global::Set => {
                let first = self.sequence(arguments).and_then(|args| args.first());
                let items = first.and_then(|&a| self.sequence(a)).map(<[Ref]>::to_vec).unwrap_or_default();
                self.count_copied(items.len())?;
                Node::Sequence(items)
            }
            _ => Node::Call { function, arguments },
        };
        self.push(node)
    }

    fn sequence(&self, r: Ref) -> Option<&[Ref]> {
        match &self.nodes[r as usize] {
            Node::Sequence(items) => Some(items),
            _ => None,
        }
    }

    fn count_copied(&mut self, n: usize) -> Result<(), Refusal> {
        self.copied += n;
        if self.copied > MAX_NODES { Err(too_many()) } else { Ok(()) }
    }

    /// Items put into containers that stay; a value may be put many times, by one byte each.
    fn count_items(&mut self, n: usize) -> Result<(), Refusal> {
        self.items += n;
        if self.items > 4 * MAX_NODES { Err(too_many()) } else { Ok(()) }
    }

    /// `OrderedDict([[key, value], ...])` as Python 2 wrote it; Python 3 calls it with nothing and sets items after.
    fn initial_items(&mut self, arguments: Ref) -> Result<Vec<(Ref, Ref)>, Refusal> {
        let odd = || broken("is not a whole pickle (a dictionary is made from something else than pairs)");
        let mut out = Vec::new();
        let arguments = self.sequence(arguments).ok_or_else(odd)?.iter().take(2).copied().collect::<Vec<Ref>>();
        for argument in arguments {
            // A defaultdict's first argument is the type of its default.
            let Some(items) = self.sequence(argument).map(<[Ref]>::len) else { continue };
            self.count_copied(items)?;
            if let Some(items) = self.sequence(argument) {
                for &item in items {
                    match self.sequence(item) {
                        Some(&[key, value]) => out.push((key, value)),
                        _ => return Err(odd()),
                    }
                }
            }
        }
        Ok(out)
    }
}

fn pairs(items: &[Ref]) -> Result<Vec<(Ref, Ref)>, Refusal> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(broken("is not a whole pickle (a dictionary key has no value)"));
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
