//! One entry of a PTX text.

use std::collections::HashMap;

use super::{Code, Element, Instruction, Kind, shape_macs};

/// The code of an entry, from its name to its closing brace.
pub fn parse(entry: &str) -> Code {
    let mut code = Code::default();
    let (mut labels, mut jumps) = (HashMap::new(), Vec::new());
    let body = entry.find('{').map_or("", |at| &entry[at..]);
    let without_comments: Vec<&str> = body.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    for statement in without_comments.join("\n").split(';') {
        let mut statement = statement.trim_matches(|c: char| c.is_whitespace() || "{}".contains(c));
        while let Some((label, rest)) = statement.split_once(':').filter(|(label, _)| is_label(label)) {
            labels.insert(label.to_string(), code.0.len());
            statement = rest.trim_start_matches(|c: char| c.is_whitespace() || "{}".contains(c));
        }
        let unguarded = match statement.strip_prefix('@') {
            Some(rest) => rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start()),
            None => statement,
        };
        if unguarded.is_empty() || unguarded.starts_with('.') {
            continue;
        }
        let (mnemonic, operands) = unguarded.split_once(char::is_whitespace).unwrap_or((unguarded, ""));
        let branches = mnemonic == "bra" || mnemonic == "bra.uni";
        if branches {
            jumps.push((code.0.len(), operands.trim().to_string()));
        }
        let falls = statement.starts_with('@') || !(branches || mnemonic == "ret" || mnemonic == "exit");
        code.0.push(Instruction { kind: kind(mnemonic, operands), target: None, falls });
    }
    for (at, label) in jumps {
        code.0[at].target = labels.get(&label).copied();
    }
    code
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "$_%".contains(c))
}

fn kind(mnemonic: &str, operands: &str) -> Kind {
    let parts: Vec<&str> = mnemonic.split('.').collect();
    match parts[..] {
        ["mma" | "wgmma", ..] => {
            let shape = parts.iter().find_map(|part| part.starts_with('m').then(|| shape_macs(part)).flatten());
            // wgmma.fence, .commit_group and .wait_group.
            let Some(macs) = shape else { return Kind::Other };
            let element = parts.iter().find_map(|part| match *part {
                "f16" | "bf16" => Some(Element::Half),
                "tf32" => Some(Element::Tf32),
                "s8" | "u8" | "e4m3" | "e5m2" => Some(Element::Eight),
                "f64" => Some(Element::F64),
                _ => None,
            });
            Kind::Mma { macs, element: element.unwrap_or(Element::Half), warpgroup: parts[0] == "wgmma" }
        }
        ["ldmatrix", ..] | ["ld", "shared", ..] => Kind::FragmentLoad,
        ["ld" | "st" | "red" | "atom", ..] if parts.contains(&"global") => {
            let bits =
                parts.last().and_then(|last| last.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().ok());
            let vector = if parts.contains(&"v4") { 4 } else { 1 + u32::from(parts.contains(&"v2")) };
            Kind::Global(vector * bits.unwrap_or(32) / 8)
        }
        ["cp", "async", "ca" | "cg", ..] => {
            Kind::Global(operands.split(',').nth(2).and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(16))
        }
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".visible .entry a(\n\t.param .u64 p\n)\n.maxntid 32, 1, 1\n{\n\t.reg .b32 \t%r<9>;\n\
        \tmov.u32 \t%r1, 0; // a comment; of two\n$L__BB0_1:\n\tld.global.nc.v4.f32 \t{%f1, %f2, %f3, %f4}, [%rd1];\n\
        \tcp.async.cg.shared.global [%r1], [%rd2], 16, %r3;\n\
        \t{ .reg .pred p; wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, p, 1, 1; }\n\
        \t@%p1 bra \t$L__BB0_1;\n\twgmma.fence.sync.aligned;\n\tst.global.u16 [%rd1], %rs1;\n\tret;\n}";

    #[test]
    fn statements_labels_and_loops() {
        let code = parse(TEXT);
        assert_eq!(code.0.len(), 8);
        assert_eq!(code.0[4].target, Some(1));
        let hot = code.hottest();
        assert_eq!((hot.instructions, hot.mmas, hot.macs, hot.global_bytes), (4, 1, 64 * 16 * 16, 32));
        assert_eq!(hot.matrix, Some((Element::Half, true)));
        assert_eq!(code.0.iter().map(|instruction| instruction.falls).filter(|falls| !falls).count(), 1);
    }
}
