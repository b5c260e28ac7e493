//! Modules, their kernels and variables; and what a program compiled by nvcc registers of itself before `main`.

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_void},
    sync::Arc,
};

use ptx_emulator::{Entry, LoadError, Module};

use crate::{
    abi::{Answer, error},
    image,
    state::State,
};

/// A module, and the kernels in it that the emulator cannot run.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub module: Module,
    pub refused: Arc<Vec<(String, LoadError)>>,
}

#[derive(Clone)]
pub(crate) struct Function {
    pub module: Module,
    pub entry: Arc<str>,
}

impl Function {
    pub fn entry(&self) -> Answer<&Entry> {
        self.module.entry(&self.entry).ok_or(error::INVALID_DEVICE_FUNCTION)
    }

    /// The parameter buffer, from one pointer to each parameter.
    ///
    /// # Safety
    /// There are as many pointers as the kernel has parameters, each to as many bytes as it takes.
    pub unsafe fn gather(&self, pointers: *const *const u8) -> Answer<Vec<u8>> {
        let entry = self.entry()?;
        let mut params = vec![0; entry.param_bytes as usize];
        for (n, param) in entry.params.iter().enumerate() {
            if pointers.is_null() {
                return Err(error::INVALID_VALUE);
            }
            // SAFETY: by the caller, as on the real device, where the kernel alone says how much is read.
            let from = unsafe { std::slice::from_raw_parts(*pointers.add(n), param.bytes as usize) };
            params[param.offset as usize..][..from.len()].copy_from_slice(from);
        }
        Ok(params)
    }
}

/// What a program compiled by nvcc says of itself: by the addresses of its own stubs and shadows.
#[derive(Default)]
pub(crate) struct Registry {
    pub binaries: Vec<Binary>,
    pub kernels: HashMap<usize, Kernel>,
    pub variables: HashMap<usize, Variable>,
}

/// A fat binary of the program; loaded when something in it is used.
pub(crate) struct Binary {
    container: usize,
    loaded: Option<Result<Loaded, ()>>,
}

impl Binary {
    pub fn new(container: *const c_void) -> Self {
        Self { container: container.addr(), loaded: None }
    }
}

pub(crate) struct Kernel {
    pub binary: usize,
    pub name: String,
    function: Option<Function>,
}

impl Kernel {
    pub fn new(binary: usize, name: String) -> Self {
        Self { binary, name, function: None }
    }
}

pub(crate) struct Variable {
    pub binary: usize,
    pub name: String,
    /// For a managed variable: where the program reads its address.
    pub managed: Option<usize>,
}

/// The bytes of an image: a text that ends with zero, or a container that says its own size.
///
/// # Safety
/// `image` points to one or the other.
unsafe fn ptx_of(image: *const c_void, state: &State) -> Result<String, String> {
    // SAFETY: whatever it is, it is no shorter.
    let head = unsafe { image.cast::<[u8; 4]>().read_unaligned() };
    if head == *b"\x7fELF" {
        return Err("machine code, no PTX".into());
    }
    if head != 0xba55_ed50_u32.to_le_bytes() {
        // SAFETY: a text, by the caller.
        return Ok(unsafe { CStr::from_ptr(image.cast::<c_char>()) }.to_string_lossy().into_owned());
    }
    // SAFETY: a container has a header of 16 bytes.
    let head = unsafe { image.cast::<[u8; 16]>().read_unaligned() };
    let bytes = image::container_bytes(&head).ok_or("a damaged fat binary")?;
    // SAFETY: the header says how long it is.
    let container = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), bytes) };
    image::best_ptx(container, state.capability)
}

impl State {
    /// Loads an image; the error is one sentence.
    ///
    /// # Safety
    /// `image` points to PTX that ends with zero, or to a fat binary.
    pub unsafe fn load(&self, image: *const c_void) -> Result<Loaded, String> {
        if image.is_null() {
            return Err("no image".into());
        }
        // A wrapper points to the container.
        // SAFETY: an image has four bytes.
        let wrapped = unsafe { image.cast::<u32>().read_unaligned() } == WRAPPER;
        // SAFETY: a wrapper is a magic, a version, and the container's address.
        let image = if wrapped { unsafe { image.cast::<*const c_void>().add(1).read_unaligned() } } else { image };
        // SAFETY: by the caller.
        let text = unsafe { ptx_of(image, self) }?;
        let (module, refused) = Module::load_what_runs(&text).map_err(|error| error.to_string())?;
        Ok(Loaded { module, refused: Arc::new(refused) })
    }

