//! The demo: one guest, in which `emm-check demo` registers, transfers, pages out, forks and unmaps, and
//! tells what it saw in JSON lines. Here they are shown as they come, summed up in a table, and written
//! to a file if asked.

mod table;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::build::{self, BuildOptions, KernelArg};
use crate::context::Context;
use crate::exit;
use crate::guest::{self, Backend, Clock, Cpu, End, Guest, Job, Size, Spec};
use crate::ui;

/// Longest time of the guest's part.
const LIMIT: Duration = Duration::from_secs(900);
/// Longest time without a word from it.
const SILENCE: Duration = Duration::from_secs(300);

/// `demo`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Which kernel.
    #[command(flatten)]
    pub kernel: KernelArg,
    /// Write the facts of the closing table to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `demo`
pub fn run(context: &Context, args: &DemoArgs) -> Result<ExitCode> {
    // A path that can't be written is worth knowing before, not after.
    let json = args.json.as_deref().map(create).transpose()?;
    let options = BuildOptions {
        kernel: args.kernel.kernel.clone(),
        ..BuildOptions::default()
    };
    let artifacts = build::ensure(context, &options)?;
    guest::meet(context, &artifacts, options.kernel.is_some())?;
    let spec = Spec {
        backend: Backend::Emm,
        clock: Clock::Wall,
        cpu: Cpu::Max,
        smp: 2,
        nodes: 1,
        mem: Size(3 << 30),
        shares: Vec::new(),
        disk: None,
        append: None,
        terminal: false,
    };
    let mut guest = Guest::boot(context, &artifacts, &spec)?;
    let job = Job {
        script: "exec emm-check --json demo\n".to_owned(),
        stdin: false,
        silence: SILENCE,
        limit: Some(LIMIT),
    };
    let (sender, lines) = channel::<String>();
    let shown = thread::spawn(move || {
        let mut facts = Vec::new();
        for line in lines {
            match serde_json::from_str::<Value>(&line) {
                Ok(fact) => {
                    if let Some(text) = table::live(&fact) {
                        ui::say(format_args!("{text}"));
                    }
                    facts.push(fact);
                }
                Err(_) => ui::say(format_args!("{line}")),
            }
        }
        facts
    });
    let end = guest.run(
        &job,
        Box::new(Lines::new(sender)),
        Box::new(std::io::stderr()),
    )?;
    let said = guest.describe(&end);
    drop(guest);
    let facts = shown.join().unwrap_or_default();
    ui::print(format_args!("{}", table::closing(&facts)));
    let held = matches!(end, End::Exited(0)) && table::all_held(&facts);
    if let Some(mut file) = json {
        let whole = json!({
            "kernel": artifacts.kernel.version,
            "held": held,
            "facts": facts,
        });
        writeln!(file, "{whole:#}").context("cannot write the facts (--json)")?;
    }
    if held {
        ui::say(format_args!("All held."));
        return Ok(ExitCode::SUCCESS);
    }
    if !matches!(end, End::Exited(_)) {
        ui::tell(format_args!("soft-roce-setup: error: {said}"));
    }
    ui::say(format_args!("Not all held."));
    Ok(match end {
        End::Report(_) => exit::KERNEL.into(),
        End::Timeout(..) => exit::TIMEOUT.into(),
        _ => exit::NOT_HELD.into(),
    })
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|error| {
        let message = format!("--json {}: cannot be written: {error}", path.display());
        exit::coded(exit::USAGE, message)
    })
}

/// Cuts what the guest writes into lines.
struct Lines {
    partial: Vec<u8>,
    to: Sender<String>,
}

impl Lines {
    fn new(to: Sender<String>) -> Self {
        Self {
            partial: Vec::new(),
            to,
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.partial).into_owned();
                self.partial.clear();
                // Nobody listens any more only when the demo is over.
                let _ = self.to.send(line);
            } else {
                self.partial.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
