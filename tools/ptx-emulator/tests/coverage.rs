//! The README's table of instructions: every instruction of PTX is in it or refused, and every test it names executes
//! what the row says.

use std::{collections::BTreeSet, fs, path::Path};

use ptx_emulator::Module;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The instructions of PTX ISA 9.0.
const INSTRUCTIONS: &str = "abs activemask add addc alloca and applypriority atom bar barrier bfe bfi bfind bmsk bra brev brkpt brx \
    call clusterlaunchcontrol clz cnot copysign cos cp createpolicy cvt cvta discard div dp2a dp4a elect ex2 exit fence fma fns \
    getctarank griddepcontrol isspacep istypep ld ldmatrix ldu lg2 lop3 mad mad24 madc mapa match max mbarrier membar min mma mov \
    movmatrix mul mul24 multimem nanosleep neg not or pmevent popc prefetch prefetchu prmt rcp red redux rem ret rsqrt sad selp \
    set setmaxnreg setp shf shfl shl shr sin slct sqrt st stackrestore stacksave stmatrix sub subc suld suq sured sust szext tanh \
    tcgen05 tensormap testp tex tld4 trap txq vabsdiff vabsdiff2 vabsdiff4 vadd vadd2 vadd4 vavrg2 vavrg4 vmad vmax vmax2 vmax4 \
    vmin vmin2 vmin4 vote vset vset2 vset4 vshl vshr vsub vsub2 vsub4 wgmma wmma xor";

/// One form of each that is refused when a module is loaded.
const REFUSED: &[&str] = &[
    "clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%r1], [%r2];",
    "istypep.texref %p1, %d1;",
    "multimem.ld_reduce.global.add.f32 %f1, [%d1];",
    "multimem.st.global.f32 [%d1], %f1;",
    "multimem.red.global.add.f32 [%d1], %f1;",
    "suld.b.cube.b32.trap {%r1}, [%d1, {%r2, %r3, %r4, %r4}];",
    "sust.p.1d.b32.trap [%d1, {%r2}], %r1;",
    "suq.width.b32 %r1, [%d1];",
    "sured.b.add.1d.u32.trap [%d1, {%r2}], %r1;",
    "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32;",
    "tensormap.replace.tile.fill_mode.global.b1024.b32 [%d1], 1;",
    "tex.cube.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%d1, {%f5, %f6, %f7, %f7}];",
    "tld4.r.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%d1, {%f5, %f6}];",
    "txq.width.b32 %r1, [%d1];",
    "vadd.s32.s32.s32 %r1, %r2, %r3;",
    "vsub.s32.s32.s32 %r1, %r2, %r3;",
    "vabsdiff.s32.s32.s32 %r1, %r2, %r3;",
    "vmin.s32.s32.s32 %r1, %r2, %r3;",
    "vmax.s32.s32.s32 %r1, %r2, %r3;",
    "vshl.s32.u32.u32.clamp %r1, %r2, %r3;",
    "vshr.s32.u32.u32.clamp %r1, %r2, %r3;",
    "vmad.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "vset.s32.u32.lt %r1, %r2, %r3;",
    "vadd2.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "vsub2.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "vavrg2.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "vabsdiff2.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "vmin2.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "vmax2.s32.s32.s32 %r1, %r2, %r3, %r4;",
    "vset2.s32.s32.lt %r1, %r2, %r3, %r4;",
    "vset4.s32.s32.lt %r1, %r2, %r3, %r4;",
    "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r3, %r4}, {%f1, %f2, %f3, %f4}, %r5, 0;",
    "mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32 {%r1, %r2}, {%r3}, {%r4}, {%r1, %r2};",
    "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%r1, %r2}, {%r3}, {%r4}, {%r1, %r2};",
    "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r1], [%d1, {%r2, %r3, %r4}], [%r5], {%h1};",
    "ld.global.b128 %q1, [%d1];",
];

/// A row of the table: instructions, and the tests that execute them.
fn rows() -> Vec<(Vec<String>, Vec<String>)> {
    let readme = fs::read_to_string(Path::new(HERE).join("README.md")).expect("README.md");
    let table = readme.lines().skip_while(|line| !line.starts_with("| instructions |")).skip(2);
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        (quoted(cells[0]), quoted(cells[cells.len() - 1]))
    };
    table.take_while(|line| line.starts_with('|')).map(row).collect()
}

/// Everything under a file or folder of the crate.
fn texts(path: &Path) -> String {
    if path.is_file() {
        return fs::read_to_string(path).unwrap_or_default();
    }
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    entries.flatten().map(|entry| texts(&entry.path())).collect()
}

/// What a test that the table names executes: its own text, and the kernels that it launches.
fn executed(test: &str) -> String {
    let whole = Path::new(HERE).join(if test.starts_with("src/") { test.to_owned() } else { format!("tests/{test}") });
    let own = texts(&whole);
    let kernels =
        if own.contains("mod harness") { texts(&Path::new(HERE).join("tests/kernels")) } else { String::new() };
    own + &kernels
}

/// Whether a text has an instruction, with all the modifiers that `name` gives, in this order.
fn contains(text: &str, name: &str) -> bool {
    let mut parts = name.split('.');
    let opcode = parts.next().unwrap_or_default();
    let modifiers: Vec<&str> = parts.collect();
    text.match_indices(opcode).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let starts = before.is_none_or(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '%' | '.' | '$'));
        let rest = &text[at + opcode.len()..];
        let end =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | ':' | '_')).unwrap_or(rest.len());
        let (given, after) = rest.split_at(end);
        let whole = given.is_empty() && after.starts_with([';', ' ', '\t']) || given.starts_with('.');
        let mut given = given.split('.');
        starts
            && whole
            && modifiers.iter().all(|wanted| given.any(|g| g == *wanted || g.starts_with(&format!("{wanted}::"))))
    })
}

#[test]
fn every_instruction_is_in_the_table_or_refused() {
    let opcode = |text: &str| text.split(['.', ' ']).next().unwrap_or_default().to_owned();
    let listed: BTreeSet<String> = rows().iter().flat_map(|(names, _)| names.iter().map(|name| opcode(name))).collect();
    let refused: BTreeSet<String> = REFUSED.iter().map(|line| opcode(line)).collect();
    let all: BTreeSet<String> = INSTRUCTIONS.split_whitespace().map(str::to_owned).collect();
    let known: BTreeSet<String> = listed.union(&refused).cloned().collect();
    assert_eq!(known.difference(&all).collect::<Vec<_>>(), Vec::<&String>::new(), "no instructions of PTX");
    assert_eq!(all.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "neither in the table nor refused");
}

#[test]
fn tests_execute_what_the_table_says() {
    let rows = rows();
    assert!(rows.len() > 10, "the table of README.md");
    for (names, tests) in rows {
        let text: String = tests.iter().map(|test| executed(test)).collect();
        for name in names {
            assert!(contains(&text, &name), "{name} is in none of {}", tests.join(", "));
        }
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for line in REFUSED {
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry t()\n{{\n.reg .pred %p<4>; .reg .b16 %h<8>; .reg .b32 \
             %r<8>; .reg .b64 %d<8>; .reg .f32 %f<8>;\n{line}\nret;\n}}\n"
        );
        let error = Module::load(&text).err().unwrap_or_else(|| panic!("accepted: {line}"));
        let opcode = line.split(['.', ' ']).next().unwrap_or_default();
        assert!(error.message.contains(opcode), "{line}: {error}");
    }
}
