//! Classes as rows of zeros with a one.

use crate::{
    cpu::vector::{par_rows, rows_per_task},
    device::{
        divmod::FastDivmod,
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal, registry::Workload},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// `[…]:i32 -> […, classes]` of `dtype`: 1 at each index, else 0. An index out of range gives zeros.
    pub fn one_hot(&self, classes: usize, dtype: DType) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        shape.push(classes);
        let flat = self.reshape([self.shape().elems()])?;
        apply1(OneHot { classes, dtype }, &[&flat])?.reshape(&shape[..])
    }
}

struct OneHot {
    classes: usize,
    dtype: DType,
}

impl Op for OneHot {
    fn name(&self) -> &'static str {
        "one_hot"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = x[0];
        if dtype != DType::I32 || !self.dtype.is_float() || self.classes == 0 {
            let message =
                format!("i32 indices, a float type and at least one class wanted, got {dtype}, {}", self.dtype);
            return Err(Error::shape("one_hot", message));
        }
        Ok(vec![Spec::new([shape.elems(), self.classes], self.dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let indices = args.x::<i32>(0);
            par_rows(args.y::<T>(0), self.classes, |task, y| {
                y.fill(T::c(0.0));
                let first = task * rows_per_task(self.classes);
                for (row, &index) in y.chunks_exact_mut(self.classes).zip(&indices[first..]) {
                    if let Some(y) = usize::try_from(index).ok().and_then(|index| row.get_mut(index)) {
                        *y = T::c(1.0);
                    }
                }
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let y = args.y[0];
        let classes = FastDivmod::new(count31("one_hot", self.classes)?);
        let count = count31("one_hot", y.elems())?;
        let params = OneHotParams { indices: args.x[0].ptr, y: y.ptr, classes, count };
        let per_block = THREADS as usize * y.dtype().vector_elems();
        args.launch(&FORWARD, y.dtype(), blocks(y.elems(), per_block), 0, &params)
    }

    fn vjp(&self, _: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

kernel_params! {
    struct OneHotParams { indices: DevicePtr, y: DevicePtr, classes: FastDivmod, count: u32 }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `OneHotParams`, from the tensors of the launch and from their sizes.
const FORWARD: Kernel<OneHotParams> = unsafe { Kernel::new(&modules::ONE_HOT, "fwd", THREADS, FLOATS) };

pub const SPEC: OpSpec = OpSpec {
    name: "one_hot",
    order: Order::None,
    kernels: &[FORWARD.info()],
    cases: || {
        // The type of a case's floats is that of its other input.
        let case = |name, rows: usize, below, classes| {
            Case::new(name, [drawn([rows], Draw::Index(below)), drawn([1], Draw::Normal)], move |x| {
                Ok(vec![x[0].one_hot(classes, x[1].dtype())?])
            })
            .wrt([])
        };
        vec![case("classes", 9, 5, 5), case("wide", 3, 260, 264), case("out_of_range", 17, 9, 7)]
    },
    workloads: || {
        let run = |x: &[Tensor]| x[0].one_hot(1000, x[1].dtype());
        vec![Workload::gpu("one_hot", [drawn([16384], Draw::Index(1000)), normal([1])], 0.0, run)]
    },
    ..OpSpec::BARE
};
