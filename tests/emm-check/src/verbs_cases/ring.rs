//! A queue pair's owner has its send queue mapped, and can write anything there: an error completion, and nothing else.

use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

use super::input::{HEARD, works};
use super::{Ctx, ends_with};
use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::pair::Work;
use crate::system::Kind;
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 16 * PAGE;
const LEN: usize = 100;
/// `IB_WR_REG_MR`, which only the kernel itself may post.
const REG_MR: u32 = 0x20;
/// Far behind every queue.
const FAR: u32 = 0x00ff_ffff;

/// What is written into the element of a WRITE.
type Spoil = fn(&mut ffi::rxe_send_wqe);

/// The cases.
pub fn ring(c: &Ctx<'_>) -> Result<()> {
    let spoils: [(&str, Spoil); 5] = [
        ("an opcode that is none", |w| w.wr.opcode = 0x7fff_ffff),
        ("an opcode of the kernel's", |w| {
            w.wr.opcode = REG_MR;
            w.wr.wr.atomic.remote_addr = 8;
        }),
        ("inline data from elsewhere", |w| {
            w.wr.send_flags |= ffi::IBV_SEND_INLINE;
            w.dma.sge_offset = 1 << 20;
        }),
        ("more elements than there are", |w| {
            w.dma.num_sge = 0x7fff_ffff;
            w.dma.cur_sge = FAR;
        }),
        ("an atomic write of 4 KiB", |w| {
            w.wr.opcode = ffi::IBV_WR_ATOMIC_WRITE;
            w.dma.length = PAGE as u32;
            w.dma.resid = PAGE as u32;
        }),
    ];
    for (name, spoil) in spoils {
        c.case(&format!("send queue: {name}"), spoiled(c, spoil));
    }
    if c.kind.resolve() == Kind::Emm {
        c.case("send queue: other elements meanwhile", meanwhile(c));
    }
    Ok(())
}

/// The mapped queues of rxe, by their addresses.
fn queues() -> Result<Vec<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").context("reading /proc/self/maps")?;
    let mapped = maps
        .lines()
        .filter(|l| l.contains("/dev/infiniband/uverbs"));
    mapped
        .map(|line| {
            let start = line.split('-').next().unwrap_or_default();
            usize::from_str_radix(start, 16).with_context(|| format!("in `{line}`"))
        })
        .collect()
}

/// A send queue as its owner has it.
struct Ring(*mut ffi::rxe_queue_buf);

impl Ring {
    /// The queue among those that were mapped since `before` whose first element is a request about `remote`.
    fn find(before: &[usize], remote: u64) -> Result<Self> {
        for address in queues()?.into_iter().filter(|q| !before.contains(q)) {
            let ring = Self(ptr::with_exposed_provenance_mut(address));
            if ring.elem_size() < size_of::<ffi::rxe_send_wqe>() {
                continue;
            }
            // SAFETY: a mapped queue with elements of that size; its driver and its library change it by whole words.
            let first = unsafe { ring.element(0).read_volatile() };
            // SAFETY: all variants begin with the remote address.
            if unsafe { first.wr.wr.rdma.remote_addr } == remote {
                return Ok(ring);
            }
        }
        bail!("no send queue was mapped")
    }

    fn elem_size(&self) -> usize {
        // SAFETY: a mapped queue.
        1 << unsafe { (*self.0).log2_elem_size }
    }

