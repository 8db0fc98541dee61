//! A network block device whose server is this process: pages of the second half come when they are let, as from a disk or a
//! file server that does not answer.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::mem::{Map, PAGE, pattern};
use crate::system::run;

/// Where it is.
pub const DEVICE: &str = "/dev/nbd0";
// include/uapi/linux/nbd.h
const NBD_SET_SOCK: libc::c_ulong = 0xab00;
const NBD_SET_BLKSIZE: libc::c_ulong = 0xab01;
const NBD_DO_IT: libc::c_ulong = 0xab03;
const NBD_CLEAR_SOCK: libc::c_ulong = 0xab04;
const NBD_SET_SIZE_BLOCKS: libc::c_ulong = 0xab07;
const NBD_DISCONNECT: libc::c_ulong = 0xab08;
// include/uapi/linux/fs.h
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
/// Longest time until the driver has begun.
const STARTS: Duration = Duration::from_secs(20);
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u32 = 0;
const WRITE: u32 = 1;
const DISCONNECT: u32 = 2;

/// Bytes that devices have had so far.
static USED: AtomicUsize = AtomicUsize::new(0);

/// A read that waits for its answer.
struct Held {
    cookie: [u8; 8],
    from: usize,
    len: usize,
}

/// The server's side.
struct Server {
    socket: UnixStream,
    seed: u64,
    /// Where the device's bytes begin.
    base: usize,
    /// What lies behind this does not come until it is let.
    slow: usize,
    /// None: all is let.
    held: Option<Vec<Held>>,
}

/// The device, which goes when dropped; what was held is answered first.
pub struct Nbd {
    device: Arc<File>,
    server: Arc<Mutex<Server>>,
    base: usize,
    asked: Receiver<usize>,
    threads: Vec<JoinHandle<()>>,
}

