//! Optimisers, averages, schedules, clipping.

use approx::assert_relative_eq;
use isg::{
    DType, Device, Error, Result, Tape, Tensor,
    nn::builder::{Builder, Init, Params},
    ops::lerp::lerp,
    optim::{Adam, AdamConfig, Ema, Schedule, Sgd, SgdConfig, adam, clip_scale},
    random::Philox,
};

fn parameters(device: &Device) -> Result<Params> {
    let mut builder = Builder::fresh(3, DType::F64, device);
    builder.param("layer.weight", [4, 5], Init::Normal(1.0))?;
    builder.param("layer.bias", [4], Init::Normal(0.5))?;
    builder.buffer("running_mean", [4], Init::Constant(0.0))?;
    builder.param("unused", [3], Init::Constant(1.0))?;
    builder.finish()
}

/// The sum of squares of weight and bias about a moving target, so that gradients change from step to step.
fn loss(params: &Params, step: usize) -> Result<Tensor> {
    let [weight, bias] = ["layer.weight", "layer.bias"].map(|name| params.get(name).expect("made above"));
    let target = Tensor::full((step as f64).sin(), weight.shape(), DType::F64, weight.device())?;
    weight.sub(&target)?.square()?.sum_all()?.add(&bias.mul(bias)?.sum_all()?)
}

fn train(adam: &mut Adam, params: &Params, steps: std::ops::Range<usize>, max_norm: f64) -> Result<()> {
    for step in steps {
        let tape = Tape::start();
        tape.watch(params.trainable());
        let loss = loss(params, step)?;
        let grads = tape.backward(&loss)?;
        adam.step(params, &grads, max_norm)?;
    }
    Ok(())
}

/// Adam as its paper writes it, one number at a time.
struct Reference {
    config: AdamConfig,
    m: f64,
    v: f64,
    t: i32,
}

impl Reference {
    fn step(&mut self, p: f64, grad: f64, decays: bool) -> f64 {
        let c = self.config;
        let decay = if decays { c.weight_decay } else { 0.0 };
        let (grad, p) = if c.decoupled { (grad, p - c.lr * decay * p) } else { (grad + decay * p, p) };
        self.t += 1;
        self.m = c.beta1 * self.m + (1.0 - c.beta1) * grad;
        self.v = c.beta2 * self.v + (1.0 - c.beta2) * grad * grad;
        let m = self.m / (1.0 - c.beta1.powi(self.t));
        let v = self.v / (1.0 - c.beta2.powi(self.t));
        p - c.lr * m / (v.sqrt() + c.eps)
    }
}

#[test]
fn adam_and_adamw_follow_their_papers() -> Result<()> {
    for decoupled in [false, true] {
        let device = Device::cpu();
        let params = parameters(&device)?;
        let config = AdamConfig { lr: 0.05, beta1: 0.8, weight_decay: 0.1, decoupled, ..AdamConfig::default() };
        let [weight, bias] = ["layer.weight", "layer.bias"].map(|name| params.get(name).expect("made above"));
        let (mut w, mut b) = (weight.to_vec::<f64>()?, bias.to_vec::<f64>()?);
        let fresh = || Reference { config, m: 0.0, v: 0.0, t: 0 };
        let mut references: Vec<Reference> = (0..w.len() + b.len()).map(|_| fresh()).collect();
        let mut adam = Adam::new(&params, config)?;
        for step in 0..7 {
            train(&mut adam, &params, step..step + 1, 0.0)?;
            let (of_w, of_b) = references.split_at_mut(w.len());
            let target = (step as f64).sin();
            w.iter_mut().zip(of_w).for_each(|(p, r)| *p = r.step(*p, 2.0 * (*p - target), true));
            b.iter_mut().zip(of_b).for_each(|(p, r)| *p = r.step(*p, 2.0 * *p, false));
        }
        let ours = [weight.to_vec::<f64>()?, bias.to_vec::<f64>()?].concat();
        assert_relative_eq!(&ours[..], &[w, b].concat()[..], epsilon = 1e-13, max_relative = 0.0);
        let unused = params.get("unused").expect("made above").to_vec::<f64>()?;
        assert_eq!(unused, [1.0; 3], "a parameter without a gradient stays");
    }
    Ok(())
}

