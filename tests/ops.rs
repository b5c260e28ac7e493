//! Every op of the registry, every case: against f64, against finite differences, against itself.

use isg::{
    DType, Device, Error, Result, Tape, Tensor,
    device::host::HostBuffer,
    op::{Case, Draw, OpSpec, Order, count_macs, registry::Bench},
    random::Philox,
};

/// Accepted relative error of outputs and of gradients, by element type.
pub(crate) fn accepted(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F64 => (1e-12, 1e-11),
        DType::F32 => (2e-5, 1e-4),
        DType::F16 => (5e-3, 2e-2),
        _ => (3e-2, 8e-2),
    }
}

pub(crate) fn draw(case: &Case, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
    let one = |(i, input): (usize, &isg::op::Input)| {
        let random = Philox::named(i as u64, case.name);
        let count = input.shape.elems();
        let (values, dtype) = match input.draw {
            Draw::Normal => (random.normals(count), dtype),
            Draw::Uniform(low, high) => {
                (random.uniforms(count).into_iter().map(|u| low + (high - low) * u).collect(), dtype)
            }
            // Odd multiples of 1/64: distinct, and none nearer than that to zero.
            Draw::Distinct => {
                let odd = |rank: usize| (2 * rank as i64 + 1 - count as i64 / 2 * 2) as f64 / 64.0;
                (random.permutation(count).into_iter().map(odd).collect(), dtype)
            }
            Draw::Index(below) => ((0..count).map(|i| random.below(i as u64, below) as f64).collect(), DType::I32),
            Draw::Offsets(rows) => {
                let parts = count - 1;
                ((0..count).map(|i| (i * rows / parts) as f64).collect(), DType::I32)
            }
            Draw::Bytes => ((0..count).map(|i| random.below(i as u64, 256) as f64).collect(), DType::U8),
        };
        // The same values at every type: what bf16 can hold, f16, f32 and f64 hold too (but for f16's narrow range).
        let values =
            if input.draw.is_float() { HostBuffer::F64(values).cast(DType::F32) } else { HostBuffer::F64(values) };
        Tensor::from_buffer(values.cast(dtype), input.shape, device)
    };
    case.inputs.iter().enumerate().map(one).collect()
}

/// A fixed random direction, of the tensor's shape and type.
fn direction(like: &Tensor, name: &str, i: usize) -> Result<Tensor> {
    let values = Philox::named(1000 + i as u64, name).normals(like.shape().elems());
    let values = HostBuffer::F64(values).cast(DType::F32).cast(like.dtype());
    Tensor::from_buffer(values, like.shape(), like.device())
}

fn directions(tensors: &[Tensor], name: &str) -> Result<Vec<Tensor>> {
    tensors.iter().enumerate().map(|(i, t)| direction(t, name, i)).collect()
}

/// Float outputs with their directions: what gradients are taken of.
fn seeds(y: &[Tensor], name: &str) -> Result<Vec<(Tensor, Tensor)>> {
    let y: Vec<Tensor> = y.iter().filter(|y| y.dtype().is_float()).cloned().collect();
    let r = directions(&y, name)?;
    Ok(y.into_iter().zip(r).collect())
}

fn borrowed(seeds: &[(Tensor, Tensor)]) -> Vec<(&Tensor, Tensor)> {
    seeds.iter().map(|(y, r)| (y, r.clone())).collect()
}

pub(crate) fn values(tensors: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    tensors.iter().map(|t| t.to_vec::<f64>()).collect()
}

pub(crate) fn outputs(case: &Case, x: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    values(&(case.run)(x)?)
}

fn watched<'a>(case: &Case, x: &'a [Tensor]) -> Vec<&'a Tensor> {
    case.wrt.iter().map(|&i| &x[i]).collect()
}

/// First-order gradients, as plain numbers.
pub(crate) fn gradients(case: &Case, x: &[Tensor]) -> Result<Vec<Tensor>> {
    let wrt = watched(case, x);
    let tape = Tape::start();
    tape.watch(wrt.iter().copied());
    let seeds = seeds(&(case.run)(x)?, case.name)?;
    let grads = tape.backward_from(&borrowed(&seeds))?;
    wrt.iter().map(|t| grads.get(t).cloned().map_or_else(|| t.zeros_like(), Ok)).collect()
}

