//! The stock kernel: which one, its packages, and the Rust metadata that these lack.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::debug;
use super::key::Key;
use super::mirror::Mirror;
use super::root::{self, Apt};
use super::versions::{self, Kernel};
use crate::cache::remove_tree;
use crate::context::Context;
use crate::enter::Enter;
use crate::exit::coded;
use crate::host;
use crate::proc::Cmd;
use crate::ui::Step;

/// To be raised when the recipe below changes.
const RECIPE: u32 = 1;

/// GiB that a kernel's packages take.
const GIB_PACKAGES: f64 = 0.5;
/// GiB that a prepared kernel takes.
const GIB: f64 = 2.0;

/// Where the prepared source is in the root, always: its build leaves absolute paths behind.
pub const SOURCE_INSIDE: &str = "/mnt/linux";
/// Arguments of every make in a stock kernel's tree.
pub const MAKE_ARGS: [&str; 2] = ["CC=gcc-14", "HOSTCC=gcc-14"];

/// Parts of the source that no module of ours reads. Kconfig stays, for the configuration.
/// tar's `*` matches slashes, so each pattern begins at the top (`tools/objtool/arch` must stay).
pub(super) const LEFT_OUT: &[&str] = &[
    "linux-source-?.?/Documentation/[a-z]*",
    "linux-source-?.?/tools/testing",
    "linux-source-?.?/drivers/gpu/drm/amd/include/*",
];

/// A kernel in the cache.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Chosen {
    /// `7.3`
    pub series: String,
    /// `uname -r`
    pub release: String,
    /// Version of the packages.
    pub package_version: String,
    /// For the debug kernel, the release of the stock one whose source it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_of: Option<String>,
}

impl Chosen {
    /// The debug kernel from the source of `stock`.
    pub fn debug(stock: &Self) -> Self {
        let version = stock
            .package_version
            .split_once('-')
            .map_or(stock.package_version.as_str(), |(version, _)| version);
        Self {
            series: stock.series.clone(),
            release: format!("{version}{}", debug::SUFFIX),
            package_version: stock.package_version.clone(),
            debug_of: Some(stock.release.clone()),
        }
    }

    /// The stock kernel that a debug kernel is made of, or the kernel itself.
    fn stock(&self) -> Self {
        Self {
            release: self
                .debug_of
                .clone()
                .unwrap_or_else(|| self.release.clone()),
            debug_of: None,
            ..self.clone()
        }
    }

    /// Whether it is the debug kernel.
    pub fn is_debug(&self) -> bool {
        self.debug_of.is_some()
    }

    /// What make is given in its tree.
    fn make_args(&self) -> &'static [&'static str] {
        if self.is_debug() {
            &debug::MAKE_ARGS
        } else {
            &MAKE_ARGS
        }
    }

    /// Its place in the cache.
    pub fn place(&self) -> String {
        format!("kernels/{}", self.release)
    }

    /// The key of its preparation.
    pub fn key(&self) -> String {
        if self.is_debug() {
            return debug::key(&self.stock());
        }
        Key::new("kernel", RECIPE)
            .text(&self.release)
            .text(&self.package_version)
            .text(&LEFT_OUT.join(" "))
            .text(&root::key())
            .finish()
    }

    fn packages(&self) -> Vec<String> {
        Kernel {
            series: self.series.clone(),
            release: self.release.clone(),
            package_version: self.package_version.clone(),
        }
        .packages()
    }
}

impl From<Kernel> for Chosen {
    fn from(kernel: Kernel) -> Self {
        Self {
            series: kernel.series,
            release: kernel.release,
            package_version: kernel.package_version,
            debug_of: None,
        }
    }
}

/// A kernel's files in the cache.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Which it is.
    pub chosen: Chosen,
    /// The prepared source.
    pub source: PathBuf,
    /// The folder `usr/lib/modules/RELEASE` of the packages.
    pub modules: PathBuf,
}

impl Prepared {
    /// Where the files of a kernel are, if it is there.
    pub fn at(context: &Context, chosen: Chosen) -> Self {
        let dir = context.cache.path(chosen.place());
        Self {
            source: dir.join("linux"),
            modules: dir.join("usr/lib/modules").join(&chosen.release),
            chosen,
        }
    }
}

/// The memory of what a choice was resolved to, so that later starts need no network.
fn memory(context: &Context) -> PathBuf {
    context.cache.path("kernels/chosen.json")
}

