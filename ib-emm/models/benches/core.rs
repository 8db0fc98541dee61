// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the decisions of a region cost on the host: a look-up in the table, an invalidation, a fault. Memory management, locks and
//! packets are not in it: `soft-roce-setup bench` measures those in a guest.
//!
//! `cargo bench -p ib-emm-models`

use std::hint::black_box;
use std::pin::pin;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use ib_emm::emm::{Begin, Finish, Frame, Geometry, PART_PAGES, PageRange, Pool, Table, Window};
use ib_emm_models::{HostGate, HostNodes};

/// Pages of a GiB.
const GIB: u64 = 1 << 18;

/// A region of `pages` pages at a huge page's boundary.
fn region(pages: u64, mem: &HostNodes) -> HostGate {
    let geometry = Geometry::new(1 << 40, pages << 12).expect("the range is no empty one");
    HostGate::new(geometry, mem.clone())
}

/// One fault of all of `want`, as the kernel's thread does it: begin, ask the VM, finish.
fn fault(region: &HostGate, mem: &HostNodes, want: PageRange, write: bool) {
    let window = pin!(Window::new(region.clone()));
    let window = window.as_ref();
    let mut pool = Pool::new(mem);
    let begin = window.lock().begin_fault(want, write, true);
    let Begin::Go(plan, nodes) = begin else {
        panic!("nobody else is here: {begin:?}");
    };
    assert!(pool.fill(nodes), "the host has memory");
    let frame = |page| Frame {
        pfn: page + 7,
        writable: write,
    };
    let frames: Vec<_> = (plan.start..plan.end).map(frame).collect();
    let mut state = window.lock();
    let end = state.finish_fault(want, frames.into_iter(), false, &mut pool);
    assert_eq!(end, Finish::Installed);
}

/// A region that is translated whole.
fn translated(pages: u64, mem: &HostNodes) -> HostGate {
    let region = region(pages, mem);
    for start in (0..pages).step_by(PART_PAGES as usize) {
        let mut page = start;
        let end = (start + PART_PAGES).min(pages);
        while page < end {
            if region.read().has(page, true) {
                page += 1;
            } else {
                fault(&region, mem, PageRange::new(page, page + 1), true);
            }
        }
    }
    region
}

/// What each page of a packet costs when it is translated.
fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("table look-up");
    let mem = HostNodes::default();
    for (name, pages) in [("2 MiB", PART_PAGES), ("64 MiB", GIB / 16), ("1 GiB", GIB)] {
        let region = translated(pages, &mem);
        let region = region.read();
        let mut page = 0;
        group.bench_function(BenchmarkId::new("random page", name), |b| {
            b.iter(|| {
                page = (page + 40_503) % pages;
                black_box(region.access(black_box(page), true))
            });
        });
    }
    let empty: Table<HostNodes> = Table::new(1 << 36, mem);
    group.bench_function("miss in an empty implicit region", |b| {
        b.iter(|| black_box(empty.access(black_box(1 << 35), false)));
    });
    group.finish();
}

/// What MADV_DONTNEED costs a region, for each length.
fn invalidate(c: &mut Criterion) {
    let mut group = c.benchmark_group("invalidate");
    let mem = HostNodes::default();
    for (name, pages) in [("4 KiB", 1), ("2 MiB", PART_PAGES), ("64 MiB", GIB / 16)] {
        group.throughput(Throughput::Elements(pages));
        group.bench_function(BenchmarkId::new("translated", name), |b| {
            b.iter_batched_ref(
                || translated(pages, &mem),
                |region| {
                    let range = PageRange::new(0, pages);
                    region.write(|mut state| {
                        state.as_mut().hold(range);
                        let mut rest = range;
                        while state.as_mut().clear_next(&mut rest, |entry| {
                            black_box(entry);
                        }) {}
                        assert!(state.unhold(range), "it was held off");
                    });
                },
                BatchSize::LargeInput,
            );
        });
    }
    let region = region(GIB, &mem);
    group.throughput(Throughput::Elements(GIB));
    group.bench_function("1 GiB, nothing translated", |b| {
        b.iter(|| {
            let range = PageRange::new(0, GIB);
            region.write(|mut state| {
                state.as_mut().hold(range);
                let mut rest = range;
                while state.as_mut().clear_next(&mut rest, |_| {}) {}
                assert!(state.unhold(range), "it was held off");
            });
        });
    });
    group.finish();
}

/// What a fault costs beside the VM's own part.
fn window(c: &mut Criterion) {
    let mut group = c.benchmark_group("fault window");
    let mem = HostNodes::default();
    group.bench_function("one page, its part's first", |b| {
        b.iter_batched_ref(
            || region(GIB, &mem),
            |region| fault(region, &mem, PageRange::one(GIB / 2), true),
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(PART_PAGES));
    group.bench_function("a part of 512 pages at once", |b| {
        b.iter_batched_ref(
            || region(GIB, &mem),
            |region| fault(region, &mem, PageRange::new(0, PART_PAGES), true),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    look_up(&mut criterion);
    invalidate(&mut criterion);
    window(&mut criterion);
    criterion.final_summary();
}
