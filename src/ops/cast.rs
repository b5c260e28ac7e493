//! The same values at another element type: rounded to nearest, integers saturating. The gradient is cast back.

use crate::{
    device::{host::Element, vector::par_rows},
    dtype::DType,
    error::{Error, Result},
    op::{Case, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `x` at element type `dtype`. From f64 to a 16-bit type it is rounded by way of f32.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        apply1(Cast { to: dtype }, &[self])
    }
}

struct Cast {
    to: DType,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![Spec { shape: x[0].shape, dtype: self.to }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        match args.x_dtype(0) {
            DType::F64 => from::<f64>(args),
            DType::U8 => from::<u8>(args),
            DType::I32 => from::<i32>(args),
            _ => from::<f32>(args),
        }
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dtype = v.x_spec(0).dtype;
        if !self.to.is_float() || !dtype.is_float() {
            return Err(Error::OrderExceeded { op: "cast" });
        }
        Ok(vec![Some(v.upstream()?.cast(dtype)?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn from<X: Element>(args: &mut HostArgs) {
    match args.y_dtype(0) {
        DType::F64 => convert::<X, f64>(args),
        DType::U8 => convert::<X, u8>(args),
        DType::I32 => convert::<X, i32>(args),
        _ => convert::<X, f32>(args),
    }
}

fn convert<X: Element, Y: Element>(args: &mut HostArgs) {
    const GRAIN: usize = crate::device::vector::GRAIN;
    let x = args.x::<X>(0);
    par_rows(args.y::<Y>(0), 1, |task, y| {
        y.iter_mut().zip(&x[task * GRAIN..]).for_each(|(y, &x)| *y = Y::from_f64(x.to_f64()));
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "cast",
    order: Order::Any,
    kernels: &[],
    cases: || {
        vec![Case::new("there_and_back", [normal([3, 7])], |x| {
            // Through f64, so that the judge in f64 loses nothing.
            Ok(vec![x[0].square()?.cast(DType::F64)?.square()?.cast(x[0].dtype())?])
        })]
    },
};
