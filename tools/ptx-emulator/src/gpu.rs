//! The device as a host program sees it: memory, copies, launches. Everything happens in call order on the caller's
//! time.

use std::{collections::HashMap, ptr::NonNull};

use crate::{
    counters::Counters,
    launch::LaunchShape,
    memory::Global,
    module::Module,
    options::Options,
    race::GlobalRaces,
    report::{Fault, MemoryError, Report},
    texture::Texture,
};

/// Handles of textures are numbers that no address and no small integer is.
const FIRST_HANDLE: u64 = 0x7ec0_0000_0000_0001;

/// One emulated GPU.
pub struct Gpu {
    pub(crate) options: Options,
    pub(crate) memory: Global,
    /// Addresses of module-level variables, by module number; allocated at a module's first launch.
    pub(crate) globals: HashMap<u64, Vec<u64>>,
    pub(crate) launches: u64,
    pub(crate) race: GlobalRaces,
    pub(crate) notes: Vec<Report>,
    pub(crate) printed: String,
    pub(crate) textures: HashMap<u64, Texture>,
    /// Of the next texture.
    handle: u64,
}

impl Gpu {
    /// A GPU with empty memory.
    pub fn new(options: Options) -> Self {
        let memory = Global::new(options.memory_bytes, options.checks.init, options.poison, options.host_mapped);
        Self {
            options,
            memory,
            globals: HashMap::new(),
            launches: 0,
            race: GlobalRaces::default(),
            notes: Vec::new(),
            printed: String::new(),
            textures: HashMap::new(),
            handle: FIRST_HANDLE,
        }
    }

    /// Another GPU with the same memory at the same addresses, initialised as far as this one's is, and other settings. What
    /// happens to one is not seen by the other: for running several variants of a launch from one state.
    ///
    /// Whether initialisation is tracked, and how much memory there is, stay as they are.
    pub fn fork(&self, options: Options) -> Self {
        let (memory, globals) = (self.memory.clone(), self.globals.clone());
        Self {
            options,
            memory,
            globals,
            launches: self.launches,
            race: GlobalRaces::default(),
            notes: Vec::new(),
            printed: String::new(),
            textures: self.textures.clone(),
            handle: self.handle,
        }
    }

    /// The settings it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Another seed for the launches to come.
    pub fn set_seed(&mut self, seed: u64) {
        self.options.seed = seed;
        self.launches = 0;
    }

    /// Bytes of global memory alive.
    pub fn held_bytes(&self) -> u64 {
        self.memory.held()
    }

