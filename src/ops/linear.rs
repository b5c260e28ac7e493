//! `y = f(x · weightᵀ + bias)` over the last axis: the fully connected layer. What follows the sums is done where they are
//! made: see [`epilogue`](super::epilogue).

use super::{
    epilogue::{Epilogue, Fused},
    matmul::{
        launch::{FEW_ROWS, Family, LARGE_THREADS, Problem, ProductParams, family, merge},
        same_float,
    },
};
use crate::{
    device::{
        kernel::{FLOATS, Kernel, KernelInfo},
        product::{Matrix, MatrixMut, Threads, product},
    },
    error::{Error, Result},
    float_dispatch,
    op::{Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal},
    ops::bias_act::{Activation, BiasAct},
    shape::{Shape, Spec},
    tape::{self, Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[.., in] -> [.., out]` with `weight` `[out, in]` and `bias` `[out]`.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.linear_then(weight, &Epilogue::bias(bias))
    }

    /// The same, and what follows its sums, in one pass: any line bent at zero, sigmoid, SiLU, GELU.
    pub fn linear_then(&self, weight: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
        let mut x = vec![self, weight];
        let fused = epilogue.join(&mut x);
        apply1(Linear { fused, arguments: fused.curved() && tape::alive() }, &x)
    }
}

struct Linear {
    fused: Fused,
    /// Whether a curve's arguments are a second output, for its gradient.
    arguments: bool,
}

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
                let y = Spec { shape: shape.with(shape.rank() - 1, out), dtype };
                self.fused.check("linear", x, y, true)?;
                Ok(if self.arguments { vec![y, y] } else { vec![y] })
            }
            _ => Err(Error::shape("linear", format!("{shape} does not multiply weight {}", x[1].shape))),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (rows, inner, out) = (args.x_shape(0).rows(), args.x_shape(0).last(), args.y_shape(0).last());
        float_dispatch!(args, T => {
            let (x, weight) = (Matrix::rows(args.x::<T>(0), inner), Matrix::transposed(args.x::<T>(1), inner));
            let epilogue = self.fused.host::<T>(args);
            let (y, before) = if self.arguments {
                let [y, before] = args.ys::<T, 2>();
                (y, Some(before))
            } else {
                (args.y::<T>(0), None)
            };
            let begun = epilogue.begin(out, y);
            product([rows, out, inner], x, weight, MatrixMut { data: &mut *y, row: out }, begun, Threads::All);
            epilogue.end(out, y, before, begun);
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
            epilogue: self.fused.params(args, self.arguments.then(|| args.y[1].ptr)),
        };
        if rows <= FEW_ROWS { problem.launch_few_rows(args, &FEW) } else { problem.launch(args, &FORWARD) }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let through = self.fused.through(v)?;
        let dx = v.when(0, || through.dsum.matmul(v.x(1), false, false))?;
        let dweight = v.when(1, || through.dsum.as_rows()?.matmul(&v.x(0).as_rows()?, true, false))?;
        let mut all = vec![dx, dweight];
        all.extend(self.fused.gradients(v, &through)?);
        Ok(all)
    }

    fn keep(&self) -> Keep {
        let Keep { x, y } = self.fused.keep();
        Keep { x: x | 0b11, y }
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
        // `parts`: bias, residual by their first letters.
        let then = |name, x: &[usize], out: usize, parts: &'static str, activation, around: BiasAct| {
            let x = Shape::from(x);
            let mut inputs = vec![normal(x), normal([out, x.last()])];
            for part in parts.chars() {
                inputs.push(if part == 'b' { normal([out]) } else { normal(x.with(x.rank() - 1, out)) });
            }
            Case::new(name, inputs, move |x| {
                let bias = parts.contains('b').then(|| &x[2]);
                let residual = if parts.contains('r') { x.last() } else { None };
                let epilogue = Epilogue { bias, residual, activation, around, noise: None };
                Ok(vec![x[0].linear_then(&x[1], &epilogue)?])
            })
        };
        let plain = BiasAct::default();
        let strong = BiasAct { alpha: 0.3, gain: 1.4, clamp: None };
        let clamped = BiasAct { clamp: Some(3.0), ..strong };
        use Activation::{Gelu, LeakyRelu, Relu, Sigmoid, Silu};
        vec![
            then("then_gelu", &[19, 33], 11, "b", Gelu, plain),
            then("then_gelu_past_a_tile", &[67, 24], 72, "b", Gelu, clamped),
            then("then_gelu_split", &[5, 1090], 6, "b", Gelu, plain),
            then("then_gelu_split_fours", &[9, 1032], 8, "", Gelu, strong),
            then("then_silu", &[2, 7, 19], 31, "b", Silu, plain),
            then("then_silu_one_row", &[1, 70], 65, "b", Silu, plain),
            then("then_sigmoid_few_rows", &[3, 24], 70, "b", Sigmoid, plain),
            then("then_sigmoid", &[13, 1], 1, "", Sigmoid, plain),
            then("then_relu", &[17, 9], 5, "b", Relu, plain),
            then("then_leaky_relu", &[66, 16], 65, "b", LeakyRelu, clamped),
            then("then_leaky_few_rows", &[4, 17], 9, "b", LeakyRelu, strong),
            then("then_residual", &[2, 9, 20], 12, "br", Activation::Linear, plain),
            then("then_residual_past_a_tile", &[67, 24], 72, "r", Activation::Linear, strong),
            then("then_residual_split", &[5, 1090], 6, "br", Activation::Linear, plain),
            then("then_gelu_whole_lines", &[72, 80], 136, "b", Gelu, strong),
            then("then_silu_odd_lines", &[66, 64], 65, "b", Silu, plain),
            then("then_residual_whole_lines", &[70, 64], 72, "br", Activation::Linear, plain),
            then("then_residual_one_row", &[1, 40], 21, "br", Activation::Linear, plain),
            case("rows", &[17, 33], 9, true),
            case("no_bias", &[3, 5], 7, false),
            case("tokens", &[2, 7, 19], 31, true),
            case("image", &[2, 3, 4, 5], 6, true),
            case("one_row", &[1, 70], 65, true),
            case("past_a_tile", &[67, 40], 72, true),
            case("long_sum", &[5, 1090], 6, true),
            case("long_rows", &[72, 1040], 72, true),
            case("one_in_one_out", &[13, 1], 1, true),
        ]
    },
};
