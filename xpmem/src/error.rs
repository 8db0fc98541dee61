// SPDX-License-Identifier: MIT OR Apache-2.0

//! Errors, a type for each call that fails.

use std::error::Error;
use std::{fmt, io};

macro_rules! call_errors {
    ($($(#[$doc:meta])* $name:ident: $what:literal {
        $($(#[$why:meta])* $case:ident = $($errno:pat_param)|+ => $text:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$why])* $case,)*
            /// Another one, as the system says it.
            System(io::Error),
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$case => f.write_str($text),)*
                    Self::System(error) => write!(f, concat!($what, ": {}"), error),
                }
            }
        }

        impl Error for $name {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                match self {
                    Self::System(error) => Some(error),
                    _ => None,
                }
            }
        }

        impl From<io::Error> for $name {
            fn from(error: io::Error) -> Self {
                match error.raw_os_error() {
                    $($(Some($errno))|+ => Self::$case,)*
                    _ => Self::System(error),
                }
            }
        }
    )*};
}

call_errors! {
    /// A segment was not made.
    MakeError: "xpmem_make" {
        /// `/dev/xpmem` is not there: the module is not loaded.
        NoDevice = libc::ENOENT | libc::ENXIO | libc::ENODEV => "/dev/xpmem is not there: load emm_xpmem",
        /// An empty or wrapping range, one beyond user space, or one with an attachment in it.
        Range = libc::EINVAL => "a segment has to be a range of this process's own memory, and not empty",
    }
    /// A permit was not given.
    GetError: "xpmem_get" {
        /// There is no such segment, or no `/dev/xpmem`.
        NoSegment = libc::ENOENT | libc::EINVAL | libc::ESRCH => "there is no such segment (any more), or no /dev/xpmem",
        /// The segment's mode does not allow it, or its owner is a process that this one may not look into.
        Denied = libc::EACCES | libc::EPERM => "the segment's mode or owner does not allow that",
    }
    /// Memory was not attached.
    AttachError: "xpmem_attach" {
        /// The range is empty, not all in the segment, or does not begin at a page.
        Range = libc::EINVAL => "a range to attach has to begin at a multiple of the page size, not be empty, and lie in the segment",
        /// The segment is gone.
        Gone = libc::ENOENT | libc::ESRCH => "the segment was removed, or its owner has ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_has_its_case_or_is_told() {
        let of = io::Error::from_raw_os_error;
        assert!(matches!(GetError::from(of(libc::EACCES)), GetError::Denied));
        assert!(matches!(
            MakeError::from(of(libc::ENOENT)),
            MakeError::NoDevice
        ));
        let other = AttachError::from(of(libc::ENOMEM));
        assert!(other.to_string().starts_with("xpmem_attach: "), "{other}");
        assert!(other.source().is_some());
    }
}
