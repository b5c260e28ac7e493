//! Elements dropped at random, the rest scaled up to keep the mean. The mask is a function of (seed, stream, step,
//! element), so nothing is stored: the gradient, linear in what arrives, draws it again.

use super::random::position;
use crate::{
    cpu::vector::{GRAIN, par_rows},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload},
    },
    random::Philox,
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// Each element is 0 with the given probability, else divided by what remains of 1. Every layer has a stream of its
    /// own, every training step its `step`.
    pub fn dropout(&self, probability: f64, random: Philox, step: u32) -> Result<Tensor> {
        self.dropout_onto(None, probability, random, step)
    }

    /// The same, added to `residual` where there is one.
    pub fn dropout_onto(
        &self,
        residual: Option<&Tensor>,
        probability: f64,
        random: Philox,
        step: u32,
    ) -> Result<Tensor> {
        if probability == 0.0 {
            return residual.map_or_else(|| Ok(self.clone()), |residual| residual.add(self));
        }
        if !(0.0..1.0).contains(&probability) {
            return Err(Error::shape("dropout", format!("a probability of {probability}; below 1 is wanted")));
        }
        let op = Dropout { probability, random, step };
        match residual {
            Some(residual) => apply1(op, &[self, residual]),
            None => apply1(op, &[self]),
        }
    }
}

#[derive(Clone, Copy)]
struct Dropout {
    probability: f64,
    random: Philox,
    step: u32,
}

kernel_params! {
    struct DropoutParams {
        x: DevicePtr, residual: DevicePtr, y: DevicePtr, count: u64, position: u64, replays: DevicePtr, random: [u32; 4], dropped: u64, scale: f32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `DropoutParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<DropoutParams> = unsafe { Kernel::new(&modules::DROPOUT, "fwd", THREADS, FLOATS) };

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if !x[0].dtype.is_float() {
            return Err(Error::DType { op: "dropout", wanted: "a float type", got: x[0].dtype });
        }
        if let Some(residual) = x.get(1).filter(|residual| **residual != x[0]) {
            let [a, b] = [&x[0], residual].map(|spec| format!("{}:{}", spec.shape, spec.dtype));
            return Err(Error::shape("dropout", format!("{a} added to {b}")));
        }
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let residual = (args.inputs() == 2).then(|| args.x::<T>(1));
            self.mask::<T>(args.x(0), residual, args.y(0));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let params = DropoutParams {
            x: x.ptr,
            residual: args.x.get(1).map_or(DevicePtr::NULL, |residual| residual.ptr),
            y: y.ptr,
            count: x.elems() as u64,
            position: position(self.step, 0),
            replays: args.driver.replay_counter(),
            random: self.random.words(),
            dropped: self.dropped(),
            scale: (1.0 / (1.0 - self.probability)) as f32,
            unused: 0,
        };
        let per_block = THREADS as usize * x.dtype().vector_elems();
        args.launch(&FORWARD, x.dtype(), blocks(x.elems(), per_block), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = v.upstream()?;
        let mut all = vec![v.when(0, || apply1(*self, &[dy]))?];
        if v.inputs() == 2 {
            all.push(v.when(1, || Ok(dy.clone()))?);
        }
        Ok(all)
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

impl Dropout {
    /// Words below this are dropped.
    fn dropped(&self) -> u64 {
        (self.probability * 2f64.powi(32)) as u64
    }

    fn mask<T: Real>(&self, x: &[T], residual: Option<&[T]>, y: &mut [T]) {
        let dropped = self.dropped();
        let scale = T::c(1.0 / (1.0 - self.probability));
        par_rows(y, 1, |task, y| {
            let x = &x[task * GRAIN..][..y.len()];
            for (i, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
                let words = self.random.block(position(self.step, task * (GRAIN / 4) + i));
                for ((y, &x), word) in y.iter_mut().zip(x).zip(words) {
                    *y = if u64::from(word) < dropped { T::zero() } else { x * scale };
                }
            }
            if let Some(residual) = residual {
                y.iter_mut().zip(&residual[task * GRAIN..]).for_each(|(y, &residual)| *y += residual);
            }
        });
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "dropout",
    order: Order::Any,
    kernels: &[FORWARD.info()],
    cases: || {
        let onto = |x: &[Tensor]| Ok(vec![x[0].dropout_onto(Some(&x[1]), 0.3, Philox::named(2, "cases"), 4)?]);
        vec![
            Case::new("residual", [normal([5, 13]), normal([5, 13])], onto),
            Case::new("residual_aligned", [normal([32, 33]), normal([32, 33])], onto),
            Case::new("quarter", [normal([7, 33])], |x| {
                Ok(vec![x[0].square()?.dropout(0.25, Philox::named(1, "cases"), 3)?])
            }),
        ]
    },
    workloads: || {
        let run = |x: &[Tensor]| x[0].dropout(0.1, Philox::named(0, "bench"), 0);
        vec![Workload::gpu("dropout", [normal(IMAGE)], 0.0, run)]
    },
    ..OpSpec::BARE
};
