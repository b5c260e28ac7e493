//! What is fused is judged by its parts: a convolution with an epilogue against the convolution, the noise, the activation and the
//! sum one after another, results and gradients, on the CPU and on the emulator.

use isg::{
    DType, Device, Result, Tape, Tensor,
    activation::{Activation, ActivationParams},
    device::{
        emulator::{Checks, Emulator, Options},
        host::HostBuffer,
    },
    ops::{
        conv2d::Conv2d,
        epilogue::Epilogue,
        modulated_conv2d::{ModulatedConv2d, Resampling},
        upfirdn2d::Filter,
    },
    random::Philox,
};

use crate::ops::compare;

/// A layer with its epilogue (`true`), or without.
type Layer = fn(&[Tensor], &Epilogue) -> Result<Tensor>;

fn conv(x: &[Tensor], epilogue: &Epilogue) -> Result<Tensor> {
    x[0].conv2d_fused(&x[1], Conv2d { padding: 1, ..Conv2d::default() }, epilogue)
}

fn modulated(x: &[Tensor], epilogue: &Epilogue, [up, down]: [usize; 2]) -> Result<Tensor> {
    let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?;
    let conv = ModulatedConv2d { demodulate: true, resampling: Resampling { up, down, padding: 1, filter } };
    x[0].modulated_conv2d_fused(&x[1], &x[2], &conv, epilogue)
}

/// Name, layer, pixels of the result.
const LAYERS: [(&str, Layer, [usize; 2]); 4] = [
    ("conv2d", conv, [6, 4]),
    ("modulated", |x, epilogue| modulated(x, epilogue, [1, 1]), [6, 4]),
    ("modulated up", |x, epilogue| modulated(x, epilogue, [2, 1]), [12, 8]),
    ("modulated down", |x, epilogue| modulated(x, epilogue, [1, 2]), [3, 2]),
];

/// x, weight, style, bias, noise, strength, residual.
fn inputs([h, w]: [usize; 2], dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
    let shapes: [&[usize]; 7] = [&[2, 6, 4, 5], &[7, 3, 3, 5], &[2, 5], &[7], &[2, h, w, 1], &[1], &[2, h, w, 7]];
    let one = |(i, shape): (usize, &&[usize])| {
        let values = Philox::named(i as u64, "epilogue").normals(shape.iter().product());
        Tensor::from_buffer(HostBuffer::F64(values).cast(DType::F32).cast(dtype), *shape, device)
    };
    shapes.iter().enumerate().map(one).collect()
}

/// The result and the gradients of all inputs.
fn run(
    layer: Layer,
    x: &[Tensor],
    fused: bool,
    activation: Activation,
    params: ActivationParams,
    residual: bool,
) -> Result<Vec<Vec<f64>>> {
    let tape = Tape::start();
    tape.watch(x);
    let y = if fused {
        let residual = residual.then_some(&x[6]);
        layer(x, &Epilogue { bias: Some(&x[3]), noise: Some((&x[4], &x[5])), activation, params, residual })?
    } else {
        let sum = layer(x, &Epilogue::default())?.add(&x[4].mul(&x[5])?)?;
        let y = sum.bias_act(Some(&x[3]), activation, params)?;
        if residual { y.add(&x[6])? } else { y }
    };
    let values = y.to_vec::<f64>()?;
    let grads = tape.backward(&y.square()?)?;
    let gradient = |t: &Tensor| grads.get(t).map_or_else(|| t.zeros_like(), |g| Ok(g.clone()))?.to_vec::<f64>();
    std::iter::once(Ok(values)).chain(x.iter().map(gradient)).collect()
}

