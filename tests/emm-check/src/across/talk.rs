//! What two sides say to each other: lists of requests and of answers, a line of JSON each, over TCP.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::party::{Ask, Party, Say};
use crate::system::run;

/// Below the ports that connections get for themselves.
const PORT: u16 = 18_600;
/// The barrier before which host 1 listens, and behind which host 2 connects.
const BARRIER: &str = "emm-check-across";

/// Which of the two hosts this is, and where both are.
pub struct Place {
    /// 1 or 2.
    pub host: u8,
    /// Its own address.
    pub own: String,
    /// The other's.
    pub peer: String,
}

impl Place {
    /// What `run --hosts 2` put into the environment.
    pub fn here() -> Result<Self> {
        let var = |name: &str| {
            std::env::var(name).with_context(|| {
                format!("{name} is not set: this runs on two hosts, as `run --hosts 2` makes them")
            })
        };
        let host = var("HOST")?;
        Ok(Self {
            host: match host.as_str() {
                "1" => 1,
                "2" => 2,
                other => bail!("HOST is {other}, and not 1 or 2"),
            },
            own: var("SELF")?,
            peer: var("PEER")?,
        })
    }
}

/// The line to the other side.
pub struct Line {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

/// What the side that leads says.
#[derive(Serialize, Deserialize)]
enum Message {
    /// Do these.
    Do(Vec<Ask>),
    /// From now on lead.
    Lead,
}

impl Line {
    /// Connects both sides.
    pub fn open(place: &Place) -> Result<Self> {
        let stream = if place.host == 1 {
            let listener = TcpListener::bind((place.own.as_str(), PORT))
                .with_context(|| format!("listening on {}:{PORT}", place.own))?;
            run("emm-host", &["barrier", BARRIER])?;
            listener.accept().context("waiting for the other side")?.0
        } else {
            run("emm-host", &["barrier", BARRIER])?;
            TcpStream::connect((place.peer.as_str(), PORT))
                .with_context(|| format!("connecting to {}:{PORT}", place.peer))?
        };
        stream.set_nodelay(true)?;
        Ok(Self {
            from: BufReader::new(stream.try_clone()?),
            to: stream,
        })
    }

    fn send(&mut self, what: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(what)?;
        line.push('\n');
        let sent = self.to.write_all(line.as_bytes());
        sent.context("the other side is gone")
    }

    fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let count = self.from.read_line(&mut line);
        if count.context("the other side is gone")? == 0 {
            bail!("the other side has left");
        }
        serde_json::from_str(&line).with_context(|| format!("the other side says {line:?}"))
    }

    /// Tells the other side something that both want to know, and hears the same from it.
    pub fn exchange<T: Serialize + DeserializeOwned>(&mut self, own: &T) -> Result<T> {
        self.send(own)?;
        self.receive()
    }

    /// Has the other side do these, in order, until one fails. One answer each, or why one failed.
    pub fn ask(&mut self, asks: Vec<Ask>) -> Result<Result<Vec<Say>, String>> {
        let count = asks.len();
        self.send(&Message::Do(asks))?;
        let says: Vec<Say> = self.receive()?;
        if let Some(Say::Failed(why)) = says.last() {
            return Ok(Err(format!("the other side: {why}")));
        }
        if says.len() != count {
            bail!("{} answers to {count} requests", says.len());
        }
        Ok(Ok(says))
    }

    /// Has it do something without waiting for the answer, if it gives one at all.
    pub fn tell(&mut self, ask: Ask) -> Result<()> {
        self.send(&Message::Do(vec![ask]))
    }

    /// The same of one that can't fail if the side works at all.
    pub fn ask_one(&mut self, ask: Ask) -> Result<Say> {
        match self.ask(vec![ask])? {
            Ok(mut says) => says.pop().context("no answer"),
            Err(why) => bail!("{why}"),
        }
    }

    /// Lets the other side lead.
    pub fn hand_over(&mut self) -> Result<()> {
        self.send(&Message::Lead)
    }

    /// Does what the other side wants until it hands over. Returns how many requests there were.
    pub fn follow(&mut self, party: &mut Party<'_>) -> Result<usize> {
        let mut count = 0;
        loop {
            let asks = match self.receive()? {
                Message::Do(asks) => asks,
                Message::Lead => return Ok(count),
            };
            let mut says = Vec::new();
            for ask in &asks {
                count += 1;
                says.push(party.asked(ask));
                if matches!(says.last(), Some(Say::Failed(_))) {
                    break;
                }
            }
            self.send(&says)?;
        }
    }
}
