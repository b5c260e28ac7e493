//! `ptx-run`: runs a kernel of a PTX file with every check on, and says what it did.

use std::{collections::BTreeSet, fmt, io::Write as _, path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use ptx_emulator::{Checks, Counters, Fault, Gpu, MemoryError, Module, Options};

#[derive(Parser)]
#[command(
    about = "Run a PTX kernel on the processor, with memory, initialisation, race and barrier checks",
    after_help = "Arguments of the kernel, in its order:
  f32=1.5  i32=-3  u64=7  f64=0.5     a number (also u8 i8 u16 i16 u32 i64 f16 bf16)
  f32:1024=ramp                       a buffer of 1024 elements: 0, 1, 2, ...
  f32:1024=random                     uniform in [-1, 1), integers of any bits
  f32:1024=2.5                        all equal
  f32:1024=none                       not initialised: the kernel must write before it reads
  u8:4096=@FILE                       the first bytes of a file
  struct(f32:8=ramp,u64=8,f32=2)      a struct by value, its fields aligned as C++ aligns them
  bytes=00ff1a                        raw bytes

Examples:
  ptx-run saxpy.ptx                                            what the file holds
  ptx-run saxpy.ptx saxpy --grid 4 --block 256 f32=2 f32:1000=ramp f32:1000=ramp i32=1000
  ptx-run kernels/ptx/unary.ptx unary_exp_f32 --block 256 --print 8 'struct(f32:999=ramp,f32:999=none,u64=999,f32=0,f32=0)'
  ptx-run scan.ptx scan --grid 8 --block 128 --seeds 5 --print 16 u32:1024=1 u32:1024=none

What the kernel prints is printed; what is no error but worth knowing is a note on standard error.

Exit status: 0 clean, 1 a report, 2 a wrong command line or a file that cannot be loaded."
)]
struct Args {
    /// The PTX text.
    file: PathBuf,
    /// The kernel; without one, the kernels of the file are listed.
    entry: Option<String>,
    /// Blocks: x, x,y or x,y,z.
    #[arg(long, default_value = "1", value_parser = extents)]
    grid: [u32; 3],
    /// Threads of a block: x, x,y or x,y,z.
    #[arg(long, default_value = "1", value_parser = extents)]
    block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// Runs under this many schedules, seeds 0, 1, 2, ...; the results must agree to the bit.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Elements printed of every buffer afterwards.
    #[arg(long, default_value_t = 0)]
    print: usize,
    /// Launches again so many times and prints the median of the thread instructions checked in a second of processor time.
    #[arg(long, default_value_t = 0)]
    times: usize,
    /// Checks bounds, alignment and lifetime alone.
    #[arg(long)]
    no_checks: bool,
    /// Arguments of the kernel; see below.
    #[arg(allow_hyphen_values = true)]
    arguments: Vec<Argument>,
}

