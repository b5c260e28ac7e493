//! The registry of ops: how each is exercised, timed and compared with a reference. Tests, benches and `tools/conformance` walk it
//! and know no op by name.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{
    device::kernel::KernelInfo,
    error::{Error, Result},
    shape::Shape,
    tensor::Tensor,
};

/// How often an op can be differentiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Not at all: integers, indices, metrics.
    None,
    /// Once: its fused gradient has no gradient of its own.
    Once,
    /// Any number of times.
    Any,
}

/// An op's row in the registry: what tests and benches iterate over.
pub struct OpSpec {
    /// The op's name: that of its file here and, as a rule, of its module under `kernels/`.
    pub name: &'static str,
    pub order: Order,
    /// The kernels its cases launch: its own, and those of a GEMM it shares.
    pub kernels: &'static [KernelInfo],
    pub cases: fn() -> Vec<Case>,
    /// Sizes that models give it, which benches time.
    pub workloads: fn() -> Vec<Workload>,
    /// The call that a numeric case of the op's name describes, where there are such cases.
    pub reference: Option<fn(&Arguments) -> Result<Outputs>>,
}

impl OpSpec {
    /// What the rest of a row is where an op has nothing to say: `..OpSpec::BARE`.
    pub const BARE: OpSpec =
        OpSpec { name: "", order: Order::None, kernels: &[], cases: Vec::new, workloads: Vec::new, reference: None };
}

/// A function of the inputs that exercises the op.
pub type CaseFn = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>>;

/// One way to exercise an op: inputs drawn by a seed, and what to do with them.
pub struct Case {
    pub name: &'static str,
    pub inputs: Vec<Input>,
    pub run: CaseFn,
    /// Inputs whose gradients are checked. Indices and masks are left out.
    pub wrt: Vec<usize>,
}

impl Case {
    /// A case whose float inputs are all differentiated.
    pub fn new(
        name: &'static str,
        inputs: impl Into<Vec<Input>>,
        run: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'static,
    ) -> Case {
        let inputs = inputs.into();
        let wrt = (0..inputs.len()).filter(|&i| inputs[i].draw.is_float()).collect();
        Case { name, inputs, run: Box::new(run), wrt }
    }

    pub fn wrt(mut self, wrt: impl Into<Vec<usize>>) -> Case {
        self.wrt = wrt.into();
        self
    }
}

/// An input of a case: its shape and how its values are drawn.
pub struct Input {
    pub shape: Shape,
    pub draw: Draw,
}

#[derive(Clone, Copy, Debug)]
pub enum Draw {
    /// Normal, mean 0, standard deviation 1.
    Normal,
    /// Uniform in the interval.
    Uniform(f64, f64),
    /// Distinct values in random order, at least 1/64 apart: no ties, no kinks nearby.
    Distinct,
    /// i32 indices below the bound.
    Index(usize),
    /// i32, evenly from 0 to the bound: where segments of rows begin and the last one ends.
    Offsets(usize),
    /// u8, any.
    Bytes,
}

impl Draw {
    pub fn is_float(self) -> bool {
        !matches!(self, Draw::Index(_) | Draw::Offsets(_) | Draw::Bytes)
    }
}

/// Shorthand for an input of normal values.
pub fn normal(shape: impl Into<Shape>) -> Input {
    drawn(shape, Draw::Normal)
}

pub fn drawn(shape: impl Into<Shape>, draw: Draw) -> Input {
    Input { shape: shape.into(), draw }
}

/// Which bench times a [`Workload`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bench {
    /// `benches/ops.rs`: what the CPU does in tens of milliseconds.
    Cpu,
    /// `benches/kernels.rs`: what fills a GPU.
    Gpu,
}

/// An op at a size that models give it.
pub struct Workload {
    pub name: String,
    pub bench: Bench,
    pub inputs: Vec<Input>,
    /// Multiplications and additions of the definition's forward pass.
    pub flops: f64,
    /// What a peer has to know beside the inputs' shapes: `tools/peers/gpu_ops.py`.
    pub attributes: Value,
    pub run: CaseFn,
}

impl Workload {
    pub fn gpu(
        name: impl Into<String>,
        inputs: impl Into<Vec<Input>>,
        flops: f64,
        run: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
    ) -> Workload {
        Workload {
            name: name.into(),
            bench: Bench::Gpu,
            inputs: inputs.into(),
            flops,
            attributes: Value::Object(Map::new()),
            run: Box::new(move |x| Ok(vec![run(x)?])),
        }
    }

    /// For the CPU's bench, which counts no FLOPs.
    pub fn cpu(
        name: impl Into<String>,
        inputs: impl Into<Vec<Input>>,
        run: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
    ) -> Workload {
        Workload { bench: Bench::Cpu, ..Workload::gpu(name, inputs, 0.0, run) }
    }

    pub fn with(self, attributes: Value) -> Workload {
        Workload { attributes, ..self }
    }
}

/// A batch of feature maps, [n, h, w, c]: what ops that memory bounds are timed on.
pub const IMAGE: [usize; 4] = [8, 256, 256, 64];

/// Results of a reference case by name.
pub type Outputs = HashMap<String, Tensor>;

/// The arguments and attributes of a numeric case that a reference implementation computed (`tools/conformance`), by name.
pub struct Arguments {
    pub tensors: HashMap<String, Tensor>,
    pub attributes: Value,
}

impl Arguments {
    fn missing(what: &str, name: &str) -> Error {
        Error::Usage(format!("the case holds no {what} `{name}`"))
    }

    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.optional(name).ok_or_else(|| Arguments::missing("argument", name))
    }

    pub fn optional(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// An argument's whole numbers as i32: offsets, indices, classes.
    pub fn indices(&self, name: &str) -> Result<Tensor> {
        let x = self.tensor(name)?;
        Tensor::from_vec(x.to_vec::<i32>()?, x.shape(), x.device())
    }

    fn attribute<'a, T>(&'a self, name: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        read(&self.attributes[name]).ok_or_else(|| Arguments::missing("attribute", name))
    }

    pub fn int(&self, name: &str) -> Result<usize> {
        self.attribute(name, |value| usize::try_from(value.as_u64()?).ok())
    }

    pub fn float(&self, name: &str) -> Result<f64> {
        self.attribute(name, Value::as_f64)
    }

    pub fn flag(&self, name: &str) -> Result<bool> {
        self.attribute(name, Value::as_bool)
    }

    pub fn text(&self, name: &str) -> Result<&str> {
        self.attribute(name, Value::as_str)
    }

    pub fn floats(&self, name: &str) -> Result<Vec<f64>> {
        self.attribute(name, |value| value.as_array()?.iter().map(Value::as_f64).collect())
    }
}

/// The only result of a case.
pub fn only(name: &str, y: Tensor) -> Outputs {
    HashMap::from([(name.to_string(), y)])
}
