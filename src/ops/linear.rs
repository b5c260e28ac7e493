//! `y = f(x · weightᵀ + bias)` over the last axis: the fully connected layer with its epilogue, see [`epilogue`](super::epilogue).

use super::epilogue::{Epilogue, Fused};
use crate::{
    activation::{Activation, ActivationParams},
    cpu::gemm::{Matrix, MatrixMut, Threads, gemm},
    device::{
        kernel::{FLOATS, Kernel, KernelInfo, concat},
        modules,
    },
    error::{Error, Result},
    float_dispatch,
    gemm::{
        Family, GemmParams, LARGE_THREADS, Problem, SM90_KERNELS, family, heuristics::mma_sync::SKINNY_ROWS,
        splitk::splitk_reduce,
    },
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{Workload, only},
        same_float,
    },
    shape::{Shape, Spec},
    tape::{self, Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[.., in] -> [.., out]` with `weight` `[out, in]` and `bias` `[out]`.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.linear_fused(weight, &Epilogue::bias(bias))
    }

    /// The same with an epilogue, in one pass: linear, the ReLUs, sigmoid, SiLU, GELU or hardswish.
    pub fn linear_fused(&self, weight: &Tensor, epilogue: &Epilogue) -> Result<Tensor> {
        let mut x = vec![self, weight];
        let fused = epilogue.join(&mut x);
        apply1(Linear { fused, keep_pre_activation: fused.is_smooth() && tape::alive() }, &x)
    }
}

struct Linear {
    fused: Fused,
    /// Whether the pre-activation is a second output, for the gradient of a smooth activation.
    keep_pre_activation: bool,
}

pub(crate) const FORWARD: Family<GemmParams> = family!(&modules::LINEAR, "fwd", K, K);
// SAFETY: only `Problem` fills `GemmParams`, from the tensors of the launch and their extents.
const SKINNY: Kernel<GemmParams> = unsafe { Kernel::new(&modules::LINEAR, "skinny", LARGE_THREADS, FLOATS) };
const KERNELS: &[KernelInfo] =
    &concat::<14>(&[&FORWARD.infos(), &[SKINNY.info(), splitk_reduce(&modules::LINEAR).info()], &SM90_KERNELS]);

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
                Ok(if self.keep_pre_activation { vec![y, y] } else { vec![y] })
            }
            _ => Err(Error::shape("linear", format!("{shape} does not multiply weight {}", x[1].shape))),
        }
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        (y[0].shape.elems() * x[0].shape.last()) as u64
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let (rows, inner, out) = (args.x_shape(0).rows(), args.x_shape(0).last(), args.y_shape(0).last());
        float_dispatch!(args, T => {
            let (x, weight) = (Matrix::rows(args.x::<T>(0), inner), Matrix::transposed(args.x::<T>(1), inner));
            let epilogue = self.fused.host::<T>(args);
            let (y, pre_activation) = if self.keep_pre_activation {
                let [y, pre_activation] = args.ys::<T, 2>();
                (y, Some(pre_activation))
            } else {
                (args.y::<T>(0), None)
            };
            epilogue.run(out, y, pre_activation, |y, accumulate| {
                gemm([rows, out, inner], x, weight, MatrixMut { data: y, row: out }, accumulate, Threads::All);
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (rows, inner, out) = (args.x[0].shape().rows(), args.x[0].shape().last(), args.y[0].shape().last());
        let problem = Problem {
            op: "linear",
            extents: [rows, out, inner],
            batch: 1,
            batch_strides: [0, 0],
            epilogue: self.fused.device(args, self.keep_pre_activation.then(|| args.y[1].ptr)),
        };
        if rows <= SKINNY_ROWS { problem.launch_skinny(args, &SKINNY) } else { problem.launch(args, &FORWARD) }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let backprop = self.fused.backprop(v)?;
        let dx = v.when(0, || backprop.dsum.matmul(v.x(1), false, false))?;
        let dweight = v.when(1, || backprop.dsum.as_rows()?.matmul(&v.x(0).as_rows()?, true, false))?;
        let mut all = vec![dx, dweight];
        all.extend(self.fused.gradients(v, &backprop)?);
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
        let fused = |name, x: &[usize], out: usize, parts: &'static str, activation, params: ActivationParams| {
            let x = Shape::from(x);
            let mut inputs = vec![normal(x), normal([out, x.last()])];
            for part in parts.chars() {
                inputs.push(if part == 'b' { normal([out]) } else { normal(x.with(x.rank() - 1, out)) });
            }
            Case::new(name, inputs, move |x| {
                let bias = parts.contains('b').then(|| &x[2]);
                let residual = if parts.contains('r') { x.last() } else { None };
                let epilogue = Epilogue { bias, residual, activation, params, noise: None };
                Ok(vec![x[0].linear_fused(&x[1], &epilogue)?])
            })
        };
        let plain = ActivationParams::default();
        let strong = ActivationParams { alpha: 0.3, gain: 1.4, clamp: None };
        let clamped = ActivationParams { clamp: Some(3.0), ..strong };
        // Few of so many sums lie near this clamp: rounding moves one that does across it, and its gradient with it.
        let clamped_far_out = ActivationParams { clamp: Some(16.0), ..strong };
        use Activation::{Gelu, Hardswish, LeakyRelu, Relu, Relu6, Sigmoid, Silu};
        vec![
            fused("epilogue_gelu", &[19, 33], 11, "b", Gelu, plain),
            fused("epilogue_clamped_gelu_past_a_tile", &[67, 24], 72, "b", Gelu, clamped_far_out),
            fused("epilogue_gelu_split", &[5, 1090], 6, "b", Gelu, plain),
            fused("epilogue_gelu_split_vec4", &[9, 1032], 8, "", Gelu, strong),
            fused("epilogue_silu", &[2, 7, 19], 31, "b", Silu, plain),
            fused("epilogue_silu_one_row", &[1, 70], 65, "b", Silu, plain),
            fused("epilogue_sigmoid_skinny", &[3, 24], 70, "b", Sigmoid, plain),
            fused("epilogue_sigmoid", &[13, 1], 1, "", Sigmoid, plain),
            fused("epilogue_hardswish", &[11, 26], 12, "b", Hardswish, strong),
            fused("epilogue_relu6", &[9, 30], 8, "b", Relu6, plain),
            fused("epilogue_relu", &[17, 9], 5, "b", Relu, plain),
            fused("epilogue_leaky_relu", &[66, 16], 65, "b", LeakyRelu, clamped),
            fused("epilogue_leaky_skinny", &[4, 17], 9, "b", LeakyRelu, strong),
            fused("epilogue_residual", &[2, 9, 20], 12, "br", Activation::Linear, plain),
            fused("epilogue_residual_past_a_tile", &[67, 24], 72, "r", Activation::Linear, strong),
            fused("epilogue_residual_split", &[5, 1090], 6, "br", Activation::Linear, plain),
            fused("epilogue_gelu_aligned_rows", &[72, 80], 136, "b", Gelu, strong),
            fused("epilogue_silu_odd_rows", &[66, 64], 65, "b", Silu, plain),
            fused("epilogue_residual_aligned_rows", &[70, 64], 72, "br", Activation::Linear, plain),
            fused("epilogue_residual_one_row", &[1, 40], 21, "br", Activation::Linear, plain),
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
    workloads: || {
        let inputs = |[rows, inner, out]: [usize; 3]| [normal([rows, inner]), normal([out, inner]), normal([out])];
        let run = |x: &[Tensor]| x[0].linear(&x[1], Some(&x[2]));
        let gpu = [
            ("vit_qkv", [4096, 384, 1152]),
            ("vit_fc1", [4096, 384, 1536]),
            ("mbconv_expand", [16384, 512, 2048]),
            ("mbconv_project", [16384, 2048, 512]),
            ("style", [8, 512, 512]),
        ];
        let gpu = gpu.map(|(name, sizes)| {
            let flops = 2.0 * sizes.iter().product::<usize>() as f64;
            Workload::gpu(format!("linear_{name}"), inputs(sizes), flops, run)
        });
        // The ViT over 1000 patches, MBConv over 100 patches, a style of eight images.
        let cpu = [
            ("vit_qkv", [1000, 384, 1152]),
            ("vit_fc1", [1000, 384, 1536]),
            ("mbconv_expand", [6400, 512, 2048]),
            ("mbconv_project", [6400, 2048, 512]),
            ("style", [8, 512, 512]),
        ];
        let cpu = cpu.map(|(name, sizes)| Workload::cpu(format!("linear_{name}"), inputs(sizes), run));
        gpu.into_iter().chain(cpu).collect()
    },
    reference: Some(|a| Ok(only("y", a.tensor("x")?.linear(a.tensor("weight")?, Some(a.tensor("bias")?))?))),
};
