//! The shape of a parsed PTX text. Names borrow from it.

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'t> {
    /// A register, variable, label or `_`.
    Name(&'t str),
    /// A variable's address plus a constant.
    Offset(&'t str, i64),
    /// An integer, sign included.
    Integer(i64),
    /// Bits of an f32.
    Single(u32),
    /// Bits of an f64.
    Double(u64),
    /// `!p`
    Not(&'t str),
    /// `d|p`
    Pair(&'t str, &'t str),
    /// `{a, b}`
    Vector(Vec<Operand<'t>>),
    /// `[base + offset, more]`
    Address { base: Base<'t>, offset: i64, more: Vec<Operand<'t>> },
    /// `(a, b)` of a call
    Arguments(Vec<Operand<'t>>),
}

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Base<'t> {
    Name(&'t str),
    Absolute,
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Instruction<'t> {
    /// Predicate and whether it is negated.
    pub guard: Option<(&'t str, bool)>,
    /// The opcode, split at its dots.
    pub parts: Vec<&'t str>,
    pub operands: Vec<Operand<'t>>,
    pub line: u32,
    /// Source file index and line.
    pub source: (u32, u32),
    /// The whole statement.
    pub text: &'t str,
}

impl Instruction<'_> {
    /// Whether the opcode carries a modifier.
    pub fn has(&self, modifier: &str) -> bool {
        self.parts.iter().skip(1).any(|p| *p == modifier)
    }
}

/// State spaces of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// One element of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Initial<'t> {
    Bits(u64),
    Single(u32),
    Double(u64),
    Address(&'t str, i64),
}

/// A variable of any space.
#[derive(Clone, Debug)]
pub(crate) struct Variable<'t> {
    pub space: Space,
    pub external: bool,
    pub name: &'t str,
    pub element_bytes: u32,
    pub bytes: u64,
    pub align: u32,
    pub initial: Vec<Initial<'t>>,
    pub line: u32,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub(crate) enum Statement<'t> {
    Label(&'t str),
    Instruction(Instruction<'t>),
    /// Type, name, and the count of a numbered family.
    Registers(&'t str, &'t str, Option<u32>),
    Variable(Variable<'t>),
    Scope(Vec<Statement<'t>>),
    /// Label and targets of `.branchtargets`.
    Targets(&'t str, Vec<&'t str>),
}

/// An entry or a device function.
#[derive(Clone, Debug)]
pub(crate) struct Function<'t> {
    pub entry: bool,
    pub name: &'t str,
    pub returns: Vec<Variable<'t>>,
    pub params: Vec<Variable<'t>>,
    pub body: Option<Vec<Statement<'t>>>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
    pub line: u32,
}

/// A whole text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text<'t> {
    pub version: &'t str,
    pub target: &'t str,
    pub files: Vec<String>,
    pub variables: Vec<Variable<'t>>,
    pub functions: Vec<Function<'t>>,
}
