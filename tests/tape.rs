//! The tape: ownership, pruning, order, gradients of gradients.

use isg::{DType, Device, Result, Tape, Tensor};

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
