// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which registrations become on-demand ones. Decisions only: what they rest on comes in.

use crate::{
    abi::{FLUSH_PERSISTENT, ODP_ATOMIC, ODP_IMPLICIT, ODP_SUPPORT, OdpCaps, REMOTE_ATOMIC},
    known::Known,
    settings::{Mode, Settings},
};
use core::ffi::c_uint;

/// What is known about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its capabilities; `None` if it could not be asked.
    pub(crate) odp: Option<OdpCaps>,
    /// Why its on-demand paging is not to be trusted, if so.
    pub(crate) corrupting: Option<&'static Known>,
    /// Whether the context was opened for DevX.
    pub(crate) devx: bool,
}

impl Facts {
    /// Of a device of which nothing is known.
    pub(crate) const NONE: Self = Self {
        odp: None,
        corrupting: None,
        devx: false,
    };
}

/// What the program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Of the memory.
    pub(crate) addr: usize,
    /// Where keys reach it.
    pub(crate) iova: u64,
    /// In bytes.
    pub(crate) length: usize,
    /// `enum ibv_access_flags`
    pub(crate) access: c_uint,
}

/// Why a region is as the program asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The device's on-demand paging is known to corrupt data.
    Corrupting,
    /// The device has no on-demand paging.
    NoPaging,
    /// The access flags exclude it.
    Flags,
    /// It is shorter than `VERBS_SHIM_MIN_BYTES`.
    Short,
    /// The device refused it on demand.
    Refused,
    /// It is a dma-buf.
    DmaBuf,
    /// It is device memory, or the NULL MR.
    Device,
    /// It was registered in a way that this version does not know.
    Unknown,
    /// Its context was opened for DevX.
    DevX,
    /// It is no range of memory.
    NoRange,
}

impl Why {
    /// How many there are.
    pub(crate) const COUNT: usize = 10;
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Corrupting,
        Self::NoPaging,
        Self::Flags,
        Self::Short,
        Self::Refused,
        Self::DmaBuf,
        Self::Device,
        Self::Unknown,
        Self::DevX,
        Self::NoRange,
    ];

    /// For the user.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Corrupting => "device known to corrupt on-demand data",
            Self::NoPaging => "device without on-demand paging",
            Self::Flags => "access flags exclude it",
            Self::Short => "shorter than VERBS_SHIM_MIN_BYTES",
            Self::Refused => "refused by the device",
            Self::DmaBuf => "dma-buf",
            Self::Device => "device memory or NULL MR",
            Self::Unknown => "unknown kind of registration",
            Self::DevX => "context opened for DevX",
            Self::NoRange => "no range of memory",
        }
    }
}

/// What to do with one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Leave it alone.
    Keep(Why),
    /// Make it on-demand; if that fails, register as the program asked.
    TryOnDemand,
    /// Make it on-demand; if that fails, say so to the program.
    OnDemand,
}

/// The choice for one registration. In [`Mode::Off`] there is nothing to choose.
#[must_use]
pub(crate) fn choose(settings: &Settings, facts: &Facts, request: Request) -> Choice {
    if is_no_range(request) {
        return Choice::Keep(Why::NoRange);
    }
    if excluded_by_flags(request.access) {
        return Choice::Keep(Why::Flags);
    }
    if request.length < settings.min_bytes {
        return Choice::Keep(Why::Short);
    }
    if settings.mode == Mode::Force {
        return Choice::OnDemand;
    }
    match facts.odp {
        Some(odp) if odp.general & ODP_SUPPORT == 0 => Choice::Keep(Why::NoPaging),
        _ if facts.corrupting.is_some() => Choice::Keep(Why::Corrupting),
        _ if facts.devx => Choice::Keep(Why::DevX),
        Some(odp) if request.access & REMOTE_ATOMIC != 0 && odp.rc & ODP_ATOMIC == 0 => {
            Choice::Keep(Why::Flags)
        }
        // A device that can't be asked answers by what it does.
        Some(_) | None => Choice::TryOnDemand,
    }
}

/// Whether the device has implicit regions, as far as is known.
#[must_use]
pub(crate) fn can_be_implicit(facts: &Facts) -> bool {
    facts.odp.is_none_or(|odp| odp.general & ODP_IMPLICIT != 0)
}

/// Whether no memory can be meant. On demand, all of the length from address 0 is an implicit region: what fails as the program asks
/// would make a key to its whole address space.
fn is_no_range(request: Request) -> bool {
    let end = request.addr.checked_add(request.length);
    end.is_none_or(|end| end == usize::MAX)
}

