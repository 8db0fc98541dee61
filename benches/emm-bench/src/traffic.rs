//! Streams of equal operations on one queue pair.

use std::time::Duration;

use anyhow::{Context as _, Result};
use emm_check::qp::{Op, Qp};

use crate::rig::{Area, Rig, small_pages, timed};
use crate::who::Kind;

/// The biggest operation of [`cover`].
pub const CHUNK: usize = 1 << 20;
/// Operations in flight.
pub const DEPTH: usize = 16;

/// Equal operations between two places.
pub struct Stream<'a> {
    /// The queue pair.
    pub qp: &'a Qp,
    /// What is done.
    pub op: Op,
    /// The region at the side that posts, and the place in it.
    pub local: (&'a Area, usize),
    /// The region at the other side, and the place in it.
    pub remote: (&'a Area, usize),
    /// Bytes of each operation.
    pub len: usize,
}

impl Stream<'_> {
    fn post(&self) -> Result<()> {
        let len = self.len as u32;
        if matches!(self.op, Op::Send) {
            let place = self.remote.0.local(self.remote.1);
            self.qp.post_recv(place, len).context("posting a receive")?;
        }
        let (local, remote) = (
            self.local.0.local(self.local.1),
            self.remote.0.remote(self.remote.1),
        );
        self.qp.post(self.op, local, len, remote).context("posting")
    }

    fn wait(&self) -> Result<()> {
        self.qp.wait().context("waiting")?;
        if matches!(self.op, Op::Send) {
            self.qp.wait_recv().context("waiting for a receive")?;
        }
        Ok(())
    }

    /// One operation, waited for.
    pub fn once(&self) -> Result<Duration> {
        let (done, time) = timed(|| {
            self.post()?;
            self.wait()
        });
        done.map(|()| time)
    }

    /// `count` operations, several in flight.
    pub fn many(&self, count: usize) -> Result<Duration> {
        self.flow(count, || self.wait())
    }

    /// The same without sleeping. SENDs need [`Self::many`].
    pub fn many_polled(&self, count: usize) -> Result<Duration> {
        self.flow(count, || self.qp.spin().context("polling"))
    }

    fn flow(&self, count: usize, wait: impl Fn() -> Result<()>) -> Result<Duration> {
        let (done, time) = timed(|| {
            for posted in 0..count {
                if posted >= DEPTH {
                    wait()?;
                }
                self.post()?;
            }
            for _ in 0..count.min(DEPTH) {
                wait()?;
            }
            anyhow::Ok(())
        });
        done.map(|()| time)
    }
}

/// As much traffic as [`cover`] of `len` bytes, to other memory that is pinned, and to no more than one message of it: what an
/// event is measured after where there is no region. Packets come and go, and the page allocator's lists, where freed pages go, are
/// as full as with one. They alone make a difference of a fifth for huge pages; and as much memory again would make one for small
/// pages, in the other direction.
pub fn elsewhere(rig: &Rig, qp: &Qp, source: &Area, len: usize) -> Result<()> {
    let other = rig.area(Kind::Pinned, small_pages(CHUNK)?)?;
    let mut messages = (0..len).step_by(CHUNK);
    messages.try_for_each(|_| cover(qp, Op::Write, source, &other))
}

/// WRITEs `source` (of [`CHUNK`] bytes) all over `area`, or READs all of it into `source`: every page is translated then.
pub fn cover(qp: &Qp, op: Op, source: &Area, area: &Area) -> Result<()> {
    for off in (0..area.map.len()).step_by(CHUNK) {
        let stream = Stream {
            qp,
            op,
            local: (source, 0),
            remote: (area, off),
            len: CHUNK.min(area.map.len() - off),
        };
        stream.once()?;
    }
    Ok(())
}
