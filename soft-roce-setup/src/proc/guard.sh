# Outlives the tool by a moment. Its input says which process groups the tool has started (`+ NUMBER GROUP`) and which have ended
# (`- NUMBER`); it ends with the tool, however that ends, and what is left then is killed.
trap '' HUP INT TERM PIPE
groups=
while read -r what number group; do
	case $what in
	+) groups="$groups $number:$group" ;;
	-)
		left=
		for one in $groups; do
			[ "${one%%:*}" = "$number" ] || left="$left $one"
		done
		groups=$left
		;;
	esac
done
for one in $groups; do
	kill -s KILL -- "-${one#*:}" 2> /dev/null
done
