//! How each kernel is launched, and what must come out.

use std::cmp::Reverse;

use ptx_emulator::Fault;

use crate::{
    args,
    harness::{Host, floats, numbers},
};

pub type Check = fn(&str, u64) -> Result<(), Fault>;

/// A kernel with its text and its check.
pub struct Run {
    pub name: &'static str,
    pub texts: Texts,
    pub check: Check,
}

/// What the two compilers make of one file.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "not every test looks at both")]
pub struct Texts {
    pub nvcc: &'static str,
    pub clang: &'static str,
}

macro_rules! texts {
    ($stem:literal) => {
        $crate::teaching::runs::Texts {
            nvcc: include_str!(concat!("../kernels/", $stem, ".ptx")),
            clang: include_str!(concat!("../kernels/clang/", $stem, ".ptx")),
        }
    };
}
pub(crate) use texts;

const ELEMENTWISE: Texts = texts!("elementwise");
const REDUCTIONS: Texts = texts!("reductions");
const SCANS: Texts = texts!("scans");
const MATRICES: Texts = texts!("matrices");

pub const ALL: &[Run] = &[
    Run { name: "saxpy", texts: ELEMENTWISE, check: saxpy },
    Run { name: "add", texts: ELEMENTWISE, check: add },
    Run { name: "scale_vector", texts: ELEMENTWISE, check: scale_vector },
    Run { name: "transpose", texts: ELEMENTWISE, check: transpose },
    Run { name: "stencil", texts: ELEMENTWISE, check: stencil },
    Run { name: "life", texts: ELEMENTWISE, check: life },
    Run { name: "filter3x3", texts: ELEMENTWISE, check: filter3x3 },
    Run { name: "mandelbrot", texts: ELEMENTWISE, check: mandelbrot },
    Run { name: "any_negative", texts: ELEMENTWISE, check: any_negative },
    Run { name: "sum_tree", texts: REDUCTIONS, check: |t, s| block_sums(t, s, "sum_tree", 256, 1, 0) },
    Run { name: "sum_syncwarp", texts: REDUCTIONS, check: |t, s| block_sums(t, s, "sum_syncwarp", 256, 1, 0) },
    Run { name: "sum_shuffle", texts: REDUCTIONS, check: sum_shuffle },
    Run { name: "sum_last_block", texts: REDUCTIONS, check: sum_last_block },
    Run { name: "maximum", texts: REDUCTIONS, check: maximum },
    Run { name: "locked_sum", texts: REDUCTIONS, check: locked_sum },
    Run { name: "histogram", texts: REDUCTIONS, check: histogram },
    Run { name: "aggregated_count", texts: REDUCTIONS, check: aggregated_count },
    Run { name: "softmax", texts: REDUCTIONS, check: softmax },
    Run { name: "scan_two_buffers", texts: SCANS, check: scan_two_buffers },
    Run { name: "scan_tree", texts: SCANS, check: scan_tree },
    Run { name: "scan_look_back", texts: SCANS, check: scan_look_back },
    Run { name: "compact", texts: SCANS, check: compact },
    Run { name: "bitonic_sort", texts: SCANS, check: bitonic_sort },
    Run { name: "matmul_tiled", texts: MATRICES, check: matmul_tiled },
    Run { name: "matmul_pipelined", texts: MATRICES, check: matmul_pipelined },
    Run { name: "matmul_tensor_core", texts: MATRICES, check: matmul_tensor_core },
];

/// Believed to be correct for fifteen years: `volatile` keeps no lanes in step.
#[allow(dead_code, reason = "not every test looks at them")]
pub const WRONG: &[Run] =
    &[Run { name: "sum_volatile", texts: REDUCTIONS, check: |t, s| block_sums(t, s, "sum_volatile", 128, 2, 512) }];

pub fn x(n: u32) -> [u32; 3] {
    [n, 1, 1]
}

fn saxpy(text: &str, seed: u64) -> Result<(), Fault> {
    let (a, b) = (floats(1000), floats(1000));
    let mut host = Host::new(text, seed);
    let (xs, ys) = (host.upload(&a), host.upload(&b));
    host.launch("saxpy", x(3), x(64), 0, args![1000, 3.0f32, xs, ys])?;
    let want: Vec<f32> = a.iter().zip(&b).map(|(x, y)| 3.0 * x + y).collect();
    assert_eq!(host.download::<f32>(ys, 1000), want);
    Ok(())
}

