//! Whom a measurement is about.

use emm_check::system::Kind;

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
}

impl Who {
    /// The name used in facts and options.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pinned => "pinned",
            Self::Odp => "odp",
            Self::Emm => "emm",
        }
    }

    /// The kind of region, if there is one.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::None => None,
            Self::Pinned => Some(Kind::Pinned),
            Self::Odp => Some(Kind::Odp),
            Self::Emm => Some(Kind::Emm),
        }
    }
}
