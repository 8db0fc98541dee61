//! What happens to the process that owns a region, or to the device, while operations are in flight.
//!
//! The process is a child. The parent has no device open here: it may go.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::rdma;
use super::scene::{Memory, Scene};
use super::verb::Verb;
use crate::child::ends_within;
use crate::mem::{Map, PAGE};
use crate::system::{Cgroup, Kind, add_link, backend, netdev_of, run};
use crate::target::Env;

/// Longest wait for what must come soon.
const SOON: Duration = Duration::from_secs(20);
/// So long the driver has to take its device away from a process that goes on.
const AT_ONCE: Duration = Duration::from_secs(3);
/// Longest time of the child's traffic.
const LIFE: Duration = Duration::from_secs(120);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fate {
    /// The OOM killer
    Oom,
    /// exec
    Exec,
    /// exit
    Exit,
    /// SIGKILL
    Kill,
    /// exit, while a forked child lives on
    ParentFirst,
    /// `rdma link delete`
    DeviceRemoval,
    /// The net device goes down and up again
    LinkDown,
    /// rmmod of the driver, and of ib_emm if it has it
    Rmmod,
}

impl Fate {
    fn word(self) -> String {
        use clap::ValueEnum as _;
        let value = self.to_possible_value();
        value.map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// The child, and how one talks with it: lines.
struct Actor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Actor {
    fn start(args: &[String], kind: Kind, verb: Verb, fate: Fate) -> Result<Self> {
        use clap::ValueEnum as _;
        let mr = if kind == Kind::Pinned {
            "pinned"
        } else {
            "ondemand"
        };
        let verb = verb.to_possible_value().context("a verb has a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .args(["matrix-child", "--mr", mr, "--verb", verb.get_name()])
            .args(["--fate", &fate.word()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the process")?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").context("talking to the process")
    }

    /// The next line must be `wanted`.
    fn hear(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim_end() {
            said if said == wanted => Ok(()),
            said => bail!("the process said {said:?} instead of {wanted:?}"),
        }
    }

    /// Its end.
    fn end(&mut self) -> Result<ExitStatus> {
        ends_within(&mut self.child, SOON)?
            .with_context(|| format!("the process is still there after {} s", SOON.as_secs()))
    }

    /// SIGKILL, and its end.
    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.end().map(drop)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Ended already, in most cases.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Plays one cell. `args` are options for the child.
pub fn cell(args: &[String], device: &str, kind: Kind, verb: Verb, fate: Fate) -> Result<String> {
    let group = match fate {
        Fate::Oom => Some(small_group()?),
        _ => None,
    };
    let mut actor = Actor::start(args, kind, verb, fate)?;
    actor.hear("ready")?;
    if let Some(group) = &group {
        group.add(actor.child.id())?;
    }
    actor.say("go")?;
    actor.hear("traffic")?;
    let said = match fate {
        Fate::Kill => actor.kill().map(|()| "killed".to_owned()),
        Fate::Exit | Fate::Exec => {
            actor.say("now")?;
            let status = actor.end()?;
            if !status.success() {
                bail!("it ended with {status}");
            }
            Ok(format!("{} in flight", fate.word()))
        }
        Fate::ParentFirst => parent_first(&mut actor),
        Fate::Oom => oom(&mut actor, group.as_ref().context("it has a group")?),
        Fate::DeviceRemoval => removal(&mut actor, device),
        Fate::LinkDown => link_down(&mut actor, device),
        Fate::Rmmod => rmmod(&mut actor, device),
    }?;
    drop(actor);
    nothing_left()?;
    Ok(format!("{said}; nothing stays behind"))
}

fn small_group() -> Result<Cgroup> {
    let group = Cgroup::new("emm-matrix-oom")?;
    group.write("memory.max", "12582912")?;
    group.write("memory.swap.max", "0")?;
    Ok(group)
}

/// Its end, by the OOM killer.
fn oom(actor: &mut Actor, group: &Cgroup) -> Result<String> {
    let status = actor.end()?;
    let events = group.read("memory.events")?;
    let kills = events.lines().find_map(|l| l.strip_prefix("oom_kill "));
    if status.success() || kills.is_none_or(|n| n == "0") {
        bail!("it ended with {status}, and the group says {events:?}");
    }
    let start = Instant::now();
    loop {
        let left: u64 = group.read("memory.current")?.trim().parse()?;
        if left < 1 << 20 {
            return Ok(format!("killed, {} KiB left charged", left >> 10));
        }
        if start.elapsed() > SOON {
            bail!("{left} bytes of it are still charged");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn parent_first(actor: &mut Actor) -> Result<String> {
    actor.say("now")?;
    actor.hear("same")?;
    let status = actor.end()?;
    if !status.success() {
        bail!("it ended with {status}");
    }
    Ok("the forked child kept the bytes of its fork".into())
}

/// The driver may wait for the processes that have the device open, or take it from them.
fn removal(actor: &mut Actor, device: &str) -> Result<String> {
    let netdev = netdev_of(device)?;
    let mut delete = Command::new("rdma")
        .args(["link", "delete", device])
        .spawn()
        .context("starting rdma")?;
    let at_once = ends_within(&mut delete, AT_ONCE)?.is_some();
    actor.kill()?;
    let status = ends_within(&mut delete, SOON)?.with_context(|| {
        format!(
            "`rdma link delete` is not done {} s after the last process",
            SOON.as_secs()
        )
    })?;
    add_link(device, &netdev)?;
    if !status.success() {
        bail!("`rdma link delete` ended with {status}");
    }
    Ok(if at_once {
        "removed under the process, made anew".into()
    } else {
        "removed after the process, made anew".into()
    })
}

/// Operations may fail while there is no way to the peer. Afterwards they work again.
fn link_down(actor: &mut Actor, device: &str) -> Result<String> {
    let netdev = &netdev_of(device)?;
    actor.say("tolerate")?;
    actor.hear("tolerant")?;
    run("ip", &["link", "set", netdev, "down"])?;
    // What is in flight loses its way; the child counts its own time.
    std::thread::sleep(Duration::from_millis(150));
    run("ip", &["link", "set", netdev, "up"])?;
    actor.say("again")?;
    actor.hear("works")?;
    actor.kill()?;
    Ok("down and up again: operations work".into())
}

/// The driver goes, and takes the device from the process, as when it is removed; ib_emm, if it has one, stays as long as the
/// driver uses it.
fn rmmod(actor: &mut Actor, device: &str) -> Result<String> {
    let backend = backend();
    let kept = match &backend {
        None => "",
        Some(_) => match run("rmmod", &["ib_emm"]) {
            Err(e) if format!("{e:#}").contains("in use") => "ib_emm refused, ",
            Err(e) => bail!("rmmod ib_emm: {e:#}"),
            Ok(_) => bail!("ib_emm was removed while in use"),
        },
    };
    actor.say("again")?;
    actor.hear("works")?;
    let netdev = netdev_of(device)?;
    let load = loader(backend.as_deref())?;
    let removed = run("rmmod", &["rdma_rxe"]);
    actor.kill()?;
    let said = match removed {
        Ok(_) => "the driver went with its device",
        Err(e) if format!("{e:#}").contains("in use") => {
            // A kernel with lockdep has the tunnel's sockets hold the driver (`sk_owner_set` of net/sock.h), and they live as long
            // as its last device.
            run("rdma", &["link", "delete", device])?;
            run("rmmod", &["rdma_rxe"])?;
            "the driver refused as well, until its device was gone"
        }
        Err(e) => bail!("rmmod rdma_rxe: {e:#}"),
    };
    let (program, args) = load.split_first().context("it names a program")?;
    run(
        program,
        &args.iter().map(String::as_str).collect::<Vec<_>>(),
    )?;
    add_link(device, &netdev)?;
    Ok(format!("{kept}{said}, and loads again"))
}

/// The command that loads the driver that is loaded now, with this backend if it has one.
fn loader(backend: Option<&str>) -> Result<Vec<String>> {
    const TAINT: &str = "/sys/module/rdma_rxe/taint";
    let taint = fs::read_to_string(TAINT).context(TAINT)?;
    // The distribution's own is not out of tree.
    let mut command = if taint.contains('O') {
        vec!["insmod".to_owned(), "/emm/modules/rdma_rxe.ko".to_owned()]
    } else {
        vec!["modprobe".to_owned(), "rdma_rxe".to_owned()]
    };
    command.extend(backend.map(|backend| format!("mr_backend={backend}")));
    Ok(command)
}

/// Waits until no process owns a region.
fn nothing_left() -> Result<()> {
    let start = Instant::now();
    loop {
        let left = run("rdma", &["resource", "show", "mr"])?;
        if left.trim().is_empty() {
            return Ok(());
        }
        if start.elapsed() > SOON {
            bail!("`rdma resource show mr` still says: {}", left.trim());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn heard() -> Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn tell(word: &str) -> Result<()> {
    println!("{word}");
    io::stdout().flush()?;
    Ok(())
}

/// The process that it happens to: operations on its stage until its end.
pub fn child(env: &Env, kind: Kind, verb: Verb, fate: Fate) -> Result<()> {
    let memory = match fate {
        Fate::Oom => Memory::Big,
        _ => Memory::Small,
    };
    let deadline = Instant::now() + LIFE;
    let reach = |map: &Arc<Map>, parts| rdma::reach(env, kind, map, parts);
    let (mut scene, mut wing) = Scene::set(reach, env.seed, verb, memory, deadline)?;
    tell("ready")?;
    heard()?;
    scene.traffic(5)?;
    if fate == Fate::ParentFirst {
        tell("traffic")?;
        heard()?;
        return fork_and_exit(&mut scene);
    }
    let tolerant = AtomicBool::new(false);
    let turns = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            loop {
                match wing.random(verb, 0..wing.len()) {
                    Ok(()) => _ = turns.fetch_add(1, Relaxed),
                    Err(_) if tolerant.load(Relaxed) => wing.start_again(),
                    // The device is gone: that is what happens here.
                    Err(_) if matches!(fate, Fate::DeviceRemoval | Fate::Rmmod) => {
                        std::process::exit(0);
                    }
                    Err(e) => {
                        eprintln!("emm-check: {e:#}");
                        std::process::exit(3);
                    }
                }
            }
        });
        tell("traffic")?;
        match fate {
            Fate::Oom => loop {
                // More than there may be, by the CPU and by operations.
                scene.fill(1);
                scene.traffic(8)?;
                hoard(24 << 20);
            },
            Fate::Exec => {
                heard()?;
                use std::os::unix::process::CommandExt as _;
                Err(anyhow!(Command::new("true").exec()))
            }
            Fate::Exit => {
                heard()?;
                std::process::exit(0)
            }
            _ => loop {
                match heard()?.as_str() {
                    "tolerate" => {
                        tolerant.store(true, Relaxed);
                        tell("tolerant")?;
                    }
                    "again" => {
                        let before = turns.load(Relaxed);
                        while turns.load(Relaxed) < before + 3 {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        tell("works")?;
                    }
                    _ => std::thread::park(),
                }
            },
        }
    })
}

/// Touches memory that is not given back.
fn hoard(bytes: usize) {
    if let Ok(map) = Map::anon(bytes) {
        for off in (0..bytes).step_by(PAGE) {
            map.set(off, 1, 1);
        }
        std::mem::forget(map);
    }
}

/// Forks, goes on with operations, and exits; the forked process looks at its bytes when it is alone.
fn fork_and_exit(scene: &mut Scene<'_>) -> Result<()> {
    let mut pipe = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error()).context("pipe");
    }
    // SAFETY: the forked process reads memory, writes a constant, and ends by _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("fork"),
        0 => {
            let mut byte = 0u8;
            // SAFETY: the writing end is the parent's alone from here on.
            unsafe { libc::close(pipe[1]) };
            // Ends with the parent.
            // SAFETY: room for one byte.
            unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) };
            let same = scene.stage.verify("as at fork").is_ok();
            let said: &[u8] = if same { b"same\n" } else { b"changed\n" };
            // SAFETY: a constant of this length.
            unsafe { libc::write(1, said.as_ptr().cast(), said.len()) };
            // SAFETY: ends the process without handlers of the parent.
            unsafe { libc::_exit(0) }
        }
        _ => {
            scene.traffic(10)?;
            std::process::exit(0)
        }
    }
}
