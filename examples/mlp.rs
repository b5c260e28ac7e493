//! Trains a multilayer perceptron to tell two spirals apart.
//!
//! `cargo run --release --example mlp`, or with another device than the CPU: `-- emulator`, where every access of every kernel is
//! checked (give it fewer steps: `-- emulator 3`), or `-- cuda`.

use std::{env, f32::consts::PI};

use isg::{
    DType, Device, Result, Tape, Tensor,
    activation::Activation,
    nn::{builder::Builder, linear::Linear},
    optim::{Adam, AdamConfig},
};

fn main() -> Result<()> {
    let device = Device::named(&env::args().nth(1).unwrap_or("cpu".to_string()))?;
    let steps = env::args().nth(2).and_then(|steps| steps.parse().ok()).unwrap_or(300);

    let (mut points, mut arms) = (Vec::new(), Vec::new());
    for i in 0..128u8 {
        let (arm, along) = (f32::from(i % 2), f32::from(i / 2) / 64.0);
        let angle = 6.0 * along + PI * arm;
        points.extend([along * angle.cos(), along * angle.sin()]);
        arms.push(arm);
    }
    let (x, target) =
        (Tensor::from_vec(points, [128, 2], &device)?, Tensor::from_vec(arms.clone(), [128, 1], &device)?);

    let mut builder = Builder::fresh(1, DType::F32, &device);
    let mut layer = |name: &str, from, to| builder.scope(name, |b| Linear::new(b, from, to, 1.5));
    let (first, second, last) = (layer("first", 2, 64)?, layer("second", 64, 64)?, layer("last", 64, 1)?);
    let params = builder.finish()?;
    let forward = |x: &Tensor| {
        let hidden = first.forward_activated(x, Activation::Gelu)?;
        last.forward(&second.forward_activated(&hidden, Activation::Gelu)?)
    };

    let mut adam = Adam::new(&params, AdamConfig { lr: 0.01, ..AdamConfig::default() })?;
    for step in 0..steps {
        let tape = Tape::start();
        tape.watch(params.trainable());
        let loss = forward(&x)?.mse_loss(&target)?;
        let grads = tape.backward(&loss)?;
        adam.step(&params, &grads, 1.0)?;
        if step % 50 == 0 {
            println!("step {step}: loss {:.4}", loss.item()?);
        }
    }

    let scores = forward(&x)?.to_vec::<f32>()?;
    let right = scores.iter().zip(&arms).filter(|(score, arm)| (**score > 0.5) == (**arm > 0.5)).count();
    println!("{right} of {} points on the right arm, on {device}", arms.len());
    Ok(())
}
