//! A kernel of a series that the tests do not run on: a guest of it compares bytes before anybody relies on it, once, and a line
//! says at each start that it is new here.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::accel::Cpu;
use super::boot::Spec;
use super::ending::End;
use super::options::{Backend, Clock, Size};
use super::session::{Guest, Job};
use crate::artifacts::Artifacts;
use crate::build::versions;
use crate::context::Context;
use crate::proc::tail;

/// The file beside the modules that says how it went: it goes with them when they are built anew.
const MARK: &str = "tried";
/// What it says if all bytes were right.
const HELD: &str = "held";
/// Longest time of the check.
const LIMIT: Duration = Duration::from_secs(300);

/// Tries what was built for a kernel that is new here, unless that was done, and says that it is new.
///
/// # Errors
/// Bytes were wrong, or the guest did not come to that, and the user did not ask for this kernel by name (`insists`).
pub fn meet(context: &Context, artifacts: &Artifacts, insists: bool) -> Result<()> {
    let kernel = &artifacts.kernel;
    if !kernel.new {
        return Ok(());
    }
    let mark = kernel.emm.join(MARK);
    let known = fs::read_to_string(&mark).ok();
    let held = match known {
        Some(known) if insists || known == HELD => known == HELD,
        _ => {
            let held = try_it(context, artifacts, insists)?;
            let word = if held { HELD } else { "did not hold" };
            fs::write(&mark, word).with_context(|| format!("cannot write {}", mark.display()))?;
            held
        }
    };
    context.ui.note_once(format!(
        "kernel {} is new here, the tests run on {}: a short check of every byte on it {}",
        kernel.version,
        versions::SERIES.join(" and "),
        if held { HELD } else { "did not hold" }
    ));
    Ok(())
}

/// Boots a guest and has it compare bytes. Whether they were right.
fn try_it(context: &Context, artifacts: &Artifacts, insists: bool) -> Result<bool> {
    let kernel = &artifacts.kernel;
    let release = &kernel.version;
    let log = context.cache.fresh_log(&format!("new-{release}"));
    let step = context
        .ui
        .step(format!("kernel {release}: a short check of every byte"));
    let (end, said) = checked(context, artifacts, &log)
        .with_context(|| format!("the kernel {release} is new here"))?;
    if matches!(end, End::Exited(0)) {
        step.done();
        return Ok(true);
    }
    let lines = tail(&log, 0).join("\n");
    let said = format!(
        "the kernel {release} is new here, and a short check of every byte on it did not hold: {said}\n{lines}\n  \
         log: {}\n  what to do: take a kernel of the series {} (--kernel); who names this one (--kernel {release}) gets it all the same",
        log.display(),
        versions::SERIES.join(" or ")
    );
    if !insists {
        bail!(said);
    }
    context.ui.note(said);
    Ok(false)
}

/// How the check ended, also in words.
fn checked(context: &Context, artifacts: &Artifacts, log: &Path) -> Result<(End, String)> {
    let spec = Spec {
        backend: Backend::Emm,
        clock: Clock::Wall,
        cpu: Cpu::Max,
        smp: 2,
        nodes: 1,
        mem: Size(2 << 30),
        shares: Vec::new(),
        disk: None,
        append: None,
        terminal: false,
    };
    let mut guest = Guest::boot(context, artifacts, &spec)?;
    let kind = if artifacts.kernel.emm.join("ib_emm.ko").exists() {
        "emm"
    } else {
        "pinned"
    };
    let job = Job {
        script: format!(
            "exec emm-check --allow-stock verify --mr {kind} --op write,read,send,atomic \
             --offsets 0,1,2049,4095 --lengths 1,7,4096,65537\n"
        ),
        stdin: false,
        silence: LIMIT,
        limit: Some(LIMIT),
    };
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let again = file
        .try_clone()
        .context("cannot duplicate a log's handle")?;
    let end = guest.run(&job, Box::new(file), Box::new(again))?;
    let said = guest.describe(&end);
    Ok((end, said))
}
