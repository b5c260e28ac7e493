//! The kernels on the emulator, with all its checks, against the definition in f64; and what Rust and PTX say of each other.

use isg::{
    DType, Device, Result, Tape, Tensor,
    device::{
        emulator::{Emulator, Options},
        loads,
    },
    random::Philox,
};
use own_kernel::{KERNELS, SWIGLU, swiglu};

/// Around a vector's, a block's and a grid's ends.
const COUNTS: [usize; 7] = [1, 3, 4, 8, 1023, 1024, 5001];

fn emulator(seed: u64) -> Device {
    Device::gpu(Emulator::new(&Options { seed, ..Options::default() }))
}

/// Output and both gradients, of the same values rounded to `dtype`, computed in `computed` on `device`.
fn run(count: usize, dtype: DType, computed: DType, device: &Device) -> Result<[Vec<f64>; 3]> {
    let draw = |name: &str| {
        let values = Philox::named(7, name).normals(count);
        Tensor::from_f64(&values, [count], dtype, &Device::cpu())?.cast(computed)?.to_device(device)
    };
    let (a, b, weight) = (draw("a")?, draw("b")?, draw("weight")?);
    let tape = Tape::start();
    tape.watch([&a, &b]);
    let y = swiglu(&a, &b)?;
    let grads = tape.backward(&y.mul(&weight)?.sum_all()?)?;
    let of = |t: &Tensor| grads.get(t).expect("watched").to_vec::<f64>();
    Ok([y.to_vec()?, of(&a)?, of(&b)?])
}

#[test]
fn kernels_compute_what_the_definition_does() {
    for (dtype, limit) in [(DType::F32, 1e-5), (DType::Bf16, 1.6e-2)] {
        for (seed, count) in (1..).zip(COUNTS) {
            let ours = run(count, dtype, dtype, &emulator(seed)).expect("runs");
            let defined = run(count, dtype, DType::F64, &Device::cpu()).expect("runs");
            for (ours, defined) in ours.iter().flatten().zip(defined.iter().flatten()) {
                assert!(
                    (ours - defined).abs() <= limit * (1.0 + defined.abs()),
                    "{dtype} {count}: {ours}, not {defined}"
                );
            }
        }
    }
}

#[test]
fn the_gradient_is_that_of_the_definition() {
    let cpu = Device::cpu();
    let at = |a: f64, b: f64| -> Result<f64> {
        let of = |value| Tensor::from_vec(vec![value], [1], &cpu);
        swiglu(&of(a)?, &of(b)?)?.item()
    };
    let [_, da, db] = run(1, DType::F64, DType::F64, &cpu).expect("runs");
    let value = |name: &str| Philox::named(7, name).normals(1)[0];
    let (a, b, weight, h) = (value("a"), value("b"), value("weight"), 1e-5);
    let slope_a = (at(a + h, b).expect("runs") - at(a - h, b).expect("runs")) / (2.0 * h) * weight;
    let slope_b = (at(a, b + h).expect("runs") - at(a, b - h).expect("runs")) / (2.0 * h) * weight;
    assert!((da[0] - slope_a).abs() < 1e-8 && (db[0] - slope_b).abs() < 1e-8, "{da:?} {slope_a}, {db:?} {slope_b}");
}

#[test]
fn rust_and_ptx_agree() {
    let module = ptx_emulator::Module::load(&SWIGLU.text().expect("held")).expect("PTX");
    let launched: Vec<String> = KERNELS.iter().flat_map(|kernel| kernel.entries()).collect();
    let mut there = SWIGLU.entries().expect("held");
    there.sort_by_key(|name| launched.iter().position(|launched| launched == name));
    assert_eq!(there, launched);
    for kernel in KERNELS {
        for name in kernel.entries() {
            let entry = module.entry(&name).expect("listed");
            assert_eq!((entry.params.len(), entry.param_bytes as usize), (1, kernel.params_bytes), "{name}");
            assert_eq!(entry.max_threads, Some([kernel.threads, 1, 1]), "{name}");
        }
    }
}

#[test]
fn what_it_cannot_do_is_a_sentence() {
    let device = emulator(0);
    let x = |dtype| Tensor::full(1.0, [4], dtype, &device).expect("memory");
    let refusal = swiglu(&x(DType::F16), &x(DType::F16)).expect_err("no such kernel").to_string();
    assert!(refusal.contains("swiglu_fwd has no kernel for f16; cast to f32 first"), "{refusal}");
    let refusal = swiglu(&x(DType::F32), &Tensor::full(1.0, [5], DType::F32, &device).expect("memory"));
    assert!(refusal.is_err_and(|error| error.to_string().contains("swiglu")));
}

/// One entry is loaded, not the module.
#[test]
fn entries_are_loaded_as_they_are_launched() {
    let device = emulator(0);
    let x = Tensor::full(1.0, [4], DType::Bf16, &device).expect("memory");
    swiglu(&x, &x).expect("runs");
    assert!(loads::all().iter().any(|load| load.entry == "swiglu_fwd_bf16"));
}
