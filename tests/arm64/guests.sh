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
        cargo build --quiet --locked --release -p vmm-adapter --features kvm --example microvm; } || die "cannot build what replays"
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

# rig_files DIRECTORY BIN STRIP CC: microvm, fake-gunyah and what they run.
rig_files() {
    mkdir -p "$1"
    "$3" -o "$1/microvm" "$2/examples/microvm"
    "$3" -o "$1/fake-gunyah" "$2/fake-gunyah"
    boots_files "$1" "$3" "$4"
    cp "$here"/{steps.sh,boots,protected,speed} "$1/"
}

# rig PROGRAM SECONDS: runs one of ours on the arm64 host. What it leaves behind is in $target/PROGRAM, its output in $target/PROGRAM.log.
rig() {
    local files=$target/$1 bin=${CARGO_TARGET_DIR:-$workspace/target}/release strip=strip cc=cc root=$target/$1-root
    rm -rf "$files" "$root"
    if [[ $native == yes ]]; then
        cargo build --locked --release -p vmm-adapter --features kvm --example microvm
        cargo build --locked --release -p fake-gunyah --bins
        [[ -c /dev/net/tun ]] || die "/dev/net/tun is missing (modprobe tun): the guests' network card is a tap interface"
    else
        local release=()
        [[ $1 != speed ]] || release=(--release)
        bin=$target/aarch64-unknown-linux-gnu/${release:+release} strip=$cross_strip cc=$cross_cc
        [[ -n ${release:-} ]] || bin+=debug
        cross_cargo build "${release[@]}" -p vmm-adapter --features kvm --example microvm
        cross_cargo build "${release[@]}" -p fake-gunyah --bins
    fi
    step "microvm and fake-gunyah built"
    rig_files "$files" "$bin" "$strip" "$cc"
    if [[ $1 == protected ]]; then
        "$here/guest/kernel" "$files/Image.pool"
        "$here/guest/pack" - "$busybox" "$files/vsock" "$files/pool.cpio"
        step "the guests' kernel built"
    fi
    if [[ $native == yes ]]; then
        local verdict=0
        ARM64_RIG_KVM=required RIG_SHORT=$short "$files/$1" "$files" >"$target/$1.log" 2>&1 || verdict=$?
        echo "=== booted $verdict" >>"$target/$1.log"
        return
    fi
    machine_root "$root"
    cp -r "$files" "$root/rig"
    cp "$(find "$cache/guest/lib/modules" -name tun.ko | head -n 1)" "$root/rig/tun.ko"
    cat >>"$root/init" <<INIT
export RIG_SHORT=$short
insmod /rig/tun.ko
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
/rig/$1 /rig
echo "=== booted \$?"
cd /rig
echo '=== files'
tar -czf - \$(ls *.log *.console *.jsonl 2>/dev/null) | base64
echo '=== end of files'
INIT
    run_machine "$root" "$1" "$2" 2048
    unpack_logs "$target/$1.log" "$files"
    rm -rf "$root"
}

run_boots() {
    local verdict=0
    rig boots 2400
    judge_boots "$target/boots.log" || verdict=1
    replay_boot "$target/boots" || verdict=1
    return "$verdict"
}

run_protected() {
    rig protected 1200
    judge_boots "$target/protected.log"
}

run_speed() {
    rig speed 1800
    sed -n 's/^=== speed //p' "$target/speed.log"
    judge_boots "$target/speed.log"
}
