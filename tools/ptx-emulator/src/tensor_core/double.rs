//! `mma.sync` of f64: 8 or 16 rows by 8 columns, 4 to 16 deep.
//!
//! With g = lane / 4 and t = lane % 4: register i of A is (g, t + 4i) in eight rows; in sixteen, rows alternate between
//! g and g + 8 and k is t + 4 (i / 2). Register i of B is (t + 4i, g); of C and D (g + 8 (i / 2), 2t + i % 2). Sums are
//! fused, k ascending.

use crate::{
    ast::Instruction,
    decode::{Decoded, Decoder},
    machine::{Block, Class, FULL, Ins, Step, Warp},
    report::FaultKind,
};

/// Rows and depth by the shape's name.
fn shape(name: &str) -> Option<(usize, usize)> {
    Some(match name {
        "m8n8k4" => (8, 4),
        "m16n8k4" => (16, 4),
        "m16n8k8" => (16, 8),
        "m16n8k16" => (16, 16),
        _ => return None,
    })
}

/// Registers of D, A, B and C, in this order.
fn counts(rows: usize, k: usize) -> [usize; 4] {
    let c = rows / 4;
    [c, rows / 8 * k / 4, k / 4, c]
}

/// `more`: the slots of D, A, B and C; `immediate`: rows and depth
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let ["mma", "sync", "aligned", name, "row", "col", ref rounding @ .., "f64", "f64", "f64", "f64"] = i.parts[..]
    else {
        return Ok(None);
    };
    let Some((rows, k)) = shape(name).filter(|_| matches!(rounding, [] | ["rn"])) else { return Ok(None) };
    let mut slots = Vec::new();
    for (index, count) in counts(rows, k).into_iter().enumerate() {
        let elements = d.elements(i, index)?;
        if elements.len() != count {
            return Err(d.refuse(i, format!("operand {} needs {count} registers", index + 1)));
        }
        for element in &elements {
            slots.push(if index == 0 { d.destination64(i, element)? } else { d.source64(i, element)? });
        }
    }
    let mut ins = d.blank(multiply, Class::Matrix);
    ins.more = slots.into();
    ins.immediate = (rows << 8 | k) as i64;
    ins.macs = (rows * 8 * k) as u32;
    Ok(Some(ins))
}

unsafe fn multiply(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    if mask != FULL {
        let missing = (!mask).trailing_zeros();
        let message = "a matrix instruction without all 32 lanes of its warp";
        return Err(block.fault(warp, missing, FaultKind::Divergence, message));
    }
    let (rows, k) = ((ins.immediate >> 8) as usize, (ins.immediate & 0xff) as usize);
    let [d, a, b, c] = counts(rows, k);
    let (to, rest) = ins.more.split_at(d);
    let (left, rest) = rest.split_at(a);
    let (right, sums) = rest.split_at(b);
    let halves = rows / 8;
    let mut results = [[0u64; 32]; 4];
    for (n, result) in results.iter_mut().enumerate().take(c) {
        for (lane, result) in result.iter_mut().enumerate() {
            let (g, column, half) = (lane / 4, lane % 4 * 2 + n % 2, n / 2);
            let mut sum = f64::from_bits(warp.get64(sums[n])[lane]);
            for depth in 0..k {
                let (step, t) = (depth / 4, depth % 4);
                let left = f64::from_bits(warp.get64(left[step * halves + half])[4 * g + t]);
                let right = f64::from_bits(warp.get64(right[step])[4 * column + t]);
                sum = left.mul_add(right, sum);
            }
            *result = sum.to_bits();
        }
    }
    for (slot, result) in to.iter().zip(&results) {
        warp.r64[*slot as usize] = *result;
    }
    Ok(())
}
