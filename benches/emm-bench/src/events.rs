//! What the VM's other events cost on translated memory: munmap, mprotect, fork, migration.

use std::io;

use anyhow::{Context as _, Result, bail};
use emm_check::mem::{Map, PAGE};
use emm_check::qp::Op;

use crate::facts::Subject;
use crate::isolated;
use crate::plan::Plan;
use crate::rig::{Rig, size, small_pages, timed, touch};
use crate::traffic::{CHUNK, cover, elsewhere};
use crate::who::Who;

/// The name of the row.
pub const ROW: &str = "events";
/// Bytes: quick, full.
const SIZE: (usize, usize) = (8 << 20, 32 << 20);

/// What happens to the memory.
#[derive(Clone, Copy)]
enum Event {
    Munmap,
    Mprotect,
    Fork,
    Migrate,
}

const EVENTS: [(&str, Event); 4] = [
    ("munmap", Event::Munmap),
    ("mprotect to read-only", Event::Mprotect),
    ("fork", Event::Fork),
    ("migration to another node", Event::Migrate),
];

fn case(plan: Plan, event: &str) -> String {
    format!("{event}, {}", size(plan.pick(SIZE.0, SIZE.1)))
}

/// Measures all kinds, and the same without a region.
pub fn all(plan: Plan) -> Result<()> {
    let cases = EVENTS.map(|(name, _)| case(plan, name));
    let subjects = cases.each_ref().map(|case| Subject::new(ROW, case, "ms"));
    isolated::each(ROW, plan, &Who::ALL, &subjects)
}

/// Measures one kind.
pub fn one(plan: Plan, who: Who) -> Result<()> {
    let rig = Rig::open()?;
    for (name, event) in EVENTS {
        for round in plan.rounds() {
            let time = happen(&rig, who, event, plan.pick(SIZE.0, SIZE.1));
            Subject::new(ROW, &case(plan, name), "ms").tell(who.label(), round, time);
        }
    }
    Ok(())
}

/// Milliseconds of the event on memory that is resident and translated for writing, or after as much traffic [`elsewhere`].
fn happen(rig: &Rig, who: Who, event: Event, len: usize) -> Result<f64> {
    let map = small_pages(len)?;
    touch(&map);
    let (qp, source) = (rig.qp()?, rig.source(CHUNK)?);
    let time = match who.kind() {
        None => {
            elsewhere(rig, &qp, &source, len)?;
            cause(&map, event)?
        }
        Some(kind) => {
            let area = rig.area(kind, map)?;
            cover(&qp, Op::Write, &source, &area)?;
            cause(&area.map, event)?
        }
    };
    Ok(time * 1e3)
}

/// Seconds.
fn cause(map: &Map, event: Event) -> Result<f64> {
    let (done, time) = timed(|| match event {
        Event::Munmap => unmap(map),
        Event::Mprotect => map
            .protect(0, map.len(), libc::PROT_READ)
            .context("mprotect"),
        Event::Fork => fork(),
        Event::Migrate => Ok(()),
    });
    done?;
    match event {
        Event::Migrate => migrate(map),
        // What was unmapped is mapped again: the mapping's owner unmaps it once more.
        Event::Munmap => {
            map.renew(0, map.len()).context("mapping again")?;
            Ok(time.as_secs_f64())
        }
        _ => Ok(time.as_secs_f64()),
    }
}

fn unmap(map: &Map) -> Result<()> {
    // SAFETY: the caller maps something else there before anybody looks.
    if unsafe { libc::munmap(map.addr() as *mut libc::c_void, map.len()) } != 0 {
        return Err(io::Error::last_os_error()).context("munmap");
    }
    Ok(())
}

/// A child that ends at once.
fn fork() -> Result<()> {
    // SAFETY: the child calls nothing but _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("fork"),
        // SAFETY: it ends the child without anything else of this program.
        0 => unsafe { libc::_exit(0) },
        child => {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            if unsafe { libc::waitpid(child, &mut status, 0) } != child {
                return Err(io::Error::last_os_error()).context("waiting for the child");
            }
            Ok(())
        }
    }
}

/// Seconds to move all pages to the node where they are not.
fn migrate(map: &Map) -> Result<f64> {
    let pages: Vec<usize> = (0..map.len() / PAGE)
        .map(|page| map.addr() + page * PAGE)
        .collect();
    let here = moved(&pages, None)?[0];
    if here < 0 {
        bail!("move_pages says {here} of the first page");
    }
    let to = vec![1 - here; pages.len()];
    let (done, time) = timed(|| moved(&pages, Some(&to)));
    let left = done?.into_iter().filter(|node| *node != to[0]).count();
    // Pinned pages stay where they are: that is the result.
    if left > 0 {
        bail!("{left} of {} pages can't be moved", pages.len());
    }
    Ok(time.as_secs_f64())
}

/// Moves pages to nodes, or asks for them. Returns the nodes, or a negative error for a page.
fn moved(pages: &[usize], nodes: Option<&[i32]>) -> Result<Vec<i32>> {
    const MPOL_MF_MOVE: i32 = 2;
    let mut status = vec![0i32; pages.len()];
    let nodes = nodes.map_or(std::ptr::null(), <[i32]>::as_ptr);
    // SAFETY: all three arrays have an element for each page.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes,
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error()).context("move_pages (it needs two NUMA nodes)");
    }
    Ok(status)
}
