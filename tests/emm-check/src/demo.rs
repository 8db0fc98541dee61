//! `demo`: the facts of the project's demonstration, in the order they are shown.

use std::path::Path;

use crate::events::{self, Event};
use crate::system::Kind;
use crate::target::Env;
use crate::verify::{self, Matrix, Verb};
use crate::{each, programs, reg, sweep};

/// Runs all of it with a big region of `size` bytes.
pub fn demo(env: &Env, size: usize, shim: &Path) {
    let r = &env.report;
    let mib = size >> 20;
    r.phase(&format!("Registration of {mib} MiB, three ways"));
    each(
        &env.report,
        false,
        &[Kind::Pinned, Kind::Odp, Kind::Emm],
        |kind| reg::reg(env, kind, size),
    );

    r.phase(&format!(
        "RDMA WRITE and READ over all of {mib} MiB at odd offsets and lengths (EMM)"
    ));
    each(&env.report, false, &[Kind::Emm], |kind| {
        sweep::sweep(env, kind, size)
    });

    r.phase("Every offset in the page with every length: pinned, in-tree ODP, EMM");
    let matrix = Matrix {
        verbs: vec![Verb::Write, Verb::Read, Verb::Send],
        offsets: vec![0, 1, 63, 100, 1000, 2048, 4095],
        lengths: vec![1, 7, 64, 1000, 4096, 4097, 8192, 65_537],
        iova: false,
        fresh: vec![false],
        qps: 1,
    };
    each(
        &env.report,
        false,
        &[Kind::Pinned, Kind::Odp, Kind::Emm],
        |kind| verify::verify(env, kind, &matrix),
    );

    r.phase("What the VM may now do to registered memory (EMM)");
    each(&env.report, false, &[Kind::Emm], |kind| {
        events::run(
            env,
            kind,
            &[Event::Pageout, Event::Fork, Event::Remap, Event::Hole],
        );
        Ok(())
    });

    r.phase("Unmodified programs, pinned and through the shim");
    each(&env.report, false, &[Kind::Emm], |_| {
        programs::demo(env, shim);
        Ok(())
    });
}
