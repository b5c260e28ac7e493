//! The time of a kernel from what it asks of a machine: the largest of what each unit needs, with what nothing overlaps added.
//!
//! SMs are busy as long as the one with most blocks. Where few warps share an SM, or where warpgroups multiply, instructions
//! outside of the products wait for them. Each launch costs the gap between kernels, and each round of blocks that has an SM
//! to itself one load before it can begin and one before it can end.

use std::collections::BTreeMap;

use anyhow::Result;

use super::machine::Machine;
use crate::code::Element;

/// What a kernel asks for, over all its launches.
#[derive(Clone, Default, Debug)]
pub struct Demand {
    pub launches: f64,
    /// Of one launch.
    pub blocks: f64,
    pub warps_per_block: f64,
    /// Of a thread.
    pub registers: f64,
    /// Of a block.
    pub shared_bytes: f64,
    /// Pieces of work that persistent blocks share, of one launch.
    pub tiles: Option<f64>,
    /// Warp instructions.
    pub issues: f64,
    /// Of these, outside of the hottest loop.
    pub issues_outside: f64,
    pub macs: f64,
    /// What is multiplied on tensor cores, and whether by warpgroups.
    pub matrix: Option<(Element, bool)>,
    /// Approximate functions of threads.
    pub special: f64,
    pub shared_wavefronts: f64,
    /// Through the first level, hits included.
    pub l1_bytes: f64,
    pub l2_bytes: f64,
    pub dram_bytes: f64,
}

/// Seconds, and what they are spent on.
#[derive(Clone, Debug)]
pub struct Prediction {
    pub seconds: f64,
    pub bound: &'static str,
    /// What each unit alone would need.
    pub units: BTreeMap<&'static str, f64>,
}

/// Warps of an SM below which products and other instructions hardly overlap.
const FEW_WARPS: f64 = 12.0;
/// Shared memory that a block takes beside its own.
const RESERVED_SHARED_BYTES: f64 = 1024.0;
/// Registers are given to warps in pieces of so many a thread.
const REGISTER_STEP: f64 = 8.0;

/// Blocks that an SM holds at a time.
fn resident(demand: &Demand, machine: &Machine) -> f64 {
    let registers = (demand.registers / REGISTER_STEP).ceil() * REGISTER_STEP * 32.0 * demand.warps_per_block;
    let by_registers = machine.registers.value / registers.max(1.0);
    let by_shared = machine.shared_bytes.value / (demand.shared_bytes + RESERVED_SHARED_BYTES);
    let by_warps = machine.warps.value / demand.warps_per_block.max(1.0);
    by_registers.min(by_shared).min(by_warps).min(machine.blocks.value).floor().max(1.0)
}

