//! The ops of the registry on the CPU, at the sizes they name (`OpSpec::workloads`): `forward`, and `step` for forward and backward
//! together.
//!
//! `cargo bench --bench ops -- conv2d`; tools/peers/torch_ops.py runs the same names in PyTorch and prints both.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use isg::{
    DType, Device, Result, Shape, Tape, Tensor,
    op::registry::{Bench, Workload},
};

/// Any numbers of size about one: speed does not depend on them.
fn numbers(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let values =
        (0..shape.elems() as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0);
    Tensor::from_vec(values.collect(), shape, device)
}

/// Benches a workload alone and followed by the gradients of every input.
fn bench(c: &mut Criterion, workload: &Workload) {
    let device = Device::cpu();
    let inputs: Vec<Tensor> =
        workload.inputs.iter().map(|input| numbers(input.shape, &device).expect("memory")).collect();
    let run = || -> Result<Tensor> { Ok((workload.run)(&inputs)?.swap_remove(0)) };
    let mut group = c.benchmark_group(&workload.name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.bench_function("forward", |b| b.iter(|| black_box(run().expect("shapes that fit"))));
    let dy = run().and_then(|y| numbers(y.shape(), &device)).expect("memory");
    assert_eq!(dy.dtype(), DType::F32);
    let step = || -> Result<()> {
        let tape = Tape::start();
        tape.watch(&inputs);
        let y = run()?;
        black_box(tape.backward_from(&[(&y, dy.clone())])?);
        Ok(())
    };
    group.bench_function("step", |b| b.iter(|| step().expect("shapes that fit")));
    group.finish();
}

fn registry(c: &mut Criterion) {
    let workloads = isg::ops().flat_map(|spec| (spec.workloads)());
    workloads.filter(|workload| workload.bench == Bench::Cpu).for_each(|workload| bench(c, &workload));
}

criterion_group!(benches, registry);
criterion_main!(benches);
