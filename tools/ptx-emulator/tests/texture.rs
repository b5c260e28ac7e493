//! Textures and surfaces: what they read and write, and how they are misused.

use ptx_emulator::{AddressMode, FaultKind, Gpu, Module, Options, TexelKind, Texture};

/// Runs `body` on one warp: `%r1` is the lane, `%d1` y plus four times the lane, `%d2` the handle of `texture`, whose memory holds
/// the numbers from 0 on, as floats. Gives what stands in y, or the kind of the fault.
fn run(body: &str, change: impl FnOnce(&mut Texture), written: u64) -> Result<Vec<u32>, FaultKind> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry t(.param .u64 y, .param .u64 texture)\n{{
        .reg .pred %p<4>; .reg .b32 %r<32>; .reg .f32 %f<32>; .reg .b64 %d<16>;
        mov.u32 %r1, %tid.x; ld.param.u64 %d1, [y]; ld.param.u64 %d2, [texture]; mul.wide.u32 %d3, %r1, 4;
        add.s64 %d1, %d1, %d3; cvt.rn.f32.u32 %f1, %r1;
        {body}
        ret;\n}}\n"
    );
    let module = Module::load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut gpu = Gpu::new(Options::default());
    let (y, texels) = (gpu.alloc(128).expect("memory"), gpu.alloc(1024).expect("memory"));
    gpu.fill(y, 0, 128).expect("own memory");
    let numbers: Vec<u8> = (0..256).flat_map(|n| (n as f32).to_le_bytes()).collect();
    gpu.write(texels, &numbers[..written as usize]).expect("own memory");
    // Eight columns, four rows, eight layers.
    let mut texture = Texture {
        address: texels,
        extents: [8, 4, 8],
        row_bytes: 32,
        slice_bytes: 128,
        channels: 1,
        channel_bytes: 4,
        kind: TexelKind::Float,
        normalized_values: false,
        normalized_coordinates: false,
        linear: false,
        address_modes: [AddressMode::Clamp; 3],
        border: [7.0; 4],
    };
    change(&mut texture);
    let handle = gpu.add_texture(texture).expect("a texture");
    let params = [y.to_le_bytes(), handle.to_le_bytes()].concat();
    gpu.launch(&module, "t", [1, 1, 1], [32, 1, 1], 0, &params).map_err(|fault| fault.kind())?;
    let mut bytes = [0; 128];
    gpu.read(y, &mut bytes).expect("own memory");
    Ok(bytes.chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

fn floats(body: &str, change: impl FnOnce(&mut Texture)) -> Vec<f32> {
    run(body, change, 1024).expect("no fault").into_iter().map(f32::from_bits).collect()
}

const STORE: &str = "st.global.f32 [%d1], %f5;";

#[test]
fn points_edges_and_layers() {
    let line = format!("tex.1d.v4.f32.f32 {{%f5, %f6, %f7, %f8}}, [%d2, {{%f1}}]; {STORE}");
    assert_eq!(floats(&line, |_| {})[6..10], [6.0, 7.0, 7.0, 7.0]);
    assert_eq!(floats(&line, |t| t.address_modes = [AddressMode::Border; 3])[6..10], [6.0, 7.0, 7.0, 7.0]);
    assert_eq!(
        floats(&line, |t| (t.address_modes, t.border) = ([AddressMode::Border; 3], [-1.0; 4]))[7..9],
        [7.0, -1.0]
    );
    let whole = format!("tex.1d.v4.f32.s32 {{%f5, %f6, %f7, %f8}}, [%d2, {{%r1}}]; {STORE}");
    assert_eq!(floats(&whole, |_| {})[6..10], [6.0, 7.0, 0.0, 0.0], "nothing beyond what is fetched by number");
    let layers = format!(
        "mov.f32 %f2, 0f40200000; tex.a2d.v4.f32.f32 {{%f5, %f6, %f7, %f8}}, [%d2, {{%r1, %f2, %f2, %f2}}]; {STORE}"
    );
    let found = floats(&layers, |_| {});
    assert_eq!((found[0], found[3], found[31]), (18.0, 114.0, 242.0));
    let volume = format!(
        "mov.f32 %f2, 0f3F800000; tex.3d.v4.f32.f32 {{%f5, %f6, %f7, %f8}}, [%d2, {{%f2, %f2, %f1, %f1}}]; {STORE}"
    );
    assert_eq!(floats(&volume, |_| {})[2], 64.0 + 9.0);
}

#[test]
fn means_of_the_texels_around() {
    let square =
        format!("mov.f32 %f2, 0f40000000; tex.2d.v4.f32.f32 {{%f5, %f6, %f7, %f8}}, [%d2, {{%f1, %f2}}]; {STORE}");
    let found = floats(&square, |t| t.linear = true);
    // Between columns n - 1 and n of rows 1 and 2.
    assert_eq!(found[1..8], std::array::from_fn::<f32, 7, _>(|n| n as f32 + 0.5 + 12.0));
    let normalized = format!(
        "mul.f32 %f1, %f1, 0f3E000000; mov.f32 %f2, 0f3E000000; tex.2d.v4.f32.f32 {{%f5, %f6, %f7, %f8}}, [%d2, {{%f1, %f2}}]; {STORE}"
    );
    let found = floats(&normalized, |t| (t.normalized_coordinates, t.address_modes) = (true, [AddressMode::Wrap; 3]));
    assert_eq!(found, (0..32).map(|n| (n % 8) as f32).collect::<Vec<_>>());
}

#[test]
fn surfaces_are_read_and_written_by_bytes() {
    let address = "shl.b32 %r2, %r1, 2; and.b32 %r2, %r2, 31; shr.u32 %r3, %r1, 3;";
    let body = |x: &str, what: &str| {
        format!(
            "{address} suld.b.2d.b32.{what} {{%r4}}, [%d2, {{{x}, %r3}}]; add.u32 %r4, %r4, 1;
            sust.b.2d.b32.{what} [%d2, {{{x}, %r3}}], {{%r4}}; suld.b.2d.b32.{what} {{%r5}}, [%d2, {{{x}, %r3}}];
            st.global.u32 [%d1], %r5;"
        )
    };
    let ones: Vec<u32> = (0..32).map(|n| (n as f32).to_bits() + 1).collect();
    assert_eq!(run(&body("%r2", "trap"), |_| {}, 1024), Ok(ones));
    let far = body("%r6", "trap").replacen("shr.u32", "add.u32 %r6, %r2, 4; shr.u32", 1);
    assert_eq!(run(&far, |_| {}, 1024), Err(FaultKind::OutOfBounds));
    let nothing = run(&far.replace("trap", "zero"), |_| {}, 1024).expect("no fault");
    assert_eq!((nothing[6], nothing[7]), (7f32.to_bits() + 1, 0), "what lies beyond reads as zero and is not written");
    assert_eq!(run(&body("%r1", "trap"), |_| {}, 1024), Err(FaultKind::Misaligned), "a texel's number");
}

#[test]
fn misuse() {
    let line = format!("tex.1d.v4.f32.f32 {{%f5, %f6, %f7, %f8}}, [%d2, {{%f1}}]; {STORE}");
    assert_eq!(run(&line, |_| {}, 16), Err(FaultKind::Uninitialised), "half a row was written");
    assert_eq!(run(&line.replace(STORE, ""), |_| {}, 16).map(drop), Ok(()), "and nobody uses it");
    assert_eq!(run(&line, |t| t.kind = TexelKind::Unsigned, 1024), Err(FaultKind::Operand), "integers read as floats");
    assert_eq!(run(&format!("mov.u64 %d2, 5; {line}"), |_| {}, 1024), Err(FaultKind::Operand), "no handle");
    let far = format!("mul.f32 %f1, %f1, 0f42C80000; {line}");
    assert_eq!(run(&far, |t| t.extents[0] = 4096, 1024), Err(FaultKind::OutOfBounds), "more texels than memory");
    let both =
        "shl.b32 %r2, %r1, 2; and.b32 %r2, %r2, 31; shr.u32 %r3, %r1, 3; sust.b.2d.b32.trap [%d2, {%r2, %r3}], {%r1};";
    let race = Err(FaultKind::Race);
    assert_eq!(run(&format!("{both} {line}"), |_| {}, 1024), race, "read by the path for read-only memory");
}
