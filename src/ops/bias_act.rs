//! `y = clamp(gain · f(x + bias))`: the step after nearly every GEMM, in one pass.
//!
//! The derivatives of `f` are the same op at order 1 and 2: `y = t · gain · f⁽ᵏ⁾(x + bias)`, zero where the value was
//! clamped, `t` being the product of the gradients that arrived. Order `k` differentiates into itself (by `t`) and order
//! `k + 1` (by `x`), which gives gradients of gradients; a third derivative is an error. Semantics of bias, gain and clamp
//! follow StyleGAN2-ADA's `bias_act`; the activations are PyTorch's (GELU by the error function, softplus without threshold).
//! A ReLU6 is a ReLU with a clamp.

use super::epilogue;
pub use crate::activation::{Activation, ActivationParams};
use crate::{
    cpu::vector::{par_rows, rows_per_task},
    device::{
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, inlined, kernel_params,
    math::{hardswish, normal_cdf, normal_pdf, sigmoid, softplus, tanh},
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{IMAGE, Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `clamp(gain · activation(x + bias))`; `bias` is as long as `x`'s last axis.
    pub fn bias_act(&self, bias: Option<&Tensor>, activation: Activation, params: ActivationParams) -> Result<Tensor> {
        if bias.is_none() && activation == Activation::Linear && params.gain == 1.0 && params.clamp.is_none() {
            return Ok(self.clone());
        }
        let (activation, params) = activation.with(params);
        let op = BiasActOp { activation, params, order: 0 };
        match bias {
            Some(bias) => apply1(op, &[self, bias]),
            None => apply1(op, &[self]),
        }
    }

    /// The activation alone; the leaky ReLU with alpha 0.2.
    pub fn activate(&self, activation: Activation) -> Result<Tensor> {
        self.bias_act(None, activation, ActivationParams::default())
    }

    /// `max(x, 0)`; its gradient at 0 is 0.
    pub fn relu(&self) -> Result<Tensor> {
        self.activate(Activation::Relu)
    }

    /// `x` where positive, else `alpha · x`.
    pub fn leaky_relu(&self, alpha: f64) -> Result<Tensor> {
        self.bias_act(None, Activation::LeakyRelu, ActivationParams { alpha, ..ActivationParams::default() })
    }

    /// `1 / (1 + e⁻ˣ)`.
    pub fn sigmoid(&self) -> Result<Tensor> {
        self.activate(Activation::Sigmoid)
    }

    /// The hyperbolic tangent.
    pub fn tanh(&self) -> Result<Tensor> {
        self.activate(Activation::Tanh)
    }

    /// `x · sigmoid(x)`.
    pub fn silu(&self) -> Result<Tensor> {
        self.activate(Activation::Silu)
    }

    /// `x · Φ(x)`, exact.
    pub fn gelu(&self) -> Result<Tensor> {
        self.activate(Activation::Gelu)
    }

    /// `ln(1 + eˣ)`.
    pub fn softplus(&self) -> Result<Tensor> {
        self.activate(Activation::Softplus)
    }

    /// `x · clamp(x + 3, 0, 6) / 6`.
    pub fn hardswish(&self) -> Result<Tensor> {
        self.activate(Activation::Hardswish)
    }

    /// `clamp(x, 0, 6)`; its gradient at 0 and at 6 is 0.
    pub fn relu6(&self) -> Result<Tensor> {
        self.activate(Activation::Relu6)
    }
}

/// `t · gain · f⁽ᵏ⁾(x)`, the derivative of order 1 or 2, zero where the value at `x` is clamped.
pub(super) fn derivative_by_input(
    order: usize,
    t: &Tensor,
    x: &Tensor,
    activation: Activation,
    params: ActivationParams,
) -> Result<Tensor> {
    apply1(BiasActOp { activation, params, order }, &[t, x])
}

/// Order 0: inputs x, bias. Order 1 and 2: inputs t, x, bias. The bias may be absent.
#[derive(Clone, Copy)]
struct BiasActOp {
    activation: Activation,
    params: ActivationParams,
    order: usize,
}

impl BiasActOp {
    /// Where `x` stands among the inputs.
    fn x_at(&self) -> usize {
        usize::from(self.order > 0)
    }

    /// Whether the derivative of this order is zero everywhere.
    fn vanishes(&self, order: usize) -> bool {
        order >= 2 && matches!(self.activation, Activation::Linear | Activation::Relu | Activation::LeakyRelu)
    }
}

impl Op for BiasActOp {
    fn name(&self) -> &'static str {
        ["bias_act", "bias_act_grad", "bias_act_grad2"][self.order]
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let input = x[self.x_at()];
        if !input.dtype.is_float() {
            return Err(Error::DType { op: self.name(), wanted: "a float type", got: input.dtype });
        }
        if let Some(bias) = x.get(self.x_at() + 1)
            && (bias.shape[..] != [input.shape.last()] || bias.dtype != input.dtype || input.shape.rank() == 0)
        {
            let message = format!("bias {}:{} for {}:{}", bias.shape, bias.dtype, input.shape, input.dtype);
            return Err(Error::shape(self.name(), message));
        }
        Ok(vec![input])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => self.compute::<T>(args));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let at = self.x_at();
        let x = args.x[at];
        let bias = args.x.get(at + 1).map_or(DevicePtr::NULL, |bias| bias.ptr);
        let (cols, bytes) = (x.shape().last(), x.dtype().bytes());
        // Whole rows, as many as 31 bits count.
        let most = ((1 << 30) / cols.max(1)).max(1) * cols.max(1);
        for first in (0..x.elems()).step_by(most) {
            let count = most.min(x.elems() - first);
            let part = |ptr: DevicePtr| ptr.offset_bytes(first * bytes);
            let params = BiasActParams {
                t: if self.order > 0 { part(args.x[0].ptr) } else { DevicePtr::NULL },
                x: part(x.ptr),
                bias,
                y: part(args.y[0].ptr),
                count: count31(self.name(), count)?,
                cols: count31(self.name(), cols)?,
                // In the order of `ALL`, which is the kernel's.
                activation: self.activation as u32,
                alpha: self.params.alpha as f32,
                gain: self.params.gain as f32,
                clamp: self.params.clamp.map_or(f32::INFINITY, |clamp| clamp as f32),
                aligned: ((bias == DevicePtr::NULL || cols.is_multiple_of(EACH)) && (first * bytes).is_multiple_of(16))
                    .into(),
                unused: 0,
            };
            let grid = blocks(count, THREADS as usize * EACH);
            args.launch(&KERNELS[self.order], x.dtype(), grid, 0, &params)?;
        }
        Ok(())
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, at) = (v.upstream()?, self.x_at());
        let x = v.x(at);
        let bias = (v.inputs() > at + 1).then(|| v.x(at + 1));
        let derivative = |order: usize, t: &Tensor| {
            let op = BiasActOp { order, ..*self };
            match bias {
                Some(bias) => apply1(op, &[t, x, bias]),
                None => apply1(op, &[t, x]),
            }
        };
        let mut out = Vec::with_capacity(v.inputs());
        if self.order > 0 {
            out.push(v.when(0, || derivative(self.order, dy))?);
        }
        let wanted = v.need(at) || (bias.is_some() && v.need(at + 1));
        let dx = if !wanted || self.vanishes(self.order + 1) {
            None
        } else if self.order == 0 {
            Some(derivative(1, dy)?)
        } else if self.order == 1 {
            Some(derivative(2, &dy.mul(v.x(0))?)?)
        } else {
            return Err(Error::OrderExceeded { op: self.name() });
        };
        let dbias = match (&dx, bias) {
            (Some(dx), Some(bias)) if v.need(at + 1) => Some(dx.as_rows()?.sum(&[0])?.reshape(bias.shape())?),
            _ => None,
        };
        out.push(dx.filter(|_| v.need(at)));
        if bias.is_some() {
            out.push(dbias);
        }
        Ok(out)
    }

    fn keep(&self) -> Keep {
        // The derivative of a linear activation without a clamp does not depend on where.
        Keep::INPUTS
    }
}

