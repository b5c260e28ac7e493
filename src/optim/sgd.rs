//! Stochastic gradient descent with momentum (Polyak 1964), also Nesterov's, with PyTorch's semantics: decay added to the gradient,
//! `v = momentum · v + g`, `p = p − lr · v`.

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

/// Settings of the optimiser.
#[derive(Clone, Copy, Debug)]
pub struct SgdConfig {
    pub lr: f64,
    /// 0 for plain gradient descent.
    pub momentum: f64,
    /// Takes the step from where momentum leads.
    pub nesterov: bool,
    pub weight_decay: f64,
    /// Whether vectors (biases, scales of normalisations) decay as well as matrices.
    pub decay_vectors: bool,
}

impl Default for SgdConfig {
    fn default() -> SgdConfig {
        SgdConfig { lr: 1e-2, momentum: 0.9, nesterov: false, weight_decay: 0.0, decay_vectors: false }
    }
}

/// The optimiser of one set of parameters.
pub struct Sgd {
    /// The learning rate may be changed between steps.
    pub config: SgdConfig,
    /// In the parameters' order; none without momentum.
    velocities: Vec<Tensor>,
    /// The learning rate of the step that [`Sgd::advance`] began.
    rate: Tensor,
}

impl Sgd {
    /// Velocities begin at zero.
    pub fn new(params: &Params, config: SgdConfig) -> Result<Sgd> {
        let trainable = || params.named_trainable().map(|(_, t)| t);
        let velocities = match config.momentum == 0.0 {
            true => Vec::new(),
            false => trainable().map(Tensor::zeros_like).collect::<Result<_>>()?,
        };
        let device = trainable().next().map_or_else(Device::cpu, |t| t.device().clone());
        Ok(Sgd { config, velocities, rate: Tensor::zeros([1], DType::F32, &device)? })
    }

    /// One step. Gradients are first scaled so that their norm is at most `max_norm` (0: not at all); returns the norm they
    /// had. A parameter without a gradient stays as it is. `params` is the set the optimiser was made for.
    pub fn step(&mut self, params: &Params, grads: &Grads, max_norm: f64) -> Result<f64> {
        self.advance()?;
        self.apply(params, grads, max_norm)?.map_or(Ok(0.0), |norm| norm.item())
    }

    /// Writes the configured rate to where [`Sgd::apply`] reads it: before every replay of a captured step.
    pub fn advance(&self) -> Result<()> {
        self.rate.overwrite(HostBuffer::F32(vec![self.config.lr as f32]))
    }

    /// The update with the rate that [`Sgd::advance`] wrote, without reading any value on the host: on a GPU it can be captured.
    /// Returns the gradients' norm, `[1]`; none without gradients.
    pub fn apply(&self, params: &Params, grads: &Grads, max_norm: f64) -> Result<Option<Tensor>> {
        let (mut targets, mut gradients, mut decay) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (_, param)) in params.named_trainable().enumerate() {
            let Some(grad) = grads.get(param) else { continue };
            targets.push(param);
            targets.extend(self.velocities.get(i));
            gradients.push(grad);
            let decays = self.config.decay_vectors || param.shape().rank() > 1;
            decay.push(if decays { self.config.weight_decay } else { 0.0 });
        }
        if gradients.is_empty() {
            return Ok(None);
        }
        let norm = Tensor::global_norm(&gradients)?;
        gradients.extend([&self.rate, &norm]);
        op::update(&Update { config: self.config, decay, max_norm }, &targets, &gradients)?;
        Ok(Some(norm))
    }

    /// The velocities by name, `NAME.v`: what a checkpoint holds.
    pub fn named(&self, params: &Params) -> Vec<(String, Tensor)> {
        let one = |((name, _), v): ((&str, &Tensor), &Tensor)| (format!("{name}.v"), v.clone());
        params.named_trainable().zip(&self.velocities).map(one).collect()
    }

    /// Takes up the velocities that [`Sgd::named`] gave. `origin` names the file in errors.
    pub fn restore(&mut self, params: &Params, tensors: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
        let one = |((name, t), _): ((&str, &Tensor), &Tensor)| restored(tensors, &format!("{name}.v"), t, origin);
        self.velocities = params.named_trainable().zip(&self.velocities).map(one).collect::<Result<_>>()?;
        Ok(())
    }
}

/// Targets are every parameter and, with momentum, its velocity; inputs their gradients, the rate and the gradients' norm.
struct Update {
    config: SgdConfig,
    decay: Vec<f64>,
    max_norm: f64,
}

impl Update {
    /// Targets per parameter.
    fn each(&self) -> usize {
        if self.config.momentum == 0.0 { 1 } else { 2 }
    }
}

fn float(buffer: &HostBuffer) -> Result<f64> {
    match buffer {
        HostBuffer::F32(values) => Ok(f64::from(values[0])),
        HostBuffer::F64(values) => Ok(values[0]),
        other => Err(Error::DType { op: "sgd", wanted: "a float norm", got: other.dtype() }),
    }
}

