//! Two-dimensional convolution (a correlation, as in every deep-learning library) on NHWC images:
//!
//! `y[n,i,j,k] = bias[k] + Σ_{r,s,c} x[n, i·stride + r·dilation − padding, j·stride + s·dilation − padding, c] · w[k,r,s,c]`
//!
//! The forward map is linear in `x` and in `w`, so it, its input gradient and its weight gradient form a closed triad: the
//! gradient of each is made of the other two, and every order exists. The input gradient on its own is the transposed
//! convolution.
//!
//! The forward map takes an epilogue: see [`epilogue`](super::epilogue). On the CPU all three are im2col and GEMM: see
//! [`cpu::conv2d`](crate::cpu::conv2d); on a GPU implicit GEMM: see [`gemm::implicit`](crate::gemm::implicit).

pub(crate) mod launch;

use super::{
    bias_act::{Activation, ActivationParams},
    epilogue::{Epilogue, Fused},
};
pub use crate::conv2d::Conv2d;
use serde_json::json;

use crate::{
    conv2d::Geometry,
    cpu::conv2d::{forward, input_gradient, weight_gradient},
    error::{Error, Result},
    float_dispatch,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{Workload, only},
        same_float,
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[n, h, w, c] -> [n, h', w', k]` with `weight` `[k, r, s, c / groups]` and `bias` `[k]`.
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, conv: Conv2d) -> Result<Tensor> {
        self.conv2d_fused(weight, conv, &Epilogue::bias(bias))
    }

    /// The same with an epilogue, in one pass.
    pub fn conv2d_fused(&self, weight: &Tensor, conv: Conv2d, epilogue: &Epilogue) -> Result<Tensor> {
        let mut x = vec![self, weight];
        let fused = epilogue.join(&mut x);
        apply1(Forward { conv, fused }, &x)
    }

    /// The gradient that `dy = self` sends to the `[h, w]` input of a convolution with `weight`; in other words the
    /// transposed convolution of `self`, `[n, h', w', k] -> [n, h, w, c]`.
    pub fn conv2d_input_gradient(&self, weight: &Tensor, [h, w]: [usize; 2], conv: Conv2d) -> Result<Tensor> {
        apply1(InputGradient { conv, h, w }, &[self, weight])
    }

    /// The gradient that `dy` sends to the `[r, s]` kernel of a convolution of `x = self`: `[k, r, s, c / groups]`.
    pub fn conv2d_weight_gradient(&self, dy: &Tensor, [r, s]: [usize; 2], conv: Conv2d) -> Result<Tensor> {
        apply1(WeightGradient { conv, r, s }, &[self, dy])
    }
}

struct Forward {
    conv: Conv2d,
    fused: Fused,
}

struct InputGradient {
    conv: Conv2d,
    h: usize,
    w: usize,
}

struct WeightGradient {
    conv: Conv2d,
    r: usize,
    s: usize,
}

fn images(op: &'static str, spec: &Spec) -> Result<[usize; 4]> {
    spec.shape.nhwc().ok_or_else(|| Error::shape(op, format!("four axes wanted, got {}", spec.shape)))
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float("conv2d", x)?;
        let g = Geometry::new("conv2d", self.conv, images("conv2d", &x[0])?, images("conv2d", &x[1])?)?;
        let y = Spec::new(g.y(), dtype);
        self.fused.check("conv2d", x, y, false)?;
        Ok(vec![y])
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        convolution_macs(y[0].shape, x[1].shape)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let g = Geometry::new("conv2d", self.conv, dims(args.x_shape(0)), dims(args.x_shape(1)))?;
        float_dispatch!(args, T => {
            let (x, weight) = (args.x::<T>(0), args.x::<T>(1));
            let epilogue = self.fused.host::<T>(args);
            epilogue.run(g.k, args.y::<T>(0), None, |y, accumulate| forward::<T>(&g, x, weight, y, accumulate));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let g = Geometry::new("conv2d", self.conv, dims(args.x[0].shape()), dims(args.x[1].shape()))?;
        launch::forward(args, &g, &self.fused)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (backprop, conv) = (self.fused.backprop(v)?, self.conv);
        let ([_, h, w, _], [_, r, s, _]) = (dims(v.x_spec(0).shape), dims(v.x_spec(1).shape));
        let dx = v.when(0, || backprop.dsum.conv2d_input_gradient(v.x(1), [h, w], conv))?;
        let dweight = v.when(1, || v.x(0).conv2d_weight_gradient(&backprop.dsum, [r, s], conv))?;
        let mut all = vec![dx, dweight];
        all.extend(self.fused.gradients(v, &backprop)?);
        Ok(all)
    }

    fn keep(&self) -> Keep {
        let Keep { x, y } = self.fused.keep();
        Keep { x: x | 0b11, y }
    }
}

impl Op for InputGradient {
    fn name(&self) -> &'static str {
        "conv2d_input_gradient"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        Ok(vec![Spec::new(self.geometry(images(self.name(), &x[0])?, images(self.name(), &x[1])?)?.x(), dtype)])
    }

    fn macs(&self, x: &[Spec], _: &[Spec]) -> u64 {
        convolution_macs(x[0].shape, x[1].shape)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let g = self.geometry(dims(args.x_shape(0)), dims(args.x_shape(1)))?;
        float_dispatch!(args, T => input_gradient::<T>(&g, args.x(0), args.x(1), args.y(0)));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let g = self.geometry(dims(args.x[0].shape()), dims(args.x[1].shape()))?;
        launch::input_gradient(args, &g)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (upstream, conv) = (v.upstream()?, self.conv);
        let [_, r, s, _] = dims(v.x_spec(1).shape);
        Ok(vec![
            v.when(0, || upstream.conv2d(v.x(1), None, conv))?,
            v.when(1, || upstream.conv2d_weight_gradient(v.x(0), [r, s], conv))?,
        ])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

impl InputGradient {
    fn geometry(&self, dy: [usize; 4], weight: [usize; 4]) -> Result<Geometry> {
        let c = weight[3] * self.conv.groups;
        let g = Geometry::new(self.name(), self.conv, [dy[0], self.h, self.w, c], weight)?;
        if g.y() != dy {
            let (h, w) = (self.h, self.w);
            return Err(Error::shape(self.name(), format!("{dy:?} does not arise from {h}x{w}, weight {weight:?}")));
        }
        Ok(g)
    }
}

impl Op for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d_weight_gradient"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        Ok(vec![Spec::new(self.geometry(images(self.name(), &x[0])?, images(self.name(), &x[1])?)?.weight(), dtype)])
    }

    fn macs(&self, x: &[Spec], y: &[Spec]) -> u64 {
        convolution_macs(x[1].shape, y[0].shape)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let g = self.geometry(dims(args.x_shape(0)), dims(args.x_shape(1)))?;
        float_dispatch!(args, T => weight_gradient::<T>(&g, args.x(0), args.x(1), args.y(0)));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let g = self.geometry(dims(args.x[0].shape()), dims(args.x[1].shape()))?;
        launch::weight_gradient(args, &g)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (upstream, conv) = (v.upstream()?, self.conv);
        let [_, h, w, _] = dims(v.x_spec(0).shape);
        Ok(vec![
            v.when(0, || v.x(1).conv2d_input_gradient(upstream, [h, w], conv))?,
            v.when(1, || v.x(0).conv2d(upstream, None, conv))?,
        ])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

impl WeightGradient {
    fn geometry(&self, x: [usize; 4], dy: [usize; 4]) -> Result<Geometry> {
        let groups = self.conv.groups.max(1);
        let g = Geometry::new(self.name(), self.conv, x, [dy[3], self.r, self.s, x[3] / groups])?;
        if g.y() != dy {
            return Err(Error::shape(self.name(), format!("{dy:?} does not arise from {x:?} with {:?}", self.conv)));
        }
        Ok(g)
    }
}

/// Of a convolution and of its gradients: each output takes a whole filter of `weight`, `[k, r, s, c / groups]`.
pub(super) fn convolution_macs(y: Shape, weight: Shape) -> u64 {
    (y.elems() * weight.elems() / weight[0].max(1)) as u64
}

/// Extents that `infer` has checked.
fn dims(shape: Shape) -> [usize; 4] {
    shape.nhwc().unwrap_or([0; 4])
}

pub const SPEC: OpSpec = OpSpec {
    name: "conv2d",
    order: Order::Any,
    kernels: launch::KERNELS,
    cases: || {
        let case = |name, x: [usize; 4], [k, r, s]: [usize; 3], bias: bool, conv: Conv2d| {
            let mut inputs = vec![normal(x), normal([k, r, s, x[3] / conv.groups])];
            inputs.extend(bias.then(|| normal([k])));
            Case::new(name, inputs, move |x| Ok(vec![x[0].conv2d(&x[1], x.get(2), conv)?]))
        };
        let plain = Conv2d::default();
        // `parts`: bias, noise, residual by their first letters.
        let fused = |name, x: [usize; 4], [k, r]: [usize; 2], parts: &'static str, activation, clamp| {
            let [n, h, w, c] = x;
            let mut inputs = vec![normal(x), normal([k, r, r, c])];
            for part in parts.chars() {
                match part {
                    'b' => inputs.push(normal([k])),
                    'n' => inputs.extend([normal([n, h, w, 1]), normal([1])]),
                    _ => inputs.push(normal([n, h, w, k])),
                }
            }
            Case::new(name, inputs, move |x| {
                let params = ActivationParams { alpha: 0.3, gain: 1.4, clamp };
                let mut rest = x[2..].iter();
                let mut next = |part| if parts.contains(part) { rest.next() } else { None };
                let (bias, noise, strength) = (next('b'), next('n'), next('n'));
                let (noise, residual) = (noise.zip(strength), next('r'));
                let epilogue = Epilogue { bias, noise, activation, params, residual };
                Ok(vec![x[0].conv2d_fused(&x[1], Conv2d { padding: r / 2, ..plain }, &epilogue)?])
            })
        };
        vec![
            fused("epilogue_bias_and_leaky_relu", [2, 5, 7, 3], [6, 3], "b", Activation::LeakyRelu, None),
            fused("epilogue_pre_activation", [1, 5, 4, 8], [12, 3], "bn", Activation::LeakyRelu, Some(1.3)),
            fused("epilogue_noise_and_relu", [2, 3, 5, 2], [5, 3], "n", Activation::Relu, None),
            fused("epilogue_clamp", [1, 4, 3, 4], [8, 1], "", Activation::Linear, Some(0.9)),
            fused("epilogue_residual", [2, 3, 4, 3], [7, 1], "bnr", Activation::Linear, None),
            fused("epilogue_split", [1, 3, 3, 117], [6, 3], "bn", Activation::LeakyRelu, Some(40.0)),
            fused("epilogue_split_vec4", [2, 2, 3, 120], [8, 3], "bnr", Activation::Linear, None),
            case("same_3x3", [2, 5, 7, 3], [4, 3, 3], true, Conv2d { padding: 1, ..plain }),
            case("valid_3x3", [1, 6, 4, 2], [5, 3, 3], false, plain),
            case("pointwise", [2, 3, 5, 7], [9, 1, 1], true, plain),
            case("pointwise_groups", [2, 3, 5, 6], [4, 1, 1], false, Conv2d { groups: 2, ..plain }),
            case("pointwise_strided", [1, 5, 4, 3], [2, 1, 1], false, Conv2d { stride: 2, ..plain }),
            case("strided", [2, 7, 6, 3], [4, 3, 3], true, Conv2d { stride: 2, padding: 1, ..plain }),
            case("stride_past_the_kernel", [1, 8, 9, 2], [3, 2, 1], false, Conv2d { stride: 3, ..plain }),
            case("dilated", [1, 7, 8, 2], [3, 3, 3], true, Conv2d { dilation: 2, padding: 1, ..plain }),
            case(
                "dilated_strided",
                [1, 9, 8, 2],
                [3, 3, 2],
                false,
                Conv2d { dilation: 2, stride: 3, padding: 2, ..plain },
            ),
            case("groups", [2, 5, 5, 6], [4, 3, 3], true, Conv2d { groups: 2, padding: 1, ..plain }),
            case("large_kernel", [1, 13, 12, 3], [4, 11, 11], true, Conv2d { stride: 4, padding: 2, ..plain }),
            case("one_pixel", [1, 1, 1, 5], [3, 3, 3], true, Conv2d { padding: 1, ..plain }),
            case("past_a_tile", [1, 9, 9, 40], [72, 3, 3], true, Conv2d { padding: 1, ..plain }),
            case("past_a_tile_long", [1, 9, 9, 120], [120, 3, 3], true, Conv2d { padding: 1, ..plain }),
            case("even_channels", [1, 5, 4, 6], [10, 3, 3], false, Conv2d { padding: 1, ..plain }),
            case("many_pixels", [1, 37, 31, 1], [2, 2, 2], false, plain),
            case(
                "strided_dilated_groups",
                [1, 9, 8, 16],
                [16, 3, 3],
                true,
                Conv2d { stride: 2, dilation: 3, padding: 3, groups: 2 },
            ),
            case("one_channel", [1, 4, 6, 1], [1, 2, 3], false, plain),
            Case::new("input_gradient", [normal([2, 4, 4, 5]), normal([5, 3, 3, 3])], move |x| {
                let conv = Conv2d { stride: 2, padding: 1, ..plain };
                Ok(vec![x[0].conv2d_input_gradient(&x[1], [7, 8], conv)?])
            }),
            Case::new("weight_gradient", [normal([2, 5, 7, 3]), normal([2, 3, 4, 5])], move |x| {
                let conv = Conv2d { stride: 2, padding: 1, ..plain };
                Ok(vec![x[0].conv2d_weight_gradient(&x[1], [3, 3], conv)?])
            }),
        ]
    },
    workloads: || {
        let gpu = [
            ("32px_c512_3x3", [8, 32, 32, 512], [512, 3], 1, 1),
            ("256px_c64_3x3", [8, 256, 256, 64], [64, 3], 1, 1),
            ("64px_c256_3x3_s2", [8, 64, 64, 256], [512, 3], 2, 1),
            ("256px_c3_1x1", [8, 256, 256, 3], [64, 1], 1, 0),
            ("alexnet_11x11_s4", [8, 256, 256, 3], [64, 11], 4, 2),
        ];
        let gpu = gpu.map(|(name, x, [k, r], stride, padding)| {
            let [n, h, w, c] = x;
            let out = |extent: usize| (extent + 2 * padding - r) / stride + 1;
            let flops = 2.0 * (n * out(h) * out(w) * k * r * r * c) as f64;
            let conv = Conv2d { stride, padding, ..Conv2d::default() };
            let run = move |x: &[Tensor]| x[0].conv2d(&x[1], None, conv);
            Workload::gpu(format!("conv2d_{name}"), [normal(x), normal([k, r, r, c])], flops, run)
                .with(json!({ "stride": stride, "padding": padding }))
        });
        let cpu = [
            ("256px_c3_k64_1x1", [4, 256, 256, 3], [64, 1], 1, 0),
            ("128px_c64_k128_3x3", [4, 128, 128, 64], [128, 3], 1, 1),
            ("32px_c256_k256_3x3", [4, 32, 32, 256], [256, 3], 1, 1),
            ("8px_c512_k512_3x3", [4, 8, 8, 512], [512, 3], 1, 1),
            ("64px_c32_k32_3x3", [8, 64, 64, 32], [32, 3], 1, 1),
            ("65px_c128_k256_3x3_s2", [4, 65, 65, 128], [256, 3], 2, 0),
            ("alexnet_11x11_s4", [4, 256, 256, 3], [64, 11], 4, 2),
            ("alexnet_5x5", [4, 31, 31, 64], [192, 5], 1, 2),
        ];
        let cpu = cpu.map(|(name, x, [k, r], stride, padding)| {
            let conv = Conv2d { stride, padding, ..Conv2d::default() };
            let inputs = [normal(x), normal([k, r, r, x[3]]), normal([k])];
            Workload::cpu(format!("conv2d_{name}"), inputs, move |x| x[0].conv2d(&x[1], Some(&x[2]), conv))
        });
        gpu.into_iter().chain(cpu).collect()
    },
    reference: Some(|a| {
        let conv = Conv2d {
            stride: a.int("stride")?,
            padding: a.int("padding")?,
            dilation: a.int("dilation")?,
            groups: a.int("groups")?,
        };
        Ok(only("y", a.tensor("x")?.conv2d(a.tensor("weight")?, Some(a.tensor("bias")?), conv)?))
    }),
};
