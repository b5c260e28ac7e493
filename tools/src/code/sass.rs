//! SASS as `nvdisasm -c` prints it.

use std::collections::{BTreeMap, HashMap};

use super::{Code, Element, Instruction, Kind, shape_macs};

/// The code of every kernel of a cubin.
pub fn parse(text: &str) -> BTreeMap<String, Code> {
    let mut found: BTreeMap<String, Code> = BTreeMap::new();
    let (mut labels, mut jumps) = (HashMap::new(), Vec::new());
    let mut name = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix(".section\t") {
            let section = section.split(',').next().unwrap_or_default();
            name = section.strip_prefix(".text.").map(str::to_string);
            continue;
        }
        let Some(name) = &name else { continue };
        let code = found.entry(name.clone()).or_default();
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label.to_string(), code.0.len());
        } else if let Some((_, rest)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
            let (mnemonic, operands) = instruction(rest);
            if mnemonic.is_empty() || mnemonic == "NOP" {
                continue;
            }
            let branches = mnemonic.starts_with("BRA");
            if let Some((_, to)) = operands.split_once("`(").filter(|_| branches) {
                let label = to.split(')').next().unwrap_or_default();
                jumps.push((name.clone(), code.0.len(), label.to_string()));
            }
            // Taken by all, or by those of a uniform predicate before the label.
            let always = !rest.trim_start().starts_with('@') && (!branches || operands.starts_with('`'));
            let falls = !(always && (branches || ["EXIT", "RET"].iter().any(|end| mnemonic.starts_with(end))));
            code.0.push(Instruction { kind: kind(mnemonic), target: None, falls });
        }
    }
    for (name, at, label) in jumps {
        if let (Some(code), Some(&target)) = (found.get_mut(&name), labels.get(&label)) {
            code.0[at].target = Some(target);
        }
    }
    found
}

/// The mnemonic, without a predicate before it, and what follows.
fn instruction(text: &str) -> (&str, &str) {
    let text = text.trim_start().trim_start_matches('{').trim_start();
    let text = match text.strip_prefix('@') {
        Some(rest) => rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start()),
        None => text,
    };
    text.trim_end_matches([';', ' ']).split_once(char::is_whitespace).unwrap_or((text.trim_end_matches([';', ' ']), ""))
}

fn kind(mnemonic: &str) -> Kind {
    let mut parts = mnemonic.split('.');
    let base = parts.next().unwrap_or_default();
    match base {
        "HMMA" | "IMMA" | "DMMA" | "HGMMA" | "IGMMA" | "QGMMA" => {
            let shape = parts.next().unwrap_or_default();
            let element = match base {
                "IMMA" | "IGMMA" | "QGMMA" => Element::Eight,
                "DMMA" => Element::F64,
                _ if mnemonic.contains("TF32") => Element::Tf32,
                _ => Element::Half,
            };
            let macs = match shape {
                "16816" => 16 * 8 * 16,
                "16832" => 16 * 8 * 32,
                "1688" => 16 * 8 * 8,
                "1684" => 16 * 8 * 4,
                "884" => 8 * 8 * 4,
                other => shape_macs(other).unwrap_or(0),
            };
            Kind::Mma { macs, element, warpgroup: base.contains('G') }
        }
        "LDSM" | "LDS" => Kind::FragmentLoad,
        "LDG" | "STG" | "LDGSTS" | "RED" | "ATOMG" => Kind::Global(bytes(mnemonic)),
        _ => Kind::Other,
    }
}

/// Of an access, as its modifiers say.
fn bytes(mnemonic: &str) -> u32 {
    mnemonic.split('.').fold(4, |known, part| match part {
        "128" => 16,
        "64" => 8,
        "U16" | "S16" | "16" => 2,
        "U8" | "S8" => 1,
        _ => known,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\t.target\tsm_80\n\n//--------------------- .text.a_f32 --------------------------\n\
        \t.section\t.text.a_f32,\"ax\",@progbits\n\t.sectioninfo\t@\"SHI_REGISTERS=34\"\n\t.align\t128\na_f32:\n.text.a_f32:\n\
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;\n.L_x_1:\n\
        /*0010*/                   LDG.E.128 R8, [R28.64] ;\n\
        /*0020*/              @!P1 LDG.E.U16.CONSTANT R8, [R28.64] ;\n\
        /*0030*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;\n\
        /*0040*/                   HFMA2.MMA R26, -RZ, RZ, 0, 0 ;\n\
        /*0050*/               @P0 BRA `(.L_x_1) ;\n\
        /*0060*/                   EXIT ;\n.L_x_2:\n\
        /*0070*/                   BRA `(.L_x_2);\n\
        /*0080*/                   NOP;\n.L_x_9:\n\
        \t.section\t.text.b,\"ax\",@progbits\n\
        /*0000*/                   HGMMA.64x256x8.F32.TF32 R24, gdesc[UR4], R24, !UPT ;\n\
        /*0010*/                   LDSM.16.M88.4 R4, [R2] ;\n";

    #[test]
    fn loops_and_what_they_do() {
        let found = parse(TEXT);
        let a = &found["a_f32"];
        assert_eq!(a.0.len(), 8, "padding does not count");
        assert_eq!((a.0[5].target, a.0[7].target), (Some(1), Some(7)));
        let hot = a.hottest();
        assert_eq!((hot.instructions, hot.mmas, hot.macs, hot.global_bytes), (5, 1, 2048, 18));
        assert_eq!(a.0.iter().filter(|instruction| !instruction.falls).count(), 2);
        let b = found["b"].hottest();
        assert_eq!((b.mmas, b.macs, b.fragment_loads, b.matrix), (1, 64 * 256 * 8, 1, Some((Element::Tf32, true))));
    }
}
