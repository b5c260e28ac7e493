//! The one emulated GPU of the process, and everything that programs hold of it.

use std::{
    collections::HashMap,
    env,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ptx_emulator::{Gpu, Options};

use crate::{
    abi::{Status, Table},
    device::Capability,
    driver::link::Link,
    graph::{Graph, Node},
    memory::HostMemory,
    module::{Function, Loaded, Registry},
    report::Tally,
    runtime::array::Array,
    work::{Event, Stream},
};

pub(crate) struct State {
    pub gpu: Gpu,
    pub capability: Capability,
    pub total_bytes: u64,
    pub modules: Table<Loaded>,
    pub links: Table<Link>,
    pub arrays: Table<Array>,
    pub functions: Table<Function>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub graphs: Table<Graph>,
    /// Graphs made ready to run.
    pub executables: Table<Arc<Vec<Node>>>,
    /// The graph that is being recorded, by the stream that began.
    pub recordings: HashMap<usize, Graph>,
    pub host: HashMap<usize, HostMemory>,
    /// What the program registered before `main`, for the runtime.
    pub registry: Registry,
    /// The error that every call gives since a kernel failed.
    pub failed: Option<Status>,
    pub tally: Tally,
    pub begun: Instant,
    /// Notes of the GPU that have been reported.
    pub notes_told: usize,
}

pub(crate) fn state() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::new()));
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of an environment variable, where it is one.
fn set<T>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = env::var(name).ok()?;
    let value = parse(&text);
    if value.is_none() {
        crate::report::say(&format!("{name}={text} is not understood and left out of account"));
    }
    value
}

/// Cores of this machine. How many there are changes no report.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl State {
    fn new() -> Self {
        let total_bytes = set("EMULATED_MEMORY_MIB", |mib| mib.parse().ok()).unwrap_or(4096u64) << 20;
        let capability = set("EMULATED_CAPABILITY", Capability::parse).unwrap_or(Capability { major: 8, minor: 0 });
        let yes = |name: &str| env::var_os(name).is_some_and(|value| value == "1");
        let options = Options {
            seed: set("EMULATED_SEED", |seed| seed.parse().ok()).unwrap_or(0),
            memory_bytes: total_bytes,
            max_shared_bytes: capability.shared_per_block(),
            host_mapped: true,
            perturb_approx: yes("EMULATED_PERTURB_APPROX"),
            weak_memory: yes("EMULATED_WEAK_MEMORY"),
            threads: set("EMULATED_THREADS", |threads| threads.parse().ok()).unwrap_or_else(cores),
            ..Options::default()
        };
        Self {
            gpu: Gpu::new(options),
            capability,
            total_bytes,
            modules: Table::default(),
            links: Table::default(),
            arrays: Table::default(),
            functions: Table::default(),
            streams: Table::default(),
            events: Table::default(),
            graphs: Table::default(),
            executables: Table::default(),
            recordings: HashMap::new(),
            host: HashMap::new(),
            registry: Registry::default(),
            failed: None,
            tally: Tally::open(),
            begun: Instant::now(),
            notes_told: 0,
        }
    }
}
