//! `y = x · weightᵀ + bias` over the last axis: the fully connected layer. The bias is added inside the product.

use super::matmul::{
    launch::{FEW_ROWS, Family, LARGE_THREADS, Problem, ProductParams, family, merge},
    same_float,
};
use crate::{
    device::{
        kernel::{FLOATS, Kernel, KernelInfo},
        product::{Matrix, MatrixMut, Threads, fill_rows, product},
    },
    error::{Error, Result},
    float_dispatch,
    op::{Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal},
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[.., in] -> [.., out]` with `weight` `[out, in]` and `bias` `[out]`.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match bias {
            Some(bias) => apply1(Linear, &[self, weight, bias]),
            None => apply1(Linear, &[self, weight]),
        }
    }
}

struct Linear;

pub(crate) const FORWARD: Family<ProductParams> = family!("linear", "fwd", Inner, Inner);
const FEW: Kernel<ProductParams> = Kernel::new("linear", "fwd_few_rows", LARGE_THREADS, FLOATS);
const KERNELS: &[KernelInfo] = &{
    let [a, b, c, d] = FORWARD.infos();
    [a, b, c, d, FEW.info(), merge("linear").info()]
};

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float("linear", x)?;
        let shape = x[0].shape;
        match x[1].shape.as_array() {
            Some([out, inner]) if shape.rank() > 0 && shape.last() == inner => {
                if let Some(bias) = x.get(2).filter(|bias| *bias.shape != [out]) {
                    return Err(Error::shape("linear", format!("bias {} for {out} outputs", bias.shape)));
                }
                Ok(vec![Spec { shape: shape.with(shape.rank() - 1, out), dtype }])
            }
            _ => Err(Error::shape("linear", format!("{shape} does not multiply weight {}", x[1].shape))),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (rows, inner, out) = (args.x_shape(0).rows(), args.x_shape(0).last(), args.y_shape(0).last());
        float_dispatch!(args, T => {
            let bias = (args.inputs() == 3).then(|| args.x::<T>(2));
            let (x, weight) = (Matrix::rows(args.x::<T>(0), inner), Matrix::transposed(args.x::<T>(1), inner));
            let y = args.y::<T>(0);
            if let Some(bias) = bias {
                fill_rows(y, bias);
            }
            product([rows, out, inner], x, weight, MatrixMut { data: y, row: out }, bias.is_some(), Threads::All);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (rows, inner, out) = (args.x[0].shape().rows(), args.x[0].shape().last(), args.y[0].shape().last());
        let problem = Problem {
            op: "linear",
            stem: "linear",
            extents: [rows, out, inner],
            batch: 1,
            between: [0, 0],
            bias: args.x.get(2),
        };
        if rows <= FEW_ROWS { problem.launch_few_rows(args, &FEW) } else { problem.launch(args, &FORWARD) }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = v.upstream()?;
        let dx = v.when(0, || dy.matmul(v.x(1), false, false))?;
        let dweight = v.when(1, || dy.as_rows()?.matmul(&v.x(0).as_rows()?, true, false))?;
        if v.inputs() == 2 {
            return Ok(vec![dx, dweight]);
        }
        let dbias = v.when(2, || dy.sum_to(v.x_spec(2).shape))?;
        Ok(vec![dx, dweight, dbias])
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b011, y: 0 }
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "linear",
    order: Order::Any,
    kernels: KERNELS,
    cases: || {
        let case = |name, x: &[usize], out: usize, bias: bool| {
            let x = Shape::from(x);
            let mut inputs = vec![normal(x), normal([out, x.last()])];
            inputs.extend(bias.then(|| normal([out])));
            Case::new(name, inputs, |x| Ok(vec![x[0].linear(&x[1], x.get(2))?]))
        };
        vec![
            case("rows", &[17, 33], 9, true),
            case("no_bias", &[3, 5], 7, false),
            case("tokens", &[2, 7, 19], 31, true),
            case("image", &[2, 3, 4, 5], 6, true),
            case("one_row", &[1, 70], 65, true),
            case("past_a_tile", &[67, 40], 72, true),
            case("long_sum", &[5, 1090], 6, true),
            case("one_in_one_out", &[13, 1], 1, true),
        ]
    },
};
