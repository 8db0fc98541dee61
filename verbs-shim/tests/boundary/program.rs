// SPDX-License-Identifier: MIT OR Apache-2.0

//! A run of the client.

use crate::build::BUILT;
use std::{path::Path, process::Command};

/// A device that can all of it, as mlx5 says.
pub const ABLE: (&str, &str) = ("FAKE_ODP", "3");

/// What the client printed.
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Standard error: the shim's.
    pub err: String,
}

impl Said {
    /// Fails unless all of `wanted` are in the output.
    pub fn has(&self, wanted: &[&str]) -> &Self {
        for want in wanted {
            assert!(self.out.contains(want), "no `{want}` in\n{}", self.out);
        }
        self
    }

    /// Fails unless all of `wanted` were said by the shim.
    pub fn says(&self, wanted: &[&str]) -> &Self {
        for want in wanted {
            assert!(self.err.contains(want), "no `{want}` in\n{}", self.err);
        }
        self
    }

    /// Fails if the shim said something.
    pub fn is_quiet(&self) -> &Self {
        assert_eq!(self.err, "");
        self
    }

    /// How often the output has `what`.
    pub fn count(&self, what: &str) -> usize {
        self.out.matches(what).count()
    }

    /// The number behind `name=` in the output.
    pub fn number(&self, name: &str) -> i64 {
        let text = self.out.split(&format!("{name}=")).nth(1);
        let text = text.and_then(|rest| rest.split_whitespace().next());
        text.and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no number `{name}` in\n{}", self.out))
    }
}

/// The client with these variables, without the shim.
pub fn plain(variables: &[(&str, &str)], actions: &[&str]) -> Said {
    let mut command = Command::new(&BUILT.client);
    command.env_clear();
    said(command, variables, actions)
}

/// The client as a library that only its opener knows, with a libibverbs of another name, and the shim preloaded.
pub fn wheel(variables: &[(&str, &str)], actions: &[&str]) -> Said {
    modules(variables, &[(&BUILT.wheel, actions)])
}

/// Clients that are libraries, each opened for itself alone in one process, which act one after the other; and the shim preloaded.
pub fn modules(variables: &[(&str, &str)], turns: &[(&Path, &[&str])]) -> Said {
    let mut command = Command::new(&BUILT.opener);
    command.env_clear().env("LD_PRELOAD", &BUILT.shim);
    for (at, (library, actions)) in turns.iter().enumerate() {
        if at > 0 {
            command.arg("--");
        }
        command.arg(library).args(*actions);
    }
    said(command, variables, &[])
}

fn said(mut command: Command, variables: &[(&str, &str)], actions: &[&str]) -> Said {
    command
        .args(actions)
        .env("LD_LIBRARY_PATH", &BUILT.folder)
        .env("FAKE_TRACE", "1")
        .envs(variables.iter().copied());
    let output = command.output().expect("the client can be run");
    let said = Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    let status = output.status;
    assert!(status.success(), "{status}\n{}{}", said.out, said.err);
    said
}

/// The client with these variables, and the shim preloaded.
pub fn shimmed(variables: &[(&str, &str)], actions: &[&str]) -> Said {
    shimmed_in(Path::new("."), variables, actions)
}

/// The same, in this folder.
pub fn shimmed_in(folder: &Path, variables: &[(&str, &str)], actions: &[&str]) -> Said {
    let mut command = Command::new(&BUILT.client);
    command.env_clear().current_dir(folder);
    command.env("LD_PRELOAD", &BUILT.shim);
    said(command, variables, actions)
}
