//! What a guest may do to directories of the host; and, in the same guest, a PATH as an ordinary user has it, and `run -n`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::program::Tool;
use crate::tally::Outcome;
use soft_roce_setup::context::Context;
use soft_roce_setup::proc::Cmd;

pub(super) const NAME: &str = "tool::shares_give_the_host_plain_files";

/// What the guest's root does: all of it works there, but writing to what is read-only.
const SCRIPT: &str = "set -e; cat /in/file /in/link; cd /out\n\
    if touch /in/new 2> /dev/null; then echo /in can be written; exit 1; fi\n\
    echo from the guest > file; mknod device c 1 3; mkfifo fifo; ln -s /etc/passwd link\n\
    cp /bin/true program; chown 1000:1000 program; chmod 6755 program; mkdir dir; echo x > dir/y\n\
    [ -c device ] && [ -p fifo ] && [ $(readlink link) = /etc/passwd ] && [ -u program ] && ./program\n\
    echo done";

pub(super) fn run(context: &Context, tool: &Tool) -> Result<Outcome> {
    let dir = context.cache.path("tmp");
    let dir = dir.join(format!("share-{}", std::process::id()));
    let (read, written) = (dir.join("in"), dir.join("out"));
    for dir in [&read, &written] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    fs::write(read.join("file"), "from the host\n").context("cannot write to the share")?;
    std::os::unix::fs::symlink("file", read.join("link")).context("cannot make a link")?;
    let shares = [
        "--mr".to_owned(),
        "pinned".to_owned(),
        "-n".to_owned(),
        format!("--share={}:/in:ro", read.display()),
        format!("--share={}:/out", written.display()),
    ];
    let options: Vec<&str> = shares.iter().map(String::as_str).collect();
    // The tool would take the second line from the shell's loop if it read its input.
    let run = tool.guest(&options, SCRIPT).env("PATH", "/usr/bin:/bin");
    let looped = Cmd::new("sh")
        .args([
            "-c",
            "printf 'a\\nb\\n' | { read -r line; \"$@\"; cat; }",
            "sh",
        ])
        .args(run.words())
        .env("PATH", "/usr/bin:/bin");
    let output = looped.capture()?;
    let wrong = judge(&written);
    soft_roce_setup::cache::remove_tree(&dir)?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = "from the host\nfrom the host\ndone\nb\n";
    Ok(match wrong? {
        None if out == wanted => Outcome::Passed,
        wrong => {
            let err = String::from_utf8_lossy(&output.stderr);
            let wrong = wrong.unwrap_or_default();
            Outcome::Failed(format!("{wrong}\nthe guest said {out:?}\n{err}"))
        }
    })
}

/// What the host has that is no plain file of this user, or not what the guest wrote.
fn judge(dir: &Path) -> Result<Option<String>> {
    let user = rustix::process::geteuid().as_raw();
    for name in ["file", "device", "fifo", "link", "program"] {
        let file = dir.join(name);
        let Ok(meta) = file.symlink_metadata() else {
            return Ok(Some(format!("there is no {name}")));
        };
        let mode = meta.permissions().mode() & 0o7777;
        if !meta.is_file() || mode & 0o7111 != 0 || meta.uid() != user {
            let what = format!(
                "{name}: {:?}, {mode:o}, of {}",
                meta.file_type(),
                meta.uid()
            );
            return Ok(Some(what));
        }
    }
    for (name, wanted) in [("file", "from the guest\n"), ("dir/y", "x\n")] {
        let came = fs::read_to_string(dir.join(name)).unwrap_or_default();
        if came != wanted {
            return Ok(Some(format!("{name} has {came:?}")));
        }
    }
    Ok(None)
}
