//! READs of cold memory one after the other: in which order, and where the pages are.

use std::fs;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use emm_check::counters::counters;
use emm_check::ffi;
use emm_check::mem::{Map, PAGE, Rng};
use emm_check::private::Advise;
use emm_check::qp::{Op, Qp};
use emm_check::swap::disk_folder;
use emm_check::swap::ensure_swap;

use crate::facts::{Subject, again};
use crate::plan::Plan;
use crate::probe::Probe;
use crate::rig::{Area, Rig, micros, small_pages, timed, touch};
use crate::traffic::Stream;
use crate::who::{KINDS, Kind};

/// Bytes of the memory: quick, full. Each page is read once.
const FIELD: (usize, usize) = (2 << 20, 16 << 20);
/// Pages between two READs, where they are strided.
const STRIDE: usize = 17;
/// Counters of rxe that grow when a packet is sent again.
const AGAIN: [&str; 3] = ["duplicate_request", "out_of_seq_request", "rcvd_seq_err"];

/// Where the pages are.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Nowhere,
    Memory,
    Zram,
    File,
}

const PLACES: [(&str, Place); 4] = [
    ("untouched", Place::Nowhere),
    ("resident, untranslated", Place::Memory),
    ("in zram swap", Place::Zram),
    ("in a file", Place::File),
];
const ORDERS: [&str; 3] = ["sequential", "strided", "random"];

/// Measures all places and orders.
pub fn run(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    let probe = Probe::new()?;
    let scene = Scene {
        rig: &rig,
        probe: &probe,
        qp: rig.qp()?,
        sink: rig.source(PAGE)?,
        field: plan.pick(FIELD.0, FIELD.1),
    };
    for (name, place) in PLACES {
        for order in ORDERS {
            // For a first look, one order tells most.
            if plan.quick && place != Place::Nowhere && order != "random" {
                continue;
            }
            let case = format!("{order} 4 KiB READs, {name}");
            for round in plan.rounds() {
                let times = scene.by_cpu(place, order);
                Subject::new("patterns", &case, "µs").tell_all("none", round, times);
            }
            for (round, kind) in plan.turns(&KINDS) {
                tell(&case, kind, round, &scene.read(kind, place, order, false));
            }
        }
    }
    for (name, place) in PLACES.into_iter().take(plan.pick(1, PLACES.len())) {
        let case = format!("random 4 KiB READs, {name}, prefetched");
        for (round, kind) in plan.turns(&KINDS[1..]) {
            let outcome = scene.read(kind, place, "random", true);
            tell(&case, kind, round, &outcome);
            let time = again(&outcome).map(|o| o.prefetch);
            Subject::new("patterns", &case, "ms of prefetching first").tell(
                kind.label(),
                round,
                time,
            );
        }
    }
    Ok(())
}

fn tell(case: &str, kind: Kind, round: u32, outcome: &Result<Seen>) {
    let subject = Subject::new("patterns", case, "µs");
    subject.tell_all(kind.label(), round, again(outcome).map(|o| o.times.clone()));
    let one = |unit, pick: fn(&Seen) -> f64| {
        subject
            .in_unit(unit)
            .tell(kind.label(), round, again(outcome).map(pick));
    };
    one("fault calls a MiB", |o| o.faults);
    one("packets sent again", |o| o.resent);
}

/// What is the same for all.
struct Scene<'a> {
    rig: &'a Rig,
    probe: &'a Probe,
    qp: Qp,
    sink: Area,
    field: usize,
}

/// What was seen.
struct Seen {
    /// Microseconds of each READ.
    times: Vec<f64>,
    /// Milliseconds of the prefetching before them.
    prefetch: f64,
    faults: f64,
    resent: f64,
}

