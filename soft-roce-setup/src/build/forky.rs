//! A second user space beside the root: Debian forky's, for rdma-core's newer tests and `ibv_advise_mr` on rxe.
//!
//! It is made only when a test runs in it. The guest enters it by chroot: its libc is newer than the root's.

use std::path::PathBuf;

use anyhow::Result;

use super::debian::Recipe;
use super::kernel;
use super::key::Key;
use crate::context::Context;
use crate::host;

/// Its place in the cache.
pub const PLACE: &str = "forky";
/// To be raised when the recipe below changes in a way that its lists do not show.
const RECIPE: u32 = 1;

/// GiB that making it takes.
const GIB: f64 = 1.0;

const SUITES: &[&str] = &["forky"];

const PACKAGES: &[&str] = &[
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "perftest",
    "python3-pyverbs",
    "rdma-core",
    "rdmacm-utils",
];

const LEFT_OUT: &[&str] = &[
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
];
/// rdma-core's own tests.
const KEPT: &[&str] = &["/usr/share/doc/rdma-core/*"];

/// The key of its lists. A newer rdma-core in the archive does not make it anew: `clean` does.
pub fn key() -> String {
    let mut key = Key::new("forky", RECIPE);
    for list in [SUITES, PACKAGES, LEFT_OUT, KEPT] {
        key = key.text(&list.join(" "));
    }
    key.finish()
}

/// Makes it if it is not there, and returns its tree.
pub fn ensure(context: &Context) -> Result<PathBuf> {
    let tree = context.cache.path(PLACE).join("tree");
    if context.cache.is_fresh(PLACE, &key()) {
        return Ok(tree);
    }
    let _lock = context.cache.lock_exclusive(&context.ui)?;
    let title = "forky (a newer rdma-core for its tests)";
    context
        .cache
        .ensure(&context.ui, PLACE, &key(), title, |dir, step| {
            host::require_for_root(context, kernel::made(context))?;
            host::require_room(context, GIB, title)?;
            let log = context.cache.fresh_log("forky");
            let recipe = Recipe {
                suites: SUITES,
                packages: PACKAGES,
                left_out: LEFT_OUT,
                kept: KEPT,
                // A suite in development has an index that holds for a week, and mirrors can be behind. What is
                // old here has no network and lives in a guest.
                stale: true,
            };
            recipe.make(context, dir, &log, step).map(|_| ())
        })?;
    Ok(tree)
}
