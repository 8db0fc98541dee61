//! Groups of tests: each builds what it needs when it is made, so that later all can run side by side and nothing waits for the
//! cache's lock.

use anyhow::Result;

use super::said::Said;
use super::tally::Tally;
use soft_roce_setup::build::{self, BuildOptions};
use soft_roce_setup::context::Context;

/// The kernel with PREEMPT_RT that has a short set of tests with `--long`.
pub const RT: &str = "7.3-rt";

/// What the tests of one kernel are asked for, and where they tell what they saw.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The cache and the user's terminal.
    pub context: &'a Context,
    /// The kernel.
    pub series: &'a str,
    /// Whether it is the first one: a further one has what differs there, but for `long`.
    pub first: bool,
    /// Whether what takes long is asked for, too.
    pub long: bool,
    /// Says which tests are wanted, and counts them.
    pub tally: &'a Tally,
    /// Keeps what they print.
    pub said: &'a Said,
}

impl<'a> Asked<'a> {
    /// The same of the kernel `series`.
    pub fn on(self, series: &'a str, first: bool) -> Self {
        Self {
            series,
            first,
            ..self
        }
    }

    /// Those of `tests` that are wanted, by their names on this kernel.
    pub fn wanted<T>(
        &self,
        tests: impl Iterator<Item = &'static T>,
        name: impl Fn(&str, &T) -> String,
    ) -> Vec<&'static T> {
        tests
            .filter(|test| self.tally.wants(&name(self.series, test)))
            .collect()
    }
}

/// Tests that run one after the other, beside other groups.
pub struct Group<'a> {
    /// The release of the kernel that it boots.
    pub kernel: Option<String>,
    /// Beside others it is to begin first, or it would be the last one, alone.
    pub slow: bool,
    /// It keeps one CPU busy rather than two: most of its time guests boot, or it needs none.
    pub boots: bool,
    work: Box<dyn FnOnce() -> Result<()> + Send + 'a>,
}

impl<'a> Group<'a> {
    /// On the host alone.
    pub fn of_host(work: impl FnOnce() -> Result<()> + Send + 'a) -> Self {
        Self {
            kernel: None,
            slow: false,
            boots: true,
            work: Box::new(work),
        }
    }

    /// In guests of the kernel `kernel`, which is built here.
    pub fn of_kernel(
        context: &Context,
        kernel: &str,
        work: impl FnOnce() -> Result<()> + Send + 'a,
    ) -> Result<Self> {
        Self::with(context, &options(kernel), work)
    }

    /// In guests of what these options build.
    pub fn with(
        context: &Context,
        options: &BuildOptions,
        work: impl FnOnce() -> Result<()> + Send + 'a,
    ) -> Result<Self> {
        let artifacts = build::ensure(context, options)?;
        Ok(Self {
            kernel: Some(artifacts.kernel.version),
            slow: false,
            boots: false,
            work: Box::new(work),
        })
    }

    /// The same, as one that takes long.
    pub fn slow(self) -> Self {
        Self { slow: true, ..self }
    }

    /// The same, as one whose guests do little but boot.
    pub fn boots(self) -> Self {
        Self {
            boots: true,
            ..self
        }
    }

    /// Runs the tests. What fails is in their tally; an error ends the whole run.
    pub fn run(self) -> Result<()> {
        (self.work)()
    }
}

/// The kernel `kernel`, as every group wants it.
pub fn options(kernel: &str) -> BuildOptions {
    BuildOptions {
        kernel: Some(kernel.to_owned()),
        ..BuildOptions::default()
    }
}
