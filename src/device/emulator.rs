//! The [`Driver`] that runs the shipped PTX on the CPU, with every access checked and counted.
//!
//! Allocations are never pooled here: each has addresses of its own for ever, so that a use after the free is seen. What a
//! launch does wrong (an address, a race, a missing barrier) is an error that names kernel, line, thread and allocation.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
    rc::{Rc, Weak},
    time::Instant,
};

pub use ptx_emulator::Checks;
use ptx_emulator::{Counters, Gpu, MemoryError, asynchronous};

use super::{
    driver::{
        CapturedGraph, DeviceProps, DevicePtr, Driver, KernelCounters, KernelEntry, LaunchConfig, Memory, Pattern,
        TensorMap,
    },
    loads::{self, Load, Origin},
    module::Module,
};
use crate::error::{Error, Result};

/// What an emulated GPU is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Orders blocks and warps.
    pub seed: u64,
    /// Approximate instructions err as the seed says, inside their documented bounds.
    pub perturb: bool,
    pub checks: Checks,
    /// CPU threads that run blocks which cannot communicate.
    pub threads: usize,
    /// Compute capability: (8, 0) or (9, 0).
    pub capability: (u32, u32),
    /// 0 means as many as an A100 or an H100 has. With few, launch shapes made for much work are chosen for little.
    pub num_sms: u32,
    pub memory_bytes: u64,
    /// Of the first-level cache that each block is given in counting sectors; 0 counts none.
    pub l1_bytes: u32,
    /// Blocks of a launch that are run and counted for all, where only counts are wanted; 0 runs all.
    pub most_blocks: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 0,
            perturb: true,
            checks: Checks::ALL,
            threads: 1,
            capability: (8, 0),
            num_sms: 0,
            memory_bytes: 8 << 30,
            l1_bytes: 0,
            most_blocks: 0,
        }
    }
}

impl Options {
    /// As the environment says: `ISG_EMULATOR_CHECKS` is `all`, `none`, or some of `init,race,sync`;
    /// `ISG_EMULATOR_THREADS` a number; `ISG_EMULATOR_CAPABILITY` `8.0` or `9.0`; `ISG_EMULATOR_GIB` the memory.
    pub fn from_env(seed: u64) -> Result<Options> {
        let mut options = Options { seed, ..Options::default() };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let wrong = |name: &str, value: &str, wanted: &str| Error::Usage(format!("{name}={value}: {wanted} wanted"));
        if let Some(value) = variable("ISG_EMULATOR_CHECKS") {
            options.checks = parse_checks(&value)
                .ok_or_else(|| wrong("ISG_EMULATOR_CHECKS", &value, "all, none, or some of init,race,sync"))?;
        }
        if let Some(value) = variable("ISG_EMULATOR_THREADS") {
            let threads = value.parse().ok().filter(|threads| (1..=1024).contains(threads));
            options.threads = threads.ok_or_else(|| wrong("ISG_EMULATOR_THREADS", &value, "a number from 1"))?;
        }
        if let Some(value) = variable("ISG_EMULATOR_GIB") {
            let gib = value.parse::<u64>().ok().filter(|gib| (1..=1024).contains(gib));
            options.memory_bytes = gib.ok_or_else(|| wrong("ISG_EMULATOR_GIB", &value, "a number from 1"))? << 30;
        }
        match variable("ISG_EMULATOR_CAPABILITY").as_deref() {
            None | Some("8.0") => {}
            Some("9.0") => options.capability = (9, 0),
            Some(value) => return Err(wrong("ISG_EMULATOR_CAPABILITY", value, "8.0 or 9.0")),
        }
        Ok(options)
    }
}

fn parse_checks(value: &str) -> Option<Checks> {
    let mut checks = Checks::NONE;
    for word in value.split(',') {
        match word.trim() {
            "all" => checks = Checks::ALL,
            "none" => {}
            "init" => checks.init = true,
            "race" => checks.race = true,
            "sync" => checks.sync = true,
            _ => return None,
        }
    }
    Some(checks)
}

