//! One small kernel for every instruction: each lane loads its operands, executes the line under test, stores the result,
//! and the result is held against Rust's own arithmetic.

mod control;
mod convert;
mod float;
mod integer;
mod memory;
mod warp;

use ptx_emulator::{Gpu, Module, Options};

/// What an operand or result is: decides register, load and store.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    B16,
    B32,
    B64,
    F32,
    F64,
}

impl Kind {
    /// Register prefix and the type for loads and stores.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::B16 => ("%h", "b16"),
            Kind::B32 => ("%r", "b32"),
            Kind::B64 => ("%d", "b64"),
            Kind::F32 => ("%f", "f32"),
            Kind::F64 => ("%g", "f64"),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Kind::B16 => 2,
            Kind::B32 | Kind::F32 => 4,
            Kind::B64 | Kind::F64 => 8,
        }
    }

    /// Values at the edges of the type, then arbitrary ones; different for every operand.
    fn values(self, operand: usize, count: usize) -> Vec<u64> {
        let mut state = 0x1234_5678_9ABC_DEF1_u64.wrapping_mul(operand as u64 * 2 + 1);
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_F491_4F6C_DD1D)
        };
        let edges: &[u64] = match self {
            Kind::B16 => &[0, 1, 0xFFFF, 0x7FFF, 0x8000, 2, 0xFF, 0x3C00],
            Kind::B32 => &[0, 1, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 31, 32, 0xFFFF],
            Kind::B64 => &[0, 1, u64::MAX, i64::MAX as u64, 1 << 63, 63, 64, 0xFFFF_FFFF],
            Kind::F32 => {
                &[0, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 1, 0x4B00_0001]
            }
            Kind::F64 => &[0, 1 << 63, 0x3FF0 << 48, 0xBFF0 << 48, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, 1],
        };
        let mask = if self.bytes() == 8 { u64::MAX } else { (1 << (8 * self.bytes())) - 1 };
        let value = |i: usize, random: u64| match (self, i) {
            // Rotated, so that edges meet edges of the other operands.
            (_, i) if i < edges.len() * edges.len() => match operand {
                0 => edges[i % edges.len()],
                1 => edges[i / edges.len() % edges.len()],
                _ => edges[(i % edges.len() + i / edges.len()) % edges.len()],
            },
            (Kind::F32, _) => u64::from((((random >> 40) as f32 / (1 << 23) as f32 - 1.0) * 37.0).to_bits()),
            (Kind::F64, _) => (((random >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * 37.0).to_bits(),
            _ => random & mask,
        };
        (0..count).map(|i| value(i, random())).collect()
    }
}

const COUNT: usize = 128;

/// A kernel of `COUNT` threads in one block; `a`, `b`, `c` are loaded into register 1, 2, 3 of their kinds, register 0 of
/// `y` is stored.
fn kernel(x: &[Kind], y: Kind, declarations: &str, body: &str) -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry t(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 y)\n{\n\
         .reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .b64 %d<32>; .reg .f32 %f<32>; .reg .f64 %g<16>;\n",
    );
    text.push_str(declarations);
    text.push_str("mov.u32 %r31, %tid.x;\n");
    for (i, kind) in x.iter().enumerate() {
        let (register, of) = kind.names();
        let name = ["a", "b", "c"][i];
        text.push_str(&format!(
            "ld.param.u64 %d30, [{name}];\nmul.wide.u32 %d29, %r31, {};\nadd.s64 %d30, %d30, %d29;\nld.global.{of} {register}{}, [%d30];\n",
            kind.bytes(),
            i + 1
        ));
    }
    text.push_str(body);
    let (register, of) = y.names();
    text.push_str(&format!(
        "\nld.param.u64 %d30, [y];\nmul.wide.u32 %d29, %r31, {};\nadd.s64 %d30, %d30, %d29;\nst.global.{of} [%d30], {register}0;\nret;\n}}\n",
        y.bytes()
    ));
    text
}

fn pack(values: &[u64], bytes: usize) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()[..bytes].to_vec()).collect()
}

fn unpack(bytes: &[u8], size: usize) -> Vec<u64> {
    let widen = |chunk: &[u8]| {
        let mut raw = [0; 8];
        raw[..size].copy_from_slice(chunk);
        u64::from_le_bytes(raw)
    };
    bytes.chunks(size).map(widen).collect()
}

/// Runs the kernel text on the values; what every lane stored.
fn execute(text: &str, x: &[(Kind, &[u64])], y: Kind, options: Options) -> Vec<u64> {
    let module = Module::load(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut gpu = Gpu::new(options);
    let mut params = Vec::new();
    for (kind, values) in x {
        let bytes = pack(values, kind.bytes());
        let address = gpu.alloc(bytes.len() as u64).expect("memory");
        gpu.write(address, &bytes).expect("own memory");
        params.extend(address.to_le_bytes());
    }
    params.resize(24, 0);
    let out = gpu.alloc((COUNT * y.bytes()) as u64).expect("memory");
    params.extend(out.to_le_bytes());
    gpu.launch(&module, "t", [1; 3], [COUNT as u32, 1, 1], 0, &params)
        .unwrap_or_else(|fault| panic!("{fault}\n{text}"));
    let mut bytes = vec![0; COUNT * y.bytes()];
    gpu.read(out, &mut bytes).expect("own memory");
    unpack(&bytes, y.bytes())
}

/// Lane by lane, `body` must store what `wanted` gives for the lane's operands; floats may both be NaN.
fn check(x: &[Kind], y: Kind, body: &str, wanted: impl Fn(&[u64]) -> u64) {
    check_lanes(x, y, "", body, |x, lane| wanted(&x[lane]));
}

/// As [`check`], with declarations, and `wanted` sees the operands of all lanes.
fn check_lanes(x: &[Kind], y: Kind, declarations: &str, body: &str, wanted: impl Fn(&[Vec<u64>], usize) -> u64) {
    let values: Vec<Vec<u64>> = x.iter().enumerate().map(|(i, kind)| kind.values(i, COUNT)).collect();
    let operands: Vec<(Kind, &[u64])> = x.iter().zip(&values).map(|(kind, v)| (*kind, v.as_slice())).collect();
    let ours = execute(&kernel(x, y, declarations, body), &operands, y, Options::default());
    let lanes: Vec<Vec<u64>> = (0..COUNT).map(|lane| values.iter().map(|v| v[lane]).collect()).collect();
    for (lane, &ours) in ours.iter().enumerate() {
        let wanted = wanted(&lanes, lane);
        let nan = match y {
            Kind::F32 => f32::from_bits(ours as u32).is_nan() && f32::from_bits(wanted as u32).is_nan(),
            Kind::F64 => f64::from_bits(ours).is_nan() && f64::from_bits(wanted).is_nan(),
            _ => false,
        };
        assert!(
            ours == wanted || nan,
            "{body}\nlane {lane}: operands {:x?} give {ours:#x}, wanted {wanted:#x}",
            lanes[lane]
        );
    }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn to_f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

/// Reads, sign-extended, what an i32 register holds.
fn s(bits: u64) -> i32 {
    bits as u32 as i32
}

fn w(value: i64) -> u64 {
    u64::from(value as u32)
}
