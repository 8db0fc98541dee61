//! Memory windows of both types on unpinned regions.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::area::Area;
use super::window::{Bounds, Window};
use super::{Ctx, ends_with};
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::{Pair, Work};
use crate::qp::{OpError, Piece};
use crate::verbs::ALL_ACCESS;

const SIZE: usize = 32 * PAGE;
/// The window: neither end on a page or packet boundary.
const START: usize = 2 * PAGE + 1000;
const LEN: usize = 50_003;
const ACCESS: u32 =
    ffi::IBV_ACCESS_REMOTE_WRITE | ffi::IBV_ACCESS_REMOTE_READ | ffi::IBV_ACCESS_REMOTE_ATOMIC;
const BINDABLE: u32 = ALL_ACCESS | ffi::IBV_ACCESS_MW_BIND;
/// rxe gives up waiting for a reference after 50 s; a queue pair is gone, and another one made, in far less.
const LATE: Duration = Duration::from_secs(10);
const REFUSED: u32 = ffi::IBV_WC_REM_ACCESS_ERR;

/// The cases.
pub fn windows(c: &Ctx<'_>) -> Result<()> {
    for (name, mw_type) in [
        ("type 1", ffi::IBV_MW_TYPE_1),
        ("type 2", ffi::IBV_MW_TYPE_2),
    ] {
        c.case(&format!("{name}: through it"), through(c, mw_type));
        c.case(&format!("{name}: out of bounds"), outside(c, mw_type));
        c.case(&format!("{name}: read only"), read_only(c, mw_type));
        c.case(&format!("{name}: bind refused"), bind_refused(c, mw_type));
        c.case(
            &format!("{name}: deregistration while bound"),
            deregister(c, mw_type),
        );
    }
    c.case("type 1: unbound", unbound(c));
    c.case("type 2: invalidated", invalidated(c));
    c.case("type 2: nothing to invalidate", not_bound(c));
    c.case("type 2: bound while its region goes", bound_meanwhile(c));
    c.case("type 2: of another queue pair", foreign(c));
    c.case("type 2: zero based", zero_based(c));
    c.case("type 2: its queue pair goes first", orphaned(c));
    Ok(())
}

/// A region, a window on it, and what uses them. Windows go before regions and queue pairs.
struct Scene {
    window: Window,
    area: Area,
    local: Area,
    pair: Pair,
}

impl Scene {
    fn new(c: &Ctx<'_>, mw_type: ffi::ibv_mw_type::Type, access: u32) -> Result<Self> {
        let mut scene = Self {
            window: Window::new(&c.env.pd, mw_type)?,
            area: c.area(SIZE, BINDABLE)?,
            local: c.area(SIZE, ALL_ACCESS)?,
            pair: c.pair()?,
        };
        scene.area.fill(0, SIZE, c.seed(1));
        scene.local.fill(0, SIZE, c.seed(2));
        scene.bind(access)?;
        Ok(scene)
    }

    fn bind(&mut self, access: u32) -> Result<()> {
        let to = Bounds {
            mr: &self.area.mr,
            addr: self.area.addr() + START,
            len: LEN,
            access,
        };
        self.window
            .bind(&self.pair.far, to)
            .context("binding the window")
    }

    /// WRITE, READ and FETCH_ADD through the window. `base` is the region's start as the window knows it.
    fn use_it(&mut self, base: usize) -> Result<()> {
        for (off, len) in [
            (START, 1),
            (START, LEN),
            (START + LEN - 1, 1),
            (3 * PAGE - 1, 5003),
        ] {
            self.area.cool()?;
            let to = self.window.remote(base.wrapping_add(off));
            self.pair
                .near
                .run(Work::Write(to), &[self.local.sge(5, len)])?;
            self.area.expect(off, self.local.holds(5, len));
            self.area.check(&format!("WRITE of {len} at {off}"))?;
            self.area.cool()?;
            self.local.cool()?;
            self.pair
                .near
                .run(Work::Read(to), &[self.local.sge(70_001, len)])?;
            self.local.expect(70_001, self.area.holds(off, len));
            self.local.check(&format!("READ of {len} at {off}"))?;
        }
        self.atomic(base)
    }