fn ioctl(device: &File, request: libc::c_ulong, argument: usize) -> io::Result<()> {
    // SAFETY: these requests take numbers only.
    if unsafe { libc::ioctl(device.as_raw_fd(), request as _, argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn answer(&mut self, held: &Held) -> io::Result<()> {
        let mut bytes = vec![0; held.len];
        // What lies before the base is of no interest.
        let before = self.base.saturating_sub(held.from).min(held.len);
        let at = (held.from + before).saturating_sub(self.base);
        pattern(self.seed, at, &mut bytes[before..]);
        self.socket.write_all(&reply(held.cookie))?;
        self.socket.write_all(&bytes)
    }
}

fn reply(cookie: [u8; 8]) -> Vec<u8> {
    let mut reply = REPLY.to_be_bytes().to_vec();
    reply.extend([0; 4]);
    reply.extend(cookie);
    reply
}

/// Answers until the device is disconnected; says of each read that is held where it is.
fn serve(mut socket: UnixStream, server: &Mutex<Server>, asked: &Sender<usize>) -> io::Result<()> {
    loop {
        let mut head = [0; 28];
        socket.read_exact(&mut head)?;
        let word = |at| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if word(0) != REQUEST {
            return Err(io::Error::other("no request of a network block device"));
        }
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&head[8..16]);
        // Devices of 4 GiB and more are not made here.
        let (from, len) = (word(20) as usize, word(24) as usize);
        match word(4) & 0xffff {
            READ => {
                let held = Held { cookie, from, len };
                let mut server = lock(server);
                let slow = from + len > server.slow;
                match &mut server.held {
                    Some(list) if slow => {
                        list.push(held);
                        // Nobody may listen any more.
                        let _ = asked.send(from);
                    }
                    _ => server.answer(&held)?,
                }
            }
            WRITE => {
                socket.read_exact(&mut vec![0; len])?;
                lock(server).socket.write_all(&reply(cookie))?;
            }
            DISCONNECT => return Ok(()),
            _ => lock(server).socket.write_all(&reply(cookie))?,
        }
    }
}

impl Nbd {
    /// Whether this kernel has such devices.
    pub fn is_there() -> bool {
        Path::new(DEVICE).exists() || run("modprobe", &["nbd", "nbds_max=1"]).is_ok()
    }

    /// One of `len` bytes of pattern `seed`, of which those from `slow` on do not come until [`Self::let_go`].
    pub fn new(len: usize, slow: usize, seed: u64) -> Result<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .with_context(|| format!("opening {DEVICE}"))?;
        let device = Arc::new(device);
        // Each has a place of its own: of the last one's the kernel may still know the bytes.
        let base = USED.fetch_add(len, Ordering::Relaxed);
        let (kernels, ours) = UnixStream::pair().context("a pair of sockets")?;
        let set = |request, argument, what| {
            ioctl(&device, request, argument).with_context(|| format!("{DEVICE}: {what}"))
        };
        set(NBD_SET_BLKSIZE, PAGE, "NBD_SET_BLKSIZE")?;
        set(
            NBD_SET_SIZE_BLOCKS,
            (base + len) / PAGE,
            "NBD_SET_SIZE_BLOCKS",
        )?;
        set(NBD_SET_SOCK, kernels.as_raw_fd() as usize, "NBD_SET_SOCK")?;
        let server = Arc::new(Mutex::new(Server {
            socket: ours.try_clone().context("the server's socket")?,
            seed,
            base,
            slow: base + slow,
            held: Some(Vec::new()),
        }));
        let (asks, asked) = channel();
        let theirs = server.clone();
        let mut threads = vec![std::thread::spawn(move || {
            if let Err(e) = serve(ours, &theirs, &asks) {
                eprintln!("the server of {DEVICE}: {e}");
            }
        })];
        let driver = device.clone();
        threads.push(std::thread::spawn(move || {
            // Ends when the device is disconnected.
            if let Err(e) = ioctl(&driver, NBD_DO_IT, 0) {
                eprintln!("{DEVICE}: NBD_DO_IT: {e}");
            }
            drop(kernels);
        }));
        let nbd = Self {
            device,
            server,
            base,
            asked,
            threads,
        };
        nbd.has_size(base + len)?;
        Ok(nbd)
    }

    /// Waits until the device is as long as it was told to be. The driver does that in `NBD_DO_IT`, and tells nobody.
    fn has_size(&self, wanted: usize) -> Result<()> {
        let end = Instant::now() + STARTS;
        while Instant::now() < end {
            let mut size = 0u64;
            // SAFETY: the request writes a number of 64 bits.
            let done =
                unsafe { libc::ioctl(self.device.as_raw_fd(), BLKGETSIZE64 as _, &mut size) };
            if done == 0 && size == wanted as u64 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("{DEVICE} does not get its size");
    }

    /// Where its bytes begin on the device, for a process that maps them itself.
    pub fn place(&self) -> usize {
        self.base
    }

    /// A shared mapping of it. With `page_by_page` no page is read before it is needed.
    pub fn map(&self, len: usize, page_by_page: bool) -> Result<Map> {
        let fd = self.device.as_raw_fd();
        let map = Map::of_file(len, fd, self.base).context("mapping the device")?;
        if page_by_page {
            map.advise(0, len, libc::MADV_RANDOM)?;
        }
        Ok(map)
    }

    /// Waits until the server holds a read back. Returns its place.
    pub fn next(&self, limit: Duration) -> Result<usize> {
        let Ok(from) = self.asked.recv_timeout(limit) else {
            bail!("{DEVICE} was not asked for anything that does not come");
        };
        Ok(from)
    }

    /// Answers what is held, and what will be asked.
    pub fn let_go(&self) -> Result<()> {
        let mut server = lock(&self.server);
        for held in server.held.take().unwrap_or_default() {
            server.answer(&held)?;
        }
        Ok(())
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        // What fails here makes the next one fail, which says so.
        let _ = self.let_go();
        let _ = ioctl(&self.device, NBD_DISCONNECT, 0);
        // The driver's thread ends when nothing can come any more.
        let _ = lock(&self.server).socket.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = ioctl(&self.device, NBD_CLEAR_SOCK, 0);
    }
}
