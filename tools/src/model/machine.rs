//! `tools/machines.toml`: what GPUs can do, each number with where it is from.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::code::Element;

pub const FILE: &str = "tools/machines.toml";

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Number {
    pub value: f64,
    source: String,
}

macro_rules! machine {
    ($($(#[doc = $doc:literal])* $field:ident,)*) => {
        /// One GPU.
        #[derive(Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Machine {
            /// What the driver's name of it contains.
            pub name: String,
            /// Compute capability: whose kernels run, and whose counts count.
            pub capability: String,
            $($(#[doc = $doc])* pub $field: Number,)*
            /// Multiply-adds a clock and SM by warpgroups, where they multiply.
            pub wgmma_half_macs_per_clk: Option<Number>,
            pub wgmma_tf32_macs_per_clk: Option<Number>,
        }

        impl Machine {
            /// Names and numbers.
            fn numbers(&self) -> Vec<(&'static str, &Number)> {
                let always = [$((stringify!($field), &self.$field)),*];
                let some = [
                    ("wgmma_half_macs_per_clk", &self.wgmma_half_macs_per_clk),
                    ("wgmma_tf32_macs_per_clk", &self.wgmma_tf32_macs_per_clk),
                ];
                let some = some.into_iter().filter_map(|(name, number)| Some((name, number.as_ref()?)));
                always.into_iter().chain(some).collect()
            }
        }
    };
}

machine! {
    /// Of the data sheet, dense; outside the tensor cores.
    f32_tflop_s,
    tf32_tflop_s,
    /// f16 and bf16.
    half_tflop_s,
    memory_tb_s,
    sms,
    clock_ghz,
    /// While tensor cores are busy all the time, by warpgroups.
    tensor_clock_ghz,
    /// Warp instructions a clock and SM.
    issue_per_clk,
    /// Multiply-adds a clock and SM, by warps.
    mma_half_macs_per_clk,
    mma_tf32_macs_per_clk,
    /// Approximate functions, a clock and SM.
    special_per_clk,
    shared_wavefronts_per_clk,
    l1_bytes_per_clk,
    /// Most that one SM takes from the second level.
    l2_bytes_per_clk_sm,
    l2_tb_s,
    /// The same for operands of products, which neighbouring SMs ask for together.
    l2_shared_tb_s,
    /// Reached, not promised.
    dram_tb_s,
    load_latency_clk,
    /// From the end of a kernel to the start of the next in a graph.
    launch_us,
    /// Of an SM.
    registers,
    shared_bytes,
    warps,
    blocks,
}

impl Machine {
    /// Dense TFLOP/s of a type of the benches.
    pub fn peak_tflop_s(&self, dtype: &str) -> f64 {
        match dtype {
            "bf16" | "f16" => self.half_tflop_s.value,
            "tf32" => self.tf32_tflop_s.value,
            _ => self.f32_tflop_s.value,
        }
    }

    /// The share of the machine's arithmetic or of its memory, whichever is nearer its limit.
    pub fn share(&self, dtype: &str, tflop_s: f64, gb_s: f64) -> f64 {
        (tflop_s / self.peak_tflop_s(dtype)).max(gb_s / (1000.0 * self.memory_tb_s.value))
    }

    /// Multiply-adds a clock and SM.
    pub fn macs_per_clk(&self, element: Element, warpgroup: bool) -> Result<f64> {
        let rate = match (element, warpgroup) {
            (Element::Half, false) => Some(&self.mma_half_macs_per_clk),
            (Element::Tf32, false) => Some(&self.mma_tf32_macs_per_clk),
            (Element::Half, true) => self.wgmma_half_macs_per_clk.as_ref(),
            (Element::Tf32, true) => self.wgmma_tf32_macs_per_clk.as_ref(),
            (Element::Eight | Element::F64, _) => None,
        };
        let rate =
            rate.with_context(|| format!("{FILE}: {} has no rate for {element:?}, as a kernel needs it", self.name))?;
        Ok(rate.value)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    machine: Vec<Machine>,
}

/// Every machine of the file.
pub fn read(root: &Path) -> Result<Vec<Machine>> {
    let path = root.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let File { machine: machines } = toml::from_str(&text).with_context(|| path.display().to_string())?;
    for machine in &machines {
        for (name, number) in machine.numbers() {
            ensure!(number.value > 0.0, "{FILE}: {}: {name} is not above 0", machine.name);
            ensure!(!number.source.trim().is_empty(), "{FILE}: {}: {name} has no source", machine.name);
        }
    }
    Ok(machines)
}

#[cfg(test)]
pub fn of_the_repository(name: &str) -> Machine {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder above");
    let machines = read(root).expect("readable");
    machines.into_iter().find(|machine| machine.name == name).expect("in the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_sheets_agree_with_rates() {
        for name in ["A100", "H100", "H200"] {
            let machine = of_the_repository(name);
            let rate = machine.wgmma_half_macs_per_clk.as_ref().unwrap_or(&machine.mma_half_macs_per_clk).value;
            let at_most = 2.0 * rate * machine.sms.value * 1.83e-3;
            assert!(at_most >= machine.half_tflop_s.value * 0.999, "{name}: {at_most}");
        }
        assert!(of_the_repository("A100").macs_per_clk(Element::Half, true).is_err());
        assert_eq!(of_the_repository("H200").share("bf16", 98.94, 2400.0), 0.5);
    }
}