#[test]
fn adam_goes_on_from_a_checkpoint_with_the_same_bits() -> Result<()> {
    let device = Device::cpu();
    let (whole, resumed) = (parameters(&device)?, parameters(&device)?);
    let config = AdamConfig { weight_decay: 0.01, ..AdamConfig::default() };
    let mut adam = Adam::new(&whole, config)?;
    train(&mut adam, &whole, 0..9, 1.0)?;

    let mut first = Adam::new(&resumed, config)?;
    train(&mut first, &resumed, 0..4, 1.0)?;
    let state = first.named(&resumed).into_iter().collect();
    let mut second = Adam::new(&resumed, config)?;
    second.restore(&resumed, &state, first.step_count(), "checkpoint")?;
    train(&mut second, &resumed, 4..9, 1.0)?;
    for ((name, a), (_, b)) in whole.named().zip(resumed.named()) {
        assert_eq!(a.to_vec::<f64>()?, b.to_vec::<f64>()?, "{name}");
    }
    let missing = second.restore(&resumed, &Default::default(), 4, "here.safetensors");
    assert_eq!(
        missing.expect_err("nothing is there").to_string(),
        "here.safetensors: layer.weight.m is missing; resume from an earlier checkpoint"
    );
    Ok(())
}

/// Gradient descent as PyTorch's documentation writes it, one number at a time; on the emulator in f32, in several chunks.
#[test]
fn sgd_follows_its_definition_on_every_device() -> Result<()> {
    const COUNT: usize = 4101;
    for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
        let config = SgdConfig { lr: 0.05, momentum, nesterov, weight_decay: 0.1, decay_vectors: true };
        for (device, dtype, epsilon) in [
            (Device::cpu(), DType::F64, 1e-13),
            (Device::cpu(), DType::F32, 1e-6),
            (Device::named("emulator")?, DType::F32, 1e-6),
        ] {
            let mut builder = Builder::fresh(5, dtype, &device);
            let weight = builder.param("weight", [COUNT], Init::Normal(1.0))?;
            let params = builder.finish()?;
            let mut expected: Vec<(f64, f64)> = weight.to_vec::<f64>()?.into_iter().map(|p| (p, 0.0)).collect();
            let mut sgd = Sgd::new(&params, config)?;
            for step in 0..4 {
                let max_norm = if step == 3 { 1.0 } else { 0.0 };
                let norm = expected.iter().map(|(p, _)| 4.0 * p * p).sum::<f64>().sqrt();
                let scale = if step == 3 { 1.0 / (norm + 1e-6) } else { 1.0 };
                for (p, v) in &mut expected {
                    let g = scale * 2.0 * *p + 0.1 * *p;
                    *v = momentum * *v + g;
                    *p -= 0.05 * if nesterov { g + momentum * *v } else { *v };
                }
                let tape = Tape::start();
                tape.watch([&weight]);
                let grads = tape.backward(&weight.square()?.sum_all()?)?;
                let found = sgd.step(&params, &grads, max_norm)?;
                assert_relative_eq!(found, norm, max_relative = 1e-5);
                if step == 1 {
                    let state = sgd.named(&params).into_iter().collect();
                    sgd = Sgd::new(&params, config)?;
                    sgd.restore(&params, &state, "checkpoint")?;
                }
            }
            let expected: Vec<f64> = expected.into_iter().map(|(p, _)| p).collect();
            assert_relative_eq!(&weight.to_vec::<f64>()?[..], &expected[..], epsilon = epsilon, max_relative = epsilon);
        }
    }
    Ok(())
}

#[test]
fn one_large_update_in_single_precision_is_near_double() -> Result<()> {
    let device = Device::cpu();
    let count = 100_003;
    let draw = |name: &str| Philox::named(1, name).normals(count);
    let step =
        adam::AdamStep { lr: 0.002, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, decoupled: true, step: 3 };
    let mut results = Vec::new();
    for dtype in [DType::F32, DType::F64] {
        let make = |values: &[f64]| Tensor::from_f64(values, [count], DType::F32, &device)?.cast(dtype);
        let v: Vec<f64> = draw("v").into_iter().map(f64::abs).collect();
        let (param, grad, m, v) = (make(&draw("p"))?, make(&draw("g"))?, make(&draw("m"))?, make(&v)?);
        adam::update(&step, &param, &grad, &m, &v)?;
        results.push(param.to_vec::<f64>()?);
    }
    let worst = results[0].iter().zip(&results[1]).fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst < 1e-6, "{worst}");
    Ok(())
}

