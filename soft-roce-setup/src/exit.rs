//! Exit statuses, as `--help` documents them.

/// The demo or a test did not hold.
pub const NOT_HELD: u8 = 1;
/// A wrong option.
pub const USAGE: u8 = 2;
/// The host lacks something.
pub const HOST: u8 = 3;
/// The guest's kernel reported a problem.
pub const KERNEL: u8 = 120;
/// The guest made no progress.
pub const TIMEOUT: u8 = 124;
/// Set-up failed.
pub const SETUP: u8 = 125;
/// Interrupted by a signal.
pub const INTERRUPTED: u8 = 130;
/// Nobody reads the output any more: what a shell shows of a program that SIGPIPE has ended.
pub const PIPE: u8 = 141;

/// An error with an exit status of its own; every other error ends with [`SETUP`].
///
/// It is found anywhere in a chain of causes, so context can be added to it freely.
#[derive(Debug)]
pub struct Coded {
    /// The exit status.
    pub code: u8,
    /// What to tell the user.
    pub message: String,
}

/// An error that ends the tool with `code`.
pub fn coded(code: u8, message: impl Into<String>) -> anyhow::Error {
    Coded {
        code,
        message: message.into(),
    }
    .into()
}

impl std::fmt::Display for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// The status that stands for an error.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Coded>())
        .map_or(SETUP, |coded| coded.code)
}
