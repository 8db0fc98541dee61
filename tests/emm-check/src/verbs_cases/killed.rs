//! A process that is killed while the kernel works through its advice.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::ffi;
use crate::private::Advise;
use crate::system::Kind;
use crate::target::Env;
use crate::verbs::Mr;

/// As much as one element can name, in whole pages.
const SIZE: usize = (u32::MAX - 4095) as usize;
/// Looking at all of them takes minutes.
const ELEMENTS: usize = 64;
/// The driver's function that waits for the advice, as a stack names it.
const INSIDE: &str = "rxe_emm_advise";
/// Longest time from its death to its end.
const SOON: Duration = Duration::from_secs(10);

/// Kills a process in `ibv_advise_mr` on gigabytes that are not there.
pub(super) fn in_advice(c: &Ctx<'_>) -> Result<String> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(&c.env.child_args)
        .args(["advise-child", "--mr", "ondemand"])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process that advises")?;
    let outcome = killed(&mut child);
    // Not waited for: it may not come to its end, which is what failed then.
    child.kill().context("killing it")?;
    outcome
}

fn killed(child: &mut Child) -> Result<String> {
    let out = child.stdout.take().context("its output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line.trim() != "advising" {
        bail!("it said {line:?}");
    }
    while !stack(child.id())?.contains(INSIDE) {
        if let Some(status) = child.try_wait()? {
            bail!("the advice was over at once, with {status}");
        }
        std::thread::yield_now();
    }
    let start = Instant::now();
    child.kill()?;
    while child.try_wait()?.is_none() {
        if start.elapsed() > SOON {
            bail!("it is still there {} s after it was killed", SOON.as_secs());
        }
        std::thread::yield_now();
    }
    Ok(format!("gone after {} ms", start.elapsed().as_millis()))
}

/// Where a process is in the kernel.
fn stack(pid: u32) -> Result<String> {
    let path = format!("/proc/{pid}/stack");
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

/// The process.
pub fn child(env: &Env, kind: Kind) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at a place of the kernel's choice; nobody accesses it.
    let start = unsafe { libc::mmap(ptr::null_mut(), SIZE, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("reserving addresses");
    }
    let access = ffi::IBV_ACCESS_REMOTE_READ | kind.flags();
    let mr = Mr::new(&env.pd, start as usize, SIZE, access).context("registering them")?;
    let all = ffi::ibv_sge {
        addr: start as u64,
        length: SIZE as u32,
        lkey: mr.lkey(),
    };
    let (which, flush) = (
        ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT,
        ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH,
    );
    println!("advising");
    Advise::find()?
        .give(&env.pd, which, flush, &[all; ELEMENTS])
        .context("advising")
}
