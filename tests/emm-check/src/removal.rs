//! The device goes while a program waits in an ioctl: whoever removes it must not wait for what the program waits for.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::ends_within;
use crate::fuse::Silent;
use crate::report::Report;
use crate::system::{Kind, add_link, has_symbol, netdev_of};

/// Longest time until something happens that waits for nobody.
const SOON: Duration = Duration::from_secs(20);

/// So long the driver has to take its device away from a program that goes on.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Reports how it went; the device is there again afterwards.
pub fn removal(report: &Report, device: &str, args: &[String]) {
    let name = "advice that waits for a userfaultfd";
    report.case("emm", "removal", name, true, under_advice(device, args));
    let name = "queue pairs that wait for one";
    report.case(
        "emm",
        "removal",
        name,
        true,
        under_faults(device, args, None),
    );
    let name = "queue pairs that wait for a silent file server";
    let outcome = match Silent::mount() {
        Ok(None) => {
            let what = format!("removal: {name}");
            return report.skip(&what, "this kernel has no FUSE", false);
        }
        Ok(Some(server)) => under_faults(device, args, Some(&server)),
        Err(why) => Err(why),
    };
    report.case("emm", "removal", name, true, outcome);
}

/// A program, and the lines that it says.
struct Program(Child, Receiver<String>);

impl Program {
    fn start(args: &[String], what: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .args(what)
            .args(["--mr", "ondemand"])
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the program")?;
        let said = BufReader::new(child.stdout.take().context("its output")?);
        let (tell, told) = channel();
        // Ends with the program.
        std::thread::spawn(move || {
            said.lines()
                .map_while(Result::ok)
                .try_for_each(|l| tell.send(l))
        });
        Ok(Self(child, told))
    }

    fn hear(&self, what: &str) -> Result<String> {
        match self.1.recv_timeout(SOON) {
            Ok(line) if line.starts_with(what) => Ok(line),
            Ok(line) => bail!("it said `{line}`, not `{what} …`"),
            Err(_) => bail!("it did not say `{what} …` within {} s", SOON.as_secs()),
        }
    }

    fn end(&mut self) -> Result<()> {
        self.0.kill().context("ending the program")?;
        self.0.wait().context("waiting for the program").map(drop)
    }
}

/// The advice ends at once. The device goes then, or if its driver can't take it from a program (Linux 7.2), with the program.
fn under_advice(device: &str, args: &[String]) -> Result<String> {
    Kind::Emm.select(false)?;
    let netdev = netdev_of(device)?;
    let mut program = Program::start(args, &["uffd-child", "--advised"])?;
    if let Err(why) = program.hear("blocked") {
        program.end()?;
        return Err(why);
    }
    let mut delete = Command::new("rdma")
        .args(["link", "delete", device])
        .spawn()
        .context("starting rdma")?;
    let advised = program.hear("advised");
    let at_once = ends_within(&mut delete, AT_ONCE)?.is_some();
    program.end()?;
    let status = ends_within(&mut delete, SOON)?;
    let status = status.context("`rdma link delete` still waits, without a program")?;
    add_link(device, &netdev)?;
    let advised = advised?;
    if advised.contains("Ok") {
        bail!("the advice about a page that never came ended well");
    }
    if !status.success() {
        bail!("`rdma link delete`: {status}");
    }
    Ok(format!(
        "the advice ended, the device went {}, and was made anew",
        if at_once {
            "at once"
        } else {
            "with the program"
        }
    ))
}

/// The device goes at once, with queue pairs that wait in each way; or with the program (Linux 7.2).
fn under_faults(device: &str, args: &[String], server: Option<&Silent>) -> Result<String> {
    Kind::Emm.select(false)?;
    let netdev = netdev_of(device)?;
    let file = server.map(|server| server.file().display().to_string());
    let mut what = vec!["parked-child"];
    what.extend(file.iter().flat_map(|file| ["--file", file]));
    let mut program = Program::start(args, &what)?;
    let blocked = program.hear("blocked").and_then(|_| match server {
        Some(server) => server.await_read(SOON),
        None => Ok(()),
    });
    if let Err(why) = blocked {
        program.end()?;
        return Err(why);
    }
    let mut delete = Command::new("rdma")
        .args(["link", "delete", device])
        .spawn()
        .context("starting rdma")?;
    let start = Instant::now();
    let at_once = ends_within(&mut delete, AT_ONCE)?.is_some();
    let took = start.elapsed();
    program.end()?;
    // What the server has in hand nothing ends but the server, and with it goes the program's memory, its mappings of the device
    // among them. A driver that can't take the device away from programs waits for those.
    let last = match server {
        Some(server) if !at_once && !has_symbol("rxe_disassociate_ucontext")? => {
            server.fail();
            "server"
        }
        _ => "program",
    };
    let status = ends_within(&mut delete, SOON)?;
    let after = start.elapsed() - took;
    let status = status.context("`rdma link delete` still waits, without a program")?;
    add_link(device, &netdev)?;
    if !status.success() {
        bail!("`rdma link delete`: {status}");
    }
    Ok(if at_once {
        format!("the device went after {} ms", took.as_millis())
    } else {
        format!(
            "the device went {} ms after the {last}'s end",
            after.as_millis()
        )
    })
}
