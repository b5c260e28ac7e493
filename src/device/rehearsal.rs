//! Work gone through without a GPU doing any of it, to learn which kernels it launches: they are then compiled side by side,
//! where the work itself would wait for one after the other.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{
    Device, Kind,
    driver::{DeviceProps, DevicePtr, Driver, KernelEntry, LaunchConfig, Memory, Pattern, TensorMap},
    module::Module,
};
use crate::error::Result;

/// Stands in for a device: has its properties, and neither memory nor kernels. What is read from it is zero.
struct Rehearsal {
    of: Rc<dyn Driver>,
    asked_for: RefCell<Vec<(&'static Module, String)>>,
    next_address: Cell<u64>,
}

/// Real addresses are aligned to it.
const ALIGNMENT: usize = 512;

impl Device {
    /// The kernels that `work` asks for, each once, in the order in which it does; none on the CPU. `work` is given a device
    /// to run on that does nothing: it must end whatever the numbers are.
    pub fn rehearse<R>(&self, work: impl FnOnce(&Device) -> Result<R>) -> Result<Vec<(&'static Module, String)>> {
        let Kind::Gpu(driver) = self.kind() else { return Ok(Vec::new()) };
        let stand_in = Rc::new(Rehearsal {
            of: driver.clone(),
            asked_for: RefCell::default(),
            next_address: Cell::new(ALIGNMENT as u64),
        });
        work(&Device::gpu(stand_in.clone()))?;
        Ok(stand_in.asked_for.take())
    }

    /// Loads the kernels that `work` asks for in parallel; nothing to do where kernels are not compiled. See
    /// [`rehearse`](Device::rehearse).
    pub fn preload<R>(&self, work: impl FnOnce(&Device) -> Result<R>) -> Result<()> {
        match self.kind() {
            Kind::Gpu(driver) if driver.compiles() => driver.preload(&self.rehearse(work)?),
            _ => Ok(()),
        }
    }
}

impl Driver for Rehearsal {
    fn name(&self) -> &str {
        self.of.name()
    }

    fn props(&self) -> DeviceProps {
        self.of.props()
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let address = self.next_address.get();
        self.next_address.set(address + bytes.max(1).next_multiple_of(ALIGNMENT) as u64);
        Ok(DevicePtr(address))
    }

    unsafe fn free(&self, _: DevicePtr) {}

    unsafe fn upload(&self, _: DevicePtr, _: &[u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn download(&self, _: DevicePtr, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    unsafe fn fill(&self, _: DevicePtr, _: Pattern, _: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn copy(&self, _: DevicePtr, _: DevicePtr, _: usize) -> Result<()> {
        Ok(())
    }

    fn entry(&self, module: &'static Module, kernel: &str) -> Result<KernelEntry> {
        let mut asked_for = self.asked_for.borrow_mut();
        let known = asked_for.iter().position(|(of, name)| std::ptr::eq(*of, module) && name == kernel);
        let number = known.unwrap_or_else(|| {
            asked_for.push((module, kernel.to_string()));
            asked_for.len() - 1
        });
        Ok(KernelEntry(number as u64))
    }

    unsafe fn launch(&self, _: KernelEntry, _: LaunchConfig, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Memory {
        Memory::default()
    }

    fn encode_tensor_map(&self, _: &TensorMap) -> Result<[u8; 128]> {
        Ok([0; 128])
    }
}
