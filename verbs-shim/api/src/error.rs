// SPDX-License-Identifier: MIT OR Apache-2.0

//! Errors, a type for each verb that fails.

use std::{error::Error, fmt, io};

macro_rules! verb_errors {
    ($($(#[$doc:meta])* $name:ident: $verb:literal { $($(#[$why:meta])* $case:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$why])* $case,)*
            /// What the system says.
            System(io::Error),
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$case => f.write_str($text),)*
                    Self::System(error) => write!(f, concat!($verb, ": {}"), error),
                }
            }
        }

        impl Error for $name {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                match self {
                    Self::System(error) => Some(error),
                    #[allow(unreachable_patterns, reason = "some verbs fail in one way only")]
                    _ => None,
                }
            }
        }

        impl From<io::Error> for $name {
            fn from(error: io::Error) -> Self {
                Self::System(error)
            }
        }
    )*};
}

verb_errors! {
    /// A device could not be opened.
    OpenError: "ibv_open_device" {
        /// libibverbs.so.1 is not installed, or too old.
        NoLibrary = "libibverbs.so.1 is not installed, or too old",
        /// libibverbs knows no device of this name.
        NoDevice = "libibverbs knows no device of this name",
    }
    /// A protection domain could not be made.
    AllocError: "ibv_alloc_pd" {}
    /// Memory could not be registered.
    RegisterError: "ibv_reg_mr" {
        /// There is nothing to register.
        Empty = "an empty range can't be registered",
        /// On-demand paging by this device's driver is known to write to other memory than the region's.
        Corrupting = "the on-demand paging of in-tree rxe corrupts data; load ib_emm and set \
                      /sys/module/rdma_rxe/parameters/mr_backend to emm",
    }
    /// A region could not be ended: a memory window may be bound to it.
    DeregisterError: "ibv_dereg_mr" {}
    /// Pages could not be prefetched.
    AdviseError: "ibv_advise_mr" {
        /// The device or its driver takes no advice.
        Unsupported = "the device or its driver takes no advice",
    }
    /// A completion channel could not be made.
    ChannelError: "ibv_create_comp_channel" {}
    /// A queue pair could not be made.
    QueueError: "ibv_create_qp" {}
    /// A queue pair could not be connected.
    ConnectError: "ibv_modify_qp" {}
    /// A request could not be posted.
    PostError: "ibv_post_send" {}
}

/// A verb that failed, and what it was given: memory that was not registered, or a region that goes on.
///
/// With `?` it becomes its error, and what was given is dropped.
pub struct Refused<T, E> {
    /// Why.
    pub error: E,
    /// What was given.
    pub given: T,
}

impl<T, E: fmt::Debug> fmt::Debug for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T, E: fmt::Display> fmt::Display for Refused<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T, E: Error> Error for Refused<T, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl<T> From<Refused<T, Self>> for RegisterError {
    fn from(refused: Refused<T, Self>) -> Self {
        refused.error
    }
}

impl<T> From<Refused<T, Self>> for DeregisterError {
    fn from(refused: Refused<T, Self>) -> Self {
        refused.error
    }
}

/// The error of a verb that returns null or -1.
pub(crate) fn last() -> io::Error {
    io::Error::last_os_error()
}

/// The error of a verb that returns an error number.
pub(crate) fn status(status: i32) -> Result<(), io::Error> {
    match status {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