#[test]
fn updates_are_refused_while_a_tape_lives() -> Result<()> {
    let device = Device::cpu();
    let params = parameters(&device)?;
    let ema = Ema::of(&params)?;
    let tape = Tape::start();
    assert!(matches!(ema.update(&params, 0.5), Err(Error::TapeAlive { .. })));
    drop(tape);
    ema.update(&params, 0.5)
}

#[test]
fn averages_follow_and_come_back() -> Result<()> {
    let device = Device::cpu();
    let params = parameters(&device)?;
    let mut ema = Ema::of(&params)?;
    let weight = params.get("layer.weight").expect("made above");
    let before = weight.to_vec::<f64>()?;
    let moved = weight.shift(1.0)?;
    lerp(&[weight], &[&moved], 1.0)?;
    assert_eq!(weight.to_vec::<f64>()?, moved.to_vec::<f64>()?, "weight 1 copies");
    ema.update(&params, 0.75)?;
    let averages = ema.named(&params);
    assert_eq!(averages.len(), 4, "buffers too");
    let expected: Vec<f64> = before.into_iter().map(|before| before + 0.25).collect();
    assert_relative_eq!(&averages[0].1.to_vec::<f64>()?[..], &expected[..], epsilon = 1e-15);
    let stored = averages.into_iter().collect();
    ema.restore(&params, &stored, "checkpoint")?;
    assert!(ema.restore(&params, &Default::default(), "checkpoint").is_err());
    assert_eq!(Ema::warmed_up(0.999, 0), 0.1);
    assert_eq!(Ema::warmed_up(0.999, 1_000_000), 0.999);
    let narrow = Tensor::zeros([3], DType::F64, &device)?;
    assert!(lerp(&[weight], &[&narrow], 0.5).is_err());
    Ok(())
}

#[test]
fn gradients_are_scaled_to_the_limit() -> Result<()> {
    let device = Device::cpu();
    let a = Tensor::from_vec(vec![3.0f32, 0.0], [2], &device)?;
    let b = Tensor::from_vec(vec![-4.0f32], [1], &device)?;
    let (norm, scale) = clip_scale(&[&a, &b], 2.5)?;
    assert_eq!(norm, 5.0);
    assert_relative_eq!(scale, 0.5, epsilon = 1e-6);
    assert_eq!(clip_scale(&[&a, &b], 10.0)?, (5.0, 1.0));
    assert_eq!(clip_scale(&[&a, &b], 0.0)?, (5.0, 1.0));
    Ok(())
}

#[test]
fn schedules_have_their_shape() {
    let near = |a: f64, b: f64| assert_relative_eq!(a, b, epsilon = 1e-12);
    near(Schedule::Constant.factor(1e6), 1.0);
    let cosine = Schedule::Cosine { warm_up: 10, total: 110, final_factor: 0.2 };
    near(cosine.factor(0.0), 0.1);
    near(cosine.factor(9.0), 1.0);
    near(cosine.factor(10.0), 1.0);
    near(cosine.factor(60.0), 0.6);
    near(cosine.factor(110.0), 0.2);
    near(cosine.factor(500.0), 0.2);
    let restarts = Schedule::WarmRestarts { warm_up: 4, cycle: 10, growth: 2.0, final_factor: 0.0 };
    near(restarts.factor(1.0), 0.5);
    near(restarts.factor(9.0), 0.5);
    near(restarts.factor(14.0), 1.0);
    near(restarts.factor(24.0), 0.5);
    near(restarts.factor(34.0), 1.0);
    let steps = Schedule::Steps { every: 5, factor: 0.1 };
    near(steps.factor(4.9), 1.0);
    near(steps.factor(5.0), 0.1);
    near(steps.factor(10.0), 0.01);
}
