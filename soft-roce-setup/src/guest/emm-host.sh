#!/bin/sh
# What a command on one of two hosts can ask of the tool that runs both: see `emm-host --help`.
usage() {
	cat <<-'END'
	Usage: emm-host barrier NAME
	       emm-host power off|on HOST

	barrier: waits until the other host's command has called it with the same NAME, too.
	A name can be used again and again; letters, digits and _.- are possible.

	power off: cuts the power of host 1 or 2 and waits until it is off. power on: boots it again and waits until it is up; there
	the command runs from its beginning, with BOOT one higher.

	Exit status: 0 it is done, 1 it can't be (the other host's command has ended, or the host is so already), 2 wrong usage.
	END
}

wrong() {
	echo "emm-host: $*" >&2
	exit 2
}

dir=/run/emm-host
case $1 in
-h | --help)
	usage
	exit
	;;
barrier)
	[ $# = 2 ] || wrong "barrier: one name is wanted, not $(($# - 1))"
	case $2 in
	'' | *[!A-Za-z0-9_.-]*) wrong "barrier \`$2\`: a name of letters, digits and _.- is possible" ;;
	esac
	;;
power)
	case "$# $2 $3" in
	'3 off 1' | '3 off 2' | '3 on 1' | '3 on 2') ;;
	*) wrong "\`$*\`: write power off 1, off 2, on 1 or on 2" ;;
	esac
	;;
*) wrong "\`$1\` is nothing that it does: barrier and power are" ;;
esac
[ -p $dir/ask ] || wrong "this guest has no other host: \`run --hosts 2\` makes two"

read -r job < $dir/job
id=$job.$$
mkfifo "$dir/$id" || exit 2
# Both ways, so that the answer finds a reader, and nothing here waits for a writer.
exec 3<> "$dir/$id"
trap 'rm -f "$dir/$id"' EXIT
trap 'echo "$id leave" 1<> $dir/ask; exit 130' INT TERM HUP
echo "$id $*" 1<> $dir/ask
read -r status text <&3
[ "$status" = 0 ] || echo "emm-host: $text" >&2
exit "$status"
