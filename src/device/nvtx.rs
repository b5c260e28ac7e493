//! Named ranges on a profiler's timeline: ops, layers and phases under the domain `isg`.
//!
//! A profiler that wants ranges names a library in `NVTX_INJECTION64_PATH` before the program starts; this module speaks the
//! published NVTX 3 injection protocol with it and needs nothing at build time. With no profiler attached a range costs one
//! load and a branch, and its text is never formatted.

use std::{
    ffi::{CString, c_char, c_int, c_uint, c_void},
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

const DOMAIN: &str = "isg";
/// What the protocol calls its version 3.
const VERSION: u16 = 3;

// Numbers of the protocol: export tables, modules of functions, and functions in the module of domains.
const TABLE_CALLBACKS: u32 = 1;
const TABLE_VERSION: u32 = 3;
const MODULE_CORE: u32 = 1;
const MODULE_CORE2: u32 = 5;
const DOMAIN_RANGE_PUSH: usize = 4;
const DOMAIN_RANGE_POP: usize = 5;
const DOMAIN_CREATE: usize = 12;
/// Of either module.
const FUNCTIONS: usize = 16;

type Slots = [AtomicPtr<c_void>; FUNCTIONS];
/// The functions a profiler may fill in. Slot 0 is reserved.
static CORE2: Slots = [const { AtomicPtr::new(std::ptr::null_mut()) }; FUNCTIONS];
/// Functions without a domain: offered, since profilers expect them, and never called.
static CORE: Slots = [const { AtomicPtr::new(std::ptr::null_mut()) }; FUNCTIONS];

/// Addresses of the slots, in the form the protocol hands over: a null-terminated table of pointers to function pointers.
struct SlotTable([*const AtomicPtr<c_void>; FUNCTIONS + 1]);
// SAFETY: the pointers are to a static of atomics, alive and shared for the whole program.
unsafe impl Send for SlotTable {}
// SAFETY: as above; the table itself is never written.
unsafe impl Sync for SlotTable {}
const fn table(of: &'static Slots) -> SlotTable {
    let mut slots = [std::ptr::null(); FUNCTIONS + 1];
    let mut i = 1;
    while i < FUNCTIONS {
        slots[i] = &raw const of[i];
        i += 1;
    }
    SlotTable(slots)
}
static CORE2_TABLE: SlotTable = table(&CORE2);
static CORE_TABLE: SlotTable = table(&CORE);

#[repr(C)]
struct Callbacks {
    bytes: usize,
    module: extern "C" fn(u32, *mut *const *const AtomicPtr<c_void>, *mut c_uint) -> c_int,
}

#[repr(C)]
struct VersionInfo {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_version: extern "C" fn(u32),
}

/// `nvtxEventAttributes_t`.
#[repr(C)]
struct Attributes {
    version: u16,
    bytes: u16,
    category: u32,
    colour_type: i32,
    colour: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_char,
}
const PAYLOAD_U64: i32 = 1;
const MESSAGE_ASCII: i32 = 1;

type Push = unsafe extern "C" fn(*mut c_void, *const Attributes) -> c_int;
type Pop = unsafe extern "C" fn(*mut c_void) -> c_int;
type Create = unsafe extern "C" fn(*const c_char) -> *mut c_void;

extern "C" fn module_functions(
    module: u32,
    table: *mut *const *const AtomicPtr<c_void>,
    functions: *mut c_uint,
) -> c_int {
    let slots = match module {
        MODULE_CORE2 => &CORE2_TABLE,
        MODULE_CORE => &CORE_TABLE,
        _ => return 0,
    };
    // SAFETY: the profiler passes places for both results, or null for one it does not want.
    unsafe {
        if !table.is_null() {
            *table = slots.0.as_ptr();
        }
        if !functions.is_null() {
            *functions = FUNCTIONS as c_uint;
        }
    }
    1
}

extern "C" fn set_version(_: u32) {}

extern "C" fn export_table(number: u32) -> *const c_void {
    static CALLBACKS: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), module: module_functions };
    static VERSIONS: VersionInfo =
        VersionInfo { bytes: size_of::<VersionInfo>(), version: VERSION as u32, reserved: 0, set_version };
    match number {
        TABLE_CALLBACKS => (&raw const CALLBACKS).cast(),
        TABLE_VERSION => (&raw const VERSIONS).cast(),
        _ => std::ptr::null(),
    }
}

/// A profiler that listens.
struct Profiler {
    domain: *mut c_void,
    push: Push,
    pop: Pop,
}
// SAFETY: NVTX functions and domain handles may be used from any thread, by the protocol.
unsafe impl Send for Profiler {}
// SAFETY: as above.
unsafe impl Sync for Profiler {}