#[test]
fn fused_is_what_its_parts_are() -> Result<()> {
    let emulator = Device::gpu(Emulator::new(&Options::default()));
    let params = ActivationParams { alpha: 0.2, gain: 1.4, clamp: None };
    let kinds = [
        (Activation::Linear, params, true),
        (Activation::Relu, params, false),
        (Activation::LeakyRelu, params, false),
        (Activation::LeakyRelu, ActivationParams { clamp: Some(1.3), ..params }, false),
    ];
    let mut found = Vec::new();
    for (device, dtype, limit) in [(&Device::cpu(), DType::F64, 1e-12), (&emulator, DType::F32, 1e-5)] {
        for (name, layer, size) in LAYERS {
            let x = inputs(size, dtype, device)?;
            for (activation, params, residual) in kinds {
                let [fused, parts] = [true, false].map(|fused| run(layer, &x, fused, activation, params, residual));
                let what = format!("{name} {} {dtype}", activation.name());
                found.extend(compare(&what, &fused?, &parts?, limit, 1e-3));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

/// Styled on the way into the convolution or before it, upsampled in one pass or in two: the same image and the same gradients.
#[test]
fn enlarging_at_once_is_what_its_parts_are() -> Result<()> {
    let emulator = Device::gpu(Emulator::new(&Options::default()));
    let filter =
        Filter::new([4, 4], &[1.0, 3.0, 2.0, 1.0].map(|a| [1.0, 2.0, 3.0, 0.5].map(|b| a * b / 16.0)).concat())?;
    let resampling = Resampling { up: 2, down: 1, padding: 1, filter };
    for (device, dtype, limit) in [(&Device::cpu(), DType::F64, 1e-12), (&emulator, DType::F32, 1e-5)] {
        let shapes: [&[usize]; 3] = [&[2, 7, 8, 3], &[68, 3, 3, 3], &[2, 3]];
        let one = |(i, shape): (usize, &&[usize])| {
            let values = Philox::named(i as u64, "upsample").normals(shape.iter().product());
            Tensor::from_buffer(HostBuffer::F64(values).cast(DType::F32).cast(dtype), *shape, device)
        };
        let x: Vec<Tensor> = shapes.iter().enumerate().map(one).collect::<Result<_>>()?;
        let run = |at_once: bool| -> Result<(usize, Vec<Vec<f64>>)> {
            let tape = Tape::start();
            tape.watch(&x);
            let y = if at_once {
                let conv = ModulatedConv2d { demodulate: false, resampling: resampling.clone() };
                x[0].modulated_conv2d(&x[1], &x[2], &conv)?
            } else {
                x[0].mul(&x[2].reshape([2, 1, 1, 3])?)?.resampled_conv2d(&x[1], &resampling)?
            };
            let (steps, values) = (tape.len(), y.to_vec::<f64>()?);
            let grads = tape.backward(&y.square()?)?;
            let gradient = |t: &Tensor| grads.get(t).expect("all are watched").to_vec::<f64>();
            Ok((steps, std::iter::once(Ok(values)).chain(x.iter().map(gradient)).collect::<Result<_>>()?))
        };
        let ((steps, once), (_, parts)) = (run(true)?, run(false)?);
        assert_eq!(steps, 1, "one pass");
        assert_eq!(compare(&format!("{dtype}"), &once, &parts, limit, 1e-3), [""; 0]);
    }
    Ok(())
}

/// Launches, and bytes of global memory they touch in whole sectors.
fn cost(device: &Device, run: impl FnOnce() -> Result<()>) -> Result<[u64; 2]> {
    device.take_counters();
    run()?;
    let kernels = device.take_counters();
    let sectors = kernels
        .iter()
        .flat_map(|kernel| &kernel.counts)
        .filter(|(name, _)| ["global_load_sectors", "global_store_sectors"].contains(name));
    Ok([kernels.iter().map(|kernel| kernel.launches).sum(), sectors.map(|(_, count)| count * 32).sum()])
}

/// Layers of generator and discriminator as they were before anything was fused, one op after another, cost more launches and more
/// bytes. `ISG_SHOW=cost` prints the table.
#[test]
fn fused_layers_launch_less_and_move_less() -> Result<()> {
    let options = Options { perturb: false, checks: Checks::NONE, ..Options::default() };
    let device = Device::gpu(Emulator::new(&options));
    let filter = Filter::low_pass(&[1.0, 3.0, 3.0, 1.0])?;
    let normal = |seed: u64, shape: &[usize]| {
        let values = Philox::named(seed, "cost").normals(shape.iter().product());
        Tensor::from_buffer(HostBuffer::F64(values).cast(DType::Bf16), shape, &device)
    };
    let (n, px, c) = (2, 16, 64);
    let (x, weight) = (normal(0, &[n, px, px, c])?, normal(1, &[c, 3, 3, c])?);
    let (style, bias) = (normal(2, &[n, c])?, normal(3, &[c])?);
    let params = ActivationParams { alpha: 0.2, gain: std::f64::consts::SQRT_2, clamp: None };
    let leaky = Activation::LeakyRelu;
    let layer = |up, down, fused: bool| -> Result<()> {
        let resampling = Resampling { up, down, padding: 1, filter: filter.clone() };
        if fused {
            let conv = ModulatedConv2d { demodulate: true, resampling };
            let epilogue = Epilogue { bias: Some(&bias), activation: leaky, params, ..Epilogue::default() };
            x.modulated_conv2d_fused(&weight, &style, &conv, &epilogue)?;
        } else {
            let energy = weight.square()?.sum(&[1, 2])?.reshape([c, c])?;
            let factor = style.square()?.linear(&energy, None)?.shift(1e-8)?.rsqrt()?;
            let y = x.mul(&style.reshape([n, 1, 1, c])?)?.resampled_conv2d(&weight, &resampling)?;
            y.mul(&factor.reshape([n, 1, 1, c])?)?.bias_act(Some(&bias), leaky, params)?;
        }
        Ok(())
    };
    let critic = |down, fused: bool| -> Result<()> {
        let resampling = Resampling { up: 1, down, padding: 1, filter: filter.clone() };
        if fused {
            let epilogue = Epilogue { bias: Some(&bias), activation: leaky, params, ..Epilogue::default() };
            x.resampled_conv2d_fused(&weight, &resampling, &epilogue)?;
        } else {
            x.resampled_conv2d(&weight, &resampling)?.bias_act(Some(&bias), leaky, params)?;
        }
        Ok(())
    };
    let mut table = String::new();
    let mut judged = |name: &str, most: u64, run: &dyn Fn(bool) -> Result<()>| -> Result<()> {
        let (parts, fused) = (cost(&device, || run(false))?, cost(&device, || run(true))?);
        table += &format!("{name}: {} launches, {} bytes; fused {}, {}\n", parts[0], parts[1], fused[0], fused[1]);
        assert!(fused[0] <= most && fused[0] < parts[0] && fused[1] < parts[1], "{table}");
        Ok(())
    };
    judged("modulated", 2, &|fused| layer(1, 1, fused))?;
    judged("modulated up", 2, &|fused| layer(2, 1, fused))?;
    judged("critic", 1, &|fused| critic(1, fused))?;
    judged("critic down", 2, &|fused| critic(2, fused))?;
    if std::env::var("ISG_SHOW").is_ok_and(|what| what == "cost") {
        println!("{table}");
    }
    Ok(())
}

/// A bf16 clamp that bf16 cannot hold: what was clamped has no gradient all the same.
#[test]
fn a_clamp_between_two_numbers_still_stops_the_gradient() -> Result<()> {
    let device = Device::gpu(Emulator::new(&Options::default()));
    for device in [&Device::cpu(), &device] {
        let of = |values: Vec<f32>, shape: [usize; 4]| Tensor::from_vec(values, shape, device)?.cast(DType::Bf16);
        let x = of(vec![-8.0, -1.0, 1.0, 8.0], [1, 1, 4, 1])?;
        let weight = of(vec![1.0], [1, 1, 1, 1])?;
        let params = ActivationParams { clamp: Some(1.3), ..ActivationParams::default() };
        let tape = Tape::start();
        tape.watch([&x]);
        let y = x.conv2d_fused(&weight, Conv2d::default(), &Epilogue { params, ..Epilogue::default() })?;
        let grads = tape.backward(&y)?;
        assert_eq!(grads.get(&x).expect("x is watched").to_vec::<f64>()?, [0.0, 1.0, 1.0, 0.0]);
    }
    Ok(())
}

#[test]
fn what_hides_the_sign_is_refused_in_one_sentence() -> Result<()> {
    let device = Device::cpu();
    let x = inputs([6, 4], DType::F32, &device)?;
    let refused = |activation, params, residual: bool| {
        let residual = residual.then_some(&x[6]);
        conv(&x, &Epilogue { activation, params, residual, ..Epilogue::default() }).is_err()
    };
    let params = ActivationParams::default();
    assert!(refused(Activation::LeakyRelu, params, true));
    assert!(refused(Activation::LeakyRelu, ActivationParams { alpha: -0.1, ..params }, false));
    assert!(refused(Activation::Relu, ActivationParams { gain: -1.0, ..params }, false));
    assert!(refused(Activation::Linear, ActivationParams { clamp: Some(0.0), ..params }, false));
    assert!(refused(Activation::Gelu, params, false));
    assert!(!refused(Activation::Linear, ActivationParams { gain: -1.0, ..params }, true));
    Ok(())
}
