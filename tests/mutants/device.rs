//! A GPU whose every launch is run again with a fault in its kernel.
//!
//! The launch itself runs as it should, so that what follows it is not disturbed. Before it, the memory is forked; in the
//! forks the kernel runs once with probes, to learn which safeguards this launch needs, and once without each of those.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use isg::{
    Error, Result,
    device::{
        driver::{DeviceProps, DevicePtr, Driver, KernelEntry, LaunchConfig, Memory, Pattern, TensorMap},
        module,
    },
};
use ptx_emulator::{Checks, Gpu, Module, Options, asynchronous};

use super::{
    excuse,
    mutate::{Body, COVERED, Mutant},
};

/// What the emulator and the results say to a fault, from nothing to everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// No launch needed the safeguard.
    Idle,
    /// No finding, and bit-identical memory.
    Passed,
    /// No finding, but other bits in memory: what compares results sees it.
    Wrong,
    Reported(String),
}

pub struct Site {
    pub mutant: Mutant,
    pub outcome: Outcome,
    pub steps: u64,
    /// Which of its kind in the entry, from 1.
    pub ordinal: usize,
    /// Why it may pass.
    pub excuse: Option<&'static str>,
}

/// One entry and the faults planted in it.
pub struct Kernel {
    pub file: String,
    pub entry: String,
    pub body: Body,
    pub sites: Vec<Site>,
    module: Module,
    probed: Option<Module>,
    pub launches: u64,
}

/// Which faults are planted, and how often.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Conditions too, not only what orders accesses.
    pub conditions: bool,
    /// Warp instructions after which no further launch is tried for a fault that nobody has seen.
    pub most_steps: u64,
    /// The same for faults that may pass.
    pub most_excused_steps: u64,
}

/// All kernels met so far, by name. Shared by several devices.
pub struct Found {
    plan: Plan,
    pub kernels: Vec<Kernel>,
    by_name: HashMap<String, usize>,
}

impl Found {
    pub fn new(plan: Plan) -> Rc<RefCell<Found>> {
        Rc::new(RefCell::new(Found { plan, kernels: Vec::new(), by_name: HashMap::new() }))
    }

    fn load(&mut self, file: &str, entry: &str, text: &str) -> Result<usize> {
        if let Some(known) = self.by_name.get(entry) {
            return Ok(*known);
        }
        let body = Body::new(text, entry, true);
        let load = |text: &str| Module::load(text).map_err(|e| Error::Device(format!("{entry}: {e}")));
        let module = load(&body.text())?;
        let mut ordinals = HashMap::new();
        let mut site = |mutant: Mutant| {
            let ordinal = ordinals.entry(mutant.safeguard).and_modify(|n| *n += 1).or_insert(1);
            let excuse = excuse(entry, mutant.safeguard, *ordinal);
            Site { mutant, outcome: Outcome::Idle, steps: 0, ordinal: *ordinal, excuse }
        };
        let mutants = body.mutants().into_iter().filter(|m| self.plan.conditions || m.safeguard.orders());
        let sites: Vec<Site> = mutants.map(&mut site).collect();
        let probed = match sites.is_empty() {
            true => None,
            false => Some(load(&body.probed(sites.iter().map(|site| &site.mutant)))?),
        };
        let (file, entry) = (file.to_string(), entry.to_string());
        self.by_name.insert(entry.clone(), self.kernels.len());
        self.kernels.push(Kernel { file, entry, body, sites, module, probed, launches: 0 });
        Ok(self.kernels.len() - 1)
    }
}

pub struct Saboteur {
    props: DeviceProps,
    gpu: RefCell<Gpu>,
    live: RefCell<BTreeMap<u64, u64>>,
    found: Rc<RefCell<Found>>,
    plan: Plan,
}

impl Saboteur {
    pub fn new(seed: u64, props: DeviceProps, found: &Rc<RefCell<Found>>) -> Rc<Saboteur> {
        let shared_bytes = props.shared_bytes;
        let options = Options { seed, max_shared_bytes: shared_bytes, ..Options::default() };
        Rc::new(Saboteur {
            props,
            gpu: RefCell::new(Gpu::new(options)),
            live: RefCell::default(),
            found: found.clone(),
            plan: found.borrow().plan,
        })
    }

