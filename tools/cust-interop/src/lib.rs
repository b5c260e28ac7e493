//! Programs written with `cust` and this library on one GPU, without a copy over the host.
//!
//! `cust` owns the context and the stream, `isg` joins in: kernels of both are then queued on one stream, in program order,
//! and memory of either is an address the other can use.
//!
//! ```no_run
//! use cust::{prelude::*, memory::DeviceBuffer};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = cust::quick_init()?;
//! let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
//! let buffer = DeviceBuffer::from_slice(&[1.0f32, 2.0, 3.0, 4.0])?;
//!
//! // SAFETY: context and stream outlive the device and its tensors, which are dropped first.
//! let device = unsafe { isg_cust::adopt(0, &context, &stream)? };
//! let x = isg_cust::tensor(&buffer, [2, 2], &device)?;
//! let y = x.matmul(&x, false, false)?;
//! let lent = isg_cust::lend::<f32>(&y).expect("a tensor of f32 on a GPU");
//! // `lent` goes into `cust::launch!(...)` on the same stream; `y` must live until that has run.
//! # drop((y, x, device));
//! # let _ = lent;
//! # Ok(())
//! # }
//! ```

use cust::{
    context::Context,
    memory::{DeviceCopy, DevicePointer, DeviceSlice},
    stream::Stream,
};
use isg::{
    Device, Result, Tensor,
    device::{cuda::Cuda, driver::DevicePtr, host::Element},
    shape::Shape,
};

/// A device that queues all its work on `stream` of `context`, both of GPU number `index`. Gives neither back.
///
/// # Safety
/// `context` and `stream` belong to GPU number `index` and outlive the device and all its tensors. The stream is not
/// recording a graph.
pub unsafe fn adopt(index: u32, context: &Context, stream: &Stream) -> Result<Device> {
    // SAFETY: the handles are live, being borrowed here, and stay so by this function's own contract.
    let driver = unsafe { Cuda::adopt(index, context.as_raw().cast(), stream.as_inner().cast())? };
    Ok(Device::gpu(driver))
}

/// A tensor with a copy of `memory`, made on the device in stream order. `memory` must have been written before, on the
/// adopted stream or with that work awaited, and hold as many elements as `shape`.
pub fn tensor<T: Element + DeviceCopy>(
    memory: &DeviceSlice<T>,
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    if memory.len() != shape.elems() {
        let message = format!("{} elements of device memory for shape {shape}", memory.len());
        return Err(isg::Error::Shape { op: "tensor", message });
    }
    let address = DevicePtr(memory.as_device_ptr().as_raw());
    // SAFETY: a slice of cust's is device memory of so many elements, borrowed until the copy is queued; cust frees in
    // an order the driver keeps, after work already queued.
    unsafe { Tensor::copy_of_device_memory(address, shape, T::DTYPE, device) }
}

/// Where the tensor's values are, for cust's launches; none for another type or a tensor that is not on a GPU. The tensor
/// must live until the work that uses the address has run.
pub fn lend<T: Element + DeviceCopy>(tensor: &Tensor) -> Option<DevicePointer<T>> {
    let address = (tensor.dtype() == T::DTYPE).then(|| tensor.device_address()).flatten()?;
    Some(DevicePointer::from_raw(address.0))
}
