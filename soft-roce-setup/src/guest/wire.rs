//! The wire between two hosts: a pair of datagram sockets, each the other end of a guest's network card, and what the wire does to
//! packets.
//!
//! A datagram is a packet. A socket that is full makes its writer wait, so the wire itself loses nothing: what gets lost is lost
//! where [`Shape`] wants it, in the queue of the guest that sends. One whose other end is gone takes packets and nobody gets them,
//! as when a cable is pulled out at the far end.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest packet that a wire takes, without its Ethernet header, if nothing else is said.
const MTU: u32 = 9000;
/// The shortest MTU that IPv6 allows, and the longest of Ethernet cards.
const MTUS: std::ops::RangeInclusive<u32> = 1280..=9000;
/// Beyond this a connection is set up by chance only.
const MOST_LOSS: f64 = 50.0;
const MOST_DELAY: Duration = Duration::from_secs(10);

/// How long a drain waits for packets before it looks whether it is still wanted.
const TURN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// What the wire does to packets, on the way out of each host.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The longest packet in bytes.
    pub mtu: u32,
    /// Packets that get lost, in percent.
    loss: f64,
    /// How long each packet is under way.
    delay: Duration,
    /// Packets that overtake those that are delayed, in percent.
    reorder: f64,
    /// Packets that arrive twice, in percent.
    duplicate: f64,
    /// Packets of which a bit is flipped, in percent.
    corrupt: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            mtu: MTU,
            loss: 0.0,
            delay: Duration::ZERO,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
        }
    }
}

impl Shape {
    /// The arguments of netem for it; nothing if it leaves packets alone.
    pub fn netem(&self) -> String {
        let mut words = Vec::new();
        if !self.delay.is_zero() {
            words.push(format!("delay {}us", self.delay.as_micros()));
        }
        for (name, percent) in [
            ("loss", self.loss),
            ("reorder", self.reorder),
            ("duplicate", self.duplicate),
            ("corrupt", self.corrupt),
        ] {
            if percent > 0.0 {
                words.push(format!("{name} {percent}%"));
            }
        }
        words.join(" ")
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shape = Self::default();
        let mut seen = Vec::new();
        for part in text.split(',') {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}`: write NAME=VALUE, as in mtu=1500,loss=1%"))?;
            if seen.contains(&name) {
                return Err(format!("`{name}` is given twice"));
            }
            seen.push(name);
            match name {
                "mtu" => {
                    let mtu = value.parse().ok().filter(|mtu| MTUS.contains(mtu));
                    shape.mtu = mtu.ok_or_else(|| {
                        let (first, last) = (MTUS.start(), MTUS.end());
                        format!("mtu={value}: a number of bytes from {first} to {last} is possible")
                    })?;
                }
                "delay" => shape.delay = delay(value)?,
                "loss" => shape.loss = percent(name, value, MOST_LOSS)?,
                "reorder" => shape.reorder = percent(name, value, 100.0)?,
                "duplicate" => shape.duplicate = percent(name, value, 100.0)?,
                "corrupt" => shape.corrupt = percent(name, value, MOST_LOSS)?,
                _ => {
                    return Err(format!(
                        "`{name}` is nothing that a wire does: mtu, loss, delay, reorder, duplicate and corrupt are"
                    ));
                }
            }
        }
        if shape.reorder > 0.0 && shape.delay.is_zero() {
            return Err(
                "reorder: packets overtake those that are delayed, so give a delay, too, as in delay=1ms,reorder=5%".to_owned(),
            );
        }
        Ok(shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mtu {} {}", self.mtu, self.netem())
    }
}

/// `1%`, `0.1%`: at most `most`.
fn percent(name: &str, value: &str, most: f64) -> Result<f64, String> {
    let number = value.strip_suffix('%').unwrap_or(value).parse();
    match number {
        Ok(number) if (0.0..=most).contains(&number) => Ok(number),
        _ => Err(format!(
            "{name}={value}: 0% to {most}% is possible, as in {name}=1%"
        )),
    }
}

/// `5ms`, `200us`, `1s`.
fn delay(value: &str) -> Result<Duration, String> {
    let wrong = || {
        let most = MOST_DELAY.as_secs();
        format!("delay={value}: write a number with us, ms or s, of at most {most}s, as in 5ms")
    };
    let split = value.find(|c: char| c.is_ascii_alphabetic());
    let (digits, unit) = value.split_at(split.ok_or_else(wrong)?);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let micros = match unit {
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        _ => return Err(wrong()),
    };
    let delay = number.checked_mul(micros).map(Duration::from_micros);
    delay.filter(|delay| *delay <= MOST_DELAY).ok_or_else(wrong)
}

/// Takes what comes for a host that is not there, until this is dropped: a socket that nobody reads would hold up the other host's
/// network card.
#[derive(Debug)]
pub struct Drain {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Takes what comes at this end of the wire.
    pub fn begin(end: OwnedFd) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let take = move || {
            let socket = UnixDatagram::from(end);
            let mut packet = vec![0; 1 << 16];
            while !told.load(Ordering::Relaxed) {
                let mut ready = [PollFd::new(&socket, PollFlags::IN)];
                // Nothing came, or a signal: the end is looked for at the next turn.
                let _ = poll(&mut ready, Some(&TURN));
                // Without waiting: QEMU has made it so, and the flag is the socket's, not the descriptor's.
                while socket.set_nonblocking(true).is_ok() && socket.recv(&mut packet).is_ok() {}
            }
        };
        let thread = thread::Builder::new().name("drain".to_owned()).spawn(take);
        Ok(Self {
            over,
            thread: Some(thread.context("cannot start a thread")?),
        })
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

/// Makes a wire: its two ends.
pub fn make() -> Result<[OwnedFd; 2]> {
    let (one, other) = UnixDatagram::pair().context("cannot make a socket")?;
    Ok([one.into(), other.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_what_netem_does() {
        let shape: Shape = "mtu=1500,loss=1%,delay=5ms,reorder=5%,duplicate=1%,corrupt=0.1%"
            .parse()
            .unwrap();
        assert_eq!(shape.mtu, 1500);
        assert_eq!(
            shape.netem(),
            "delay 5000us loss 1% reorder 5% duplicate 1% corrupt 0.1%"
        );
        assert_eq!(Shape::default().netem(), "");
        assert_eq!("loss=0.5".parse::<Shape>().unwrap().netem(), "loss 0.5%");
        assert_eq!(Shape::default().mtu, 9000);
    }

    #[test]
    fn what_can_not_be_is_named() {
        for (text, part) in [
            ("", "NAME=VALUE"),
            ("loss", "NAME=VALUE"),
            ("jitter=1ms", "`jitter`"),
            ("loss=101%", "0% to 50%"),
            ("loss=-1%", "loss=-1%"),
            ("loss=NaN", "loss=NaN"),
            ("mtu=100", "1280 to 9000"),
            ("mtu=64000", "1280 to 9000"),
            ("delay=5", "us, ms or s"),
            ("delay=5h", "us, ms or s"),
            ("delay=11s", "at most 10s"),
            ("delay=99999999999999999999s", "at most 10s"),
            ("loss=1%,loss=2%", "twice"),
            ("reorder=5%", "give a delay"),
        ] {
            let error = text.parse::<Shape>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
