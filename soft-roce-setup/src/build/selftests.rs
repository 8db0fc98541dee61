//! The kernel's own tests of rdma and of mm, from the distribution's source package. The prepared source that modules are
//! built with leaves them out, as no module needs them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::key::Key;
use super::{fetch, kernel, root};
use crate::context::Context;
use crate::enter::Enter;

/// What is unpacked, below `tools/testing/selftests`.
const PARTS: [&str; 5] = [
    "rdma",
    "mm",
    "kselftest",
    "kselftest.h",
    "kselftest_harness.h",
];

/// The programs of mm that are built: those that move, split, merge, drop or protect pages, or have the VM do so everywhere, and
/// that need no headers beyond the root's.
const MM: [&str; 11] = [
    "compaction_test",
    "khugepaged",
    "ksm_functional_tests",
    "madv_populate",
    "mkdirty",
    "mremap_dontunmap",
    "mremap_test",
    "rmap",
    "split_huge_page_test",
    "transhuge-stress",
    "uffd-stress",
];

/// `$1` is the kernel's series, the rest the folders.
const UNPACK: &str = r#"
series=$1; shift
dpkg-deb --fsys-tarfile /mnt/debs/linux-source-*.deb | tar -xO ./usr/src/linux-source-$series.tar.xz |
	xz -dc -T0 | tar -x -C /mnt/out --strip-components=4 "${@/#/linux-source-$series/tools/testing/selftests/}"
"#;

/// The arguments are the programs. Their own Makefile wants all of the kernel's source.
const BUILD: &str = r#"
cd /mnt/out/mm
mkdir -p bin
for program; do
	more=vm_util.c
	[ ! -f hugepage_settings.c ] || more="$more hugepage_settings.c"
	[ "$program" != uffd-stress ] || more="$more uffd-common.c"
	gcc -w -O2 -U_FORTIFY_SOURCE -D_GNU_SOURCE= -I .. -I . "$program.c" $more -o "bin/$program" -lrt -lpthread -lm -lnuma
done
"#;

/// Unpacks those of the kernel `series` if they are not there, and returns their folder.
///
/// The kernel was built before, and the caller holds no lock of the cache.
pub fn ensure(context: &Context, series: &str) -> Result<PathBuf> {
    let Some(chosen) = kernel::remembered(context, Some(series)) else {
        bail!("the kernel {series} was not built yet");
    };
    let place = format!("selftests/{}", chosen.release);
    let key = Key::new("selftests", 2)
        .text(&chosen.package_version)
        .text(&root::version(context))
        .text(&PARTS.join(" "))
        .text(UNPACK)
        .text(&MM.join(" "))
        .text(BUILD)
        .finish();
    if context.cache.is_fresh(&place, &key) {
        return Ok(context.cache.path(place));
    }
    let _lock = context.cache.lock_exclusive(&context.ui)?;
    let debs = fetch::fetch(context, &chosen)?;
    let folder = debs
        .first()
        .and_then(|deb| deb.parent())
        .context("the packages of a kernel are in a folder")?;
    let title = format!("selftests of kernel {}", chosen.release);
    context
        .cache
        .ensure(&context.ui, &place, &key, &title, |dir, step| {
            let log = context.cache.fresh_log("selftests");
            let inside = || {
                Enter::new(&root::tree(context))
                    .bind_ro(folder, "/mnt/debs")
                    .bind(dir, "/mnt/out")
            };
            inside()
                .cmd("bash")
                .args(["-euo", "pipefail", "-c", UNPACK, "unpack", series])
                .args(PARTS)
                .run(&log, step)?;
            inside()
                .cmd("bash")
                .args(["-euo", "pipefail", "-c", BUILD, "build"])
                .args(MM)
                .run(&log, step)
        })
}
