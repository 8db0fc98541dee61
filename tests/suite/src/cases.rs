//! What is tested in a guest. A case holds if its script ends with status 0, prints what is wanted, and
//! leaves the kernel's log without a report. Status 77 skips it, with the last line as the reason.

/// One test.
#[derive(Debug)]
pub struct Case {
    /// Unique name.
    pub name: &'static str,
    /// For /bin/sh.
    pub script: &'static str,
    /// Longest time.
    pub seconds: u64,
    /// What the output must contain.
    pub wants: &'static [&'static str],
    /// Whether it is run with `--long` only.
    pub long: bool,
}

impl Case {
    /// The same case, for `--long` only.
    pub(super) const fn long(self) -> Self {
        Self { long: true, ..self }
    }
}

pub(super) const fn case(name: &'static str, seconds: u64, script: &'static str) -> Case {
    Case {
        name,
        script,
        seconds,
        wants: &[],
        long: false,
    }
}

/// What runs on each further kernel without `--long` too: what rests on code that differs there, which are the VM's events and
/// faults, the driver's source with our patches on it, and loading. The rest is of our own code, which is the same on all of them.
pub const ON_EACH_KERNEL: &[&str] = &[
    "modules_are_loaded",
    "notifier_contract",
    "parked_accesses",
    "verify_every_byte",
    EVENTS,
    "verbs_families",
    "modules_unload_and_load_20_times",
    "module_unloads_beside_registrations",
];

/// The case of all events.
const EVENTS: &str = "vm_events";

/// The same on a further kernel without `--long`: without those that look at what ib_emm does by itself (who is right, how many
/// pages it asks for, what regions cost each other, and 24 seconds of operations against threads that throw pages away).
const EVENTS_OF_THE_VM: &str = "insmod /emm/modules/emm_client.ko && emm-check event pageout fork remap hole dontneed mprotect mremap \
     thp ksm madvfree migrate readonly hugetlb files uffd disk holdoff aging reach reap kinds rare --mr emm && rmmod emm_client";

/// What is run of a case: less on a kernel that is not the `first`, but for `--long`.
pub fn text(case: &Case, first: bool, long: bool) -> &'static str {
    if case.name == EVENTS && !first && !long {
        return EVENTS_OF_THE_VM;
    }
    case.script
}

