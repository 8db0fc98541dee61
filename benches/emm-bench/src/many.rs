//! Many regions: what each costs, and what they cost a munmap that none of them is concerned with.

use anyhow::{Context as _, Result};
use emm_check::mem::{Map, PAGE};
use emm_check::verbs::Mr;

use crate::facts::Subject;
use crate::isolated::{self, Case};
use crate::plan::Plan;
use crate::rig::{Rig, micros, small_pages, timed, touch};
use crate::who::{Kind, Who};

/// The name of the row about registration.
pub const MANY: &str = "many";
/// The name of the row about munmap.
pub const MUNMAP: &str = "munmap";
/// Numbers of regions: quick, full.
const REGIONS: (&[usize], &[usize]) = (&[100, 1_000, 10_000], &[10, 100, 1_000, 10_000, 100_000]);
/// Times that an unrelated page is unmapped: quick, full.
const UNMAPS: (usize, usize) = (100, 500);
/// Bytes that one page table maps.
const TABLE: usize = 2 << 20;
const STEPS: [&str; 2] = ["register", "deregister"];
const WHOS: [Who; 3] = [Who::Pinned, Who::Odp, Who::Emm];

fn numbers(plan: Plan) -> &'static [usize] {
    plan.pick(REGIONS.0, REGIONS.1)
}

/// The case of `count` regions in `step`.
fn many_case(step: &str, count: usize) -> String {
    format!("{step}, each of {count} of 4 KiB")
}

/// The case of a munmap beside `count` regions.
fn munmap_case(count: usize) -> String {
    format!("munmap of a page beside {count} regions")
}

/// Registers and deregisters, with each kind, each number in a process of its own: in one that has freed 10^5 regions each of the
/// next ones takes 0.5 ms longer, however long the kernel is left to itself before. (The C library's allocator, by all signs.)
pub fn all(plan: Plan) -> Result<()> {
    let names: Vec<[String; 2]> = numbers(plan)
        .iter()
        .map(|count| STEPS.map(|step| many_case(step, *count)))
        .collect();
    let cases: Vec<Case<'_>> = names
        .iter()
        .map(|pair| Case {
            subjects: pair.iter().map(|c| Subject::new(MANY, c, "µs")).collect(),
            rounds: 1,
        })
        .collect();
    isolated::each_case(MANY, plan, &WHOS, &cases)
}

/// The same with one kind, and the number of regions that has the number `case`.
pub fn one(plan: Plan, who: Who, case: usize) -> Result<()> {
    let count = *numbers(plan)
        .get(case)
        .with_context(|| format!("there is no case {case}"))?;
    let rig = Rig::open()?;
    let kind = who.kind().context("this row is about regions")?;
    // The first one of an address space sets its notifier up.
    let first = small_pages(PAGE)?;
    let _stays = register(&rig, kind, &first)?;
    for round in plan.rounds() {
        let field = small_pages(count * PAGE)?;
        let (regions, begins) = timed(|| register(&rig, kind, &field));
        let regions = regions?;
        let ((), ends) = timed(|| drop(regions));
        for (step, time) in STEPS.into_iter().zip([begins, ends]) {
            Subject::new(MANY, &many_case(step, count), "µs")
                .on(step, count)
                .tell(who.label(), round, Ok(micros(time) / count as f64));
        }
    }
    Ok(())
}

/// Unmaps a page beside many regions, with each kind, and first without any.
pub fn munmap_all(plan: Plan) -> Result<()> {
    let cases: Vec<String> = numbers(plan).iter().map(|n| munmap_case(*n)).collect();
    let subjects: Vec<_> = cases
        .iter()
        .map(|c| Subject::new(MUNMAP, c, "µs"))
        .collect();
    isolated::each(
        MUNMAP,
        plan,
        &[Who::None, Who::Pinned, Who::Odp, Who::Emm],
        &subjects,
    )
}

/// The same with one kind.
pub fn munmap_one(plan: Plan, who: Who) -> Result<()> {
    let rig = Rig::open()?;
    for (round, count) in plan.turns(numbers(plan)) {
        let field = small_pages(count * PAGE)?;
        let _regions = match who.kind() {
            Some(kind) => register(&rig, kind, &field)?,
            None => Vec::new(),
        };
        Subject::new(MUNMAP, &munmap_case(count), "µs")
            .on("munmap of a page", count)
            .tell_all(who.label(), round, unmap(plan.pick(UNMAPS.0, UNMAPS.1)));
    }
    Ok(())
}

/// A region for each page of `field`.
fn register(rig: &Rig, kind: Kind, field: &Map) -> Result<Vec<Mr>> {
    kind.select()?;
    let mut regions = Vec::with_capacity(field.len() / PAGE);
    for off in (0..field.len()).step_by(PAGE) {
        let region = rig
            .register(kind, field.addr() + off, PAGE)
            .with_context(|| format!("registering region {}", regions.len()))?;
        regions.push(region);
    }
    Ok(regions)
}

/// Microseconds to unmap a touched page, `times` times. Another one that stays keeps their page table: else what chance has laid
/// beside them decides whether that goes too, which takes as long again.
pub fn unmap(times: usize) -> Result<Vec<f64>> {
    let around = small_pages(TABLE)?;
    around.write(0, &[1]);
    let page = around.addr() + TABLE / 2;
    let times = (0..times)
        .map(|_| {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let map = Map::with(page, PAGE, access, 0, -1).context("mapping a page")?;
            touch(&map);
            let ((), time) = timed(|| drop(map));
            Ok(micros(time))
        })
        .collect();
    // Never unmapped: by now something else can lie in its hole.
    std::mem::forget(around);
    times
}
