#!/bin/busybox sh
# The guest's first program: loads modules, puts the root together, sets rxe0 up, starts the agent.
# /conf comes from the host. One line on the channel "ctl" tells how it went.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
. /conf

tries=0
until [ -e /sys/class/virtio-ports/vport0p5/name ] || [ $tries = 100 ]; do
	sleep 0.05
	tries=$((tries + 1))
done
for port in /sys/class/virtio-ports/*; do
	read -r name < "$port/name"
	eval "port_$name=/dev/${port##*/}"
done
exec 3<> "$port_ctl" 4> "$port_out" 5> "$port_err" 6< "$port_in"
[ -n "$host" ] && exec 7<> "$port_host"

fail() {
	echo "fail $*" >&3
	sleep 60
}
# Output of a command that failed, on one line.
must() {
	said=$("$@" 2>&1) || fail "\`$*\` failed: $(echo "$said" | tr '\n' ' ')"
}

while read -r module; do
	must insmod "/modules/$module"
done < /modules/order

must mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host
must mount -t tmpfs -o mode=755 overlay /rw
mkdir /rw/upper /rw/work
must mount -t overlay -o lowerdir=/host/root,upperdir=/rw/upper,workdir=/rw/work overlay /root
release=$(uname -r)
cd /root
mkdir -p proc sys dev run tmp emm "lib/modules/$release"
mount --bind /host/kmod "lib/modules/$release"
mount -t tmpfs -o mode=755 emm emm
mkdir emm/boot emm/bin emm/lib emm/modules
[ -d /host/userland ] && mount --bind /host/userland emm/bin && mount --bind /host/userland emm/lib
[ -d /host/emm ] && mount --bind /host/emm emm/modules
cp /bin/busybox /agent emm/boot/
cp /emm-host usr/local/bin/
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts devpts /dev/pts
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
for tag in $shares; do
	eval "at=\$share_$tag mode=\$mode_$tag"
	mkdir -p "/root$at"
	must mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap,$mode "$tag" "/root$at"
done

echo 8 > /proc/sys/kernel/printk
echo "$hung_task" > /proc/sys/kernel/hung_task_timeout_secs
# RFC 6335's own: from Linux' usual ones a connection may be given the port that a server listens on, fi_pingpong's 47592.
echo 49152 65535 > /proc/sys/net/ipv4/ip_local_port_range
ip link set lo up
backend=odp
if [ -e emm/modules/ib_emm.ko ]; then
	backend=$want_backend
	must insmod emm/modules/ib_emm.ko
	must insmod emm/modules/emm_xpmem.ko
	must insmod emm/modules/rdma_rxe.ko "mr_backend=$backend"
elif [ -e emm/modules/rdma_rxe.ko ]; then
	must insmod emm/modules/rdma_rxe.ko
fi
mount --move /proc proc
mount --move /sys sys
mount --move /dev dev
if [ -n "$host" ]; then
	# A card at the wire to the other host.
	hostname "host$host"
	must chroot /root /usr/sbin/modprobe virtio_net
	must ip link set eth0 name eth9
	printf '%s\n' "10.9.0.1 host1" "10.9.0.2 host2" >> etc/hosts
else
	hostname guest
	must ip link add eth9 type dummy
fi
must ip link set eth9 mtu "${mtu:-9000}"
must ip link set eth9 up
must ip addr add "10.9.0.${host:-1}/24" dev eth9
if [ -n "$netem" ]; then
	must chroot /root /usr/sbin/modprobe sch_netem
	must chroot /root /usr/sbin/tc qdisc add dev eth9 root netem $netem
fi
must chroot /root /usr/bin/rdma link add rxe0 type rxe netdev eth9

export PATH=/emm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root USER=root SHELL=/bin/bash LANG=C.UTF-8 TERM=dumb
export EMM_MR_BACKEND=$backend EMM_KERNEL_SERIES=$series
[ -n "$host" ] && export HOST=$host SELF=10.9.0.$host PEER=10.9.0.$((3 - host))
exec switch_root /root /emm/boot/busybox sh /emm/boot/agent
