//! The same values at another element type: rounded to nearest, integers saturating. The gradient is cast back.

use crate::{
    cpu::vector::par_rows,
    device::{
        driver::DevicePtr,
        host::Element,
        kernel::{Kernel, blocks},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{IMAGE, Workload},
    },
    shape::Spec,
    tape::{self, Keep, Vjp},
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

    /// A parameter at the type of the values that it meets: layers keep theirs in f32 and compute in the type they are given. A
    /// live tape casts what it watches once.
    pub fn matching(&self, values: &Tensor) -> Result<Tensor> {
        let dtype = values.dtype();
        if dtype == self.dtype() { Ok(self.clone()) } else { tape::cast_once(self, dtype, || self.cast(dtype)) }
    }

    /// 16-bit values in f32, all others as they are.
    pub fn widened(&self) -> Result<Tensor> {
        self.cast(if matches!(self.dtype(), DType::Bf16 | DType::F16) { DType::F32 } else { self.dtype() })
    }
}

struct Cast {
    to: DType,
}

kernel_params! {
    struct CastParams { x: DevicePtr, y: DevicePtr, count: u64 }
}

const THREADS: u32 = 256;

/// One family for each type cast from; its types are those cast to.
const fn kernel(from: DType) -> Kernel<CastParams> {
    use DType::{Bf16, F16, F32, I32, U8};
    let (name, to): (_, &'static [DType]) = match from {
        F32 => ("from_f32", &[Bf16, F16, U8, I32]),
        Bf16 => ("from_bf16", &[F32, F16, U8, I32]),
        F16 => ("from_f16", &[F32, Bf16, U8, I32]),
        U8 => ("from_u8", &[F32, Bf16, F16, I32]),
        I32 => ("from_i32", &[F32, Bf16, F16, U8]),
        DType::F64 => ("from_f64", &[]),
    };
    // SAFETY: only this file fills `CastParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::CAST, name, THREADS, to) }
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

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        if x.dtype() == DType::F64 {
            return Err(Error::NoKernel { op: "cast", device: args.driver.name().to_string() });
        }
        let params = CastParams { x: x.ptr, y: y.ptr, count: x.elems() as u64 };
        let per_block = THREADS as usize * x.dtype().vector_elems().min(y.dtype().vector_elems());
        args.launch(&kernel(x.dtype()), self.to, blocks(x.elems(), per_block), 0, &params)
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
    const GRAIN: usize = crate::cpu::vector::GRAIN;
    let x = args.x::<X>(0);
    par_rows(args.y::<Y>(0), 1, |task, y| {
        y.iter_mut().zip(&x[task * GRAIN..]).for_each(|(y, &x)| *y = Y::from_f64(x.to_f64()));
    });
}

pub const SPEC: OpSpec = OpSpec {
    name: "cast",
    order: Order::Any,
    kernels: &[
        kernel(DType::F32).info(),
        kernel(DType::Bf16).info(),
        kernel(DType::F16).info(),
        kernel(DType::U8).info(),
        kernel(DType::I32).info(),
    ],
    cases: || {
        vec![
            Case::new("there_and_back", [normal([3, 7])], |x| {
                // Through a wider type, so that nothing is lost.
                let wide = if x[0].dtype().bytes() == 2 { DType::F32 } else { x[0].dtype() };
                Ok(vec![x[0].square()?.cast(wide)?.square()?.cast(x[0].dtype())?])
            }),
            Case::new("from_bytes", [drawn([1037], Draw::Bytes), normal([1])], |x| {
                Ok(vec![x[0].cast(x[1].dtype())?, x[0].cast(DType::I32)?])
            }),
            Case::new("from_integers", [drawn([523], Draw::Index(200)), normal([1])], |x| {
                Ok(vec![x[0].cast(x[1].dtype())?, x[0].cast(DType::U8)?])
            })
            .wrt([]),
            // What both halves hold comes back as it was.
            Case::new("between_halves", [normal([259])], |x| {
                let half = x[0].cast(DType::Bf16)?.cast(DType::F16)?;
                Ok(vec![half.cast(DType::Bf16)?.cast(x[0].dtype())?, half])
            })
            .wrt([]),
            Case::new("to_integers", [drawn([777], Draw::Distinct)], |x| {
                let x = x[0].scale(37.5)?;
                Ok(vec![x.cast(DType::I32)?, x.cast(DType::U8)?])
            })
            .wrt([]),
        ]
    },
    workloads: || {
        let other = |dtype| if dtype == DType::F32 { DType::Bf16 } else { DType::F32 };
        vec![Workload::gpu("cast", [normal(IMAGE)], 0.0, move |x| x[0].cast(other(x[0].dtype())))]
    },
    ..OpSpec::BARE
};
