// SPDX-License-Identifier: MIT OR Apache-2.0

//! Symbols of loaded objects, read from their tables.
//!
//! Not by `dlopen` and `dlsym`: these forget what the program's last `dlerror()` would say, find the symbol in whatever object the linker
//! asks first (under an audit in this library), and before glibc 2.34 they are in a library that a program may not have loaded.
//!
//! Source: the System V ABI's "Dynamic Linking", and `dl_iterate_phdr(3)`.

use core::{
    ffi::{CStr, c_int, c_void},
    mem, ptr, slice,
};

/// `Elf64_Dyn`
#[repr(C)]
struct Dynamic {
    tag: u64,
    value: u64,
}

/// `Elf64_Sym`
#[repr(C)]
pub struct Symbol {
    pub(crate) name: u32,
    pub(crate) info: u8,
    pub(crate) other: u8,
    pub(crate) section: u16,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
/// Type of a symbol that is a function.
const STT_FUNC: u8 = 2;
/// Flag of a version that only those get who name it.
const HIDDEN: u16 = 1 << 15;

/// The tables of one object.
struct Tables {
    base: usize,
    symbols: *const Symbol,
    strings: *const u8,
    versions: *const u16,
    gnu_hash: *const u32,
    hash: *const u32,
}

impl Tables {
    /// # Safety
    ///
    /// `dynamic` is null, or the dynamic section of an object that is loaded at `base` and stays so.
    unsafe fn of(base: usize, dynamic: *const Dynamic) -> Option<Self> {
        let mut tables = Self {
            base,
            symbols: ptr::null(),
            strings: ptr::null(),
            versions: ptr::null(),
            gnu_hash: ptr::null(),
            hash: ptr::null(),
        };
        let mut entry = dynamic;
        while !entry.is_null() {
            // SAFETY: by this function's contract; the section ends with an entry of tag 0.
            let Dynamic { tag, value } = unsafe { &*entry };
            // The linker adds the base in place; not so in the kernel's own object.
            let place = *value as usize;
            let place = if place < base { base + place } else { place };
            match *tag {
                0 => break,
                DT_HASH => tables.hash = place as *const u32,
                DT_STRTAB => tables.strings = place as *const u8,
                DT_SYMTAB => tables.symbols = place as *const Symbol,
                DT_VERSYM => tables.versions = place as *const u16,
                DT_GNU_HASH => tables.gnu_hash = place as *const u32,
                _ => {}
            }
            entry = entry.wrapping_add(1);
        }
        let whole = !tables.symbols.is_null() && !tables.strings.is_null();
        whole.then_some(tables)
    }

    /// The address of the function `name` in its default version.
    ///
    /// # Safety
    ///
    /// The tables are those of an object that is loaded.
    unsafe fn find(&self, name: &CStr) -> Option<usize> {
        if self.gnu_hash.is_null() {
            // SAFETY: by this function's contract.
            unsafe { self.find_by_hash(name) }
        } else {
            // SAFETY: by this function's contract.
            unsafe { self.find_by_gnu_hash(name) }
        }
    }

    /// # Safety
    ///
    /// As for [`Self::find`], and there is a `DT_GNU_HASH`.
    unsafe fn find_by_gnu_hash(&self, name: &CStr) -> Option<usize> {
        // SAFETY: by this function's contract: the table begins with four numbers.
        let [buckets, first, filter, _] = unsafe { *self.gnu_hash.cast::<[u32; 4]>() };
        if buckets == 0 {
            return None;
        }
        let wanted = gnu_hash(name.to_bytes());
        // The filter's words have 64 bits.
        let starts = self.gnu_hash.wrapping_add(4 + 2 * filter as usize);
        let chains = starts.wrapping_add(buckets as usize);
        // SAFETY: the table has so many buckets.
        let mut at = unsafe { *starts.wrapping_add((wanted % buckets) as usize) };
        if at < first {
            return None;
        }
        loop {
            // SAFETY: there is a hash for each symbol from `first` on, and the last one of a chain is odd.
            let hash = unsafe { *chains.wrapping_add((at - first) as usize) };
            if hash | 1 == wanted | 1 {
                // SAFETY: a symbol of the table.
                let found = unsafe { self.match_at(at, name) };
                if found.is_some() {
                    return found;
                }
            }
            if hash & 1 == 1 {
                return None;
            }
            at += 1;
        }
    }

    /// # Safety
    ///
    /// As for [`Self::find`].
    unsafe fn find_by_hash(&self, name: &CStr) -> Option<usize> {
        if self.hash.is_null() {
            return None;
        }
        // SAFETY: the table begins with two numbers, the second of which is that of the symbols.
        let [_, symbols] = unsafe { *self.hash.cast::<[u32; 2]>() };
        // Rare, and asked once: from the first to the last.
        // SAFETY: symbols of the table.
        (0..symbols).find_map(|at| unsafe { self.match_at(at, name) })
    }

