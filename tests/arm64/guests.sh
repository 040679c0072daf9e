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

# replay_boot DIRECTORY COMMAND...: a recording made by the machine, replayed on this one by fake-gunyah, then microvm.
replay_boot() {
    local files=$1 began=$SECONDS status=0
    "$2" replay --lenient "$files/boot.jsonl" -- "$3" --device /dev/gunyah --kernel "$files/Image" --initrd "$files/initrd" \
        --memory 256M --cpus 1 --cmdline 'console=ttyS0 panic=-1 quiet rig=off' </dev/null >"$files/replay.log" 2>&1 || status=$?
    cat "$files/replay.log"
    echo "status $status after $((SECONDS - began)) s"
}

# emulated_boots: on the emulated machine.
emulated_boots() {
    local root=$target/boots-root files=$target/boots bin=$target/aarch64-unknown-linux-gnu/debug
    cross_cargo build -p vmm-adapter --example microvm
    cross_cargo build -p fake-gunyah --bins
    step "microvm and fake-gunyah built"
    machine_root "$root"
    mkdir -p "$root/rig" "$files"
    "$cross_strip" -o "$root/rig/microvm" "$bin/examples/microvm"
    "$cross_strip" -o "$root/rig/fake-gunyah" "$bin/fake-gunyah"
    cp "$kernel" "$root/rig/Image"
    guest_initrd "$root/rig/initrd"
    cp "$root/rig/Image" "$root/rig/initrd" "$files/"
    cp "$here/boots" "$root/rig/boots"
    cat >>"$root/init" <<'INIT'
/rig/boots /rig
echo "=== booted $?"
cd /rig
echo '=== files'
tar -czf - *.log boot.jsonl | base64
echo '=== end of files'
INIT
    run_machine "$root" boots 1200 2048
    unpack_logs "$target/boots.log" "$files"
    judge_boots "$target/boots.log"
}

# native_boots: on this machine.
native_boots() {
    local files=$target/boots
    mkdir -p "$files"
    cargo build --locked --release -p vmm-adapter --example microvm
    cargo build --locked --release -p fake-gunyah --bins
    cp "${CARGO_TARGET_DIR:-$workspace/target}/release/examples/microvm" "${CARGO_TARGET_DIR:-$workspace/target}/release/fake-gunyah" "$kernel" "$files/"
    mv "$files/$(basename "$kernel")" "$files/Image"
    guest_initrd "$files/initrd"
    set +e
    ARM64_RIG_KVM=required "$here/boots" "$files" >"$target/boots.log" 2>&1
    echo "=== booted $?" >>"$target/boots.log"
    set -e
    judge_boots "$target/boots.log"
}
