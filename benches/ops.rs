//! The dense ops at the shapes the models give them: `forward`, and `step` for forward and backward together.
//!
//! `cargo bench --bench ops -- conv2d`; tools/peers/torch_ops.py runs the same names in PyTorch and prints both.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use isg::{
    DType, Device, Result, Shape, Tape, Tensor,
    ops::{
        avg_pool2d::Pool2d,
        conv2d::Conv2d,
        modulated_conv2d::{ModulatedConv2d, Resampling},
        resize::Interpolation,
        upfirdn2d::{Filter, Upfirdn2d},
    },
};

/// Any numbers of size about one: speed does not depend on them.
fn numbers(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let values =
        (0..shape.elems() as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0);
    Tensor::from_vec(values.collect(), shape, device)
}

/// Benches `run` alone and followed by the gradients of every input.
fn case(c: &mut Criterion, name: &str, inputs: &[Shape], run: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let device = Device::cpu();
    let inputs: Vec<Tensor> = inputs.iter().map(|&shape| numbers(shape, &device).expect("memory")).collect();
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.bench_function("forward", |b| b.iter(|| black_box(run(&inputs).expect("shapes that fit"))));
    let dy = run(&inputs).and_then(|y| numbers(y.shape(), &device)).expect("memory");
    assert_eq!(dy.dtype(), DType::F32);
    let step = || -> Result<()> {
        let tape = Tape::start();
        tape.watch(&inputs);
        let y = run(&inputs)?;
        black_box(tape.backward_from(&[(&y, dy.clone())])?);
        Ok(())
    };
    group.bench_function("step", |b| b.iter(|| step().expect("shapes that fit")));
    group.finish();
}

fn products(c: &mut Criterion) {
    for size in [1024, 2048] {
        let square = Shape::from([size, size]);
        case(c, &format!("matmul_{size}"), &[square, square], |x| x[0].matmul(&x[1], false, false));
    }
    // Rows, inputs, outputs: the ViT over 1000 patches, MBConv over 100 patches, a style of eight images.
    for (name, [rows, inner, out]) in [
        ("linear_vit_qkv", [1000, 384, 1152]),
        ("linear_vit_fc1", [1000, 384, 1536]),
        ("linear_mbconv_expand", [6400, 512, 2048]),
        ("linear_mbconv_project", [6400, 2048, 512]),
        ("linear_style", [8, 512, 512]),
    ] {
        let inputs = [Shape::from([rows, inner]), Shape::from([out, inner]), Shape::from([out])];
        case(c, name, &inputs, |x| x[0].linear(&x[1], Some(&x[2])));
    }
    let heads = Shape::from([6, 1000, 64]);
    case(c, "matmul_attention", &[heads, heads], |x| x[0].matmul(&x[1], false, true));
}

fn convolutions(c: &mut Criterion) {
    let same = Conv2d { padding: 1, ..Conv2d::default() };
    for (name, x, [k, r], conv) in [
        ("conv2d_256px_c3_k64_1x1", [4, 256, 256, 3], [64, 1], Conv2d::default()),
        ("conv2d_128px_c64_k128_3x3", [4, 128, 128, 64], [128, 3], same),
        ("conv2d_32px_c256_k256_3x3", [4, 32, 32, 256], [256, 3], same),
        ("conv2d_8px_c512_k512_3x3", [4, 8, 8, 512], [512, 3], same),
        ("conv2d_64px_c32_k32_3x3", [8, 64, 64, 32], [32, 3], same),
        ("conv2d_65px_c128_k256_3x3_s2", [4, 65, 65, 128], [256, 3], Conv2d { stride: 2, ..Conv2d::default() }),
        ("conv2d_alexnet_11x11_s4", [4, 256, 256, 3], [64, 11], Conv2d { stride: 4, padding: 2, ..Conv2d::default() }),
        ("conv2d_alexnet_5x5", [4, 31, 31, 64], [192, 5], Conv2d { padding: 2, ..Conv2d::default() }),
    ] {
        let inputs = [Shape::from(x), Shape::from([k, r, r, x[3]]), Shape::from([k])];
        case(c, name, &inputs, |x| x[0].conv2d(&x[1], Some(&x[2]), conv));
    }
    for (name, x) in [("depthwise_8px_c2048_3x3", [100, 8, 8, 2048]), ("depthwise_64px_c96_3x3", [4, 64, 64, 96])] {
        case(c, name, &[Shape::from(x), Shape::from([3, 3, x[3]])], |x| x[0].depthwise_conv2d(&x[1], 1, 1));
    }
    let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0]).expect("taps");
    for (name, x, up, down) in [
        ("modulated_32px_c256", [4, 32, 32, 256], 1, 1),
        ("modulated_up_64px_c128", [4, 64, 64, 128], 2, 1),
        ("modulated_down_64px_c128", [4, 64, 64, 128], 1, 2),
    ] {
        let channels = x[3];
        let inputs = [Shape::from(x), Shape::from([channels, 3, 3, channels]), Shape::from([x[0], channels])];
        let resampling = Resampling { up, down, padding: 1, filter: filter.clone() };
        let conv = ModulatedConv2d { demodulate: true, resampling };
        case(c, name, &inputs, |x| x[0].modulated_conv2d(&x[1], &x[2], &conv));
    }
}

fn resampling(c: &mut Criterion) {
    let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0]).expect("taps");
    let plain = Upfirdn2d::default();
    for (name, x, resample) in [
        ("upfirdn2d_blur_64px_c128", [4, 64, 64, 128], Upfirdn2d { padding: [2, 1, 2, 1], ..plain }),
        ("upfirdn2d_up_64px_c128", [4, 64, 64, 128], Upfirdn2d { up: 2, padding: [2, 1, 2, 1], gain: 4.0, ..plain }),
        ("upfirdn2d_down_64px_c128", [4, 64, 64, 128], Upfirdn2d { down: 2, padding: [1, 1, 1, 1], ..plain }),
        ("upfirdn2d_up_128px_c3", [4, 128, 128, 3], Upfirdn2d { up: 2, padding: [2, 1, 2, 1], gain: 4.0, ..plain }),
    ] {
        case(c, name, &[Shape::from(x)], |x| x[0].upfirdn2d(&filter, resample));
    }
    let alexnet = Pool2d { kernel: 3, stride: 2, padding: 0 };
    case(c, "max_pool2d_63px_c64", &[Shape::from([4, 63, 63, 64])], |x| x[0].max_pool2d(alexnet));
    case(c, "avg_pool2d_64px_c64", &[Shape::from([4, 64, 64, 64])], |x| {
        x[0].avg_pool2d(Pool2d { kernel: 2, stride: 2, padding: 0 })
    });
    case(c, "global_avg_pool_8px_c2048", &[Shape::from([100, 8, 8, 2048])], |x| x[0].global_avg_pool());
    let patches = Shape::from([2, 1024, 1024, 3]);
    case(c, "resize_1024_to_256", &[patches], |x| x[0].resize([256, 256], Interpolation::Antialiased));
}

criterion_group!(benches, products, convolutions, resampling);
criterion_main!(benches);
