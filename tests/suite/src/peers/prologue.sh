# Made once in a guest: /peers/forky is entered by chroot, and each user space has its tests in /tmp/peers.
# `trixie` and `forky` run a command in one of them.
trixie() { "$@"; }
forky() { chroot /peers/forky "$@"; }
if [ ! -d /tmp/peers ]; then
	mkdir -p /peers/forky /run/peers /tmp/peers/trixie /tmp/peers/forky
	# The share, with the host's files cached: nobody changes them.
	tag=$(awk '$2 == "/forky" { print $1 }' /proc/mounts)
	umount /forky
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro "$tag" /forky
	mount -t tmpfs -o mode=755 peers /run/peers
	mkdir /run/peers/upper /run/peers/work
	mount -t overlay -o lowerdir=/forky,upperdir=/run/peers/upper,workdir=/run/peers/work peers /peers/forky
	mkdir -p /peers/forky/emm
	for dir in dev proc sys tmp emm; do
		mount --rbind /$dir /peers/forky/$dir
	done
	cp -r /usr/share/doc/rdma-core/tests /tmp/peers/trixie/
	cp -r /forky/usr/share/doc/rdma-core/tests /tmp/peers/forky/
	gzip -d /tmp/peers/*/tests/*.gz
	echo 32 > /proc/sys/vm/nr_hugepages
fi
backend() { echo "$1" > /sys/module/rdma_rxe/parameters/mr_backend; }
# pair PORT SPACE COMMAND…: the command as a server, and with the address as its client.
pair() {
	port=$1
	shift
	"$@" > /tmp/peers/server 2>&1 &
	server=$!
	until ss -ltn | grep -q ":$port "; do
		kill -0 $server 2> /dev/null || { cat /tmp/peers/server; return 1; }
	done
	if "$@" 10.9.0.1 > /tmp/peers/client 2>&1 && wait $server; then
		! grep -H 'invalid data' /tmp/peers/server /tmp/peers/client
	else
		kill $server 2> /dev/null
		tail -n 20 /tmp/peers/client /tmp/peers/server
		false
	fi
}
