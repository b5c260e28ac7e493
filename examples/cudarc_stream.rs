//! Work on a context and a stream that the caller owns: cudarc allocates and fills memory, `isg` computes in stream order, and
//! cudarc goes on with the result. `tools/cust-interop` does the same beside cust.
//!
//! `cargo run --release --example cudarc_stream` on a machine with a GPU.

use std::{error::Error, sync::Arc};

use cudarc::driver::{CudaContext, CudaStream, DevicePtr as _, sys};
use isg::{
    DType, Device, Tensor,
    device::{cuda::Cuda, driver::DevicePtr},
};

/// A device on cudarc's stream. The stream is borrowed by whoever keeps it alive: both outlive every tensor of the device.
fn share(ordinal: u32, context: &Arc<CudaContext>, stream: &Arc<CudaStream>) -> isg::Result<Device> {
    // SAFETY: `main` keeps context and stream until its end, after the device and its tensors; the stream is not captured.
    let driver = unsafe { Cuda::adopt(ordinal, context.cu_ctx().cast(), stream.cu_stream().cast())? };
    Ok(Device::gpu(driver))
}

fn main() -> Result<(), Box<dyn Error>> {
    // Opening the library by name first turns "no driver" into a sentence; cudarc would panic.
    Cuda::open(0)?;
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let device = share(0, &context, &stream)?;

    let theirs = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0])?;
    let (address, _read) = theirs.device_ptr(&stream);
    // SAFETY: four floats, written by work queued on this very stream, alive until after the copy is queued.
    let x = unsafe { Tensor::copy_of_device_memory(DevicePtr(address), [2, 2], DType::F32, &device)? };
    let y = x.softmax()?;

    // And back: the address of a tensor is good as long as the tensor lives, in stream order.
    let mut rows = [0.0f32; 4];
    let source = y.device_address().ok_or("a tensor of a GPU")?;
    // SAFETY: the tensor lives until the stream is waited for, and has room for four floats, as `rows` has.
    unsafe {
        sys::cuMemcpyDtoHAsync_v2(rows.as_mut_ptr().cast(), source.0, size_of_val(&rows), stream.cu_stream())
            .result()?;
    }
    stream.synchronize()?;
    println!("softmax of [1, 2] and [3, 4]: {rows:?}");
    Ok(())
}
