//! The modules: `ib_emm.ko`, its C client for tests, and `rdma_rxe.ko` with our patches.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::kernel::{self, Prepared};
use super::key::Key;
use super::{root, sources};
use crate::context::Context;
use crate::enter::Enter;
use crate::proc::Cmd;
use crate::ui::Step;

/// To be raised when the recipe below changes.
const RECIPE: u32 = 1;
/// Where the modules are built, as the root sees it: the paths in their debug information.
const BUILD_INSIDE: &str = "/mnt/build";
/// The driver's source in the kernel's tree.
const RXE: &str = "drivers/infiniband/sw/rxe";
/// Components that the patches have before a file's name: `a/drivers/infiniband/sw/rxe/`.
const STRIP: &str = "-p5";

/// Where the planted faults are in the repository.
const PLANTS: &str = "tests/planted";

/// The modules' place in the cache, with the fault `plant` in them if one is named.
pub fn place(release: &str, plant: Option<&str>) -> String {
    match plant {
        None => format!("modules/{release}"),
        Some(plant) => format!("planted/{release}/{plant}"),
    }
}

/// The key of the modules of a kernel whose own key is `kernel_key`.
pub fn key(kernel_key: &str, plant: Option<&str>) -> Result<String> {
    let repo = sources::repository();
    let mut key = Key::new("modules", RECIPE)
        .text(kernel_key)
        .path(&repo.join("kernel"))?
        .path(&repo.join("ib-emm"))?;
    if let Some(plant) = plant {
        key = key.path(&repo.join(PLANTS).join(plant))?;
    }
    Ok(key.finish())
}

/// Builds the modules if a source of theirs, or the kernel, has changed.
pub fn ensure(context: &Context, kernel: &Prepared) -> Result<PathBuf> {
    let release = &kernel.chosen.release;
    context.cache.ensure(
        &context.ui,
        &place(release, None),
        &key(&kernel.chosen.key(), None)?,
        &format!("modules for {release}: ib_emm, rdma_rxe"),
        |dir, step| make(context, kernel, dir, step),
    )
}

/// The same modules with an `ib_emm.ko` that the patch `plant` made wrong. Follows [`ensure`].
pub fn ensure_planted(context: &Context, kernel: &Prepared, plant: &str) -> Result<PathBuf> {
    let release = &kernel.chosen.release;
    context.cache.ensure(
        &context.ui,
        &place(release, Some(plant)),
        &key(&kernel.chosen.key(), Some(plant))?,
        &format!("ib_emm for {release} with a planted fault: {plant}"),
        |dir, step| make_planted(context, kernel, plant, dir, step),
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
    let sound = context.cache.path(place(&kernel.chosen.release, None));
    for module in ["emm_client.ko", "rdma_rxe.ko"] {
        fs::copy(sound.join(module), dir.join(module))
            .with_context(|| format!("cannot copy {module}"))?;
    }
    bench.clear()
}

/// A copy of our sources, where the root can build them.
struct Bench<'a> {
    kernel: &'a Prepared,
    build: PathBuf,
    enter: Enter,
}

impl<'a> Bench<'a> {
    fn set(context: &Context, kernel: &'a Prepared, dir: &Path) -> Result<Self> {
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
    fn make(&self, module: &str) -> Cmd {
        kernel::make_module(
            &self.enter,
            self.kernel,
            &format!("{BUILD_INSIDE}/{module}"),
        )
    }

    fn clear(self) -> Result<()> {
        crate::cache::remove_tree(&self.build)
    }
}

fn make(context: &Context, kernel: &Prepared, dir: &Path, step: &Step) -> Result<()> {
    let log = context
        .cache
        .fresh_log(&format!("modules-{}", kernel.chosen.release));
    let bench = Bench::set(context, kernel, dir)?;
    let symvers = format!("KBUILD_EXTRA_SYMBOLS={BUILD_INSIDE}/kernel/ib_emm/Module.symvers");

    bench.make("kernel/ib_emm").arg("modules").run(&log, step)?;
    take(&bench.build.join("kernel/ib_emm/ib_emm.ko"), dir)?;
    bench
        .make("kernel/emm_client")
        .arg(&symvers)
        .arg("modules")
        .run(&log, step)?;
    take(&bench.build.join("kernel/emm_client/emm_client.ko"), dir)?;

    sources::copy_tree(&kernel.source.join(RXE), &bench.build.join("rxe"))?;
    patch(&bench, &log, step)?;
    bench
        .make("rxe")
        .args(["CONFIG_RDMA_RXE=m", &symvers])
        .arg(format!("EMM_INCLUDE={BUILD_INSIDE}/kernel/include"))
        .arg("modules")
        .run(&log, step)?;
    take(&bench.build.join("rxe/rdma_rxe.ko"), dir)?;
    bench.clear()
}

/// Applies the series, each patch without fuzz.
fn patch(bench: &Bench<'_>, log: &Path, step: &Step) -> Result<()> {
    let folder = bench.build.join("kernel/rxe");
    let chosen = &bench.kernel.chosen;
    let own = folder.join(format!("series-{}", chosen.series));
    let series = if own.exists() {
        own
    } else {
        folder.join("series")
    };
    let text = fs::read_to_string(&series)
        .with_context(|| format!("cannot read the patch series {}", series.display()))?;
    for name in patches(&text) {
        let file = folder.join("patches").join(name);
        if !file.exists() {
            bail!(
                "{} names {name}, which is not in kernel/rxe/patches",
                series.display()
            );
        }
        let apply: Cmd = bench
            .enter
            .cmd("patch")
            .args([
                STRIP,
                "--forward",
                "--fuzz=0",
                "--no-backup-if-mismatch",
                "-r",
                "-",
            ])
            .args(["-d", &format!("{BUILD_INSIDE}/rxe"), "-i"])
            .arg(format!("{BUILD_INSIDE}/kernel/rxe/patches/{name}"));
        apply
            .hint(format!(
                "the rxe source of {} differs from what kernel/rxe/patches/{name} expects: refresh that patch, or take another kernel with --kernel",
                chosen.release
            ))
            .run(log, step)
            .with_context(|| {
                format!("the patch kernel/rxe/patches/{name} does not apply to rxe of {}", chosen.release)
            })?;
    }
    Ok(())
}

/// The patches of a series file: a name a line, `#` begins a comment.
fn patches(series: &str) -> impl Iterator<Item = &str> {
    series
        .lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim)
        .filter(|line| !line.is_empty())
}

fn take(module: &Path, dir: &Path) -> Result<()> {
    let Some(name) = module.file_name() else {
        return Ok(());
    };
    fs::rename(module, dir.join(name))
        .with_context(|| format!("the build did not make {}", module.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series() {
        let text = "# first\n0001-a.patch\n\n 0002-b.patch # why\n";
        assert_eq!(
            patches(text).collect::<Vec<_>>(),
            ["0001-a.patch", "0002-b.patch"]
        );
    }
}
