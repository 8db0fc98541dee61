//! XPMEM's library for programs in C, as they find it, and its samples, built as their users would build them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::root;
use crate::context::Context;
use crate::enter::Enter;
use crate::ui::Step;

/// The library, as cargo names it.
pub const BUILT: &str = "libxpmem_c.so";
/// As programs know it, and as the linker does.
const NAMES: [&str; 2] = ["libxpmem.so.0", "libxpmem.so"];
/// What goes beside it.
const FILES: [&str; 2] = ["include/xpmem.h", "xpmem.pc"];
/// The samples.
const SAMPLES: [&str; 2] = ["xpmem_owner", "xpmem_attacher"];

/// Gives the library in `dir` its names, and builds the samples there. The repository's copy is in `source`.
pub fn finish(context: &Context, source: &Path, dir: &Path, log: &Path, step: &Step) -> Result<()> {
    let [name, linked] = NAMES;
    fs::rename(dir.join(BUILT), dir.join(name)).context("cannot rename libxpmem")?;
    symlink(name, dir.join(linked)).context("cannot link libxpmem")?;
    for file in FILES {
        let from = source.join("xpmem/library").join(file);
        let name = from.file_name().context("it has a name")?;
        fs::copy(&from, dir.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    for sample in SAMPLES {
        let script = format!(
            "exec cc -O2 -Wall -Wextra -Werror -o /mnt/out/{sample} /mnt/source/xpmem/samples/{sample}.c \
             $(pkg-config --cflags --libs xpmem) -Wl,-rpath,'$ORIGIN'"
        );
        Enter::new(&root::tree(context))
            .bind_ro(source, "/mnt/source")
            .bind(dir, "/mnt/out")
            .envs([("PKG_CONFIG_PATH", "/mnt/out")])
            .cmd("sh")
            .args(["-c", &script])
            .run(log, step)?;
    }
    Ok(())
}
