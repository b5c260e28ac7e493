//! The tape: ownership, pruning, order, gradients of gradients.

use isg::{DType, Device, Result, Tape, Tensor, ops::lerp::lerp};

fn vector(values: &[f64], device: &Device) -> Tensor {
    Tensor::from_f64(values, [values.len()], DType::F64, device).expect("as many values as the shape holds")
}

#[test]
fn second_derivative_of_a_cube() -> Result<()> {
    let device = Device::cpu();
    let x = vector(&[1.5, -2.0], &device);
    let tape = Tape::start();
    tape.watch([&x]);
    let y = x.square()?.mul(&x)?;
    let dx = tape.grad(&y, &[&x])?.swap_remove(0);
    assert_eq!(dx.to_vec::<f64>()?, [3.0 * 1.5 * 1.5, 12.0]);
    let grads = tape.backward(&dx)?;
    assert_eq!(grads.get(&x).expect("x is watched").to_vec::<f64>()?, [9.0, -12.0]);
    Ok(())
}

#[test]
fn nothing_is_recorded_without_a_watched_input() -> Result<()> {
    let device = Device::cpu();
    let (x, w) = (vector(&[1.0, 2.0], &device), vector(&[3.0, 4.0], &device));
    let before = x.mul(&w)?;
    let tape = Tape::start();
    tape.watch([&w]);
    before.square()?;
    assert_eq!(tape.len(), 0);
    let y = x.mul(&w)?.sum_all()?;
    assert_eq!(tape.to_string(), "0 mul [2] [2] -> [2]\n1 reshape [2] -> [2]\n2 sum [2] -> [1]\n");
    let grads = tape.backward(&y)?;
    assert!(grads.get(&x).is_none(), "nobody watched x");
    assert_eq!(grads.get(&w).expect("w is watched").to_vec::<f64>()?, [1.0, 2.0]);
    Ok(())
}

#[test]
fn the_inner_sweep_visits_only_the_path_from_its_targets() -> Result<()> {
    let device = Device::cpu();
    let (x, w) = (vector(&[1.0, 2.0], &device), vector(&[3.0, 4.0], &device));
    let tape = Tape::start();
    tape.watch([&x, &w]);
    let y = x.mul(&w)?.sum_all()?;
    let recorded = tape.len();
    let dx = tape.grad(&y, &[&x])?.swap_remove(0);
    // broadcast, reshape, mul: and no product for w, which nobody asked for here.
    assert_eq!(tape.len() - recorded, 1, "{tape}");
    let grads = tape.backward(&dx.square()?.sum_all()?)?;
    assert_eq!(grads.get(&w).expect("w is watched").to_vec::<f64>()?, [6.0, 8.0]);
    Ok(())
}

#[test]
fn in_place_updates_are_refused_while_any_tape_lives() -> Result<()> {
    let device = Device::cpu();
    let (x, y) = (vector(&[1.0, 2.0], &device), vector(&[3.0, 4.0], &device));
    let outer = Tape::start();
    let inner = Tape::start();
    let refused = |when: &str| {
        let error = lerp(&[&x], &[&y], 0.5).expect_err(when);
        assert_eq!(
            error.to_string(),
            "lerp: a tape is alive on cpu; finish or drop it before updating in place",
            "{when}"
        );
    };
    refused("two tapes");
    drop(outer);
    refused("one tape");
    drop(inner);
    lerp(&[&x], &[&y], 0.5)?;
    assert_eq!(x.to_vec::<f64>()?, [2.0, 3.0]);
    assert!(lerp(&[&x], &[&x], 0.5).is_err(), "a target that is also read");
    Ok(())
}

#[test]
fn a_dropped_tape_leaves_nothing_behind() -> Result<()> {
    let device = Device::cpu();
    let x = vector(&[1.0], &device);
    {
        let tape = Tape::start();
        tape.watch([&x]);
        x.square()?;
        assert_eq!(tape.len(), 1);
    }
    assert!(!isg::tape::alive());
    let fresh = Tape::start();
    x.square()?;
    assert!(fresh.is_empty(), "the old tape's watch is gone");
    Ok(())
}

#[test]
fn a_tape_dropped_while_unwinding_leaves_nothing_behind() {
    let panicked = std::panic::catch_unwind(|| {
        let _tape = Tape::start();
        panic!("on purpose");
    });
    assert!(panicked.is_err() && !isg::tape::alive());
}

#[test]
fn nested_tapes_record_what_each_watches() -> Result<()> {
    let device = Device::cpu();
    let (x, w) = (vector(&[2.0], &device), vector(&[5.0], &device));
    let outer = Tape::start();
    outer.watch([&w]);
    let dx = {
        let inner = Tape::start();
        inner.watch([&x]);
        let y = x.square()?.mul(&w)?;
        assert_eq!((outer.len(), inner.len()), (1, 2));
        // Consuming the inner tape does not stop the outer one: the sweep's own ops are recorded there.
        inner.backward(&y)?.get(&x).expect("x is watched").clone()
    };
    assert_eq!(dx.item()?, 20.0);
    let dw = outer.backward(&dx)?;
    assert_eq!(dw.get(&w).expect("w is watched").item()?, 4.0, "d(2 x w)/dw");
    Ok(())
}