/// Whether some flag promises what on-demand memory can't hold. Persistence is promised of the pages
/// that are there at registration: a device refuses others then, and would have nothing to refuse.
fn excluded_by_flags(access: c_uint) -> bool {
    access & FLUSH_PERSISTENT != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::LOCAL_WRITE,
        known::{Driver, corrupting},
    };

    /// What mlx5 says (ConnectX-6).
    const MLX5: OdpCaps = OdpCaps {
        general: 3,
        rc: 0x1f,
        uc: 0,
        ud: 1,
    };
    const PLAIN: Request = Request {
        addr: 0x1000,
        iova: 0x1000,
        length: 4096,
        access: LOCAL_WRITE,
    };

    fn settings(mode: Mode) -> Settings {
        Settings {
            mode,
            ..Settings::new()
        }
    }

    fn facts(odp: Option<OdpCaps>) -> Facts {
        Facts { odp, ..Facts::NONE }
    }

    #[test]
    fn capabilities_decide() {
        let auto = settings(Mode::Auto);
        assert_eq!(
            choose(&auto, &facts(Some(MLX5)), PLAIN),
            Choice::TryOnDemand
        );
        assert_eq!(choose(&auto, &facts(None), PLAIN), Choice::TryOnDemand);
        let none = facts(Some(OdpCaps::default()));
        assert_eq!(choose(&auto, &none, PLAIN), Choice::Keep(Why::NoPaging));
        assert_eq!(
            choose(&settings(Mode::Force), &none, PLAIN),
            Choice::OnDemand
        );
    }

    #[test]
    fn atomics_need_their_capability() {
        let auto = settings(Mode::Auto);
        let atomic = Request {
            access: REMOTE_ATOMIC | LOCAL_WRITE,
            ..PLAIN
        };
        let without = facts(Some(OdpCaps { rc: 0xf, ..MLX5 }));
        assert_eq!(choose(&auto, &without, atomic), Choice::Keep(Why::Flags));
        assert_eq!(choose(&auto, &without, PLAIN), Choice::TryOnDemand);
        assert_eq!(
            choose(&auto, &facts(Some(MLX5)), atomic),
            Choice::TryOnDemand
        );
    }

    #[test]
    fn known_corruption_stays_pinned() {
        let bad = Facts {
            odp: Some(MLX5),
            corrupting: corrupting(Driver::Rxe, Some(b"odp")),
            ..Facts::NONE
        };
        assert_eq!(
            choose(&settings(Mode::Auto), &bad, PLAIN),
            Choice::Keep(Why::Corrupting)
        );
        assert_eq!(
            choose(&settings(Mode::Force), &bad, PLAIN),
            Choice::OnDemand
        );
    }

    #[test]
    fn persistence_stays_pinned_even_if_forced() {
        let persistent = Request {
            access: FLUSH_PERSISTENT,
            ..PLAIN
        };
        for mode in [Mode::Auto, Mode::Force] {
            let choice = choose(&settings(mode), &facts(Some(MLX5)), persistent);
            assert_eq!(choice, Choice::Keep(Why::Flags));
        }
    }

    #[test]
    fn the_whole_address_space_is_not_given_away() {
        let ranges = [(0, usize::MAX), (1, usize::MAX - 1), (8, usize::MAX)];
        for (mode, (addr, length)) in [Mode::Auto, Mode::Force]
            .into_iter()
            .flat_map(|mode| ranges.map(|range| (mode, range)))
        {
            let whole = Request {
                addr,
                iova: addr as u64,
                length,
                ..PLAIN
            };
            let choice = choose(&settings(mode), &facts(Some(MLX5)), whole);
            assert_eq!(choice, Choice::Keep(Why::NoRange));
        }
    }

    #[test]
    fn devx_stays_pinned() {
        let devx = Facts {
            devx: true,
            ..facts(Some(MLX5))
        };
        assert_eq!(
            choose(&settings(Mode::Auto), &devx, PLAIN),
            Choice::Keep(Why::DevX)
        );
        assert_eq!(
            choose(&settings(Mode::Force), &devx, PLAIN),
            Choice::OnDemand
        );
    }

    #[test]
    fn short_regions_are_left_alone() {
        let settings = Settings {
            min_bytes: 4097,
            ..settings(Mode::Auto)
        };
        let device = facts(Some(MLX5));
        assert_eq!(choose(&settings, &device, PLAIN), Choice::Keep(Why::Short));
        let longer = Request {
            length: 4097,
            ..PLAIN
        };
        assert_eq!(choose(&settings, &device, longer), Choice::TryOnDemand);
    }

    #[test]
    fn implicit_regions_need_their_capability() {
        assert!(can_be_implicit(&facts(Some(MLX5))));
        assert!(can_be_implicit(&facts(None)));
        assert!(!can_be_implicit(&facts(Some(OdpCaps {
            general: ODP_SUPPORT,
            ..MLX5
        }))));
    }

    #[test]
    fn reasons_are_in_order() {
        for (number, why) in Why::ALL.iter().enumerate() {
            assert_eq!(*why as usize, number);
        }
    }
}
