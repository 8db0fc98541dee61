//! Regions for drivers with tables of their own: of another process's memory, frame by frame.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Client, DELAY, Told, paired, touched};
use crate::events::fork::{Gate, child, join};
use crate::mem::{Map, PAGE};

const PAGES: usize = 4;
/// What `poke` leaves.
const POKED: u8 = 0x5a;

/// A process that has `map`, and does `work` to it when it is told to.
struct Other {
    pid: i32,
    go: Gate,
}

impl Other {
    fn start(map: &Map, work: impl Fn(&Map) -> io::Result<bool>) -> Result<Self> {
        let (ready, go) = (Gate::new()?, Gate::new()?);
        let pid = child(|| {
            // Its own pages, not those that it shares with its parent.
            map.set(0, PAGES * PAGE, 1);
            ready.open();
            go.wait();
            i32::from(!work(map).unwrap_or(false))
        })?;
        ready.wait();
        Ok(Self { pid, go })
    }

    /// A region of all of its memory there.
    fn region(&self, map: &Map) -> Result<Client> {
        let client = Client::open()?;
        let at = map.addr();
        client
            .command(&format!("region {} {at:x} {:x}", self.pid, PAGES * PAGE))
            .context("a region of another process")?;
        Ok(client)
    }

    fn finish(&self) -> Result<()> {
        self.go.open();
        join(self.pid)
    }
}

fn refused(client: &Client, command: &str, errno: i32) -> Result<()> {
    match client.command(command) {
        Err(e) if e.raw_os_error() == Some(errno) => Ok(()),
        other => bail!("{command:?}: {other:?} instead of errno {errno}"),
    }
}

fn byte_at(map: &Map, off: usize) -> u8 {
    let mut byte = [0];
    map.read(off, &mut byte);
    byte[0]
}

/// What is read and written through its frames is the other process's memory, and it is told of what happens to that.
pub fn of_another() -> Result<String> {
    let map = touched()?;
    let other = Other::start(&map, |map| {
        let poked = byte_at(map, PAGE) == POKED;
        map.advise(PAGE, PAGE, libc::MADV_DONTNEED)?;
        Ok(poked && byte_at(map, PAGE) == 0)
    })?;
    let look = || -> Result<Client> {
        let client = other.region(&map)?;
        client.command("frame 0")?;
        client.command(&format!("poke {PAGE:x}"))?;
        refused(&client, &format!("frame {:x}", PAGES * PAGE), libc::EINVAL)?;
        Ok(client)
    };
    let client = look();
    let ended = other.finish();
    let client = client?;
    ended.context("what was written is not there, or stays there")?;
    let told = client.told()?;
    let frame = |offset: usize, seen: u8| {
        let wanted = |t: &Told| matches!(t, Told::Frame { offset: at, order: 0, byte, .. } if *at == offset && *byte == i32::from(seen));
        told.iter().any(wanted)
    };
    let writable = |t: &Told| {
        matches!(
            t,
            Told::Frame {
                offset: PAGE,
                writable: true,
                ..
            }
        )
    };
    if !frame(0, 1) || !frame(PAGE, POKED) || !told.iter().any(writable) {
        bail!("the frames were {told:x?}");
    }
    client.await_told("release", |t| *t == Told::Release)?;
    if paired(&client.told()?)? == 0 {
        bail!("it was not told of the pages that went: {told:x?}");
    }
    refused(&client, "frame 0", libc::ESRCH)?;
    if byte_at(&map, PAGE) != 1 {
        bail!("it was this process's memory that was written");
    }
    Ok("read, written, told, and ended with the process".into())
}

/// Between the driver's start and the end its translation stands, but is not handed out.
pub fn taken() -> Result<String> {
    let map = touched()?;
    let other = Other::start(&map, |map| {
        map.advise(0, PAGE, libc::MADV_DONTNEED)?;
        Ok(true)
    })?;
    let client = other.region(&map)?;
    let look = || -> Result<()> {
        client.command("frame 0")?;
        client.command(&format!("frame {PAGE:x}"))?;
        client.command(&format!("delay {}", DELAY.as_millis()))?;
        other.go.open();
        client.await_start()?;
        refused(&client, "frame 0", libc::EBUSY)?;
        // What is not taken is there.
        client.command(&format!("frame {PAGE:x}"))?;
        Ok(())
    };
    let result = look();
    other.finish()?;
    result?;
    Ok("EBUSY for the page that goes, its neighbour is there".into())
}

/// What only the driver's own tables know to be written is not thrown away by reclaim, after MADV_FREE.
pub fn marked() -> Result<String> {
    let map = touched()?;
    let (freed, reclaim) = (Gate::new()?, Gate::new()?);
    let other = Other::start(&map, |map| {
        map.advise(0, 2 * PAGE, libc::MADV_FREE)?;
        freed.open();
        reclaim.wait();
        // What came in on another CPU just now waits in a list of its own, out of reach.
        for _ in 0..3000 {
            map.advise(0, 2 * PAGE, libc::MADV_PAGEOUT)?;
            if byte_at(map, PAGE) == 0 {
                return Ok(byte_at(map, 0) == POKED);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(false)
    })?;
    let client = other.region(&map)?;
    other.go.open();
    freed.wait();
    let written = || -> Result<()> {
        client.command("scribble 0")?;
        client.command(&format!("scribble {PAGE:x}"))?;
        Ok(client.command(&format!("mark 0 {PAGE:x}"))?)
    };
    let written = written();
    reclaim.open();
    let ended = join(other.pid);
    written?;
    ended.context("the page that was marked is lost, or the other one is not")?;
    Ok("the page that was marked stays, the other one does not".into())
}

/// References keep the structure, and nothing else.
pub fn kept() -> Result<String> {
    let map = touched()?;
    let other = Other::start(&map, |_| Ok(true))?;
    let client = other.region(&map)?;
    let look = || -> Result<()> {
        client.command("frame 0")?;
        client.command("mark 0 1000")?;
        client.command("keep")?;
        client.command("unregister")?;
        let told = client.told()?;
        refused(&client, "frame 0", libc::ESRCH)?;
        other.go.open();
        join(other.pid)?;
        if client.told()? != told {
            bail!("it was told more after its end: {:x?}", client.told()?);
        }
        Ok(client.command("drop")?)
    };
    look()?;
    Ok("ended at once, given back later".into())
}
