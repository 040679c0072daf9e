# shellcheck shell=sh
# What the programs that run on the arm64 host have in common: steps, and guests. To be sourced, after cd into the directory with
# the files. Needs nothing but POSIX tools, as busybox has them.
#
# A step writes a line "=== boot ok|FAIL SECONDS WHAT: DETAILS". RIG_PIN=1 keeps VMMs with one vCPU on one processor: where processors are
# emulated, waking another one takes long.
device=/dev/gunyah
failed=0

now() {
    cut -d' ' -f1 /proc/uptime
}

# seconds_since SINCE
seconds_since() {
    awk -v from="$1" '{ printf "%.2f", $1 - from }' /proc/uptime
}

# say ok|FAIL SINCE WHAT DETAILS
say() {
    [ "$1" = ok ] || failed=$((failed + 1))
    echo "=== boot $1 $(seconds_since "$2") $3: $4"
}

# has PID: whether the process still runs.
has() {
    kill -0 "$1" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

# until_there FILE PATTERN PID: waits for a line in a file, two minutes at most, or for the process's end.
until_there() {
    tries=0
    until grep -aq "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 1200 ] && has "$3" || return 1
        sleep 0.1
    done
}

# until_gone PID...: waits for the end of processes, half a minute at most.
until_gone() {
    tries=0
    for pid; do
        while has "$pid"; do
            tries=$((tries + 1))
            [ "$tries" -lt 300 ] || return 1
            sleep 0.1
        done
    done
}

# linux CPUS COMMAND...: the command with arguments to boot Linux.
linux() {
    cpus=$1
    shift
    pin=
    [ "${RIG_PIN:-0}" = 1 ] && [ "$cpus" = 1 ] && pin='taskset 1'
    exec $pin "$@" --kernel Image --initrd initrd --memory 256M --cpus "$cpus" --cmdline "console=ttyS0 panic=-1 quiet ${more:-}"
}

# devices WHAT CPUS COMMAND...: a Linux guest that tries all devices, with checksums on both sides.
devices() {
    what=devices-$1 began=$(now)
    export CPUS=$2
    shift 2
    pin=
    [ "${RIG_PIN:-0}" = 1 ] && [ "$CPUS" = 1 ] && pin='taskset 1'
    # The tap interface wants a root, of a network of its own.
    [ "$(id -u)" = 0 ] && user=-n || user=-rn
    env PATH="$PWD/applets:$PATH" $pin unshare $user sh guest/host "${guest_kernel:-Image}" "${guest_root:-devices.cpio}" ./vsock "$@" >"$what.log" 2>&1
    status=$?
    result=$(sed -n 's/^guest: \([0-9]* checks passed, 0 failed\)$/\1/p' "$what.log")
    if [ $status = 0 ] && [ -n "$result" ]; then
        say ok "$began" "$what" "$result"
    else
        say FAIL "$began" "$what" "exit status $status"
        tail -n 60 "$what.log"
    fi
}

# What a busybox alone has under one name.
mkdir -p applets
./busybox --install -s applets
