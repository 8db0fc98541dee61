//! A file server (FUSE) that opens its one file and never answers a read of it.
//!
//! Facts from `include/uapi/linux/fuse.h`.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::mem::Map;

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
/// What has no answer.
const FORGET: u32 = 2;
const BATCH_FORGET: u32 = 42;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;

/// `FOPEN_KEEP_CACHE`
const KEEP_CACHE: u8 = 1 << 1;
const IN_HEADER: usize = 40;
const ENOSYS: i32 = 38;
/// The file's node, and how long it is.
const NODE: u64 = 2;
const LEN: u64 = 1 << 20;

/// The server, until it is dropped: then what waits for it ends with an error.
pub struct Silent {
    mount: PathBuf,
    asked: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Silent {
    /// Mounts it; `None` if the kernel has no such file systems.
    pub fn mount() -> Result<Option<Self>> {
        let device = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context("opening /dev/fuse"),
        };
        let mount = std::env::temp_dir().join(format!("emm-check-fuse-{}", std::process::id()));
        std::fs::create_dir_all(&mount)?;
        let text = |s: &str| CString::new(s).context("a name");
        let target = text(&mount.to_string_lossy())?;
        let options = text(&format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        ))?;
        let (source, kind) = (text("emm-check")?, text("fuse")?);
        // SAFETY: strings that end with 0, and outlive the call.
        let done = unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        };
        if done != 0 {
            return Err(std::io::Error::last_os_error()).context("mounting a file system");
        }
        let (said, asked) = channel();
        let thread = std::thread::spawn(move || serve(device, &said));
        Ok(Some(Self {
            mount,
            asked,
            thread: Some(thread),
        }))
    }

    /// Its file.
    pub fn file(&self) -> PathBuf {
        self.mount.join("file")
    }

    /// `len` bytes of its file.
    pub fn map(&self, len: usize) -> Result<Map> {
        of_server(&self.file(), len)
    }

    /// Ends whatever waits for it, with an error.
    pub fn fail(&self) {
        if let Ok(target) = CString::new(self.mount.to_string_lossy().as_bytes()) {
            // SAFETY: a string that ends with 0, and outlives the call.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) };
        }
    }

    /// Waits until somebody waits for a read.
    pub fn await_read(&self, limit: Duration) -> Result<()> {
        if self.asked.recv_timeout(limit).is_err() {
            bail!("nobody read from the server");
        }
        Ok(())
    }
}

/// `len` bytes of a server's file.
pub fn of_server(path: &Path, len: usize) -> Result<Map> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let map = Map::with(0, len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd())
        .with_context(|| format!("mapping {}", path.display()))?;
    map.advise(0, len, libc::MADV_RANDOM)?;
    Ok(map)
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.fail();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir(&self.mount);
    }
}

fn attributes(node: u64) -> Vec<u8> {
    let directory = node == 1;
    let mut out = Vec::new();
    for word in [node, if directory { 0 } else { LEN }, 0, 0, 0, 0] {
        out.extend(word.to_ne_bytes());
    }
    let mode: u32 = if directory { 0o40755 } else { 0o100_444 };
    // atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(word.to_ne_bytes());
    }
    out
}

fn answer(device: &mut File, unique: u64, error: i32, body: &[u8]) {
    let mut out = Vec::new();
    out.extend(((16 + body.len()) as u32).to_ne_bytes());
    out.extend((-error).to_ne_bytes());
    out.extend(unique.to_ne_bytes());
    out.extend(body);
    // What was interrupted wants no answer.
    let _ = device.write(&out);
}

fn serve(mut device: File, said: &Sender<()>) {
    let mut buffer = vec![0; 1 << 17];
    // Ends when the file system is gone.
    while let Ok(n) = device.read(&mut buffer) {
        let Some(header) = buffer.get(..n).filter(|b| b.len() >= IN_HEADER) else {
            return;
        };
        let word =
            |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap_or_default());
        let long =
            |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().unwrap_or_default());
        let (opcode, unique, node) = (word(4), long(8), long(16));
        match opcode {
            INIT => {
                let mut body = Vec::new();
                // major, minor, max_readahead, flags
                for value in [7u32, 31, 0, 0] {
                    body.extend(value.to_ne_bytes());
                }
                // max_background, congestion_threshold
                for value in [12u16, 9] {
                    body.extend(value.to_ne_bytes());
                }
                // max_write, time_gran
                for value in [4096u32, 1] {
                    body.extend(value.to_ne_bytes());
                }
                // max_pages, map_alignment, and what is not used
                body.resize(64, 0);
                answer(&mut device, unique, 0, &body);
            }
            LOOKUP => {
                let mut body = Vec::new();
                // nodeid, generation, entry_valid, attr_valid
                for value in [NODE, 0, 1000, 1000] {
                    body.extend(value.to_ne_bytes());
                }
                body.extend([0; 8]);
                body.extend(attributes(NODE));
                answer(&mut device, unique, 0, &body);
            }
            GETATTR => {
                let mut body = 1000u64.to_ne_bytes().to_vec();
                body.extend([0; 8]);
                body.extend(attributes(node));
                answer(&mut device, unique, 0, &body);
            }
            OPEN => {
                // fh, open_flags, padding. Or each open waits until the pages are unlocked that are read.
                let mut body = [0; 16];
                body[8] = KEEP_CACHE;
                answer(&mut device, unique, 0, &body);
            }
            READ => {
                let _ = said.send(());
            }
            FORGET | BATCH_FORGET | INTERRUPT | DESTROY => {}
            _ => answer(&mut device, unique, ENOSYS, &[]),
        }
    }
}