/// All cases, in order.
pub const CASES: &[Case] = &[
    Case {
        name: "modules_are_loaded",
        script: "cat /sys/module/rdma_rxe/parameters/mr_backend; lsmod; \
                 ! echo nonsense > /sys/module/rdma_rxe/parameters/mr_backend",
        seconds: 20,
        wants: &["emm\n", "ib_emm"],
        long: false,
    },
    // What users' set-ups rest on: cgroups, all of the kernel's modules, file systems, user namespaces.
    Case {
        name: "guest_is_like_other_machines",
        script: "set -e; grep cgroup2 /proc/mounts; grep -w memory /sys/fs/cgroup/cgroup.controllers\n\
                 modprobe nvmet-rdma; lsmod | grep nvmet_rdma; modprobe -r nvmet-rdma; if lsmod | grep nvmet_rdma; then exit 1; fi\n\
                 truncate -s 8M /tmp/disk; mkfs.ext4 -q /tmp/disk; fsck.ext4 -n /tmp/disk\n\
                 setpriv --reuid 1000 --regid 1000 --clear-groups unshare -Urmpf --mount-proc sh -ec 'mount -t tmpfs none /mnt; id -u; ls -d /proc/1'\n\
                 unshare -Urm id -u",
        seconds: 60,
        wants: &["cgroup2", "nvmet_rdma", "/proc/1\n"],
        long: false,
    },
    Case {
        name: "pingpong_unpinned_with_validation",
        script: "export VERBS_SHIM_STATS=1\n\
                 (verbs-shim run -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 300 & until ss -ltn | grep -q :18515; do :; done\n\
                 verbs-shim run -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 300 10.9.0.1 && wait $!)",
        seconds: 60,
        wants: &["on demand, by ib_emm", "1 MRs on demand", "300 iters"],
        long: false,
    },
    Case {
        name: "pingpong_with_explicit_odp_flag",
        script: "(ibv_rc_pingpong -d rxe0 -g 1 -o -c -n 300 & until ss -ltn | grep -q :18515; do :; done\n\
                 ibv_rc_pingpong -d rxe0 -g 1 -o -c -n 300 10.9.0.1 && wait $!)",
        seconds: 60,
        wants: &["300 iters"],
        long: false,
    },
    Case {
        name: "shim_keeps_in_tree_odp_pinned",
        script: "set -e; b=/sys/module/rdma_rxe/parameters/mr_backend; echo odp > $b\n\
                 verbs-shim check || [ $? = 1 ]\n\
                 (verbs-shim run -q --stats -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 50 & until ss -ltn | grep -q :18515; do :; done\n\
                 verbs-shim run -q --stats -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 50 10.9.0.1 && wait $!)\n\
                 echo emm > $b",
        seconds: 60,
        wants: &[
            "rxe0: pinned: the on-demand paging of in-tree rxe corrupts data",
            "0 MRs on demand",
            "device known to corrupt on-demand data",
        ],
        long: false,
    },
    case(
        "notifier_contract",
        120,
        "insmod /emm/modules/emm_client.ko && emm-check notifier && rmmod emm_client",
    ),
    case(
        "parked_accesses",
        200,
        "insmod /emm/modules/emm_access.ko && emm-check access && rmmod emm_access",
    ),
    case(
        "verify_every_byte",
        200,
        "emm-check verify --mr emm --op write,read,send,atomic",
    ),
    case(
        "eight_queue_pairs_every_mtu",
        400,
        "emm-check verify --mr emm --qps 8 --every-mtu",
    ),
    // What in-tree paging does here is known, and the demo shows it each time.
    Case {
        name: "eight_queue_pairs_every_mtu_in_tree",
        script: "emm-check verify --mr odp --qps 8 --every-mtu",
        seconds: 400,
        wants: &["known odp    verify write [8 QPs, MTU 256]"],
        long: true,
    },
    case(
        "verify_foreign_iova",
        200,
        "emm-check --mtu 1024 verify --mr emm --iova --op write,read --lengths 1,7,4096,5000,65537",
    ),
    case("sweep_a_region", 200, "emm-check sweep 32M --mr emm"),
    case(
        EVENTS,
        400,
        "insmod /emm/modules/emm_client.ko && emm-check event --mr emm && rmmod emm_client",
    ),
    case("matrix", 900, "emm-check matrix --mr emm"),
    // What others do, beside which a region is seen.
    case("matrix_pinned", 600, "emm-check matrix --mr pinned").long(),
    case("matrix_odp", 3600, "emm-check matrix --mr odp").long(),
    case(
        "verbs_families",
        400,
        "emm-check verbs --mr emm && emm-check removal",
    ),
    // More than a driver's work queue has threads for.
    case(
        "a_crowd_that_waits",
        300,
        "emm-check crowd --qps 3000 --mr emm",
    ),
    case("a_deregistration_that_waits", 120, "emm-check leftover"),
    case(
        "stress_against_shadow",
        120,
        "emm-check stress --seconds 20 --qps 8 --mr emm",
    ),
    case(
        "ten_million_operations",
        6 * 3600,
        "emm-check stress --seconds 20000 --operations 10000000 --qps 8 --mr emm",
    )
    .long(),
    Case {
        name: "regions_can_be_seen",
        script: "set -e; t=/sys/kernel/tracing; d=/sys/kernel/debug\n\
                 [ -d $t/events ] || mount -t tracefs none $t; [ -d $d/ib_emm ] || mount -t debugfs none $d\n\
                 echo > $t/trace; echo 1 > $t/events/ib_emm/enable\n\
                 verbs-shim run -q -- ibv_rc_pingpong -d rxe0 -g 1 -n 10 > /dev/null & until ss -ltn | grep -q :18515; do :; done\n\
                 rdma resource show mr -dd; rdma statistic show mr; cat $d/ib_emm/regions\n\
                 verbs-shim run -q -- ibv_rc_pingpong -d rxe0 -g 1 -n 10 10.9.0.1; wait\n\
                 emm-check event remap --mr emm; emm-check kill --rounds 1 --mr emm; echo 0 > $t/events/ib_emm/enable\n\
                 for e in register fault invalidate release; do grep -m 2 emm_$e: $t/trace; done",
        seconds: 60,
        wants: &[
            "drv_backend emm",
            "page_faults",
            "page_invalidations",
            "page_prefetch",
            "resident_pages table_bytes",
            "emm_register: start=",
            "emm_fault: address=",
            "emm_invalidate: start=",
            "emm_release: start=",
        ],
        long: false,
    },
    case(
        "kill_in_traffic_20_times",
        200,
        "emm-check kill --rounds 20 --mr emm && [ -z \"$(rdma resource show mr | grep -v '^$')\" ]",
    ),
    case(
        "modules_unload_and_load_20_times",
        200,
        "set -e; for i in $(seq 20); do rdma link delete rxe0; rmmod rdma_rxe emm_xpmem ib_emm\n\
         insmod /emm/modules/ib_emm.ko; insmod /emm/modules/emm_xpmem.ko; insmod /emm/modules/rdma_rxe.ko mr_backend=emm\n\
         rdma link add rxe0 type rxe netdev eth9; done; echo $i; rdma link show rxe0/1",
    ),
    // Processes that subscribe are told to `dd`, which makes no file where there is no device.
    Case {
        name: "module_unloads_beside_registrations",
        script: "set -e; subscribe() { echo register | dd of=/dev/emm_client conv=notrunc,nocreat status=none 2>/dev/null; }\n\
                 come_and_go() { exec 3>/dev/emm_client; echo register >&3; echo unregister >&3; exec 3>&-; echo >&5; read x <&4; }\n\
                 rdma link delete rxe0; rmmod rdma_rxe emm_xpmem; mkfifo /tmp/go /tmp/ready; exec 4<>/tmp/go 5<>/tmp/ready; lingered=0\n\
                 for i in $(seq 10); do insmod /emm/modules/emm_client.ko\n\
                 for j in 1 2 3 4; do come_and_go & done; for j in 1 2 3 4; do read x <&5; done\n\
                 for j in 1 2; do (until [ -e /tmp/over ]; do subscribe || :; done) & done\n\
                 grep -q 'idle 0' /sys/kernel/debug/ib_emm/hubs || lingered=$((lingered + 1))\n\
                 until rmmod emm_client 2>/dev/null; do :; done; rmmod ib_emm\n\
                 touch /tmp/over; for j in 1 2 3 4; do echo >&4; done; wait; rm /tmp/over\n\
                 insmod /emm/modules/ib_emm.ko; done; echo unloaded $i times, some lingered: $((lingered > 0))\n\
                 insmod /emm/modules/emm_xpmem.ko; insmod /emm/modules/rdma_rxe.ko mr_backend=emm\n\
                 rdma link add rxe0 type rxe netdev eth9",
        seconds: 200,
        wants: &["unloaded 10 times, some lingered: 1"],
        long: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_on_each_kernel_is_there() {
        for name in ON_EACH_KERNEL {
            assert!(CASES.iter().any(|c| c.name == *name && !c.long), "{name}");
        }
    }
}
