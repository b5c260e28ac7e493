//! What went wrong, where: load errors, memory errors of the host side, and faults of a running kernel.

use std::fmt;

/// A PTX text that cannot run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Source file and line of the kernel, where the text carries `.loc`.
    pub source: Option<String>,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}", self.line)?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for LoadError {}

/// A host-side call with an address that is not alive or a range that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// More than the device has.
    OutOfMemory { asked: u64, held: u64, capacity: u64 },
    /// An address outside every allocation, or one that was freed.
    BadAddress { address: u64, bytes: u64, what: String },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { asked, held, capacity } => {
                write!(f, "out of memory: asked for {asked} bytes, {held} of {capacity} are held")
            }
            Self::BadAddress { address, bytes, what } => write!(f, "{bytes} bytes at {address:#x}: {what}"),
        }
    }
}

impl std::error::Error for MemoryError {}

/// The kind of a [`Fault`], for tests that expect one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The launch itself is wrong: unknown entry, params of another size, too many threads or too much shared memory.
    Launch,
    /// An address outside every allocation, or past the end of one.
    OutOfBounds,
    /// An address whose allocation was freed.
    UseAfterFree,
    /// An address that is no multiple of the access width.
    Misaligned,
    /// A store or atomic to memory that kernels may only read.
    ReadOnly,
    /// Bytes read that nobody wrote.
    Uninitialised,
    /// Two accesses without an order between them, one of them a write.
    Race,
    /// The plain first read of a compare-and-swap loop beside the atomics of others: a race to the letter, and how NVIDIA's
    /// own headers do it. A note.
    Guess,
    /// A barrier or aligned instruction reached by part of a warp, or a bad `.sync` mask.
    Divergence,
    /// Threads wait for each other for ever.
    Deadlock,
    /// The instruction limit is spent.
    Endless,
    /// Results of an asynchronous copy or matrix instruction used before the wait that makes them visible.
    AsyncHazard,
    /// `trap`, or a failed `assert`.
    Trap,
    /// An operand outside what the instruction allows.
    Operand,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Not what the memory model promises, but accepted everywhere: the launch goes on. See [`crate::Gpu::notes`].
    Note,
    /// It ends the launch.
    Error,
}

impl FaultKind {
    /// How bad it is.
    pub fn level(self) -> Level {
        if self == Self::Guess { Level::Note } else { Level::Error }
    }

    /// A few words for the report.
    pub fn words(self) -> &'static str {
        match self {
            Self::Launch => "invalid launch",
            Self::OutOfBounds => "out-of-bounds access",
            Self::UseAfterFree => "use after free",
            Self::Misaligned => "misaligned access",
            Self::ReadOnly => "write to read-only memory",
            Self::Uninitialised => "uninitialised read",
            Self::Race => "race",
            Self::Guess => "plain guess of a compare-and-swap loop",
            Self::Divergence => "divergent synchronisation",
            Self::Deadlock => "deadlock",
            Self::Endless => "endless launch",
            Self::AsyncHazard => "asynchronous hazard",
            Self::Trap => "trap",
            Self::Operand => "invalid operand",
        }
    }
}

/// Everything known about the finding that stopped a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What kind of finding.
    pub kind: FaultKind,
    /// The entry that ran.
    pub kernel: String,
    /// Line of the PTX text, from 1; 0 where no instruction is to blame.
    pub ptx_line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// `file.cu:line`, where the text carries `.loc`.
    pub source: Option<String>,
    /// Block index, where one is to blame.
    pub block: Option<[u32; 3]>,
    /// Thread index inside the block.
    pub thread: Option<[u32; 3]>,
    /// The address, with its space's tag in the top bits for generic addresses.
    pub address: Option<u64>,
    /// The allocation or variable the address falls into or near.
    pub allocation: Option<String>,
    /// One sentence.
    pub message: String,
}

/// The finding that stopped a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(Box<Report>);

impl Fault {
    /// A finding of which only kind and sentence are known yet; whoever knows the place adds it with [`Fault::edit`].
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self(Box::new(Report {
            kind,
            kernel: String::new(),
            ptx_line: 0,
            instruction: String::new(),
            source: None,
            block: None,
            thread: None,
            address: None,
            allocation: None,
            message: message.into(),
        }))
    }

    /// The same finding with more known about it.
    pub fn edit(mut self, change: impl FnOnce(&mut Report)) -> Self {
        change(&mut self.0);
        self
    }

    /// What is known.
    pub fn report(&self) -> &Report {
        &self.0
    }

    /// The same as a report alone.
    pub(crate) fn into_report(self) -> Report {
        *self.0
    }

    /// What kind of finding.
    pub fn kind(&self) -> FaultKind {
        self.0.kind
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self;
        write!(f, "{} in {}", r.kind.words(), if r.kernel.is_empty() { "a kernel" } else { &r.kernel })?;
        if let Some(source) = &r.source {
            write!(f, " at {source}")?;
        }
        if r.ptx_line > 0 {
            write!(f, " (PTX line {}: {})", r.ptx_line, r.instruction)?;
        }
        if let Some([x, y, z]) = r.block {
            write!(f, ", block ({x},{y},{z})")?;
        }
        if let Some([x, y, z]) = r.thread {
            write!(f, ", thread ({x},{y},{z})")?;
        }
        write!(f, ": {}", r.message)?;
        if let Some(address) = r.address {
            write!(f, "; address {address:#x}")?;
        }
        if let Some(allocation) = &r.allocation {
            write!(f, " in {allocation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