impl InPlace for Update {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu(&self, targets: &mut [&mut HostBuffer], x: &[&HostBuffer]) -> Result<()> {
        let count = self.decay.len();
        let scale = clip_factor(float(x[count + 1])?, self.max_norm);
        let one = |((target, grad), &decay): ((&mut [&mut HostBuffer], &&HostBuffer), &f64)| {
            let (param, velocity) = target.split_first_mut().expect("chunks are not empty");
            match (&mut **param, velocity.first_mut().map(|v| &mut **v), *grad) {
                (HostBuffer::F32(p), None, HostBuffer::F32(g)) => self.slices(scale, decay, p, None, g),
                (HostBuffer::F64(p), None, HostBuffer::F64(g)) => self.slices(scale, decay, p, None, g),
                (HostBuffer::F32(p), Some(HostBuffer::F32(v)), HostBuffer::F32(g)) => {
                    self.slices(scale, decay, p, Some(v), g)
                }
                (HostBuffer::F64(p), Some(HostBuffer::F64(v)), HostBuffer::F64(g)) => {
                    self.slices(scale, decay, p, Some(v), g)
                }
                (param, ..) => Err(Error::DType {
                    op: "sgd",
                    wanted: "f32 or f64 throughout, velocity and gradient as the parameter",
                    got: param.dtype(),
                }),
            }
        };
        targets.par_chunks_mut(self.each()).zip(x).zip(&self.decay).try_for_each(one)
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (count, each) = (self.decay.len(), self.each());
        let grads = &args.x[..count];
        if let Some(other) = args.y.iter().chain(grads).find(|view| view.dtype() != DType::F32) {
            return Err(Error::DType { op: "sgd", wanted: "f32 throughout on a GPU", got: other.dtype() });
        }
        if args.y.chunks(each).zip(grads).any(|(target, grad)| target.iter().any(|t| t.elems() != grad.elems())) {
            return Err(Error::shape("sgd", LENGTHS));
        }
        let indices: Vec<usize> = (0..count).collect();
        for_each_launch(
            &indices,
            |i| grads[i].elems(),
            |some, table| {
                let mut decay = [0.0; MAX_TENSORS];
                decay.iter_mut().zip(some).for_each(|(decay, &i)| *decay = self.decay[i] as f32);
                let velocity = |i: usize| if each == 1 { DevicePtr::NULL } else { args.y[each * i + 1].ptr };
                let params = SgdParams {
                    p: pointers(some.iter().map(|&i| args.y[each * i].ptr)),
                    v: pointers(some.iter().map(|&i| velocity(i))),
                    g: pointers(some.iter().map(|&i| grads[i].ptr)),
                    count: table.count,
                    decay,
                    first_block: table.first_block,
                    norm: args.x[count + 1].ptr,
                    rate: args.x[count].ptr,
                    momentum: self.config.momentum as f32,
                    max_norm: self.max_norm as f32,
                    tensors: table.tensors,
                    nesterov: self.config.nesterov.into(),
                };
                args.launch(&STEP, DType::F32, table.blocks, 0, &params)
            },
        )
    }
}

const LENGTHS: &str = "velocity and gradient are as long as their parameter";

impl Update {
    fn slices<T: Real>(&self, scale: f64, decay: f64, p: &mut [T], v: Option<&mut Vec<T>>, g: &[T]) -> Result<()> {
        if g.len() != p.len() || v.as_ref().is_some_and(|v| v.len() != p.len()) {
            return Err(Error::shape("sgd", LENGTHS));
        }
        let [scale, decay, rate, momentum] = [scale, decay, self.config.lr, self.config.momentum].map(T::c);
        let Some(v) = v else {
            p.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).for_each(|(p, g)| {
                vectorised!([scale, decay, rate], {
                    for (p, &g) in p.iter_mut().zip(g) {
                        *p -= rate * (g * scale + *p * decay);
                    }
                });
            });
            return Ok(());
        };
        // The step is along the velocity, or with Nesterov along the gradient and the velocity once more.
        let (of_v, of_g) = if self.config.nesterov { (momentum, T::c(1.0)) } else { (T::c(1.0), T::c(0.0)) };
        p.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN)).zip(g.par_chunks(GRAIN)).for_each(|((p, v), g)| {
            vectorised!([scale, decay, rate, momentum, of_v, of_g], {
                for ((p, v), &g) in p.iter_mut().zip(v).zip(g) {
                    let g = g * scale + *p * decay;
                    *v = momentum * *v + g;
                    *p -= rate * (of_v * *v + of_g * g);
                }
            });
        });
        Ok(())
    }
}

kernel_params! {
    struct SgdParams {
        p: [DevicePtr; MAX_TENSORS],
        v: [DevicePtr; MAX_TENSORS],
        g: [DevicePtr; MAX_TENSORS],
        count: [u64; MAX_TENSORS],
        decay: [f32; MAX_TENSORS],
        first_block: [u32; MAX_TENSORS],
        norm: DevicePtr,
        rate: DevicePtr,
        momentum: f32,
        max_norm: f32,
        tensors: u32,
        nesterov: u32,
    }
}

// SAFETY: only this file fills `SgdParams`, from the tensors of the launch and from their sizes.
const STEP: Kernel<SgdParams> = unsafe { Kernel::new(&modules::SGD, "step", THREADS, &[DType::F32]) };
pub(super) const KERNEL: KernelInfo = STEP.info();
