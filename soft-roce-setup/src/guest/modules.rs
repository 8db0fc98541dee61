//! Which modules a guest needs before it can reach its root, and in which order they load.

use std::collections::HashMap;

use anyhow::{Context, Result};

/// `modules.dep`: for every module the modules that it needs.
#[derive(Debug)]
pub struct Dependencies<'a> {
    by_name: HashMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> Dependencies<'a> {
    /// Reads the text that `depmod` wrote.
    pub fn parse(text: &'a str) -> Self {
        let by_name = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| (name_of(path), (path, needs.split_whitespace().collect())))
            .collect();
        Self { by_name }
    }

    /// Paths of the modules `names` and of all they need, each once and after what it needs.
    ///
    /// # Errors
    /// A module that is not listed.
    pub fn load_order(&self, names: &[&str]) -> Result<Vec<&'a str>> {
        let mut order = Vec::new();
        for name in names {
            let (path, needs) = self
                .by_name
                .get(*name)
                .with_context(|| format!("the kernel has no module `{name}`"))?;
            // depmod lists the nearest need first and what that needs after it.
            for path in needs.iter().rev().chain([path]) {
                if !order.contains(path) {
                    order.push(path);
                }
            }
        }
        Ok(order)
    }
}

/// The name by which the kernel knows the module at `path`.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/lib/crc-ccitt.ko:
kernel/a/top.ko: kernel/a/mid.ko kernel/a/low.ko
kernel/a/mid.ko: kernel/a/low.ko
kernel/a/low.ko:
";

    #[test]
    fn needs_come_first_and_once() {
        let deps = Dependencies::parse(TEXT);
        assert_eq!(
            deps.load_order(&["9pnet_virtio", "9p"]).unwrap(),
            [
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz",
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
            ]
        );
        assert_eq!(
            deps.load_order(&["top"]).unwrap(),
            ["kernel/a/low.ko", "kernel/a/mid.ko", "kernel/a/top.ko"]
        );
    }

    #[test]
    fn names_are_the_kernels() {
        let deps = Dependencies::parse(TEXT);
        assert_eq!(
            deps.load_order(&["crc_ccitt"]).unwrap(),
            ["kernel/lib/crc-ccitt.ko"]
        );
        assert_eq!(name_of("kernel/x/ib-core.ko.zst"), "ib_core");
        assert_eq!(name_of("rdma_rxe.ko"), "rdma_rxe");
    }

    #[test]
    fn an_unknown_module_is_named() {
        let error = Dependencies::parse(TEXT)
            .load_order(&["rdma_rxe"])
            .unwrap_err();
        assert!(error.to_string().contains("rdma_rxe"));
    }
}