/// An emulated GPU.
pub struct Emulator {
    name: String,
    props: DeviceProps,
    state: Rc<RefCell<State>>,
}

struct State {
    gpu: Gpu,
    capacity: u64,
    peak: u64,
    entries: Vec<(ptx_emulator::Module, String)>,
    /// By the module's address: two crates may call theirs the same.
    by_name: HashMap<(*const Module, String), KernelEntry>,
    counters: BTreeMap<String, (u64, Counters)>,
    capture: Option<Capture>,
    /// Memory that a graph still needs when its tensor is gone.
    lent: HashMap<DevicePtr, Weak<RefCell<Vec<DevicePtr>>>>,
}

struct Capture {
    /// Counts replays, in device memory.
    replay_counter: DevicePtr,
    steps: Vec<Step>,
    allocated: HashSet<DevicePtr>,
    freed: Vec<DevicePtr>,
}

/// One thing to do again.
enum Step {
    /// Memory handed out here: uninitialised again.
    Fresh {
        at: DevicePtr,
        bytes: usize,
    },
    Launch {
        entry: KernelEntry,
        config: LaunchConfig,
        params: Vec<u8>,
    },
    Fill {
        to: DevicePtr,
        pattern: Pattern,
        count: usize,
    },
    Copy {
        from: DevicePtr,
        to: DevicePtr,
        bytes: usize,
    },
}

impl Emulator {
    pub fn new(options: &Options) -> Rc<Emulator> {
        let hopper = options.capability >= (9, 0);
        // Of an A100 and an H100: launch shapes that depend on them are those of the real thing.
        let (most, shared_bytes) = if hopper { (132, 227 << 10) } else { (108, 163 << 10) };
        let num_sms = if options.num_sms == 0 { most } else { options.num_sms };
        let gpu = Gpu::new(ptx_emulator::Options {
            seed: options.seed,
            checks: options.checks,
            poison: true,
            perturb_approx: options.perturb,
            threads: options.threads,
            memory_bytes: options.memory_bytes,
            max_shared_bytes: shared_bytes,
            l1_bytes: options.l1_bytes,
            most_blocks: options.most_blocks,
            ..ptx_emulator::Options::default()
        });
        let (major, minor) = options.capability;
        let state = State {
            gpu,
            capacity: options.memory_bytes,
            peak: 0,
            entries: Vec::new(),
            by_name: HashMap::new(),
            counters: BTreeMap::new(),
            capture: None,
            lent: HashMap::new(),
        };
        Rc::new(Emulator {
            name: format!("emulator (compute capability {major}.{minor}, seed {})", options.seed),
            props: DeviceProps { capability: options.capability, num_sms, shared_bytes },
            state: Rc::new(RefCell::new(state)),
        })
    }

    // No address is trusted below this line: the emulator checks every access itself.

    fn write(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.reject_in_capture("copy from the host")?;
        self.state.borrow_mut().gpu.write(to.0, from).map_err(memory_error)
    }

    fn read(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.reject_in_capture("copy to the host")?;
        self.state.borrow().gpu.read(from.0, to).map_err(memory_error)
    }

    fn queue(&self, step: Step) -> Result<()> {
        self.state.borrow_mut().run_or_capture(step)
    }

    fn reject_in_capture(&self, what: &str) -> Result<()> {
        if self.state.borrow().capture.is_some() {
            return Err(Error::Device(format!("emulator: a captured step cannot {what}; do it before or after")));
        }
        Ok(())
    }
}

fn memory_error(error: MemoryError) -> Error {
    Error::Device(match error {
        MemoryError::OutOfMemory { asked, held, capacity } => format!(
            "emulator: out of memory: {asked} bytes asked, {held} held, {} free; use a smaller batch, or more memory with \
             ISG_EMULATOR_GIB",
            capacity.saturating_sub(held)
        ),
        other => format!("emulator: {other}"),
    })
}

impl State {
    fn alloc(&mut self, bytes: usize) -> Result<DevicePtr> {
        let at = DevicePtr(self.gpu.alloc(bytes as u64).map_err(memory_error)?);
        self.peak = self.peak.max(self.gpu.held_bytes());
        if let Some(capture) = &mut self.capture {
            capture.allocated.insert(at);
            capture.steps.push(Step::Fresh { at, bytes });
        }
        Ok(at)
    }