/// First-order gradients recorded on the tape, and the scalar `Σ direction · gradient`.
fn projected_gradient(case: &Case, x: &[Tensor], tape: &Tape) -> Result<Tensor> {
    let seeds = seeds(&(case.run)(x)?, case.name)?;
    let grads = tape.grad_from(&borrowed(&seeds), &watched(case, x))?;
    let mut total = Tensor::zeros([1], x[case.wrt[0]].dtype(), x[case.wrt[0]].device())?;
    for (grad, r) in grads.iter().zip(directions(&grads, "projection")?) {
        total = total.add(&grad.mul(&r)?.sum_all()?)?;
    }
    Ok(total)
}

pub(crate) fn second_gradients(case: &Case, x: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let wrt = watched(case, x);
    let tape = Tape::start();
    tape.watch(wrt.iter().copied());
    let total = projected_gradient(case, x, &tape)?;
    let grads = tape.backward(&total)?;
    wrt.iter().map(|t| grads.get(t).map_or_else(|| t.zeros_like(), |g| Ok(g.clone()))?.to_vec::<f64>()).collect()
}

fn relative(ours: &[f64], reference: &[f64], floor: f64) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let scale = norm(&mut reference.iter().copied()).max(floor * (reference.len() as f64).sqrt());
    let difference = norm(&mut ours.iter().zip(reference).map(|(a, b)| a - b));
    if difference == 0.0 { 0.0 } else { difference / scale }
}

/// The registry, or with `ISG_OP=conv2d` the ops whose name contains that.
pub(crate) fn chosen() -> impl Iterator<Item = &'static OpSpec> {
    let chosen = std::env::var("ISG_OP").unwrap_or_default();
    isg::ops().filter(move |spec| spec.name.contains(&chosen))
}