kernel_params! {
    struct BiasActParams {
        t: DevicePtr,
        x: DevicePtr,
        bias: DevicePtr,
        y: DevicePtr,
        count: u32,
        cols: u32,
        activation: u32,
        alpha: f32,
        gain: f32,
        clamp: f32,
        aligned: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
/// Elements of a thread.
const EACH: usize = 4;

const fn kernel(name: &'static str) -> Kernel<BiasActParams> {
    // SAFETY: only this file fills `BiasActParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe { Kernel::new(&modules::BIAS_ACT, name, THREADS, FLOATS) }
}

/// By order.
const KERNELS: [Kernel<BiasActParams>; 3] = [kernel("fwd"), kernel("bwd_x"), kernel("bwd_bwd_x")];

#[inline(always)]
fn sigmoid_derivative<T: Real>(x: T) -> T {
    let s = sigmoid(x);
    s * (T::one() - s)
}

#[inline(always)]
fn sigmoid_second_derivative<T: Real>(x: T) -> T {
    let s = sigmoid(x);
    s * (T::one() - s) * (T::one() - T::c(2.0) * s)
}

#[inline(always)]
fn tanh_derivative<T: Real>(x: T) -> T {
    let t = tanh(x);
    T::one() - t * t
}

#[inline(always)]
fn tanh_second_derivative<T: Real>(x: T) -> T {
    let t = tanh(x);
    T::c(-2.0) * t * (T::one() - t * t)
}

#[inline(always)]
fn silu<T: Real>(x: T) -> T {
    x * sigmoid(x)
}

#[inline(always)]
pub(super) fn silu_derivative<T: Real>(x: T) -> T {
    let s = sigmoid(x);
    s * (T::one() + x * (T::one() - s))
}

#[inline(always)]
fn silu_second_derivative<T: Real>(x: T) -> T {
    let s = sigmoid(x);
    s * (T::one() - s) * (T::c(2.0) + x * (T::one() - T::c(2.0) * s))
}

#[inline(always)]
fn gelu<T: Real>(x: T) -> T {
    x * normal_cdf(x)
}

#[inline(always)]
pub(super) fn gelu_derivative<T: Real>(x: T) -> T {
    normal_cdf(x) + x * normal_pdf(x)
}

#[inline(always)]
fn gelu_second_derivative<T: Real>(x: T) -> T {
    normal_pdf(x) * (T::c(2.0) - x * x)
}

/// At ±3, where there is none, that of PyTorch: the value from between.
#[inline(always)]
pub(super) fn hardswish_derivative<T: Real>(x: T) -> T {
    let three = T::c(3.0);
    let slope = (x + x + three) / T::c(6.0);
    let slope = if x < -three { T::zero() } else { slope };
    if x > three { T::one() } else { slope }
}

#[inline(always)]
fn hardswish_second_derivative<T: Real>(x: T) -> T {
    if x.abs() <= T::c(3.0) { T::one() / T::c(3.0) } else { T::zero() }
}

impl BiasActOp {
    fn compute<T: Real>(&self, args: &mut HostArgs) {
        let (one, zero, alpha) = (T::one(), T::zero(), T::c(self.params.alpha));
        macro_rules! by_name {
            ($($f:ident),*) => { self.each::<T>(args, $(inlined!(|x| $f(x))),*) };
        }
        // Value, first and second derivative of each, side by side. The ReLUs are written so that NaN stays NaN.
        match self.activation {
            Activation::Linear => self.each::<T>(args, |x| x, move |_| one, move |_| zero),
            // Relu6 came here as a ReLU with a clamp.
            Activation::Relu | Activation::Relu6 => self.each::<T>(
                args,
                inlined!(move |x| if x < zero { zero } else { x }),
                inlined!(move |x| if x > zero { one } else { zero }),
                move |_| zero,
            ),
            Activation::LeakyRelu => self.each::<T>(
                args,
                inlined!(move |x| x * if x < zero { alpha } else { one }),
                inlined!(move |x| if x > zero { one } else { alpha }),
                move |_| zero,
            ),
            Activation::Sigmoid => by_name!(sigmoid, sigmoid_derivative, sigmoid_second_derivative),
            Activation::Tanh => by_name!(tanh, tanh_derivative, tanh_second_derivative),
            Activation::Silu => by_name!(silu, silu_derivative, silu_second_derivative),
            Activation::Gelu => by_name!(gelu, gelu_derivative, gelu_second_derivative),
            Activation::Softplus => by_name!(softplus, sigmoid, sigmoid_derivative),
            Activation::Hardswish => by_name!(hardswish, hardswish_derivative, hardswish_second_derivative),
        }
    }

    /// The loops. `value` is needed at every order, because a clamped value has derivative zero.
    fn each<T: Real>(
        &self,
        args: &mut HostArgs,
        value: impl Fn(T) -> T + Sync + Copy,
        derivative: impl Fn(T) -> T + Sync + Copy,
        second_derivative: impl Fn(T) -> T + Sync + Copy,
    ) {
        let gain = T::c(self.params.gain);
        let Some(clamp) = self.params.clamp.map(T::c) else {
            return match self.order {
                0 => self.rows::<T>(args, inlined!(move |_, x| gain * value(x))),
                1 => self.rows::<T>(args, inlined!(move |t, x| t * gain * derivative(x))),
                _ => self.rows::<T>(args, inlined!(move |t, x| t * gain * second_derivative(x))),
            };
        };
        let inside = move |y: T| y > -clamp && y < clamp;
        match self.order {
            0 => self.rows::<T>(
                args,
                inlined!(move |_, x| {
                    let y = gain * value(x);
                    let y = if y > clamp { clamp } else { y };
                    if y < -clamp { -clamp } else { y }
                }),
            ),
            1 => self.rows::<T>(
                args,
                inlined!(move |t, x| if inside(gain * value(x)) { t * gain * derivative(x) } else { T::zero() }),
            ),
            _ => self.rows::<T>(
                args,
                inlined!(move |t, x| if inside(gain * value(x)) { t * gain * second_derivative(x) } else { T::zero() }),
            ),
        }
    }

    /// `y = f(t, x + bias)`; at order 0 `t` is `x` again and ignored. `f` owns its constants and is copied to where the loop
    /// runs: read through a reference they might be what is being written, and the loop would not vectorise.
    fn rows<T: Real>(&self, args: &mut HostArgs, f: impl Fn(T, T) -> T + Sync + Copy) {
        let at = self.x_at();
        let (t, x) = (args.x::<T>(0), args.x::<T>(at));
        if args.inputs() == at + 1 {
            let grain = rows_per_task(1);
            return par_rows(args.y::<T>(0), 1, |task, y| {
                let (t, x) = (&t[task * grain..][..y.len()], &x[task * grain..][..y.len()]);
                vectorised!([f], {
                    for (y, (&t, &x)) in y.iter_mut().zip(t.iter().zip(x)) {
                        *y = f(t, x);
                    }
                });
            });
        }
        // Narrow biases are repeated until a row is long enough to vectorise.
        let bias = args.x::<T>(at + 1);
        let bias = bias.repeat(64usize.div_ceil(bias.len().max(1)));
        let block = rows_per_task(bias.len()) * bias.len();
        par_rows(args.y::<T>(0), bias.len(), |task, y| {
            let (t, x) = (&t[task * block..][..y.len()], &x[task * block..][..y.len()]);
            vectorised!([f], {
                let rows = y.chunks_mut(bias.len()).zip(t.chunks(bias.len()).zip(x.chunks(bias.len())));
                for (y, (t, x)) in rows {
                    let inputs = t.iter().zip(x).zip(&bias);
                    for (y, ((&t, &x), &bias)) in y.iter_mut().zip(inputs) {
                        *y = f(t, x + bias);
                    }
                }
            });
        });
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "bias_act",
    order: Order::Any,
    kernels: &[
        KERNELS[0].info(),
        KERNELS[1].info(),
        KERNELS[2].info(),
        epilogue::GRADIENT.info(),
        epilogue::SUMS.info(),
        epilogue::BIAS.info(),
    ],
    cases: || {
        let params = ActivationParams { alpha: 0.3, gain: 1.4, clamp: None };
        let mut cases: Vec<Case> = Activation::ALL
            .into_iter()
            .map(|activation| {
                // Distinct values keep the kinks of the ReLUs at a distance.
                let inputs = [drawn([2, 3, 5], Draw::Distinct), drawn([5], Draw::Uniform(0.001, 0.006))];
                Case::new(activation.name(), inputs, move |x| {
                    Ok(vec![x[0].bias_act(Some(&x[1]), activation, params)?])
                })
            })
            .collect();
        cases.push(Case::new("clamped", [normal([7, 70]), normal([70])], |x| {
            Ok(vec![x[0].bias_act(
                Some(&x[1]),
                Activation::Silu,
                ActivationParams { clamp: Some(1.25), ..ActivationParams::default() },
            )?])
        }));
        for (name, activation) in [("hardswish_bends", Activation::Hardswish), ("relu6_bends", Activation::Relu6)] {
            let x = [drawn([5, 23], Draw::Uniform(-9.0, 9.0))];
            cases.push(Case::new(name, x, move |x| Ok(vec![x[0].bias_act(None, activation, params)?])));
        }
        cases.push(Case::new("without_bias", [normal([3, 33])], |x| Ok(vec![x[0].gelu()?])));
        cases
    },
    workloads: || {
        let flops = 4.0 * IMAGE.iter().product::<usize>() as f64;
        let params = ActivationParams { alpha: 0.2, gain: 2f64.sqrt(), clamp: Some(256.0) };
        let run = move |x: &[Tensor]| x[0].bias_act(Some(&x[1]), Activation::LeakyRelu, params);
        vec![Workload::gpu("bias_act", [normal(IMAGE), normal([IMAGE[3]])], flops, run)]
    },
    reference: Some(|a| {
        let (activation, clamp) = (Activation::parse(a.text("act")?)?, a.attributes["clamp"].as_f64());
        let params = ActivationParams { alpha: a.float("alpha")?, gain: a.float("gain")?, clamp };
        Ok(only("y", a.tensor("x")?.bias_act(Some(a.tensor("bias")?), activation, params)?))
    }),
};
