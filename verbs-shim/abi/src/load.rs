// SPDX-License-Identifier: MIT OR Apache-2.0

//! libibverbs, looked up at run time: a program starts where there is none, and can say so.

use core::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
};

use crate::layout::Context;

/// libibverbs, which stays in the process once it is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Library(*mut c_void);

// SAFETY: a handle is a name, which any thread may ask for functions.
unsafe impl Send for Library {}
// SAFETY: the same.
unsafe impl Sync for Library {}

impl Library {
    /// Loads it; `None` if it is not installed.
    #[must_use]
    pub fn load() -> Option<Self> {
        let flags = libc::RTLD_NOW | libc::RTLD_NODELETE;
        // SAFETY: the name ends with a zero byte; libibverbs is made to be loaded.
        let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), flags) };
        (!library.is_null()).then_some(Self(library))
    }

    /// The function of this name; `None` if this release lacks it.
    #[must_use]
    pub fn find(self, name: &CStr) -> Option<ptr::NonNull<c_void>> {
        // SAFETY: a valid handle, and a name that ends with a zero byte.
        ptr::NonNull::new(unsafe { libc::dlsym(self.0, name.as_ptr()) })
    }
}

/// Declares a structure of functions with `load(Library) -> Option<Self>`, which is `None` if one is missing. The types are
/// the caller's word: they have to be those of `verbs.h`.
#[macro_export]
macro_rules! functions {
    ($(#[$doc:meta])* $vis:vis struct $table:ident {
        $($(#[$what:meta])* $field:ident: $name:ident($($arg:ty),* $(,)?) -> $out:ty;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $table {
            // SAFETY: to be called with live objects, as their manual pages say.
            $($(#[$what])* pub $field: unsafe extern "C" fn($($arg),*) -> $out,)*
        }

        impl $table {
            /// Looks all of them up; `None` if the library lacks one.
            $vis fn load(library: $crate::load::Library) -> Option<Self> {
                Some(Self {
                    $($field: {
                        const NAME: &core::ffi::CStr = match core::ffi::CStr::from_bytes_with_nul(
                            concat!(stringify!($name), "\0").as_bytes(),
                        ) {
                            Ok(name) => name,
                            Err(_) => panic!("a name has no zero byte"),
                        };
                        let address = library.find(NAME)?;
                        // SAFETY: the function of this name has this type.
                        unsafe {
                            core::mem::transmute::<
                                core::ptr::NonNull<core::ffi::c_void>,
                                unsafe extern "C" fn($($arg),*) -> $out,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    /// What is needed to open a device.
    pub struct Devices {
        /// `ibv_get_device_list`
        get_list: ibv_get_device_list(*mut c_int) -> *mut *mut c_void;
        /// `ibv_free_device_list`
        free_list: ibv_free_device_list(*mut *mut c_void) -> ();
        /// `ibv_get_device_name`
        name: ibv_get_device_name(*mut c_void) -> *const c_char;
        /// `ibv_open_device`
        open: ibv_open_device(*mut c_void) -> *mut Context;
        /// `ibv_close_device`
        close: ibv_close_device(*mut Context) -> c_int;
    }
}

/// Why a device was not opened. Numbers are `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// libibverbs could not list devices.
    NoList(c_int),
    /// It knows no device of this name.
    Unknown,
    /// The device can't be opened.
    Refused(c_int),
}

impl Devices {
    /// Opens the device of this name, as in `/sys/class/infiniband`. It is the caller's to close.
    ///
    /// # Errors
    ///
    /// There is no such device, or it can't be opened.
    pub fn open_by_name(&self, name: &[u8]) -> Result<*mut Context, NotOpened> {
        // SAFETY: takes a place for the number, or none.
        let list = unsafe { (self.get_list)(ptr::null_mut()) };
        if list.is_null() {
            return Err(NotOpened::NoList(errno()));
        }
        let opened = self.find(list, name).and_then(|device| {
            // SAFETY: a device of a list that was not given back.
            let context = unsafe { (self.open)(device) };
            if context.is_null() {
                return Err(NotOpened::Refused(errno()));
            }
            Ok(context)
        });
        // SAFETY: the list made above; an open device does not need it.
        unsafe { (self.free_list)(list) };
        opened
    }

    /// The device of this name in a list that ends with null.
    fn find(&self, list: *mut *mut c_void, wanted: &[u8]) -> Result<*mut c_void, NotOpened> {
        (0..)
            .map(|at| {
                let place = list.wrapping_add(at);
                // SAFETY: the list is read up to its end, not beyond.
                unsafe { *place }
            })
            .take_while(|device| !device.is_null())
            .find(|device| {
                // SAFETY: a device of the list.
                let name = unsafe { (self.name)(*device) };
                // SAFETY: the name is part of the device.
                unsafe { CStr::from_ptr(name) }.to_bytes() == wanted
            })
            .ok_or(NotOpened::Unknown)
    }
}

/// This thread's `errno`.
fn errno() -> c_int {
    // SAFETY: every thread has an errno, and this asks for its address only.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address of this thread's errno, which no other thread touches.
    unsafe { *errno }
}
