//! `verbs`: what the device can do on a region beyond plain READ, WRITE and SEND, one module per family. Each case compares
//! whole regions with a model, and after each family the kernel's log is read.

mod advise;
mod area;
pub mod datagram;
mod extended;
mod input;
pub mod killed;
mod late;
mod lookup;
mod memcg;
mod mixed;
mod rereg;
mod responder;
mod ring;
mod sight;
pub mod srq;
mod teardown;
pub mod window;
mod windows;

use std::io;

use anyhow::{Context as _, Result, bail};

use crate::ffi;
use crate::kmsg::Journal;
use crate::pair::Pair;
use crate::qp::OpError;
use crate::system::Kind;
use crate::target::Env;
use area::Area;

/// The families by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// ATOMIC_WRITE and FLUSH
    Extended,
    /// Messages of unreliable datagram queue pairs
    Datagram,
    /// Receives from a shared receive queue
    Srq,
    /// Memory windows of type 1 and 2
    Windows,
    /// Another protection domain, other access
    Rereg,
    /// Pinned and unpinned elements in one request
    Mixed,
    /// Prefetching
    Advise,
    /// What must be refused
    Input,
    /// What must be refused, written into a mapped send queue
    Ring,
    /// What must not harm the responder
    Responder,
    /// The table's memory is charged to its owner
    Memcg,
    /// Queue pairs destroyed with work in flight
    Teardown,
    /// Queue pairs destroyed while a packet looks for them: more than teardown has time for
    Lookup,
    /// Pages that come late: what waits goes on where it was
    Late,
    /// Counters, resources, debugfs and trace events
    Sight,
}

/// Those that are run if none is named. Teardown has some of [`Family::Lookup`].
const ALL: [Family; 14] = [
    Family::Extended,
    Family::Datagram,
    Family::Srq,
    Family::Windows,
    Family::Rereg,
    Family::Mixed,
    Family::Advise,
    Family::Input,
    Family::Ring,
    Family::Responder,
    Family::Memcg,
    Family::Teardown,
    Family::Late,
    Family::Sight,
];

/// What a case works with.
pub struct Ctx<'a> {
    env: &'a Env,
    kind: Kind,
    family: &'static str,
}

impl Ctx<'_> {
    /// Reports one case.
    fn case(&self, name: &str, outcome: Result<String>) {
        let required = self.env.report.requires(self.kind);
        self.env
            .report
            .case(self.kind.label(), self.family, name, required, outcome);
    }

    /// A region of the kind under test, of `size` untouched bytes.
    fn area(&self, size: usize, access: u32) -> Result<Area> {
        Area::new(&self.env.pd, size, access | self.kind.flags())
    }

    /// A pinned region.
    fn pinned(&self, size: usize) -> Result<Area> {
        Area::new(&self.env.pd, size, crate::verbs::ALL_ACCESS)
    }

    /// Two connected queue pairs.
    fn pair(&self) -> Result<Pair> {
        Pair::new(&self.env.pd, self.env.mtu, None)
    }

    /// Another seed for every `n`.
    fn seed(&self, n: u64) -> u64 {
        self.env.seed.wrapping_mul(1_000_003).wrapping_add(n)
    }
}

/// Runs the named families, or all.
pub fn run(env: &Env, kind: Kind, names: &[Family]) {
    let names = if names.is_empty() { &ALL[..] } else { names };
    for &family in names {
        let (name, f): (_, fn(&Ctx<'_>) -> Result<()>) = match family {
            Family::Extended => ("extended", extended::extended),
            Family::Datagram => ("datagram", datagram::datagram),
            Family::Srq => ("srq", srq::srq),
            Family::Windows => ("windows", windows::windows),
            Family::Rereg => ("rereg", rereg::rereg),
            Family::Mixed => ("mixed", mixed::mixed),
            Family::Advise => ("advise", advise::advise),
            Family::Input => ("input", input::input),
            Family::Ring => ("ring", ring::ring),
            Family::Responder => ("responder", responder::responder),
            Family::Memcg => ("memcg", memcg::memcg),
            Family::Teardown => ("teardown", teardown::teardown),
            Family::Lookup => ("lookup", lookup::lookup),
            Family::Late => ("late", late::late),
            Family::Sight => ("sight", sight::sight),
        };
        if kind.resolve() != Kind::Emm && matches!(family, Family::Memcg | Family::Sight) {
            env.report.skip(name, "ib_emm is what is looked at", false);
            continue;
        }
        let ctx = Ctx {
            env,
            kind,
            family: name,
        };
        let work = || {
            let mut journal = Journal::open(&env.device).context("opening the kernel's log")?;
            f(&ctx)?;
            ctx.case("the kernel's log", journal.quiet());
            Ok(())
        };
        if let Err(e) = work() {
            // A failed preparation is not a fact about the region, but must not pass silently.
            ctx.case("preparation", Err(e));
        }
    }
}

/// That `result` is a completion with `status`.
fn ends_with(result: Result<ffi::ibv_wc, OpError>, status: u32, what: &str) -> Result<()> {
    match result {
        Err(OpError::Status(s)) if s == status => Ok(()),
        Err(e) => bail!("{what}: {e}, expected status {status}"),
        Ok(_) => bail!("{what}: completed with success"),
    }
}

/// That a verb was refused, with one of `errnos`.
fn refused<T>(result: io::Result<T>, errnos: &[i32], what: &str) -> Result<()> {
    match result {
        Ok(_) => bail!("{what}: accepted"),
        Err(e) if e.raw_os_error().is_some_and(|n| errnos.contains(&n)) => Ok(()),
        Err(e) => bail!("{what}: {e}, expected an errno of {errnos:?}"),
    }
}
