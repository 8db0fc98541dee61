//! The stock kernel: which one, its packages, and the Rust metadata that these lack.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::chosen::{LEFT_OUT, MAKE_ARGS, SOURCE_INSIDE};
use super::debug;
use super::features;
use super::fetch::fetch;
use super::key::Key;
use super::root::{self, Apt};
use super::versions::{self, Kernel};
use crate::context::Context;
use crate::enter::Enter;
use crate::exit::coded;
use crate::host::{self, Made, Mirror};
use crate::ui::Step;

pub use super::chosen::{Chosen, Prepared, make_module};

/// To be raised when the recipe below changes.
const RECIPE: u32 = 1;

/// GiB that a prepared kernel takes.
const GIB: f64 = 2.0;

/// The key of a kernel's preparation.
pub fn key(context: &Context, chosen: &Chosen) -> String {
    if chosen.is_debug() {
        return debug::key(context, &chosen.stock());
    }
    Key::new("kernel", RECIPE)
        .text(&chosen.release)
        .text(&chosen.package_version)
        .text(&LEFT_OUT.join(" "))
        .text(&root::version(context))
        .finish()
}

/// The memory of what a choice was resolved to, so that later starts need no network.
fn memory(context: &Context) -> PathBuf {
    context.cache.path("kernels/chosen.json")
}

/// What the choice `wanted` was resolved to, if it ever was.
pub fn remembered(context: &Context, wanted: Option<&str>) -> Option<Chosen> {
    if wanted == Some(debug::NAME) {
        return Some(debug::chosen(&remembered(context, None)?));
    }
    let all = all_remembered(context);
    all.into_iter()
        .find(|(asked, _)| asked == name(wanted))
        .map(|(_, chosen)| chosen)
}

/// What a choice is remembered by. While a test hides what is known, nothing that others have asked for is to change.
fn name(wanted: Option<&str>) -> &str {
    wanted.unwrap_or(if hides() { versions::NEWEST } else { "" })
}

/// Whether a test hides what is known.
fn hides() -> bool {
    std::env::var_os(versions::KNOWN).is_some()
}

/// What the cache has of root and kernels.
pub fn made(context: &Context) -> Made {
    Made {
        root: context.cache.is_fresh(root::PLACE, &root::key()),
        kernel: !all_remembered(context).is_empty(),
    }
}

/// All choices that were resolved, with what was asked for (empty for the default).
pub fn all_remembered(context: &Context) -> Vec<(String, Chosen)> {
    fs::read_to_string(memory(context))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

fn remember(context: &Context, wanted: Option<&str>, chosen: &Chosen) -> Result<()> {
    let mut all = all_remembered(context);
    if hides() {
        enter(&mut all, name(wanted), chosen);
    } else {
        take_over(&mut all, name(wanted), chosen);
    }
    let path = memory(context);
    let write = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_string_pretty(&all)?)?;
        fs::rename(fresh, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Enters what `wanted` was resolved to. Whoever asked for the newest of the same series means this one by now.
fn take_over(all: &mut Vec<(String, Chosen)>, wanted: &str, chosen: &Chosen) {
    let (series, release) = (&chosen.series, &chosen.release);
    if versions::moves(wanted) {
        for (asked, known) in all.iter_mut() {
            let same = known.series == *series && versions::is_for(asked, series, release);
            if same && versions::moves(asked) {
                *known = chosen.clone();
            }
        }
    }
    enter(all, wanted, chosen);
}

fn enter(all: &mut Vec<(String, Chosen)>, wanted: &str, chosen: &Chosen) {
    all.retain(|(asked, _)| asked != wanted);
    all.push((wanted.to_owned(), chosen.clone()));
}

/// Refuses a choice that can name no kernel.
pub fn check_choice(wanted: Option<&str>) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != debug::NAME && !versions::is_plausible(wanted) => Err(coded(
            2,
            format!(
                "--kernel {wanted}: not a kernel that the modules are written for\n  \
                 what to do: take a series ({}, or a newer one), a version of one, `{}`, or `{}`",
                versions::SERIES.join(", "),
                versions::NEWEST,
                debug::NAME
            ),
        )),
        _ => Ok(()),
    }
}

