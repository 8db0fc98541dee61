//! Unreliable datagrams: 40 bytes of route header, then the payload, in buffers at odd addresses.

use std::net::Ipv4Addr;
use std::ptr::NonNull;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::area::Area;
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::{End, Work};
use crate::qp::RawQp;
use crate::verbs::{ALL_ACCESS, Pd};

const SIZE: usize = 16 * PAGE;
const HEADER: usize = 40;
/// The key of all datagram queue pairs here.
pub const QKEY: u32 = 0x1234_5678;
/// What does not fit into one packet is no datagram.
const BIGGEST: usize = 4096;

/// The cases.
pub fn datagram(c: &Ctx<'_>) -> Result<()> {
    c.case("header and payload in one element", whole(c));
    c.case("header and payload in elements of their own", split(c));
    c.case("a receive that is too small", short(c));
    Ok(())
}

/// An address handle.
pub struct Handle(NonNull<ffi::ibv_ah>);

impl Handle {
    /// For the port with this address.
    pub fn new(pd: &Pd, gid: ffi::ibv_gid) -> Result<Self> {
        let mut attr = ffi::ibv_ah_attr {
            grh: ffi::ibv_global_route {
                dgid: gid,
                sgid_index: pd.device().link().gid_index,
                hop_limit: 64,
                ..ffi::zeroed()
            },
            is_global: 1,
            port_num: 1,
            ..ffi::zeroed()
        };
        // SAFETY: the domain is alive, and `attr` outlives the call.
        let handle = unsafe { ffi::ibv_create_ah(pd.as_raw(), &mut attr) };
        let handle = NonNull::new(handle)
            .ok_or_else(std::io::Error::last_os_error)
            .context("ibv_create_ah")?;
        Ok(Self(handle))
    }

    /// The handle, which stays this object's.
    pub fn as_raw(&self) -> *mut ffi::ibv_ah {
        self.0.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and what was posted with it has completed.
        unsafe { ffi::ibv_destroy_ah(self.0.as_ptr()) };
    }
}

/// A sender and a receiver.
pub(super) struct Ends {
    pub(super) near: End,
    far: End,
    handle: Handle,
    address: [u8; 4],
}

impl Ends {
    pub(super) fn new(c: &Ctx<'_>) -> Result<Self> {
        let device = c.env.pd.device();
        let near = End::new(&c.env.pd, ffi::IBV_QPT_UD, None)?;
        let far = End::new(&c.env.pd, ffi::IBV_QPT_UD, None)?;
        ready(&near)?;
        ready(&far)?;
        let gid = device.gid()?;
        let handle = Handle::new(&c.env.pd, gid)?;
        // SAFETY: every bit pattern is an array of bytes.
        let raw = unsafe { gid.raw };
        Ok(Self {
            near,
            far,
            handle,
            address: raw[12..].try_into().context("a GID has 16 bytes")?,
        })
    }

    /// A datagram to a queue pair here.
    pub(super) fn to(&self, qp: &RawQp) -> Work {
        Work::SendTo(self.handle.as_raw(), qp.number(), QKEY)
    }

    /// Sends `len` bytes of `from` at `at`; `into` receives. Returns the bytes received, header included.
    pub(super) fn send(
        &self,
        from: &Area,
        at: usize,
        len: usize,
        into: &[ffi::ibv_sge],
    ) -> Result<ffi::ibv_wc> {
        self.far.post_recv(5, into)?;
        self.near.run(self.to(&self.far.qp), &[from.sge(at, len)])?;
        let wc = self.far.received.wait()?;
        if wc.wr_id != 5 || wc.byte_len as usize != HEADER + len {
            bail!("{} bytes arrived, not {HEADER} + {len}", wc.byte_len);
        }
        if wc.wc_flags & ffi::IBV_WC_GRH == 0 {
            bail!("the completion does not say that there is a header");
        }
        Ok(wc)
    }

    /// That a header is one of a datagram between these ends.
    pub(super) fn check_header(&self, header: &[u8], payload: usize) -> Result<()> {
        check_header(header, payload, self.address)
    }
}

/// Takes a datagram queue pair to where it sends and receives.
pub fn ready(end: &End) -> Result<()> {
    let mut attr = ffi::ibv_qp_attr {
        qp_state: ffi::IBV_QPS_INIT,
        port_num: 1,
        qkey: QKEY,
        ..ffi::zeroed()
    };
    let state = ffi::IBV_QP_STATE;
    let mask = state | ffi::IBV_QP_PKEY_INDEX | ffi::IBV_QP_PORT | ffi::IBV_QP_QKEY;
    end.qp.modify(&mut attr, mask, "INIT")?;
    attr.qp_state = ffi::IBV_QPS_RTR;
    end.qp.modify(&mut attr, state, "RTR")?;
    attr.qp_state = ffi::IBV_QPS_RTS;
    end.qp.modify(&mut attr, state | ffi::IBV_QP_SQ_PSN, "RTS")
}

