//! How operations reach the memory under test: each is compared with a model of its bytes.

use std::fmt;
use std::io;

use anyhow::Result;

use super::verb::{Leg, Verb};
use crate::mem::PAGE;
use crate::qp::OpError;

/// The biggest operation.
pub const MOST: usize = 5 * PAGE;

/// Why an operation did not do what it should.
#[derive(Debug)]
pub enum Failure {
    /// The device said no, with this completion.
    Refused(OpError),
    /// The access was answered with this signal.
    Signal(i32),
    /// The verb said no, with this errno.
    Errno(io::Error),
    /// It succeeded, with wrong bytes.
    Wrong(anyhow::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(e) => e.fmt(f),
            Self::Signal(number) => write!(f, "signal {number}"),
            Self::Errno(e) => e.fmt(f),
            Self::Wrong(e) => write!(f, "success, but {e:#}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<OpError> for Failure {
    fn from(e: OpError) -> Self {
        Self::Refused(e)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Errno(e)
    }
}

/// A way to the memory of one side.
pub trait Traffic: Send {
    /// One operation on `len` bytes at `off` of the side, whose bytes `model` has. What it changes is entered there.
    fn act(&mut self, act: Act<'_>) -> Result<(), Failure>;

    /// Whether a failure is a refusal: the memory does not allow what was asked for.
    fn refuses(&self, failure: &Failure) -> bool;

    /// Makes what `n` failures will take: with a hole in the memory it could land there.
    fn stock(&mut self, _n: usize) -> Result<()> {
        Ok(())
    }

    /// After a failure: the next operation works again.
    fn renew(&mut self) -> Result<()> {
        Ok(())
    }

    /// Compares all of the side with its model, from elsewhere than this process.
    fn verify(&mut self, _model: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// One operation.
pub struct Act<'a> {
    /// What it does.
    pub verb: Verb,
    /// To which end.
    pub leg: Leg,
    /// Where in the side.
    pub off: usize,
    /// Bytes.
    pub len: usize,
    /// What it is to choose by.
    pub seed: u64,
    /// The bytes of the side.
    pub model: &'a mut [u8],
}