/// Resolves the choice: from memory, or by asking the archive.
pub fn resolve(context: &Context, wanted: Option<&str>, refresh: bool) -> Result<Chosen> {
    if wanted == Some(debug::NAME) {
        return Ok(debug::chosen(&resolve(context, None, refresh)?));
    }
    if let (false, Some(chosen)) = (refresh, remembered(context, wanted)) {
        return Ok(chosen);
    }
    let kernels = of_archive(context)?;
    let chosen = versions::choose(&kernels, wanted, &versions::known())?.into();
    remember(context, wanted, &chosen)?;
    Mirror::of(context)?.remember(context)?;
    Ok(chosen)
}

/// Those of the known series that the cache has, or else the archive; the newest kernel if there is none. The root is there, and the
/// caller holds the cache's lock.
pub fn at_hand(context: &Context) -> Result<Vec<String>> {
    let mut known = versions::known();
    let lacks = |series: &String| remembered(context, Some(series)).is_none();
    if known.is_empty() || known.iter().any(lacks) {
        let kernels = of_archive(context)?;
        let there = |series: &String| {
            let there = !lacks(series) || kernels.iter().any(|kernel| kernel.series == *series);
            if !there {
                let what =
                    format!("the archive has no complete kernel of the series {series} any more");
                context.ui.note(what);
            }
            there
        };
        known.retain(there);
    }
    if known.is_empty() {
        known.push(versions::NEWEST.to_owned());
    }
    Ok(known)
}

