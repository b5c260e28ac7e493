//! What instructions work on: decoded code, warps with their registers, blocks with their shared memory.
//!
//! A register is 32 lanes side by side. Values of up to 32 bits live zero-extended in the 32-bit file whatever their
//! type, 64-bit values in the 64-bit file, predicates as one mask. Constants and special registers are registers nobody
//! writes.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use crate::{
    asynchronous, caches,
    counters::Counters,
    decode::flow::Flow,
    memory::Global,
    module::Entry,
    options::Options,
    race,
    report::{Fault, FaultKind, Report},
    rng::Rng,
    texture::Texture,
    undefined::Undefined,
    weak,
};

/// Lanes of a warp.
pub const LANES: usize = 32;
/// All lanes.
pub const FULL: u32 = !0;
/// A 32-bit register of a warp.
pub type R32 = [u32; LANES];
/// A 64-bit register of a warp.
pub type R64 = [u64; LANES];
/// What executing an instruction gives.
pub type Step = Result<(), Fault>;

/// The function behind an instruction. The mask holds the lanes that execute it and is never zero.
///
/// Unsafe to call only because it may be compiled for vector instructions that the processor must have; decoding picks by
/// what it has.
pub type OpFn = unsafe fn(&mut Warp, &mut Block<'_>, &Ins, u32) -> Step;

/// How the scheduler treats an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Call the function, go on with the next.
    Plain,
    /// Jump to `target`; with a guard this is where warps diverge.
    Branch,
    /// `brx.idx`: jump to one of `more`, chosen by slot 0.
    Indexed,
    /// The threads end.
    Exit,
    /// A barrier over threads of the block; see `scheduler`.
    Barrier,
    /// Call the function; if it says so, execute it again after the block's next event.
    Waiting,
}

/// Which lanes must stand at an instruction before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// None but those that are there.
    No,
    /// Every lane of the warp that has not exited (`.aligned` instructions).
    All,
    /// The lanes of the member mask in this 32-bit slot; lanes with different masks form separate groups.
    Members(u32),
}

/// What an instruction counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Integer,
    Float32,
    Float64,
    Float16,
    Special,
    Convert,
    CompareMove,
    Memory,
    Collective,
    Synchronisation,
    Control,
    Matrix,
}

/// The slot of a 32- or 64-bit register that nobody reads: destinations written `_`.
pub const SINK: u32 = 0;

/// One decoded instruction.
#[derive(Clone)]
pub struct Ins {
    /// What to do.
    pub run: OpFn,
    /// Register slots, in the order the operation defines: destinations first, then sources.
    pub slots: [u32; 16],
    /// Constant of an address or a selector known at load.
    pub immediate: i64,
    /// More slots, where sixteen do not suffice, or targets of `brx.idx`.
    pub more: Box<[u32]>,
    /// Where a branch goes.
    pub target: u32,
    /// Slot of the guarding predicate; 0 is always true.
    pub guard: u32,
    /// All ones where the guard is negated.
    pub guard_flip: u32,
    /// For the scheduler.
    pub control: Control,
    /// For the scheduler.
    pub gather: Gather,
    /// For the counters.
    pub class: Class,
    /// Multiply-adds per warp, for matrix products.
    pub macs: u32,
    /// Line in the PTX text.
    pub line: u32,
    /// Index of the source file and the line there; line 0 where unknown.
    pub source: (u32, u32),
}

/// Where the value of a constant register comes from at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Preset {
    /// The same in all lanes.
    Bits32(u32),
    /// The same in all lanes.
    Bits64(u64),
    /// Address of a module-level variable plus an offset.
    Global(u32, i64),
    /// One of the special registers; see `decode::special`.
    Special(Special),
}

/// Special registers that do not change while a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NumWarps,
    LaneMask(std::cmp::Ordering, bool),
    GridId,
    SmId,
    NumSm,
    WarpSize,
    DynamicShared,
    TotalShared,
    ClusterCtaId(u8),
    ClusterCtas(u8),
    ClusterId(u8),
    Clusters(u8),
    ClusterRank,
    ClusterSize,
    /// `%envreg`: what the driver tells the kernel.
    Environment(u8),
    /// Start of the shared memory that the system reserves, plus that offset.
    Reserved(u32),
    /// Where a thread's stack begins; `alloca` moves it on.
    StackStart,
}