    fn element(&self, index: u32) -> *mut ffi::rxe_send_wqe {
        // SAFETY: inside the mapped queue, as `index` is masked.
        unsafe {
            let at = (index & (*self.0).index_mask) as usize * self.elem_size();
            (&raw mut (*self.0).data).cast::<u8>().add(at).cast()
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: a mapped queue; library and driver use the index by atomic accesses too.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.0).producer_index) }
    }

    /// Adds a copy of the first element, changed by `spoil`, without telling the driver.
    fn add(&self, spoil: Spoil) {
        let index = self.producer().load(Ordering::Acquire);
        // SAFETY: the first element is a request that has ended.
        let mut forged = unsafe { self.element(0).read_volatile() };
        forged.state = 0;
        forged.status = 0;
        forged.wr.wr_id = 7;
        forged.dma.resid = forged.dma.length;
        forged.dma.cur_sge = 0;
        forged.dma.sge_offset = 0;
        spoil(&mut forged);
        // SAFETY: nothing else uses an element that is not produced yet.
        unsafe { self.element(index).write_volatile(forged) };
        // SAFETY: a mapped queue.
        let mask = unsafe { (*self.0).index_mask };
        self.producer().store((index + 1) & mask, Ordering::Release);
    }
}

/// A request that is not what any library posts: it fails, what comes behind it is flushed, and new queue pairs work.
fn spoiled(c: &Ctx<'_>, spoil: Spoil) -> Result<String> {
    let (mut area, mut local) = (c.area(SIZE, ALL_ACCESS)?, c.pinned(SIZE)?);
    local.fill(0, SIZE, c.seed(1));
    let before = queues()?;
    let pair = c.pair()?;
    let write = Work::Write(area.remote(0));
    pair.near.run(write, &[local.sge(0, LEN)])?;
    area.expect(0, local.holds(0, LEN));
    let ring = Ring::find(&before, area.remote(0).addr)?;
    ring.add(spoil);
    // Posting tells the driver.
    pair.near.post(&[(write, &[local.sge(0, LEN)])])?;
    // Where the requester fails, rxe flushes that request too.
    for what in ["the forged request", "the request behind it"] {
        ends_with(pair.near.sent.wait(), ffi::IBV_WC_WR_FLUSH_ERR, what)?;
    }
    area.check("nothing arrived")?;
    works(c)?;
    Ok("ends with an error".into())
}

/// The answer to a READ waits for the first of its two pieces of memory. Its elements are said to be many meanwhile, and empty up
/// to the end of the queue.
fn meanwhile(c: &Ctx<'_>) -> Result<String> {
    let mut area = c.area(SIZE, ALL_ACCESS)?;
    area.fill(0, SIZE, c.seed(1));
    let map = Map::anon(2 * PAGE)?;
    let handler = Uffd::new().context("userfaultfd")?;
    handler.watch(&map, 0, PAGE).context("UFFDIO_REGISTER")?;
    let late = Mr::new(&c.env.pd, map.addr(), 2 * PAGE, ALL_ACCESS | c.kind.flags())?;
    let piece = |off: usize| ffi::ibv_sge {
        addr: (map.addr() + off) as u64,
        length: LEN as u32,
        lkey: late.lkey(),
    };
    let before = queues()?;
    let pair = c.pair()?;
    let remote = area.remote(0);
    let list = [piece(0), piece(PAGE)];
    pair.near.post_list(Work::Read(remote), &list)?;
    if handler.next(HEARD)?.is_none() {
        bail!("the handler heard of no fault");
    }
    let ring = Ring::find(&before, remote.addr)?;
    let first = ring.element(0);
    // SAFETY: a mapped queue; the driver reads the element at the same time, as it may.
    unsafe {
        let size = ring.elem_size();
        let end = ring
            .element(0)
            .cast::<u8>()
            .add(size * (1 + (*ring.0).index_mask as usize));
        let elements = (&raw mut (*first).dma)
            .cast::<u8>()
            .add(size_of::<ffi::rxe_dma_info>());
        let second = elements.add(16);
        second.write_bytes(0, end.addr() - second.addr());
        (&raw mut (*first).dma.num_sge).write_volatile(0x7fff_ffff);
    }
    handler.answer(map.addr(), &[0x77; PAGE])?;
    let ended = pair.near.sent.wait();
    ends_with(ended, ffi::IBV_WC_LOC_PROT_ERR, "the READ")?;
    area.check("its source")?;
    works(c)?;
    Ok("what was said at first counts".into())
}
