//! From sources and packages to what a guest starts from: the root, a stock kernel, our modules, and the
//! guest's programs. Each is a step of the cache.

mod chosen;
mod cmake;
mod debian;
pub mod debug;
mod features;
mod fetch;
pub mod forky;
pub mod kernel;
mod key;
pub mod mail;
pub mod modules;
pub mod packages;
pub mod programs;
pub mod root;
pub mod rxe;
pub mod selftests;
mod sources;
pub mod steps;
mod superseded;
pub mod userland;
pub mod versions;
mod xpmem;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::artifacts::{Artifacts, KernelArtifacts};
use crate::cache::{Cache, CacheLock};
use crate::context::Context;
use crate::host;
use crate::side_by_side::side_by_side;
use crate::ui::Ui;

use self::modules::Variant;
use self::rxe::Rxe;

pub use self::sources::{Frozen, HANDED as SOURCES_HANDED, require as require_sources};

/// The repository that this tool was built from.
pub fn workspace() -> PathBuf {
    host::checkout()
}

/// The sources that everything is made of: as they were when they were frozen, if they are.
pub fn sources() -> PathBuf {
    sources::repository()
}

/// The choice of a kernel, common to all that build or boot.
#[derive(Debug, Clone, Default, Args)]
pub struct KernelArg {
    /// Kernel series (7.3, 7.2), a full version, `newest` of whatever series, each with `-rt` behind it for the flavour with
    /// PREEMPT_RT, or `debug`: one built here with KASAN, lockdep, kmemleak and fault injection
    /// [default: the newest series of those that is complete, or else the newest kernel]
    #[arg(long = "kernel", value_name = "SERIES")]
    pub kernel: Option<String>,
}

/// `build`
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    /// Which kernel.
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Ask the archive again for the newest kernel of the series instead of using the cached one, and make a root anew that is
    /// older than four weeks
    #[arg(long)]
    pub refresh: bool,
    /// Which driver.
    #[command(flatten)]
    pub rxe: RxeArg,
}

/// The choice of a driver, common to all that build or boot.
#[derive(Debug, Clone, Default, Args)]
pub struct RxeArg {
    /// Which series of kernel/rxe make the driver rdma_rxe
    #[arg(long = "rxe", value_enum, default_value_t, value_name = "SERIES")]
    pub rxe: Rxe,
}

/// What to build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// A kernel series, a full version or [`debug::NAME`]; the newest complete series if not given.
    pub kernel: Option<String>,
    /// Whether to ask the archive again for the newest version of the series.
    pub refresh: bool,
    /// Which modules.
    pub modules: Variant,
}

/// Whether the kernel `wanted` is in the cache as it would be built now; its modules may be older.
pub fn has_kernel(context: &Context, wanted: Option<&str>) -> bool {
    kernel::remembered(context, wanted).is_some_and(|chosen| {
        context
            .cache
            .is_fresh(&chosen.place(), &kernel::key(context, &chosen))
    })
}

/// `build`
pub fn run(context: &Context, args: &BuildArgs) -> Result<Artifacts> {
    let options = BuildOptions {
        kernel: args.kernel.kernel.clone(),
        refresh: args.refresh,
        modules: Variant::of(args.rxe.rxe),
    };
    ensure(context, &options)
}

/// Builds what is missing or outdated, and returns where everything is.
pub fn ensure(context: &Context, options: &BuildOptions) -> Result<Artifacts> {
    let wanted = options.kernel.as_deref();
    let variant = &options.modules;
    kernel::check_choice(wanted)?;
    host::require_architecture()?;
    sources::require()?;
    settle(
        &context.cache,
        &context.ui,
        options.refresh,
        |lock| fresh(context, wanted, variant, lock),
        |lock, refresh| {
            context.cache.sweep(lock)?;
            build(context, &[wanted], variant, refresh)?;
            superseded::remove(context, lock)
        },
    )
    .inspect(|_| root::offer(context))
}

/// [`ensure`] for guests that run at the same time and are made of different things.
pub fn ensure_each(context: &Context, options: &[BuildOptions]) -> Result<Vec<Artifacts>> {
    loop {
        // Each by itself at first: what is used keeps the cache locked, and what has to be built takes it alone.
        for options in options {
            drop(ensure(context, options)?);
        }
        let found = options.iter().map(|options| {
            let lock = context.cache.lock_shared(&context.ui)?;
            fresh(context, options.kernel.as_deref(), &options.modules, lock)
        });
        if let Some(all) = found.collect::<Result<Option<Vec<_>>>>()? {
            return Ok(all);
        }
    }
}

/// The series of kernels that the tests run on: those that are known, as far as the archive still has them, or else the newest.
pub fn series(context: &Context) -> Result<Vec<String>> {
    let known = versions::known();
    if !known.is_empty() && known.iter().all(|series| has_kernel(context, Some(series))) {
        return Ok(known);
    }
    host::require_architecture()?;
    let _lock = context.cache.lock_exclusive(&context.ui)?;
    root::ensure(context, false)?;
    kernel::at_hand(context)
}

