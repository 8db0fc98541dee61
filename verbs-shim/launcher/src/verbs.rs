// SPDX-License-Identifier: MIT OR Apache-2.0

//! libibverbs, loaded when it is asked: this program must start where there is none.

use std::io;

use crate::hush::hushed;
use anyhow::{Context as _, Result, anyhow};
use verbs_abi::{
    layout::{self, OdpCaps},
    load::{Devices, Library, NotOpened},
};

/// What the device of this name can do on demand.
///
/// # Errors
///
/// libibverbs is missing, the device is unknown to it, or it can't be opened.
pub fn odp_caps(name: &str) -> Result<OdpCaps> {
    hushed(|| ask(name))
}

fn ask(name: &str) -> Result<OdpCaps> {
    let library = Library::load().context("libibverbs.so.1 is not installed")?;
    let devices =
        Devices::load(library).context("libibverbs.so.1 is too old: it lacks a function")?;
    let context = devices
        .open_by_name(name.as_bytes())
        .map_err(|why| match why {
            NotOpened::NoList(errno) => {
                anyhow!("libibverbs finds no devices: {}", system(errno))
            }
            NotOpened::Unknown => anyhow!("libibverbs has no driver for {name}"),
            NotOpened::Refused(errno) => anyhow!("it can't be opened: {}", system(errno)),
        })?;
    // SAFETY: the context is open.
    let caps = unsafe { layout::says(context) }.map(|says| says.odp);
    // SAFETY: opened above, and not used any more.
    unsafe { (devices.close)(context) };
    caps.context("it does not answer ibv_query_device_ex")
}

fn system(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
