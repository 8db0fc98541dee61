// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is said. Whoever reads it may have gone.

use std::{
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

/// A line on standard error. Nobody may be there to read it, and what was to be done goes on.
pub fn error(message: &str) {
    let _ = writeln!(io::stderr(), "verbs-shim: {message}");
}

/// Writes the text to standard output: what this program is to end with if the reader is gone. A shell says 141 of a program that
/// SIGPIPE ended, which Rust's runtime ignores.
///
/// # Errors
///
/// It can't be written for another reason.
pub fn text(text: &str) -> Result<Option<ExitCode>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Some(ExitCode::from(141))),
        result => result.map(|()| None).context("cannot write"),
    }
}