    fn free(&mut self, at: DevicePtr) {
        if let Some(capture) = &mut self.capture {
            capture.freed.push(at);
        } else if let Some(owner) = self.lent.remove(&at).and_then(|owner| owner.upgrade()) {
            owner.borrow_mut().push(at);
        } else {
            // The owner frees what it got, once: an error is a bug of this crate, not of its user.
            self.gpu.free(at.0).expect("memory is freed once");
        }
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Fresh { at, bytes } => self.gpu.forget(at.0, *bytes as u64).map_err(memory_error),
            Step::Launch { entry, config, params } => self.launch(*entry, *config, params),
            Step::Fill { to, pattern, count } => self.fill(*to, *pattern, *count),
            Step::Copy { from, to, bytes } => self.gpu.copy(to.0, from.0, *bytes as u64).map_err(memory_error),
        }
    }

    fn launch(&mut self, entry: KernelEntry, config: LaunchConfig, params: &[u8]) -> Result<()> {
        let (module, name) = &self.entries[entry.0 as usize];
        let LaunchConfig { grid, block, shared_bytes } = config;
        let counters = (self.gpu.launch(module, name, grid, block, shared_bytes, params))
            .map_err(|fault| Error::Device(format!("emulator: {fault}")))?;
        let (launches, total) = self.counters.entry(name.clone()).or_default();
        *launches += 1;
        *total += &counters;
        Ok(())
    }

    fn fill(&mut self, to: DevicePtr, pattern: Pattern, count: usize) -> Result<()> {
        let bytes = match pattern {
            Pattern::Bits8(v) => vec![v; count],
            Pattern::Bits16(v) => v.to_le_bytes().repeat(count),
            Pattern::Bits32(v) => v.to_le_bytes().repeat(count),
        };
        self.gpu.write(to.0, &bytes).map_err(memory_error)
    }

    fn run_or_capture(&mut self, step: Step) -> Result<()> {
        match &mut self.capture {
            Some(capture) => {
                capture.steps.push(step);
                Ok(())
            }
            None => self.run(&step),
        }
    }
}

impl Driver for Emulator {
    fn name(&self) -> &str {
        &self.name
    }

    fn props(&self) -> DeviceProps {
        self.props
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        self.state.borrow_mut().alloc(bytes)
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        self.state.borrow_mut().free(ptr);
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.write(to, from)
    }