    fn atomic(&mut self, base: usize) -> Result<()> {
        let off = 4 * PAGE - 8;
        let at = self.window.remote(base.wrapping_add(off));
        self.pair
            .near
            .run(Work::FetchAdd(at, 3), &[self.local.sge(17, 8)])?;
        let old: [u8; 8] = self.area.holds(off, 8).try_into()?;
        let new = u64::from_ne_bytes(old).wrapping_add(3);
        self.local.expect(17, &old);
        self.area.expect(off, &new.to_ne_bytes());
        self.area.check("FETCH_ADD")?;
        self.local.check("FETCH_ADD's old value")
    }

    /// The end of a scene: an access that must be refused, which ends its queue pairs.
    fn refuses(&self, work: Work, len: usize, what: &str) -> Result<()> {
        let result = self.pair.near.run(work, &[self.local.sge(5, len)]);
        ends_with(result, REFUSED, what)?;
        self.area.check(what)?;
        self.local.check(what)
    }

    fn at(&self, off: usize) -> Piece {
        self.window.remote(self.area.addr() + off)
    }
}

fn through(c: &Ctx<'_>, mw_type: ffi::ibv_mw_type::Type) -> Result<String> {
    let mut scene = Scene::new(c, mw_type, ACCESS)?;
    let base = scene.area.addr();
    scene.use_it(base)?;
    Ok("WRITE, READ and FETCH_ADD from edge to edge, 0 wrong bytes".into())
}

fn outside(c: &Ctx<'_>, mw_type: ffi::ibv_mw_type::Type) -> Result<String> {
    for (what, off, len) in [
        ("behind the region", SIZE, 1),
        ("out of the region at its end", SIZE - 10, 11),
        ("the byte before the window", START - 1, 1),
        ("into the window", START - 1, 100),
        ("the byte behind the window", START + LEN, 1),
        ("out of the window", START + LEN - 10, 11),
        ("longer than the window", START, LEN + 1),
        ("all around the window", 0, SIZE - 5),
    ] {
        let scene = Scene::new(c, mw_type, ACCESS)?;
        scene.refuses(Work::Write(scene.at(off)), len, &format!("WRITE {what}"))?;
        let scene = Scene::new(c, mw_type, ACCESS)?;
        scene.refuses(Work::Read(scene.at(off)), len, &format!("READ {what}"))?;
    }
    let scene = Scene::new(c, mw_type, ACCESS)?;
    let at = scene.at(START - 8);
    scene.refuses(Work::FetchAdd(at, 1), 8, "FETCH_ADD before the window")?;
    Ok("remote access error, nothing written".into())
}

fn read_only(c: &Ctx<'_>, mw_type: ffi::ibv_mw_type::Type) -> Result<String> {
    let mut scene = Scene::new(c, mw_type, ffi::IBV_ACCESS_REMOTE_READ)?;
    let at = scene.at(START);
    scene
        .pair
        .near
        .run(Work::Read(at), &[scene.local.sge(5, LEN)])?;
    scene.local.expect(5, scene.area.holds(START, LEN));
    scene.local.check("READ")?;
    scene.refuses(Work::Write(at), 1, "WRITE")?;
    let scene = Scene::new(c, mw_type, ffi::IBV_ACCESS_REMOTE_WRITE)?;
    scene.refuses(Work::Read(scene.at(START)), 1, "READ of a window to write")?;
    Ok("READ works, WRITE is refused; and the other way round".into())
}

