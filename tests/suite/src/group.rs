//! Groups of tests: each builds what it needs when it is made, so that later all can run side by side and nothing waits for the
//! cache's lock.

use anyhow::Result;

use soft_roce_setup::build::{self, BuildOptions};
use soft_roce_setup::context::Context;

/// Tests that run one after the other, beside other groups.
pub struct Group<'a> {
    /// The release of the kernel that it boots.
    pub kernel: Option<String>,
    /// Beside others it is to begin first, or it would be the last one, alone.
    pub slow: bool,
    /// It keeps one CPU busy rather than two: most of its time guests boot.
    pub boots: bool,
    work: Box<dyn FnOnce() -> Result<()> + Send + 'a>,
}

impl<'a> Group<'a> {
    /// On the host alone.
    pub fn of_host(work: impl FnOnce() -> Result<()> + Send + 'a) -> Self {
        Self {
            kernel: None,
            slow: false,
            boots: false,
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