#[test]
fn a_tensor_used_many_times_collects_every_gradient() -> Result<()> {
    let device = Device::cpu();
    let x = vector(&[3.0], &device);
    let tape = Tape::start();
    tape.watch([&x]);
    let cube = x.mul(&x)?.mul(&x)?;
    let y = cube.add(&cube)?.sub(&x)?;
    assert_eq!(tape.backward(&y)?.get(&x).expect("x is watched").item()?, 2.0 * 27.0 - 1.0);
    Ok(())
}

#[test]
fn a_tensor_the_loss_does_not_need_has_gradient_zero() -> Result<()> {
    let device = Device::cpu();
    let (x, other) = (vector(&[3.0], &device), vector(&[1.0, 2.0], &device));
    let tape = Tape::start();
    tape.watch([&x, &other]);
    let y = x.square()?;
    let grads = tape.grad(&y, &[&x, &other])?;
    assert_eq!(grads[1].to_vec::<f64>()?, [0.0, 0.0]);
    assert!(tape.backward(&y)?.get(&other).is_none());
    Ok(())
}

#[test]
fn the_gradient_of_an_intermediate_tensor_and_what_lies_before_it() -> Result<()> {
    let device = Device::cpu();
    let x = vector(&[3.0], &device);
    let tape = Tape::start();
    tape.watch([&x]);
    let middle = x.square()?;
    let y = middle.square()?;
    let grads = tape.grad(&y, &[&x, &middle])?;
    assert_eq!([grads[0].item()?, grads[1].item()?], [4.0 * 27.0, 18.0]);
    Ok(())
}

#[test]
fn several_results_with_given_gradients() -> Result<()> {
    let device = Device::cpu();
    let x = vector(&[2.0, 5.0], &device);
    let tape = Tape::start();
    tape.watch([&x]);
    let (square, negative) = (x.square()?, x.neg()?);
    let seeds = [(&square, vector(&[1.0, 10.0], &device)), (&negative, vector(&[1.0, 1.0], &device))];
    let grads = tape.grad_from(&seeds, &[&x])?;
    assert_eq!(grads[0].to_vec::<f64>()?, [3.0, 99.0]);
    assert!(tape.backward_from(&[(&square, vector(&[1.0], &device))]).is_err(), "a gradient of another shape");
    Ok(())
}

#[test]
fn ten_thousand_ops_deep() -> Result<()> {
    let device = Device::cpu();
    let x = vector(&[1.0, -1.0], &device);
    let tape = Tape::start();
    tape.watch([&x]);
    let mut y = x.clone();
    for _ in 0..10_000 {
        y = y.affine(1.0, 1e-3)?;
    }
    assert_eq!(tape.len(), 10_000);
    let dx = tape.grad(&y, &[&x])?.swap_remove(0);
    assert_eq!(dx.to_vec::<f64>()?, [1.0, 1.0]);
    assert_eq!(tape.backward(&y)?.get(&x).expect("x is watched").to_vec::<f64>()?, [1.0, 1.0]);
    Ok(())
}

#[test]
fn backward_frees_as_it_goes_and_holds_nothing_after() -> Result<()> {
    let device = Device::cpu();
    let x = vector(&[1.0; 4], &device);
    let grads = {
        let tape = Tape::start();
        tape.watch([&x]);
        let y = x.exp()?.log()?.square()?.sum_all()?;
        tape.backward(&y)?
    };
    assert!(!isg::tape::alive());
    assert_eq!(grads.get(&x).expect("x is watched").to_vec::<f64>()?, [2.0; 4]);
    Ok(())
}

#[test]
fn gradients_have_the_same_bits_every_time() -> Result<()> {
    fn run() -> Result<Vec<f32>> {
        let x = Tensor::from_vec((0..999).map(|i| (i as f32 * 0.37).sin()).collect(), [3, 333], &Device::cpu())?;
        let tape = Tape::start();
        tape.watch([&x]);
        // Many terms meet in one gradient: their order decides the bits.
        let mut y = x.square()?.sum_all()?;
        for i in 1..20 {
            y = y.add(&x.scale(0.1 * f64::from(i))?.softmax()?.square()?.sum_all()?)?;
        }
        tape.backward(&y)?.get(&x).expect("x is watched").to_vec::<f32>()
    }
    let first = run()?;
    assert_eq!(run()?, first, "again");
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small thread pool");
        assert_eq!(pool.install(run)?, first, "{threads} threads");
    }
    Ok(())
}
