set -e
root=$1; binds=$2; shift 2
# A mount of its own, so that nothing below depends on what the tree lies on.
mount --bind "$root" "$root"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
for dir in tmp run mnt; do
	mount -t tmpfs -o mode=1777 tmpfs "$root/$dir"
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
	[ "$mode" = rw ] || mount -o remount,bind,ro "$inside" 2>/dev/null || :
	binds=$((binds - 1))
done
exec chroot "$root" "$@"