    unsafe fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.read(from, to)
    }

    unsafe fn fill(&self, to: DevicePtr, pattern: Pattern, count: usize) -> Result<()> {
        self.queue(Step::Fill { to, pattern, count })
    }

    unsafe fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.queue(Step::Copy { from, to, bytes })
    }

    fn entry(&self, module: &'static Module, kernel: &str) -> Result<KernelEntry> {
        let key = (std::ptr::from_ref(module), kernel.to_string());
        if let Some(entry) = self.state.borrow().by_name.get(&key) {
            return Ok(*entry);
        }
        self.reject_in_capture(&format!("load {kernel} for the first time"))?;
        let state = &mut *self.state.borrow_mut();
        let start = Instant::now();
        let ptx = module.entry(kernel, self.props.capability, &self.name)?;
        let loaded = ptx_emulator::Module::load(&ptx)
            .map_err(|error| Error::Device(format!("emulator: module {}: {error}", module.name)))?;
        let (entry, origin) = (kernel.to_string(), Origin::Interpreted);
        loads::record(Load { entry, origin, took: start.elapsed(), log: String::new() });
        let entry = KernelEntry(state.entries.len() as u64);
        state.entries.push((loaded, kernel.to_string()));
        state.by_name.insert(key, entry);
        Ok(entry)
    }

    unsafe fn launch(&self, entry: KernelEntry, config: LaunchConfig, params: &[u8]) -> Result<()> {
        self.queue(Step::Launch { entry, config, params: params.to_vec() })
    }

    fn sync(&self) -> Result<()> {
        self.reject_in_capture("wait for itself")
    }

    fn begin_capture(&self) -> Result<()> {
        self.reject_in_capture("capture another")?;
        let state = &mut *self.state.borrow_mut();
        let replay_counter = state.alloc(size_of::<u32>())?;
        state.capture =
            Some(Capture { replay_counter, steps: Vec::new(), allocated: HashSet::new(), freed: vec![replay_counter] });
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn CapturedGraph>> {
        let state = &mut *self.state.borrow_mut();
        let Some(capture) = state.capture.take() else {
            return Err(Error::Device("emulator: nothing is being captured".to_string()));
        };
        let Capture { replay_counter, steps, mut allocated, freed } = capture;
        freed.iter().for_each(|at| {
            allocated.remove(at);
        });
        let owned = Rc::new(RefCell::new(freed));
        state.lent.extend(allocated.into_iter().map(|at| (at, Rc::downgrade(&owned))));
        Ok(Box::new(Replayable { replay_counter, replays: Cell::new(0), steps, owned, state: self.state.clone() }))
    }

    fn replay_counter(&self) -> DevicePtr {
        self.state.borrow().capture.as_ref().map_or(DevicePtr::NULL, |capture| capture.replay_counter)
    }

    fn take_counters(&self) -> Vec<KernelCounters> {
        let counters = std::mem::take(&mut self.state.borrow_mut().counters);
        let row = |(kernel, (launches, total)): (String, (u64, Counters))| KernelCounters {
            kernel,
            launches,
            counts: total.fields(),
        };
        counters.into_iter().map(row).collect()
    }

    fn encode_tensor_map(&self, map: &TensorMap) -> Result<[u8; 128]> {
        if self.props.capability < (9, 0) {
            return Err(Error::Device(format!("{}: has no TMA", self.name)));
        }
        let map = asynchronous::TensorMap {
            base: map.base.0,
            element_bytes: map.dtype.bytes() as u32,
            extents: map.extents.clone(),
            strides_bytes: map.strides_bytes.clone(),
            box_extents: map.box_extents.clone(),
            element_strides: vec![1; map.extents.len()],
            swizzle_bytes: map.swizzle_bytes,
        };
        asynchronous::encode_tensor_map(&map).map_err(|e| Error::Device(format!("{}: {e}", self.name)))
    }

    fn memory(&self) -> Memory {
        let state = self.state.borrow();
        let used_bytes = state.gpu.held_bytes();
        Memory { used_bytes, peak_bytes: state.peak, held_bytes: used_bytes, total_bytes: state.capacity }
    }
}

struct Replayable {
    replay_counter: DevicePtr,
    replays: Cell<u32>,
    steps: Vec<Step>,
    /// Freed when nothing will be replayed any more.
    owned: Rc<RefCell<Vec<DevicePtr>>>,
    state: Rc<RefCell<State>>,
}

impl CapturedGraph for Replayable {
    fn replay(&self) -> Result<()> {
        let state = &mut *self.state.borrow_mut();
        state.fill(self.replay_counter, Pattern::Bits32(self.replays.get()), 1)?;
        self.replays.set(self.replays.get().wrapping_add(1));
        self.steps.iter().try_for_each(|step| state.run(step))
    }

    fn nodes(&self) -> usize {
        self.steps.iter().filter(|step| !matches!(step, Step::Fresh { .. })).count()
    }
}

