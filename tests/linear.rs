//! A fully connected layer with what follows it against its parts one after another, results, gradients and gradients of
//! gradients, on the CPU and on the emulator; dropout with its sum against dropout and a sum.

use isg::{
    DType, Device, Result, Tape, Tensor,
    activation::{Activation, ActivationParams},
    device::{
        emulator::{Emulator, Options},
        host::HostBuffer,
    },
    ops::epilogue::Epilogue,
    random::Philox,
};

use crate::ops::compare;

fn drawn(name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let values = Philox::named(3, name).normals(shape.iter().product());
    Tensor::from_buffer(HostBuffer::F64(values).cast(DType::F32).cast(dtype), shape, device)
}

/// The result, the gradients of x, weight, bias and residual, and the gradients of x's gradient.
fn run(x: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Vec<f64>>> {
    let tape = Tape::start();
    tape.watch(x);
    let (y, wrt) = (f(x)?, x.iter().collect::<Vec<_>>());
    let grads = tape.grad(&y.square()?.sum_all()?, &wrt)?;
    let again = tape.grad(&grads[0].square()?.sum_all()?, &wrt)?;
    std::iter::once(&y).chain(&grads).chain(&again).map(Tensor::to_vec::<f64>).collect()
}

#[test]
fn fused_is_what_its_parts_are() -> Result<()> {
    let emulator = Device::gpu(Emulator::new(&Options::default()));
    let params = ActivationParams { alpha: 0.2, gain: 1.4, clamp: None };
    let kinds = [
        (Activation::Linear, params, true),
        (Activation::Linear, ActivationParams::default(), true),
        (Activation::Relu, params, false),
        (Activation::LeakyRelu, ActivationParams { clamp: Some(1.3), ..params }, false),
        (Activation::Sigmoid, params, false),
        (Activation::Silu, ActivationParams { clamp: Some(1.1), ..params }, false),
        (Activation::Gelu, ActivationParams::default(), false),
        (Activation::Hardswish, ActivationParams { clamp: Some(1.2), ..params }, false),
        (Activation::Relu6, ActivationParams { gain: 0.2, ..params }, false),
    ];
    let mut found = Vec::new();
    for (device, dtype, limit) in [(&Device::cpu(), DType::F64, 1e-11), (&emulator, DType::F32, 3e-5)] {
        // Few rows, ragged tiles, whole fours, a split inner axis.
        for [rows, inner, out] in [[3, 20, 7], [67, 9, 13], [12, 16, 72], [6, 1030, 5]] {
            let x = [
                drawn("x", &[rows, inner], dtype, device)?,
                drawn("weight", &[out, inner], dtype, device)?.scale((inner as f64).sqrt().recip())?,
                drawn("bias", &[out], dtype, device)?,
                drawn("residual", &[rows, out], dtype, device)?,
            ];
            for (activation, params, residual) in kinds {
                let fused = run(&x, |x| {
                    let residual = residual.then_some(&x[3]);
                    x[0].linear_fused(&x[1], &Epilogue { bias: Some(&x[2]), noise: None, activation, params, residual })
                })?;
                let parts = run(&x, |x| {
                    let y = x[0].linear(&x[1], None)?.bias_act(Some(&x[2]), activation, params)?;
                    if residual { y.add(&x[3]) } else { Ok(y) }
                })?;
                let what = format!("{rows}x{inner}x{out} {} {dtype}", activation.name());
                found.extend(compare(&what, &fused, &parts, limit, 1e-3));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn what_a_linear_layer_cannot_do_in_one_pass_is_refused() -> Result<()> {
    let device = Device::cpu();
    let [x, weight, residual] = [[3, 4], [5, 4], [3, 5]].map(|shape| drawn("x", &shape, DType::F32, &device));
    let (x, weight, residual) = (x?, weight?, residual?);
    let refused = |activation, residual| {
        let params = ActivationParams::default();
        x.linear_fused(&weight, &Epilogue { activation, params, residual, ..Epilogue::default() }).is_err()
    };
    assert!(refused(Activation::Tanh, None) && refused(Activation::Softplus, None));
    assert!(refused(Activation::Gelu, Some(&residual)));
    assert!(refused(Activation::Linear, Some(&x)));
    assert!(!refused(Activation::Gelu, None) && !refused(Activation::Linear, Some(&residual)));
    Ok(())
}

#[test]
fn dropout_onto_is_dropout_and_a_sum() -> Result<()> {
    for device in [Device::cpu(), Device::gpu(Emulator::new(&Options::default()))] {
        let [x, residual] = ["x", "residual"].map(|name| drawn(name, &[7, 33], DType::F32, &device));
        let (x, residual, random) = (x?, residual?, Philox::named(5, "dropout"));
        for probability in [0.0, 0.3] {
            let one = x.dropout_onto(Some(&residual), probability, random, 2)?.to_vec::<f32>()?;
            let two = x.dropout(probability, random, 2)?.add(&residual)?.to_vec::<f32>()?;
            assert_eq!(one, two);
        }
        assert!(x.dropout_onto(Some(&x.reshape([33, 7])?), 0.3, random, 2).is_err());
    }
    Ok(())
}
