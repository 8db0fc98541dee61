//! Guest tests of the preload library and its launcher: what only a device and its kernel can show.

use super::cases::{Case, case};

/// A program that asks libibverbs' handle for its functions, as NCCL does, with libibverbs loaded locally,
/// as Python does it. It registers 1 MiB and prints what is pinned then.
macro_rules! by_handle {
    () => {
        "cat > /tmp/by_handle.py <<'END'\n\
         import ctypes as c, mmap, sys\n\
         verbs = c.CDLL('libibverbs.so.1')\n\
         find = c.CDLL(None).dlvsym\n\
         find.restype, find.argtypes = c.c_void_p, [c.c_void_p, c.c_char_p, c.c_char_p]\n\
         def verb(name, version, result, *arguments):\n\
         \x20   return c.CFUNCTYPE(result, *arguments)(find(verbs._handle, name, version))\n\
         p = c.c_void_p\n\
         devices = verb(b'ibv_get_device_list', b'IBVERBS_1.1', c.POINTER(p), p)(None)\n\
         context = verb(b'ibv_open_device', b'IBVERBS_1.1', p, p)(devices[0])\n\
         pd = verb(b'ibv_alloc_pd', b'IBVERBS_1.1', p, p)(context)\n\
         memory = mmap.mmap(-1, 1 << 20)\n\
         address = c.addressof(c.c_char.from_buffer(memory))\n\
         register = verb(b'ibv_reg_mr_iova2', b'IBVERBS_1.8', p, p, p, c.c_size_t, c.c_uint64, c.c_uint)\n\
         region = register(pd, address, 1 << 20, address, 1)\n\
         pinned = [l.split()[1] for l in open('/proc/self/status') if l.startswith('VmPin')]\n\
         print('region', bool(region), 'VmPin', pinned[0])\n\
         dereg = verb(b'ibv_dereg_mr', b'IBVERBS_1.1', c.c_int, p)\n\
         sys.exit(dereg(region))\n\
         END\n"
    };
}

/// Two copies of libibverbs in one process; the second one is that of the path behind it.
macro_rules! two_copies {
    ($second:literal) => {
        concat!(
            "cat > /tmp/copies.c <<'END_OF_COPIES'\n",
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/copies.c")),
            "END_OF_COPIES\ncat > /tmp/copies.sh <<'END_OF_COPIES'\n",
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/copies.sh")),
            "END_OF_COPIES\nsh /tmp/copies.sh ",
            $second
        )
    };
}
pub(crate) use two_copies;

