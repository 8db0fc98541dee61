//! Receives from a shared receive queue.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::area::Area;
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::{Pair, Work, posted, receive};
use crate::qp::OpError;
use crate::verbs::{ALL_ACCESS, Pd};

const SIZE: usize = 32 * PAGE;
/// Room of one receive, in three elements.
const ROOM: usize = 20_011;

/// The cases.
pub fn srq(c: &Ctx<'_>) -> Result<()> {
    c.case("two queue pairs, receives of three elements", two(c));
    Ok(())
}

/// A shared receive queue.
pub struct Srq {
    raw: NonNull<ffi::ibv_srq>,
    _pd: Arc<Pd>,
}

impl Srq {
    /// Makes one.
    pub fn new(pd: &Arc<Pd>) -> Result<Self> {
        let mut init = ffi::ibv_srq_init_attr {
            attr: ffi::ibv_srq_attr {
                max_wr: 16,
                max_sge: 4,
                ..ffi::zeroed()
            },
            ..ffi::zeroed()
        };
        // SAFETY: the domain is alive, and `init` outlives the call.
        let raw = unsafe { ffi::ibv_create_srq(pd.as_raw(), &mut init) };
        Ok(Self {
            raw: NonNull::new(raw)
                .ok_or_else(io::Error::last_os_error)
                .context("ibv_create_srq")?,
            _pd: pd.clone(),
        })
    }

    /// For queue pairs that go before it.
    pub fn raw(&self) -> NonNull<ffi::ibv_srq> {
        self.raw
    }

    /// Posts a receive.
    pub fn post(&self, wr_id: u64, list: &mut [ffi::ibv_sge]) -> Result<(), OpError> {
        let mut wr = receive(wr_id, list);
        let mut bad = ptr::null_mut();
        // SAFETY: request and elements live through the call, which copies them.
        posted(unsafe { ffi::ibv_post_srq_recv(self.raw.as_ptr(), &mut wr, &mut bad) })
    }
}

impl Drop for Srq {
    fn drop(&mut self) {
        // SAFETY: its queue pairs are gone: callers make them after it.
        unsafe { ffi::ibv_destroy_srq(self.raw.as_ptr()) };
    }
}

/// The elements of receive `number`: odd lengths, the middle one in another region.
fn elements(number: usize) -> [(bool, usize, usize); 3] {
    let base = number * 6 * PAGE + 17 * number;
    [
        (false, base + 1, 4999),
        (true, base + 4090, 10_001),
        (false, base + 9001, ROOM - 4999 - 10_001),
    ]
}

/// Distributes `bytes` over the elements in the model.
fn arrived(areas: &mut [Area; 2], number: usize, mut bytes: &[u8]) {
    for (second, off, len) in elements(number) {
        let (piece, rest) = bytes.split_at(len.min(bytes.len()));
        areas[usize::from(second)].expect(off, piece);
        bytes = rest;
    }
}

fn two(c: &Ctx<'_>) -> Result<String> {
    let srq = Srq::new(&c.env.pd)?;
    let pairs = [
        Pair::new(&c.env.pd, c.env.mtu, Some(srq.raw))?,
        Pair::new(&c.env.pd, c.env.mtu, Some(srq.raw))?,
    ];
    let mut from = c.area(SIZE, ALL_ACCESS)?;
    let mut to = [c.area(SIZE, ALL_ACCESS)?, c.area(SIZE, ALL_ACCESS)?];
    let mut count = 0;
    for round in 0..4 {
        for number in 0..5 {
            let mut list =
                elements(number).map(|(second, off, len)| to[usize::from(second)].sge(off, len));
            srq.post(number as u64, &mut list)?;
        }
        if round % 2 == 1 {
            from.cool()?;
            to.iter().try_for_each(Area::cool)?;
        }
        for (i, len) in [1, 4999, 5000, 15_001, ROOM].into_iter().enumerate() {
            from.fill(3 * i + 1, len, c.seed(round * 10 + i as u64));
            let pair = &pairs[(round as usize + i) % 2];
            pair.near.run(Work::Send, &[from.sge(3 * i + 1, len)])?;
            let wc = pair.far.received.wait()?;
            if wc.byte_len as usize != len {
                bail!("{} bytes arrived, not {len}", wc.byte_len);
            }
            arrived(&mut to, wc.wr_id as usize, from.holds(3 * i + 1, len));
            for area in &to {
                area.check(&format!("round {round}, {len} bytes"))?;
            }
            count += 1;
        }
    }
    Ok(format!("{count} messages, 0 wrong bytes"))
}
