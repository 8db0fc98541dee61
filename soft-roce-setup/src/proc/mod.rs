//! Commands of the host: every one leaves a log, and every failure names the command, its status, its
//! last lines and that log.
//!
//! This is the only way to start something. A child leads a process group of its own, finds programs where `doctor` does, gets no
//! descriptor but those it is given, and ends with the tool, with all that it has started: see [`guard`].

mod guard;
mod log;
mod running;
mod search;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Signal};

pub use self::log::{open_log, tail};
pub use self::running::Running;
pub use self::search::find as find_program;

use self::guard::Number;
use self::log::{Follow, cannot_write};
use crate::signal;
use crate::ui::Step;

/// The last place in turn, in the words of `nice`.
const LAST: i32 = 19;

/// A command to be run.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    passed: Vec<Arc<OwnedFd>>,
    hint: Option<String>,
    hidden: Option<(usize, &'static str)>,
    yields: bool,
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
            passed: Vec::new(),
            hint: None,
            hidden: None,
            yields: false,
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

    /// Hands a descriptor to the command, and returns its number there: `/proc/self/fd/NUMBER` is its path. No other child gets it.
    pub fn pass(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.passed.push(Arc::new(fd));
        number
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

    /// Lets it have what nobody else wants of the CPUs: it is the last in turn.
    #[must_use]
    pub fn yields(mut self) -> Self {
        self.yields = true;
        self
    }

    /// Program and arguments, for a command that starts this one.
    pub fn words(&self) -> impl Iterator<Item = &OsStr> {
        std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(OsString::as_os_str))
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

    /// Starts the command in a process group of its own, with input and output as given.
    ///
    /// The command ends with the thread that starts it, so that must be one that stays.
    ///
    /// # Errors
    /// An interruption; a program that is not there or can't be started.
    pub fn spawn(&self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Running> {
        signal::check()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that starts commands"
        )]
        let mut command = Command::new(&self.program);
        command
            .env("PATH", search::path())
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .args(&self.args)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let number = Number::next();
        let pipe = guard::pipe();
        let tool = rustix::process::getpid();
        let (passed, yields) = (self.passed.clone(), self.yields);
        let prepare = move || {
            if yields {
                // A child that is refused that runs all the same.
                let _ = rustix::process::nice(LAST);
            }
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(tool) {
                // The tool ended before it could be asked for that signal.
                return Err(Errno::SRCH.into());
            }
            for fd in &passed {
                rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
            }
            if let Some(pipe) = pipe {
                guard::began(
                    pipe,
                    number,
                    rustix::process::getpid().as_raw_nonzero().get(),
                );
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls and writes to its own stack; it neither allocates nor takes a lock, so it is sound
        // between fork and exec, whatever other threads did at the fork.
        unsafe {
            command.pre_exec(prepare);
        }
        let child = command.spawn().inspect_err(|_| guard::ended(number));
        let child = child.with_context(|| self.cannot_start())?;
        signal::register(Pid::from_child(&child));
        Ok(Running::new(child, number))
    }

    fn cannot_start(&self) -> String {
        let line = self.line();
        if find_program(&self.program).is_some() {
            return format!("cannot start `{line}`");
        }
        format!(
            "cannot start `{line}`: there is no `{}` on this host (`soft-roce-setup doctor` says what is missing)",
            self.program.to_string_lossy()
        )
    }

    /// Runs the command to its end, both outputs appended to `log`, the newest line shown in `step`.
    ///
    /// # Errors
    /// [`Failed`] if the command does not leave with status 0; an interruption.
    pub fn run(&self, log: &Path, step: &Step) -> Result<()> {
        let mut file = open_log(log)?;
        writeln!(file, "$ {}", self.line()).with_context(|| cannot_write(log))?;
        let from = file.metadata().with_context(|| cannot_write(log))?.len();
        let again = file
            .try_clone()
            .context("cannot duplicate a log's handle")?;
        let mut running = self.spawn(self.input(), file.into(), again.into())?;
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
        let out = unnamed_file()?;
        let copy = out.try_clone().context("cannot duplicate a handle")?;
        let mut running = self.spawn(self.input(), copy.into(), file.into())?;
        running.feed(self.stdin.as_deref())?;
        let status = running.wait_with(|| {})?;
        self.judge(status, log, from)?;
        Ok(String::from_utf8_lossy(&whole(out)?).into_owned())
    }

    /// Runs the command to its end and returns its status and what it wrote, whatever they are. Nothing is logged.
    ///
    /// # Errors
    /// An interruption; a command that can't be started.
    pub fn capture(&self) -> Result<Output> {
        // Files, not pipes: nothing has to be read while it runs, and what it leaves behind can't hold them open.
        let (out, err) = (unnamed_file()?, unnamed_file()?);
        let copy = |file: &File| file.try_clone().context("cannot duplicate a handle");
        let mut running = self.spawn(self.input(), copy(&out)?.into(), copy(&err)?.into())?;
        running.feed(self.stdin.as_deref())?;
        let status = running.wait_with(|| {})?;
        signal::check()?;
        Ok(Output {
            status,
            stdout: whole(out)?,
            stderr: whole(err)?,
        })
    }

    /// Runs the command and tells whether it left with status 0. Nothing is logged.
    pub fn succeeds(&self) -> bool {
        self.spawn(Stdio::null(), Stdio::null(), Stdio::null())
            .and_then(|mut running| running.wait_with(|| {}))
            .is_ok_and(|status| status.success())
    }

    fn input(&self) -> Stdio {
        if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        }
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

/// A file in memory, without a name.
fn unnamed_file() -> Result<File> {
    let fd = rustix::fs::memfd_create("soft-roce-setup", MemfdFlags::CLOEXEC);
    Ok(fd.context("cannot make a file in memory")?.into())
}

fn whole(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .context("cannot read a command's output")?;
    Ok(bytes)
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
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        for word in [
            "it's", "$HOME", "a\nb", "`id` !x", "\\", "~", "{a,b}", "*", "'\"$x\"'",
        ] {
            let script = format!("printf %s {}", quote(word));
            let said = Cmd::new("sh").args(["-c", &script]).output(&log).unwrap();
            assert_eq!(said, word);
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
    fn programs_are_found_without_sbin_in_the_path() {
        let output = Cmd::new("sh")
            .args(["-c", "PATH=${PATH#*:}; command -v chroot"])
            .env("PATH", search::completed(Some("/usr/bin:/bin".as_ref())))
            .capture()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Cmd::new("no-such-program").capture().unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("there is no `no-such-program`"), "{error}");
        assert!(error.contains("doctor"), "{error}");
    }

    #[test]
    fn what_a_child_leaves_behind_ends_with_it() {
        // Its output stays open as long as somebody has it: the sleeper would keep it for long.
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut running = Cmd::new("sh")
            .args(["-c", "sleep 1000 & exit 3"])
            .spawn(Stdio::null(), write.into(), Stdio::null())
            .unwrap();
        assert_eq!(running.wait_with(|| {}).unwrap().code(), Some(3));
        File::from(read).read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_child_has_no_descriptor_but_those_it_is_given() {
        // High numbers: what `ls` opens itself has a low one.
        let file = unnamed_file().unwrap();
        let high = || rustix::io::fcntl_dupfd_cloexec(&file, 300).unwrap();
        let (kept, passed) = (high(), high());
        let mut cmd = Cmd::new("ls").arg("/proc/self/fd");
        let number = cmd.pass(passed);
        let text = cmd.capture().unwrap().stdout;
        let text = String::from_utf8(text).unwrap();
        let has = |fd: i32| text.lines().any(|line| line == fd.to_string());
        assert!(has(number) && !has(kept.as_raw_fd()), "{text}");
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
