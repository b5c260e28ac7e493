//! `printf` in kernels: the format from memory, its arguments from the thread's own, the text into the launch's output.

use std::sync::PoisonError;

use crate::{
    machine::{Block, Ins, LANES, Step, Warp},
    memory::{Global, LOCAL_WINDOW, WINDOW_SHIFT},
    race::lanes,
    report::FaultKind,
};

/// A launch keeps so much of what it prints, as a device does.
const MOST_BYTES: usize = 1 << 20;
/// Longer formats are cut.
const MOST_FORMAT_BYTES: u64 = 4096;

/// slots: local offsets of the value returned, of the format's address and of the arguments' address
pub(crate) unsafe fn print(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    for lane in lanes(mask) {
        let [format, arguments] = [ins.slots[1], ins.slots[2]].map(|at| {
            let bytes = local(warp, lane, at.into(), 8);
            bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        });
        let Some(format) = text(block, format) else {
            let message = "a printf whose format is no text in global memory";
            return Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message));
        };
        let (written, count) = {
            let mut at = arguments & !LOCAL_WINDOW;
            let local_arguments = arguments >> WINDOW_SHIFT == LOCAL_WINDOW >> WINDOW_SHIFT;
            let mut next = |bytes: u64| {
                at = at.next_multiple_of(bytes);
                let found = if local_arguments { local(warp, lane, at, bytes as usize) } else { &[] };
                at += bytes;
                found.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
            };
            formatted(&format, &mut next, &|address| text(block, address))
        };
        let mut printed = block.launch.printed.lock().unwrap_or_else(PoisonError::into_inner);
        if printed.len() + written.len() <= MOST_BYTES {
            printed.push_str(&written);
        }
        drop(printed);
        let frame = warp.local.len() / LANES;
        let range = lane * frame + ins.slots[0] as usize..lane * frame + ins.slots[0] as usize + 4;
        if let Some(place) = warp.local.get_mut(range.clone()) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        warp.local_written.get_mut(range).unwrap_or_default().fill(1);
    }
    Ok(())
}

fn local(warp: &Warp, lane: usize, at: u64, bytes: usize) -> &[u8] {
    let frame = warp.local.len() / LANES;
    let start = lane * frame + at.min(frame as u64) as usize;
    warp.local.get(start..start + bytes).unwrap_or_default()
}

/// The text at an address of global memory, up to its zero.
fn text(block: &Block<'_>, address: u64) -> Option<String> {
    let memory = block.launch.memory;
    let room = memory.find(address)?.bytes.checked_sub(Global::offset(address))?.min(MOST_FORMAT_BYTES);
    let bytes = memory.bytes(address, room).ok()?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// The text of a format, and how many arguments it takes.
fn formatted(format: &str, next: &mut dyn FnMut(u64) -> u64, text: &dyn Fn(u64) -> Option<String>) -> (String, u32) {
    let (mut out, mut count) = (String::new(), 0u32);
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !"-+ #0123456789.*hlzjtL".contains(c)).unwrap_or(rest.len());
        let (specification, after) = rest.split_at(end);
        let Some(conversion) = after.chars().next() else { break };
        rest = &after[conversion.len_utf8()..];
        if conversion == '%' {
            out.push('%');
            continue;
        }
        let wide = specification.contains("ll") || specification.contains(['l', 'z', 'j', 't']);
        let mut numbers = specification
            .trim_start_matches(['-', '+', ' ', '#', '0'])
            .trim_end_matches(char::is_alphabetic)
            .splitn(2, '.');
        let mut number = |next: &mut dyn FnMut(u64) -> u64| {
            let digits = numbers.next()?;
            if digits == "*" { Some(next(4) as usize) } else { digits.parse().ok() }
        };
        let width: Option<usize> = number(next);
        let precision: Option<usize> = number(next);
        count += 1;
        let value = next(match conversion {
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' if !wide => 4,
            'c' => 4,
            _ => 8,
        });
        let signed = if wide { value as i64 } else { i64::from(value as u32 as i32) };
        let float = f64::from_bits(value);
        let body = match conversion {
            'd' | 'i' => signed.to_string(),
            'u' => value.to_string(),
            'x' => format!("{value:x}"),
            'X' => format!("{value:X}"),
            'o' => format!("{value:o}"),
            'c' => char::from(value as u8).to_string(),
            's' => text(value).unwrap_or_else(|| "(null)".into()),
            'p' => format!("{value:#x}"),
            'e' | 'E' => exponential(float, precision.unwrap_or(6)),
            'g' | 'G' | 'a' | 'A' => shortest(float, precision.unwrap_or(6).max(1)),
            _ => format!("{float:.*}", precision.unwrap_or(6)),
        };
        let flags =
            &specification[..specification.len() - specification.trim_start_matches(['-', '+', ' ', '#', '0']).len()];
        let sign = "dieEfFgG".contains(conversion) && flags.contains('+') && !body.starts_with('-');
        let body = if sign { format!("+{body}") } else { body };
        let missing = width.unwrap_or(0).saturating_sub(body.chars().count());
        let zeros = flags.contains('0') && !flags.contains('-') && !"sc".contains(conversion);
        let signs = usize::from(body.starts_with(['-', '+']));
        match (flags.contains('-'), zeros) {
            (true, _) => out.extend([body, " ".repeat(missing)]),
            (_, true) => out.extend([&body[..signs], &"0".repeat(missing), &body[signs..]]),
            _ => out.extend([" ".repeat(missing), body]),
        }
    }
    out.push_str(rest);
    (out, count)
}

/// As C writes it: two digits of exponent at least.
fn exponential(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        None => text,
    }
}

/// `%g`: so many digits that count, with an exponent where that is shorter.
fn shortest(value: f64, digits: usize) -> String {
    let text = exponential(value, digits - 1);
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let cut = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match exponent < -4 || exponent >= digits as i32 {
        true => format!("{}e{}", cut(mantissa), &text[mantissa.len() + 1..]),
        false => cut(&format!("{value:.*}", (digits as i32 - 1 - exponent).max(0) as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_c_does() {
        let print = |format: &str, arguments: &[u64]| {
            let mut rest = arguments.iter();
            formatted(format, &mut |_| rest.next().copied().unwrap_or(0), &|_| Some("text".into()))
        };
        assert_eq!(
            print("a %d b %5u|%-4x|%04d %%\n", &[-3i32 as u32 as u64, 7, 255, 12]).0,
            "a -3 b     7|ff  |0012 %\n"
        );
        let half = 0.5f64.to_bits();
        assert_eq!(
            print("%f %.2f %e %g %s %c", &[half, half, half, half, 0, 65]),
            ("0.500000 0.50 5.000000e-01 0.5 text A".into(), 6)
        );
        assert_eq!(print("%g %g", &[1e9f64.to_bits(), 100000f64.to_bits()]).0, "1e+09 100000");
        assert_eq!(print("%lld %+d", &[-5i64 as u64, 5]).0, "-5 +5");
    }
}