fn extents(text: &str) -> Result<[u32; 3], String> {
    let mut extents = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("one to three numbers, separated by commas".into());
    }
    for (extent, part) in extents.iter_mut().zip(parts) {
        *extent = part.parse().map_err(|_| format!("{part} is not a number"))?;
    }
    Ok(extents)
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    const ALL: [(&'static str, Type); 12] = [
        ("u8", Type::U8),
        ("i8", Type::I8),
        ("u16", Type::U16),
        ("i16", Type::I16),
        ("u32", Type::U32),
        ("i32", Type::I32),
        ("u64", Type::U64),
        ("i64", Type::I64),
        ("f16", Type::F16),
        ("bf16", Type::Bf16),
        ("f32", Type::F32),
        ("f64", Type::F64),
    ];

    fn parse(text: &str) -> Result<Type, String> {
        let found = Type::ALL.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, t)| *t)
            .ok_or_else(|| format!("{text} is no type; u8 i8 u16 i16 u32 i32 u64 i64 f16 bf16 f32 f64"))
    }

    fn bytes(self) -> usize {
        match self {
            Type::U8 | Type::I8 => 1,
            Type::U16 | Type::I16 | Type::F16 | Type::Bf16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 => 8,
        }
    }

    fn encode(self, text: &str) -> Result<Vec<u8>, String> {
        let float = || text.parse::<f64>().map_err(|_| format!("{text} is not a number"));
        Ok(match self {
            Type::F64 => float()?.to_le_bytes().to_vec(),
            Type::F32 => (float()? as f32).to_le_bytes().to_vec(),
            Type::F16 => half::f16::from_f64(float()?).to_le_bytes().to_vec(),
            Type::Bf16 => half::bf16::from_f64(float()?).to_le_bytes().to_vec(),
            _ => {
                let value: i128 = text.parse().map_err(|_| format!("{text} is not a whole number"))?;
                let bits = 8 * self.bytes() as u32;
                if !(-(1i128 << (bits - 1))..1i128 << bits).contains(&value) {
                    return Err(format!("{text} needs more than {bits} bits"));
                }
                value.to_le_bytes()[..self.bytes()].to_vec()
            }
        })
    }

    /// A number in [-1, 1), or the bits themselves for integers.
    fn random(self, bits: u64) -> Vec<u8> {
        let unit = (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        match self {
            Type::F16 | Type::Bf16 | Type::F32 | Type::F64 => self.encode(&unit.to_string()).unwrap_or_default(),
            _ => bits.to_le_bytes()[..self.bytes()].to_vec(),
        }
    }

    fn show(self, bytes: &[u8]) -> String {
        let mut raw = [0; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(raw);
        match self {
            Type::F64 => f64::from_bits(bits).to_string(),
            Type::F32 => f32::from_bits(bits as u32).to_string(),
            Type::F16 => half::f16::from_bits(bits as u16).to_string(),
            Type::Bf16 => half::bf16::from_bits(bits as u16).to_string(),
            Type::I8 => (bits as i8).to_string(),
            Type::I16 => (bits as i16).to_string(),
            Type::I32 => (bits as i32).to_string(),
            Type::I64 => (bits as i64).to_string(),
            _ => bits.to_string(),
        }
    }
}

#[derive(Clone)]
enum Argument {
    Value(Vec<u8>),
    Struct(Vec<Argument>),
    Buffer { of: Type, count: usize, fill: Fill },
}

#[derive(Clone)]
enum Fill {
    Not,
    Ramp,
    Random,
    Value(String),
    File(PathBuf),
}

impl std::str::FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Argument, String> {
        if let Some(fields) = text.strip_prefix("struct(").and_then(|rest| rest.strip_suffix(')')) {
            return fields.split(',').map(str::parse).collect::<Result<_, _>>().map(Argument::Struct);
        }
        let (head, value) =
            text.split_once('=').ok_or_else(|| format!("{text}: TYPE=VALUE or TYPE:COUNT=CONTENT wanted"))?;
        if head == "bytes" {
            let digits: Vec<u8> = value.bytes().collect();
            let pair = |pair: &[u8]| {
                let text = std::str::from_utf8(pair).ok().filter(|t| t.len() == 2)?;
                u8::from_str_radix(text, 16).ok()
            };
            let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
            return Ok(Argument::Value(bytes.ok_or_else(|| format!("{value}: pairs of hexadecimal digits wanted"))?));
        }
        let Some((of, count)) = head.split_once(':') else {
            return Ok(Argument::Value(Type::parse(head)?.encode(value)?));
        };
        let of = Type::parse(of)?;
        let count: usize = count.parse().map_err(|_| format!("{count} is not a number of elements"))?;
        let fill = match value {
            "none" => Fill::Not,
            "ramp" => Fill::Ramp,
            "random" => Fill::Random,
            _ => match value.strip_prefix('@') {
                Some(path) => Fill::File(path.into()),
                None => {
                    of.encode(value)?;
                    Fill::Value(value.to_string())
                }
            },
        };
        Ok(Argument::Buffer { of, count, fill })
    }
}

/// What ends the program: an exit status and a sentence.
struct Failure(u8, String);

fn wrong(message: impl fmt::Display) -> Failure {
    Failure(2, message.to_string())
}

