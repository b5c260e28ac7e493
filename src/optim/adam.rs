//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) with PyTorch's semantics: bias correction, `eps` added
//! to the corrected root, plain decay added to the gradient, decoupled decay taken off the parameter first.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{clip::clip_factor, restored};
use crate::{
    cpu::vector::GRAIN,
    device::{
        Device,
        driver::DevicePtr,
        host::{HostBuffer, Real},
        kernel::{Kernel, KernelInfo},
        modules,
        multi_tensor::{MAX_TENSORS, THREADS, for_each_launch, pointers},
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    nn::builder::Params,
    op::{self, DeviceArgs, InPlace},
    tape::Grads,
    tensor::Tensor,
    vectorised,
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

impl AdamStep {
    /// The bias corrections `1 − β1ᵗ` and `√(1 − β2ᵗ)`. With an exponent beyond i32 both are 1 to the last bit.
    fn corrections(&self) -> [f64; 2] {
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        [1.0 - self.beta1.powi(power), (1.0 - self.beta2.powi(power)).sqrt()]
    }

    /// What changes from step to step, as kernels read it: lr, lr over the first correction, one over the second.
    fn rates(&self) -> Vec<f32> {
        let [first, second] = self.corrections();
        [self.lr, self.lr / first, 1.0 / second].map(|rate| rate as f32).to_vec()
    }
}

/// One update of one parameter and its moments `m` and `v`, all f32 or all f64.
pub fn update(step: &AdamStep, param: &Tensor, grad: &Tensor, m: &Tensor, v: &Tensor) -> Result<()> {
    let rates = Tensor::from_vec(step.rates(), [3], param.device())?;
    op::update(&Update { steps: vec![*step], max_norm: 0.0 }, &[param, m, v], &[grad, &rates])
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
    /// [`AdamStep::rates`] of the step that [`Adam::advance`] began.
    rates: Tensor,
}

impl Adam {
    /// Moments begin at zero.
    pub fn new(params: &Params, config: AdamConfig) -> Result<Adam> {
        let zeros = |t: &Tensor| Ok([t.zeros_like()?, t.zeros_like()?]);
        let moments = params.named_trainable().map(|(_, t)| zeros(t)).collect::<Result<_>>()?;
        let device = params.named_trainable().next().map_or_else(Device::cpu, |(_, t)| t.device().clone());
        Ok(Adam { config, moments, steps: 0, rates: Tensor::zeros([3], DType::F32, &device)? })
    }

    /// One step. Gradients are first scaled so that their norm is at most `max_norm` (0: not at all); returns the norm they
    /// had. A parameter without a gradient stays as it is. `params` is the set the optimiser was made for.
    pub fn step(&mut self, params: &Params, grads: &Grads, max_norm: f64) -> Result<f64> {
        if params.trainable().iter().all(|param| grads.get(param).is_none()) {
            return Ok(0.0);
        }
        self.advance()?;
        self.apply(params, grads, max_norm)?.map_or(Ok(0.0), |norm| norm.item())
    }

    /// Begins the next step: writes what depends on its number and on the configured rate to where [`Adam::apply`] reads it.
    /// Before every replay of a captured step.
    pub fn advance(&mut self) -> Result<()> {
        self.steps += 1;
        self.rates.overwrite(HostBuffer::F32(self.at_step(0.0).rates()))
    }

    fn at_step(&self, weight_decay: f64) -> AdamStep {
        let AdamConfig { lr, beta1, beta2, eps, decoupled, .. } = self.config;
        AdamStep { lr, beta1, beta2, eps, weight_decay, decoupled, step: self.steps }
    }

    /// The update of the step that [`Adam::advance`] began, without reading any value on the host: on a GPU it can be captured.
    /// Returns the gradients' norm, `[1]`; none without gradients.
    pub fn apply(&self, params: &Params, grads: &Grads, max_norm: f64) -> Result<Option<Tensor>> {
        let AdamConfig { weight_decay, decay_vectors, .. } = self.config;
        let (mut targets, mut gradients, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for ((_, param), [m, v]) in params.named_trainable().zip(&self.moments) {
            let Some(grad) = grads.get(param) else { continue };
            let decays = decay_vectors || param.shape().rank() > 1;
            let weight_decay = if decays { weight_decay } else { 0.0 };
            targets.extend([param, m, v]);
            gradients.push(grad);
            steps.push(self.at_step(weight_decay));
        }
        if gradients.is_empty() {
            return Ok(None);
        }
        let norm = Tensor::global_norm(&gradients)?;
        gradients.extend([&self.rates, &norm]);
        op::update(&Update { steps, max_norm }, &targets, &gradients)?;
        Ok(Some(norm))
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
        let pair = |(name, t): (&str, &Tensor)| {
            let moment = |which| restored(tensors, &format!("{name}.{which}"), t, origin);
            Ok([moment("m")?, moment("v")?])
        };
        self.moments = params.named_trainable().map(pair).collect::<Result<_>>()?;
        self.steps = steps;
        Ok(())
    }
}

/// Targets param, m, v of every parameter; inputs their gradients, the rates, and the gradients' norm where they are
/// clipped by it.
struct Update {
    steps: Vec<AdamStep>,
    max_norm: f64,
}

impl InPlace for Update {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu(&self, targets: &mut [&mut HostBuffer], x: &[&HostBuffer]) -> Result<()> {
        let norm = match x.get(self.steps.len() + 1) {
            None => 0.0,
            Some(HostBuffer::F32(norm)) => f64::from(norm[0]),
            Some(HostBuffer::F64(norm)) => norm[0],
            Some(other) => return Err(Error::DType { op: "adam", wanted: "a float norm", got: other.dtype() }),
        };
        let scale = clip_factor(norm, self.max_norm);
        let one = |((target, grad), step): ((&mut [&mut HostBuffer], &&HostBuffer), &AdamStep)| {
            let [param, m, v] = target else {
                return Err(Error::shape("adam", "param, m and v of every parameter wanted"));
            };
            match (&mut **param, &mut **m, &mut **v, *grad) {
                (HostBuffer::F32(p), HostBuffer::F32(m), HostBuffer::F32(v), HostBuffer::F32(g)) => {
                    step_slices(step, scale, p, m, v, g)
                }
                (HostBuffer::F64(p), HostBuffer::F64(m), HostBuffer::F64(v), HostBuffer::F64(g)) => {
                    step_slices(step, scale, p, m, v, g)
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

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let count = self.steps.len();
        let (grads, rates) = (&args.x[..count], args.x[count].ptr);
        let norm = args.x.get(count + 1).map_or(DevicePtr::NULL, |norm| norm.ptr);
        if let Some(other) = args.y.iter().chain(grads).find(|view| view.dtype() != DType::F32) {
            return Err(Error::DType { op: "adam", wanted: "f32 throughout on a GPU", got: other.dtype() });
        }
        if args.y.chunks(3).zip(grads).any(|(target, grad)| target.iter().any(|t| t.elems() != grad.elems())) {
            return Err(Error::shape("adam", "moments and gradient are as long as their parameter"));
        }
        let indices: Vec<usize> = (0..count).collect();
        for_each_launch(
            &indices,
            |i| grads[i].elems(),
            |some, table| {
                let target = |part: usize| pointers(some.iter().map(|&i| args.y[3 * i + part].ptr));
                let mut decay = [0.0; MAX_TENSORS];
                decay.iter_mut().zip(some).for_each(|(decay, &i)| *decay = self.steps[i].weight_decay as f32);
                let AdamStep { beta1, beta2, eps, decoupled, .. } = self.steps[some[0]];
                let params = AdamParams {
                    p: target(0),
                    m: target(1),
                    v: target(2),
                    g: pointers(some.iter().map(|&i| grads[i].ptr)),
                    count: table.count,
                    decay,
                    first_block: table.first_block,
                    norm,
                    rates,
                    beta1: beta1 as f32,
                    rest1: (1.0 - beta1) as f32,
                    beta2: beta2 as f32,
                    rest2: (1.0 - beta2) as f32,
                    eps: eps as f32,
                    max_norm: self.max_norm as f32,
                    tensors: table.tensors,
                    decoupled: decoupled.into(),
                };
                args.launch(&STEP, DType::F32, table.blocks, 0, &params)
            },
        )
    }
}

kernel_params! {
    struct AdamParams {
        p: [DevicePtr; MAX_TENSORS],
        m: [DevicePtr; MAX_TENSORS],
        v: [DevicePtr; MAX_TENSORS],
        g: [DevicePtr; MAX_TENSORS],
        count: [u64; MAX_TENSORS],
        decay: [f32; MAX_TENSORS],
        first_block: [u32; MAX_TENSORS],
        norm: DevicePtr,
        rates: DevicePtr,
        beta1: f32,
        rest1: f32,
        beta2: f32,
        rest2: f32,
        eps: f32,
        max_norm: f32,
        tensors: u32,
        decoupled: u32,
    }
}

// SAFETY: only this file fills `AdamParams`, from the tensors and scratch memory of the launch and from their sizes.
const STEP: Kernel<AdamParams> = unsafe { Kernel::new(&modules::ADAM, "step", THREADS, &[DType::F32]) };
pub(super) const KERNEL: KernelInfo = STEP.info();

fn step_slices<T: Real>(step: &AdamStep, scale: f64, p: &mut [T], m: &mut [T], v: &mut [T], g: &[T]) -> Result<()> {
    if [m.len(), v.len(), g.len()] != [p.len(); 3] {
        return Err(Error::shape("adam", "moments and gradient are as long as their parameter"));
    }
    let [first, second] = step.corrections();
    let AdamStep { lr, beta1, beta2, eps, weight_decay, decoupled, .. } = *step;
    let (decay, shrink) = if decoupled { (0.0, 1.0 - lr * weight_decay) } else { (weight_decay, 1.0) };
    let [scale, decay, shrink, eps] = [scale, decay, shrink, eps].map(T::c);
    let (beta1, rest1, beta2, rest2) = (T::c(beta1), T::c(1.0 - beta1), T::c(beta2), T::c(1.0 - beta2));
    let (rate, root) = (T::c(lr / first), T::c(1.0 / second));
    let moments = m.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN));
    p.par_chunks_mut(GRAIN).zip(moments).zip(g.par_chunks(GRAIN)).for_each(|((p, (m, v)), g)| {
        vectorised!([scale, decay, shrink, eps, rate, root, beta1, rest1, beta2, rest2], {
            for ((p, (m, v)), &g) in p.iter_mut().zip(m.iter_mut().zip(v)).zip(g) {
                let g = g * scale + *p * decay;
                *m = beta1 * *m + rest1 * g;
                *v = beta2 * *v + rest2 * g * g;
                *p = *p * shrink - rate * *m / ((*v).sqrt() * root + eps);
            }
        });
    });
    Ok(())
}
