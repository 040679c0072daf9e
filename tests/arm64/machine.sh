# shellcheck shell=bash
# The emulated arm64 machine with KVM at EL2: its root file system, and running it. To be sourced by bash, after debian.sh.
#
# Needs $cache, $target, $workspace, and the functions step and die.

# Under TCG this processor is quick: `-cpu max` takes five times as long to boot, for its pointer authentication.
machine=(-machine "virt,virtualization=on,gic-version=3" -cpu cortex-a76 -smp 2 -nographic -nic none -no-reboot)

# What runs on the host and in the guest. Sets $kernel and $busybox.
machine_packages() {
    local image
    image=$(debian_depends "linux-image-arm64:arm64=$(debian_version linux-image-arm64:arm64 '')" 'linux-image-[0-9].*')
    debian_unpack "$cache/guest" "$image:arm64" busybox-static:arm64
    kernel=$(find "$cache/guest/boot" -name 'vmlinuz-*' | head -n 1)
    busybox=$cache/guest/bin/busybox
    [[ -n $kernel ]] || die "$image has no kernel"
    step "kernel ${kernel##*/vmlinuz-}"
}

# pack DIRECTORY FILE: an initramfs. Uncompressed: unpacking it would take the emulated processor longer.
pack() {
    (cd "$1" && find . -print0 | cpio --quiet --null -o -H newc) >"$2"
}

# guest_initrd FILE: that of the Linux guest.
guest_initrd() {
    local root=$target/guest-root
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,sys}
    cp "$busybox" "$root/bin/busybox"
    cp "$here/guest-init" "$root/init"
    pack "$root" "$1"
}

# machine_root DIRECTORY: a root file system with busybox, and the beginning of its init.
machine_root() {
    local root=$1
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,sys,tmp}
    cp "$busybox" "$root/bin/busybox"
    cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
# The root is a tmpfs already; /tmp must not be mounted over, the work tree may be below it.
chmod 1777 /tmp
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts pts /dev/pts
ip link set lo up
export PATH=/bin HOME=/tmp RUST_BACKTRACE=1
# Here KVM must be there: what needs it fails without it, and where an arm64 host may have none it says so.
export ARM64_RIG_KVM=required RIG_PIN=1
echo "=== uname $(uname -srm), $(nproc) CPUs, $(ls /dev/kvm)"
INIT
    chmod +x "$root/init"
}

# run_machine ROOT NAME SECONDS MEMORY: runs what its init says. The console's output is in $target/NAME.log.
run_machine() {
    local root=$1 log=$target/$2.log status=0
    echo 'echo "=== done"; sync; poweroff -f' >>"$root/init"
    pack "$root" "$target/$2.cpio"
    timeout "$3" qemu-system-aarch64 "${machine[@]}" -m "$4" -kernel "$kernel" -initrd "$target/$2.cpio" \
        -append 'console=ttyAMA0 quiet panic=-1' </dev/null >"$log.raw" 2>&1 || status=$?
    # Tests that see a terminal write in colours.
    tr -d '\r' <"$log.raw" | sed 's/\x1b\[[0-9;]*m//g' >"$log"
    rm -f "$log.raw" "$target/$2.cpio"
    if ! grep -q '=== done' "$log"; then
        tail -n 100 "$log"
        case $status in
        124) die "the machine was not done after $3 s; above is the end of $log" ;;
        *) die "the machine ended before it was done (QEMU's status is $status); above is the end of $log" ;;
        esac
    fi
    step "the machine was $(sed -n 's/^=== uname //p' "$log" | head -n 1)"
}
