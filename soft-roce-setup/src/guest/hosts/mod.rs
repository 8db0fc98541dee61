//! Two hosts: two guests on one wire.

mod lines;
mod side;

use std::sync::Arc;

use anyhow::{Error, Result};

use super::boot::{Place, Spec};
use super::ending::End;
use super::exchange::{Exchange, Seat};
use super::wire::{self, Shape};
use crate::artifacts::Artifacts;
use crate::context::Context;
use crate::exit;
use crate::host;
use crate::signal;

pub use self::lines::Lines;
use self::side::Side;
pub use self::side::{Known, Order};

/// Two hosts that are up. Dropping them ends them.
pub struct Hosts {
    /// Before the sides: they are told that all is over, and then waited for.
    over: Over,
    sides: [Side; 2],
    known: [Known; 2],
}

/// Tells both hosts that all is over when it goes.
struct Over(Arc<Exchange>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Hosts {
    /// Boots two hosts side by side until both wait for a command.
    ///
    /// # Errors
    /// As those of a guest, with the host's number in front; the other host is ended then.
    pub fn boot(
        context: &Context,
        artifacts: [&Arc<Artifacts>; 2],
        specs: [Spec; 2],
        shape: &Shape,
    ) -> Result<Self> {
        host::guest_memory(specs.iter().map(|spec| spec.mem.0).sum(), 2)?;
        let over = Over(Exchange::new());
        let mut index = 0;
        let mut begin = |(spec, wire)| {
            let place = Place {
                seat: Seat {
                    index,
                    exchange: Arc::clone(&over.0),
                },
                wire,
                shape: shape.clone(),
            };
            index += 1;
            Side::begin(context, artifacts[index - 1], spec, place)
        };
        let [one, two] = specs;
        let [first, second] = wire::make()?;
        let begun = begin((one, first)).and_then(|side| Ok([side, begin((two, second))?]));
        // Whoever fails here ends the other one, which is waited for.
        let sides = begun.inspect_err(|_| over.0.close())?;
        let known = [sides[0].up(), sides[1].up()];
        let known = both(&over.0, known).inspect_err(|_| over.0.close())?;
        Ok(Self { over, sides, known })
    }

    /// What is known of each.
    pub fn known(&self) -> &[Known; 2] {
        &self.known
    }

    /// Whether they can be given another command.
    pub fn alive(&self) -> bool {
        self.over.0.ended_by().is_none()
    }

    /// Runs a command in each until both have ended.
    ///
    /// # Errors
    /// An interruption, or a host that was gone before.
    pub fn run(&mut self, orders: [Order; 2]) -> Result<[End; 2]> {
        self.over.0.begin();
        for (side, order) in self.sides.iter().zip(orders) {
            side.give(order);
        }
        let ends = [self.sides[0].ended(), self.sides[1].ended()];
        both(&self.over.0, ends)
    }

    /// The tool's status for how two commands ended: the first host's if it is not 0, else the second's; that of what ended both, if
    /// something has.
    pub fn status(&self, ends: &[End; 2]) -> u8 {
        let exited = ends.iter().map(|end| match end {
            End::Exited(status) => *status,
            _ => 0,
        });
        match &ends[self.first(ends)] {
            End::Report(_) => exit::KERNEL,
            End::Timeout(..) => exit::TIMEOUT,
            End::Gone(_) | End::WithTheOther => exit::SETUP,
            End::OutputClosed => exit::PIPE,
            End::Exited(_) | End::SwitchedOff => {
                exited.into_iter().find(|status| *status != 0).unwrap_or(0)
            }
        }
    }

    /// Tells the user what ended both, if it was not their commands.
    pub fn describe(&self, ends: &[End; 2]) -> Option<String> {
        let first = self.first(ends);
        let host = first + 1;
        match &ends[first] {
            End::Exited(_) | End::SwitchedOff | End::OutputClosed => None,
            End::Timeout(time, _) => {
                let mut said = format!(
                    "nothing was heard of either host for {} s, and both were ended: {}; {}",
                    time.as_secs(),
                    self.over.0.progress(0),
                    self.over.0.progress(1)
                );
                for (index, end) in ends.iter().enumerate() {
                    if !matches!(end, End::Exited(_) | End::SwitchedOff) {
                        let more = end.describe(&self.known[index].log);
                        said.push_str(&format!("\n  host {}: {more}", index + 1));
                    }
                }
                Some(said)
            }
            end => Some(format!(
                "host {host}: {}",
                end.describe(&self.known[first].log)
            )),
        }
    }

    /// The host that ended both, or the first.
    fn first(&self, ends: &[End; 2]) -> usize {
        let by = self.over.0.ended_by();
        let strange = |end: &End| !matches!(end, End::Exited(_) | End::SwitchedOff);
        by.or_else(|| ends.iter().position(strange)).unwrap_or(0)
    }
}

/// What both hosts gave, or why it was not to be had: the error of the one that ended both counts.
fn both<T>(exchange: &Exchange, given: [Result<T>; 2]) -> Result<[T; 2]> {
    let named = |host: usize, error: Error| match signal::interrupted() {
        true => error,
        false => error.context(format!("host {}", host + 1)),
    };
    match given {
        [Ok(one), Ok(two)] => Ok([one, two]),
        [Err(error), Ok(_)] => Err(named(0, error)),
        [Ok(_), Err(error)] => Err(named(1, error)),
        [Err(one), Err(two)] => Err(match exchange.ended_by() {
            Some(1) => named(1, two),
            _ => named(0, one),
        }),
    }
}