    /// Fresh global memory, uninitialised as far as the checks know. Zero bytes give a valid address that nothing may touch.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        self.alloc_named(bytes, "")
    }

    /// As [`Gpu::alloc`], with a name for reports.
    pub fn alloc_named(&mut self, bytes: u64, name: &str) -> Result<u64, MemoryError> {
        self.memory.alloc(bytes, name.to_owned(), true)
    }

    /// Makes memory of the host an allocation at its own address, so that both sides read and write it there: managed and
    /// mapped memory. It counts as initialised, and what the host does to it meanwhile is not seen by the checks.
    ///
    /// The GPU must be made for it ([`Options::host_mapped`]); the memory starts at a multiple of 2^36.
    ///
    /// # Safety
    /// The bytes are valid for reads and writes until [`Gpu::free`] of the address.
    pub unsafe fn adopt(&mut self, start: NonNull<u8>, bytes: u64, name: &str) -> Result<u64, MemoryError> {
        // SAFETY: by the caller.
        unsafe { self.memory.adopt(start, bytes, name.to_owned()) }
    }

    /// Start and size of the allocation that an address lies in or just behind.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.memory.extent(address)
    }

    /// Ends an allocation's life; its address is never valid again (until 65536 later frees).
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        self.race.free(address);
        self.memory.free(address)
    }

    /// What launches so far found that is no error, once for each instruction; see [`crate::Level`].
    pub fn notes(&self) -> &[Report] {
        &self.notes
    }

    /// Host to device.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.bytes_mut(address, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Device to host. Bytes nobody wrote come as they are.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        into.copy_from_slice(self.memory.bytes(address, into.len() as u64)?);
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    pub fn fill(&mut self, address: u64, value: u8, bytes: u64) -> Result<(), MemoryError> {
        self.memory.bytes_mut(address, bytes)?.fill(value);
        Ok(())
    }

    /// Device to device; ranges may overlap. What is known to be uninitialised stays so at its new place.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        self.memory.copy(to, from, bytes)
    }

    /// The address and size of a module-level variable, allocated on first use.
    pub fn symbol(&mut self, module: &Module, name: &str) -> Result<Option<(u64, u64)>, MemoryError> {
        let addresses = self.load_globals(module)?;
        Ok(module
            .image
            .globals
            .iter()
            .position(|g| g.name == name)
            .map(|i| (addresses[i], module.image.globals[i].bytes)))
    }

    /// Puts a module-level variable, with what it holds, at another address: where both sides read a managed variable. Before
    /// the module's first launch. Gives its size.
    pub fn move_symbol(&mut self, module: &Module, name: &str, to: u64) -> Result<Option<u64>, MemoryError> {
        let Some((from, bytes)) = self.symbol(module, name)? else { return Ok(None) };
        self.memory.copy(to, from, bytes)?;
        self.memory.free(from)?;
        let addresses = self.globals.entry(module.image.number).or_default();
        addresses.iter_mut().filter(|address| **address == from).for_each(|address| *address = to);
        let addresses = addresses.clone();
        for (global, address) in module.image.globals.iter().zip(&addresses) {
            for (at, target, addend) in &global.pointers {
                let value = addresses.get(*target).copied().unwrap_or(0).wrapping_add_signed(*addend);
                self.memory.bytes_mut(address + *at as u64, 8)?.copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(Some(bytes))
    }

    /// Makes every later kernel see `bytes` bytes as uninitialised again, poisoned if the options say so: what a caching
    /// pool calls when it hands out a buffer a second time.
    pub fn forget(&mut self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        self.memory.forget(address, bytes)
    }

    /// Runs one kernel to its end. `params` is the parameter buffer, laid out as the entry declares it.
    #[allow(clippy::too_many_arguments, reason = "the launch call of every GPU interface")]
    pub fn launch(
        &mut self,
        module: &Module,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared_bytes: u32,
        params: &[u8],
    ) -> Result<Counters, Fault> {
        let shape = LaunchShape { dynamic_shared_bytes, ..LaunchShape::new(grid, block) };
        self.launch_as(module, entry, &shape, params)
    }

    /// As [`Gpu::launch`], with everything a launch can say: clusters, and blocks that wait for each other.
    pub fn launch_as(
        &mut self,
        module: &Module,
        entry: &str,
        shape: &LaunchShape,
        params: &[u8],
    ) -> Result<Counters, Fault> {
        crate::launch::launch(self, module, entry, shape, params)
    }

    /// A handle by which kernels read and write a texture or surface (`tex`, `suld`, `sust`), or why there is none. Its memory is
    /// the caller's.
    pub fn add_texture(&mut self, texture: Texture) -> Result<u64, String> {
        texture.check()?;
        let handle = self.handle;
        self.handle += 2;
        self.textures.insert(handle, texture);
        Ok(handle)
    }

    /// The handle stands for nothing any more; says whether it did.
    pub fn remove_texture(&mut self, handle: u64) -> bool {
        self.textures.remove(&handle).is_some()
    }

    /// What a handle stands for.
    pub fn texture(&self, handle: u64) -> Option<&Texture> {
        self.textures.get(&handle)
    }

    /// What kernels have printed since the last call, thread by thread in the order in which they ran.
    pub fn take_printed(&mut self) -> String {
        std::mem::take(&mut self.printed)
    }

    pub(crate) fn load_globals(&mut self, module: &Module) -> Result<Vec<u64>, MemoryError> {
        if let Some(addresses) = self.globals.get(&module.image.number) {
            return Ok(addresses.clone());
        }
        let mut addresses = Vec::with_capacity(module.image.globals.len());
        for global in &module.image.globals {
            addresses.push(self.memory.alloc(global.bytes, global.name.clone(), !global.constant)?);
        }
        for (global, address) in module.image.globals.iter().zip(&addresses) {
            let mut data = global.initial.clone();
            for (at, target, addend) in &global.pointers {
                let value = addresses.get(*target).copied().unwrap_or(0).wrapping_add_signed(*addend);
                if let Some(place) = data.get_mut(*at..*at + 8) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            self.memory.bytes_mut(*address, global.bytes)?.copy_from_slice(&data);
        }
        self.globals.insert(module.image.number, addresses.clone());
        Ok(addresses)
    }
}