fn add(text: &str, seed: u64) -> Result<(), Fault> {
    let (a, b) = (floats(301), floats(301));
    let mut host = Host::new(text, seed);
    let (xs, ys, zs) = (host.upload(&a), host.upload(&b), host.room::<f32>(301));
    host.launch("add", x(3), x(128), 0, args![xs, ys, zs, 301])?;
    let want: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + y).collect();
    assert_eq!(host.download::<f32>(zs, 301), want);
    Ok(())
}

fn scale_vector(text: &str, seed: u64) -> Result<(), Fault> {
    let a = floats(203);
    let mut host = Host::new(text, seed);
    let xs = host.upload(&a);
    host.launch("scale_vector", x(1), x(64), 0, args![xs, 2.0f32, 203])?;
    let want: Vec<f32> = a.iter().map(|x| 2.0 * x).collect();
    assert_eq!(host.download::<f32>(xs, 203), want);
    Ok(())
}

fn transpose(text: &str, seed: u64) -> Result<(), Fault> {
    let (width, height) = (70, 45);
    let a = floats(width * height);
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<f32>(width * height));
    host.launch("transpose", [3, 2, 1], [32, 8, 1], 0, args![from, to, width as i32, height as i32])?;
    let got = host.download::<f32>(to, width * height);
    for row in 0..height {
        for column in 0..width {
            assert_eq!(got[column * height + row], a[row * width + column]);
        }
    }
    Ok(())
}

fn stencil(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<i32> = numbers(300, 100).into_iter().map(|v| v as i32).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<i32>(300));
    host.launch("stencil", x(3), x(128), (128 + 6) * 4, args![from, to, 300])?;
    let at = |i: i32| if (0..300).contains(&i) { a[i as usize] } else { 0 };
    let want: Vec<i32> = (0..300).map(|i| (-3..=3).map(|d| at(i + d)).sum()).collect();
    assert_eq!(host.download::<i32>(to, 300), want);
    Ok(())
}

fn life(text: &str, seed: u64) -> Result<(), Fault> {
    let (width, height) = (37usize, 19usize);
    let a: Vec<u8> = numbers(width * height, 2).into_iter().map(|v| v as u8).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<u8>(width * height));
    host.launch("life", [3, 3, 1], [16, 8, 1], 0, args![from, to, width as i32, height as i32])?;
    let got = host.download::<u8>(to, width * height);
    for y in 0..height {
        for x in 0..width {
            let near = |dy: usize, dx: usize| a[(y + dy + height - 1) % height * width + (x + dx + width - 1) % width];
            let mut alive = 0;
            for d in [0, 1, 2, 3, 5, 6, 7, 8] {
                alive += near(d / 3, d % 3);
            }
            assert_eq!(got[y * width + x], u8::from(alive == 3 || alive == 2 && near(1, 1) == 1));
        }
    }
    Ok(())
}

fn filter3x3(text: &str, seed: u64) -> Result<(), Fault> {
    let (width, height) = (33usize, 17usize);
    let (a, taps) = (floats(width * height), floats(9));
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<f32>(width * height));
    let module = host.module.clone();
    let (place, _) = host.gpu.symbol(&module, "taps").unwrap().unwrap();
    let bytes: Vec<u8> = taps.iter().flat_map(|t| t.to_le_bytes()).collect();
    host.gpu.write(place, &bytes).unwrap();
    host.launch("filter3x3", [3, 3, 1], [16, 8, 1], 0, args![from, to, width as i32, height as i32])?;
    let got = host.download::<f32>(to, width * height);
    for y in 0..height {
        for x in 0..width {
            let at = |d: usize| {
                let yy = (y + d / 3).saturating_sub(1).min(height - 1);
                let xx = (x + d % 3).saturating_sub(1).min(width - 1);
                taps[d] * a[yy * width + xx]
            };
            assert_eq!(got[y * width + x], (0..9).map(at).sum::<f32>());
        }
    }
    Ok(())
}

fn mandelbrot(text: &str, seed: u64) -> Result<(), Fault> {
    let (width, height) = (40usize, 20usize);
    let mut host = Host::new(text, seed);
    let to = host.room::<u16>(width * height);
    host.launch("mandelbrot", [3, 3, 1], [16, 8, 1], 0, args![to, width as i32, height as i32, 50])?;
    let got = host.download::<u16>(to, width * height);
    let module = host.module.clone();
    let (place, _) = host.gpu.symbol(&module, "visits").unwrap().unwrap();
    let inside = got.iter().filter(|n| **n == 50).count();
    assert!(inside > 20 && got.contains(&1));
    assert_eq!(host.download::<u32>(place, 1), [inside as u32]);
    Ok(())
}

