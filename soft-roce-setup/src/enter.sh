set -e
root=$1 proc=$2 devices=$3 binds=$4; shift 4

# Bars setuid programs and devices below a mount, and more if it is said. In a user namespace a flag that the mount has already
# has to be said again, so noexec is tried, too.
restrict() {
	mount -o "remount,bind,nosuid,nodev$2" "$1" 2> /dev/null ||
		mount -o "remount,bind,nosuid,nodev,noexec$2" "$1"
}

# A mount of its own, so that nothing below depends on what the tree lies on.
mount --bind "$root" "$root"
mount -t proc -o "$proc,nosuid,nodev,noexec" proc "$root/proc" 2> /dev/null || mount --rbind /proc "$root/proc"
# Nothing of /sys, and these devices only.
mount -t tmpfs -o mode=755,nosuid,noexec dev "$root/dev"
for device in $devices; do
	: > "$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mkdir "$root/dev/shm"
mount -o remount,ro "$root/dev"
for dir in dev/shm tmp run mnt; do
	mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/$dir"
done
while [ "$binds" -gt 0 ]; do
	mode=$1 host=$2 inside=$root$3; shift 3
	if [ -d "$host" ]; then
		mkdir -p "$inside"
	else
		mkdir -p "${inside%/*}"
		[ -e "$inside" ] || : > "$inside"
	fi
	mount --bind "$host" "$inside"
	case $mode in
	ro) restrict "$inside" ,ro ;;
	# One that the host has read-only itself can't be had in this way, and needs none.
	rw) restrict "$inside" "" 2> /dev/null || : ;;
	esac
	binds=$((binds - 1))
done
# Who may not write to /proc is to change nothing of the tree either.
[ "$proc" = rw ] || restrict "$root" ,ro
# Not instead of this shell: unshare can't pass on that a signal ended its child (it fails with "sigprocmask unblock failed"), and a
# shell's status says it.
chroot "$root" "$@" || exit $?
