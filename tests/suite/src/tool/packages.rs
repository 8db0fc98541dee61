//! `run --packages`, and a program that takes one.

use anyhow::Result;

use super::program::Tool;
use crate::consumers::beside;
use crate::tally::Outcome;
use soft_roce_setup::context::Context;

pub(super) const ALONG: &str = "tool::packages_come_along";
pub(super) const FABRIC: &str = "tool::libfabric_that_watches_by_userfaultfd";
pub(super) const NFS: &str = "tool::nfs_over_rdma";

/// What the tests here take along, in one set: a root with it is made once.
const PACKAGES: &str = "dosfstools,libfabric-dev,libjemalloc2";

/// What some of them bring in the guest.
const SCRIPT: &str = "set -e; dd if=/dev/zero of=/tmp/disk bs=1M count=8 2> /dev/null; mkfs.vfat /tmp/disk; fsck.vfat -n /tmp/disk\n\
    LD_PRELOAD=$LD_PRELOAD:libjemalloc.so.2 sh -c 'grep -o -m 1 libjemalloc.so.2 /proc/self/maps'";

/// Packages are installed once, and beside the root: what they bring is not in it.
pub(super) fn come_along(context: &Context, tool: &Tool) -> Result<Outcome> {
    let mut said = String::new();
    for run in 0..2 {
        let output = tool.run(&["-n", "--packages", PACKAGES], SCRIPT)?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let brought = out.contains("/tmp/disk: ") && out.contains("libjemalloc.so.2");
        let again = run == 1 && err.contains("packages: ");
        said = format!("{}\n{out}{err}", output.status);
        if !output.status.success() || !brought || again {
            return Ok(Outcome::Failed(said));
        }
    }
    let in_root = soft_roce_setup::build::root::tree(context).join("usr/sbin/mkfs.vfat");
    Ok(if in_root.exists() {
        Outcome::Failed(format!("{} is in the root\n{said}", in_root.display()))
    } else {
        Outcome::Passed
    })
}

/// What libfabric's program does, as an ordinary user who may lock nothing: without prefetch, what libfabric watches and was never
/// touched is out of the peer's reach; with it, every byte is right, and the program can touch its memory. So it is with another monitor.
const FABRIC_SCRIPT: &str = concat!(
    "cat > /tmp/fabric.c <<'END'\n",
    include_str!("fabric.c"),
    "END\n",
    r#"gcc -O2 -Wall -Wextra -Werror -o /tmp/fabric /tmp/fabric.c -lfabric || exit 1
chmod 666 /dev/infiniband/*; umask 0
export FI_UNIVERSE_SIZE=4
as_user() {
	timeout 60 prlimit --memlock=0 setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set -all --inh-caps -all "$@"
}
try() {
	echo "with $*:"
	as_user env "$@" /tmp/fabric server > /tmp/server 2>&1 & server=$!
	until grep listening /tmp/server; do kill -0 $server || return; done
	as_user env "$@" /tmp/fabric client > /tmp/client 2>&1 & client=$!
	# A client whose server has failed waits for an answer.
	wait $server || kill $client
	wait $client
	cat /tmp/client /tmp/server
}
(try FI_MR_CACHE_MONITOR=userfaultfd FI_LOG_LEVEL=warn verbs-shim run --) > /tmp/without
cat /tmp/without; grep 'remote access error' /tmp/without && grep 'take --prefetch sync' /tmp/without && ! grep 'every byte right' /tmp/without || exit 1
for with in "FI_MR_CACHE_MONITOR=userfaultfd verbs-shim run -q --prefetch sync --" "FI_MR_CACHE_MONITOR=memhooks verbs-shim run -q --"; do
	try $with > /tmp/with
	cat /tmp/with; grep 'every byte right' /tmp/with && grep 'read and wrote its own memory' /tmp/with || exit 1
done
echo all of them"#
);

/// libfabric, told to watch memory by a userfaultfd.
pub(super) fn fabric(tool: &Tool) -> Result<Outcome> {
    let options = ["-n", "--mr", "pinned", "--packages", PACKAGES];
    let output = tool.run(&options, FABRIC_SCRIPT)?;
    let out = String::from_utf8_lossy(&output.stdout);
    Ok(
        if output.status.success() && out.ends_with("all of them\n") {
            Outcome::Passed
        } else {
            let err = String::from_utf8_lossy(&output.stderr);
            Outcome::Failed(format!("{}\n{out}{err}", output.status))
        },
    )
}

/// A file system of NFS over rxe0, server and client in one guest, beside unpinned traffic that is compared: what is written lies on
/// the server, and is read back by a client that has nothing of it any more.
const NFS_SCRIPT: &str = beside!(
    r#"modprobe rpcrdma; modprobe nfsd; mkdir -p /srv/out; mount -t tmpfs out /srv/out; mount -t nfsd nfsd /proc/fs/nfsd
echo 10 | tee /proc/fs/nfsd/nfsv4gracetime > /proc/fs/nfsd/nfsv4leasetime
exportfs -o rw,no_root_squash,insecure,fsid=0 10.9.0.1:/srv/out; rpc.mountd -N 3; rpc.nfsd -N 3 2
echo rdma 20049 > /proc/fs/nfsd/portlist
at() { mount -t nfs4 -o rdma,port=20049,vers=4.2 10.9.0.1:/ /mnt; grep ' /mnt nfs4 .*proto=rdma' /proc/mounts; }
beside 8; before=$(packets); head -c 8M /dev/urandom > /tmp/in; at
dd if=/tmp/in of=/mnt/file bs=100001 status=none; dd if=/tmp/in of=/mnt/file bs=4097 skip=3 seek=5 count=9 conv=notrunc status=none
dd if=/tmp/in of=/tmp/model bs=100001 status=none; dd if=/tmp/in of=/tmp/model bs=4097 skip=3 seek=5 count=9 conv=notrunc status=none
umount /mnt; cmp /srv/out/file /tmp/model; at; cmp /mnt/file /tmp/model; umount /mnt; moved 3000; beside_held; echo nfs: every byte right"#
);

/// NFS over RDMA.
pub(super) fn nfs(tool: &Tool) -> Result<Outcome> {
    let options = ["-n", "--mr", "pinned", "--packages", "nfs-kernel-server"];
    let output = tool.run(&options, NFS_SCRIPT)?;
    let out = String::from_utf8_lossy(&output.stdout);
    Ok(
        if output.status.success() && out.ends_with("nfs: every byte right\n") {
            Outcome::Passed
        } else {
            let err = String::from_utf8_lossy(&output.stderr);
            Outcome::Failed(format!("{}\n{out}{err}", output.status))
        },
    )
}