impl Scene<'_> {
    fn read(&self, kind: Kind, place: Place, order: &str, prefetch: bool) -> Result<Seen> {
        let map = self.memory(place)?;
        let area = self.rig.area(kind, map)?;
        // Pinned memory does not go; the others' does after the registration as before.
        self.leave(&area.map, place)?;
        let (faults, resent) = (self.probe.calls()?, resent_now());
        let (done, prefetching) = timed(|| {
            if prefetch {
                self.prefetch(&area)?;
            }
            anyhow::Ok(())
        });
        done?;
        let times: Result<Vec<f64>> = pages(order, self.field / PAGE)
            .into_iter()
            .map(|page| {
                let stream = Stream {
                    qp: &self.qp,
                    op: Op::Read,
                    local: (&self.sink, 0),
                    remote: (&area, page * PAGE),
                    len: PAGE,
                };
                Ok(micros(stream.once()?))
            })
            .collect();
        let mib = self.field as f64 / f64::from(1 << 20);
        Ok(Seen {
            times: times?,
            prefetch: prefetching.as_secs_f64() * 1e3,
            faults: (self.probe.calls()? - faults) as f64 / mib,
            resent: (resent_now() - resent) as f64,
        })
    }

    /// Microseconds of the CPU's reading each of the same pages.
    fn by_cpu(&self, place: Place, order: &str) -> Result<Vec<f64>> {
        let map = self.memory(place)?;
        self.leave(&map, place)?;
        let mut page = [0; PAGE];
        let read = |at: usize| micros(timed(|| map.read(at * PAGE, &mut page)).1);
        Ok(pages(order, self.field / PAGE)
            .into_iter()
            .map(read)
            .collect())
    }

    /// Sends pages there, where they can go only once they are filled.
    fn leave(&self, map: &Map, place: Place) -> Result<()> {
        if place == Place::Zram {
            map.advise(0, self.field, libc::MADV_PAGEOUT)
                .context("MADV_PAGEOUT")?;
        }
        Ok(())
    }

    /// Memory whose pages are at `place`, or will be.
    fn memory(&self, place: Place) -> Result<Map> {
        match place {
            Place::Nowhere => small_pages(self.field),
            Place::Memory => {
                let map = small_pages(self.field)?;
                touch(&map);
                Ok(map)
            }
            Place::Zram => {
                ensure_swap()?;
                let map = small_pages(self.field)?;
                // All of one byte would be no data for zram.
                map.fill(0, self.field, 1, 0);
                Ok(map)
            }
            Place::File => cold_file(self.field),
        }
    }

    fn prefetch(&self, area: &Area) -> Result<()> {
        let element = ffi::ibv_sge {
            addr: area.map.addr() as u64,
            length: self.field as u32,
            lkey: area.local(0).key,
        };
        Advise::find()?
            .give(
                self.rig.pd(),
                ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE,
                ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH,
                &[element],
            )
            .context("ibv_advise_mr")
    }
}

/// A shared mapping of a file on a file system with a disk, whose pages are not in memory.
fn cold_file(len: usize) -> Result<Map> {
    let path = format!("{}/patterns", disk_folder()?);
    fs::write(&path, vec![7; len]).with_context(|| format!("writing {path}"))?;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {path}"))?;
    file.sync_all().with_context(|| format!("syncing {path}"))?;
    // SAFETY: a descriptor of our own.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    Map::with(0, len, access, libc::MAP_SHARED, file.as_raw_fd()).context("mapping a file")
}

/// Each page once.
fn pages(order: &str, count: usize) -> Vec<usize> {
    let mut pages: Vec<usize> = (0..count).collect();
    match order {
        "strided" => pages
            .iter_mut()
            .for_each(|page| *page = *page * STRIDE % count),
        "random" => {
            let mut rng = Rng(1);
            for at in (1..count).rev() {
                pages.swap(at, rng.below(at + 1));
            }
        }
        _ => {}
    }
    pages
}

/// Packets that rxe has sent again so far, as far as it counts them.
fn resent_now() -> u64 {
    let counted = counters();
    AGAIN.iter().filter_map(|name| counted.get(*name)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_reads_each_page_once() {
        for order in ORDERS {
            let mut pages = pages(order, 512);
            pages.sort_unstable();
            assert_eq!(pages, (0..512).collect::<Vec<_>>(), "{order}");
        }
    }
}
