//! The modules: `ib_emm.ko`, XPMEM on it, its C client for tests, and `rdma_rxe.ko` as `kernel/rxe` makes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::kernel::{self, Prepared};
use super::key::Key;
use super::rxe::{Rxe, Workbench};
use super::{root, sources};
use crate::context::Context;
use crate::enter::Enter;
use crate::proc::Cmd;
use crate::ui::Step;

/// To be raised when the recipe below changes.
const RECIPE: u32 = 1;
/// Where the modules are built, as the root sees it: the paths in their debug information.
pub(super) const BUILD_INSIDE: &str = "/mnt/build";
/// The driver's folder beside them.
pub(super) const DRIVER: &str = "rxe";
const DRIVER_INSIDE: &str = "/mnt/build/rxe";

/// XPMEM on `ib_emm`.
const XPMEM: &str = "emm_xpmem.ko";

/// Drivers that use `ib_emm` by itself, for tests.
const CLIENTS: [&str; 2] = ["emm_client.ko", "emm_access.ko"];

/// Where the planted faults are in the repository.
const PLANTS: &str = "tests/planted";

/// Which modules: those that are used, or others that a test needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Variant {
    /// `ib_emm`, its client, and the driver that uses it.
    #[default]
    Emm,
    /// The same with a fault in `ib_emm`, for tests of the tests: a file of `tests/planted`.
    Planted(String),
    /// A driver that needs no `ib_emm`, by itself; no file of ours if it is the distribution's.
    Driver(Rxe),
}

impl Variant {
    /// The modules around this driver.
    pub fn of(rxe: Rxe) -> Self {
        match rxe {
            Rxe::Emm => Self::Emm,
            Rxe::Fixes | Rxe::Odp | Rxe::Stock => Self::Driver(rxe),
        }
    }

    /// The modules' place in the cache.
    pub fn place(&self, release: &str) -> String {
        match self {
            Self::Emm => format!("modules/{release}"),
            Self::Planted(plant) => format!("planted/{release}/{plant}"),
            Self::Driver(rxe) => format!("drivers/{release}/{}", rxe.name()),
        }
    }

    /// The key of the modules of a kernel whose own key is `kernel_key`.
    pub fn key(&self, kernel_key: &str) -> Result<String> {
        let repo = sources::repository();
        let key = Key::new("modules", RECIPE).text(kernel_key);
        let key = match self {
            Self::Driver(rxe) => return Ok(rxe.key(key)?.finish()),
            Self::Emm => key,
            Self::Planted(plant) => key.path(&repo.join(PLANTS).join(plant))?,
        };
        let mut key = Rxe::Emm.key(key)?.path(&repo.join("ib-emm"))?;
        for part in parts()? {
            key = key.text(&part).path(&repo.join("kernel").join(part))?;
        }
        Ok(key.finish())
    }
}

/// The folders of `kernel/` that are modules of ours, or parts of them: all but what is done to the driver.
fn parts() -> Result<Vec<String>> {
    let kernel = sources::repository().join("kernel");
    let read = || -> std::io::Result<Vec<String>> {
        let names = fs::read_dir(&kernel)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    let mut parts = read().with_context(|| format!("cannot read {}", kernel.display()))?;
    parts.retain(|part| part != DRIVER && !part.starts_with('.'));
    parts.sort();
    Ok(parts)
}

/// Builds these modules if a source of theirs, or the kernel, has changed.
pub fn ensure(context: &Context, kernel: &Prepared, variant: &Variant) -> Result<PathBuf> {
    let release = &kernel.chosen.release;
    // The sound modules that are beside the planted one are taken from where they are.
    if let Variant::Planted(_) = variant {
        ensure(context, kernel, &Variant::Emm)?;
    }
    let title = match variant {
        Variant::Emm => format!("modules for {release}: ib_emm, emm_xpmem, rdma_rxe"),
        Variant::Planted(plant) => format!("ib_emm for {release} with a planted fault: {plant}"),
        Variant::Driver(Rxe::Stock) => format!("rdma_rxe for {release}: the distribution's own"),
        Variant::Driver(rxe) => format!("rdma_rxe for {release}: {} alone", rxe.name()),
    };
    context.cache.ensure(
        &context.ui,
        &variant.place(release),
        &variant.key(&kernel::key(context, &kernel.chosen))?,
        &title,
        |dir, step| match variant {
            // A guest that finds no driver of ours loads the distribution's.
            Variant::Driver(Rxe::Stock) => Ok(()),
            Variant::Emm => make(context, kernel, dir, step),
            Variant::Planted(plant) => make_planted(context, kernel, plant, dir, step),
            Variant::Driver(rxe) => make_driver(context, kernel, *rxe, dir, step),
        },
    )
}

fn make_planted(
    context: &Context,
    kernel: &Prepared,
    plant: &str,
    dir: &Path,
    step: &Step,
) -> Result<()> {
    let log = context.cache.fresh_log(&format!("planted-{plant}"));
    let bench = Bench::set(context, kernel, dir)?;
    let file = sources::repository().join(PLANTS).join(plant);
    fs::copy(&file, bench.build.join("planted.patch"))
        .with_context(|| format!("cannot copy {}", file.display()))?;
    bench
        .enter
        .cmd("patch")
        .args(["-p1", "--fuzz=0", "-d", BUILD_INSIDE, "-i"])
        .arg(format!("{BUILD_INSIDE}/planted.patch"))
        .hint(format!(
            "refresh {PLANTS}/{plant}: the source that it spoils has changed"
        ))
        .run(&log, step)?;
    bench.make("kernel/ib_emm").arg("modules").run(&log, step)?;
    take(&bench.build.join("kernel/ib_emm/ib_emm.ko"), dir)?;
    let patch =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let spoils_xpmem = patch.contains("kernel/emm_xpmem/");
    if spoils_xpmem {
        bench.make_xpmem(&log, step)?;
        take(&bench.build.join("kernel/emm_xpmem").join(XPMEM), dir)?;
    }
    let sound = context
        .cache
        .path(Variant::Emm.place(&kernel.chosen.release));
    let others = CLIENTS.into_iter().chain(["rdma_rxe.ko"]);
    for module in others.chain((!spoils_xpmem).then_some(XPMEM)) {
        fs::copy(sound.join(module), dir.join(module))
            .with_context(|| format!("cannot copy {module}"))?;
    }
    bench.clear()
}

/// A copy of our sources, where the root can build them.
pub(super) struct Bench<'a> {
    kernel: &'a Prepared,
    build: PathBuf,
    enter: Enter,
}

