//! Whom a measurement is about.

use anyhow::Result;
use emm_check::system::Kind as Backend;

/// A kind of region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pages pinned at registration.
    Pinned,
    /// On demand, in-tree implementation.
    Odp,
    /// On demand, EMM notifier.
    Emm,
    /// The same, over the whole address space: address 0, length `SIZE_MAX`.
    Implicit,
}

/// The kinds that are compared, the reference first.
pub const KINDS: [Kind; 4] = [Kind::Pinned, Kind::Odp, Kind::Emm, Kind::Implicit];

impl Kind {
    /// The name used in facts and options.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Odp => "odp",
            Self::Emm => "emm",
            Self::Implicit => "implicit",
        }
    }

    fn backend(self) -> Backend {
        match self {
            Self::Pinned => Backend::Pinned,
            Self::Odp => Backend::Odp,
            Self::Emm | Self::Implicit => Backend::Emm,
        }
    }

    /// Switches the driver to it: regions are of this kind from now on.
    pub fn select(self) -> Result<()> {
        self.backend().select(false)
    }

    /// The access flags that make a region of this kind.
    pub fn flags(self) -> u32 {
        self.backend().flags()
    }
}

/// A kind of region, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Who {
    /// The same without a region.
    None,
    /// Pages pinned at registration.
    Pinned,
    /// On demand, in-tree implementation.
    Odp,
    /// On demand, EMM notifier.
    Emm,
    /// The same over the whole address space.
    Implicit,
}

impl Who {
    /// Everybody.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Pinned,
        Self::Odp,
        Self::Emm,
        Self::Implicit,
    ];
    /// Those with a region.
    pub const REGIONS: [Self; 4] = [Self::Pinned, Self::Odp, Self::Emm, Self::Implicit];

    /// The name used in facts and options.
    pub fn label(self) -> &'static str {
        self.kind().map_or("none", Kind::label)
    }

    /// The kind of region, if there is one.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::None => None,
            Self::Pinned => Some(Kind::Pinned),
            Self::Odp => Some(Kind::Odp),
            Self::Emm => Some(Kind::Emm),
            Self::Implicit => Some(Kind::Implicit),
        }
    }
}
