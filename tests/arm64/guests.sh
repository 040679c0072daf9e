# shellcheck shell=bash
# Real guests: what `boots` needs, where it runs, and what is made of it. To be sourced by bash, after machine.sh.

# judge_boots LOG: a line for each step; the output of those that failed.
judge_boots() {
    local log=$1 verdict=0 line
    while IFS= read -r line; do
        printf 'arm64: %s\n' "${line#=== boot }"
        [[ $line == '=== boot ok '* ]] || verdict=1
    done < <(grep -a '^=== boot ' "$log")
    if ((verdict != 0)); then
        awk '/^=== boot FAIL/ { show = 1 } /^=== boot ok/ { show = 0 } show' "$log"
    fi
    grep -aq '^=== boot ' "$log" || die "nothing was booted"
    grep -aq '^=== booted 0$' "$log" || verdict=1
    return "$verdict"
}

# unpack_logs LOG DIRECTORY: the files that the machine has put into its output.
unpack_logs() {
    mkdir -p "$2"
    sed -n '/^=== files$/,/^=== end of files$/p' "$1" | sed '1d;$d' | base64 -d | tar -xzf - -C "$2"
}

# boots_files DIRECTORY STRIP CC: what `boots` needs, beside the programs that are tested.
boots_files() {
    local files=$1 strip=$2 cc=$3
    cp "$kernel" "$files/Image"
    guest_initrd "$files/initrd"
    cp "$busybox" "$files/busybox"
    "$cc" -O2 -static -o "$files/vsock" "$here/guest/vsock.c"
    "$strip" "$files/vsock"
    "$here/guest/pack" "$cache/guest" "$busybox" "$files/vsock" "$files/devices.cpio"
    rm -rf "$files/guest"
    cp -r "$here/guest" "$files/guest"
}

# replay_boot DIRECTORY: the machine's recording, replayed on this one, where no arm64 code runs. Each call must be the recorded
# one, and the console the same to the byte.
replay_boot() {
    local files=$1 began status=0 bin=${CARGO_TARGET_DIR:-$workspace/target}/release
    { cargo build --quiet --locked --release -p fake-gunyah --bins &&
        cargo build --quiet --locked --release -p vmm-adapter --example microvm; } || die "cannot build what replays"
    began=$SECONDS
    timeout 300 "$bin/fake-gunyah" replay "$files/boot.jsonl" -- "$bin/examples/microvm" --device /dev/gunyah --kernel "$files/Image" \
        --initrd "$files/initrd" --memory 256M --cpus 1 \
        --cmdline 'console=ttyS0 panic=-1 quiet rig=off initcall_blacklist=pl031_driver_init' \
        </dev/null >"$files/replay.console" 2>"$files/replay.log" || status=$?
    if [[ $status == 0 && -s $files/record.console ]] && cmp "$files/record.console" "$files/replay.console"; then
        printf 'arm64: ok %d.0 replay: on %s, %d lines, the console as recorded\n' $((SECONDS - began)) "$(uname -m)" "$(grep -c . "$files/boot.jsonl")"
    else
        printf 'arm64: FAIL %d.0 replay: exit status %d\n' $((SECONDS - began)) "$status"
        head -n 50 "$files/replay.log"
        return 1
    fi
}

# emulated_boots: on the emulated machine.
emulated_boots() {
    local verdict=0 root=$target/boots-root files=$target/boots bin=$target/aarch64-unknown-linux-gnu/debug
    cross_cargo build -p vmm-adapter --example microvm
    cross_cargo build -p fake-gunyah --bins
    step "microvm and fake-gunyah built"
    machine_root "$root"
    mkdir -p "$root/rig" "$files"
    "$cross_strip" -o "$root/rig/microvm" "$bin/examples/microvm"
    "$cross_strip" -o "$root/rig/fake-gunyah" "$bin/fake-gunyah"
    boots_files "$root/rig" "$cross_strip" "$cross_cc"
    cp "$root/rig/Image" "$root/rig/initrd" "$files/"
    cp "$here/boots" "$root/rig/boots"
    cp "$(find "$cache/guest/lib/modules" -name tun.ko | head -n 1)" "$root/rig/tun.ko"
    cat >>"$root/init" <<'INIT'
insmod /rig/tun.ko
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
/rig/boots /rig
echo "=== booted $?"
cd /rig
echo '=== files'
tar -czf - *.log *.console boot.jsonl | base64
echo '=== end of files'
INIT
    run_machine "$root" boots 1200 2048
    unpack_logs "$target/boots.log" "$files"
    judge_boots "$target/boots.log" || verdict=1
    replay_boot "$files" || verdict=1
    return "$verdict"
}

# native_boots: on this machine.
native_boots() {
    local verdict=0 files=$target/boots bin=${CARGO_TARGET_DIR:-$workspace/target}/release
    mkdir -p "$files"
    cargo build --locked --release -p vmm-adapter --example microvm
    cargo build --locked --release -p fake-gunyah --bins
    cp "$bin/examples/microvm" "$bin/fake-gunyah" "$files/"
    boots_files "$files" strip cc
    [[ -c /dev/net/tun ]] || die "/dev/net/tun is missing (modprobe tun): the guests' network card is a tap interface"
    ARM64_RIG_KVM=required "$here/boots" "$files" >"$target/boots.log" 2>&1 || verdict=$?
    echo "=== booted $verdict" >>"$target/boots.log"
    judge_boots "$target/boots.log" || verdict=1
    replay_boot "$files" || verdict=1
    return "$verdict"
}
