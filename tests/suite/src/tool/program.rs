//! The tool as a test starts it: the program that runs the tests, on the same cache and sources.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context as _, Result};

use soft_roce_setup::build;
use soft_roce_setup::context::Context;
use soft_roce_setup::proc::Cmd;

/// This program, to be started again.
pub(super) struct Tool {
    pub(super) program: PathBuf,
    cache: PathBuf,
    /// Of the kernel that its guests have.
    pub(super) series: String,
}

impl Tool {
    pub(super) fn new(context: &Context, series: &str) -> Result<Self> {
        Ok(Self {
            program: std::env::current_exe().context("cannot find my own program")?,
            cache: context.cache.path(""),
            series: series.to_owned(),
        })
    }

    pub(super) fn command(&self, args: &[&str]) -> Cmd {
        Cmd::new(&self.program)
            .arg("--cache")
            .arg(&self.cache)
            .args(args)
            .env(build::SOURCES_HANDED, build::sources())
    }

    /// The command that runs `script` in a guest.
    pub(super) fn guest(&self, options: &[&str], script: &str) -> Cmd {
        self.command(&["run"])
            .args(["--kernel", &self.series])
            .args(options)
            .args(["--", script])
    }

    pub(super) fn run(&self, options: &[&str], script: &str) -> Result<Output> {
        self.guest(options, script).capture()
    }
}