impl Profiler {
    fn attach() -> Option<Profiler> {
        let path = std::env::var_os("NVTX_INJECTION64_PATH").filter(|path| !path.is_empty())?;
        type Initialise = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;
        // SAFETY: the user's profiler named this library to be loaded into programs it profiles.
        let library = unsafe { libloading::Library::new(path) }.ok()?;
        // SAFETY: the protocol fixes the name and type of this function.
        let initialised = unsafe {
            let initialise = library.get::<Initialise>(b"InitializeInjectionNvtx2\0").ok()?;
            initialise(export_table)
        };
        // It may hold pointers into itself from here on: never unloaded.
        std::mem::forget(library);
        if initialised != 1 {
            return None;
        }
        let slot = |i: usize| CORE2[i].load(Ordering::Acquire);
        let (push, pop, create) = (slot(DOMAIN_RANGE_PUSH), slot(DOMAIN_RANGE_POP), slot(DOMAIN_CREATE));
        if push.is_null() || pop.is_null() {
            return None;
        }
        let name = CString::new(DOMAIN).ok()?;
        // SAFETY: the profiler put functions of these types into these slots, by the protocol; without one that makes
        // domains, null names the default domain.
        unsafe {
            let domain = if create.is_null() {
                std::ptr::null_mut()
            } else {
                std::mem::transmute::<*mut c_void, Create>(create)(name.as_ptr())
            };
            let push = std::mem::transmute::<*mut c_void, Push>(push);
            let pop = std::mem::transmute::<*mut c_void, Pop>(pop);
            Some(Profiler { domain, push, pop })
        }
    }
}

fn profiler() -> Option<&'static Profiler> {
    static PROFILER: OnceLock<Option<Profiler>> = OnceLock::new();
    PROFILER.get_or_init(Profiler::attach).as_ref()
}

/// Whether a profiler listens.
pub fn is_attached() -> bool {
    profiler().is_some()
}

/// A range that ends when this is dropped. Ranges of a thread nest.
#[must_use = "the range ends where this is dropped"]
pub struct Range {
    profiler: Option<&'static Profiler>,
    /// Ranges end on the thread that began them.
    thread: PhantomData<*const ()>,
}

/// Begins a range called `name`.
pub fn range(name: &str) -> Range {
    range_with(|| (name.to_string(), 0))
}

/// Begins a range whose text and payload (elements, by custom here) are made only when a profiler listens.
pub fn range_with(text: impl FnOnce() -> (String, u64)) -> Range {
    let profiler = profiler();
    if let Some(profiler) = profiler {
        let (text, payload) = text();
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        let attributes = Attributes {
            version: VERSION,
            bytes: size_of::<Attributes>() as u16,
            category: 0,
            colour_type: 0,
            colour: 0,
            payload_type: PAYLOAD_U64,
            reserved: 0,
            payload,
            message_type: MESSAGE_ASCII,
            message: text.as_ptr(),
        };
        // SAFETY: the attributes and their text live through the call; the profiler copies what it keeps.
        unsafe { (profiler.push)(profiler.domain, &attributes) };
    }
    Range { profiler, thread: PhantomData }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(profiler) = self.profiler {
            // SAFETY: ends the innermost range this thread began in this domain: guards are dropped in reverse order.
            unsafe { (profiler.pop)(profiler.domain) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_protocols() {
        assert_eq!(size_of::<Attributes>(), 48);
        assert_eq!(std::mem::offset_of!(Attributes, payload), 24);
        assert_eq!(std::mem::offset_of!(Attributes, message), 40);
    }

    #[test]
    fn a_profiler_gets_the_slots_it_asks_for() {
        let callbacks = export_table(TABLE_CALLBACKS).cast::<Callbacks>();
        let (mut table, mut functions) = (std::ptr::null(), 0);
        // SAFETY: the table is the static that `export_table` names.
        assert_eq!(unsafe { ((*callbacks).module)(MODULE_CORE2, &mut table, &mut functions) }, 1);
        assert_eq!(functions, 16);
        // SAFETY: the table has `functions` entries and one null.
        let slots = unsafe { std::slice::from_raw_parts(table, 17) };
        assert!(slots[0].is_null() && slots[16].is_null() && slots[1..16].iter().all(|slot| !slot.is_null()));
        assert_eq!(slots[DOMAIN_RANGE_PUSH], &raw const CORE2[DOMAIN_RANGE_PUSH]);
        // SAFETY: as above; modules nothing here uses are rejected.
        assert_eq!(unsafe { ((*callbacks).module)(2, &mut table, &mut functions) }, 0);
        assert!(export_table(2).is_null());
    }

    #[test]
    fn without_a_profiler_no_text_is_made() {
        if std::env::var_os("NVTX_INJECTION64_PATH").is_none() {
            let _range = range_with(|| panic!("nobody listens"));
            assert!(!is_attached());
        }
    }
}
