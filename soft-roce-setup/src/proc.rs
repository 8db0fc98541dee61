//! Commands of the host: every one leaves a log, and every failure names the command, its status, its
//! last lines and that log.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::signal;
use crate::ui::Step;

/// Lines of a log that an error repeats.
const TAIL_LINES: usize = 20;
/// Bytes of a log that are searched for them.
const TAIL_BYTES: u64 = 16 * 1024;

/// A command to be run.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    hint: Option<String>,
    hidden: Option<(usize, &'static str)>,
}

impl Cmd {
    /// A command without arguments, in the tool's own environment, without input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            stdin: None,
            hint: None,
            hidden: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Gives the command something to read. It is written at once: keep it below a pipe's 64 KiB.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Says what to do if the command fails.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Shows `name` in the place of all that was given so far but the last argument.
    #[must_use]
    pub fn shown_after(mut self, name: &'static str) -> Self {
        self.hidden = Some((self.args.len().saturating_sub(1), name));
        self
    }

    /// The command as one would type it.
    pub fn line(&self) -> String {
        let (skip, mut line) = match self.hidden {
            Some((skip, name)) => (skip, name.to_owned()),
            None => (0, quote(&self.program.to_string_lossy())),
        };
        for arg in &self.args[skip..] {
            line.push(' ');
            line.push_str(&quote(&arg.to_string_lossy()));
        }
        line
    }

    /// The command for the standard library, ending with the tool if that is killed.
    pub fn to_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        // SAFETY: the closure makes one system call and touches no memory, so it is sound between
        // fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        command
    }

    /// Starts the command in a process group of its own, with input and output as given.
    ///
    /// The command ends with the thread that starts it, so that must be one that stays.
    pub fn spawn(&self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Running> {
        let mut command = self.to_command();
        command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        self.start(command)
    }

    fn start(&self, mut command: Command) -> Result<Running> {
        signal::check()?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.line()))?;
        signal::register(Pid::from_child(&child));
        Ok(Running {
            child,
            registered: true,
        })
    }

    /// Runs the command to its end, both outputs appended to `log`, the newest line shown in `step`.
    ///
    /// # Errors
    /// [`Failed`] if the command does not leave with status 0; an interruption.
    pub fn run(&self, log: &Path, step: &Step) -> Result<()> {
        let mut file = open_log(log)?;
        writeln!(file, "$ {}", self.line()).with_context(|| cannot_write(log))?;
        let from = file.metadata().with_context(|| cannot_write(log))?.len();
        let stdin = if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let again = file
            .try_clone()
            .context("cannot duplicate a log's handle")?;
        let mut running = self.spawn(stdin, file.into(), again.into())?;
        running.feed(self.stdin.as_deref())?;
        let mut follow = Follow::new(log, from);
        let status = running.wait_with(|| {
            for line in follow.lines() {
                step.line(&line);
            }
        })?;
        for line in follow.lines() {
            step.line(&line);
        }
        self.judge(status, log, from)
    }

    /// Runs the command to its end and returns its output as text; errors go to `log`.
    ///
    /// # Errors
    /// As [`Cmd::run`].
    pub fn output(&self, log: &Path) -> Result<String> {
        let mut file = open_log(log)?;
        writeln!(file, "$ {}", self.line()).with_context(|| cannot_write(log))?;
        let from = file.metadata().with_context(|| cannot_write(log))?.len();
        let stdin = if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut running = self.spawn(stdin, Stdio::piped(), file.into())?;
        running.feed(self.stdin.as_deref())?;
        let mut text = Vec::new();
        if let Some(mut stdout) = running.child.stdout.take() {
            stdout
                .read_to_end(&mut text)
                .with_context(|| format!("cannot read the output of `{}`", self.line()))?;
        }
        let status = running.wait_with(|| {})?;
        self.judge(status, log, from)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs the command and tells whether it left with status 0. Nothing is logged.
    pub fn succeeds(&self) -> bool {
        self.spawn(Stdio::null(), Stdio::null(), Stdio::null())
            .and_then(|mut running| running.wait_with(|| {}))
            .is_ok_and(|status| status.success())
    }

    fn judge(&self, status: ExitStatus, log: &Path, from: u64) -> Result<()> {
        signal::check()?;
        if status.success() {
            return Ok(());
        }
        Err(Failed {
            command: self.line(),
            status,
            tail: tail(log, from),
            log: log.to_owned(),
            hint: self.hint.clone(),
        }
        .into())
    }
}

/// Time between two calls of a `tick`.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A child that is running. Dropping it kills what is left of it.
#[derive(Debug)]
pub struct Running {
    /// The child itself, for its pipes. Wait for it through [`Running::wait_with`].
    pub child: Child,
    registered: bool,
}

