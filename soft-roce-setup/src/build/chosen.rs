//! A kernel of the cache: which one it is, where its files are, and how a module is made for it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::versions::{self, Kernel};
use crate::context::Context;
use crate::enter::Enter;
use crate::proc::Cmd;

/// Where the prepared source is in the root, always: its build leaves absolute paths behind.
pub const SOURCE_INSIDE: &str = "/mnt/linux";
/// Arguments of every make in a stock kernel's tree.
pub const MAKE_ARGS: [&str; 2] = ["CC=gcc-14", "HOSTCC=gcc-14"];

/// Arguments of every make in the debug kernel's tree: KASAN with Rust needs clang.
pub const DEBUG_MAKE_ARGS: [&str; 1] = ["LLVM=-19"];

/// How the folders of kernels' packages begin, among the downloads.
pub const DOWNLOADS: &str = "kernel-";

/// Parts of the source that no module of ours reads. Kconfig stays, for the configuration.
/// tar's `*` matches slashes, so each pattern begins at the top (`tools/objtool/arch` must stay). `?.?` stands for the series.
pub const LEFT_OUT: &[&str] = &[
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
    /// The stock kernel that a debug kernel is made of, or the kernel itself.
    pub fn stock(&self) -> Self {
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

    /// What tar is told to leave out of its source.
    pub fn left_out(&self) -> impl Iterator<Item = String> {
        LEFT_OUT
            .iter()
            .map(|pattern| format!("--exclude={}", pattern.replace("?.?", &self.series)))
    }

    /// Whether its series is none of those that are known.
    pub fn is_new(&self) -> bool {
        !versions::known().contains(&self.series)
    }

    /// What make is given in its tree.
    fn make_args(&self) -> &'static [&'static str] {
        if self.is_debug() {
            &DEBUG_MAKE_ARGS
        } else {
            &MAKE_ARGS
        }
    }

    /// Its place in the cache.
    pub fn place(&self) -> String {
        format!("kernels/{}", self.release)
    }

    /// The folder of its packages among the downloads.
    pub fn downloads(&self) -> String {
        let version = self.package_version.replace(['~', '+'], "_");
        format!("{DOWNLOADS}{version}")
    }

    /// Its packages, in a form that `apt-get download` takes.
    pub fn packages(&self) -> Vec<String> {
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
