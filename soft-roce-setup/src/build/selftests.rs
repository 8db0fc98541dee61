//! The kernel's own tests of rdma, from the distribution's source package. The prepared source that modules are
//! built with leaves them out, as no module needs them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::key::Key;
use super::{kernel, root};
use crate::context::Context;
use crate::enter::Enter;

/// What is unpacked, below `tools/testing/selftests`.
const FOLDERS: [&str; 2] = ["rdma", "kselftest"];

/// `$1` is the kernel's series, the rest the folders.
const UNPACK: &str = r#"
series=$1; shift
dpkg-deb --fsys-tarfile /mnt/debs/linux-source-*.deb | tar -xO ./usr/src/linux-source-$series.tar.xz |
	xz -dc -T0 | tar -x -C /mnt/out --strip-components=4 "${@/#/linux-source-$series/tools/testing/selftests/}"
"#;

/// Unpacks those of the kernel `series` if they are not there, and returns their folder.
///
/// The kernel was built before, and the caller holds no lock of the cache.
pub fn ensure(context: &Context, series: &str) -> Result<PathBuf> {
    let Some(chosen) = kernel::remembered(context, Some(series)) else {
        bail!("the kernel {series} was not built yet");
    };
    let place = format!("selftests/{}", chosen.release);
    let key = Key::new("selftests", 1)
        .text(&chosen.package_version)
        .text(&FOLDERS.join(" "))
        .text(UNPACK)
        .finish();
    if context.cache.is_fresh(&place, &key) {
        return Ok(context.cache.path(place));
    }
    let _lock = context.cache.lock_exclusive(&context.ui)?;
    let debs = kernel::fetch(context, &chosen)?;
    let folder = debs
        .first()
        .and_then(|deb| deb.parent())
        .context("the packages of a kernel are in a folder")?;
    let title = format!("selftests of kernel {}", chosen.release);
    context
        .cache
        .ensure(&context.ui, &place, &key, &title, |dir, step| {
            let log = context.cache.fresh_log("selftests");
            Enter::new(&root::tree(context))
                .bind_ro(folder, "/mnt/debs")
                .bind(dir, "/mnt/out")
                .cmd("bash")
                .args(["-euo", "pipefail", "-c", UNPACK, "unpack", series])
                .args(FOLDERS)
                .run(&log, step)
        })
}
