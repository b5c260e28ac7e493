//! The operations on tensors, one file each. A file holds, in this order: what it computes, the tensor methods, the parameters,
//! shapes, the CPU definition, the kernel launch, the gradient, and the cases that test and bench it.
//!
//! Adding an op is `kernels/S.cu`, `src/ops/S.rs` and one word below.

use crate::op::OpSpec;

macro_rules! ops {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*
        /// Their registry, in alphabetical order.
        pub static OPS: &[&OpSpec] = &[$(&$name::SPEC),*];
    };
}

pub mod epilogue;
pub mod lerp;
mod operators;
mod segment;

ops! {
    attention,
    avg_pool2d,
    batch_norm2d,
    bce_with_logits,
    bias_act,
    binary,
    broadcast,
    cast,
    concat,
    conv2d,
    cross_entropy,
    depthwise_conv2d,
    dropout,
    gather,
    global_avg_pool,
    global_feature_updater,
    global_norm,
    l1_loss,
    layer_norm,
    linear,
    local_feature_updater,
    log_softmax,
    lpips_distance,
    matmul,
    max,
    max_pool2d,
    mbconv,
    minibatch_stddev,
    modulated_conv2d,
    mse_loss,
    one_hot,
    permute,
    pixel_norm,
    random,
    reshape,
    resize,
    segment_mean,
    segment_softmax,
    segment_topk_mean,
    segment_weighted_sum,
    slice,
    softmax,
    squeeze_excite,
    sum,
    unary,
    upfirdn2d,
}