fn any_negative(text: &str, seed: u64) -> Result<(), Fault> {
    let mut host = Host::new(text, seed);
    let (from, flag) = (host.upload(&floats(500)), host.upload(&[0i32]));
    host.launch("any_negative", x(4), x(128), 0, args![from, 500, flag])?;
    assert_eq!(host.download::<i32>(flag, 1), [1]);
    let (from, flag) = (host.upload(&[1f32; 100]), host.upload(&[0i32]));
    host.launch("any_negative", x(1), x(128), 0, args![from, 100, flag])?;
    assert_eq!(host.download::<i32>(flag, 1), [0]);
    Ok(())
}

fn block_sums(text: &str, seed: u64, entry: &str, threads: u32, each: usize, shared: u32) -> Result<(), Fault> {
    let a = floats(1000);
    let per_block = threads as usize * each;
    let blocks = a.len().div_ceil(per_block);
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<f32>(blocks));
    host.launch(entry, x(blocks as u32), x(threads), shared, args![from, to, 1000])?;
    let want: Vec<f32> = a.chunks(per_block).map(|c| c.iter().sum()).collect();
    assert_eq!(host.download::<f32>(to, blocks), want, "{entry}");
    Ok(())
}

fn sum_shuffle(text: &str, seed: u64) -> Result<(), Fault> {
    let a = floats(2000);
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.upload(&[0f32]));
    host.launch("sum_shuffle", x(3), x(256), 0, args![from, to, 2000])?;
    assert_eq!(host.download::<f32>(to, 1), [a.iter().sum::<f32>()]);
    Ok(())
}

fn sum_last_block(text: &str, seed: u64) -> Result<(), Fault> {
    let a = floats(3000);
    let mut host = Host::new(text, seed);
    let (from, partial, to) = (host.upload(&a), host.room::<f32>(7), host.room::<f32>(1));
    for _ in 0..2 {
        host.launch("sum_last_block", x(7), x(128), 0, args![from, partial, to, 3000])?;
        assert_eq!(host.download::<f32>(to, 1), [a.iter().sum::<f32>()]);
    }
    Ok(())
}

fn maximum(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<f32> = numbers(900, 5000).into_iter().map(|v| v as f32).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.upload(&[0f32]));
    host.launch("maximum", x(3), x(64), 0, args![from, to, 900])?;
    assert_eq!(host.download::<f32>(to, 1), [a.iter().fold(0f32, |m, v| m.max(*v))]);
    Ok(())
}

fn locked_sum(text: &str, seed: u64) -> Result<(), Fault> {
    let mut host = Host::new(text, seed);
    let (lock, total) = (host.upload(&[0i32]), host.upload(&[0i32]));
    host.launch("locked_sum", x(9), x(32), 0, args![lock, total])?;
    assert_eq!(host.download::<i32>(total, 1), [36]);
    Ok(())
}

fn histogram(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<u8> = numbers(3000, 256).into_iter().map(|v| v as u8).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.upload(&[0u32; 256]));
    host.launch("histogram", x(3), x(128), 0, args![from, to, 3000])?;
    let mut want = vec![0u32; 256];
    a.iter().for_each(|v| want[usize::from(*v)] += 1);
    assert_eq!(host.download::<u32>(to, 256), want);
    Ok(())
}

fn aggregated_count(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<i32> = numbers(500, 7).into_iter().map(|v| v as i32).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.upload(&[0i32; 7]));
    host.launch("aggregated_count", x(4), x(128), 0, args![from, to, 500])?;
    let want: Vec<i32> = (0..7).map(|k| a.iter().filter(|v| **v == k).count() as i32).collect();
    assert_eq!(host.download::<i32>(to, 7), want);
    Ok(())
}

fn softmax(text: &str, seed: u64) -> Result<(), Fault> {
    let (rows, columns) = (3usize, 150usize);
    let a = floats(rows * columns);
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<f32>(rows * columns));
    host.launch("softmax", x(rows as u32), x(96), 0, args![from, to, columns as i32])?;
    let got = host.download::<f32>(to, rows * columns);
    for (row, got) in a.chunks(columns).zip(got.chunks(columns)) {
        let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
        for (v, g) in row.iter().zip(got) {
            assert!((f64::from(*v).exp() / sum - f64::from(*g)).abs() < 1e-5);
        }
    }
    Ok(())
}

fn running(a: &[i32]) -> Vec<i32> {
    a.iter()
        .scan(0, |sum, v| {
            *sum += v;
            Some(*sum)
        })
        .collect()
}

fn scan_two_buffers(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<i32> = numbers(200, 50).into_iter().map(|v| v as i32).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<i32>(200));
    host.launch("scan_two_buffers", x(1), x(256), 2 * 256 * 4, args![from, to, 200])?;
    assert_eq!(host.download::<i32>(to, 200), running(&a));
    Ok(())
}

