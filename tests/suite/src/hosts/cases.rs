//! What is tested on two hosts. A case holds if its script ends with status 0 on both, prints what is wanted on each, and leaves
//! both kernels' logs without a report.

/// One test: the same script runs on both hosts.
#[derive(Debug)]
pub struct Case {
    /// Unique name, behind `hosts::`.
    pub name: &'static str,
    /// For /bin/sh.
    pub script: &'static str,
    /// Longest time.
    pub seconds: u64,
    /// What each host's output must contain.
    pub wants: [&'static [&'static str]; 2],
    /// Whether it is run with `--long` only.
    pub long: bool,
}

impl Case {
    const fn long(self) -> Self {
        Self { long: true, ..self }
    }
}

const fn case(name: &'static str, seconds: u64, script: &'static str) -> Case {
    Case {
        name,
        script,
        seconds,
        wants: [&[], &[]],
        long: false,
    }
}

/// All cases, in order. They share two hosts.
pub const CASES: &[Case] = &[
    Case {
        name: "environment_and_barriers",
        script: "set -e; bb=/emm/boot/busybox; echo $HOST $SELF $PEER; [ $(hostname) = host$HOST ]; $bb ping -c 1 -W 5 $PEER > /dev/null\n\
                 for i in $(seq 20); do emm-host barrier again; done; echo $i times\n\
                 emm-host barrier two & emm-host barrier at-once; wait $!\n\
                 ! emm-host barrier 'no name'; ! emm-host dance; timeout 1 emm-host barrier nobody$HOST || echo left\n\
                 [ $HOST = 1 ] || exit 0; emm-host barrier more && exit 1; [ $? = 1 ]",
        seconds: 60,
        wants: [
            &[
                "1 10.9.0.1 10.9.0.2\n",
                "20 times\n",
                "left\n",
                "nobody else comes to the barrier `more`: host 2's command has left with status 0",
            ],
            &["2 10.9.0.2 10.9.0.1\n", "20 times\n"],
        ],
        long: false,
    },
    Case {
        name: "pingpong",
        script: "set -e; p='verbs-shim run --stats -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 300'\n\
                 if [ $HOST = 1 ]; then $p & until ss -ltn | grep -q :18515; do :; done; emm-host barrier listens; wait $!\n\
                 else emm-host barrier listens; $p $PEER; fi",
        seconds: 60,
        wants: [
            &["300 iters", "1 MRs on demand"],
            &["300 iters", "1 MRs on demand"],
        ],
        long: false,
    },
    case(
        "every_byte",
        200,
        "emm-check across --mr emm --offsets 1,2048,4095 --lengths 1,100,4097,65537",
    ),
    case(
        "every_byte_on_each_path_mtu",
        200,
        "emm-check across --mr emm --every-mtu --state cool --offsets 4095 --lengths 5000",
    ),
    case(
        "every_byte_from_swap",
        200,
        "set -e; mkswap /dev/vda > /dev/null; swapon /dev/vda; emm-host barrier swap\n\
         emm-check across --mr emm --op write,read,send,imm,flush --state out --offsets 1,4095 --lengths 4097,65537\n\
         swapoff /dev/vda; emm-host barrier off",
    ),
    Case {
        name: "a_full_queue_on_the_way_out",
        script: FULL_QUEUE,
        seconds: 200,
        wants: [&["dropped on the way out"], &["dropped on the way out"]],
        long: false,
    },
    Case {
        name: "power_off_and_on",
        script: "set -e; bb=/emm/boot/busybox; echo boot $BOOT; if [ $HOST = 2 ]; then emm-host barrier up$BOOT; [ $BOOT = 2 ] && exit 0; exec sleep 1000; fi\n\
                 emm-host barrier up1; emm-host power off 2; ! emm-host power off 2; $bb ping -c 1 -W 1 $PEER && exit 1\n\
                 emm-host power on 2; emm-host barrier up2; $bb ping -c 1 -W 5 $PEER",
        seconds: 200,
        wants: [&["host 2 is off"], &["boot 1\n", "boot 2\n"]],
        long: false,
    },
    Case {
        name: "a_peer_that_goes",
        script: GONE,
        seconds: 300,
        wants: [
            &[
                "gone: Process: after",
                // Not where host 2's driver waits for its users.
                "gone: Link: ",
                "gone: Card: after",
                "gone: Power: after",
                "cool again\n",
            ],
            &["boot 2\n"],
        ],
        long: false,
    },
    Case {
        name: "every_byte_with_the_stock_driver",
        script: STOCK,
        seconds: 200,
        wants: [&["emm    to pinned write"], &["pinned to emm    write"]],
        long: false,
    },
    Case {
        name: "every_byte_on_a_bad_wire",
        script: BAD_WIRE,
        seconds: 300,
        wants: [
            &["sent again: yes", "out of order: yes"],
            &["sent again: yes", "out of order: yes"],
        ],
        long: false,
    },
    case(
        "every_byte_all",
        7200,
        "emm-check across --mr emm --every-mtu",
    )
    .long(),
];

