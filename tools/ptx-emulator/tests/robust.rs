//! No text and no kernel makes the emulator panic: kernels of the other tests with tokens lost, doubled, swapped and changed.
//! Most of the texts are refused; those that load are run, into faults or to their end.

use ptx_emulator::{Gpu, Module, Options};

const TEXTS: [&str; 5] = [
    include_str!("kernels/elementwise.ptx"),
    include_str!("kernels/reductions.ptx"),
    include_str!("kernels/scans.ptx"),
    include_str!("kernels/matrices.ptx"),
    include_str!("kernels/hopper.ptx"),
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// The text in pieces: words, numbers, single characters.
fn pieces(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut word = false;
    for c in text.chars() {
        let inside = c.is_alphanumeric() || matches!(c, '_' | '%' | '$');
        match found.last_mut() {
            Some(last) if inside && word => last.push(c),
            _ => found.push(c.to_string()),
        }
        word = inside;
    }
    found
}

fn changed(parts: &[String], random: &mut Random) -> String {
    let mut parts = parts.to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(parts.len());
        match random.below(6) {
            0 => parts[at].clear(),
            1 => parts[at] = parts[random.below(parts.len())].clone(),
            2 => {
                let other = random.below(parts.len());
                parts.swap(at, other);
            }
            3 => {
                let numbers = ["-1", "0", "4294967295", "18446744073709551615", "0x7fffffffffffffff", "65", "3"];
                parts[at] = numbers[random.below(numbers.len())].into();
            }
            4 => {
                let piece = parts[at].clone();
                parts.insert(at, piece);
            }
            _ => {
                let types = ["u8", "s16", "f64", "b64", "pred", "bf16x2", "v4", "global", "shared", "v16", "volatile"];
                parts[at] = types[random.below(types.len())].into();
            }
        }
    }
    parts.concat()
}

#[test]
fn mangled_texts_are_refused_or_run() {
    let mut random = Random(1);
    let (mut loaded, mut launched) = (0, 0);
    for text in TEXTS {
        let parts = pieces(text);
        for _ in 0..60 {
            let Ok(module) = Module::load(&changed(&parts, &mut random)) else { continue };
            loaded += 1;
            let options = Options { max_warp_instructions: 3000, memory_bytes: 1 << 26, ..Options::default() };
            let mut gpu = Gpu::new(options);
            let buffer = gpu.alloc(1 << 16).expect("memory");
            for entry in module.entries() {
                let mut params = vec![0u8; entry.param_bytes as usize];
                params.chunks_exact_mut(8).for_each(|p| p.copy_from_slice(&buffer.to_le_bytes()));
                let dynamic = if entry.dynamic_shared { 1024 } else { 0 };
                for block in [[32, 1, 1], [40, 2, 1]] {
                    launched += 1;
                    let _ = gpu.launch(&module, &entry.name, [2, 1, 1], block, dynamic, &params);
                }
            }
        }
    }
    assert!(loaded > 30 && launched > 100, "{loaded} loaded, {launched} launched");
}

#[test]
fn ends_and_edges_of_texts_are_refused() {
    for text in TEXTS {
        for cut in (0..text.len()).step_by(text.len() / 40 + 1).filter(|cut| text.is_char_boundary(*cut)) {
            let _ = Module::load(&text[..cut]);
        }
    }
    for text in [
        "",
        "\u{0}",
        "é",
        ".version",
        ".version 8.0 .target sm_80 .entry",
        "{{{{",
        "\"",
        "/*",
        ".version 8.0\n.target sm_80\n",
    ] {
        let _ = Module::load(text);
    }
}
