//! The driver after each patch of a series: it builds, and the compiler has nothing to say that it did not say before.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::kernel::Prepared;
use super::modules::{BUILD_INSIDE, Bench, DRIVER};
use super::rxe::{For, Rxe, Series};
use crate::context::Context;
use crate::signal;
use crate::ui::Step;

/// What was found after a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The patch.
    pub patch: String,
    /// The compiler's line, with W=1.
    pub warning: String,
}

/// Builds the driver after each patch of the series `name` in the empty folder `dir`, and returns the warnings that are new.
///
/// # Errors
/// A patch that does not apply, or after which the driver does not build.
pub fn each_builds(
    context: &Context,
    kernel: &Prepared,
    name: &str,
    dir: &Path,
) -> Result<Vec<Finding>> {
    let release = &kernel.chosen.release;
    let step = context
        .ui
        .step(format!("rdma_rxe for {release}: each step of {name}"));
    let builder = Builder {
        context,
        bench: Bench::set(context, kernel, dir)?,
        name: format!("steps-{name}-{release}"),
        step: &step,
    };
    let log = context.cache.fresh_log(&builder.name);
    let bench = builder.bench.workbench();
    let emm = name == "emm";
    if emm {
        builder
            .bench
            .make("kernel/ib_emm")
            .arg("modules")
            .run(&log, &step)?;
        bench.make_source(Rxe::Fixes, &log, &step)?;
    } else {
        bench.copy_source()?;
    }
    let series = Series::read(name, For::Source(&kernel.source))?;
    bench.copy(&series)?;
    let known = builder.warnings(emm)?;
    let mut findings = Vec::new();
    for patch in &series.patches {
        signal::check()?;
        step.line(&patch.name);
        bench.apply(patch, &log, &step)?;
        let warnings = builder
            .warnings(emm)
            .with_context(|| format!("after {}", patch.name))?;
        findings.extend(warnings.difference(&known).map(|warning| Finding {
            patch: patch.name.clone(),
            warning: warning.clone(),
        }));
    }
    if emm {
        // What is compiled out has to build as well.
        let out = builder
            .warnings(false)
            .with_context(|| format!("without ib_emm, after all of {name}"))?;
        findings.extend(out.difference(&known).map(|warning| Finding {
            patch: format!("{name} without ib_emm"),
            warning: warning.clone(),
        }));
    }
    builder.bench.clear()?;
    step.done();
    Ok(findings)
}

struct Builder<'a> {
    context: &'a Context,
    bench: Bench<'a>,
    name: String,
    step: &'a Step,
}

impl Builder<'_> {
    /// Builds the driver, with `ib_emm` if it is to know of it, and returns the warnings of what had to be compiled.
    fn warnings(&self, emm: bool) -> Result<BTreeSet<String>> {
        let log = self.context.cache.fresh_log(&format!("{}-make", self.name));
        let mut make = self.bench.make(DRIVER).args(["CONFIG_RDMA_RXE=m", "W=1"]);
        if emm {
            make = make.args([
                "CONFIG_RDMA_RXE_EMM=y".to_owned(),
                format!("EMM_INCLUDE={BUILD_INSIDE}/kernel/include"),
                format!("KBUILD_EXTRA_SYMBOLS={BUILD_INSIDE}/kernel/ib_emm/Module.symvers"),
            ]);
        }
        make.arg("modules").run(&log, self.step)?;
        let text =
            fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
        Ok(warnings(&text))
    }
}

/// The warnings in make's output, without the places in the files, which patches move.
fn warnings(log: &str) -> BTreeSet<String> {
    log.lines()
        .filter(|line| line.contains("warning:") || line.contains("WARNING:"))
        .map(|line| {
            let place = |part: &&str| !part.chars().all(|c| c.is_ascii_digit());
            let parts: Vec<&str> = line.split(':').filter(place).collect();
            parts.join(":")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_the_same_elsewhere() {
        let before = warnings("  CC [M]  rxe.o\nrxe.c:12:3: warning: unused 'x'\n");
        let after = warnings("rxe.c:14:3: warning: unused 'x'\n");
        assert_eq!(before, after);
        assert_eq!(before.len(), 1);
    }
}