impl Running {
    /// Waits for the end of the child and calls `tick` some ten times a second meanwhile.
    pub fn wait_with(&mut self, mut tick: impl FnMut()) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let child = Pid::from_child(&self.child);
        let end = pidfd_open(child, PidfdFlags::empty()).context("cannot watch a child")?;
        loop {
            match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => tick(),
                Ok(_) => {
                    if let Some(status) = self.try_wait()? {
                        return Ok(status);
                    }
                }
                Err(error) => return Err(error).context("cannot wait for a child"),
            }
        }
    }

    /// The child's status if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("cannot wait for a child")?;
        if status.is_some() && self.registered {
            signal::forget(Pid::from_child(&self.child));
            self.registered = false;
        }
        Ok(status)
    }

    /// Kills the child and its group, and waits for it.
    pub fn kill(&mut self) {
        if self.registered {
            signal::send_to(Pid::from_child(&self.child), Signal::KILL);
            signal::forget(Pid::from_child(&self.child));
            self.registered = false;
        }
        let _ = self.child.wait();
    }

    fn feed(&mut self, bytes: Option<&[u8]>) -> Result<()> {
        if let (Some(bytes), Some(mut pipe)) = (bytes, self.child.stdin.take()) {
            pipe.write_all(bytes).context("cannot write to a child")?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.registered {
            self.kill();
        }
    }
}

/// A command that left with a status other than 0, or by a signal.
#[derive(Debug)]
pub struct Failed {
    /// The command as one would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The last lines it wrote.
    pub tail: Vec<String>,
    /// Where all it wrote can be read.
    pub log: PathBuf,
    /// What to do.
    pub hint: Option<String>,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` failed: {}", self.command, self.status)?;
        if !self.tail.is_empty() {
            write!(f, "\n  its last lines:")?;
            for line in &self.tail {
                write!(f, "\n    {line}")?;
            }
        }
        write!(f, "\n  full log: {}", self.log.display())?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  what to do: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

/// Opens a log for appending.
pub fn open_log(log: &Path) -> Result<File> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| cannot_write(log))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| cannot_write(log))
}

fn cannot_write(log: &Path) -> String {
    format!("cannot write the log {}", log.display())
}

/// The last lines of `log` after byte `from`.
pub fn tail(log: &Path, from: u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(visible)
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// What a terminal would show of a line that returns to its start (progress bars).
fn visible(line: &str) -> &str {
    line.trim_end_matches('\r')
        .rsplit('\r')
        .next()
        .unwrap_or(line)
}

/// Reads the lines that are added to a file.
struct Follow {
    file: Option<File>,
    rest: Vec<u8>,
}

impl Follow {
    fn new(path: &Path, from: u64) -> Self {
        let file = File::open(path).ok().and_then(|mut file| {
            file.seek(SeekFrom::Start(from)).ok()?;
            Some(file)
        });
        Self {
            file,
            rest: Vec::new(),
        }
    }

    fn lines(&mut self) -> Vec<String> {
        let Some(file) = &mut self.file else {
            return Vec::new();
        };
        if file.read_to_end(&mut self.rest).is_err() {
            return Vec::new();
        }
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&whole)
            .lines()
            .map(|line| visible(line).to_owned())
            .collect()
    }
}

/// Quotes a word for a shell where it needs that.
pub fn quote(word: &str) -> String {
    shlex::Quoter::new()
        .allow_nul(true)
        .quote(word)
        .expect("only NUL cannot be quoted, and it is allowed")
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn quoting() {
        assert_eq!(quote("a-b"), "a-b");
        assert_eq!(quote(""), "''");
        for word in [
            "it's", "$HOME", "a\nb", "`id` !x", "\\", "~", "{a,b}", "*", "'\"$x\"'",
        ] {
            let script = format!("printf %s {}", quote(word));
            let said = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        }
        assert_eq!(
            Cmd::new("sh").args(["-c", "exit 3"]).line(),
            "sh -c 'exit 3'"
        );
    }

    #[test]
    fn failure_names_command_status_tail_and_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let error = Cmd::new("sh")
            .args(["-c", "echo first; echo last >&2; exit 7"])
            .hint("try again")
            .run(&log, &crate::ui::Ui::new(false).step("a command"))
            .unwrap_err()
            .to_string();
        for part in [
            "exit 7",
            "exit status: 7",
            "    first",
            "    last",
            "a.log",
            "try again",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let text = Cmd::new("cat").stdin("abc").output(&log).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn progress_bars_show_their_last_state() {
        assert_eq!(visible("10%\r20%\r30%\r"), "30%");
        assert_eq!(visible("plain"), "plain");
    }

    #[test]
    fn drop_kills_the_group() {
        let running = Cmd::new("sh")
            .args(["-c", "sleep 100 & echo $!; wait"])
            .spawn(Stdio::null(), Stdio::piped(), Stdio::null());
        let mut running = running.unwrap();
        let mut stdout = running.child.stdout.take().unwrap();
        let mut text = [0; 16];
        assert!(stdout.read(&mut text).unwrap() > 0);
        let start = Instant::now();
        drop(running);
        // Its end comes when the last one is gone that has the pipe, the grandchild too.
        assert_eq!(stdout.read(&mut text).unwrap(), 0);
        assert!(start.elapsed() < Duration::from_secs(50), "it slept on");
    }
}