fn bind_refused(c: &Ctx<'_>, mw_type: ffi::ibv_mw_type::Type) -> Result<String> {
    let good = c.area(SIZE, BINDABLE)?;
    let closed = c.area(SIZE, ALL_ACCESS)?;
    let constant = c.area(SIZE, ffi::IBV_ACCESS_REMOTE_READ | ffi::IBV_ACCESS_MW_BIND)?;
    for (what, area, off, len) in [
        ("past the region's end", &good, SIZE - 10, 11),
        ("before the region", &good, 0_usize.wrapping_sub(1), 2),
        ("a region that allows no windows", &closed, 0, SIZE),
        ("writing through a read-only region", &constant, 0, SIZE),
    ] {
        let pair = c.pair()?;
        let to = Bounds {
            mr: &area.mr,
            addr: area.addr().wrapping_add(off),
            len,
            access: ACCESS,
        };
        match Window::new(&c.env.pd, mw_type)?.bind(&pair.far, to) {
            Err(OpError::Status(_)) => {}
            Err(e) => bail!("{what}: {e}"),
            Ok(()) => bail!("{what}: bound"),
        }
    }
    Ok("each completes with an error".into())
}

fn deregister(c: &Ctx<'_>, mw_type: ffi::ibv_mw_type::Type) -> Result<String> {
    let mut scene = Scene::new(c, mw_type, ACCESS)?;
    let (area, error) = match scene.area.deregister() {
        Ok(()) => bail!("accepted"),
        Err(refusal) => refusal,
    };
    if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBUSY)) {
        bail!("refused with {error}");
    }
    scene.area = area;
    let base = scene.area.addr();
    scene.use_it(base)?;
    let Scene {
        window,
        area,
        local: _local,
        pair: _pair,
    } = scene;
    drop(window);
    match area.deregister() {
        Ok(()) => Ok(format!(
            "refused: {error}; works on; accepted without window"
        )),
        Err((_, e)) => bail!("without window: {e}"),
    }
}

fn unbound(c: &Ctx<'_>) -> Result<String> {
    let mut scene = Scene::new(c, ffi::IBV_MW_TYPE_1, ACCESS)?;
    let old = scene.at(START);
    scene.window.unbind(&scene.pair.far, &scene.area.mr)?;
    scene.bind(ACCESS)?;
    let base = scene.area.addr();
    scene.use_it(base).context("bound again")?;
    scene.refuses(Work::Write(old), 1, "WRITE with the old key")?;
    let mut scene = Scene::new(c, ffi::IBV_MW_TYPE_1, ACCESS)?;
    scene.window.unbind(&scene.pair.far, &scene.area.mr)?;
    scene.refuses(Work::Write(scene.at(START)), 1, "WRITE while unbound")?;
    Ok("refused while unbound, and with the key from before".into())
}

fn invalidated(c: &Ctx<'_>) -> Result<String> {
    for remotely in [false, true] {
        for again in [true, false] {
            let mut scene = Scene::new(c, ffi::IBV_MW_TYPE_2, ACCESS)?;
            let old = scene.at(START);
            invalidate(&scene, remotely)?;
            if again {
                scene.bind(ACCESS)?;
                let base = scene.area.addr();
                scene.use_it(base).context("bound again")?;
            }
            scene.refuses(Work::Write(old), 1, "WRITE with the old key")?;
        }
    }
    Ok("by LOCAL_INV and by SEND: the key is refused, bound again it works".into())
}

fn invalidate(scene: &Scene, remotely: bool) -> Result<()> {
    let key = scene.window.rkey();
    if !remotely {
        scene.pair.far.run(Work::Invalidate(key), &[])?;
        return Ok(());
    }
    scene.pair.far.post_recv(0, &[])?;
    scene.pair.near.run(Work::SendInvalidate(key), &[])?;
    // Whether the receive says so is not asked: in-tree rxe sets another bit than libibverbs knows.
    scene.pair.far.received.wait()?;
    Ok(())
}

/// Whoever invalidates a window that is bound to nothing gets an error, from either side.
fn not_bound(c: &Ctx<'_>) -> Result<String> {
    for remotely in [false, true] {
        let scene = Scene::new(c, ffi::IBV_MW_TYPE_2, ACCESS)?;
        invalidate(&scene, remotely)?;
        if invalidate(&scene, remotely).is_ok() {
            bail!("a second time was accepted (remotely: {remotely})");
        }
        let fresh = Window::new(&c.env.pd, ffi::IBV_MW_TYPE_2)?;
        let pair = c.pair()?;
        if pair.far.run(Work::Invalidate(fresh.rkey()), &[]).is_ok() {
            bail!("a window that was never bound was accepted");
        }
    }
    Ok("refused: invalidated already, and never bound".into())
}