/// The complete kernels of the archive as it is now, the newest first.
fn of_archive(context: &Context) -> Result<Vec<Kernel>> {
    let step = context
        .ui
        .step("kernel: looking for the newest complete set of packages");
    let log = context.cache.fresh_log("kernel-index");
    Apt::new(context)?.update(&log, &step)?;
    let mut packages = Vec::new();
    let lists = context.cache.path("apt/lists");
    for entry in fs::read_dir(&lists).with_context(|| format!("cannot read {}", lists.display()))? {
        let path = entry
            .with_context(|| format!("cannot read {}", lists.display()))?
            .path();
        if path.to_string_lossy().ends_with("_Packages") {
            let text =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let index = versions::parse_index(&String::from_utf8_lossy(&text));
            packages.extend(index.with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    step.done();
    Ok(versions::complete_kernels(&packages))
}

/// Fetches the packages of the kernel if it is not there.
pub fn download(context: &Context, chosen: &Chosen) -> Result<()> {
    if context
        .cache
        .is_fresh(&chosen.place(), &key(context, chosen))
    {
        return Ok(());
    }
    fetch(context, &chosen.stock()).map(drop)
}

/// Fetches, unpacks and prepares the kernel if it is not there.
pub fn ensure(context: &Context, chosen: Chosen) -> Result<Prepared> {
    if chosen.is_debug() {
        return debug::ensure(context, &chosen.stock());
    }
    let place = chosen.place();
    let key = key(context, &chosen);
    if !context.cache.is_fresh(&place, &key) {
        let debs = fetch(context, &chosen)?;
        context.cache.ensure(
            &context.ui,
            &place,
            &key,
            &format!("kernel {}: Rust metadata", chosen.release),
            |dir, step| prepare(context, &chosen, &debs, dir, step),
        )?;
    }
    Ok(Prepared::at(context, chosen))
}

/// Unpacks the packages (`$1` is the kernel's release, `$2` its series, the rest patterns to leave out)
/// from /mnt/debs to /mnt/out.
const UNPACK: &str = r#"
release=$1 series=$2; shift 2
out=/mnt/out; mkdir $out/linux
for deb in /mnt/debs/linux-binary-*.deb /mnt/debs/linux-modules-*.deb /mnt/debs/linux-headers-*.deb; do
	echo "unpacking ${deb##*/}"
	dpkg-deb -x "$deb" $out
done
echo "unpacking the source"
archive=usr/src/linux-source-$series.tar.xz
dpkg-deb --fsys-tarfile /mnt/debs/linux-source-*.deb | tar -xO ./$archive |
	xz -dc -T0 | tar -x -C $out/linux --strip-components=1 "$@"
headers=$out/usr/src/linux-headers-$release
cp $headers/.config $headers/Module.symvers $out/linux/
depmod -b $out/usr $release 2>/dev/null || depmod -b $out $release
"#;

/// `$1` is the kernel's release. What the configuration says of debug information decides the layout of
/// `struct module`, so it stays; only the make files are told not to make any.
const PREPARE: &str = r##"
release=$1; shift
cp .config .config.stock
make -j"$(nproc)" "$@" CONFIG_DEBUG_INFO= CONFIG_DEBUG_INFO_BTF= olddefconfig prepare modules_prepare
echo "$release" > include/config/kernel.release
echo "#define UTS_RELEASE \"$release\"" > include/generated/utsrelease.h
test -e rust/libkernel.rmeta
"##;

fn prepare(
    context: &Context,
    chosen: &Chosen,
    debs: &[PathBuf],
    dir: &Path,
    step: &Step,
) -> Result<()> {
    let Some(folder) = debs.first().and_then(|deb| deb.parent()) else {
        bail!("no packages of {} were downloaded", chosen.release);
    };
    host::require_room(context, GIB, &format!("kernel {}", chosen.release))?;
    let log = context
        .cache
        .fresh_log(&format!("kernel-{}", chosen.release));
    root_enter(context)
        .bind_ro(folder, "/mnt/debs")
        .bind(dir, "/mnt/out")
        .cmd("bash")
        .args([
            "-euo",
            "pipefail",
            "-c",
            UNPACK,
            "unpack",
            &chosen.release,
            &chosen.series,
        ])
        .args(chosen.left_out())
        .run(&log, step)?;
    let config = dir.join("linux/.config");
    let config =
        fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let rustc = root_enter(context).cmd("rustc").arg("--version");
    features::require(&chosen.release, &config, &rustc.output(&log)?)?;
    root_enter(context)
        .bind(dir.join("linux"), SOURCE_INSIDE)
        .dir(SOURCE_INSIDE)
        .cmd("bash")
        .args([
            "-euo",
            "pipefail",
            "-c",
            PREPARE,
            "prepare",
            &chosen.release,
        ])
        .args(MAKE_ARGS)
        .run(&log, step)?;
    let modules = dir.join("usr/lib/modules").join(&chosen.release);
    for file in ["vmlinuz", "modules.dep"] {
        let path = modules.join(file);
        path.metadata()
            .with_context(|| format!("the packages did not bring {}", path.display()))?;
    }
    Ok(())
}

fn root_enter(context: &Context) -> Enter {
    Enter::new(&root::tree(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_one_for_all_who_ask_for_it() {
        let kernel = |release: &str| Chosen {
            series: release[..3].to_owned(),
            release: format!("{release}-amd64"),
            package_version: String::new(),
            debug_of: None,
        };
        let mut all: Vec<(String, Chosen)> = [
            ("", "7.3.4"),
            ("7.2", "7.2.9"),
            ("7.3.4", "7.3.4"),
            ("7.3-rt", "7.3.4-rt"),
            ("newest", "7.3.4"),
        ]
        .map(|(asked, release)| (asked.to_owned(), kernel(release)))
        .to_vec();
        take_over(&mut all, "7.3", &kernel("7.3.5"));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let is = |all: &[(String, Chosen)]| -> Vec<String> {
            let lines = all
                .iter()
                .map(|(asked, chosen)| format!("{asked}: {}", chosen.release));
            lines.collect()
        };
        let want = [
            ": 7.3.5-amd64",
            "7.2: 7.2.9-amd64",
            "7.3: 7.3.5-amd64",
            "7.3-rt: 7.3.4-rt-amd64",
            "7.3.4: 7.3.4-amd64",
            "newest: 7.3.5-amd64",
        ];
        assert_eq!(is(&all), want);
        // Who names a version moves nobody else, and another series is no newer one of the same.
        take_over(&mut all, "7.3.6", &kernel("7.3.6"));
        take_over(&mut all, "newest", &kernel("7.4.0"));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let moved = is(&all);
        assert_eq!(moved[..5], want[..5]);
        assert_eq!(moved[5..], ["7.3.6: 7.3.6-amd64", "newest: 7.4.0-amd64"]);
    }
}
