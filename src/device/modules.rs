//! The modules of `kernels/`, which `build.rs` embeds: `SOFTMAX` is `kernels/softmax.cu`, and `ALL` lists them by name.

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