impl<'a> Bench<'a> {
    /// Copies them into a folder of `dir`.
    pub(super) fn set(context: &Context, kernel: &'a Prepared, dir: &Path) -> Result<Self> {
        let repo = sources::repository();
        let build = dir.join("build");
        for part in ["kernel", "ib-emm"] {
            sources::copy_tree(&repo.join(part), &build.join(part))?;
        }
        let enter = Enter::new(&root::tree(context)).bind(&build, BUILD_INSIDE);
        Ok(Self {
            kernel,
            build,
            enter,
        })
    }

    /// `make` for the module in this folder.
    pub(super) fn make(&self, module: &str) -> Cmd {
        kernel::make_module(
            &self.enter,
            self.kernel,
            &format!("{BUILD_INSIDE}/{module}"),
        )
    }

    /// What a module that uses `ib_emm` finds there, which is built.
    fn symvers() -> String {
        format!("KBUILD_EXTRA_SYMBOLS={BUILD_INSIDE}/kernel/ib_emm/Module.symvers")
    }

    fn make_xpmem(&self, log: &Path, step: &Step) -> Result<()> {
        self.make("kernel/emm_xpmem")
            .arg(Self::symvers())
            .arg("modules")
            .run(log, step)
    }

    /// Where the driver's source is changed.
    pub(super) fn workbench(&self) -> Workbench<'_> {
        Workbench {
            enter: &self.enter,
            driver: self.build.join(DRIVER),
            driver_inside: DRIVER_INSIDE,
            kernel: self.kernel,
        }
    }

    /// Removes the copy.
    pub(super) fn clear(self) -> Result<()> {
        crate::cache::remove_tree(&self.build)
    }
}

fn make(context: &Context, kernel: &Prepared, dir: &Path, step: &Step) -> Result<()> {
    let log = context
        .cache
        .fresh_log(&format!("modules-{}", kernel.chosen.release));
    let bench = Bench::set(context, kernel, dir)?;
    let symvers = Bench::symvers();

    bench.make("kernel/ib_emm").arg("modules").run(&log, step)?;
    take(&bench.build.join("kernel/ib_emm/ib_emm.ko"), dir)?;
    bench.make_xpmem(&log, step)?;
    take(&bench.build.join("kernel/emm_xpmem").join(XPMEM), dir)?;
    bench
        .make("kernel/emm_client")
        .arg(&symvers)
        .arg("modules")
        .run(&log, step)?;
    for module in CLIENTS {
        take(&bench.build.join("kernel/emm_client").join(module), dir)?;
    }

    bench.workbench().make_source(Rxe::Emm, &log, step)?;
    bench
        .make(DRIVER)
        .args(["CONFIG_RDMA_RXE=m", "CONFIG_RDMA_RXE_EMM=y", &symvers])
        .arg(format!("EMM_INCLUDE={BUILD_INSIDE}/kernel/include"))
        .arg("modules")
        .run(&log, step)?;
    take(&bench.build.join("rxe/rdma_rxe.ko"), dir)?;
    bench.clear()
}

fn make_driver(
    context: &Context,
    kernel: &Prepared,
    rxe: Rxe,
    dir: &Path,
    step: &Step,
) -> Result<()> {
    let release = &kernel.chosen.release;
    let log = context
        .cache
        .fresh_log(&format!("rxe-{}-{release}", rxe.name()));
    let bench = Bench::set(context, kernel, dir)?;
    bench.workbench().make_source(rxe, &log, step)?;
    bench
        .make(DRIVER)
        .args(["CONFIG_RDMA_RXE=m", "modules"])
        .run(&log, step)?;
    take(&bench.build.join("rxe/rdma_rxe.ko"), dir)?;
    bench.clear()
}

fn take(module: &Path, dir: &Path) -> Result<()> {
    let Some(name) = module.file_name() else {
        return Ok(());
    };
    fs::rename(module, dir.join(name))
        .with_context(|| format!("the build did not make {}", module.display()))
}
