//! The machine: QEMU from the root, with one inherited socket for each channel.
//!
//! QEMU sees the root as `/` (see [`crate::enter`]) and a few directories of the host below /mnt, which
//! the guest gets as one read-only 9p share.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use anyhow::Result;

use super::accel::{Accel, Cpu};
use super::confined::confined;
use super::files;
use super::options::{Clock, Share, Size};
use crate::artifacts::Artifacts;
use crate::enter::Enter;
use crate::proc::{Cmd, Running};

/// What the kernel is told in any case. Costly checks that show nothing about a guest of minutes are off;
/// all that reports a problem stays on.
const KERNEL_ARGS: &str = "console=ttyS0 loglevel=5 panic=-1 nokaslr mitigations=off audit=0 lsm= \
    rcupdate.rcu_expedited=1 cryptomgr.notests=1 random.trust_cpu=on no_timer_check 8250.nr_uarts=1";

/// What the debug kernel is told besides. Slow is no lockup: its limits are long, in seconds. kmemleak is on.
const DEBUG_ARGS: &str = " kmemleak=on watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 \
    rcupdate.rcu_exp_cpu_stall_timeout=120000 workqueue.watchdog_thresh=0";

/// No ACPI code for slots that stay empty: almost half of the DSDT, which a kernel interprets slowly when it is emulated.
const NOTHING_IS_PLUGGED_IN: [&str; 6] = [
    "-global",
    "PIIX4_PM.acpi-root-pci-hotplug=off",
    "-global",
    "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off",
    "-global",
    "PIIX4_PM.memory-hotplug-support=off",
];

/// Where the image, the archive and the exported trees are for QEMU.
const IMAGE: &str = "/tmp/image";
/// Parent of all that the guest sees read-only.
const EXPORT: &str = "/mnt";

/// A machine to be started.
#[derive(Debug)]
pub struct Machine<'a> {
    pub artifacts: &'a Artifacts,
    pub accel: &'a Accel,
    pub clock: Clock,
    pub cpu: Cpu,
    pub smp: u32,
    pub nodes: u32,
    pub mem: Size,
    pub image: &'a Path,
    /// The archive with the first file system.
    pub initrd: OwnedFd,
    pub shares: &'a [Share],
    /// The scratch disk, an open file without a name.
    pub disk: Option<OwnedFd>,
    pub append: Option<&'a str>,
    /// QEMU's ends of the channels.
    pub channels: Channels,
    /// Whether the guest gets a terminal on the channel `terminal`.
    pub terminal: Option<OwnedFd>,
    /// What one of two hosts has besides.
    pub host: Option<Host>,
}

/// What makes a guest one of two hosts.
#[derive(Debug)]
pub struct Host {
    /// Which, from 0.
    pub index: usize,
    /// Its end of the wire.
    pub wire: OwnedFd,
    /// QEMU's end of the channel for requests that concern both.
    pub requests: OwnedFd,
}

/// QEMU's ends of the channels between host and guest.
#[derive(Debug)]
pub struct Channels {
    /// The kernel's console.
    pub console: OwnedFd,
    /// Requests and answers.
    pub ctl: OwnedFd,
    pub out: OwnedFd,
    pub err: OwnedFd,
    pub input: OwnedFd,
}

