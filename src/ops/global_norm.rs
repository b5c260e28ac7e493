//! The Euclidean norm of many tensors together: what gradient clipping compares with its limit.

use rayon::prelude::*;

use crate::{
    device::{
        host::{Element, Real},
        vector::{GRAIN, sum1, vectorised},
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch,
    op::{Case, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::Spec,
    tensor::Tensor,
};

impl Tensor {
    /// `√ Σ x²` over every element of every tensor, shape `[1]`. Has no gradient.
    pub fn global_norm(tensors: &[&Tensor]) -> Result<Tensor> {
        apply1(GlobalNorm, tensors)
    }
}

struct GlobalNorm;

impl Op for GlobalNorm {
    fn name(&self) -> &'static str {
        "global_norm"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        match x.iter().find(|spec| !spec.dtype.is_float() || spec.dtype != x[0].dtype) {
            Some(other) => Err(Error::DType { op: "global_norm", wanted: "one float type", got: other.dtype }),
            None => Ok(vec![Spec::new([1], if x[0].dtype == DType::F64 { DType::F64 } else { DType::F32 })]),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let total: f64 = (0..args.inputs()).map(|i| squares(args.x::<T>(i))).sum();
            args.y::<T>(0)[0] = T::c(total.sqrt());
        });
        Ok(())
    }
}

fn squares<T: Real>(x: &[T]) -> f64 {
    let partials: Vec<T> = x
        .par_chunks(GRAIN)
        .map(|x| {
            vectorised(
                #[inline(always)]
                || sum1(x, |x| x * x),
            )
        })
        .collect();
    partials.into_iter().map(Element::to_f64).sum()
}

pub const SPEC: OpSpec = OpSpec {
    name: "global_norm",
    order: Order::None,
    kernels: &[],
    cases: || {
        vec![
            Case::new("three", [normal([5, 7]), normal([300]), normal([1])], |x| {
                Ok(vec![Tensor::global_norm(&x.iter().collect::<Vec<_>>())?])
            })
            .wrt([]),
        ]
    },
};
