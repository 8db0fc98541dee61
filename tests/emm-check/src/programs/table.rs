//! The programs, as data.

use std::path::Path;

use emm_check::ucx::OVER_UCX;

use super::read::{self, Read};

/// When a server can be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// There is no server: the client is all there is.
    Alone,
    /// It listens on this TCP port.
    Tcp(u16),
    /// It listens with the RDMA connection manager.
    Cm,
}

/// What is to be expected of rxe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It works.
    Works,
    /// It can't work on rxe, not with pinned memory either; its output contains this.
    NotOnRxe(&'static str),
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Unique name: the program's, with the mode if it has several.
    pub name: &'static str,
    /// The Debian package that it is from; empty for programs of this repository.
    pub package: &'static str,
    /// Command lines. A word with blanks can't be written.
    pub server: &'static str,
    /// The same.
    pub client: &'static str,
    /// When the client can start.
    pub ready: Ready,
    /// The server serves for ever: it is ended when the client is done.
    pub stays: bool,
    /// It finds its verbs by `dlsym` on libibverbs' own handle, or has libibverbs loaded for itself.
    pub audit: bool,
    /// Variables.
    pub env: &'static [(&'static str, &'static str)],
    /// How the result is read.
    pub read: Read,
    /// What is expected.
    pub expect: Expect,
    /// It is shown in the demonstration.
    pub demo: bool,
}

impl Program {
    /// Its file, if it should be in a folder that is shared with the guest, and is not.
    pub fn missing(&self) -> Option<&'static str> {
        let file = self.client.split_whitespace().next()?;
        (file.starts_with("/programs/") && !Path::new(file).exists()).then_some(file)
    }
}

/// All that is usual.
const PLAIN: Program = Program {
    name: "",
    package: "",
    server: "",
    client: "",
    ready: Ready::Alone,
    stays: false,
    audit: false,
    env: &[],
    read: read::pingpong,
    expect: Expect::Works,
    demo: false,
};

/// A ping-pong of ibverbs-utils: the client's command is the server's with the address.
macro_rules! pingpong {
    ($name:literal, $args:literal) => {
        Program {
            name: $name,
            package: "ibverbs-utils",
            server: concat!($name, " -d rxe0 -g 1 -c ", $args),
            client: concat!($name, " -d rxe0 -g 1 -c ", $args, " 10.9.0.1"),
            ready: Ready::Tcp(18515),
            read: read::pingpong,
            ..PLAIN
        }
    };
}

/// A program of perftest.
macro_rules! perftest {
    ($name:literal, $program:literal, $args:literal, $read:expr) => {
        Program {
            name: $name,
            package: "perftest",
            server: concat!($program, " -d rxe0 -x 1 -F ", $args),
            client: concat!($program, " -d rxe0 -x 1 -F ", $args, " 10.9.0.1"),
            ready: Ready::Tcp(18515),
            read: $read,
            ..PLAIN
        }
    };
}

/// A program of rdmacm-utils.
macro_rules! cm {
    ($name:literal, $server:literal, $client:literal, $read:expr) => {
        Program {
            name: $name,
            package: "rdmacm-utils",
            server: $server,
            client: $client,
            ready: Ready::Cm,
            read: $read,
            ..PLAIN
        }
    };
}

/// ucx_perftest in one mode. Debian's is built with MPI and needs `-P 0` to run without.
macro_rules! ucx {
    ($name:literal, $transports:literal, $args:literal) => {
        Program {
            name: $name,
            package: "ucx-utils",
            server: concat!("ucx_perftest -P 0 -w 5 -n 50 ", $args),
            client: concat!("ucx_perftest 10.9.0.1 -P 0 -w 5 -n 50 ", $args),
            ready: Ready::Tcp(13337),
            env: &[
                ("UCX_NET_DEVICES", "rxe0:1"),
                ("UCX_TLS", $transports),
                // The address is an IPv4 one: its GID is no routable IPv6 one.
                ("UCX_UD_ETH_DGID_CHECK", "n"),
                ("UCX_WARN_UNUSED_ENV_VARS", "n"),
            ],
            read: read::ucx,
            ..PLAIN
        }
    };
}