/// Runs `check` on every case and reports all failures at once.
pub(crate) fn every_case(mut check: impl FnMut(&OpSpec, &Case) -> Result<Vec<String>>) {
    let mut failures = Vec::new();
    for spec in chosen() {
        for case in (spec.cases)() {
            match check(spec, &case) {
                Ok(found) => failures.extend(found.into_iter().map(|f| format!("{} {}: {f}", spec.name, case.name))),
                Err(error) => failures.push(format!("{} {}: {error}", spec.name, case.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

pub(crate) fn compare(what: &str, ours: &[Vec<f64>], reference: &[Vec<f64>], limit: f64, floor: f64) -> Vec<String> {
    let pairs = ours.iter().zip(reference).enumerate();
    let bad = pairs.filter_map(|(i, (a, b))| {
        let error = relative(a, b, floor);
        (error.is_nan() || error > limit).then(|| format!("{what} {i} is off by {error:.2e}"))
    });
    bad.collect()
}

#[test]
fn the_registries_are_sorted_and_every_op_has_named_cases() {
    for registry in [isg::ops::OPS, isg::select::kernels::OPS] {
        let names: Vec<&str> = registry.iter().map(|spec| spec.name).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
    let mut names: Vec<&str> = isg::ops().map(|spec| spec.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two ops of one name");
    every_case(|_, case| Ok(if case.name.is_empty() { vec!["has no name".to_string()] } else { Vec::new() }));
    let mut workloads = Vec::new();
    for spec in isg::ops() {
        let of_op = (spec.workloads)();
        assert!(!of_op.is_empty() || spec.kernels.is_empty(), "{}: no size that a bench times", spec.name);
        workloads.extend(of_op.into_iter().map(|workload| (workload.bench == Bench::Cpu, workload.name)));
        let cases = (spec.cases)();
        let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert!(!cases.is_empty() && names.len() == cases.len(), "{}: cases {names:?}", spec.name);
    }
    let count = workloads.len();
    workloads.sort_unstable();
    workloads.dedup();
    assert_eq!(workloads.len(), count, "two workloads of one name: {workloads:?}");
}

/// What an op says of its work is what its workloads say, which benches divide by the time.
#[test]
fn counted_products_are_those_of_the_workloads() -> Result<()> {
    let device = Device::named("emulator")?;
    let mut counted = 0;
    for workload in isg::ops().flat_map(|spec| (spec.workloads)()).filter(|workload| workload.bench == Bench::Gpu) {
        let (mut macs, x_dtype) = (0, |draw: Draw| match draw {
            Draw::Bytes => DType::U8,
            Draw::Index(_) | Draw::Offsets(_) => DType::I32,
            _ => DType::F32,
        });
        device.rehearse(|stand_in| {
            let input = |input: &isg::op::Input| Tensor::full(0.0, input.shape, x_dtype(input.draw), stand_in);
            let x = workload.inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
            let (y, of_run) = count_macs(|| (workload.run)(&x));
            macs = of_run;
            y
        })?;
        let flops = 2.0 * macs as f64;
        assert!(
            macs == 0 || (flops / workload.flops - 1.0).abs() < 0.01,
            "{}: {flops} {}",
            workload.name,
            workload.flops
        );
        counted += usize::from(macs > 0);
    }
    assert!(counted > 20, "{counted}");
    Ok(())
}

#[test]
fn single_precision_agrees_with_double() {
    let device = Device::cpu();
    let (y_limit, dx_limit) = accepted(DType::F32);
    every_case(|spec, case| {
        let (x32, x64) = (draw(case, DType::F32, &device)?, draw(case, DType::F64, &device)?);
        let mut found = compare("output", &outputs(case, &x32)?, &outputs(case, &x64)?, y_limit, 1e-10);
        if spec.order != Order::None && !case.wrt.is_empty() {
            let (dx32, dx64) = (values(&gradients(case, &x32)?)?, values(&gradients(case, &x64)?)?);
            // Gradients that cancel to nothing have no digits to compare: a floor of one.
            found.extend(compare("gradient", &dx32, &dx64, dx_limit, 1e-2));
        }
        Ok(found)
    });
}

#[test]
fn sixteen_bit_types_are_near() {
    let device = Device::cpu();
    for dtype in [DType::Bf16, DType::F16] {
        let (y_limit, dx_limit) = accepted(dtype);
        every_case(|spec, case| {
            let narrow = draw(case, dtype, &device)?;
            let wide: Vec<Tensor> = (narrow.iter())
                .map(|t| if t.dtype().is_float() { t.cast(DType::F64) } else { Ok(t.clone()) })
                .collect::<Result<_>>()?;
            let mut found = compare("output", &outputs(case, &narrow)?, &outputs(case, &wide)?, y_limit, 1e-2);
            if spec.order != Order::None && !case.wrt.is_empty() {
                let (ours, reference) = (values(&gradients(case, &narrow)?)?, values(&gradients(case, &wide)?)?);
                found.extend(compare(&format!("{dtype} gradient"), &ours, &reference, dx_limit, 1e-1));
            }
            Ok(found)
        });
    }
}

/// Outputs and gradients, exactly.
pub(crate) fn bits(case: &Case, spec: &OpSpec, device: &Device) -> Result<Vec<Vec<f64>>> {
    let x = draw(case, DType::F32, device)?;
    let mut all = outputs(case, &x)?;
    if spec.order != Order::None && !case.wrt.is_empty() {
        all.extend(values(&gradients(case, &x)?)?);
    }
    Ok(all)
}

#[test]
fn every_output_element_is_written() {
    every_case(|spec, case| {
        let (clean, poisoned) = (bits(case, spec, &Device::cpu())?, bits(case, spec, &Device::cpu_poisoned())?);
        let nan = clean.iter().flatten().any(|v| v.is_nan());
        Ok(if clean == poisoned && !nan { Vec::new() } else { vec!["depends on what memory held before".to_string()] })
    });
}

#[test]
fn every_run_gives_the_same_bits_at_any_thread_count() {
    fn all() -> Vec<Vec<Vec<f64>>> {
        let device = Device::cpu();
        let runs = isg::ops().flat_map(|spec| (spec.cases)().into_iter().map(move |case| (spec, case)));
        runs.map(|(spec, case)| bits(&case, spec, &device).unwrap_or_default()).collect()
    }
    let (once, again) = (all(), all());
    let names: Vec<String> =
        isg::ops().flat_map(|s| (s.cases)().into_iter().map(|c| format!("{} {}", s.name, c.name))).collect();
    let differing = |other: &[Vec<Vec<f64>>]| -> Vec<String> {
        let pairs = once.iter().zip(other).zip(&names);
        pairs.filter(|((a, b), _)| a != b || a.is_empty()).map(|(_, name)| name.clone()).collect()
    };
    assert_eq!(differing(&again), [""; 0], "two runs");
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small thread pool");
        assert_eq!(differing(&pool.install(all)), [""; 0], "{threads} threads");
    }
}

/// Positions whose derivative is checked: all of a small input, an even spread of a large one.
fn probes(elems: usize) -> Vec<usize> {
    const MOST: usize = 96;
    if elems <= MOST {
        (0..elems).collect()
    } else {
        (0..MOST).map(|i| i * elems / MOST + i % (elems / MOST)).collect()
    }
}

/// Central differences of `f` by the probed elements of input `wrt`.
fn differences(x: &[Tensor], wrt: usize, f: impl Fn(&[Tensor]) -> Result<f64>) -> Result<Vec<f64>> {
    const STEP: f64 = 1e-5;
    let centre = x[wrt].to_vec::<f64>()?;
    let at = |i: usize, value: f64| {
        let mut moved = centre.clone();
        moved[i] = value;
        let mut x = x.to_vec();
        x[wrt] = Tensor::from_vec(moved, x[wrt].shape(), x[wrt].device())?;
        f(&x)
    };
    let slope = |i: usize| Ok((at(i, centre[i] + STEP)? - at(i, centre[i] - STEP)?) / (2.0 * STEP));
    probes(centre.len()).into_iter().map(slope).collect()
}

fn projected(case: &Case, x: &[Tensor]) -> Result<f64> {
    let seeds = seeds(&(case.run)(x)?, case.name)?;
    let mut total = 0.0;
    for (y, r) in &seeds {
        total += y.to_vec::<f64>()?.iter().zip(r.to_vec::<f64>()?).map(|(y, r)| y * r).sum::<f64>();
    }
    Ok(total)
}

fn probed(gradient: &[f64]) -> Vec<f64> {
    probes(gradient.len()).into_iter().map(|i| gradient[i]).collect()
}

/// Central differences with step 1e-5 in f64 err by about 1e-10 of the third derivative and 1e-11 of the value: 1e-6
/// leaves room for long sums.
#[test]
fn gradients_agree_with_finite_differences() {
    let device = Device::cpu();
    every_case(|spec, case| {
        if spec.order == Order::None || case.wrt.is_empty() {
            return Ok(Vec::new());
        }
        let x = draw(case, DType::F64, &device)?;
        let ours = gradients(case, &x)?;
        let mut found = Vec::new();
        for (&wrt, dx) in case.wrt.iter().zip(&ours) {
            if dx.shape() != x[wrt].shape() {
                found.push(format!("gradient of input {wrt} has shape {}", dx.shape()));
                continue;
            }
            let reference = differences(&x, wrt, |x| projected(case, x))?;
            let error = relative(&probed(&dx.to_vec::<f64>()?), &reference, 1e-3);
            if error.is_nan() || error > 1e-6 {
                found.push(format!("gradient of input {wrt} is off by {error:.2e}"));
            }
        }
        Ok(found)
    });
}

#[test]
fn gradients_of_gradients_agree_with_finite_differences_or_are_refused() {
    let device = Device::cpu();
    every_case(|spec, case| {
        if case.wrt.is_empty() || spec.order == Order::None {
            return Ok(Vec::new());
        }
        let x = draw(case, DType::F64, &device)?;
        let ours = second_gradients(case, &x);
        if spec.order == Order::Once {
            return Ok(match ours {
                Err(Error::OrderExceeded { .. }) => Vec::new(),
                Err(error) => vec![format!("refused, but with: {error}")],
                Ok(_) => vec!["gives a second gradient that it does not claim".to_string()],
            });
        }
        let mut found = Vec::new();
        for (&wrt, ours) in case.wrt.iter().zip(&ours?) {
            let reference = differences(&x, wrt, |x| {
                let tape = Tape::start();
                tape.watch(watched(case, x));
                projected_gradient(case, x, &tape)?.item()
            })?;
            let error = relative(&probed(ours), &reference, 1e-3);
            if error.is_nan() || error > 1e-5 {
                found.push(format!("second gradient by input {wrt} is off by {error:.2e}"));
            }
        }
        Ok(found)
    });
}
