//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) with PyTorch's semantics: bias correction, `eps` added
//! to the corrected root, plain decay added to the gradient, decoupled decay taken off the parameter first.

use std::collections::HashMap;

use rayon::prelude::*;

use super::clip::clip_scale;
use crate::{
    device::{
        host::{HostBuffer, Real},
        vector::{GRAIN, vectorised},
    },
    error::{Error, Result},
    nn::builder::Params,
    op::{self, InPlace},
    tape::Grads,
    tensor::Tensor,
};

/// Everything one update of one parameter depends on beside the tensors.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// AdamW: decay shrinks the parameter directly.
    pub decoupled: bool,
    /// Counts from 1.
    pub step: u64,
}

/// One update of one parameter and its moments `m` and `v`, all f32 or all f64.
pub fn update(step: &AdamStep, param: &Tensor, grad: &Tensor, m: &Tensor, v: &Tensor) -> Result<()> {
    op::update(&Update { steps: vec![*step], grad_scale: 1.0 }, &[param, m, v], &[grad])
}

/// Settings of the optimiser.
#[derive(Clone, Copy, Debug)]
pub struct AdamConfig {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// AdamW's decay instead of L2 regularisation.
    pub decoupled: bool,
    /// Whether vectors (biases, scales of normalisations) decay as well as matrices.
    pub decay_vectors: bool,
}

impl Default for AdamConfig {
    fn default() -> AdamConfig {
        AdamConfig {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled: true,
            decay_vectors: false,
        }
    }
}

/// The optimiser of one set of parameters.
pub struct Adam {
    /// May be changed between steps, the learning rate by a schedule.
    pub config: AdamConfig,
    /// First and second moment of every parameter, in the parameters' order.
    moments: Vec<[Tensor; 2]>,
    steps: u64,
}

impl Adam {
    /// Moments begin at zero.
    pub fn new(params: &Params, config: AdamConfig) -> Result<Adam> {
        let zeros = |t: &Tensor| Ok([t.zeros_like()?, t.zeros_like()?]);
        let moments = params.named_trainable().map(|(_, t)| zeros(t)).collect::<Result<_>>()?;
        Ok(Adam { config, moments, steps: 0 })
    }

