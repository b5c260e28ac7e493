//! The kernels of hopper.cu.

use ptx_emulator::{
    Fault,
    asynchronous::{TensorMap, encode_tensor_map},
};

use crate::{
    args,
    harness::{Host, floats, numbers},
    teaching::runs::{Run, Texts, product, texts, x},
};

const HOPPER: Texts = texts!("hopper");

pub const ALL: &[Run] = &[
    Run { name: "bulk_double", texts: HOPPER, check: bulk_double },
    Run { name: "box_copy", texts: HOPPER, check: box_copy },
    Run { name: "matmul_warpgroup", texts: HOPPER, check: matmul_warpgroup },
    Run { name: "cluster_histogram", texts: HOPPER, check: cluster_histogram },
];

fn bulk_double(text: &str, seed: u64) -> Result<(), Fault> {
    let a = floats(768);
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<f32>(768));
    host.launch("bulk_double", x(3), x(64), 0, args![from, to])?;
    let want: Vec<f32> = a.iter().map(|v| 2.0 * v).collect();
    assert_eq!(host.download::<f32>(to, 768), want);
    Ok(())
}

fn map(base: u64, element_bytes: u32, width: u64, height: u64, box_extents: [u32; 2], swizzle_bytes: u32) -> [u8; 128] {
    encode_tensor_map(&TensorMap {
        base,
        element_bytes,
        extents: vec![width, height],
        strides_bytes: vec![width * u64::from(element_bytes)],
        box_extents: box_extents.to_vec(),
        element_strides: vec![1, 1],
        swizzle_bytes,
    })
    .unwrap()
}

fn box_copy(text: &str, seed: u64) -> Result<(), Fault> {
    let (width, height) = (40, 11);
    let a = floats(width * height);
    for (left, top) in [(8, 2), (30, 7), (-3, -1)] {
        let mut host = Host::new(text, seed);
        let (from, to) = (host.upload(&a), host.room::<f32>(128));
        let map = map(from, 4, width as u64, height as u64, [16, 8], 0);
        host.launch("box_copy", x(1), x(64), 0, args![map, to, left, top])?;
        let got = host.download::<f32>(to, 128);
        for (i, v) in got.into_iter().enumerate() {
            let (column, row) = (left + i as i32 % 16, top + i as i32 / 16);
            let inside = (0..width as i32).contains(&column) && (0..height as i32).contains(&row);
            assert_eq!(v, if inside { a[row as usize * width + column as usize] } else { 0.0 });
        }
    }
    Ok(())
}

fn matmul_warpgroup(text: &str, seed: u64) -> Result<(), Fault> {
    let (m, n, k) = (128, 64, 320);
    let (a, b) = (floats(m * k), floats(k * n));
    let half = |v: &[f32]| -> Vec<u16> { v.iter().map(|f| half::bf16::from_f32(*f).to_bits()).collect() };
    let across: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
    let mut host = Host::new(text, seed);
    let (left, right, to) = (host.upload(&half(&a)), host.upload(&half(&across)), host.room::<f32>(m * n));
    let (left, right) =
        (map(left, 2, k as u64, m as u64, [64, 64], 128), map(right, 2, k as u64, n as u64, [64, 32], 128));
    let shared = 2 * (64 + 32) * 64 * 2;
    host.launch("matmul_warpgroup", [2, 2, 1], x(256), shared, args![left, right, to, n as i32, k as i32])?;
    assert_eq!(host.download::<f32>(to, m * n), product(&a, &b, m, n, k));
    Ok(())
}

fn cluster_histogram(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<i32> = numbers(1500, 128).into_iter().map(|v| v as i32).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.upload(&[0u32; 128]));
    host.launch("cluster_histogram", x(4), x(96), 0, args![from, to, 1500])?;
    let mut want = vec![0u32; 128];
    a.iter().for_each(|v| want[*v as usize] += 1);
    assert_eq!(host.download::<u32>(to, 128), want);
    Ok(())
}
