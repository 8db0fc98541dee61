//! Trace events, as perf counts them and as tracefs prints them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::FromRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::{Context as _, Result, bail};

use crate::cpu;
use crate::system::run;

const TRACING: &str = "/sys/kernel/tracing";
const GROUP: &str = "ib_emm";
/// For each CPU: some 200,000 faults.
const BUFFER_KIB: &str = "8192";
// include/uapi/linux/perf_event.h
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;

/// The first version of `struct perf_event_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    _period: u64,
    _sample_type: u64,
    _read_format: u64,
    _flags: u64,
    _wakeup: u32,
    _breakpoint: u32,
    _config1: u64,
}

fn tracefs() -> Result<()> {
    if !Path::new(TRACING).join("events").exists() {
        run("mount", &["-t", "tracefs", "none", TRACING])?;
    }
    Ok(())
}

/// Counts an event on all CPUs, as `perf stat -a` does.
pub struct Counter(Vec<File>);

impl Counter {
    /// Of the event `name` of ib_emm, from now on.
    pub fn new(name: &str) -> Result<Self> {
        tracefs()?;
        let path = format!("{TRACING}/events/{GROUP}/{name}/id");
        let id = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let attributes = Attributes {
            kind: PERF_TYPE_TRACEPOINT,
            size: size_of::<Attributes>() as u32,
            config: id
                .trim()
                .parse()
                .with_context(|| format!("{path}: {id:?}"))?,
            ..Attributes::default()
        };
        let open = |cpu: usize| {
            let every = -1;
            // SAFETY: the attributes are of the size that they say, and outlive the call.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_perf_event_open,
                    &raw const attributes,
                    every,
                    cpu as libc::c_long,
                    -1,
                    PERF_FLAG_FD_CLOEXEC,
                )
            };
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("perf_event_open");
            }
            // SAFETY: the descriptor is new and ours.
            Ok(unsafe { File::from_raw_fd(fd as i32) })
        };
        (0..cpu::online())
            .map(open)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// How often it happened so far.
    pub fn count(&self) -> Result<u64> {
        let mut sum = 0;
        for mut file in &self.0 {
            let mut one = [0; 8];
            file.read_exact(&mut one).context("reading a counter")?;
            sum += u64::from_ne_bytes(one);
        }
        Ok(sum)
    }
}

/// A trace buffer of our own.
pub struct Log(PathBuf);

impl Log {
    /// All events of ib_emm from now on.
    pub fn new() -> Result<Self> {
        Self::of_group(GROUP)
    }

    /// The event `name` of ib_emm alone, so that a flood of others takes it no place.
    pub fn of_event(name: &str) -> Result<Self> {
        Self::of_group(&format!("{GROUP}/{name}"))
    }

    /// All events of a group of the kernel's from now on, or one of them: `group/event`.
    pub fn of_group(group: &str) -> Result<Self> {
        tracefs()?;
        // Another one may be there: of a case, while what hangs in it is looked at.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = Path::new(TRACING).join(format!("instances/emm-check-{pid}-{count}"));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let log = Self(path);
        let size = log.0.join("buffer_size_kb");
        fs::write(&size, BUFFER_KIB).with_context(|| format!("writing to {}", size.display()))?;
        let switch = log.0.join(format!("events/{group}/enable"));
        fs::write(&switch, "1").with_context(|| format!("writing to {}", switch.display()))?;
        Ok(log)
    }

    /// The newest events, each with its thread, CPU and time: all so far, or as many as the buffer holds.
    pub fn lines(&self) -> Result<Vec<String>> {
        Ok(events(&self.text()?).map(str::to_owned).collect())
    }

    /// The fields of each event `name` so far: `start=0x1000 length=4096`.
    pub fn of(&self, name: &str) -> Result<Vec<String>> {
        let text = self.text()?;
        if overrun(&text) {
            bail!("the trace buffer was too small: its oldest events are gone");
        }
        let mark = format!(" {name}: ");
        let fields = |line: &str| Some(line.split_once(&mark)?.1.to_owned());
        Ok(events(&text).filter_map(fields).collect())
    }

    fn text(&self) -> Result<String> {
        fs::read_to_string(self.0.join("trace")).context("reading the trace")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // A buffer that stays costs memory, and nothing else.
        fs::remove_dir(&self.0).ok();
    }
}

fn events(trace: &str) -> impl Iterator<Item = &str> {
    trace.lines().filter(|line| !line.starts_with('#'))
}

/// Whether a trace says that fewer entries are in the buffer than were written to it.
fn overrun(trace: &str) -> bool {
    let counts = trace.lines().find_map(|line| {
        let (_, rest) = line.split_once("entries-in-buffer/entries-written: ")?;
        rest.split_whitespace().next()?.split_once('/')
    });
    counts.is_some_and(|(kept, written)| kept != written)
}

/// The number in the field `name` of an event; hexadecimal ones begin with 0x.
pub fn field(fields: &str, name: &str) -> Option<u64> {
    let value = fields
        .split([' ', ','])
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_an_event() {
        let fields = "address=0x7f00 pages=12, write=0 error=-14";
        assert_eq!(field(fields, "address"), Some(0x7f00));
        assert_eq!(field(fields, "pages"), Some(12));
        assert_eq!(field(fields, "error"), None);
        assert_eq!(field(fields, "page"), None);
    }

    #[test]
    fn a_buffer_that_was_too_small() {
        let head = |counts: &str| {
            format!(
                "# tracer: nop\n#\n# entries-in-buffer/entries-written: {counts}   #P:2\n#\n x\n"
            )
        };
        assert!(overrun(&head("12/40")));
        assert!(!overrun(&head("40/40")) && !overrun(""));
    }
}
