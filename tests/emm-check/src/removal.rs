//! The device goes while a program waits in an ioctl: whoever removes it must not wait for what the program waits for.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::ends_within;
use crate::report::Report;
use crate::system::{Kind, add_link, netdev_of};

/// Longest time until it is removed.
const SOON: Duration = Duration::from_secs(20);

/// Reports how it went; the device is there again afterwards.
pub fn removal(report: &Report, device: &str, args: &[String]) {
    let outcome = under_advice(device, args);
    report.case(
        "emm",
        "removal",
        "advice that waits for a userfaultfd",
        true,
        outcome,
    );
}

fn under_advice(device: &str, args: &[String]) -> Result<String> {
    Kind::Emm.select(false)?;
    let netdev = netdev_of(device)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(args)
        .args(["uffd-child", "--advised", "--mr", "ondemand"])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the program")?;
    let said = BufReader::new(child.stdout.take().context("its output")?);
    let mut said = said.lines();
    let mut hear = |what: &str| -> Result<String> {
        let line = said.next().context("it ended")??;
        if !line.starts_with(what) {
            bail!("it said `{line}`, not `{what} …`");
        }
        Ok(line)
    };
    let removed = hear("blocked").and_then(|_| {
        let start = Instant::now();
        let mut delete = Command::new("rdma")
            .args(["link", "delete", device])
            .spawn()
            .context("starting rdma")?;
        let Some(status) = ends_within(&mut delete, SOON)? else {
            bail!("`rdma link delete` still waits after {} s", SOON.as_secs());
        };
        if !status.success() {
            bail!("`rdma link delete`: {status}");
        }
        Ok(start.elapsed())
    });
    let advised = removed.and_then(|time| Ok((time, hear("advised")?)));
    child
        .kill()
        .and_then(|()| child.wait())
        .context("ending the program")?;
    let (time, advised) = advised?;
    if advised.contains("Ok") {
        bail!("the advice about a page that never came ended well");
    }
    add_link(device, &netdev)?;
    Ok(format!(
        "removed in {:.1} s, and made anew",
        time.as_secs_f64()
    ))
}