    /// Runs the launch without each safeguard it needs that nobody has missed yet.
    fn sabotage(&self, kernel: &mut Kernel, before: &Gpu, after: &Gpu, steps: u64, launch: &Launch) {
        let wanted = |site: &Site| {
            // What may pass is tried in the long run alone, where it shows if it does not.
            let most = if site.excuse.is_none() { self.plan.most_steps } else { self.plan.most_excused_steps };
            let more = site.steps < most;
            match (&site.outcome, site.mutant.safeguard.orders()) {
                (Outcome::Reported(_), _) | (Outcome::Wrong, false) => false,
                _ => more,
            }
        };
        let Some(probed) = kernel.probed.as_ref().filter(|_| kernel.sites.iter().any(wanted)) else { return };
        let mut options = after.options().clone();
        let mut fork = before.fork(Options { checks: Checks::NONE, ..options.clone() });
        if let Err(fault) = launch.run(&mut fork, probed) {
            panic!("{} with probes: {fault}", kernel.entry);
        }
        let (at, bytes) = fork.symbol(probed, COVERED).expect("memory").expect("declared");
        let mut covered = vec![0; bytes as usize];
        fork.read(at, &mut covered).expect("the probes' variable");
        // Without a bound a kernel may run away; it is then reported as endless.
        options.max_warp_instructions = 20 * steps + 100_000;
        let Kernel { sites, body, .. } = kernel;
        for (site, _) in sites.iter_mut().zip(covered).filter(|(_, covered)| *covered != 0) {
            if !wanted(site) {
                continue;
            }
            site.steps += steps;
            let mut fork = before.fork(options.clone());
            let module = match Module::load(&body.with(&site.mutant)) {
                Ok(module) => module,
                Err(error) => panic!("{} without {}: {error}", launch.entry, site.mutant.was),
            };
            let outcome = match launch.run(&mut fork, &module) {
                Err(fault) => Outcome::Reported(format!("{:?}", fault.kind())),
                Ok(_) if self.same_memory(after, &fork) => Outcome::Passed,
                Ok(_) => Outcome::Wrong,
            };
            site.outcome = site.outcome.clone().max(outcome);
        }
    }

    fn same_memory(&self, a: &Gpu, b: &Gpu) -> bool {
        self.live.borrow().iter().all(|(at, bytes)| {
            let [mut of_a, mut of_b] = [vec![0; *bytes as usize], vec![0; *bytes as usize]];
            a.read(*at, &mut of_a).and_then(|()| b.read(*at, &mut of_b)).expect("live memory");
            of_a == of_b
        })
    }
}

struct Launch<'a> {
    entry: &'a str,
    config: LaunchConfig,
    params: &'a [u8],
}

impl Launch<'_> {
    fn run(&self, gpu: &mut Gpu, module: &Module) -> std::result::Result<u64, ptx_emulator::Fault> {
        let LaunchConfig { grid, block, shared_bytes } = self.config;
        Ok(gpu.launch(module, self.entry, grid, block, shared_bytes, self.params)?.warp_instructions)
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Device(error.to_string())
}

impl Driver for Saboteur {
    fn name(&self) -> &str {
        "emulator with faults"
    }

    fn props(&self) -> DeviceProps {
        self.props
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let at = self.gpu.borrow_mut().alloc(bytes as u64).map_err(refused)?;
        self.live.borrow_mut().insert(at, bytes as u64);
        Ok(DevicePtr(at))
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        self.live.borrow_mut().remove(&ptr.0);
        self.gpu.borrow_mut().free(ptr.0).expect("memory is freed once");
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.gpu.borrow_mut().write(to.0, from).map_err(refused)
    }

    unsafe fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.gpu.borrow().read(from.0, to).map_err(refused)
    }

    unsafe fn fill(&self, to: DevicePtr, pattern: Pattern, count: usize) -> Result<()> {
        let bytes = match pattern {
            Pattern::Bits8(v) => vec![v; count],
            Pattern::Bits16(v) => v.to_le_bytes().repeat(count),
            Pattern::Bits32(v) => v.to_le_bytes().repeat(count),
        };
        self.gpu.borrow_mut().write(to.0, &bytes).map_err(refused)
    }

    unsafe fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.gpu.borrow_mut().copy(to.0, from.0, bytes as u64).map_err(refused)
    }

    fn entry(&self, module: &'static module::Module, name: &str) -> Result<KernelEntry> {
        let text = module.text()?;
        Ok(KernelEntry(self.found.borrow_mut().load(module.name, name, &text)? as u64))
    }

    unsafe fn launch(&self, entry: KernelEntry, config: LaunchConfig, params: &[u8]) -> Result<()> {
        let found = &mut *self.found.borrow_mut();
        let kernel = &mut found.kernels[entry.0 as usize];
        kernel.launches += 1;
        let gpu = &mut *self.gpu.borrow_mut();
        let before = gpu.fork(gpu.options().clone());
        let name = kernel.entry.clone();
        let launch = Launch { entry: &name, config, params };
        let steps = launch.run(gpu, &kernel.module).map_err(refused)?;
        self.sabotage(kernel, &before, gpu, steps, &launch);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn encode_tensor_map(&self, map: &TensorMap) -> Result<[u8; 128]> {
        let map = asynchronous::TensorMap {
            base: map.base.0,
            element_bytes: map.dtype.bytes() as u32,
            extents: map.extents.clone(),
            strides_bytes: map.strides_bytes.clone(),
            box_extents: map.box_extents.clone(),
            element_strides: vec![1; map.extents.len()],
            swizzle_bytes: map.swizzle_bytes,
        };
        asynchronous::encode_tensor_map(&map).map_err(refused)
    }

    fn memory(&self) -> Memory {
        let used_bytes = self.gpu.borrow().held_bytes();
        Memory { used_bytes, peak_bytes: used_bytes, held_bytes: used_bytes, total_bytes: 8 << 30 }
    }
}
