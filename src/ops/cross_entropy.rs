//! Cross-entropy of classes: the negative log-likelihood of targets under a softmax, averaged over rows by the weights of their
//! classes (PyTorch's `cross_entropy` with `reduction="mean"`).
//!
//! What picks the targets' logarithms and what spreads the gradient over them are adjoint to each other, so every order exists.

use crate::{
    device::{
        driver::DevicePtr,
        host::{Element, Real},
        index::count31,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, DeviceView, Draw, HostArgs, Op, OpSpec, Order, apply, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `Σ wᵢ nllᵢ / Σ wᵢ`, shape `[1]`, of logits `[n, classes]`; `target` is `[n]:i32`, `wᵢ` the weight of its class, 1 without
    /// weights `[classes]`. A target out of range is an error on the CPU and makes the loss NaN on a GPU.
    pub fn cross_entropy(&self, target: &Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        check([self.spec(), target.spec()], weight.map(Tensor::spec))?;
        let x = self.log_softmax()?;
        Ok(apply(Pick, &[&[&x, target], weight.as_slice()].concat())?.swap_remove(0))
    }
}

fn check([x, target]: [Spec; 2], weight: Option<Spec>) -> Result<()> {
    let wrong = |message| Err(Error::shape("cross_entropy", message));
    if x.shape.rank() != 2 || x.shape.elems() == 0 || !x.dtype.is_float() {
        return wrong(format!("logits [n, classes] wanted, got {}:{}", x.shape, x.dtype));
    }
    if target != Spec::new([x.shape[0]], DType::I32) {
        return wrong(format!("[{}]:i32 wanted as target, got {}:{}", x.shape[0], target.shape, target.dtype));
    }
    match weight.filter(|&weight| weight != Spec::new([x.shape[1]], x.dtype)) {
        None => Ok(()),
        Some(got) => wrong(format!("[{}]:{} wanted as weight, got {}:{}", x.shape[1], x.dtype, got.shape, got.dtype)),
    }
}

/// The type of `Σ w`.
fn total_type(x: DType) -> DType {
    if x == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Inputs x (log-probabilities), target, and the classes' weights if any; outputs the loss and `Σ w`.
struct Pick;

impl Op for Pick {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        check([x[0], x[1]], x.get(2).copied())?;
        Ok(vec![Spec::new([1], x[0].dtype), Spec::new([1], total_type(x[0].dtype))])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (x, targets, cols) = (args.x::<T>(0), args.x::<i32>(1), args.x_shape(0).last());
            let weight = (args.inputs() > 2).then(|| args.x::<T>(2));
            let (mut loss, mut total) = (0.0, 0.0);
            for (row, &target) in x.chunks_exact(cols).zip(targets) {
                let target = in_range(target, cols)?;
                let w = weight.map_or(1.0, |weight| weight[target].to_f64());
                loss -= w * row[target].to_f64();
                total += w;
            }
            args.y::<T>(0)[0] = T::c(loss / total);
            args.y::<T>(1)[0] = T::c(total);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let params = params(args, args.x[0].shape(), args.x.get(2))?;
        let params = CrossEntropyParams { x: args.x[0].ptr, y: args.y[0].ptr, total: args.y[1].ptr, ..params };
        args.launch(&FORWARD, args.x[0].dtype(), 1, 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let mut gradients = vec![None; v.inputs()];
        if v.need(0) {
            let weight = (v.inputs() > 2).then(|| v.x(2));
            let given = [&[v.upstream()?, v.x(1), v.y(1)], weight.as_slice()].concat();
            gradients[0] = Some(apply1(Spread { shape: v.x_spec(0).shape }, &given)?);
        }
        Ok(gradients)
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b110, y: 0b10 }
    }
}

/// `dx[i, tᵢ] = −wᵢ dy / Σ w`, 0 elsewhere; inputs dy, target, `Σ w`, and the weights if any.
struct Spread {
    shape: Shape,
}

impl Op for Spread {
    fn name(&self) -> &'static str {
        "cross_entropy_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![Spec { shape: self.shape, dtype: x[0].dtype }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = self.shape.last();
        float_dispatch!(args, T => {
            let (targets, scale) = (args.x::<i32>(1), args.x::<T>(0)[0] / args.x::<T>(2)[0]);
            let weight = (args.inputs() > 3).then(|| args.x::<T>(3));
            let dx = args.y::<T>(0);
            dx.fill(T::c(0.0));
            for (row, &target) in dx.chunks_exact_mut(cols).zip(targets) {
                let target = in_range(target, cols)?;
                row[target] = -weight.map_or(T::c(1.0), |weight| weight[target]) * scale;
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let dx = args.y[0];
        args.zero(&dx)?;
        let params = params(args, self.shape, args.x.get(3))?;
        let params = CrossEntropyParams { dy: args.x[0].ptr, total: args.x[2].ptr, dx: dx.ptr, ..params };
        args.launch(&BACKWARD, dx.dtype(), blocks(self.shape.rows(), THREADS as usize), 0, &params)
    }

    /// Linear in dy.
    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let mut gradients = vec![None; v.inputs()];
        if v.need(0) {
            let weight = (v.inputs() > 3).then(|| v.x(3));
            let picked = apply(Pick, &[&[v.upstream()?, v.x(1)], weight.as_slice()].concat())?;
            gradients[0] = picked.into_iter().next();
        }
        Ok(gradients)
    }

    fn keep(&self) -> Keep {
        Keep { x: 0b1010, y: 0 }
    }
}

fn in_range(target: i32, classes: usize) -> Result<usize> {
    let found = usize::try_from(target).ok().filter(|&target| target < classes);
    found.ok_or_else(|| Error::shape("cross_entropy", format!("target {target} of {classes} classes")))
}

kernel_params! {
    struct CrossEntropyParams {
        x: DevicePtr,
        target: DevicePtr,
        weight: DevicePtr,
        y: DevicePtr,
        total: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        rows: u64,
        cols: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `CrossEntropyParams`, from the tensors of the launch and from their sizes.
const FORWARD: Kernel<CrossEntropyParams> = unsafe { Kernel::new(&modules::CROSS_ENTROPY, "fwd", THREADS, FLOATS) };
// SAFETY: as above.
const BACKWARD: Kernel<CrossEntropyParams> = unsafe { Kernel::new(&modules::CROSS_ENTROPY, "bwd_x", THREADS, FLOATS) };

/// What both passes take; targets are input 1 of either.
fn params(args: &DeviceArgs, shape: Shape, weight: Option<&DeviceView>) -> Result<CrossEntropyParams> {
    let null = DevicePtr::NULL;
    Ok(CrossEntropyParams {
        x: null,
        target: args.x[1].ptr,
        weight: weight.map_or(null, |weight| weight.ptr),
        y: null,
        total: null,
        dy: null,
        dx: null,
        rows: shape.rows() as u64,
        cols: count31("cross_entropy", shape.last())?,
        unused: 0,
    })
}

pub const SPEC: OpSpec = OpSpec {
    name: "cross_entropy",
    order: Order::Any,
    kernels: &[FORWARD.info(), BACKWARD.info()],
    cases: || {
        let targets = |rows, classes| drawn([rows], Draw::Index(classes));
        let plain = |name, rows: usize, classes: usize| {
            Case::new(name, [normal([rows, classes]), targets(rows, classes)], |x| {
                Ok(vec![x[0].cross_entropy(&x[1], None)?])
            })
        };
        vec![
            plain("classes", 9, 5),
            plain("many_rows", 300, 3),
            Case::new("weighted", [normal([17, 4]), targets(17, 4), drawn([4], Draw::Uniform(0.2, 3.0))], |x| {
                Ok(vec![x[0].cross_entropy(&x[1], Some(&x[2]))?])
            })
            .wrt([0]),
        ]
    },
    workloads: || {
        let inputs = [normal([16384, 1000]), drawn([16384], Draw::Index(1000))];
        vec![Workload::gpu("cross_entropy", inputs, 8.0 * 16384.0 * 1000.0, |x| x[0].cross_entropy(&x[1], None))]
    },
    reference: Some(|a| {
        Ok(only("loss", a.tensor("logits")?.cross_entropy(&a.indices("target")?, a.optional("weight"))?))
    }),
};
