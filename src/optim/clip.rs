//! Gradient clipping by the norm of all gradients together (Pascanu, Mikolov, Bengio 2013; PyTorch's `clip_grad_norm_`).

use crate::{error::Result, tensor::Tensor};

/// The norm of all gradients together, and the factor that brings it down to `max_norm`: 1 where it is below already or
/// `max_norm` is 0. The optimiser applies the factor as it reads the gradients.
pub fn clip_scale(gradients: &[&Tensor], max_norm: f64) -> Result<(f64, f64)> {
    if gradients.is_empty() {
        return Ok((0.0, 1.0));
    }
    let norm = Tensor::global_norm(gradients)?.item()?;
    Ok((norm, clip_factor(norm, max_norm)))
}

/// What brings a norm down to `max_norm`: 1 where it is below already or `max_norm` is 0.
pub(super) fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 && norm > max_norm { max_norm / (norm + 1e-6) } else { 1.0 }
}
