//! The definition of an epilogue: what happens to the sums of a GEMM or a convolution before they are stored.

use rayon::prelude::*;

use super::vector::{par_rows, rows_per_task};
use crate::{
    activation::{Activation, ActivationParams},
    device::host::Real,
    inlined,
    math::{hardswish, normal_cdf, sigmoid},
    vectorised,
};

/// `y = clamp(gain · f(sum + strength · noise + bias)) + residual`, rows of `y` being pixels.
pub struct Epilogue<'a, T> {
    /// One value per channel.
    pub bias: Option<&'a [T]>,
    /// One value per pixel, and their strength.
    pub noise: Option<(&'a [T], T)>,
    /// As `y`.
    pub residual: Option<&'a [T]>,
    pub activation: Activation,
    pub params: ActivationParams,
}

impl<T: Real> Epilogue<'_, T> {
    /// Fills `y`, rows of `channels`, with the epilogue of sums. `sums(y, accumulate)` overwrites `y` with them, or adds them to
    /// what stands there: bias and residual, where they may come first. `pre_activation` receives the activation's input.
    pub fn run(
        &self,
        channels: usize,
        y: &mut [T],
        pre_activation: Option<&mut [T]>,
        sums: impl FnOnce(&mut [T], bool),
    ) {
        let begun = self.begin(channels, y);
        sums(y, begun);
        match pre_activation {
            _ if !begun => self.apply(channels, y, pre_activation),
            None if self.is_identity() => {}
            None => par_rows(y, channels, |_, y| self.activate(y)),
            Some(pre_activation) => {
                let step = rows_per_task(channels) * channels;
                let parts = y.par_chunks_mut(step).zip(pre_activation.par_chunks_mut(step));
                parts.for_each(|(y, pre_activation)| {
                    pre_activation.copy_from_slice(y);
                    self.activate(y);
                });
            }
        }
    }

    /// The same for a `y` that holds the sums already.
    pub fn apply(&self, channels: usize, y: &mut [T], pre_activation: Option<&mut [T]>) {
        let nothing = self.bias.is_none() && self.noise.is_none() && self.residual.is_none() && self.is_identity();
        match pre_activation {
            _ if channels == 0 => {}
            None if nothing => {}
            None => par_rows(y, channels, |task, y| {
                let first = task * rows_per_task(channels);
                self.shift(first, channels, y);
                self.activate(y);
                if let Some(residual) = self.residual {
                    let residual = &residual[first * channels..][..y.len()];
                    y.iter_mut().zip(residual).for_each(|(y, &residual)| *y += residual);
                }
            }),
            Some(pre_activation) => {
                par_rows(y, channels, |task, y| self.shift(task * rows_per_task(channels), channels, y));
                pre_activation.copy_from_slice(y);
                par_rows(y, channels, |_, y| self.activate(y));
            }
        }
    }

    /// Whether the activation does nothing.
    fn is_identity(&self) -> bool {
        self.params.is_linear(self.activation) && self.params.gain == 1.0
    }

    /// Writes bias and residual to `y` where sums may be added to them. Says whether it did.
    fn begin(&self, channels: usize, y: &mut [T]) -> bool {
        let nothing = self.bias.is_none() && self.residual.is_none();
        if channels == 0 || self.noise.is_some() || nothing || (self.residual.is_some() && !self.is_identity()) {
            return false;
        }
        par_rows(y, channels, |task, y| {
            let first = task * rows_per_task(channels) * channels;
            let residual = self.residual.map(|residual| &residual[first..][..y.len()]);
            match (residual, self.bias) {
                (None, None) => {}
                (None, Some(bias)) => y.chunks_mut(channels).for_each(|y| y.copy_from_slice(bias)),
                (Some(residual), None) => y.copy_from_slice(residual),
                (Some(residual), Some(bias)) => {
                    for (y, residual) in y.chunks_mut(channels).zip(residual.chunks(channels)) {
                        y.iter_mut().zip(residual.iter().zip(bias)).for_each(|(y, (&r, &b))| *y = r + b);
                    }
                }
            }
        });
        true
    }

    /// Adds noise and bias to the pixels from `first` on.
    fn shift(&self, first: usize, channels: usize, y: &mut [T]) {
        for (pixel, y) in y.chunks_mut(channels).enumerate() {
            if let Some((noise, strength)) = self.noise {
                let noise = strength * noise[first + pixel];
                y.iter_mut().for_each(|y| *y += noise);
            }
            if let Some(bias) = self.bias {
                y.iter_mut().zip(bias).for_each(|(y, &bias)| *y += bias);
            }
        }
    }

    /// `y = clamp(gain · f(y))`.
    fn activate(&self, y: &mut [T]) {
        let [positive, negative] = self.params.scales(self.activation).map(T::c);
        match self.activation {
            Activation::Sigmoid => self.each(y, inlined!(move |x| positive * sigmoid(x))),
            Activation::Silu => self.each(y, inlined!(move |x| positive * (x * sigmoid(x)))),
            Activation::Gelu => self.each(y, inlined!(move |x| positive * (x * normal_cdf(x)))),
            Activation::Hardswish => self.each(y, inlined!(move |x| positive * hardswish(x))),
            _ => self.each(y, inlined!(move |x| x * if x < T::zero() { negative } else { positive })),
        }
    }

    fn each(&self, y: &mut [T], f: impl Fn(T) -> T + Copy) {
        let clamp = T::c(self.params.clamp.unwrap_or(f64::INFINITY));
        vectorised!([f, clamp], {
            for y in y.iter_mut() {
                let x = f(*y);
                let x = if x > clamp { clamp } else { x };
                *y = if x < -clamp { -clamp } else { x };
            }
        });
    }
}