impl Machine<'_> {
    /// Starts QEMU. Its own complaints go to `complaints`.
    pub fn start(self, complaints: Stdio) -> Result<Running> {
        let artifacts = self.artifacts;
        let mut enter = Enter::new(&artifacts.root)
            .bind_ro(self.image, IMAGE)
            .bind_ro(&artifacts.root, format!("{EXPORT}/root"))
            .bind_ro(&artifacts.kernel.modules, format!("{EXPORT}/kmod"));
        for (dir, name) in [
            (&artifacts.userland, "userland"),
            (&artifacts.kernel.emm, "emm"),
        ] {
            if dir.is_dir() {
                enter = enter.bind_ro(dir, format!("{EXPORT}/{name}"));
            }
        }
        for (at, share) in self.shares.iter().enumerate() {
            let inside = format!("/tmp/share{at}");
            enter = if share.read_only {
                enter.bind_ro(&share.host, inside)
            } else {
                enter.bind(&share.host, inside)
            };
        }
        let mut cmd = self
            .base(confined(enter))
            .args(["-kernel", IMAGE, "-initrd"]);
        let initrd = cmd.pass(self.initrd);
        cmd = cmd
            .arg(format!("/proc/self/fd/{initrd}"))
            .args(["-device", "virtio-serial-pci,max_ports=8"])
            .args([
                "-fsdev".to_owned(),
                format!(
                    "local,id=host,path={EXPORT},security_model=none,readonly=on,multidevs=remap"
                ),
            ])
            .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        let append = self.append.unwrap_or("");
        let clock = self.accel.kernel_args(self.clock);
        let debug = if artifacts.kernel.debug {
            DEBUG_ARGS
        } else {
            ""
        };
        cmd = cmd.args([
            "-append",
            format!("{KERNEL_ARGS}{clock}{debug} {append}").trim(),
        ]);
        let console = cmd.pass(self.channels.console);
        cmd = cmd.args([
            "-chardev".to_owned(),
            format!("socket,id=console,fd={console}"),
            "-serial".to_owned(),
            "chardev:console".to_owned(),
        ]);
        let mut ports = Vec::new();
        if let Some(host) = self.host {
            let wire = cmd.pass(host.wire);
            cmd = cmd.args([
                "-netdev".to_owned(),
                format!("dgram,id=wire,local.type=fd,local.str={wire}"),
                "-device".to_owned(),
                format!(
                    "virtio-net-pci,netdev=wire,mac={},romfile=",
                    mac(host.index)
                ),
            ]);
            ports.push((6, "host", host.requests));
        }
        // The guest's init waits for port 5, so all of them are there when it looks.
        ports.extend([
            (2, "ctl", self.channels.ctl),
            (3, "out", self.channels.out),
            (4, "err", self.channels.err),
            (5, "in", self.channels.input),
        ]);
        for (number, name, fd) in ports {
            let fd = cmd.pass(fd);
            cmd = cmd.args([
                "-chardev".to_owned(),
                format!("socket,id={name},fd={fd}"),
                "-device".to_owned(),
                format!("virtserialport,chardev={name},name={name},nr={number}"),
            ]);
        }
        if let Some(fd) = self.terminal {
            let fd = cmd.pass(fd);
            cmd = cmd.args([
                "-chardev".to_owned(),
                format!("socket,id=terminal,fd={fd}"),
                "-device".to_owned(),
                "virtconsole,chardev=terminal,nr=1".to_owned(),
            ]);
        }
        for (at, share) in self.shares.iter().enumerate() {
            cmd = cmd.args([
                "-fsdev".to_owned(),
                format!(
                    "local,id=share{at},path=/tmp/share{at},{},multidevs=remap",
                    files::options(share)
                ),
                "-device".to_owned(),
                format!("virtio-9p-pci,fsdev=share{at},mount_tag=share{at}"),
            ]);
        }
        if let Some(disk) = self.disk {
            // By its path, not as an fd set: QEMU opens it more than once, with different flags.
            let path = format!("/proc/self/fd/{}", cmd.pass(disk));
            cmd = cmd.args([
                "-drive".to_owned(),
                format!("if=none,id=disk,file={path},format=raw,cache=unsafe,file.locking=off"),
                "-device".to_owned(),
                "virtio-blk-pci,drive=disk".to_owned(),
            ]);
        }
        cmd.spawn(Stdio::null(), Stdio::null(), complaints)
    }

    fn base(&self, cmd: Cmd) -> Cmd {
        cmd.args([
            "-M",
            "pc,i8042=off,hpet=off,usb=off",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(NOTHING_IS_PLUGGED_IN)
        .args(self.accel.args(self.clock, self.cpu))
        .args(["-smp".to_owned(), self.topology()])
        .args(["-m".to_owned(), format!("{}M", self.mib())])
        .args(nodes(self.nodes, self.smp, self.mib()))
    }

    /// Its memory in MiB.
    fn mib(&self) -> u64 {
        self.mem.0.div_ceil(1 << 20)
    }

    /// The debug kernel knows no ACPI, and SeaBIOS's MP table has an entry for each socket, not for each core in it. Cores of a
    /// socket share a cache, which a kernel does not believe of CPUs of different nodes.
    fn topology(&self) -> String {
        let cpus = self.smp;
        if self.artifacts.kernel.debug || self.nodes > 1 {
            format!("{cpus},sockets={cpus}")
        } else {
            cpus.to_string()
        }
    }
}

/// The address of a host's network card: one of those that QEMU's cards have.
fn mac(index: usize) -> String {
    format!("52:54:00:0a:09:{:02x}", index + 1)
}

/// `nodes` NUMA nodes, with a share of `cpus` CPUs and of `mib` MiB each; nothing if it is one.
fn nodes(nodes: u32, cpus: u32, mib: u64) -> Vec<String> {
    let mut args = Vec::new();
    if nodes < 2 {
        return args;
    }
    let share = mib / u64::from(nodes);
    for node in 0..nodes {
        let rest = if node == 0 { mib % u64::from(nodes) } else { 0 };
        let (first, end) = (node * cpus / nodes, (node + 1) * cpus / nodes);
        let has = match end - first {
            0 => String::new(),
            _ => format!(",cpus={first}-{}", end - 1),
        };
        args.extend([
            "-object".to_owned(),
            format!("memory-backend-ram,id=node{node},size={}M", share + rest),
            "-numa".to_owned(),
            format!("node,nodeid={node},memdev=node{node}{has}"),
        ]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::nodes;

    #[test]
    fn nodes_share_cpus_and_memory() {
        assert!(nodes(1, 4, 2048).is_empty());
        let args = nodes(2, 3, 1025).join(" ");
        assert_eq!(
            args,
            "-object memory-backend-ram,id=node0,size=513M -numa node,nodeid=0,memdev=node0,cpus=0-0 \
             -object memory-backend-ram,id=node1,size=512M -numa node,nodeid=1,memdev=node1,cpus=1-2"
        );
        assert!(
            nodes(2, 1, 64).join(" ").contains("memdev=node0 "),
            "no CPU for the first"
        );
    }
}
