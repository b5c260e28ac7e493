//! `y = f(x)`, element by element. Every derivative is written with other ops of this file, so all orders exist.

use crate::{
    cpu::vector::map1 as map,
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, inlined, kernel_params, math,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{IMAGE, Workload},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Function {
    Affine { scale: f64, shift: f64 },
    Abs,
    Sign,
    Square,
    Sqrt,
    Rsqrt,
    Exp,
    Log,
}

macro_rules! unary_methods {
    ($($(#[$doc:meta])* $method:ident => $function:expr;)*) => {
        impl Tensor {
            $($(#[$doc])* pub fn $method(&self) -> Result<Tensor> { apply1(Unary { f: $function }, &[self]) })*
        }
    };
}

unary_methods! {
    /// `-x`.
    neg => Function::Affine { scale: -1.0, shift: 0.0 };
    /// `|x|`; its gradient at 0 is 0.
    abs => Function::Abs;
    /// -1, 0 or 1.
    sign => Function::Sign;
    /// `x²`.
    square => Function::Square;
    /// `√x`.
    sqrt => Function::Sqrt;
    /// `1/√x`.
    rsqrt => Function::Rsqrt;
    /// `eˣ`.
    exp => Function::Exp;
    /// The natural logarithm.
    log => Function::Log;
}

impl Tensor {
    /// `scale · x + shift`.
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Tensor> {
        apply1(Unary { f: Function::Affine { scale, shift } }, &[self])
    }

    /// `factor · x`.
    pub fn scale(&self, factor: f64) -> Result<Tensor> {
        self.affine(factor, 0.0)
    }

    /// `x + constant`.
    pub fn shift(&self, constant: f64) -> Result<Tensor> {
        self.affine(1.0, constant)
    }
}

struct Unary {
    f: Function,
}

kernel_params! {
    struct UnaryParams { x: DevicePtr, y: DevicePtr, count: u64, scale: f32, shift: f32 }
}

const THREADS: u32 = 256;

const fn kernel(name: &'static str) -> Kernel<UnaryParams> {
    // SAFETY: only this file fills `UnaryParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::UNARY, name, THREADS, FLOATS) }
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        match self.f {
            Function::Affine { .. } => "affine",
            Function::Abs => "abs",
            Function::Sign => "sign",
            Function::Square => "square",
            Function::Sqrt => "sqrt",
            Function::Rsqrt => "rsqrt",
            Function::Exp => "exp",
            Function::Log => "log",
        }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        if !x[0].dtype.is_float() {
            return Err(Error::DType { op: self.name(), wanted: "a float type", got: x[0].dtype });
        }
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (x, y) = (args.x::<T>(0), args.y::<T>(0));
            match self.f {
                Function::Affine { scale, shift } => {
                    let (scale, shift) = (T::c(scale), T::c(shift));
                    map(x, y, move |x| scale * x + shift);
                }
                Function::Abs => map(x, y, |x| x.abs()),
                Function::Sign => map(x, y, |x| if x == 0.0 { x } else { x.signum() }),
                Function::Square => map(x, y, |x| x * x),
                Function::Sqrt => map(x, y, |x| x.sqrt()),
                Function::Rsqrt => map(x, y, |x| x.sqrt().recip()),
                Function::Exp => map(x, y, inlined!(|x| math::exp(x))),
                Function::Log => map(x, y, inlined!(|x| math::ln(x))),
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let (scale, shift) = match self.f {
            Function::Affine { scale, shift } => (scale as f32, shift as f32),
            _ => (1.0, 0.0),
        };
        let params = UnaryParams { x: x.ptr, y: y.ptr, count: x.elems() as u64, scale, shift };
        let per_block = THREADS as usize * x.dtype().vector_elems();
        args.launch(&kernel(self.name()), x.dtype(), blocks(x.elems(), per_block), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = v.upstream()?;
        Ok(vec![match self.f {
            Function::Affine { scale, .. } => Some(dy.scale(scale)?),
            Function::Abs => Some(dy.mul(&v.x(0).sign()?)?),
            Function::Sign => None,
            Function::Square => Some(dy.mul(v.x(0))?.scale(2.0)?),
            Function::Sqrt => Some(dy.div(v.y(0))?.scale(0.5)?),
            Function::Rsqrt => Some(dy.mul(&v.y(0).square()?.mul(v.y(0))?)?.scale(-0.5)?),
            Function::Exp => Some(dy.mul(v.y(0))?),
            Function::Log => Some(dy.div(v.x(0))?),
        }])
    }

    fn keep(&self) -> Keep {
        match self.f {
            Function::Affine { .. } | Function::Sign => Keep::NONE,
            Function::Abs | Function::Square | Function::Log => Keep::INPUTS,
            Function::Sqrt | Function::Rsqrt | Function::Exp => Keep::OUTPUTS,
        }
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "unary",
    order: Order::Any,
    kernels: &[
        kernel("affine").info(),
        kernel("abs").info(),
        kernel("sign").info(),
        kernel("square").info(),
        kernel("sqrt").info(),
        kernel("rsqrt").info(),
        kernel("exp").info(),
        kernel("log").info(),
    ],
    cases: || {
        let positive = || drawn([3, 17], Draw::Uniform(0.3, 3.0));
        vec![
            Case::new("affine", [normal([5, 7])], |x| Ok(vec![x[0].affine(-1.5, 0.25)?])),
            Case::new("abs", [drawn([33], Draw::Distinct)], |x| Ok(vec![x[0].abs()?])),
            Case::new("square", [normal([5, 7])], |x| Ok(vec![x[0].square()?])),
            Case::new("sqrt", [positive()], |x| Ok(vec![x[0].sqrt()?])),
            Case::new("rsqrt", [positive()], |x| Ok(vec![x[0].rsqrt()?])),
            Case::new("exp", [normal([5, 7])], |x| Ok(vec![x[0].exp()?])),
            Case::new("log", [positive()], |x| Ok(vec![x[0].log()?])),
        ]
    },
    workloads: || {
        let elements = IMAGE.iter().product::<usize>() as f64;
        vec![
            Workload::gpu("square", [normal(IMAGE)], elements, |x| x[0].square()),
            Workload::gpu("exp", [normal(IMAGE)], elements, |x| x[0].exp()),
        ]
    },
    ..OpSpec::BARE
};
