//! The demodulation coefficients of a modulated convolution: its results are multiplied by them so that each channel's weights
//! have unit length again:
//! `y[i,k] = (Σ_c style[i,c]² · Σ_{r,s} weight[k,r,s,c]² + 1e-8)^(−1/2)`.

use crate::{
    cpu::vector::{par_rows, rows_per_task},
    device::{
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{DeviceArgs, HostArgs, Op, apply1, same_float},
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// Keeps the result finite where a style is zero.
const EPSILON: f64 = 1e-8;

/// `weight` `[k, r, s, c]`, `style` `[n, c]` to `[n, k]`.
pub(super) fn demodulation(weight: &Tensor, style: &Tensor) -> Result<Tensor> {
    apply1(Demodulation, &[weight, style])
}

struct Demodulation;

kernel_params! {
    pub(super) struct DemodulateParams {
        weight: DevicePtr,
        style: DevicePtr,
        y: DevicePtr,
        n: u32,
        k: u32,
        taps: u32,
        c: u32,
        vector: u32,
        epsilon: f32,
    }
}

// SAFETY: only this file fills `DemodulateParams`, from the tensors and scratch memory of the launch and from their sizes.
pub(super) const DEMODULATE: Kernel<DemodulateParams> =
    unsafe { Kernel::new(&modules::MODULATED_CONV2D, "demodulate", 128, FLOATS) };
/// Sums of squares a block holds.
const MOST_CHANNELS: usize = 12 << 10;

impl Demodulation {
    /// `n`, `k`, taps, `c`
    fn extents(&self, weight: Spec, style: Spec) -> Result<[usize; 4]> {
        match (weight.shape.nhwc(), style.shape.as_array()) {
            (Some([k, r, s, c]), Some([n, inner])) if inner == c => Ok([n, k, r * s, c]),
            _ => Err(Error::shape(self.name(), format!("style {} for weight {}", style.shape, weight.shape))),
        }
    }
}

impl Op for Demodulation {
    fn name(&self) -> &'static str {
        "demodulation"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        let [n, k, _, _] = self.extents(x[0], x[1])?;
        Ok(vec![Spec::new([n, k], dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let spec = |i: usize| Spec { shape: args.x_shape(i), dtype: args.x_dtype(i) };
        let [_, k, taps, c] = self.extents(spec(0), spec(1))?;
        float_dispatch!(args, T => demodulate::<T>(args.x(0), args.x(1), [k, taps, c], args.y(0)));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [n, k, taps, c] = self.extents(args.x[0].spec, args.x[1].spec)?;
        if c > MOST_CHANNELS {
            return Err(Error::shape(self.name(), format!("{c} channels; kernels take {MOST_CHANNELS}")));
        }
        if n * k == 0 {
            return Ok(());
        }
        let (dtype, int) = (args.y[0].dtype(), |value| count31(self.name(), value));
        let params = DemodulateParams {
            weight: args.x[0].ptr,
            style: args.x[1].ptr,
            y: args.y[0].ptr,
            n: int(n)?,
            k: int(k)?,
            taps: int(taps)?,
            c: int(c)?,
            vector: if c.is_multiple_of(16 / dtype.bytes()) { 16 / dtype.bytes() as u32 } else { 1 },
            epsilon: EPSILON as f32,
        };
        args.launch(&DEMODULATE, dtype, int(k)?, c * 4, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let ([_, k, _, c], weight, style) = (self.extents(v.x_spec(0), v.x_spec(1))?, v.x(0), v.x(1));
        // Of the sum under the root.
        let dsum = v.upstream()?.mul(&v.y(0).square()?.mul(v.y(0))?)?.scale(-0.5)?;
        let dweight = v.when(0, || {
            let denergy = dsum.matmul(&style.square()?, true, false)?;
            weight.mul(&denergy.reshape([k, 1, 1, c])?)?.scale(2.0)
        })?;
        let dstyle = v.when(1, || {
            let energy = weight.square()?.sum(&[1, 2])?.reshape([k, c])?;
            style.mul(&dsum.matmul(&energy, false, false)?)?.scale(2.0)
        })?;
        Ok(vec![dweight, dstyle])
    }

    fn keep(&self) -> Keep {
        Keep::ALL
    }
}

/// `weight` `[k, taps, c]`, `style` `[n, c]`, `y` `[n, k]`.
fn demodulate<T: Real>(weight: &[T], style: &[T], [k, taps, c]: [usize; 3], y: &mut [T]) {
    let energy = energies(weight, [k, taps, c]);
    par_rows(y, k, |task, y| {
        let first = task * rows_per_task(k);
        for (image, y) in y.chunks_mut(k.max(1)).enumerate() {
            let squares: Vec<T> = style[(first + image) * c..][..c].iter().map(|&s| s * s).collect();
            for (channel, y) in y.iter_mut().enumerate() {
                let energy = &energy[channel * c..][..c];
                let sum = energy.iter().zip(&squares).fold(T::zero(), |sum, (&e, &s)| sum + e * s);
                *y = T::one() / (sum + T::c(EPSILON)).sqrt();
            }
        }
    });
}

/// Sums of squares over the taps: `[k, taps, c] -> [k, c]`.
fn energies<T: Real>(weight: &[T], [k, taps, c]: [usize; 3]) -> Vec<T> {
    let mut energy = vec![T::zero(); k * c];
    par_rows(&mut energy, c, |task, energy| {
        let first = task * rows_per_task(c);
        for (channel, energy) in energy.chunks_mut(c.max(1)).enumerate() {
            for weights in weight[(first + channel) * taps * c..][..taps * c].chunks(c.max(1)) {
                energy.iter_mut().zip(weights).for_each(|(energy, &w)| *energy += w * w);
            }
        }
    });
    energy
}