impl Drop for Replayable {
    fn drop(&mut self) {
        let state = &mut *self.state.borrow_mut();
        for at in self.owned.take() {
            state.gpu.free(at.0).expect("memory is freed once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read() {
        assert_eq!(parse_checks("all"), Some(Checks::ALL));
        assert_eq!(parse_checks("none"), Some(Checks::NONE));
        assert_eq!(parse_checks("init, race"), Some(Checks { sync: false, ..Checks::ALL }));
        assert_eq!(parse_checks("memory"), None);
    }

    /// No size classes as on a GPU: one byte past what was asked for is outside, and the next allocation is far away.
    #[test]
    fn memory_ends_where_its_tensor_does() {
        let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry peek(.param .u64 at)\n{\n.reg .b64 %rd<2>;\n\
                    .reg .b16 %rs<2>;\nld.param.u64 %rd1, [at];\nld.global.u8 %rs1, [%rd1];\nret;\n}\n";
        let module = ptx_emulator::Module::load(text).expect("PTX");
        let emulator = Emulator::new(&Options::default());
        for bytes in [1, 12, 513, 4097] {
            let at = emulator.alloc(bytes).expect("memory");
            emulator.alloc(64).expect("a neighbour");
            emulator.queue(Step::Fill { to: at, pattern: Pattern::Bits8(1), count: bytes }).expect("memory");
            let peek = |offset: usize| {
                let at = at.offset_bytes(offset).0.to_le_bytes();
                emulator.state.borrow_mut().gpu.launch(&module, "peek", [1; 3], [1; 3], 0, &at).map(|_| ())
            };
            peek(bytes - 1).expect("the last byte");
            for past in [bytes, bytes + 1, bytes + 600, 1 << 20] {
                let fault = peek(past).expect_err("outside");
                assert_eq!(fault.kind(), ptx_emulator::FaultKind::OutOfBounds, "{fault}");
            }
        }
    }

    #[test]
    fn memory_goes_back_and_what_is_too_much_is_refused_with_numbers() {
        let emulator = Emulator::new(&Options { memory_bytes: 1 << 20, ..Options::default() });
        let at = emulator.alloc(1 << 19).expect("half of it");
        let refusal = emulator.alloc(1 << 20).expect_err("more than there is").to_string();
        assert!(refusal.contains("1048576 bytes asked, 524288 held, 524288 free"), "{refusal}");
        // SAFETY: allocated above, freed once, nothing queued.
        unsafe { emulator.free(at) };
        assert_eq!(emulator.memory().used_bytes, 0);
        assert_eq!(emulator.memory().peak_bytes, 1 << 19);
        emulator.alloc(1 << 20).expect("goes on");
    }

    #[test]
    fn recorded_steps_run_when_replayed_and_keep_their_memory() {
        let emulator = Emulator::new(&Options::default());
        let (a, b) = (emulator.alloc(8).expect("memory"), emulator.alloc(8).expect("memory"));
        emulator.begin_capture().expect("capturing");
        emulator.queue(Step::Fill { to: a, pattern: Pattern::Bits16(0x0102), count: 4 }).expect("recorded");
        let counted = emulator.alloc(4).expect("memory");
        emulator.queue(Step::Copy { from: emulator.replay_counter(), to: counted, bytes: 4 }).expect("recorded");
        let scratch = emulator.alloc(8).expect("memory");
        emulator.queue(Step::Copy { from: a, to: scratch, bytes: 8 }).expect("recorded");
        emulator.queue(Step::Copy { from: scratch, to: b, bytes: 8 }).expect("recorded");
        // SAFETY: allocated above, freed once; the graph keeps it.
        unsafe { emulator.free(scratch) };
        let refusal = emulator.write(a, &[0; 8]).expect_err("no copies in a recording").to_string();
        assert!(refusal.contains("cannot copy from the host"), "{refusal}");
        let recording = emulator.end_capture().expect("recorded");
        assert_eq!(recording.nodes(), 4);
        assert_eq!(emulator.replay_counter(), DevicePtr::NULL);
        emulator.write(b, &[9; 8]).expect("memory");
        let mut read = [0; 8];
        emulator.read(b, &mut read).expect("memory");
        assert_eq!(read, [9; 8], "nothing ran yet");
        for replay in 0..2 {
            recording.replay().expect("replayed");
            let mut replay_counter = [9; 4];
            emulator.read(counted, &mut replay_counter).expect("memory");
            assert_eq!(replay_counter, [replay, 0, 0, 0]);
            emulator.read(b, &mut read).expect("memory");
            assert_eq!(read, [2, 1, 2, 1, 2, 1, 2, 1]);
        }
        assert_eq!(emulator.memory().used_bytes, 32, "with the word that counts replays");
        drop(recording);
        assert_eq!(emulator.memory().used_bytes, 20);
    }
}