/// Either the window is bound and the region stays, or the region goes and the window is not bound.
fn bound_meanwhile(c: &Ctx<'_>) -> Result<String> {
    const ROUNDS: u32 = 200;
    let mut stayed = 0;
    for round in 0..ROUNDS {
        let area = c.area(PAGE, BINDABLE)?;
        let window = Window::new(&c.env.pd, ffi::IBV_MW_TYPE_2)?;
        let pair = c.pair()?;
        let to = Bounds {
            mr: &area.mr,
            addr: area.addr(),
            len: PAGE,
            access: ACCESS,
        };
        // SAFETY: takes a number only.
        let key = unsafe { ffi::ibv_inc_rkey(window.rkey()) };
        let bind = Work::Bind(window.as_raw(), key, to.info());
        pair.far.post(&[(bind, &[])])?;
        // The moment is what is tried: around the driver's look at the request.
        let until = Instant::now() + Duration::from_micros(u64::from(round % 50) * 4);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        let left = area.deregister().err();
        let took = start.elapsed();
        if took > LATE {
            bail!(
                "round {round}: deregistering took {:.1} s",
                took.as_secs_f64()
            );
        }
        let bound = match pair.far.sent.wait() {
            Ok(_) => true,
            Err(OpError::Status(_)) => false,
            Err(e) => bail!("round {round}: {e}"),
        };
        if !bound && left.is_some() {
            bail!("round {round}: the region was kept for a window that is not bound");
        }
        stayed += u32::from(left.is_some());
        drop(window);
    }
    Ok(format!(
        "{ROUNDS} times, {stayed} of them the region stayed"
    ))
}

fn foreign(c: &Ctx<'_>) -> Result<String> {
    let mut scene = Scene::new(c, ffi::IBV_MW_TYPE_2, ACCESS)?;
    let other = c.pair()?;
    if other
        .far
        .run(Work::Invalidate(scene.window.rkey()), &[])
        .is_ok()
    {
        bail!("another queue pair could invalidate it");
    }
    let other = c.pair()?;
    let work = Work::Write(scene.at(START));
    let result = other.near.run(work, &[scene.local.sge(5, 1)]);
    ends_with(result, REFUSED, "WRITE")?;
    let base = scene.area.addr();
    scene.use_it(base).context("its own queue pair")?;
    Ok("refused; its own works on".into())
}

/// A window bound to a queue pair neither holds that up nor stays bound.
fn orphaned(c: &Ctx<'_>) -> Result<String> {
    let mut scene = Scene::new(c, ffi::IBV_MW_TYPE_2, ACCESS)?;
    let old = scene.at(START);
    let start = Instant::now();
    scene.pair = c.pair()?;
    let took = start.elapsed();
    if took > LATE {
        bail!("destroying its queue pair took {took:.1?}");
    }
    scene.bind(ACCESS).context("to the next queue pair")?;
    let base = scene.area.addr();
    scene.use_it(base).context("bound again")?;
    scene.refuses(Work::Write(old), 1, "WRITE with the old key")?;
    Ok(format!(
        "gone in {} ms, the key is refused, bound again it works",
        took.as_millis()
    ))
}

fn zero_based(c: &Ctx<'_>) -> Result<String> {
    let access = ACCESS | ffi::IBV_ACCESS_ZERO_BASED;
    let mut scene = Scene::new(c, ffi::IBV_MW_TYPE_2, access)?;
    scene.use_it(START.wrapping_neg())?;
    for (addr, len) in [(LEN, 1), (LEN - 10, 11), (0_usize.wrapping_sub(1), 1)] {
        let scene = Scene::new(c, ffi::IBV_MW_TYPE_2, access)?;
        let work = Work::Write(scene.window.remote(addr));
        scene.refuses(work, len, &format!("WRITE of {len} at {addr:#x}"))?;
    }
    Ok("address 0 is the window's start, 0 wrong bytes; refused beyond".into())
}
