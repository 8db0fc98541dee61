// SPDX-License-Identifier: GPL-2.0

//! Accesses without a cookie of their driver's: their thread waits, in one of its own.
//!
//! C header: `glue.h`.

use crate::{glue, parked::Cookie};
use core::ptr::NonNull;
use kernel::{prelude::*, types::Opaque};

/// The current thread's cookie, on its stack, and its wait.
///
/// # Invariants
///
/// `inner` is initialised, and it is what `cookie` tells to go on.
#[pin_data]
pub(crate) struct Sleeper {
    // Goes first: nobody is told any more then.
    #[pin]
    cookie: Cookie,
    #[pin]
    inner: Opaque<glue::emm_sleeper>,
}

impl Sleeper {
    /// Nothing is parked in its cookie.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: `inner` is initialised first, and the cookie is that of its `fault`.
        pin_init!(&this in Self {
            // SAFETY: `slot` is valid for writing, and pinned.
            inner <- Opaque::ffi_init(|slot| unsafe { glue::emm_sleeper_init(slot) }),
            cookie <- {
                // SAFETY: `this` is valid, and so are its fields.
                let inner = Opaque::cast_into(unsafe { &raw const (*this.as_ptr()).inner });
                // SAFETY: as above, and `inner` is initialised. A field's address is not null.
                let fault = unsafe { NonNull::new_unchecked(&raw mut (*inner).fault) };
                // SAFETY: it lies beside the cookie, which goes before it, and its function completes
                // what lies beside it, in any context.
                unsafe { Cookie::of(fault) }
            },
        })
    }

    /// What an access of the current thread is parked in.
    pub(crate) fn cookie(&self) -> &Cookie {
        &self.cookie
    }

    /// Sleeps until the access that was parked is to be tried again.
    ///
    /// # Errors
    ///
    /// `EINTR` if the thread was killed before.
    pub(crate) fn wait(&self) -> Result {
        // SAFETY: initialised, by the type's invariant.
        if unsafe { glue::emm_sleeper_wait(self.inner.get()) } {
            Ok(())
        } else {
            Err(EINTR)
        }
    }
}
