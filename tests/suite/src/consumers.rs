//! Drivers of the kernel's own that use rxe0 beside unpinned traffic: storage and sockets over RDMA. What they move is compared, and
//! is seen to go by rxe0.

use super::cases::{Case, case};

/// What each of them begins with: `packets` that rxe0 has sent, `beside` starts traffic that is compared, on regions of ib_emm,
/// and `moved` fails unless so many packets went since `packets` were counted. `disk_holds` writes to `$disk`, on sectors that are no
/// multiple of a page, and compares what is read with that and with /dev/ram0, which lies behind.
macro_rules! beside {
    ($script:literal) => {
        concat!(
            r#"set -e; traffic=
packets() { cat /sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts; }
moved() { now=$(packets); echo "$((now - before)) packets for $1"; [ $((now - before)) -ge $1 ]; }
beside() { emm-check stress --seconds $1 --qps 2 --mr emm > /tmp/traffic 2>&1 & traffic=$!; }
put() { dd if=/tmp/in of=$disk oflag=direct status=none "$@"; dd if=/tmp/in of=/tmp/model conv=notrunc status=none "$@"; }
disk_holds() {
	head -c 8M /dev/urandom > /tmp/in; put bs=1M; put bs=3584 skip=9 seek=3 count=20; put bs=512 skip=5 seek=8191 count=9
	dd if=$disk of=/tmp/out bs=1M count=8 iflag=direct status=none; cmp /tmp/out /tmp/model; cmp -n 8388608 /dev/ram0 /tmp/model
}
beside_held() { wait $traffic || { cat /tmp/traffic; exit 1; }; tail -n 1 /tmp/traffic; }
"#,
            $script
        )
    };
}

pub(crate) use beside;

/// All of them, in order.
pub const CASES: &[Case] = &[
    case("nvme_over_rdma", 120, beside!(
        r#"modprobe brd rd_nr=1 rd_size=16384; modprobe nvmet-rdma; modprobe nvme-rdma
c=/sys/kernel/config; grep -q " $c " /proc/mounts || mount -t configfs none $c
s=$c/nvmet/subsystems/disk; p=$c/nvmet/ports/1
mkdir $s $s/namespaces/1 $p; echo 1 > $s/attr_allow_any_host; echo /dev/ram0 > $s/namespaces/1/device_path; echo 1 > $s/namespaces/1/enable
echo rdma > $p/addr_trtype; echo ipv4 > $p/addr_adrfam; echo 10.9.0.1 > $p/addr_traddr; echo 4420 > $p/addr_trsvcid; ln -s $s $p/subsystems/disk
beside 4; echo transport=rdma,traddr=10.9.0.1,trsvcid=4420,nqn=disk,nr_io_queues=2 > /dev/nvme-fabrics
disk=/dev/nvme0n1; until [ -b $disk ]; do :; done
before=$(packets); disk_holds; moved 3000; beside_held
echo 1 > /sys/class/nvme/nvme0/delete_controller; rm $p/subsystems/disk; rmdir $p $s/namespaces/1 $s
modprobe -r nvme-rdma nvmet-rdma brd; echo nvme: every byte right"#
    )),
    // It stays loaded: unloaded, it warns of received messages that it has kept (7.3.4).
    case("rds", 120, beside!(
        r#"modprobe rds_rdma; beside 4; before=$(packets); cat > /tmp/rds.py <<'END'
import os, socket
def rds(port):
    s = socket.socket(socket.AF_RDS, socket.SOCK_SEQPACKET, 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    s.bind(("10.9.0.1", port))
    s.settimeout(60)
    return s
a, b = rds(4000), rds(4001)
total = 0
for size in (1, 7, 4095, 4096, 4097, 65537, 200001):
    for frm, to, port in ((a, b, 4001), (b, a, 4000)):
        data = os.urandom(size)
        assert frm.sendto(data, ("10.9.0.1", port)) == size
        got = to.recv(1 << 20)
        assert got == data, (size, len(got))
        total += size
print(f"rds: {total} bytes right")
END
python3 /tmp/rds.py; moved 100; beside_held"#
    ))
    .long(),
    case("srp", 180, beside!(
        r#"modprobe brd rd_nr=1 rd_size=16384; modprobe -a sd_mod target_core_mod target_core_iblock; modprobe -a ib_srpt ib_srp
c=/sys/kernel/config; grep -q " $c " /proc/mounts || mount -t configfs none $c; c=$c/target
guid=$(cat /sys/module/ib_srpt/parameters/srpt_service_guid); guid=${guid#0x}
port=$(cut -d : -f 5- /sys/class/infiniband/rxe0/ports/1/gids/0); b=$c/core/iblock_0/disk; t=$c/srpt/$port/$port; a=$t/acls/10.9.0.1
mkdir -p $b; echo udev_path=/dev/ram0 > $b/control; echo 1 > $b/enable
[ -d $c/srpt ] || mkdir $c/srpt; echo 5555 > $c/srpt/discovery_auth/rdma_cm_port; mkdir $c/srpt/$port $t $t/lun/lun_0 $a; ln -s $b $t/lun/lun_0/disk
mkdir $a/lun_0; ln -s $t/lun/lun_0 $a/lun_0/disk; echo 1 > $t/enable
beside 8; echo id_ext=$guid,ioc_guid=$guid,dest=10.9.0.1:5555 > /sys/class/infiniband_srp/srp-rxe0-1/add_target
until disk=/dev/$(ls /sys/class/scsi_disk/*/device/block 2> /dev/null) && [ -b $disk ]; do :; done
before=$(packets); disk_holds; moved 3000; beside_held
modprobe -r ib_srp; echo 0 > $t/enable; rm $a/lun_0/disk $t/lun/lun_0/disk; rmdir $a/lun_0 $a $t/lun/lun_0 $t $c/srpt/$port $c/srpt $b ${b%/*}
modprobe -r ib_srpt target_core_iblock brd; echo srp: every byte right"#
    ))
    .long(),
];