/// fi_pingpong over one kind of endpoint. `-c` compares the data.
macro_rules! fabric {
    ($name:literal, $args:literal) => {
        Program {
            name: $name,
            package: "libfabric-bin",
            // For so many peers its completion queues are made, and rxe's have at most 32,767 entries.
            env: &[("FI_UNIVERSE_SIZE", "2")],
            server: concat!("fi_pingpong -c -I 20 ", $args),
            client: concat!("fi_pingpong -c -I 20 ", $args, " 10.9.0.1"),
            ready: Ready::Tcp(47592),
            read: read::fabric,
            ..PLAIN
        }
    };
}

/// All programs, in the order of the table.
pub const PROGRAMS: &[Program] = &[
    Program {
        demo: true,
        ..pingpong!("ibv_rc_pingpong", "-n 200")
    },
    pingpong!("ibv_srq_pingpong", "-n 50"),
    pingpong!("ibv_uc_pingpong", "-n 50"),
    pingpong!("ibv_ud_pingpong", "-n 50 -s 1024"),
    Program {
        server: "ibv_xsrq_pingpong -d rxe0 -g 1 -c -n 50",
        client: "ibv_xsrq_pingpong -d rxe0 -g 1 -c -n 50 10.9.0.1",
        expect: Expect::NotOnRxe("Couldn't Open the XRC Domain"),
        ..pingpong!("ibv_xsrq_pingpong", "")
    },
    Program {
        demo: true,
        ..perftest!(
            "ib_write_bw",
            "ib_write_bw",
            "-s 65536 -n 150",
            read::bandwidth
        )
    },
    Program {
        demo: true,
        ..perftest!(
            "ib_read_bw",
            "ib_read_bw",
            "-s 65536 -n 150",
            read::bandwidth
        )
    },
    Program {
        demo: true,
        ..perftest!(
            "ib_send_bw",
            "ib_send_bw",
            "-s 65536 -n 150",
            read::bandwidth
        )
    },
    perftest!(
        "ib_atomic_bw CMP_AND_SWAP",
        "ib_atomic_bw",
        "-A CMP_AND_SWAP -n 100",
        read::bandwidth
    ),
    perftest!(
        "ib_atomic_bw FETCH_AND_ADD",
        "ib_atomic_bw",
        "-A FETCH_AND_ADD -n 100",
        read::bandwidth
    ),
    perftest!(
        "ib_write_lat",
        "ib_write_lat",
        "-s 4097 -n 100",
        read::latency
    ),
    perftest!(
        "ib_read_lat",
        "ib_read_lat",
        "-s 4097 -n 100",
        read::latency
    ),
    perftest!(
        "ib_send_lat",
        "ib_send_lat",
        "-s 4097 -n 100",
        read::latency
    ),
    perftest!(
        "ib_atomic_lat CMP_AND_SWAP",
        "ib_atomic_lat",
        "-A CMP_AND_SWAP -n 100",
        read::latency
    ),
    perftest!(
        "ib_atomic_lat FETCH_AND_ADD",
        "ib_atomic_lat",
        "-A FETCH_AND_ADD -n 100",
        read::latency
    ),
    Program {
        demo: true,
        ..cm!(
            "rping",
            "rping -s -a 10.9.0.1 -C 30 -S 4000 -V -v",
            "rping -c -a 10.9.0.1 -C 30 -S 4000 -V -v",
            read::rping
        )
    },
    cm!(
        "ucmatose",
        "ucmatose -b 10.9.0.1 -c 2 -C 10 -S 3000",
        "ucmatose -s 10.9.0.1 -c 2 -C 10 -S 3000",
        read::return_status
    ),
    cm!(
        "udaddy",
        "udaddy -b 10.9.0.1 -C 500 -S 1000",
        "udaddy -s 10.9.0.1 -C 500 -S 1000",
        read::return_status
    ),
    cm!(
        "rdma_client",
        "rdma_server",
        "rdma_client -s 10.9.0.1",
        read::end_status
    ),
    cm!(
        "rstream",
        "rstream -b 10.9.0.1 -S 65536 -C 20 -I 1 -T v",
        "rstream -s 10.9.0.1 -S 65536 -C 20 -I 1 -T v",
        read::stream
    ),
    cm!(
        "riostream",
        "riostream -b 10.9.0.1 -S 65536 -C 20 -I 1 -T v",
        "riostream -s 10.9.0.1 -S 65536 -C 20 -I 1 -T v",
        read::stream
    ),
    Program {
        name: "qperf",
        package: "qperf",
        server: "qperf",
        client: "qperf 10.9.0.1 -cm1 -t 1 rc_bw rc_lat rc_rdma_read_bw rc_rdma_write_bw \
                 rc_rdma_write_lat ver_rc_compare_swap ver_rc_fetch_add quit",
        ready: Ready::Tcp(19765),
        read: read::qperf,
        ..PLAIN
    },
    Program {
        name: "qperf UD",
        package: "qperf",
        server: "qperf",
        client: "qperf 10.9.0.1 -cm1 -t 1 ud_lat quit",
        ready: Ready::Tcp(19765),
        stays: true,
        read: read::qperf,
        // It makes the address handle without the GRH that RoCE wants.
        expect: Expect::NotOnRxe("failed to create address handle"),
        ..PLAIN
    },
    ucx!(
        "ucx_perftest rc tag",
        "rc_verbs,ud_verbs:aux",
        "-t tag_bw -s 65537"
    ),
    ucx!(
        "ucx_perftest rc put",
        "rc_verbs,ud_verbs:aux",
        "-t ucp_put_bw -s 65537"
    ),
    ucx!(
        "ucx_perftest rc get",
        "rc_verbs,ud_verbs:aux",
        "-t ucp_get -s 65537"
    ),
    ucx!(
        "ucx_perftest rc fadd",
        "rc_verbs,ud_verbs:aux",
        "-t ucp_fadd -s 8"
    ),
    ucx!("ucx_perftest ud tag", "ud_verbs", "-t tag_bw -s 8193"),
    ucx!("ucx_perftest ud put", "ud_verbs", "-t ucp_put_bw -s 8193"),
    fabric!("fi_pingpong msg", "-p verbs -e msg -S 65536"),
    fabric!("fi_pingpong rdm", "-p verbs;ofi_rxm -e rdm -S 65536"),
    fabric!("fi_pingpong dgram", "-p verbs -e dgram -S 1024"),
    Program {
        name: "Open MPI collectives",
        package: "openmpi-bin",
        client: "mpirun --oversubscribe -n 2 mpi_collectives",
        env: &OVER_UCX,
        read: read::compared,
        ..PLAIN
    },
    Program {
        name: "Rust program with ibverbs 0.9.2",
        client: "/programs/ibverbs-both-ways rxe0 1",
        read: read::compared,
        ..PLAIN
    },
    Program {
        name: "pyverbs test_qpex",
        package: "python3-pyverbs",
        client: "python3 /tmp/emm-programs/rdma-core/tests/run_tests.py --dev rxe0 --gid 1 -v tests.test_qpex",
        audit: true,
        read: read::unittest,
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole() {
        for (at, p) in PROGRAMS.iter().enumerate() {
            assert!(!p.name.is_empty() && !p.client.is_empty(), "{}", p.name);
            assert!(
                PROGRAMS[..at].iter().all(|other| other.name != p.name),
                "{} is there twice",
                p.name
            );
            assert_eq!(p.server.is_empty(), p.ready == Ready::Alone, "{}", p.name);
        }
        assert_eq!(PROGRAMS.iter().filter(|p| p.demo).count(), 5);
    }
}