/// The decoded code of one entry, device functions inlined.
#[derive(Default)]
pub(crate) struct Code {
    pub ins: Vec<Ins>,
    /// Registers of each file, presets included.
    pub slots32: usize,
    pub slots64: usize,
    pub predicates: usize,
    /// 32- and 64-bit slots filled before a warp starts.
    pub presets: Vec<(bool, u32, Preset)>,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// Where the stack of `alloca` begins in local memory, if it is used.
    pub stack_start: Option<u32>,
    /// Names of `.file` directives.
    pub files: Vec<String>,
    /// Text of each instruction as written.
    pub text: Vec<String>,
    /// Static shared variables: name, start, size. Guards lie between them.
    pub shared: Vec<(String, u32, u32)>,
    /// What the guards add before dynamic shared memory.
    pub guard_bytes: u32,
    /// Uses the shared memory that the system reserves in each block.
    pub reserved_shared: bool,
    /// Uses an instruction through which blocks can communicate.
    pub communicates: bool,
    /// Calls `vprintf`.
    pub prints: bool,
    /// Stores strongly to global memory other than by atomics.
    pub strong_stores: bool,
    /// Targets of `brx.idx` exist, or backward branches: anything that can loop.
    pub loops: bool,
    /// The least width of its accesses to shared memory, a power of two.
    pub narrowest_shared: u32,
    /// For each instruction the registers it names.
    pub flows: Vec<Flow>,
    /// Multiplies by `wgmma`, whose registers are watched.
    pub products: bool,
}

/// Lanes of a warp that stand at the same instruction.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It can.
    No,
    /// For these lanes of its warp to reach its instruction.
    Lanes(u32),
    /// At a barrier of the block.
    Barrier(u32),
    /// For the number of the block's events to be another than this.
    Event(u64),
}

/// Thirty-two threads.
pub struct Warp {
    /// Number in the block.
    pub index: u32,
    pub r32: Vec<R32>,
    pub r64: Vec<R64>,
    pub predicates: Vec<u32>,
    /// Lanes that exist and have not exited.
    pub live: u32,
    /// Where they stand; masks are disjoint and together make `live`.
    pub groups: Vec<Group>,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
    /// One byte per byte of local memory: written. Empty without the check.
    pub local_written: Vec<u8>,
    /// Registers that hold what nobody defined.
    pub undefined: Undefined,
    /// Copies under way.
    pub asynchronous: asynchronous::WarpState,
}

/// Shared memory of a block.
pub struct Shared {
    pub bytes: Vec<u8>,
    /// One byte per byte: written. Empty without the check.
    pub written: Vec<u8>,
    /// Bytes that may be addressed (the buffer is a little longer).
    pub limit: u32,
    /// Ranges between variables, where no access may fall.
    pub guards: Vec<(u32, u32)>,
}

impl Shared {
    /// Whether an access to these bytes touches a guard.
    #[inline(always)]
    pub fn guarded(&self, from: u32, to: u32) -> bool {
        self.guards.iter().any(|(start, end)| from < *end && to > *start)
    }
}

/// What all blocks of a launch share.
pub struct Launch<'a> {
    pub(crate) memory: &'a Global,
    pub(crate) entry: &'a Entry,
    pub options: &'a Options,
    /// Number of the launch on its GPU.
    pub number: u64,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub params: &'a [u8],
    /// Addresses of module-level variables.
    pub(crate) globals: &'a [u64],
    pub dynamic_shared: u32,
    /// Blocks in a cluster.
    pub(crate) cluster: [u32; 3],
    /// Address of what the blocks of a cooperative grid synchronise by; 0 for other launches.
    pub(crate) workspace: u64,
    pub(crate) weak: weak::State,
    /// Textures and surfaces, by their handles.
    pub(crate) textures: &'a HashMap<u64, Texture>,
    /// What kernels printed.
    pub(crate) printed: Mutex<String>,
    /// Races between blocks.
    pub race: &'a race::GlobalRaces,
    pub(crate) notes: Mutex<Vec<Report>>,
    /// The first place in the order of blocks where a fault was found.
    pub(crate) stop: AtomicUsize,
    pub(crate) spent: AtomicU64,
    pub(crate) footprint: caches::Footprint,
}

