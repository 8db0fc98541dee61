//! The debug kernel: built from the same source package as the stock one, by clang, with every check that the kernel has for
//! memory, locks and leaks, and with fault injection. `debug.config` says what is in it.
//!
//! Its build takes 8 to 30 minutes on two CPUs, by the machine. What it has done stays when it is interrupted, and the next run goes on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::chosen::{Chosen, DEBUG_MAKE_ARGS, LEFT_OUT, Prepared, SOURCE_INSIDE};
use super::fetch::fetch;
use super::key::Key;
use super::root;
use crate::cache::remove_tree;
use crate::context::Context;
use crate::enter::Enter;
use crate::exit::coded;
use crate::host;
use crate::ui::Step;

/// What `--kernel` takes for it.
pub const NAME: &str = "debug";
/// What its release has after the version; `debug.config` says the same.
pub const SUFFIX: &str = "-debug";
/// What its configuration has beyond `tinyconfig`.
const FRAGMENT: &str = include_str!("../../debug.config");
/// To be raised when the recipe below changes.
const RECIPE: u32 = 1;
/// GiB that its source and its build take.
const GIB: f64 = 3.0;
/// In the source: the key of what it was unpacked from.
const SOURCE_KEY: &str = ".soft-roce-source";
/// In the source: the fragment that its configuration was made from.
const CONFIGURED: &str = ".soft-roce-fragment";

/// The debug kernel from the source of `stock`.
pub fn chosen(stock: &Chosen) -> Chosen {
    let version = stock
        .package_version
        .split_once('-')
        .map_or(stock.package_version.as_str(), |(version, _)| version);
    Chosen {
        series: stock.series.clone(),
        release: format!("{version}{}", SUFFIX),
        package_version: stock.package_version.clone(),
        debug_of: Some(stock.release.clone()),
    }
}

/// The key of the kernel made from the source of `stock`.
pub fn key(context: &Context, stock: &Chosen) -> String {
    Key::new("debug kernel", RECIPE)
        .text(&source_key(context, stock))
        .text(FRAGMENT)
        .finish()
}

/// The compiler is in the root.
fn source_key(context: &Context, stock: &Chosen) -> String {
    Key::new("debug source", 1)
        .text(&stock.package_version)
        .text(&LEFT_OUT.join(" "))
        .text(&root::version(context))
        .finish()
}

/// Builds the kernel if it is not there, from the source of `stock`.
pub fn ensure(context: &Context, stock: &Chosen) -> Result<Prepared> {
    let chosen = chosen(stock);
    let key = key(context, stock);
    if !context.cache.is_fresh(&chosen.place(), &key) {
        let debs = fetch(context, stock)?;
        context.cache.ensure(
            &context.ui,
            &chosen.place(),
            &key,
            &format!("kernel {} (8 to 30 minutes)", chosen.release),
            |dir, step| make(context, stock, &chosen, &debs, dir, step),
        )?;
    }
    Ok(Prepared::at(context, chosen))
}

/// `$1` is the series, the rest patterns to leave out.
const UNPACK: &str = r#"
series=$1; shift
dpkg-deb --fsys-tarfile /mnt/debs/linux-source-*.deb | tar -xO ./usr/src/linux-source-$series.tar.xz |
	xz -dc -T0 | tar -x -C . --strip-components=1 "$@"
"#;

/// The arguments are those of make.
const CONFIGURE: &str = r#"
make "$@" tinyconfig
scripts/kconfig/merge_config.sh -m .config /mnt/fragment
make "$@" olddefconfig
"#;

/// `$1` is the release, the rest the arguments of make.
const BUILD: &str = r#"
release=$1; shift
make -j"$(nproc)" "$@" bzImage modules
said=$(make -s "$@" kernelrelease)
[ "$said" = "$release" ] || { echo "the kernel calls itself $said, not $release"; exit 1; }
make "$@" INSTALL_MOD_PATH=/mnt/out/usr modules_install
cp arch/x86/boot/bzImage "/mnt/out/usr/lib/modules/$release/vmlinuz"
rm -f /mnt/out/usr/lib/modules/$release/build
depmod -b /mnt/out/usr "$release"
test -e rust/libkernel.rmeta
"#;

