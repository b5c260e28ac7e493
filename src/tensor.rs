//! Tensors: an identity, a shape, an element type and where the bytes are. No mathematics lives here; ops do that.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use crate::{
    device::{
        Device, Kind,
        driver::{DeviceBuffer, DevicePtr, Pattern},
        host::{Element, HostBuffer, HostPool},
    },
    dtype::DType,
    error::{Error, Result},
    shape::{Shape, Spec},
};

/// Names one tensor for the tape. Two handles with one id are the same value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TensorId(u64);

impl TensorId {
    fn fresh() -> TensorId {
        thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
        NEXT.with(|next| {
            next.set(next.get() + 1);
            TensorId(next.get())
        })
    }
}

/// A contiguous, row-major array on one device. Cloning shares it. Stays on the thread that made it; hand host buffers
/// between threads instead.
#[derive(Clone)]
pub struct Tensor(Rc<Inner>);

struct Inner {
    id: TensorId,
    spec: Spec,
    device: Device,
    storage: Rc<Storage>,
}

/// The bytes behind one or several tensors (a reshaped tensor shares those of the original).
pub(crate) enum Storage {
    Host { buffer: RefCell<HostBuffer>, pool: Rc<HostPool> },
    Device(DeviceBuffer),
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Storage::Host { buffer, pool } = self {
            pool.give_back(std::mem::replace(buffer.get_mut(), HostBuffer::U8(Vec::new())));
        }
    }
}

impl Storage {
    pub(crate) fn alloc(device: &Device, spec: Spec) -> Result<Storage> {
        Ok(match device.kind() {
            Kind::Cpu => Storage::host(device, device.pool().alloc(spec.dtype, spec.shape.elems())),
            Kind::Gpu(driver) => Storage::Device(DeviceBuffer::alloc(driver, spec.bytes())?),
        })
    }

    fn host(device: &Device, buffer: HostBuffer) -> Storage {
        Storage::Host { buffer: RefCell::new(buffer), pool: device.pool().clone() }
    }
}

impl Tensor {
    pub(crate) fn from_storage(device: &Device, spec: Spec, storage: Rc<Storage>) -> Tensor {
        Tensor(Rc::new(Inner { id: TensorId::fresh(), spec, device: device.clone(), storage }))
    }

    pub(crate) fn storage(&self) -> &Rc<Storage> {
        &self.0.storage
    }

    /// Takes the values as they are, without a copy on the CPU. The count must be the shape's.
    pub fn from_buffer(values: HostBuffer, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let spec = Spec { shape: shape.into(), dtype: values.dtype() };
        if values.len() != spec.shape.elems() {
            return Err(Error::shape("from_buffer", format!("{} values for shape {}", values.len(), spec.shape)));
        }
        let storage = match device.kind() {
            Kind::Cpu => Storage::host(device, values),
            Kind::Gpu(driver) => {
                let buffer = DeviceBuffer::alloc(driver, spec.bytes())?;
                buffer.upload(values.bytes())?;
                Storage::Device(buffer)
            }
        };
        Ok(Tensor::from_storage(device, spec, Rc::new(storage)))
    }

    pub fn from_vec<T: Element>(values: Vec<T>, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        Tensor::from_buffer(T::wrap(values), shape, device)
    }

    /// Values given in f64, rounded to `dtype`.
    pub fn from_f64(values: &[f64], shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::from_buffer(HostBuffer::F64(values.to_vec()).cast(dtype), shape, device)
    }

    pub fn full(value: f64, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let spec = Spec { shape: shape.into(), dtype };
        if let (Kind::Gpu(driver), Some(pattern)) = (device.kind(), pattern(value, dtype)) {
            let buffer = DeviceBuffer::alloc(driver, spec.bytes())?;
            buffer.fill(pattern)?;
            return Ok(Tensor::from_storage(device, spec, Rc::new(Storage::Device(buffer))));
        }
        Tensor::from_f64(&vec![value; spec.shape.elems()], spec.shape, dtype, device)
    }

    pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        match device.kind() {
            Kind::Cpu => Tensor::from_buffer(HostBuffer::zeros(dtype, shape.elems()), shape, device),
            Kind::Gpu(_) => Tensor::full(0.0, shape, dtype, device),
        }
    }

    /// All ones or zeros, of this tensor's shape, type and device.
    pub fn ones_like(&self) -> Result<Tensor> {
        Tensor::full(1.0, self.shape(), self.dtype(), self.device())
    }

    pub fn zeros_like(&self) -> Result<Tensor> {
        Tensor::zeros(self.shape(), self.dtype(), self.device())
    }

    pub fn id(&self) -> TensorId {
        self.0.id
    }

    pub fn spec(&self) -> Spec {
        self.0.spec
    }

    pub fn shape(&self) -> Shape {
        self.0.spec.shape
    }

    pub fn dtype(&self) -> DType {
        self.0.spec.dtype
    }

    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// A copy of the values on the host. Waits for the device.
    pub fn to_buffer(&self) -> Result<HostBuffer> {
        match &*self.0.storage {
            Storage::Host { buffer, .. } => Ok(buffer.borrow().clone()),
            Storage::Device(memory) => {
                let mut bytes = vec![0; self.spec().bytes()];
                memory.download(&mut bytes)?;
                Ok(match self.dtype() {
                    DType::F64 => HostBuffer::F64(bytemuck::pod_collect_to_vec(&bytes)),
                    DType::F32 => HostBuffer::F32(bytemuck::pod_collect_to_vec(&bytes)),
                    DType::Bf16 => HostBuffer::Bf16(bytemuck::pod_collect_to_vec(&bytes)),
                    DType::F16 => HostBuffer::F16(bytemuck::pod_collect_to_vec(&bytes)),
                    DType::U8 => HostBuffer::U8(bytes),
                    DType::I32 => HostBuffer::I32(bytemuck::pod_collect_to_vec(&bytes)),
                })
            }
        }
    }

    /// A copy of the values at type `T`, converted where the tensor holds another.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let buffer = self.to_buffer()?;
        let buffer = if buffer.dtype() == T::DTYPE { buffer } else { buffer.cast(T::DTYPE) };
        Ok(T::of(&buffer).map(<[T]>::to_vec).unwrap_or_default())
    }

    /// The one value of a one-element tensor.
    pub fn item(&self) -> Result<f64> {
        match self.to_vec::<f64>()?[..] {
            [value] => Ok(value),
            _ => Err(Error::shape("item", format!("one element wanted, the tensor is {}", self.shape()))),
        }
    }

    /// Where the values are in a GPU's memory, for libraries that queue work on the same stream; none on the CPU. Valid as
    /// long as the tensor lives.
    pub fn device_address(&self) -> Option<DevicePtr> {
        match &*self.0.storage {
            Storage::Host { .. } => None,
            Storage::Device(memory) => Some(memory.ptr()),
        }
    }

    /// A tensor with a copy of what is at `from`, made on the device in stream order.
    ///
    /// # Safety
    /// `from` is memory of this very GPU, as large as the shape and type need, written by work that is done or queued on
    /// the device's stream, and not freed before the copy.
    pub unsafe fn copy_of_device_memory(
        from: DevicePtr,
        shape: impl Into<Shape>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let spec = Spec { shape: shape.into(), dtype };
        let Kind::Gpu(driver) = device.kind() else {
            return Err(Error::shape("copy_of_device_memory", "device memory can be copied to a tensor of a GPU only"));
        };
        let buffer = DeviceBuffer::alloc(driver, spec.bytes())?;
        // SAFETY: by the caller.
        unsafe { buffer.copy_from(from)? };
        Ok(Tensor::from_storage(device, spec, Rc::new(Storage::Device(buffer))))
    }

    /// Other values in the same memory: what a captured step reads at its next replay. An error while a tape lives, which may
    /// still need the old ones.
    pub fn overwrite(&self, values: HostBuffer) -> Result<()> {
        if crate::tape::alive() {
            return Err(Error::TapeAlive { op: "overwrite", device: self.device().to_string() });
        }
        if values.len() != self.shape().elems() || values.dtype() != self.dtype() {
            let given = format!("{} values of {} for {}:{}", values.len(), values.dtype(), self.shape(), self.dtype());
            return Err(Error::shape("overwrite", given));
        }
        match &*self.0.storage {
            Storage::Host { buffer, .. } => *buffer.borrow_mut() = values,
            Storage::Device(memory) => memory.upload(values.bytes())?,
        }
        Ok(())
    }

    /// The same values on another device.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.device().is_same(device) {
            return Ok(self.clone());
        }
        Tensor::from_buffer(self.to_buffer()?, self.shape(), device)
    }
}

/// The bits of one element, where a device can repeat them.
fn pattern(value: f64, dtype: DType) -> Option<Pattern> {
    Some(match HostBuffer::F64(vec![value]).cast(dtype) {
        HostBuffer::F32(v) => Pattern::Bits32(v[0].to_bits()),
        HostBuffer::I32(v) => Pattern::Bits32(v[0].cast_unsigned()),
        HostBuffer::Bf16(v) => Pattern::Bits16(v[0].to_bits()),
        HostBuffer::F16(v) => Pattern::Bits16(v[0].to_bits()),
        HostBuffer::U8(v) => Pattern::Bits8(v[0]),
        HostBuffer::F64(v) => return (v[0].to_bits() == 0).then_some(Pattern::Bits32(0)),
    })
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Tensor{}:{} on {}", self.shape(), self.dtype(), self.device())
    }
}