impl From<MemoryError> for Failure {
    fn from(error: MemoryError) -> Failure {
        wrong(error)
    }
}

/// A buffer's content before the launch; none where it is not initialised.
fn content(of: Type, count: usize, fill: &Fill, place: usize) -> Result<Option<Vec<u8>>, Failure> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(place as u64 + 1);
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    Ok(Some(match fill {
        Fill::Not => return Ok(None),
        Fill::Value(value) => of.encode(value).map_err(wrong)?.repeat(count),
        Fill::Random => (0..count).flat_map(|_| of.random(random())).collect(),
        Fill::Ramp => {
            // Wraps where the type ends.
            let limit = if of.bytes() == 1 { 128 } else { 1 << (8 * of.bytes() as u64 - 1).min(52) };
            let each = (0..count as u64).map(|i| of.encode(&(i % limit).to_string()));
            each.collect::<Result<Vec<_>, _>>().map_err(wrong)?.concat()
        }
        Fill::File(path) => {
            let mut bytes = std::fs::read(path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
            let wanted = count * of.bytes();
            if bytes.len() < wanted {
                let held = bytes.len();
                return Err(wrong(format!("{}: {held} bytes, the buffer takes {wanted}", path.display())));
            }
            bytes.truncate(wanted);
            bytes
        }
    }))
}

/// A buffer in device memory and what it stands for.
struct Buffer {
    label: String,
    of: Type,
    address: u64,
    bytes: usize,
}

/// The parameter bytes of an argument; its buffers are allocated and filled.
fn encode(argument: &Argument, place: usize, gpu: &mut Gpu, buffers: &mut Vec<Buffer>) -> Result<Vec<u8>, Failure> {
    Ok(match argument {
        Argument::Value(bytes) => bytes.clone(),
        Argument::Buffer { of, count, fill } => {
            let bytes = count * of.bytes();
            let label = format!("buffer {} (argument {place})", buffers.len());
            let address = gpu.alloc_named(bytes as u64, &label)?;
            if let Some(content) = content(*of, *count, fill, buffers.len())? {
                gpu.write(address, &content)?;
            }
            buffers.push(Buffer { label, of: *of, address, bytes });
            address.to_le_bytes().to_vec()
        }
        Argument::Struct(fields) => {
            let (mut all, mut widest) = (Vec::new(), 1);
            for field in fields {
                let bytes = encode(field, place, gpu, buffers)?;
                let align = bytes.len().next_power_of_two().min(8);
                all.resize(all.len().next_multiple_of(align), 0);
                all.extend(bytes);
                widest = widest.max(align);
            }
            all.resize(all.len().next_multiple_of(widest), 0);
            all
        }
    })
}

/// To standard output; that nobody reads on is no failure.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn list(module: &Module) -> String {
    let mut text = format!(".version {}, .target {}\n", module.version(), module.target());
    for entry in module.entries() {
        text.push_str(&format!("{}\n", entry.name));
        for param in &entry.params {
            text.push_str(&format!("    {} bytes at {}: {}\n", param.bytes, param.offset, param.name));
        }
        if let Some([x, y, z]) = entry.max_threads.or(entry.required_threads) {
            text.push_str(&format!("    at most {x} x {y} x {z} threads\n"));
        }
        let dynamic = if entry.dynamic_shared { " and what the launch gives" } else { "" };
        text.push_str(&format!("    {} bytes of shared memory{dynamic}\n", entry.shared_bytes));
    }
    text
}

