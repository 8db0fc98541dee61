# Two copies of libibverbs in one process: the system's, and that of $1 (with rxe's provider from the folder beside it) by another name,
# as a Python wheel brings it. Two modules, each linked with one of them and opened for itself alone, take turns.
set -e
second=$1
work=/tmp/copies
libs=/usr/lib/x86_64-linux-gnu
rm -rf $work
mkdir -p $work $libs/libibverbt
# Names of the same length, in place.
rename='s/libibverbs\.so\.1/libibverbs-2.so/g; s#gnu/libibverbs#gnu/libibverbt#g'
sed "$rename" "$second" > $work/libibverbs-2.so
for provider in "${second%/*}"/libibverbs/librxe-rdmav*.so; do
	sed "$rename" "$provider" > "$libs/libibverbt/${provider##*/}"
done
cat > $work/opener.c << 'END'
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	void (*turn[2])(int);
	for (int at = 0; at < 2; at++) {
		void *module = argc == 3 ? dlopen(argv[at + 1], RTLD_NOW | RTLD_LOCAL) : NULL;
		turn[at] = module ? dlsym(module, "turn") : NULL;
		if (!turn[at])
			return puts(dlerror()), 1;
	}
	for (int number = 0; number < 10; number++)
		turn[number % 2](number / 2);
	return puts("both wrote and compared"), 0;
}
END
gcc -O2 -Wall -o $work/opener $work/opener.c
gcc -O2 -Wall -Wextra -shared -fPIC -o $work/system.so /tmp/copies.c -libverbs
gcc -O2 -Wall -Wextra -shared -fPIC -o $work/other.so /tmp/copies.c -L$work -l:libibverbs-2.so
export LD_LIBRARY_PATH=$work
for options in "" --audit --implicit "--audit --implicit"; do
	for order in "system other" "other system"; do
		echo "run $options, $order:"
		set -- $order
		verbs-shim run -q --stats $options -- $work/opener $work/$1.so $work/$2.so 2>&1 | tee $work/said
		grep -q "both wrote and compared" $work/said
		grep -q "6 MRs on demand" $work/said
	done
done
strings -a $work/libibverbs-2.so | grep -m 1 IBVERBS_PRIVATE_
rm -r $libs/libibverbt
echo two copies, each with its own objects