    /// # Safety
    ///
    /// As for [`Self::find`], and the object has a symbol of this number.
    unsafe fn match_at(&self, at: u32, name: &CStr) -> Option<usize> {
        let at = at as usize;
        // SAFETY: by this function's contract.
        let symbol = unsafe { &*self.symbols.wrapping_add(at) };
        let own = self.strings.wrapping_add(symbol.name as usize);
        // SAFETY: names are in the table of strings, and end with a zero byte.
        let own = unsafe { CStr::from_ptr(own.cast()) };
        if symbol.section == 0 || symbol.info & 0xf != STT_FUNC || own != name {
            return None;
        }
        if !self.versions.is_null() {
            // SAFETY: there is a version for each symbol.
            let version = unsafe { *self.versions.wrapping_add(at) };
            if version & HIDDEN != 0 {
                return None;
            }
        }
        Some(self.base + symbol.value as usize)
    }
}

fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
    })
}

/// The function `name` of the object that is loaded at `base`.
///
/// # Safety
///
/// `dynamic` is its dynamic section, or null, and it is loaded.
pub(crate) unsafe fn find_in(base: usize, dynamic: *const c_void, name: &CStr) -> Option<usize> {
    // SAFETY: by this function's contract.
    let tables = unsafe { Tables::of(base, dynamic.cast()) }?;
    // SAFETY: by this function's contract.
    unsafe { tables.find(name) }
}

/// A loaded object, while the linker goes through all of them.
pub(crate) struct Object<'a> {
    info: &'a libc::dl_phdr_info,
    /// Its number: the program is 0, and those that came with it follow, which never go.
    pub(crate) at: usize,
    /// How often objects were unloaded up to now.
    pub(crate) unloaded: u64,
}

impl Object<'_> {
    fn headers(&self) -> &[libc::Elf64_Phdr] {
        // SAFETY: the linker's own, which are there as long as `info`.
        unsafe { slice::from_raw_parts(self.info.dlpi_phdr, self.info.dlpi_phnum.into()) }
    }

    /// Its path; empty for the program.
    fn path(&self) -> &[u8] {
        if self.info.dlpi_name.is_null() {
            return b"";
        }
        // SAFETY: the linker's names end with a zero byte.
        unsafe { CStr::from_ptr(self.info.dlpi_name) }.to_bytes()
    }

    /// Its file's name.
    pub(crate) fn name(&self) -> &[u8] {
        file_name(self.path())
    }

    /// Whether the address is in it.
    pub(crate) fn holds(&self, address: usize) -> bool {
        let mut loaded = self.headers().iter().filter(|h| h.p_type == libc::PT_LOAD);
        let distance = address.wrapping_sub(self.info.dlpi_addr as usize);
        loaded.any(|h| distance.wrapping_sub(h.p_vaddr as usize) < h.p_memsz as usize)
    }

    /// Its function of this name.
    pub(crate) fn find(&self, name: &CStr) -> Option<usize> {
        let base = self.info.dlpi_addr as usize;
        let dynamic = self
            .headers()
            .iter()
            .find(|h| h.p_type == libc::PT_DYNAMIC)?;
        let dynamic = base.wrapping_add(dynamic.p_vaddr as usize) as *const c_void;
        // SAFETY: the linker holds its lock, so that the object stays.
        unsafe { find_in(base, dynamic, name) }
    }
}

/// The last part of a path.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// Shows all objects of the program to `look`, in the order in which they were loaded, until it returns `false`.
pub(crate) fn each_object(mut look: impl FnMut(&Object<'_>) -> bool) {
    struct State<'a> {
        look: &'a mut dyn FnMut(&Object<'_>) -> bool,
        at: usize,
    }
    /// # Safety
    ///
    /// Called by `dl_iterate_phdr`: `info` is the linker's, and `state` is what was passed to it.
    unsafe extern "C" fn show(
        info: *mut libc::dl_phdr_info,
        size: usize,
        state: *mut c_void,
    ) -> c_int {
        // SAFETY: by this function's contract.
        let state = unsafe { &mut *state.cast::<State<'_>>() };
        // SAFETY: by this function's contract.
        let info = unsafe { &*info };
        let counted = size >= mem::offset_of!(libc::dl_phdr_info, dlpi_subs) + size_of::<u64>();
        let object = Object {
            info,
            at: state.at,
            unloaded: if counted { info.dlpi_subs } else { 0 },
        };
        state.at += 1;
        c_int::from(!(state.look)(&object))
    }
    let mut state = State {
        look: &mut look,
        at: 0,
    };
    // SAFETY: `show` gets a state that outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(show), (&raw mut state).cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_where_they_are() {
        let mut found = None;
        let mut own = false;
        each_object(|object| {
            own |= object.holds(functions_are_found_where_they_are as *const () as usize);
            if object.name().starts_with(b"libc.so") {
                found = object.find(c"getpid");
                assert_eq!(object.find(c"ibv_reg_mr"), None);
            }
            true
        });
        assert!(own);
        assert_eq!(found, Some(libc::getpid as *const () as usize));
    }

    #[test]
    fn hashes() {
        // Of the ABI's own examples.
        assert_eq!(gnu_hash(b""), 0x1505);
        assert_eq!(gnu_hash(b"printf"), 0x156b_2bb8);
    }
}