pub fn predict(demand: &Demand, machine: &Machine) -> Result<Prediction> {
    let (blocks, sms) = (demand.blocks.max(1.0), machine.sms.value);
    let held = resident(demand, machine).min((blocks / sms).ceil());
    let warps = held * demand.warps_per_block;
    let warpgroups = demand.matrix.is_some_and(|(_, warpgroup)| warpgroup);
    // How much more the busiest SM has to do than the mean of all; then the busiest block.
    let mut uneven = (blocks / sms).ceil() * sms / blocks;
    if let Some(tiles) = demand.tiles {
        uneven *= (tiles / blocks).ceil() * blocks / tiles;
    }
    let clock = 1e9 * if warpgroups { machine.tensor_clock_ghz.value } else { machine.clock_ghz.value };
    let on_sms = |amount: f64, a_clk: f64| amount * uneven / (sms * a_clk * clock);

    let issue = on_sms(demand.issues, machine.issue_per_clk.value);
    let mut units = BTreeMap::from([
        ("issue", issue),
        ("special", on_sms(demand.special, machine.special_per_clk.value)),
        ("shared", on_sms(demand.shared_wavefronts, machine.shared_wavefronts_per_clk.value)),
        ("L1", on_sms(demand.l1_bytes, machine.l1_bytes_per_clk.value)),
        ("DRAM", demand.dram_bytes / (1e12 * machine.dram_tb_s.value)),
    ]);
    let one_by_one = demand.l2_bytes / (blocks.min(sms) * machine.l2_bytes_per_clk_sm.value * clock);
    let l2 = if demand.matrix.is_some() { &machine.l2_shared_tb_s } else { &machine.l2_tb_s };
    units.insert("L2", one_by_one.max(demand.l2_bytes / (1e12 * l2.value)));
    if let Some((element, warpgroup)) = demand.matrix.filter(|_| demand.macs > 0.0) {
        let products = on_sms(demand.macs, machine.macs_per_clk(element, warpgroup)?);
        let outside = on_sms(demand.issues_outside, machine.issue_per_clk.value);
        let (name, seconds) = match warpgroup {
            true => ("tensor", products + outside),
            false if warps <= FEW_WARPS => (if issue > products { "issue" } else { "tensor" }, products + issue),
            false => ("tensor", products),
        };
        units.insert(name, seconds);
    }
    let rounds = if held < 2.0 { (blocks / sms).ceil() } else { 1.0 };
    let exposed = 2.0 * machine.load_latency_clk.value / clock * rounds * demand.launches;
    let launch = 1e-6 * machine.launch_us.value * demand.launches + exposed;
    units.insert("launch", launch);
    let busiest = units.iter().filter(|(name, _)| **name != "launch").map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let bound = units.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or("launch", |(name, _)| *name);
    Ok(Prediction { seconds: launch + busiest, bound, units })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::machine;

    fn streaming() -> Demand {
        Demand { launches: 1.0, blocks: 13200.0, warps_per_block: 8.0, registers: 32.0, ..Demand::default() }
    }

    #[test]
    fn the_slowest_unit_decides() -> Result<()> {
        let h100 = machine::of_the_repository("H100");
        let memory = predict(&Demand { dram_bytes: 3e9, l2_bytes: 3e9, issues: 1e7, ..streaming() }, &h100)?;
        assert_eq!(memory.bound, "DRAM");
        assert!((memory.seconds - 1e-3).abs() < 5e-6, "{memory:?}");
        let issue = predict(&Demand { dram_bytes: 3e9, issues: 4.0 * 132.0 * 1.755e9 * 2e-3, ..streaming() }, &h100)?;
        assert_eq!(issue.bound, "issue");
        assert!((issue.units["issue"] - 2e-3).abs() < 1e-8);
        assert_eq!(predict(&streaming(), &h100)?.bound, "launch");
        Ok(())
    }

    #[test]
    fn sms_wait_for_the_one_with_most_blocks() -> Result<()> {
        let h100 = machine::of_the_repository("H100");
        let issue = |blocks| {
            let demand = Demand { blocks, issues: 1e9, registers: 255.0, ..streaming() };
            predict(&demand, &h100).map(|prediction| prediction.units["issue"])
        };
        assert!((issue(133.0)? / issue(132.0)? - 2.0 * 132.0 / 133.0).abs() < 1e-9);
        assert!(issue(66.0)? > 1.99 * issue(132.0)?, "half of the machine");
        Ok(())
    }

    #[test]
    fn products_hide_other_instructions_only_behind_other_warps() -> Result<()> {
        let h100 = machine::of_the_repository("H100");
        let product = |matrix, registers, tiles| {
            let demand = Demand {
                blocks: 132.0 * 4.0,
                warps_per_block: 4.0,
                registers,
                matrix: Some(matrix),
                macs: 1e12,
                issues: 1e8,
                issues_outside: 1e8,
                tiles,
                ..streaming()
            };
            predict(&demand, &h100).map(|prediction| prediction.units["tensor"])
        };
        let warps = (Element::Half, false);
        assert!(product(warps, 255.0, None)? > product(warps, 64.0, None)?);
        assert!(product((Element::Half, true), 64.0, None)? < product(warps, 64.0, None)?, "warpgroups are faster");
        assert!(
            product(warps, 64.0, Some(529.0))? > 1.9 * product(warps, 64.0, Some(528.0))?,
            "a tile more, a round more"
        );
        assert!(product((Element::F64, false), 64.0, None).is_err());
        Ok(())
    }
}
