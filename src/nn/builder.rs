//! Named parameters: one constructor per layer serves drawing fresh weights and loading stored ones alike.

use std::collections::HashMap;

use crate::{
    device::Device,
    dtype::DType,
    error::{Error, Result},
    random::Philox,
    shape::Shape,
    tensor::Tensor,
};

/// How a fresh parameter is drawn.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    Constant(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in ± this bound.
    Uniform(f64),
}

/// Whether training changes a tensor by gradient, or a layer does by itself (running statistics).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Parameter,
    Buffer,
}

/// A model's tensors in the order its constructor asked for them.
#[derive(Clone, Default)]
pub struct Params {
    entries: Vec<(String, Role, Tensor)>,
}

impl Params {
    /// What an optimiser updates, in order.
    pub fn trainable(&self) -> Vec<&Tensor> {
        self.entries.iter().filter(|(_, role, _)| *role == Role::Parameter).map(|(_, _, tensor)| tensor).collect()
    }

    /// Every tensor by name, parameters and buffers: what a checkpoint holds.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, _, tensor)| (name.as_str(), tensor))
    }

    /// Names and tensors that an optimiser updates.
    pub fn named_trainable(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().filter(|(_, role, _)| *role == Role::Parameter).map(|(name, _, t)| (name.as_str(), t))
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries.iter().find(|(n, ..)| n == name).map(|(_, _, tensor)| tensor)
    }

    /// Number of trainable values.
    pub fn count(&self) -> usize {
        self.trainable().iter().map(|t| t.shape().elems()).sum()
    }
}

/// Hands out parameters by name while a model is constructed.
///
/// `builder.scope("mbconv.0", |b| MbConv::new(b, ...))` names that block's tensors `mbconv.0.expand.weight` and so on.
pub struct Builder {
    device: Device,
    dtype: DType,
    source: Source,
    prefix: String,
    params: Params,
}

enum Source {
    /// Each parameter has a random stream of its own, named after it: adding a layer changes no other's values.
    Draw {
        seed: u64,
    },
    Load {
        tensors: HashMap<String, Tensor>,
        origin: String,
    },
}

impl Builder {
    /// Fresh weights from a seed.
    pub fn fresh(seed: u64, dtype: DType, device: &Device) -> Builder {
        Builder::from_source(Source::Draw { seed }, dtype, device)
    }

    /// Stored weights; `origin` names the file in errors. Tensors are cast to `dtype`.
    pub fn load(tensors: HashMap<String, Tensor>, origin: &str, dtype: DType, device: &Device) -> Builder {
        Builder::from_source(Source::Load { tensors, origin: origin.to_string() }, dtype, device)
    }

    fn from_source(source: Source, dtype: DType, device: &Device) -> Builder {
        Builder { device: device.clone(), dtype, source, prefix: String::new(), params: Params::default() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Constructs a part whose names begin with `name.`.
    pub fn scope<T>(&mut self, name: &str, construct: impl FnOnce(&mut Builder) -> Result<T>) -> Result<T> {
        let outer = self.prefix.len();
        self.prefix.push_str(name);
        self.prefix.push('.');
        let part = construct(self);
        self.prefix.truncate(outer);
        part
    }

    /// A tensor that training changes.
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        self.tensor(name, shape.into(), init, Role::Parameter)
    }

    /// A tensor that is part of the model but has no gradient, such as running statistics.
    pub fn buffer(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        self.tensor(name, shape.into(), init, Role::Buffer)
    }

    /// Whether stored weights hold this name; always true when drawing.
    pub fn holds(&self, name: &str) -> bool {
        match &self.source {
            Source::Draw { .. } => true,
            Source::Load { tensors, .. } => tensors.contains_key(&format!("{}{name}", self.prefix)),
        }
    }

    fn tensor(&mut self, name: &str, shape: Shape, init: Init, role: Role) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let tensor = match &mut self.source {
            Source::Draw { seed } => {
                let random = Philox::named(*seed, &name);
                let values = match init {
                    Init::Constant(value) => vec![value; shape.elems()],
                    Init::Normal(deviation) => {
                        random.normals(shape.elems()).into_iter().map(|v| v * deviation).collect()
                    }
                    Init::Uniform(bound) => {
                        random.uniforms(shape.elems()).into_iter().map(|v| (2.0 * v - 1.0) * bound).collect()
                    }
                };
                Tensor::from_f64(&values, shape, self.dtype, &self.device)?
            }
            Source::Load { tensors, origin } => {
                let stored = tensors.remove(&name).ok_or_else(|| {
                    Error::input(&*origin, format!("holds no tensor `{name}`"), "give weights of this architecture")
                })?;
                if stored.shape() != shape {
                    let problem = format!("tensor `{name}` is {}, the model needs {shape}", stored.shape());
                    return Err(Error::input(&*origin, problem, "give weights of this architecture"));
                }
                Tensor::from_buffer(stored.to_buffer()?.cast(self.dtype), shape, &self.device)?
            }
        };
        self.params.entries.push((name, role, tensor.clone()));
        Ok(tensor)
    }

    /// The tensors handed out. Stored tensors that no layer asked for are an error: they mean another architecture.
    pub fn finish(self) -> Result<Params> {
        if let Source::Load { tensors, origin } = &self.source
            && let Some(name) = tensors.keys().min()
        {
            let problem = format!("holds {} tensors the model does not have, such as `{name}`", tensors.len());
            return Err(Error::input(origin, problem, "give weights of this architecture"));
        }
        Ok(self.params)
    }
}
