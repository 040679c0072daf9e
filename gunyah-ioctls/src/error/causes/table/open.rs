//! Opening the device and creating a VM.

use super::super::flavours::Flavours;
use super::super::judge;
use super::super::operation::Operation::{AddVcpu, CreateCmaMemory, CreateGuestMemory, CreateVm, Open};
use super::{Row, on};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "no-gunyah",
        on: &[on(&[Open], &[libc::ENOENT], Flavours::ALL)],
        text: "this machine does not run under Gunyah as its primary VM, or is no arm64 machine",
        check: "look for /proc/device-tree/hypervisor with a compatible that names gunyah",
        remedy: "use a host that has Gunyah; with KVM use KVM; to develop without one use the fake kernel (fake-gunyah)",
        judge: judge::not_arm64,
    },
    Row {
        id: "no-driver",
        on: &[on(&[Open], &[libc::ENOENT, libc::ENXIO, libc::ENODEV], Flavours::ALL)],
        text: "the kernel has no Gunyah host driver, or its module is not loaded; mainline Linux has none",
        check: "lsmod | grep gunyah; zgrep GUNYAH /proc/config.gz; the node appears when the Resource Manager's driver probes",
        remedy: "load the module, or use a kernel with the driver (Android's 6.1 and later have it)",
        judge: judge::unseen,
    },
    Row {
        id: "node-elsewhere",
        on: &[on(&[Open], &[libc::ENOENT], Flavours::ALL)],
        text: "the device has another name: vendor kernels use /dev/qgunyah or /dev/gh_virtio_backend_<vm>",
        check: "ls /dev | grep -i -e gunyah -e gh_",
        remedy: "pass the path; but those names mostly belong to the vendor ABI, which only starts images of the vendor",
        judge: judge::vendor_kernel,
    },
    Row {
        id: "node-permission",
        on: &[on(&[Open], &[libc::EACCES], Flavours::ALL)],
        text: "the node's owner and mode do not let this user in",
        check: "ls -l on the node; phones ship it as root, mode 0600",
        remedy: "run as root, or give the node to a group of yours by a udev or ueventd rule",
        judge: judge::node_mode,
    },
    Row {
        id: "selinux",
        on: &[on(&[Open], &[libc::EACCES], Flavours::ALL)],
        text: "SELinux denies it, whatever the mode says, root included",
        check: "getenforce; ls -Z on the node; look for \"avc: denied\" with the node's label in the kernel log",
        remedy: "run in a domain that may use the node, or add a rule for yours",
        judge: judge::selinux,
    },
    Row {
        id: "container",
        on: &[on(&[Open], &[libc::EPERM], Flavours::ALL)],
        text: "a container's device rules, or a seccomp filter, deny it",
        check: "run the same outside the container",
        remedy: "allow the device (for example --device for docker and podman)",
        judge: judge::certain,
    },
    Row {
        id: "not-gunyah",
        on: &[on(&[CreateVm], &[libc::ENOTTY], Flavours::ALL)],
        text: "the file is no Gunyah device: it knows none of the ioctls",
        check: "ls -l on the path; /proc/misc lists gunyah with the node's minor number",
        remedy: "pass the path of the Gunyah device",
        judge: judge::certain,
    },
    Row {
        id: "vendor-abi",
        on: &[on(&[CreateVm], &[libc::EINVAL], Flavours::VENDOR)],
        text: "the kernel has the vendors' older ABI (ioctl type 0xB2), which answers every unknown ioctl with EINVAL",
        check: "uname -r: 5.10 and 5.15 have it (Snapdragon 8 Gen 1 and 2)",
        remedy: "none on this kernel: it only starts signed images by name. Permissions do not help. Use a device with 6.1 or later",
        judge: judge::vendor_kernel,
    },
    Row {
        id: "create-argument",
        on: &[on(&[CreateVm], &[libc::EINVAL], Flavours::DRIVEN)],
        text: "the ioctl's argument is not 0",
        check: "trace the ioctl",
        remedy: "pass 0; no VM types exist",
        judge: judge::guarded,
    },
    Row {
        id: "files-of-process",
        on: &[
            on(&[Open], &[libc::EMFILE], Flavours::ALL),
            on(&[CreateVm, AddVcpu], &[libc::EMFILE], Flavours::DRIVEN),
            on(&[CreateGuestMemory], &[libc::EMFILE], Flavours::V17),
            on(&[CreateCmaMemory], &[libc::EMFILE], Flavours::ANDROID16),
        ],
        text: "this process has too many files open",
        check: "ls /proc/self/fd | wc -l against ulimit -n",
        remedy: "raise RLIMIT_NOFILE, or close what leaks",
        judge: judge::files,
    },
    Row {
        id: "files-of-host",
        on: &[
            on(&[Open], &[libc::ENFILE], Flavours::ALL),
            on(&[CreateVm, AddVcpu], &[libc::ENFILE], Flavours::DRIVEN),
            on(&[CreateGuestMemory], &[libc::ENFILE], Flavours::V17),
            on(&[CreateCmaMemory], &[libc::ENFILE], Flavours::ANDROID16),
        ],
        text: "the host has too many files open",
        check: "cat /proc/sys/fs/file-nr",
        remedy: "close programs, or raise fs.file-max",
        judge: judge::certain,
    },
    Row {
        id: "no-vm-id",
        on: &[on(&[CreateVm], &[libc::ENODEV], Flavours::ID_AT_CREATION)],
        text: "the Resource Manager has no VM id left; VMs that were created and never started may keep theirs until a reboot",
        check: "look for other VMMs; on android14-early a VM that is closed before its start keeps its id",
        remedy: "end the other VMs, else reboot; create a VM only to start it",
        judge: judge::certain,
    },
];