    /// One step. Gradients are first scaled so that their norm is at most `max_norm` (0: not at all); returns the norm they
    /// had. A parameter without a gradient stays as it is. `params` is the set the optimiser was made for.
    pub fn step(&mut self, params: &Params, grads: &Grads, max_norm: f64) -> Result<f64> {
        let AdamConfig { lr, beta1, beta2, eps, weight_decay, decoupled, decay_vectors } = self.config;
        let (mut targets, mut gradients, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for ((_, param), [m, v]) in params.named_trainable().zip(&self.moments) {
            let Some(grad) = grads.get(param) else { continue };
            let decays = decay_vectors || param.shape().rank() > 1;
            let weight_decay = if decays { weight_decay } else { 0.0 };
            targets.extend([param, m, v]);
            gradients.push(grad);
            steps.push(AdamStep { lr, beta1, beta2, eps, weight_decay, decoupled, step: self.steps + 1 });
        }
        if gradients.is_empty() {
            return Ok(0.0);
        }
        let (norm, grad_scale) = clip_scale(&gradients, max_norm)?;
        op::update(&Update { steps, grad_scale }, &targets, &gradients)?;
        self.steps += 1;
        Ok(norm)
    }

    /// Steps taken, which a checkpoint stores beside the moments.
    pub fn step_count(&self) -> u64 {
        self.steps
    }

    /// The moments by name, `NAME.m` and `NAME.v`: what a checkpoint holds.
    pub fn named(&self, params: &Params) -> Vec<(String, Tensor)> {
        let pair = |((name, _), [m, v]): ((&str, &Tensor), &[Tensor; 2])| {
            [(format!("{name}.m"), m.clone()), (format!("{name}.v"), v.clone())]
        };
        params.named_trainable().zip(&self.moments).flat_map(pair).collect()
    }

    /// Takes up the moments that [`Adam::named`] gave, after `steps` steps. `origin` names the file in errors.
    pub fn restore(
        &mut self,
        params: &Params,
        tensors: &HashMap<String, Tensor>,
        steps: u64,
        origin: &str,
    ) -> Result<()> {
        let find = |name: String, param: &Tensor| match tensors.get(&name) {
            Some(t) if t.spec() == param.spec() => t.to_device(param.device()),
            Some(t) => {
                let problem = format!("{name} is {}:{}, not {}", t.shape(), t.dtype(), param.shape());
                Err(Error::input(origin, problem, "resume with the settings the run began with"))
            }
            None => Err(Error::input(origin, format!("{name} is missing"), "resume from an earlier checkpoint")),
        };
        let pair = |(name, t): (&str, &Tensor)| Ok([find(format!("{name}.m"), t)?, find(format!("{name}.v"), t)?]);
        self.moments = params.named_trainable().map(pair).collect::<Result<_>>()?;
        self.steps = steps;
        Ok(())
    }
}

/// Targets param, m, v of every parameter; inputs their gradients.
struct Update {
    steps: Vec<AdamStep>,
    grad_scale: f64,
}

impl InPlace for Update {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu(&self, targets: &mut [&mut HostBuffer], x: &[&HostBuffer]) -> Result<()> {
        let one = |((target, grad), step): ((&mut [&mut HostBuffer], &&HostBuffer), &AdamStep)| {
            let [param, m, v] = target else {
                return Err(Error::shape("adam", "param, m and v of every parameter wanted"));
            };
            match (&mut **param, &mut **m, &mut **v, *grad) {
                (HostBuffer::F32(p), HostBuffer::F32(m), HostBuffer::F32(v), HostBuffer::F32(g)) => {
                    step_slices(step, self.grad_scale, p, m, v, g)
                }
                (HostBuffer::F64(p), HostBuffer::F64(m), HostBuffer::F64(v), HostBuffer::F64(g)) => {
                    step_slices(step, self.grad_scale, p, m, v, g)
                }
                (param, ..) => Err(Error::DType {
                    op: "adam",
                    wanted: "f32 or f64 throughout, moments and gradient as the parameter",
                    got: param.dtype(),
                }),
            }
        };
        targets.par_chunks_mut(3).zip(x).zip(&self.steps).try_for_each(one)
    }
}

fn step_slices<T: Real>(step: &AdamStep, scale: f64, p: &mut [T], m: &mut [T], v: &mut [T], g: &[T]) -> Result<()> {
    if [m.len(), v.len(), g.len()] != [p.len(); 3] {
        return Err(Error::shape("adam", "moments and gradient are as long as their parameter"));
    }
    let AdamStep { lr, beta1, beta2, eps, weight_decay, decoupled, step } = *step;
    let (decay, shrink) = if decoupled { (0.0, 1.0 - lr * weight_decay) } else { (weight_decay, 1.0) };
    // With an exponent beyond i32 both corrections are 1 to the last bit.
    let power = i32::try_from(step).unwrap_or(i32::MAX);
    let (first, second) = (1.0 - beta1.powi(power), (1.0 - beta2.powi(power)).sqrt());
    let [scale, decay, shrink, eps] = [scale, decay, shrink, eps].map(T::c);
    let (beta1, rest1, beta2, rest2) = (T::c(beta1), T::c(1.0 - beta1), T::c(beta2), T::c(1.0 - beta2));
    let (rate, root) = (T::c(lr / first), T::c(1.0 / second));
    let moments = m.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN));
    p.par_chunks_mut(GRAIN).zip(moments).zip(g.par_chunks(GRAIN)).for_each(|((p, (m, v)), g)| {
        vectorised(
            #[inline(always)]
            || {
                let [scale, decay, shrink, eps, rate, root] = [scale, decay, shrink, eps, rate, root];
                let [beta1, rest1, beta2, rest2] = [beta1, rest1, beta2, rest2];
                for ((p, (m, v)), &g) in p.iter_mut().zip(m.iter_mut().zip(v)).zip(g) {
                    let g = g * scale + *p * decay;
                    *m = beta1 * *m + rest1 * g;
                    *v = beta2 * *v + rest2 * g * g;
                    *p = *p * shrink - rate * *m / ((*v).sqrt() * root + eps);
                }
            },
        );
    });
    Ok(())
}
