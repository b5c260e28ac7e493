//! Where bytes live and kernels run. Knows nothing of tensors, shapes or gradients.