/// One block while it runs. Its warps stand beside it, so that an operation has both at hand.
pub struct Block<'a> {
    pub launch: &'a Launch<'a>,
    /// Its index in the grid.
    pub index: [u32; 3],
    /// x + y * width + z * width * height.
    pub linear: u64,
    pub warps: u32,
    pub threads: u32,
    pub shared: Shared,
    pub counters: Counters,
    pub(crate) first_level: Option<caches::FirstLevel>,
    pub race: race::BlockRaces,
    pub asynchronous: asynchronous::BlockState,
    /// Seeded by launch and block.
    pub rng: Rng,
    /// The instruction under way, for reports and race shadows.
    pub pc: u32,
    /// Warp instructions so far.
    pub clock: u64,
}

impl Warp {
    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn set32(&mut self, slot: u32, value: R32, mask: u32) {
        let register = &mut self.r32[slot as usize];
        if mask == FULL {
            *register = value;
        } else {
            for lane in 0..LANES {
                register[lane] = if mask >> lane & 1 != 0 { value[lane] } else { register[lane] };
            }
        }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn set64(&mut self, slot: u32, value: R64, mask: u32) {
        let register = &mut self.r64[slot as usize];
        if mask == FULL {
            *register = value;
        } else {
            for lane in 0..LANES {
                register[lane] = if mask >> lane & 1 != 0 { value[lane] } else { register[lane] };
            }
        }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn set_predicate(&mut self, slot: u32, value: u32, mask: u32) {
        let register = &mut self.predicates[slot as usize];
        *register = *register & !mask | value & mask;
    }

    /// A 32-bit register.
    #[inline(always)]
    pub fn get32(&self, slot: u32) -> &R32 {
        &self.r32[slot as usize]
    }

    /// A 64-bit register.
    #[inline(always)]
    pub fn get64(&self, slot: u32) -> &R64 {
        &self.r64[slot as usize]
    }
}

impl Block<'_> {
    /// A fault of the instruction under way; lane `lane` of `warp` is to blame.
    #[cold]
    pub fn fault(&self, warp: &Warp, lane: u32, kind: FaultKind, message: impl Into<String>) -> Fault {
        self.place(Fault::new(kind, message), warp.index, lane)
    }

    /// Adds instruction, block and thread to a fault.
    #[cold]
    pub fn place(&self, fault: Fault, warp: u32, lane: u32) -> Fault {
        let thread = self.thread(warp, lane);
        self.place_at(fault, self.pc, Some(thread))
    }

    /// Adds an instruction, the block and perhaps a thread to a fault.
    #[cold]
    pub fn place_at(&self, fault: Fault, pc: u32, thread: Option<[u32; 3]>) -> Fault {
        let code = &self.launch.entry.code;
        fault.edit(|r| {
            r.kernel = self.launch.entry.name.clone();
            r.block = Some(self.index);
            r.thread = thread;
            if let Some(ins) = code.ins.get(pc as usize) {
                r.ptx_line = ins.line;
                r.instruction = code.text.get(pc as usize).cloned().unwrap_or_default();
                r.source = code.source(ins.source);
            }
        })
    }

    /// Where an instruction stands, in words: `file.cu:12` or `PTX line 345`.
    #[cold]
    pub fn at(&self, pc: u32) -> String {
        let code = &self.launch.entry.code;
        match code.ins.get(pc as usize) {
            Some(ins) => match code.source(ins.source) {
                Some(source) => format!("{source} (PTX line {})", ins.line),
                None => format!("PTX line {}", ins.line),
            },
            None => "the end".into(),
        }
    }

    /// Thread index of a lane.
    pub fn thread(&self, warp: u32, lane: u32) -> [u32; 3] {
        let linear = warp * LANES as u32 + lane;
        let [x, y, _] = self.launch.block;
        [linear % x, linear / x % y, linear / (x * y)]
    }

    /// The static shared variable an offset falls into, for reports.
    #[cold]
    pub fn shared_name(&self, offset: u32) -> Option<String> {
        let variables = &self.launch.entry.code.shared;
        let before = variables.iter().filter(|(_, start, _)| *start <= offset).max_by_key(|(_, start, _)| *start);
        let near =
            |(_, start, bytes): &&(String, u32, u32)| offset < start + bytes || self.shared.guarded(offset, offset + 1);
        Some(match before.filter(near) {
            Some((name, start, bytes)) => format!("shared {name} ({bytes} bytes), offset {}", offset - start),
            None => format!("shared memory, offset {offset} of {}", self.shared.limit),
        })
    }
}

impl Code {
    pub(crate) fn source(&self, (file, line): (u32, u32)) -> Option<String> {
        let name = self.files.get(file as usize).filter(|_| line > 0)?;
        Some(format!("{name}:{line}"))
    }
}
