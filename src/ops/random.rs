//! Random tensors from a Philox stream: element `i` depends on (seed, stream, step, `i`) alone, whatever the device, the
//! number of threads or what was drawn before. Of a stream, `step` chooses one of 2³² runs of 2³² positions.

use crate::{
    Device,
    cpu::vector::{GRAIN, par_rows},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply_on, normal,
        registry::{IMAGE, Workload},
    },
    random::Philox,
    shape::{Shape, Spec},
    tensor::Tensor,
};

impl Tensor {
    /// Normal with mean 0 and standard deviation 1.
    pub fn random_normal(
        shape: impl Into<Shape>,
        dtype: DType,
        device: &Device,
        random: Philox,
        step: u32,
    ) -> Result<Tensor> {
        let op = Random { kind: Kind::Normal, spec: Spec::new(shape, dtype), random, step };
        Ok(apply_on(op, &[], device)?.swap_remove(0))
    }

    /// Uniform in (0, 1].
    pub fn random_uniform(
        shape: impl Into<Shape>,
        dtype: DType,
        device: &Device,
        random: Philox,
        step: u32,
    ) -> Result<Tensor> {
        let op = Random { kind: Kind::Uniform, spec: Spec::new(shape, dtype), random, step };
        Ok(apply_on(op, &[], device)?.swap_remove(0))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Normal,
    Uniform,
}

struct Random {
    kind: Kind,
    spec: Spec,
    random: Philox,
    step: u32,
}

kernel_params! {
    struct RandomParams { y: DevicePtr, count: u64, position: u64, replays: DevicePtr, random: [u32; 4] }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `RandomParams`, from the tensors and scratch memory of the launch and from their sizes.
const NORMAL: Kernel<RandomParams> = unsafe { Kernel::new(&modules::RANDOM, "normal", THREADS, FLOATS) };
// SAFETY: as above, `RandomParams`.
const UNIFORM: Kernel<RandomParams> = unsafe { Kernel::new(&modules::RANDOM, "uniform", THREADS, FLOATS) };

/// Where in its stream element `4 · block` of a step is drawn.
pub(super) fn position(step: u32, block: usize) -> u64 {
    (u64::from(step) << 32) + block as u64
}

impl Op for Random {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Normal => "random_normal",
            Kind::Uniform => "random_uniform",
        }
    }

    fn infer(&self, _: &[Spec]) -> Result<Vec<Spec>> {
        if !self.spec.dtype.is_float() {
            return Err(Error::DType { op: self.name(), wanted: "a float type", got: self.spec.dtype });
        }
        Ok(vec![self.spec])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => match self.kind {
            Kind::Normal => self.fill::<T>(args, |at| self.random.normal4(at)),
            Kind::Uniform => self.fill::<T>(args, |at| self.random.uniform4(at)),
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let y = args.y[0];
        let params = RandomParams {
            y: y.ptr,
            count: y.elems() as u64,
            position: position(self.step, 0),
            replays: args.driver.replay_counter(),
            random: self.random.words(),
        };
        let kernel = match self.kind {
            Kind::Normal => NORMAL,
            Kind::Uniform => UNIFORM,
        };
        let per_block = THREADS as usize * y.dtype().vector_elems();
        args.launch(&kernel, y.dtype(), blocks(y.elems(), per_block), 0, &params)
    }
}

impl Random {
    fn fill<T: Real>(&self, args: &mut HostArgs, four: impl Fn(u64) -> [f64; 4] + Sync) {
        par_rows(args.y::<T>(0), 1, |task, y| {
            for (i, y) in y.chunks_mut(4).enumerate() {
                let values = four(position(self.step, task * (GRAIN / 4) + i));
                y.iter_mut().zip(values).for_each(|(y, value)| *y = T::c(value));
            }
        });
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "random",
    order: Order::None,
    kernels: &[NORMAL.info(), UNIFORM.info()],
    cases: || {
        let stream = || Philox::named(5, "cases");
        vec![
            Case::new("normal", [normal([1])], move |x| {
                Ok(vec![Tensor::random_normal([3, 7], x[0].dtype(), x[0].device(), stream(), 2)?])
            })
            .wrt([]),
            Case::new("uniform", [normal([1])], move |x| {
                Ok(vec![Tensor::random_uniform([40_001], x[0].dtype(), x[0].device(), stream(), 0)?])
            })
            .wrt([]),
        ]
    },
    workloads: || {
        let run =
            |x: &[Tensor]| Tensor::random_normal(IMAGE, x[0].dtype(), x[0].device(), Philox::named(0, "bench"), 0);
        vec![Workload::gpu("random_normal", [normal([1])], 0.0, run)]
    },
    ..OpSpec::BARE
};