/// What the choice `wanted` was resolved to, if it ever was.
pub fn remembered(context: &Context, wanted: Option<&str>) -> Option<Chosen> {
    if wanted == Some(debug::NAME) {
        return Some(Chosen::debug(&remembered(context, None)?));
    }
    let all = all_remembered(context);
    all.into_iter()
        .find(|(asked, _)| asked == wanted.unwrap_or(""))
        .map(|(_, chosen)| chosen)
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
    let wanted = wanted.unwrap_or("");
    all.retain(|(asked, _)| asked != wanted);
    all.push((wanted.to_owned(), chosen.clone()));
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

/// Refuses a choice that can name no kernel.
pub fn check_choice(wanted: Option<&str>) -> Result<()> {
    match wanted {
        Some(wanted) if wanted != debug::NAME && !versions::is_plausible(wanted) => Err(coded(
            2,
            format!(
                "--kernel {wanted}: not a kernel that the modules are written for\n  \
                 what to do: take a series ({}), a version of one, or `debug`",
                versions::SERIES.join(", ")
            ),
        )),
        _ => Ok(()),
    }
}

/// Resolves the choice: from memory, or by asking the archive.
pub fn resolve(context: &Context, wanted: Option<&str>, refresh: bool) -> Result<Chosen> {
    if wanted == Some(debug::NAME) {
        return Ok(Chosen::debug(&resolve(context, None, refresh)?));
    }
    if let (false, Some(chosen)) = (refresh, remembered(context, wanted)) {
        return Ok(chosen);
    }
    let step = context
        .ui
        .step("kernel: looking for the newest complete set of packages");
    let log = context.cache.fresh_log("kernel-index");
    let apt = Apt::new(context)?;
    apt.tool("apt-get")
        .args(["update", "--error-on=any"])
        .hint(REACH)
        .run(&log, &step)?;
    let mut packages = Vec::new();
    let lists = context.cache.path("apt/lists");
    for entry in fs::read_dir(&lists).with_context(|| format!("cannot read {}", lists.display()))? {
        let path = entry
            .with_context(|| format!("cannot read {}", lists.display()))?
            .path();
        if path.to_string_lossy().ends_with("_Packages") {
            let text =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            packages.extend(versions::parse_index(&String::from_utf8_lossy(&text)));
        }
    }
    let chosen = versions::choose(&versions::complete_kernels(&packages), wanted)?.into();
    remember(context, wanted, &chosen)?;
    Mirror::of(context)?.remember(context)?;
    step.done();
    Ok(chosen)
}

const REACH: &str = "check the network and the archive's address (--mirror URL chooses another)";

/// Fetches, unpacks and prepares the kernel if it is not there.
pub fn ensure(context: &Context, chosen: Chosen) -> Result<Prepared> {
    if chosen.is_debug() {
        return debug::ensure(context, &chosen.stock());
    }
    let place = chosen.place();
    let key = chosen.key();
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

/// Downloads the packages of a kernel. Each is checked by apt, and kept.
pub(super) fn fetch(context: &Context, chosen: &Chosen) -> Result<Vec<PathBuf>> {
    let folder = format!("kernel-{}", chosen.package_version.replace(['~', '+'], "_"));
    let place = format!("downloads/{folder}");
    let key = Key::new("fetch", 1)
        .text(&chosen.packages().join(" "))
        .finish();
    let title = format!("kernel {}: download", chosen.release);
    let dir = context
        .cache
        .ensure(&context.ui, &place, &key, &title, |dir, step| {
            host::require_room(context, GIB_PACKAGES, &title)?;
            let log = context.cache.fresh_log("kernel-download");
            let inside = context.cache.path("apt").join("debs");
            remove_tree(&inside)?;
            fs::create_dir_all(&inside)
                .with_context(|| format!("cannot create {}", inside.display()))?;
            let apt = Apt::new(context)?.in_folder("debs");
            // The lists may be old, and what they name gone.
            let download = || {
                let names = chosen.packages();
                apt.tool("apt-get")
                    .arg("download")
                    .args(&names)
                    .hint(REACH)
                    .run(&log, step)
            };
            if download().is_err() {
                apt.tool("apt-get")
                    .args(["update", "--error-on=any"])
                    .hint(REACH)
                    .run(&log, step)?;
                download()?;
            }
            for deb in list(&inside)? {
                if let Some(name) = deb.file_name() {
                    fs::rename(&deb, dir.join(name))
                        .with_context(|| format!("cannot move {}", deb.display()))?;
                }
            }
            Ok(())
        })?;
    Ok(list(&dir)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "deb"))
        .collect())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    };
    let mut paths = read().with_context(|| format!("cannot read {}", dir.display()))?;
    paths.sort();
    Ok(paths)
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
    let exclude = LEFT_OUT
        .iter()
        .map(|pattern| format!("--exclude={pattern}"));
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
        .args(exclude)
        .run(&log, step)?;
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

/// `make` on the prepared source, for the module in `module` (a path inside the root).
pub fn make_module(enter: &Enter, kernel: &Prepared, module: &str) -> Cmd {
    enter
        .clone()
        .bind(&kernel.source, SOURCE_INSIDE)
        .dir(SOURCE_INSIDE)
        .cmd("make")
        .arg(format!(
            "-j{}",
            std::thread::available_parallelism().map_or(1, usize::from)
        ))
        .args(kernel.chosen.make_args())
        .args([
            "CONFIG_DEBUG_INFO=",
            "CONFIG_DEBUG_INFO_BTF=",
            "CONFIG_DEBUG_INFO_BTF_MODULES=",
        ])
        .arg(format!("M={module}"))
}
