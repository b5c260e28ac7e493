//! Programs that carry NVIDIA's runtime inside, as nvcc links them unless told `-cudart shared`: their own symbol table
//! says where its functions begin, and a jump to ours is put there before the program starts. What the runtime inside
//! would have done is never begun. A program without a symbol table (`strip`) cannot be helped so.

use std::{
    ffi::{CStr, CString, c_void},
    fs,
};

use crate::driver::context::lookup;

/// The loader calls this when the library is loaded, before the program's own start.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = redirect;

extern "C" fn redirect() {
    let Ok(program) = fs::read("/proc/self/exe") else { return };
    let Some(base) = base(&program) else { return };
    for (name, address, bytes) in functions(&program).unwrap_or_default() {
        let ours = CString::new(name).ok().and_then(|name| lookup(&name));
        if let Some(ours) = ours.filter(|_| bytes as usize >= JUMP_BYTES) {
            jump(base + address, ours.addr());
        }
    }
}

fn number<const BYTES: usize>(file: &[u8], at: usize) -> Option<u64> {
    let mut all = [0; 8];
    all[..BYTES].copy_from_slice(file.get(at..at.checked_add(BYTES)?)?);
    Some(u64::from_le_bytes(all))
}

/// What is added to the addresses of the file.
fn base(program: &[u8]) -> Option<usize> {
    // SAFETY: asks the system what it told this process.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    let (at, size, count) = (number::<8>(program, 32)?, number::<2>(program, 54)?, number::<2>(program, 56)?);
    // The headers say themselves where they wanted to be; else they are at their place in the file.
    let own = (0..count).map(|n| (at + n * size) as usize).find(|header| number::<4>(program, *header) == Some(6));
    let wanted = own.and_then(|header| number::<8>(program, header + 16)).unwrap_or(at);
    headers.checked_sub(wanted as usize)
}

/// The runtime's functions in the program's symbol table: names, addresses, sizes.
fn functions(program: &[u8]) -> Option<Vec<(&[u8], usize, u64)>> {
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (at, size, count) = (number::<8>(program, 40)?, number::<2>(program, 58)?, number::<2>(program, 60)?);
    let header = |n: u64| (at + n * size) as usize;
    const SYMBOLS: u64 = 2;
    let table = (0..count).map(header).find(|header| number::<4>(program, header + 4) == Some(SYMBOLS))?;
    let names = header(number::<4>(program, table + 40)?);
    let (symbols, bytes) = (number::<8>(program, table + 24)? as usize, number::<8>(program, table + 32)? as usize);
    let names = program.get(number::<8>(program, names + 24)? as usize..)?;
    let mut all = Vec::new();
    for symbol in program.get(symbols..symbols.checked_add(bytes)?)?.chunks_exact(24) {
        let name = names.get(number::<4>(symbol, 0)? as usize..)?;
        let name = CStr::from_bytes_until_nul(name).ok()?.to_bytes();
        let (function, defined) = (symbol[4] & 15 == 2, number::<2>(symbol, 6)? != 0);
        if function && defined && (name.starts_with(b"cuda") || name.starts_with(b"__cuda")) {
            all.push((name, number::<8>(symbol, 8)? as usize, number::<8>(symbol, 16)?));
        }
    }
    Some(all)
}

const JUMP_BYTES: usize = 14;

/// The function at `from` becomes a jump to `to`.
fn jump(from: usize, to: usize) {
    let mut code = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    code[6..].copy_from_slice(&to.to_le_bytes());
    let page = from & !4095;
    let start: *mut c_void = std::ptr::with_exposed_provenance_mut(page);
    let length = from + JUMP_BYTES - page;
    let (writable, usual) = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::PROT_READ | libc::PROT_EXEC);
    // SAFETY: pages of the program's code; nothing of the program runs yet.
    if unsafe { libc::mprotect(start, length, writable) } != 0 {
        return;
    }
    // SAFETY: as many bytes as the function has at least, made writable.
    unsafe {
        std::ptr::copy_nonoverlapping(code.as_ptr(), std::ptr::with_exposed_provenance_mut(from), JUMP_BYTES);
    }
    // SAFETY: as above.
    unsafe { libc::mprotect(start, length, usual) };
}
