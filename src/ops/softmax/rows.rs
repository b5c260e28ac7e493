//! What softmax and its logarithm share: whole rows, one after another on the CPU, one a warp or one a block on a GPU.

use crate::{
    cpu::vector::{par_rows, rows_per_task},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, KernelInfo, blocks},
        module::Module,
    },
    error::{Error, Result},
    kernel_params,
    op::{DeviceArgs, HostArgs},
    shape::Spec,
    vectorised,
};

/// The output's spec, which is the input's: rows of floats.
pub(in crate::ops) fn float_rows(op: &'static str, x: Spec) -> Result<Vec<Spec>> {
    if !x.dtype.is_float() || x.shape.rank() == 0 {
        return Err(Error::shape(op, format!("float rows wanted, got {}:{}", x.shape, x.dtype)));
    }
    Ok(vec![x])
}

/// Every row of input 0, made into the output's by `in_place`: an [`inlined!`](crate::inlined) closure.
pub(in crate::ops) fn map_rows<T: Real>(args: &mut HostArgs, in_place: impl Fn(&mut [T]) + Sync) {
    let cols = args.x_shape(0).last();
    let x = args.x::<T>(0);
    par_rows(args.y::<T>(0), cols, |task, y| {
        y.copy_from_slice(&x[task * rows_per_task(cols) * cols..][..y.len()]);
        vectorised!({
            for row in y.chunks_exact_mut(cols) {
                in_place(row);
            }
        });
    });
}

/// Every row of dx from those of dy and y, inputs 0 and 1: an [`inlined!`](crate::inlined) closure.
pub(in crate::ops) fn map_gradients<T: Real>(args: &mut HostArgs, gradient: impl Fn(&mut [T], &[T], &[T]) + Sync) {
    let cols = args.x_shape(1).last();
    let (dy, y) = (args.x::<T>(0), args.x::<T>(1));
    par_rows(args.y::<T>(0), cols, |task, dx| {
        vectorised!({
            for (row, dx) in dx.chunks_exact_mut(cols).enumerate() {
                let at = (task * rows_per_task(cols) + row) * cols;
                gradient(dx, &dy[at..at + cols], &y[at..at + cols]);
            }
        });
    });
}

kernel_params! {
    struct RowParams {
        x: DevicePtr,
        y: DevicePtr,
        out: DevicePtr,
        rows: u64,
        cols: u64,
        aligned: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
/// Rows up to this length get a warp, longer ones a block.
const NARROW: usize = 2048;

/// A kernel for narrow and one for wide rows.
pub(in crate::ops) struct RowKernels([Kernel<RowParams>; 2]);

impl RowKernels {
    pub const fn new(module: &'static Module, narrow: &'static str, wide: &'static str) -> RowKernels {
        // SAFETY: only `launch` fills `RowParams`, from the tensors of the launch and from their sizes.
        RowKernels(unsafe {
            [Kernel::new(module, narrow, THREADS, FLOATS), Kernel::new(module, wide, THREADS, FLOATS)]
        })
    }

    pub const fn infos(&self) -> [KernelInfo; 2] {
        [self.0[0].info(), self.0[1].info()]
    }

    /// Fills the output's rows; `y` may be null.
    pub fn launch(&self, args: &DeviceArgs, x: DevicePtr, y: DevicePtr) -> Result<()> {
        let out = args.y[0];
        let (rows, cols) = (out.shape().rows(), out.shape().last());
        if out.elems() == 0 {
            return Ok(());
        }
        let aligned = (cols * out.dtype().bytes()).is_multiple_of(16).into();
        let params = RowParams { x, y, out: out.ptr, rows: rows as u64, cols: cols as u64, aligned, unused: 0 };
        match cols <= NARROW {
            true => args.launch(&self.0[0], out.dtype(), blocks(rows, THREADS as usize / 32), 0, &params),
            false => args.launch(&self.0[1], out.dtype(), blocks(rows, 1), 0, &params),
        }
    }
}
