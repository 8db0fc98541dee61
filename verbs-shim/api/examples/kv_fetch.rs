// SPDX-License-Identifier: MIT OR Apache-2.0

//! A table of values in a file that may be larger than memory, fetched by RDMA READ. The file is mapped and
//! registered as a whole; the kernel brings in the pages that are read, and takes them away when it needs memory.
//!
//! `kv_fetch DEVICE GID_INDEX FILE BYTES [FETCHES]`, as in `kv_fetch rxe0 1 /data/table 8000000000`

use std::{env, error::Error, fs::OpenOptions, os::fd::AsRawFd, ptr, time::Instant};

use unpinned::{Access, Context, Memory, Paging, QueuePair, Remote};

/// Length of a value.
const VALUE: usize = 1000;

/// A shared mapping of a file.
struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(path: &str, length: usize) -> Result<Self, Box<dyn Error>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.set_len(length as u64)?;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel has room.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                rights,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Self {
            start: start.cast(),
            length,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and used by nobody any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

// SAFETY: the mapping is this value's own, and does not move.
unsafe impl Memory for Mapping {
    fn range(&mut self) -> (*mut u8, usize) {
        (self.start, self.length)
    }
}

/// The value of a key.
fn value(key: usize) -> Vec<u8> {
    (0..VALUE).map(|at| (key * 31 + at * 7) as u8).collect()
}

/// Keys in an order that no read-ahead guesses.
fn keys(slots: usize, fetches: usize) -> impl Iterator<Item = usize> + Clone {
    let step = 2_654_435_761_usize;
    (0..fetches).map(move |n| n.wrapping_mul(step) % slots)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().collect();
    let [_, device, gid, path, bytes, ..] = &args[..] else {
        return Err("write: kv_fetch DEVICE GID_INDEX FILE BYTES [FETCHES]".into());
    };
    let fetches = args.get(5).map_or(Ok(1000), |n| n.parse())?;
    let bytes: usize = bytes.parse()?;
    let slots = bytes / VALUE;
    if slots == 0 {
        return Err("the table has no room for a value".into());
    }
    let domain = Context::open(device)?.alloc_domain()?;
    let server = QueuePair::new(&domain, gid.parse()?, 4)?;
    let client = QueuePair::new(&domain, gid.parse()?, 4)?;
    server.connect(&client.endpoint(), Access::REMOTE_READ)?;
    client.connect(&server.endpoint(), Access::empty())?;

    let table = domain.register(
        Mapping::new(path, bytes)?,
        Access::REMOTE_READ,
        Paging::OnDemand,
    )?;
    for key in keys(slots, fetches) {
        table.write_at(key * VALUE, &value(key));
    }
    let answer = domain.register(vec![0; VALUE], Access::LOCAL_WRITE, Paging::OnDemand)?;
    let whole = table.remote();
    let start = Instant::now();
    for key in keys(slots, fetches) {
        let from = Remote {
            addr: whole.addr + (key * VALUE) as u64,
            ..whole
        };
        client.post_read(key as u64, &answer, 0..VALUE, from)?;
        let done = loop {
            if let Some(done) = client.poll()? {
                break done;
            }
        };
        let mut got = vec![0; VALUE];
        answer.read_at(0, &mut got);
        if done.status != 0 || got != value(key) {
            return Err(format!("key {key}: status {}, or other bytes", done.status).into());
        }
    }
    let rate = fetches as f64 / start.elapsed().as_secs_f64();
    println!("fetches: {rate:.0} a second");
    println!("{fetches} values of {VALUE} bytes from a table of {bytes} bytes, every byte right");
    Ok(())
}