/// Builds what several kernels lack at once, for those who will ask for each of them. [`ensure`] says where everything is.
pub fn ahead(context: &Context, kernels: &[&str]) -> Result<()> {
    host::require_architecture()?;
    sources::require()?;
    let variant = Variant::default();
    let mut missing = Vec::new();
    for kernel in kernels {
        kernel::check_choice(Some(kernel))?;
        let lock = context.cache.lock_shared(&context.ui)?;
        if fresh(context, Some(kernel), &variant, lock)?.is_none() {
            missing.push(Some(*kernel));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let lock = context.cache.lock_exclusive(&context.ui)?;
    context.cache.sweep(&lock)?;
    build(context, &missing, &variant, false)
}

/// What `fresh` finds under the shared lock, which it keeps; if that is nothing, or `refresh` is asked for, `make` makes it
/// under the exclusive lock first.
///
/// No lock is held while another is waited for: this run would wait for itself.
fn settle<T>(
    cache: &Cache,
    ui: &Ui,
    mut refresh: bool,
    fresh: impl Fn(CacheLock) -> Result<Option<T>>,
    make: impl Fn(&CacheLock, bool) -> Result<()>,
) -> Result<T> {
    loop {
        if !refresh {
            if let Some(found) = fresh(cache.lock_shared(ui)?)? {
                return Ok(found);
            }
        }
        let lock = cache.lock_exclusive(ui)?;
        make(&lock, refresh)?;
        refresh = false;
        // Between the locks another run may change the cache, so what is there is looked at again.
        drop(lock);
    }
}

/// What is in the cache, if all of it was made from the inputs as they are now.
fn fresh(
    context: &Context,
    wanted: Option<&str>,
    variant: &Variant,
    lock: CacheLock,
) -> Result<Option<Artifacts>> {
    let cache = &context.cache;
    let Some(chosen) = kernel::remembered(context, wanted) else {
        return Ok(None);
    };
    let place = variant.place(&chosen.release);
    let all = cache.is_fresh(root::PLACE, &root::key())
        && cache.is_fresh(&chosen.place(), &kernel::key(context, &chosen))
        && cache.is_fresh(&place, &variant.key(&kernel::key(context, &chosen))?)
        && cache.is_fresh(userland::PLACE, &userland::key(context)?);
    if !all {
        return Ok(None);
    }
    let kernel = kernel::Prepared::at(context, chosen);
    Ok(Some(Artifacts {
        root: root::tree(context),
        userland: cache.path(userland::PLACE),
        kernel: KernelArtifacts {
            series: kernel.chosen.series.clone(),
            version: kernel.chosen.release.clone(),
            debug: kernel.chosen.is_debug(),
            new: kernel.chosen.is_new(),
            vmlinuz: kernel.modules.join("vmlinuz"),
            modules: kernel.modules,
            emm: cache.path(place),
        },
        lock,
    }))
}

/// What is made in the root, each for itself.
enum Part {
    /// A kernel, and the modules for it.
    Kernel(chosen::Chosen),
    /// The guest's programs.
    Programs,
}

/// Makes the parts of all `wanted` kernels side by side: none of them keeps two CPUs busy all the time.
fn build(
    context: &Context,
    wanted: &[Option<&str>],
    variant: &Variant,
    refresh: bool,
) -> Result<()> {
    root::ensure(context, refresh)?;
    let mut parts = Vec::new();
    for kernel in wanted {
        let chosen = kernel::resolve(context, *kernel, refresh)?;
        // One after the other: apt locks its folders.
        kernel::download(context, &chosen)?;
        parts.push(Part::Kernel(chosen));
    }
    userland::download(context)?;
    parts.push(Part::Programs);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    side_by_side(parts, cpus, |(): &mut (), part| {
        match part {
            Part::Kernel(chosen) => {
                let kernel = kernel::ensure(context, chosen)?;
                modules::ensure(context, &kernel, variant)?;
            }
            Part::Programs => {
                userland::ensure(context)?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::mpsc;
    use std::time::Duration;

    /// How often something is made and looked at, until it is settled.
    fn settled(refresh: bool, there: bool) -> (u32, u32) {
        let (send, receive) = mpsc::channel();
        // In a thread, so that a run that waits for itself fails here and does not stay.
        std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::locate(Some(dir.path())).unwrap();
            let (made, looked) = (Cell::new(0), Cell::new(0));
            let fresh = |lock| {
                looked.set(looked.get() + 1);
                Ok((there || made.get() > 0).then_some(lock))
            };
            let make = |_: &CacheLock, again| {
                assert_eq!(again, refresh);
                made.set(made.get() + 1);
                Ok(())
            };
            settle(&cache, &Ui::new(false), refresh, fresh, make).unwrap();
            send.send((made.get(), looked.get())).unwrap();
        });
        let limit = Duration::from_secs(60);
        receive.recv_timeout(limit).expect("it waits for itself")
    }

    #[test]
    fn a_refresh_does_not_wait_for_its_own_lock() {
        assert_eq!(settled(true, true), (1, 1));
        assert_eq!(settled(true, false), (1, 1));
        assert_eq!(settled(false, false), (1, 2));
        assert_eq!(settled(false, true), (0, 1));
    }
}
