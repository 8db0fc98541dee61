//! The user's terminal as the guest's: bytes go both ways untouched while a shell runs there.

use std::io::{Read, Write};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::termios::{self, OptionalActions, Termios};

use super::ending::End;
use super::session::Guest;

/// Puts the terminal back when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let before =
            termios::tcgetattr(std::io::stdin()).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)
            .context("cannot set the terminal's mode")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Runs a shell in the guest on the user's terminal, with `preload` in its environment.
pub fn attach(guest: &mut Guest, preload: Option<&str>) -> Result<End> {
    let mut to = guest.terminal.take().context("the guest has no terminal")?;
    let mut from = to.try_clone().context("cannot duplicate a socket")?;
    let size = termios::tcgetwinsize(std::io::stdin()).ok();
    let (rows, columns) = size
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let term = std::env::var("TERM")
        .ok()
        .filter(|term| {
            term.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
        })
        .filter(|term| !term.is_empty())
        .unwrap_or_else(|| "vt100".to_owned());
    let _raw = Raw::enter()?;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut out = std::io::stdout();
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if out
                .write_all(&buffer[..count])
                .and_then(|()| out.flush())
                .is_err()
            {
                break;
            }
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
    guest.run_shell(rows, columns, &term, preload)
}