/// The distribution's driver on host 2, then ours again. Accesses past a window's end are let through there: see
/// kernel/rxe/fixes.
const STOCK: &str = "set -e; other() { rdma link delete rxe0; rmmod rdma_rxe; $*; rdma link add rxe0 type rxe netdev eth9; }\n\
    mr=emm; [ $HOST = 1 ] || { mr=pinned; other modprobe rdma_rxe; }; emm-host barrier stock\n\
    emm-check across --mr $mr --state fresh,cool --offsets 1,4095 --lengths 100,65537 --op write,read,send,srq,imm,atomic,atomic-write,flush,datagram\n\
    [ $HOST = 1 ] || other insmod /emm/modules/rdma_rxe.ko mr_backend=emm; emm-host barrier ours";

/// Each fault of a wire by itself, on both ends. What comes twice, and what comes too early, is counted.
const BAD_WIRE: &str = "set -e; count() { cat /sys/class/infiniband/rxe0/ports/1/hw_counters/$1; }; modprobe sch_netem\n\
    again=$(count duplicate_request) early=$(count out_of_seq_request)\n\
    for wire in 'loss 5%' 'delay 1ms reorder 10%' 'duplicate 5%' 'corrupt 1%'; do\n\
    tc qdisc replace dev eth9 root netem $wire; emm-host barrier shaped; echo \"== $wire\"\n\
    emm-check across --mr emm --ack-timeout 14 --state fresh,cool --op write,read,send,srq,imm,atomic --offsets 4095 --lengths 100,65537; done\n\
    tc qdisc del dev eth9 root; emm-host barrier sound; more() { [ $(count $1) -gt $2 ] && echo $3: yes; }\n\
    more duplicate_request $again 'sent again'; more out_of_seq_request $early 'out of order'";

/// More packets than the queue of the network card takes: those that it drops are lost, as on the wire.
const FULL_QUEUE: &str = "set -e; count() { cat /sys/class/infiniband/rxe0/ports/1/hw_counters/$1; }; modprobe sch_netem\n\
    before=$(count send_err); tc qdisc replace dev eth9 root netem delay 2ms limit 8; emm-host barrier shaped\n\
    emm-check across --mr emm --ack-timeout 14 --state fresh --op write,read,send --offsets 4095 --lengths 1M\n\
    tc qdisc del dev eth9 root; emm-host barrier sound; [ $(count send_err) -gt $before ]; echo dropped on the way out";

/// The process, the device, the card and the power of host 2 go in the middle of traffic; each time both work together again then.
const GONE: &str = "set -e; again() { emm-check across --mr emm --op write,read --state cool --offsets 1 --lengths 5000; echo cool again; }\n\
    echo boot $BOOT; if [ $BOOT = 2 ]; then again; exit; fi\n\
    for how in process link card; do emm-check gone $how --mr emm --ack-timeout 14 || [ $HOST$? = 2137 ]\n\
    emm-host barrier $how; again; done\n\
    emm-check gone power --mr emm --ack-timeout 14; [ $HOST = 1 ]; emm-host power on 2; again";