/// A header of IPv4: 20 unused bytes, then the packet's own. Looped back, the packet has no checksum yet.
fn check_header(header: &[u8], payload: usize, address: [u8; 4]) -> Result<()> {
    // IPv4, UDP, the base and datagram headers of InfiniBand, the padded payload, the invariant CRC.
    let total = 20 + 8 + 12 + 8 + payload.next_multiple_of(4) + 4;
    let (unused, ip) = header.split_at(20);
    if unused.iter().any(|&b| b != 0) {
        bail!("the unused part of the header is {unused:x?}");
    }
    let ends = ip[12..16] == address && ip[16..] == address;
    let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if ip[0] != 0x45 || i32::from(ip[9]) != libc::IPPROTO_UDP || !ends || length != total {
        let address = Ipv4Addr::from(address);
        bail!("no header of {total} bytes from and to {address}: {ip:x?}");
    }
    Ok(())
}

fn whole(c: &Ctx<'_>) -> Result<String> {
    let ends = Ends::new(c)?;
    let mut from = c.area(SIZE, ALL_ACCESS)?;
    let mut to = c.area(SIZE, ALL_ACCESS)?;
    let mut count = 0;
    for cool in [false, true] {
        for len in [1, 7, 100, 1023, 4055, 4056, 4057, BIGGEST - 1, BIGGEST] {
            // The header itself crosses into the next page with the last two.
            for off in [0, 1, 513, PAGE - 41, PAGE - 20, 3 * PAGE - 1] {
                from.fill(2 * off + 3, len, c.seed((off + len) as u64));
                if cool {
                    from.cool()?;
                    to.cool()?;
                }
                let into = [to.sge(off, HEADER + len)];
                ends.send(&from, 2 * off + 3, len, &into)?;
                check_header(to.accept(off, HEADER), len, ends.address)?;
                to.expect(off + HEADER, from.holds(2 * off + 3, len));
                to.check(&format!("{len} bytes at {off}"))?;
                count += 1;
            }
        }
    }
    from.check("the source")?;
    Ok(format!("{count} datagrams, 0 wrong bytes"))
}

fn split(c: &Ctx<'_>) -> Result<String> {
    let ends = Ends::new(c)?;
    let mut from = c.area(SIZE, ALL_ACCESS)?;
    let mut to = c.area(SIZE, ALL_ACCESS)?;
    let mut head = c.pinned(PAGE)?;
    from.fill(0, SIZE, c.seed(7));
    for len in [1, 33, 3000, BIGGEST] {
        let into = [
            head.sge(77, HEADER),
            to.sge(PAGE - 5, len / 2),
            to.sge(4 * PAGE + 1, len - len / 2),
        ];
        to.cool()?;
        ends.send(&from, 11, len, &into)?;
        check_header(head.accept(77, HEADER), len, ends.address)?;
        to.expect(PAGE - 5, from.holds(11, len / 2));
        to.expect(4 * PAGE + 1, from.holds(11 + len / 2, len - len / 2));
        to.check(&format!("{len} bytes"))?;
        head.check("around the header")?;
    }
    Ok("pinned header, unpinned payload in two pieces, 0 wrong bytes".into())
}

/// The datagram is dropped, and the receive takes the next one that fits.
fn short(c: &Ctx<'_>) -> Result<String> {
    let ends = Ends::new(c)?;
    let mut from = c.area(SIZE, ALL_ACCESS)?;
    let mut to = c.area(SIZE, ALL_ACCESS)?;
    from.fill(0, SIZE, c.seed(8));
    ends.far.post_recv(5, &[to.sge(9, HEADER + 99)])?;
    ends.near.run(ends.to(&ends.far.qp), &[from.sge(1, 100)])?;
    ends.near.run(ends.to(&ends.far.qp), &[from.sge(500, 99)])?;
    let wc = ends.far.received.wait()?;
    if wc.byte_len as usize != HEADER + 99 {
        bail!("{} bytes arrived", wc.byte_len);
    }
    check_header(to.accept(9, HEADER), 99, ends.address)?;
    to.expect(9 + HEADER, from.holds(500, 99));
    to.check("behind the small buffer")?;
    Ok("dropped; the next one that fits arrives, nothing outside".into())
}