fn run(args: &Args) -> Result<(), Failure> {
    let name = args.file.display();
    let text = std::fs::read_to_string(&args.file).map_err(|e| wrong(format!("{name}: {e}")))?;
    let module = Module::load(&text).map_err(|e| wrong(format!("{name}: {e}")))?;
    let Some(entry) = &args.entry else {
        say(&list(&module));
        return Ok(());
    };
    let Some(kernel) = module.entry(entry) else {
        return Err(wrong(format!("{name} holds no kernel {entry}")));
    };
    if kernel.params.len() != args.arguments.len() {
        let (wanted, got) = (kernel.params.len(), args.arguments.len());
        return Err(wrong(format!("{entry} takes {wanted} arguments, {got} are given")));
    }
    let mut first: Option<Vec<Vec<u8>>> = None;
    let mut noted = BTreeSet::new();
    for seed in 0..args.seeds.max(1) {
        let checks = if args.no_checks { Checks::NONE } else { Checks::ALL };
        let mut gpu = Gpu::new(Options { seed, checks, ..Options::default() });
        let mut params = vec![0; kernel.param_bytes as usize];
        let mut buffers: Vec<Buffer> = Vec::new();
        for (place, (param, argument)) in kernel.params.iter().zip(&args.arguments).enumerate() {
            let bytes = encode(argument, place, &mut gpu, &mut buffers)?;
            if bytes.len() != param.bytes as usize {
                let (wanted, got) = (param.bytes, bytes.len());
                return Err(wrong(format!("argument {place} has {got} bytes, {} takes {wanted}", param.name)));
            }
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let launched = gpu.launch(&module, entry, args.grid, args.block, args.shared, &params);
        // Once: every seed prints the same, perhaps in another order.
        if seed == 0 {
            say(&gpu.take_printed());
        }
        for note in gpu.notes().iter().filter(|note| noted.insert(note.ptx_line)) {
            eprintln!("ptx-run: note: seed {seed}: {note}");
        }
        let counters = launched.map_err(|fault| Failure(1, format!("seed {seed}: {fault}")))?;
        if args.times > 0 {
            return time(args, entry, || gpu.launch(&module, entry, args.grid, args.block, args.shared, &params));
        }
        let mut after = Vec::new();
        for buffer in &buffers {
            let mut content = vec![0; buffer.bytes];
            gpu.read(buffer.address, &mut content)?;
            after.push(content);
        }
        match &first {
            None => {
                let mut text = counters.to_string();
                for (Buffer { label, of, .. }, content) in buffers.iter().zip(&after).filter(|_| args.print > 0) {
                    let shown: Vec<String> =
                        content.chunks(of.bytes()).take(args.print).map(|element| of.show(element)).collect();
                    text.push_str(&format!("{label}: {}\n", shown.join(" ")));
                }
                say(&text);
                first = Some(after);
            }
            Some(first) => {
                if let Some(i) = first.iter().zip(&after).position(|(a, b)| a != b) {
                    let label = &buffers[i].label;
                    return Err(Failure(1, format!("seed {seed}: {label} holds other bytes than under seed 0")));
                }
            }
        }
    }
    Ok(())
}

/// Seconds this thread has computed, others' use of the machine left out; wall time where the system does not say.
fn processor_seconds(begin: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.map_or_else(|| begin.elapsed().as_secs_f64(), |n| n / 1e9)
}

/// A measurement lasts at least this long.
const LEAST_SECONDS: f64 = 0.1;

/// Prints thread instructions, median milliseconds and their quotient.
fn time(args: &Args, entry: &str, mut launch: impl FnMut() -> Result<Counters, Fault>) -> Result<(), Failure> {
    let begin = Instant::now();
    let (mut all, mut instructions) = (Vec::new(), 0);
    for _ in 0..args.times {
        // The system counts in ticks of some milliseconds.
        let (start, mut launches, mut spent) = (processor_seconds(begin), 0, 0.0);
        while spent < LEAST_SECONDS {
            instructions = launch().map_err(|fault| Failure(1, fault.to_string()))?.thread_instructions;
            launches += 1;
            spent = processor_seconds(begin) - start;
        }
        all.push(spent / f64::from(launches));
    }
    all.sort_by(f64::total_cmp);
    let (median, millions) = (all[all.len() / 2], instructions as f64 / 1e6);
    say(&format!("{entry:32} {millions:9.2} M in {:9.2} ms {:7.0} M/s\n", 1e3 * median, millions / median));
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(status, message)) => {
            eprintln!("ptx-run: {message}");
            ExitCode::from(status)
        }
    }
}
