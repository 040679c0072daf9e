//! Adding and removing vCPUs, irqfds and ioeventfds.

use super::super::flavours::Flavours;
use super::super::judge;
use super::super::operation::Operation::{AddIoeventfd, AddIrqfd, AddVcpu, MapRunPage, RemoveFunction};
use super::{Row, on};

const UNTIL_V17: Flavours = Flavours::PINNED.and(Flavours::V17).and(Flavours::ANDROID15);

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "function-module",
        on: &[on(&[AddVcpu, AddIrqfd, AddIoeventfd], &[libc::ENOENT], Flavours::DRIVEN)],
        text: "the kernel has no such function, or its module is not loaded (it asks modprobe for ghfunc:1 vCPU, 2 irqfd, 3 ioeventfd)",
        check: "lsmod | grep gunyah: gunyah_vcpu, gunyah_irqfd, gunyah_ioeventfd",
        remedy: "load the module",
        judge: judge::certain,
    },
    Row {
        id: "function-malformed",
        on: &[on(&[AddVcpu, AddIrqfd, AddIoeventfd], &[libc::EINVAL], Flavours::DRIVEN)],
        text: "the argument's size or flags are not those of the function",
        check: "trace the ioctl: sizes are 4 (vCPU), 16 (irqfd), 32 (ioeventfd); flags 0 or 1",
        remedy: "pass the structure whole",
        judge: judge::guarded,
    },
    Row {
        id: "not-an-eventfd",
        on: &[on(&[AddIrqfd, AddIoeventfd], &[libc::EINVAL], Flavours::DRIVEN)],
        text: "the file descriptor is no eventfd",
        check: "/proc/self/fd: an eventfd reads anon_inode:[eventfd]",
        remedy: "pass an eventfd",
        judge: judge::unseen,
    },
    Row {
        id: "ioeventfd-geometry",
        on: &[on(&[AddIoeventfd], &[libc::EINVAL], Flavours::DRIVEN)],
        text: "the length is not 0, 1, 2, 4 or 8, a value is matched with length 0, or address + length wraps",
        check: "print them",
        remedy: "give a width with a value",
        judge: judge::guarded,
    },
    Row {
        id: "eventfd-closed",
        on: &[on(&[AddIrqfd, AddIoeventfd], &[libc::EBADF], Flavours::DRIVEN)],
        text: "the eventfd's file descriptor is closed",
        check: "who owns the eventfd, and when it is dropped",
        remedy: "keep it open until after the call",
        judge: judge::certain,
    },
    Row {
        id: "vcpu-id-taken",
        on: &[on(&[AddVcpu], &[libc::EEXIST], UNTIL_V17)],
        text: "the VM has a vCPU with this id (android16-6.12 answers 0 instead, and that vCPU never runs)",
        check: "the ids added so far",
        remedy: "number them from 0, as the CPUs in the devicetree",
        judge: judge::guarded,
    },
    Row {
        id: "irqfd-label-taken",
        on: &[on(&[AddIrqfd], &[libc::EEXIST], UNTIL_V17)],
        text: "another irqfd of the VM has this label (android16-6.12 answers 0 instead, and drops its interrupts)",
        check: "the labels added so far",
        remedy: "one irqfd per doorbell of the devicetree",
        judge: judge::guarded,
    },
    Row {
        id: "ioeventfd-taken",
        on: &[on(&[AddIoeventfd], &[libc::EEXIST], Flavours::DRIVEN)],
        text: "another ioeventfd answers this access: without a value to match, the length is ignored",
        check: "the ioeventfds at this address",
        remedy: "one per address, or all of them with a width and values that differ",
        judge: judge::unseen,
    },
    Row {
        id: "no-proxy-vcpus",
        on: &[on(&[AddVcpu], &[libc::EOPNOTSUPP], Flavours::ID_AT_CREATION)],
        text: "the hypervisor has no vCPUs that the host schedules: it is too old for this kernel",
        check: "the kernel log at boot",
        remedy: "update the device's firmware",
        judge: judge::certain,
    },
    Row {
        id: "vm-dying",
        on: &[on(&[AddVcpu], &[libc::ENODEV], Flavours::DRIVEN)],
        text: "the VM is being released",
        check: "whether another thread closes it",
        remedy: "add vCPUs to a VM that is held open",
        judge: judge::certain,
    },
    Row {
        id: "function-not-found",
        on: &[on(&[RemoveFunction], &[libc::ENOENT], Flavours::ANDROID14.and(Flavours::PAGED))],
        text: "the VM has no such function: the argument must be byte for byte that of the addition (v11 and android14-early answer 0)",
        check: "compare flags, length and value with the addition; android14 removes every ioeventfd of an address at once",
        remedy: "pass the same bytes",
        judge: judge::unseen,
    },
    Row {
        id: "run-page-locked-memory",
        on: &[on(&[MapRunPage], &[libc::EAGAIN], Flavours::DRIVEN)],
        text: "this process locks all its mappings (mlockall) and has reached RLIMIT_MEMLOCK",
        check: "VmLck in /proc/self/status, ulimit -l",
        remedy: "raise the limit",
        judge: judge::memlock,
    },
    Row {
        id: "run-page-mappings",
        on: &[on(&[MapRunPage], &[libc::ENOMEM], Flavours::DRIVEN)],
        text: "this process has too many mappings, or no address space left",
        check: "wc -l /proc/self/maps against /proc/sys/vm/max_map_count; ulimit -v",
        remedy: "raise the limit",
        judge: judge::unseen,
    },
];
