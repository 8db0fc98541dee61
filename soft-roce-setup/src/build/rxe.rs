//! The source of `rdma_rxe.ko`: the driver of the kernel's own source, and what `kernel/rxe` does to it.
//!
//! Each folder there is a series: patches in the order that its file `series` names, or another list beside it that says which sources
//! it is for (`series-7.2`), and files of ours that are copied in before them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::features;
use super::kernel::Prepared;
use super::key::Key;
use super::sources;
use crate::enter::Enter;
use crate::proc::Cmd;
use crate::ui::Step;

/// The driver's source in the kernel's tree.
pub const TREE: &str = "drivers/infiniband/sw/rxe";
/// The series in the repository.
pub const SERIES: &str = "kernel/rxe";
/// Components that the patches have before a file's name: `a/drivers/infiniband/sw/rxe/`.
const STRIP: &str = "-p5";

/// What is made of the driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Rxe {
    /// On-demand MRs by ib_emm, and the faults of the tree mended: what is used
    #[default]
    #[value(alias = "ours")]
    Emm,
    /// The faults of the tree mended, without ib_emm
    Fixes,
    /// The tree's own on-demand paging repaired, without ib_emm
    Odp,
    /// The distribution's own module as it is, without ib_emm
    Stock,
}

impl Rxe {
    /// Its name in the cache and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emm => "emm",
            Self::Fixes => "fixes",
            Self::Odp => "odp",
            Self::Stock => "stock",
        }
    }

    /// The series that make it, in order.
    pub fn folders(self) -> &'static [&'static str] {
        match self {
            Self::Emm => &["fixes", "emm"],
            Self::Fixes => &["fixes"],
            Self::Odp => &["odp"],
            Self::Stock => &[],
        }
    }

    /// Adds all that it is made of to a key.
    pub fn key(self, mut key: Key) -> Result<Key> {
        let series = sources::repository().join(SERIES);
        for folder in self.folders() {
            for file in files(&series.join(folder))? {
                // What is said about a series does not change the driver.
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let kind = file.extension().unwrap_or_default();
                if kind == "patch" || kind == "c" || kind == "h" || name.starts_with("series") {
                    key = key.text(&name).path(&file)?;
                }
            }
        }
        Ok(key)
    }
}

/// The files of a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    };
    let mut files = read().with_context(|| format!("cannot read {}", folder.display()))?;
    files.sort();
    Ok(files)
}

/// One change to the driver's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Its path in the repository.
    pub name: String,
    /// The file itself.
    pub file: PathBuf,
}

/// The names of the series: those that a driver is made of, and that have come so far.
pub fn all() -> Vec<&'static str> {
    let folder = sources::repository().join(SERIES);
    let mut all = Rxe::Emm.folders().to_vec();
    all.extend(Rxe::Odp.folders());
    all.retain(|name| folder.join(name).join("series").exists());
    all
}

/// Whom the list of a series' patches is for.
#[derive(Debug, Clone, Copy)]
pub enum For<'a> {
    /// The kernel source in this folder.
    Source(&'a Path),
    /// A series of kernels that is known, by its name: `7.3`.
    Known(&'a str),
}

/// A folder of `kernel/rxe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Files of ours, whole: they are copied into the driver's folder before the patches are applied.
    pub files: Vec<PathBuf>,
    /// In order.
    pub patches: Vec<Patch>,
}

impl Series {
    /// Reads the folder `name` as it is for these kernels.
    ///
    /// # Errors
    /// No file `series`, or a patch that is named and not there, or there and not named.
    pub fn read(name: &str, kernel: For<'_>) -> Result<Self> {
        let folder = sources::repository().join(SERIES).join(name);
        let (list, text) = list(&folder, kernel)?;
        let mut patches = Vec::new();
        for patch in names(&text) {
            let file = folder.join(patch);
            let name = format!("{SERIES}/{name}/{patch}");
            if !file.exists() {
                bail!("{} names {name}, which is not there", list.display());
            }
            patches.push(Patch { name, file });
        }
        let mut files = files(&folder)?;
        files.retain(|file| file.extension().is_some_and(|end| end == "c" || end == "h"));
        Ok(Self { files, patches })
    }
}

/// The list of a folder that is for these kernels, with its text: one that says so, or else `series`.
fn list(folder: &Path, kernel: For<'_>) -> Result<(PathBuf, String)> {
    let read = |list: &Path| {
        fs::read_to_string(list)
            .with_context(|| format!("cannot read the patch series {}", list.display()))
    };
    for own in files(folder)? {
        let name = own.file_name().unwrap_or_default().to_string_lossy();
        let Some(of) = name.strip_prefix("series-") else {
            continue;
        };
        let text = read(&own)?;
        let fits = match kernel {
            For::Known(series) => of == series,
            For::Source(source) => features::is_for(&text, source)
                .with_context(|| format!("the patch series {}", own.display()))?,
        };
        if fits {
            return Ok((own, text));
        }
    }
    let list = folder.join("series");
    let text = read(&list)?;
    Ok((list, text))
}

/// The patches of a series file: a name a line, `#` begins a comment.
fn names(series: &str) -> impl Iterator<Item = &str> {
    series
        .lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim)
        .filter(|line| !line.is_empty())
}

/// Where the driver is changed, and by what.
#[derive(Debug)]
pub struct Workbench<'a> {
    /// The root, with the driver's folder bound in it.
    pub enter: &'a Enter,
    /// The folder of the driver's source.
    pub driver: PathBuf,
    /// The same, as the root sees it.
    pub driver_inside: &'a str,
    /// The kernel whose driver it is.
    pub kernel: &'a Prepared,
}

