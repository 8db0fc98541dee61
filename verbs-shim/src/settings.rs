// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can be asked for, and how it is written.

/// `VERBS_SHIM`: what to do with registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// On demand where that works, else pinned, with one warning that names the cause. Default.
    Auto,
    /// On demand, and the device's error where that does not work.
    Force,
    /// As the program asks.
    Off,
}

/// `VERBS_SHIM_PREFETCH`: when the pages of a new region are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefetch {
    /// When traffic meets them. Default.
    None,
    /// Soon after the registration.
    Async,
    /// Before the registration returns.
    Sync,
}

/// `VERBS_SHIM_LOG`: how much is said; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    Off,
    /// What the user should know: memory that stays pinned, values that are wrong. Default.
    Warn,
    /// What was found out about a device.
    Info,
    /// Every registration.
    Debug,
}

/// Longest `VERBS_SHIM_LOG_FILE`, in bytes, with the working directory before a relative one; eleven are for the process
/// number and the zero byte.
pub(crate) const PATH_MAX: usize = 1024;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `VERBS_SHIM`
    pub(crate) mode: Mode,
    /// `VERBS_SHIM_MIN_BYTES`: shorter regions are left alone.
    pub(crate) min_bytes: usize,
    /// `VERBS_SHIM_PREFETCH`
    pub(crate) prefetch: Prefetch,
    /// `VERBS_SHIM_IMPLICIT`: one region of each domain serves all that can be on demand.
    pub(crate) implicit: bool,
    /// `VERBS_SHIM_LOG`
    pub(crate) log: Level,
    /// `VERBS_SHIM_LOG_FILE`, filled with zeros; standard error if it is empty.
    pub(crate) log_file: [u8; PATH_MAX],
    /// `VERBS_SHIM_STATS`
    pub(crate) stats: bool,
}

impl Settings {
    /// What holds where nothing is set.
    pub(crate) const fn new() -> Self {
        Self {
            mode: Mode::Auto,
            min_bytes: 0,
            prefetch: Prefetch::None,
            implicit: false,
            log: Level::Warn,
            log_file: [0; PATH_MAX],
            stats: false,
        }
    }
}

/// Reads `VERBS_SHIM`.
pub(crate) fn parse_mode(value: &[u8]) -> Option<Mode> {
    match value {
        b"auto" => Some(Mode::Auto),
        b"force" => Some(Mode::Force),
        b"off" => Some(Mode::Off),
        _ => None,
    }
}

/// Reads `VERBS_SHIM_PREFETCH`.
pub(crate) fn parse_prefetch(value: &[u8]) -> Option<Prefetch> {
    match value {
        b"none" => Some(Prefetch::None),
        b"async" => Some(Prefetch::Async),
        b"sync" => Some(Prefetch::Sync),
        _ => None,
    }
}

/// Reads `0` or `1`.
pub(crate) fn parse_switch(value: &[u8]) -> Option<bool> {
    match value {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// Reads `VERBS_SHIM_LOG`.
pub(crate) fn parse_level(value: &[u8]) -> Option<Level> {
    match value {
        b"off" => Some(Level::Off),
        b"warn" => Some(Level::Warn),
        b"info" => Some(Level::Info),
        b"debug" => Some(Level::Debug),
        _ => None,
    }
}

/// Copies a path, behind the directory that the program started in if it is a relative one: the program may go elsewhere. The
/// environment may change later too.
pub(crate) fn parse_path(value: &[u8], directory: Option<&[u8]>) -> Option<[u8; PATH_MAX]> {
    let parts: [&[u8]; 3] = match value {
        [b'/', ..] => [b"", b"", value],
        _ => [directory?, b"/", value],
    };
    let mut path = [0; PATH_MAX];
    let mut length = 0;
    for part in parts {
        path[..PATH_MAX - 11]
            .get_mut(length..length + part.len())?
            .copy_from_slice(part);
        length += part.len();
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(parse_mode(b"auto"), Some(Mode::Auto));
        assert_eq!(parse_mode(b"force"), Some(Mode::Force));
        assert_eq!(parse_mode(b"off"), Some(Mode::Off));
        assert_eq!(parse_mode(b"on"), None);
    }

    #[test]
    fn paths() {
        let path = parse_path(b"/tmp/shim.%d", None).expect("it is short");
        assert!(path.starts_with(b"/tmp/shim.%d\0"));
        let path = parse_path(b"shim.log", Some(b"/home/me")).expect("it is short");
        assert!(path.starts_with(b"/home/me/shim.log\0"));
        assert_eq!(parse_path(b"shim.log", None), None);
        assert_eq!(parse_path(&[b'/'; PATH_MAX], None), None);
        assert!(parse_path(&[b'/'; PATH_MAX - 11], None).is_some());
    }

    #[test]
    fn switches_and_levels() {
        assert_eq!(parse_switch(b"1"), Some(true));
        assert_eq!(parse_switch(b"0"), Some(false));
        assert_eq!(parse_switch(b"yes"), None);
        assert_eq!(parse_prefetch(b"sync"), Some(Prefetch::Sync));
        assert_eq!(parse_prefetch(b"1"), None);
        assert_eq!(parse_level(b"debug"), Some(Level::Debug));
        assert_eq!(parse_level(b"loud"), None);
    }
}