fn scan_tree(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<i32> = numbers(501, 50).into_iter().map(|v| v as i32).collect();
    let mut host = Host::new(text, seed);
    let (from, to) = (host.upload(&a), host.room::<i32>(501));
    host.launch("scan_tree", x(1), x(256), 0, args![from, to, 501])?;
    let want: Vec<i32> = running(&a).iter().zip(&a).map(|(sum, v)| sum - v).collect();
    assert_eq!(host.download::<i32>(to, 501), want);
    Ok(())
}

fn scan_look_back(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<i32> = numbers(1500, 50).into_iter().map(|v| v as i32).collect();
    let mut host = Host::new(text, seed);
    let (from, to, next) = (host.upload(&a), host.room::<i32>(1500), host.upload(&[0i32]));
    let (state, own, all) = (host.upload(&[0i32; 12]), host.room::<i32>(12), host.room::<i32>(12));
    host.launch("scan_look_back", x(12), x(128), 0, args![from, to, 1500, next, state, own, all])?;
    assert_eq!(host.download::<i32>(to, 1500), running(&a));
    Ok(())
}

fn compact(text: &str, seed: u64) -> Result<(), Fault> {
    let a: Vec<i32> = numbers(700, 1000).into_iter().map(|v| v as i32).collect();
    let mut want: Vec<i32> = a.iter().copied().filter(|v| v % 3 == 0).collect();
    let mut host = Host::new(text, seed);
    let (from, to, count) = (host.upload(&a), host.room::<i32>(want.len()), host.upload(&[0i32]));
    host.launch("compact", x(6), x(128), 0, args![from, to, count, 700])?;
    let mut got = host.download::<i32>(to, want.len());
    got.sort_by_key(|v| Reverse(*v));
    want.sort_by_key(|v| Reverse(*v));
    assert_eq!(got, want);
    Ok(())
}

fn bitonic_sort(text: &str, seed: u64) -> Result<(), Fault> {
    let mut a: Vec<i32> = numbers(512, 1000).into_iter().map(|v| v as i32).collect();
    let mut host = Host::new(text, seed);
    let data = host.upload(&a);
    host.launch("bitonic_sort", x(2), x(256), 0, args![data])?;
    a.chunks_mut(256).for_each(<[i32]>::sort_unstable);
    assert_eq!(host.download::<i32>(data, 512), a);
    Ok(())
}

pub fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let at = |i: usize| (0..k).map(|x| a[i / n * k + x] * b[x * n + i % n]).sum();
    (0..m * n).map(at).collect()
}

fn matmul_tiled(text: &str, seed: u64) -> Result<(), Fault> {
    let (m, n, k) = (37, 41, 50);
    let (a, b) = (floats(m * k), floats(k * n));
    let mut host = Host::new(text, seed);
    let (left, right, to) = (host.upload(&a), host.upload(&b), host.room::<f32>(m * n));
    let sizes = [m as i32, n as i32, k as i32];
    host.launch("matmul_tiled", [3, 3, 1], [16, 16, 1], 0, args![left, right, to, sizes[0], sizes[1], sizes[2]])?;
    assert_eq!(host.download::<f32>(to, m * n), product(&a, &b, m, n, k));
    Ok(())
}

fn matmul_pipelined(text: &str, seed: u64) -> Result<(), Fault> {
    let n = 64;
    let (a, b) = (floats(n * n), floats(n * n));
    let mut host = Host::new(text, seed);
    let (left, right, to) = (host.upload(&a), host.upload(&b), host.room::<f32>(n * n));
    host.launch("matmul_pipelined", [4, 4, 1], [16, 16, 1], 0, args![left, right, to, n as i32])?;
    assert_eq!(host.download::<f32>(to, n * n), product(&a, &b, n, n, n));
    Ok(())
}

fn matmul_tensor_core(text: &str, seed: u64) -> Result<(), Fault> {
    let (m, n, k) = (32, 16, 112);
    let (a, b) = (floats(m * k), floats(k * n));
    let half = |v: &[f32]| -> Vec<u16> { v.iter().map(|f| half::bf16::from_f32(*f).to_bits()).collect() };
    let across: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
    let mut host = Host::new(text, seed);
    let (left, right, to) = (host.upload(&half(&a)), host.upload(&half(&across)), host.room::<f32>(m * n));
    host.launch("matmul_tensor_core", [2, 2, 1], x(32), 0, args![left, right, to, n as i32, k as i32])?;
    assert_eq!(host.download::<f32>(to, m * n), product(&a, &b, m, n, k));
    Ok(())
}