impl Workbench<'_> {
    /// Copies the driver's source and makes `rxe` of it.
    pub fn make_source(&self, rxe: Rxe, log: &Path, step: &Step) -> Result<()> {
        self.copy_source()?;
        for folder in rxe.folders() {
            let series = Series::read(folder, For::Source(&self.kernel.source))?;
            self.copy(&series)?;
            for patch in &series.patches {
                self.apply(patch, log, step)?;
            }
        }
        Ok(())
    }

    /// Copies the driver's source as it is in the kernel's.
    pub fn copy_source(&self) -> Result<()> {
        sources::copy_tree(&self.kernel.source.join(TREE), &self.driver)
    }

    /// Copies the files of ours.
    pub fn copy(&self, series: &Series) -> Result<()> {
        for file in &series.files {
            let Some(name) = file.file_name() else {
                continue;
            };
            let target = self.driver.join(name);
            if target.exists() {
                bail!("{}: the driver has a file of that name", target.display());
            }
            fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    /// Applies one patch, without fuzz.
    pub fn apply(&self, patch: &Patch, log: &Path, step: &Step) -> Result<()> {
        let inside = format!("{}/.patch", self.driver_inside);
        let copy = self.driver.join(".patch");
        fs::copy(&patch.file, &copy)
            .with_context(|| format!("cannot copy {}", patch.file.display()))?;
        let apply: Cmd = self
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
            .args(["-d", self.driver_inside, "-i", &inside]);
        let release = &self.kernel.chosen.release;
        let name = &patch.name;
        let before = fs::metadata(log).map_or(0, |meta| meta.len());
        apply
            .hint(format!(
                "the rxe source of {release} differs from what {name} expects: refresh that patch, or take another kernel with --kernel"
            ))
            .run(log, step)
            .with_context(|| {
                let said = fs::read(log).unwrap_or_default();
                let said = said.get(before as usize..).unwrap_or_default();
                let misfits = misfits(&String::from_utf8_lossy(said));
                let lines = misfits.iter().map(|misfit| format!("\n  {name}: {misfit}"));
                format!(
                    "the patch {name} does not apply to rxe of {release}{}",
                    lines.collect::<String>()
                )
            })
    }
}

/// The hunks that did not fit, from what `patch` said: a line each, with the file.
fn misfits(said: &str) -> Vec<String> {
    let mut file = "";
    let mut misfits = Vec::new();
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("patching file ") {
            file = name;
        }
        let hunk = line.strip_prefix("Hunk #");
        if let Some((number, place)) = hunk.and_then(|rest| rest.split_once(" FAILED at ")) {
            let place = place.trim_end_matches('.');
            misfits.push(format!("hunk {number} does not fit {file} at line {place}"));
        } else if line.starts_with("can't find file to patch") {
            misfits.push("a file that it changes is not there".to_owned());
        } else if line.starts_with("The next patch would create the file ") {
            misfits.push(line.to_owned());
        }
    }
    misfits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series() {
        let text = "# first\n0001-a.patch\n\n 0002-b.patch # why\n";
        assert_eq!(
            names(text).collect::<Vec<_>>(),
            ["0001-a.patch", "0002-b.patch"]
        );
    }

    #[test]
    fn hunks_that_do_not_fit_are_named() {
        let said = "patching file rxe_mr.c\nHunk #1 succeeded at 12 (offset 2 lines).\npatching file rxe_odp.c\n\
                    Hunk #2 FAILED at 345.\n1 out of 2 hunks FAILED -- saving rejects to file -\n";
        assert_eq!(misfits(said), ["hunk 2 does not fit rxe_odp.c at line 345"]);
        assert_eq!(
            misfits("can't find file to patch at input line 5\n").len(),
            1
        );
        assert!(misfits("patching file rxe_mr.c\n").is_empty());
    }

    /// Which list a source gets is asked of the source, and which one a series' name stands for is the same one.
    #[test]
    fn lists_are_chosen_by_what_the_source_has() {
        let folder = sources::repository().join(SERIES).join("odp");
        let old = tempfile::tempdir().unwrap();
        fs::create_dir_all(old.path().join("include/linux")).unwrap();
        let header = old.path().join("include/linux/hmm.h");
        let name = |kernel| {
            let (list, _) = list(&folder, kernel).unwrap();
            list.file_name().unwrap().to_string_lossy().into_owned()
        };
        fs::write(&header, "int hmm_range_fault(struct hmm_range *range);\n").unwrap();
        assert_eq!(name(For::Source(old.path())), "series-7.2");
        assert_eq!(name(For::Known("7.2")), "series-7.2");
        fs::write(&header, "int hmm_range_fault_unlocked_timeout(").unwrap();
        assert_eq!(name(For::Source(old.path())), "series");
        assert_eq!(name(For::Known("7.3")), "series");
    }

    /// A patch that no series names would be forgotten.
    #[test]
    fn each_patch_is_in_a_series() {
        let all = files(&sources::repository().join(SERIES)).unwrap();
        for folder in all.iter().filter(|path| path.is_dir()) {
            let files = files(folder).unwrap();
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            let named: String = files
                .iter()
                .filter(|file| name(file).starts_with("series"))
                .map(|file| fs::read_to_string(file).unwrap())
                .collect();
            for file in files.iter().filter(|file| name(file).ends_with(".patch")) {
                assert!(
                    names(&named).any(|patch| patch == name(file)),
                    "{}: no series names it",
                    file.display()
                );
            }
        }
    }
}
