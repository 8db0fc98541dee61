// SPDX-License-Identifier: MIT OR Apache-2.0

//! The devices of this machine, and what the library will do with their regions.

use std::{fs, path::Path};

use anyhow::Result;
use verbs_abi::{
    known::{self, Driver, Known},
    layout::{ODP_IMPLICIT, ODP_SUPPORT, OdpCaps},
};

use crate::{cli::Mode, verbs};

/// A device.
pub struct Device {
    /// As the kernel calls it.
    pub name: String,
    /// What it can do on demand, or why that is unknown.
    pub odp: Result<OdpCaps>,
    /// Why its on-demand paging is not to be trusted, if so.
    corrupting: Option<&'static Known>,
    /// What `mr_backend` says, of an rxe device whose module has it.
    pub backend: Option<String>,
    /// The kernel's driver.
    driver: String,
}

impl Device {
    /// Whether the library makes its regions on-demand ones by itself.
    pub fn serves_on_demand(&self) -> bool {
        self.corrupting.is_none()
            && self
                .odp
                .as_ref()
                .is_ok_and(|odp| odp.general & ODP_SUPPORT != 0)
    }

    /// What stays as programs ask although the device serves on demand, if there is such.
    pub fn exception(&self) -> Option<&'static str> {
        (self.driver == "mlx5_core" && self.serves_on_demand()).then_some(
            "contexts opened for DevX (as UCX does), and what mlx5's steering registers: the kernel resolves no page faults of their \
             queue pairs",
        )
    }

    /// What will happen to regions of this device, for the user.
    pub fn outlook(&self, mode: Mode) -> String {
        let by = match &self.backend {
            Some(backend) if backend == "emm" => ", by ib_emm",
            _ => "",
        };
        match (mode, self.corrupting, &self.odp) {
            (Mode::Off, ..) => "unchanged (mode off)".into(),
            (Mode::Auto, _, Ok(odp)) if odp.general & ODP_SUPPORT == 0 => {
                "pinned: it has no on-demand paging".into()
            }
            (Mode::Force, _, Ok(odp)) if odp.general & ODP_SUPPORT == 0 => {
                "registrations will fail: it has no on-demand paging".into()
            }
            (Mode::Force, Some(known), _) => format!("on demand, although {}", known.cause),
            (Mode::Auto, Some(known), _) => format!("pinned: {}; {}", known.cause, known.remedy),
            (_, None, Ok(_)) => format!("on demand{by}"),
            (_, None, Err(error)) => format!("on demand if it can ({error:#})"),
        }
    }
}

/// What the capabilities say, in words.
pub fn describe(odp: OdpCaps) -> String {
    const OPERATIONS: [&str; 8] = [
        "send",
        "recv",
        "write",
        "read",
        "atomic",
        "srq_recv",
        "flush",
        "atomic_write",
    ];
    if odp.general & ODP_SUPPORT == 0 {
        return "none".into();
    }
    let implicit = if odp.general & ODP_IMPLICIT == 0 {
        "no implicit regions"
    } else {
        "implicit regions"
    };
    let transports = [("RC", odp.rc), ("UC", odp.uc), ("UD", odp.ud)];
    let transports = transports.iter().filter(|t| t.1 != 0).map(|(name, bits)| {
        let operations = OPERATIONS.iter().enumerate();
        let words: Vec<_> = operations
            .filter_map(|(bit, word)| (bits >> bit & 1 == 1).then_some(*word))
            .collect();
        format!("; {name} {}", words.join(" "))
    });
    implicit.to_owned() + &transports.collect::<String>()
}

/// A small file's text, without the end of the line.
pub fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|s| s.trim().to_owned())
}

/// All devices, by name.
pub fn all() -> Vec<Device> {
    let Ok(entries) = fs::read_dir("/sys/class/infiniband") else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries.flatten().map(|entry| one(&entry.path())).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn one(path: &Path) -> Device {
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    // Of the drivers in the tree, rxe alone has this attribute.
    let (driver, backend) = if path.join("parent").exists() {
        let backend = read("/sys/module/rdma_rxe/parameters/mr_backend");
        (Driver::Rxe, backend)
    } else {
        (Driver::Other, None)
    };
    let kernels = path.join("device/driver").read_link().unwrap_or_default();
    let kernels = kernels.file_name().unwrap_or_default();
    Device {
        driver: kernels.to_string_lossy().into_owned(),
        odp: verbs::odp_caps(&name),
        corrupting: known::corrupting(driver, backend.as_deref().map(str::as_bytes)),
        name,
        backend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(odp: Result<OdpCaps>, driver: Driver, backend: Option<&str>) -> Device {
        Device {
            name: "d0".into(),
            driver: String::new(),
            odp,
            corrupting: known::corrupting(driver, backend.map(str::as_bytes)),
            backend: backend.map(Into::into),
        }
    }

    const ABLE: OdpCaps = OdpCaps {
        general: 3,
        rc: 0x1f,
        uc: 0,
        ud: 1,
    };

    #[test]
    fn outlooks() {
        let emm = device(Ok(ABLE), Driver::Rxe, Some("emm"));
        assert_eq!(emm.outlook(Mode::Auto), "on demand, by ib_emm");
        assert!(emm.serves_on_demand());
        let stock = device(Ok(ABLE), Driver::Rxe, None);
        assert!(
            stock
                .outlook(Mode::Auto)
                .starts_with("pinned: the on-demand paging of in-tree rxe")
        );
        assert!(
            stock
                .outlook(Mode::Force)
                .starts_with("on demand, although")
        );
        assert!(!stock.serves_on_demand());
        let mlx5 = device(Ok(ABLE), Driver::Other, None);
        assert_eq!(mlx5.outlook(Mode::Auto), "on demand");
        assert_eq!(mlx5.outlook(Mode::Off), "unchanged (mode off)");
        let none = device(Ok(OdpCaps::default()), Driver::Other, None);
        assert!(none.outlook(Mode::Auto).starts_with("pinned"));
        assert!(
            none.outlook(Mode::Force)
                .starts_with("registrations will fail")
        );
        let old = device(Ok(OdpCaps::default()), Driver::Rxe, None);
        assert_eq!(
            old.outlook(Mode::Auto),
            "pinned: it has no on-demand paging"
        );
        let unknown = device(Err(anyhow::anyhow!("no library")), Driver::Other, None);
        assert_eq!(
            unknown.outlook(Mode::Auto),
            "on demand if it can (no library)"
        );
    }

    #[test]
    fn mlx5_has_an_exception() {
        let mlx5 = |odp| Device {
            driver: "mlx5_core".into(),
            ..device(Ok(odp), Driver::Other, None)
        };
        assert!(
            mlx5(ABLE)
                .exception()
                .is_some_and(|text| text.contains("DevX"))
        );
        assert_eq!(mlx5(OdpCaps::default()).exception(), None);
        assert_eq!(device(Ok(ABLE), Driver::Other, None).exception(), None);
    }

    #[test]
    fn capabilities_in_words() {
        assert_eq!(describe(OdpCaps::default()), "none");
        assert_eq!(
            describe(ABLE),
            "implicit regions; RC send recv write read atomic; UD send"
        );
    }
}