    /// A kernel of a module by name; one that cannot run is told of.
    pub fn find(&mut self, loaded: &Loaded, name: &str) -> Answer<Function> {
        if loaded.module.entry(name).is_some() {
            return Ok(Function { module: loaded.module.clone(), entry: name.into() });
        }
        match loaded.refused.iter().find(|(refused, _)| refused == name) {
            Some((_, reason)) => {
                self.refuse(&format!("kernel {name} cannot be emulated: {reason}"));
                Err(error::NOT_SUPPORTED)
            }
            None => Err(error::NOT_FOUND),
        }
    }

    fn binary(&mut self, number: usize) -> Answer<Loaded> {
        let binary = self.registry.binaries.get(number).ok_or(error::INVALID_VALUE)?;
        if let Some(loaded) = &binary.loaded {
            return loaded.clone().map_err(|()| error::NO_KERNEL_IMAGE);
        }
        // SAFETY: registered by the program's own start, part of it.
        let loaded = unsafe { self.load(std::ptr::with_exposed_provenance(binary.container)) };
        let loaded = loaded.map_err(|reason| self.refuse(&format!("the program's kernels cannot be loaded: {reason}")));
        self.registry.binaries[number].loaded = Some(loaded.clone());
        loaded.map_err(|()| error::NO_KERNEL_IMAGE)
    }

    /// The kernel behind a function of the program, or behind a handle.
    pub fn function(&mut self, function: *const c_void) -> Answer<Function> {
        if let Ok(found) = self.functions.get(function) {
            return Ok(found.clone());
        }
        let kernel = self.registry.kernels.get(&function.addr()).ok_or(error::INVALID_DEVICE_FUNCTION)?;
        if let Some(found) = &kernel.function {
            return Ok(found.clone());
        }
        let (binary, name) = (kernel.binary, kernel.name.clone());
        let loaded = self.binary(binary)?;
        let found = self.find(&loaded, &name)?;
        if let Some(kernel) = self.registry.kernels.get_mut(&function.addr()) {
            kernel.function = Some(found.clone());
        }
        Ok(found)
    }

    /// Address and size of a variable of the program, by the address of its shadow.
    pub fn variable(&mut self, shadow: *const c_void) -> Answer<(u64, u64)> {
        let variable = self.registry.variables.get(&shadow.addr()).ok_or(error::INVALID_SYMBOL)?;
        let (binary, name) = (variable.binary, variable.name.clone());
        let loaded = self.binary(binary)?;
        self.gpu.symbol(&loaded.module, &name).ok().flatten().ok_or(error::INVALID_SYMBOL)
    }

    /// Puts the managed variables of a binary where the program reads them.
    pub fn place_managed(&mut self, number: usize) -> Answer {
        let managed = |v: &Variable| v.managed.filter(|_| v.binary == number).map(|host| (host, v.name.clone()));
        let variables: Vec<(usize, String)> = self.registry.variables.values().filter_map(managed).collect();
        for (host, name) in variables {
            let loaded = self.binary(number)?;
            let found = self.gpu.symbol(&loaded.module, &name).ok().flatten();
            let (_, bytes) = found.ok_or(error::INVALID_SYMBOL)?;
            let address = self.map_managed(bytes as usize, &name)?;
            self.gpu.move_symbol(&loaded.module, &name, address as u64).map_err(|_| error::INVALID_SYMBOL)?;
            // SAFETY: the program registered this pointer for the address to be put into.
            unsafe { std::ptr::with_exposed_provenance_mut::<usize>(host).write(address) };
        }
        Ok(())
    }
}

/// The mark of a wrapper around a container.
const WRAPPER: u32 = 0x4662_43b1;