fn make(
    context: &Context,
    stock: &Chosen,
    chosen: &Chosen,
    debs: &[PathBuf],
    dir: &Path,
    step: &Step,
) -> Result<()> {
    host::require_room(context, GIB, &format!("kernel {}", chosen.release))?;
    let log = context
        .cache
        .fresh_log(&format!("kernel-{}", chosen.release));
    let work = context.cache.path(format!("{}.building", chosen.place()));
    let source = work.join("linux");
    let earlier = Prepared::at(context, chosen.clone()).source;
    let wanted = source_key(context, stock);
    if !is_unpacked(&source, &wanted) {
        remove_tree(&work)?;
        fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        if is_unpacked(&earlier, &wanted) {
            // Another configuration of the same source: most of what was compiled stays good.
            fs::rename(&earlier, &source)
                .with_context(|| format!("cannot move {}", earlier.display()))?;
        } else {
            fs::create_dir(&source)
                .with_context(|| format!("cannot create {}", source.display()))?;
            let Some(folder) = debs.first().and_then(|deb| deb.parent()) else {
                bail!("no packages of {} were downloaded", stock.release);
            };
            inside(context, &source)
                .bind_ro(folder, "/mnt/debs")
                .cmd("bash")
                .args(["-euo", "pipefail", "-c", UNPACK, "unpack", &stock.series])
                .args(stock.left_out())
                .run(&log, step)?;
            write(&source.join(SOURCE_KEY), &wanted)?;
        }
    }
    if fs::read_to_string(source.join(CONFIGURED)).ok().as_deref() != Some(FRAGMENT) {
        let fragment = work.join("fragment");
        write(&fragment, FRAGMENT)?;
        inside(context, &source)
            .bind_ro(&fragment, "/mnt/fragment")
            .cmd("bash")
            .args(["-euo", "pipefail", "-c", CONFIGURE, "configure"])
            .args(DEBUG_MAKE_ARGS)
            .run(&log, step)?;
        let config = source.join(".config");
        let text = fs::read_to_string(&config)
            .with_context(|| format!("cannot read {}", config.display()))?;
        check(&missing(FRAGMENT, &text), stock)?;
        write(&source.join(CONFIGURED), FRAGMENT)?;
    }
    inside(context, &source)
        .bind(dir, "/mnt/out")
        .cmd("bash")
        .args(["-euo", "pipefail", "-c", BUILD, "build", &chosen.release])
        .args(DEBUG_MAKE_ARGS)
        .hint("the next run goes on where this one ended")
        .run(&log, step)?;
    fs::rename(&source, dir.join("linux"))
        .with_context(|| format!("cannot move {}", source.display()))?;
    remove_tree(&work)
}

/// The root, in the source.
fn inside(context: &Context, source: &Path) -> Enter {
    Enter::new(&root::tree(context))
        .bind(source, SOURCE_INSIDE)
        .dir(SOURCE_INSIDE)
}

fn is_unpacked(source: &Path, key: &str) -> bool {
    fs::read_to_string(source.join(SOURCE_KEY)).is_ok_and(|text| text == key)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Fails if an option is missing, and names all that are.
fn check(missing: &[String], stock: &Chosen) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(coded(
        crate::exit::SETUP,
        format!(
            "the debug kernel of {} would lack what soft-roce-setup/debug.config asks for:\n    {}\n  \
             what to do: look the options up in the source's Kconfig files for what they depend on, and correct the file",
            stock.series,
            missing.join("\n    ")
        ),
    ))
}

/// The options of `fragment` that `config` has not, or has otherwise: each with what became of it.
fn missing(fragment: &str, config: &str) -> Vec<String> {
    let asked = fragment.lines().filter_map(|line| {
        let (name, value) = option(line)?;
        Some((line, name, value))
    });
    asked
        .filter_map(|(line, name, value)| {
            let is = config
                .lines()
                .filter_map(option)
                .find(|(known, _)| *known == name)
                .map_or("n", |(_, value)| value);
            (is != value).then(|| format!("{line} (is {is})"))
        })
        .collect()
}

/// Name and value of a line of a configuration. What is not set is `n`.
fn option(line: &str) -> Option<(&str, &str)> {
    if let Some(rest) = line.strip_prefix("# CONFIG_") {
        return Some((rest.strip_suffix(" is not set")?, "n"));
    }
    line.strip_prefix("CONFIG_")?.split_once('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_were_not_taken_are_named() {
        let fragment = "# why\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=\"x\"\n# CONFIG_E is not set\n";
        let config = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_D=\"x\"\nCONFIG_AB=m\n";
        assert_eq!(
            missing(fragment, config),
            ["CONFIG_B=m (is y)", "# CONFIG_C is not set (is y)"]
        );
        assert_eq!(missing("CONFIG_F=y\n", config), ["CONFIG_F=y (is n)"]);
        assert!(missing(fragment, "CONFIG_A=y\nCONFIG_B=m\nCONFIG_D=\"x\"\n").is_empty());
    }

    #[test]
    fn the_fragment_asks_for_what_the_tests_rely_on() {
        let asked: Vec<_> = FRAGMENT.lines().filter_map(option).collect();
        for name in [
            "KASAN",
            "PROVE_LOCKING",
            "DEBUG_ATOMIC_SLEEP",
            "DEBUG_KMEMLEAK",
            "DEBUG_VM",
            "FAILSLAB",
            "FAIL_PAGE_ALLOC",
            "FAULT_INJECTION_STACKTRACE_FILTER",
            "DETECT_HUNG_TASK",
            "SOFTLOCKUP_DETECTOR",
            "RUST",
        ] {
            assert!(asked.contains(&(name, "y")), "{name}");
        }
        assert!(asked.contains(&("SLUB_TINY", "n")));
        assert!(asked.contains(&("LOCALVERSION", &format!("\"{SUFFIX}\"") as &str)));
        let mut names: Vec<_> = asked.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "each option once");
    }
}