/// An ordinary user who may not lock a byte.
macro_rules! nobody {
    () => {
        "chmod 666 /dev/infiniband/*; umask 0\n\
         nobody() { prlimit --memlock=0 setpriv --reuid 1000 --regid 1000 --clear-groups \
         --bounding-set -all --inh-caps -all \"$@\"; }\n"
    };
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "shim_layouts_are_libibverbs",
        script: concat!(
            "cat > /tmp/layout.c <<'END'\n",
            include_str!("layout.c"),
            "END\ngcc -fsyntax-only /tmp/layout.c && echo same"
        ),
        seconds: 60,
        wants: &["same"],
        long: false,
    },
    // As it is built in the root, whose glibc is newer than that of many containers.
    case(
        "shim_needs_an_old_glibc_only",
        30,
        "newest=$(readelf --version-info --wide /emm/lib/libverbs_shim.so | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)\n\
         echo $newest; [ $newest = GLIBC_2.17 ]",
    ),
    Case {
        name: "shim_check_says_what_would_happen",
        script: "verbs-shim check",
        seconds: 30,
        wants: &[
            "device rxe0: on demand, by ib_emm",
            "RC send recv write read",
            "ib_emm: loaded",
        ],
        long: false,
    },
    Case {
        name: "shim_misses_dlvsym_without_audit",
        script: concat!(
            by_handle!(),
            "verbs-shim run -q -- python3 /tmp/by_handle.py"
        ),
        seconds: 60,
        wants: &["region True VmPin 1024"],
        long: false,
    },
    Case {
        name: "shim_catches_dlvsym_with_audit",
        script: concat!(
            by_handle!(),
            "verbs-shim run -q --audit --stats -- python3 /tmp/by_handle.py"
        ),
        seconds: 60,
        wants: &["region True VmPin 0", "1 MRs on demand (1048576 bytes)"],
        long: false,
    },
    Case {
        name: "shim_leaves_short_regions_pinned",
        script: "(verbs-shim run -q --stats --min-bytes 1G -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 20 & until ss -ltn | grep -q :18515; do :; done\n\
                 verbs-shim run -q --stats --min-bytes 1G -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 20 10.9.0.1 \
                 && wait $!)",
        seconds: 60,
        wants: &["1 shorter than VERBS_SHIM_MIN_BYTES (4096 bytes)"],
        long: false,
    },
    Case {
        name: "shim_serves_two_copies_of_libibverbs",
        script: two_copies!("/usr/lib/x86_64-linux-gnu/libibverbs.so.1"),
        seconds: 200,
        wants: &["two copies, each with its own objects"],
        long: false,
    },
    // A private mapping of a file that is larger than the process' cgroup, and a file of holes: neither is changed.
    Case {
        name: "shim_prefetch_without_advice_reads_pages_in",
        script: concat!(
            "cat > /tmp/prefetch.c <<'END'\n",
            include_str!("prefetch.c"),
            "END\nset -e; gcc -O2 -Wall -Wextra -Werror -o /tmp/prefetch /tmp/prefetch.c -libverbs\n\
             g=/sys/fs/cgroup; echo +memory > $g/cgroup.subtree_control; mkdir $g/small; echo 64M > $g/small/memory.max\n\
             sh -c \"echo \\$\\$ > $g/small/cgroup.procs; exec verbs-shim run -q --prefetch sync -- /tmp/prefetch /tmp/file\" 2>&1\n\
             rmdir $g/small; rm /tmp/file"
        ),
        seconds: 90,
        wants: &[
            "pages are read in, and translated by traffic",
            "private: every page there, none copied",
            "sparse: not grown",
            "done",
        ],
        long: false,
    },
    case(
        "shim_is_inert_in_setuid_programs",
        60,
        "set -e; cp /emm/lib/libverbs_shim.so /usr/lib/x86_64-linux-gnu/; cd /usr/lib/x86_64-linux-gnu\n\
         chmod u+s libverbs_shim.so; cp /usr/bin/ibv_rc_pingpong /usr/bin/pingpong-setuid\n\
         chmod u+s /usr/bin/pingpong-setuid; export VERBS_SHIM_STATS=1 LD_PRELOAD=libverbs_shim.so\n\
         setpriv --reuid 1000 ibv_rc_pingpong --help 2>&1 | grep -q Usage\n\
         setpriv --reuid 1000 pingpong-setuid -d rxe0 -g 1 -c -n 20 > /tmp/first 2>&1 & until ss -ltn | grep -q :18515; do :; done\n\
         setpriv --reuid 1000 pingpong-setuid -d rxe0 -g 1 -c -n 20 10.9.0.1 2>&1 | tee /tmp/said; wait\n\
         rm libverbs_shim.so; unset LD_PRELOAD; grep -q '20 iters' /tmp/said; ! grep -q verbs-shim: /tmp/said",
    ),
    Case {
        name: "shim_top_shows_regions",
        script: "(verbs-shim run -q -- ibv_rc_pingpong -d rxe0 -g 1 -n 10 > /dev/null & until ss -ltn | grep -q :18515; do :; done\n\
                 verbs-shim top -n 1; kill $!)",
        seconds: 60,
        wants: &["FAULTS/s", "ibv_rc_pingpong", "rxe0"],
        long: false,
    },
    Case {
        name: "shim_pages_are_generated",
        script: "verbs-shim pages /tmp/pages && ls /tmp/pages && head -c 20 /tmp/pages/verbs-shim-run.1",
        seconds: 30,
        wants: &[
            "verbs-shim.1",
            "verbs-shim-run.1",
            "verbs-shim.bash",
            "_verbs-shim",
            "verbs-shim.fish",
        ],
        long: false,
    },
    Case {
        name: "shim_without_a_byte_of_locked_memory",
        script: concat!(
            nobody!(),
            "nobody ibv_rc_pingpong -d rxe0 -g 1 -n 1 10.9.0.1 2>&1 | grep \"Couldn't register MR\"\n\
             (nobody verbs-shim run -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 50 & until ss -ltn | grep -q :18515; do :; done\n\
             nobody verbs-shim run --stats -- ibv_rc_pingpong -d rxe0 -g 1 -c -n 50 10.9.0.1 && wait $!)"
        ),
        seconds: 60,
        wants: &["Couldn't register MR", "1 MRs on demand", "50 iters"],
        long: false,
    },
    // libibverbs says it in each process that asks for devices, so the program does; the launcher is not to say it again.
    Case {
        name: "shim_leaves_the_limit_to_the_program",
        script: concat!(
            nobody!(),
            "nobody verbs-shim check > /tmp/said 2>&1; cat /tmp/said; ! grep RLIMIT_MEMLOCK /tmp/said || exit 1\n\
             nobody verbs-shim run -- ibv_devices > /tmp/said 2>&1; cat /tmp/said; [ $(grep -c RLIMIT_MEMLOCK /tmp/said) = 1 ]"
        ),
        seconds: 60,
        wants: &["device rxe0: on demand"],
        long: false,
    },
    // As jemalloc is built. Without the room that the launcher asks for it does not load.
    case(
        "shim_audit_leaves_room_for_memory_of_threads",
        60,
        "echo '__thread char room[1800]; char *get(void) { return room; }' > /tmp/tls.c\n\
         gcc -shared -fPIC -ftls-model=initial-exec -o /tmp/tls.so /tmp/tls.c\n\
         LD_PRELOAD=/tmp/tls.so verbs-shim run -q --audit -- true || exit 1\n\
         ! GLIBC_TUNABLES=glibc.rtld.optional_static_tls=512 LD_PRELOAD=/tmp/tls.so verbs-shim run -q --audit -- true",
    ),
    Case {
        name: "api_pingpong_without_locked_memory",
        script: concat!(nobody!(), "nobody pingpong rxe0 1 20"),
        seconds: 60,
        wants: &[
            "20 rounds of 100003 bytes, every byte right",
            "lent memory: every byte right",
        ],
        long: false,
    },
    Case {
        name: "api_refuses_what_corrupts",
        script: "set -e; b=/sys/module/rdma_rxe/parameters/mr_backend; echo odp > $b\n\
                 said=$(pingpong rxe0 1 20 2>&1) && { echo \"$said\"; exit 1; } || echo \"$said\"\n\
                 echo emm > $b; pingpong rxe0 1 20",
        seconds: 60,
        wants: &[
            "on demand None",
            "Error: Corrupting",
            "20 rounds of 100003 bytes, every byte right",
        ],
        long: false,
    },
    Case {
        name: "api_fetches_from_a_table_larger_than_memory",
        script: concat!(
            nobody!(),
            "grep MemTotal /proc/meminfo; nobody kv_fetch rxe0 1 /tmp/table 8000000000 300; rm /tmp/table"
        ),
        seconds: 100,
        wants: &["300 values of 1000 bytes from a table of 8000000000 bytes, every byte right"],
        long: false,
    },
    Case {
        name: "shim_without_a_device",
        script: "rdma link delete rxe0; verbs-shim check; echo status $?\n\
                 verbs-shim run -- true && rdma link add rxe0 type rxe netdev eth9",
        seconds: 60,
        wants: &["no RDMA device", "status 1"],
        long: false,
    },
];
