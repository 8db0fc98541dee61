//! Peers' programs that ask for on-demand regions by themselves: no shim is in these.

use super::super::cases::Case;
use super::super::shim_cases::two_copies;

const fn case(name: &'static str, seconds: u64, script: &'static str) -> Case {
    Case {
        name,
        script,
        seconds,
        wants: &["all of them"],
        long: false,
    }
}

/// `ucx -t TEST OPTIONS`: ucx_perftest whose user memory is registered on demand. It takes both kinds of
/// memory that a test sends from, so one-sided ones meet the peer's too.
macro_rules! ucx {
    () => {
        "export UCX_REG_NONBLOCK_MEM_TYPES=host UCX_NET_DEVICES=rxe0:1 UCX_TLS=rc_verbs,ud_verbs:aux \
         UCX_UD_ETH_DGID_CHECK=n UCX_WARN_UNUSED_ENV_VARS=n\n\
         ucx() {\n\
         timeout -k 1 60 ucx_perftest -P 0 -w 5 -n 50 -t \"$@\" > /tmp/peers/server 2>&1 & server=$!\n\
         until ss -ltn | grep -q :13337; do kill -0 $server; done\n\
         timeout -k 1 20 ucx_perftest 10.9.0.1 -P 0 -w 5 -n 50 -t \"$@\" > /tmp/peers/client 2>&1\n\
         status=$?; grep Final /tmp/peers/client || tail -n 5 /tmp/peers/client\n\
         if [ $status = 0 ]; then wait $server; else kill $server 2> /dev/null; fi; return $status; }\n"
    };
}

/// For the guest of the peers, behind `prologue.sh`.
pub const CASES: &[Case] = &[
    // 56.1 goes on without the prefetch that it has no way to ask rxe for.
    case(
        "pingpongs_with_their_own_odp_flags",
        200,
        "set -e\n\
         for space in trixie forky; do\n\
         for flags in -o -O '-o -P' '-O -P'; do\n\
         echo \"$space ibv_rc_pingpong $flags\"; pair 18515 $space ibv_rc_pingpong -d rxe0 -g 1 -c -n 50 $flags; done\n\
         echo \"$space ibv_srq_pingpong -o\"; pair 18515 $space ibv_srq_pingpong -d rxe0 -g 1 -c -n 50 -o\n\
         done; echo all of them",
    ),
    // With the shim: a newer libibverbs than the system's beside that.
    Case {
        name: "two_releases_of_libibverbs_in_a_process",
        seconds: 200,
        script: two_copies!("/forky/usr/lib/x86_64-linux-gnu/libibverbs.so.1"),
        wants: &["two copies, each with its own objects"],
        long: false,
    },
    case(
        "perftest_with_odp",
        200,
        "set -e\n\
         for p in write read send atomic; do for kind in bw lat; do\n\
         size=; [ $p = atomic ] || size='-s 4097'\n\
         echo ib_${p}_$kind; pair 18515 trixie ib_${p}_$kind -d rxe0 -x 1 -F --odp -n 50 $size\n\
         done; done; echo all of them",
    ),
    case(
        "ucx_registers_on_demand",
        200,
        concat!(
            ucx!(),
            "for t in 'tag_bw -s 65537' 'ucp_put_bw -s 16385' 'ucp_put_bw -s 65537' 'ucp_get -s 65537'; do\n\
             echo $t; ucx $t || exit 1; done; echo all of them"
        ),
    ),
    // Each unloads rdma_rxe when it is done, and takes the module that is loaded, which is the patched one. One unloads the
    // module of dummy interfaces, and the device's with it. One gives its server a second until it listens: if a busy host made
    // that too short (the client is rejected with error 8, no such service), it is run again.
    case(
        "kernel_selftests_of_rdma",
        900,
        "mkdir -p /tmp/peers/bin; ln -sf /emm/boot/busybox /tmp/peers/bin/ping; PATH=/tmp/peers/bin:$PATH\n\
         failed=\n\
         for t in /selftests/rdma/*.sh; do for go in 1 2 3 4; do\n\
         rdma link delete rxe0 2> /dev/null; rmmod rdma_rxe 2> /dev/null\n\
         modprobe -a tun veth rdma_ucm ib_uverbs udp_tunnel ip6_udp_tunnel; lsmod | grep -q ^ib_emm || insmod /emm/modules/ib_emm.ko\n\
         insmod /emm/modules/rdma_rxe.ko mr_backend=emm || exit 1\n\
         timeout 180 bash $t > /tmp/peers/selftest 2>&1; status=$?\n\
         echo \"${t##*/}: status $status\"; tail -n 6 /tmp/peers/selftest\n\
         [ $status != 0 ] && grep -q 'REJECTED, error 8' /tmp/peers/selftest || break; done\n\
         [ $status = 0 ] || failed=\"$failed ${t##*/}\"; done\n\
         rmmod rdma_rxe 2> /dev/null; modprobe -a rdma_ucm ib_uverbs udp_tunnel ip6_udp_tunnel\n\
         ip link show eth9 > /dev/null 2>&1 || { ip link add eth9 mtu 9000 type dummy; ip link set eth9 up\n\
         ip addr add 10.9.0.1/24 dev eth9; }\n\
         insmod /emm/modules/rdma_rxe.ko mr_backend=emm; rdma link add rxe0 type rxe netdev eth9\n\
         ibv_devinfo -d rxe0 > /dev/null && [ -z \"$failed\" ] && echo all of them",
    ),
    // They have the VM do what it does, to their own memory and (compaction, KSM, THP) to all of it. What passes alone passes
    // beside the traffic, too, of which every byte is compared; each is run once at least, and all go on as long as it does.
    // No compaction by the traffic: it may split huge pages of the selftest that counts its own. Others look at state that any
    // busy machine can change, so that one has to fail three times: split_huge_page_test (a huge page is not split while somebody
    // has hold of it) failed in 1 of 18 runs beside pinned regions, too, and in 2 of 28 beside ours (7.2).
    case(
        "kernel_selftests_of_mm_beside_traffic",
        1800,
        "cd /tmp/peers; all=$(ls /selftests/mm/bin)\n\
         run() { options=; case $1 in transhuge-stress) options='-d 5';; uffd-stress) options='anon 16 2';; esac\n\
         timeout 180 /selftests/mm/bin/$1 $options > mm 2>&1; status=$?\n\
         echo \"$1 $2: status $status; $(grep '^# Totals' mm)\"; [ $status = 0 ]; }\n\
         passing=; for t in $all; do run $t alone && passing=\"$passing $t\"; done\n\
         [ -n \"$passing\" ] || exit 1\n\
         emm-check stress --seconds 240 --qps 4 --no-compaction --mr emm > traffic 2>&1 & traffic=$!\n\
         failed=; first=yes\n\
         while [ $first ] || kill -0 $traffic 2> /dev/null; do for t in $all; do\n\
         [ $first ] || kill -0 $traffic 2> /dev/null || break\n\
         run $t beside || case \" $passing \" in *\" $t \"*) cat mm\n\
         run $t again || run $t again || failed=\"$failed $t\";; esac; done; first=; done\n\
         wait $traffic; status=$?; cat traffic\n\
         [ $status = 0 ] && [ -z \"$failed\" ] && echo all of them",
    ),
    // The last one: what hangs here may hold on to the device.
    Case {
        name: "ucx_hangs_on_in_tree_odp",
        seconds: 120,
        script: concat!(
            "backend odp\n",
            ucx!(),
            "ucx ucp_put_bw -s 65537; echo status $?"
        ),
        wants: &["status 124"],
        long: false,
    },
];
