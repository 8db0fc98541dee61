# Runs in the guest as process 1 and does what the host asks for on the channel "ctl" (3), one line
# each. Output of a command goes to the channels "out" (4) and "err" (5), its input comes from "in" (6).
# The answer to `run` is `exit STATUS OUT ERR`, with the bytes written, so that the host can wait for them;
# `lost …` comes first if they could not be counted. `look` may be asked while a command runs, and is
# answered by a line for each task and `looked`.
bb=/emm/boot/busybox
dir=/emm/boot
mkfifo $dir/out $dir/err $dir/in
# On one of two hosts: who carries requests to the tool, and its answers back.
carriers=

# Says a line in the kernel's log, where the host sees what came before it.
mark() {
	echo "emm-guest: $*" > /dev/kmsg
}

# Kills every process but this one and those named.
kill_others() {
	for pid in /proc/[0-9]*; do
		pid=${pid##*/}
		case " 1 $* " in
		*" $pid "*) ;;
		*) kill -9 "$pid" 2> /dev/null ;;
		esac
	done
}

# Copies input to output, and says how many bytes. The root's dd: busybox's may be built without that line.
copy() {
	exec /usr/bin/dd bs=65536
}

# The bytes that a copy says it has copied. Without them the host would stop too early.
bytes_of() {
	bytes=
	{
		read -r _
		read -r _
		read -r bytes _
	} < "$1"
	[ -n "$bytes" ] && return
	echo "lost the count of bytes in $1: $(cat "$1" | tr '\n' ' ')" >&3
	bytes=0
}

# What commands ask of the tool (see emm-host) goes to the channel "host" (7), and the tool's answers come back, each to the pipe of
# who asked.
carry() {
	mkdir /run/emm-host
	mkfifo /run/emm-host/ask
	# A command may be of any user.
	chmod 1777 /run/emm-host
	chmod 666 /run/emm-host/ask
	$bb cat <> /run/emm-host/ask >&7 3>&- 4>&- 5>&- 6>&- 7>&- &
	carriers=$!
	while read -r id answer <&7; do
		[ -p "/run/emm-host/$id" ] && echo "$answer" 1<> "/run/emm-host/$id"
	done 3>&- 4>&- 5>&- 6>&- &
	carriers="$carriers $!"
}

# Waits for a child also if a signal ends the wait.
wait_for() {
	while kill -0 "$1" 2> /dev/null; do
		wait "$1"
	done
}

# What each task of a program waits for, and each of the kernel's that is in the modules.
look() {
	for task in /proc/[0-9]*/task/[0-9]*; do
		read -r stat 2> /dev/null < "$task/stat" || continue
		comm=${stat#*\(}
		comm=${comm%\)*}
		state=${stat##*\) }
		stack=$($bb sed -n 's/^\[<0>\] \([^+]*\)+[^ ]*/\1/p' "$task/stack" 2> /dev/null | $bb head -n 24 | $bb tr '\n' ' ')
		if [ -z "$($bb head -c 1 "${task%/task/*}/cmdline" | $bb tr '\0' x)" ]; then
			case $stack in
			*"[ib_emm]"* | *"[rdma_rxe]"* | *"[ib_uverbs]"* | *"[ib_core]"*) ;;
			*) continue ;;
			esac
		fi
		echo "task ${task##*/} $comm ${state%% *} ${stack:-in user space}" >&3
	done
	echo "looked" >&3
}

run() {
	number=$1
	[ -n "$carriers" ] && echo "$number" > /run/emm-host/job
	echo "$3" | $bb base64 -d > $dir/command
	mark "run $number begins"
	copy < $dir/out >&4 2> $dir/out.bytes 3>&- 5>&- 6>&- 7>&- &
	out=$!
	copy < $dir/err >&5 2> $dir/err.bytes 3>&- 4>&- 6>&- 7>&- &
	err=$!
	input=/dev/null
	feeder=
	if [ "$2" = stdin ]; then
		input=$dir/in
		$bb dd bs=65536 <&6 > $dir/in 2> /dev/null 3>&- 4>&- 5>&- 7>&- &
		feeder=$!
	fi
	# While it runs there is one thing to ask for.
	while read -r verb <&3 && [ "$verb" = look ]; do look; done 4>&- 5>&- 6>&- 7>&- &
	$bb setsid /bin/sh $dir/command < $input > $dir/out 2> $dir/err 3>&- 4>&- 5>&- 6>&- 7>&-
	status=$?
	kill_others $out $err $carriers
	wait_for $out
	wait_for $err
	bytes_of $dir/out.bytes
	out=$bytes
	bytes_of $dir/err.bytes
	mark "run $number ends"
	echo "exit $status $out $bytes" >&3
}

shell() {
	export TERM="$3"
	[ -n "$carriers" ] && echo 1 > /run/emm-host/job
	[ -n "$4" ] && export LD_PRELOAD="$4"
	# The terminal forgets its size when nobody has it open, so the session itself sets it.
	$bb setsid -c /bin/sh -c "$bb stty sane rows $1 cols $2; cd; exec /bin/bash -l" \
		< /dev/hvc0 > /dev/hvc0 2>&1 3>&- 4>&- 5>&- 6>&- 7>&-
	status=$?
	mark "run 1 ends"
	echo "exit $status 0 0" >&3
}

[ -n "$HOST" ] && carry
echo "ready $EMM_MR_BACKEND" >&3
while read -r verb rest <&3; do
	# The words of a request hold no character that a shell would expand.
	case $verb in
	run) run $rest ;;
	shell) shell $rest ;;
	sync) sync && echo "synced" >&3 ;;
	esac
done
