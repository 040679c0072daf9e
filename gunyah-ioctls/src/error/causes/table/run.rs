//! Running a vCPU.

use super::super::flavours::Flavours;
use super::super::judge;
use super::super::operation::Operation::{ReclaimRegion, RunVcpu};
use super::{Row, on};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "run-before-start",
        on: &[on(&[RunVcpu], &[libc::ENODEV], Flavours::DRIVEN)],
        text: "the VM has not started: RUN does not wait for the start",
        check: "the order of the calls, across threads",
        remedy: "start the VM before the vCPU threads run, or let them wait for it",
        judge: judge::not_started,
    },
    Row {
        id: "vcpu-not-in-tree",
        on: &[on(&[RunVcpu], &[libc::ENODEV], Flavours::DRIVEN)],
        text: "the guest's devicetree has no CPU with this id, or a second vCPU with the same id was added (android16 allows it)",
        check: "count the cpu nodes: ids are their order, from 0",
        remedy: "as many cpu nodes as vCPUs, each added once",
        judge: judge::unseen,
    },
    Row {
        id: "vcpu-not-proxy",
        on: &[on(&[RunVcpu], &[libc::ENODEV], Flavours::DRIVEN)],
        text: "vcpus in gunyah-vm-config has an affinity other than \"proxy\", so the hypervisor schedules the vCPUs itself",
        check: "gunyah-vm-config/vcpus/affinity",
        remedy: "set it to \"proxy\"",
        judge: judge::unseen,
    },
    Row {
        id: "vcpu-gone",
        on: &[on(&[RunVcpu], &[libc::ENODEV], Flavours::DRIVEN)],
        text: "the vCPU was removed, or the VM is being released",
        check: "whether another thread removes it",
        remedy: "stop the vCPU's thread first",
        judge: judge::unseen,
    },
    Row {
        id: "start-failed",
        on: &[on(&[RunVcpu], &[libc::ENODEV], Flavours::ANDROID14.and(Flavours::PAGED))],
        text: "the start failed: these kernels then report no status to the vCPU",
        check: "the answer to the start",
        remedy: "create a new VM",
        judge: judge::not_started,
    },
    Row {
        id: "signal",
        on: &[on(&[RunVcpu], &[libc::EINTR], Flavours::DRIVEN)],
        text: "a signal came, or the vCPU was kicked. The run page may hold a finished exit nonetheless",
        check: "exit_reason in the run page, if it was zeroed before",
        remedy: "handle that exit as if the call had succeeded; install signal handlers without SA_RESTART",
        judge: judge::certain,
    },
    Row {
        id: "hypervisor-retry",
        on: &[on(&[RunVcpu], &[libc::EAGAIN], Flavours::DRIVEN)],
        text: "the hypervisor asks to try again",
        check: "exit_reason in the run page",
        remedy: "run again",
        judge: judge::certain,
    },
    Row {
        id: "vm-ending",
        on: &[on(&[RunVcpu], &[libc::EBUSY], Flavours::DRIVEN)],
        text: "the VM is coming to its end",
        check: "whether the next RUN gives the status exit",
        remedy: "run again, a few times with a pause",
        judge: judge::certain,
    },
    Row {
        id: "vcpu-torn-down",
        on: &[on(&[RunVcpu], &[libc::EACCES], Flavours::DRIVEN)],
        text: "the hypervisor has revoked the vCPU: the VM was torn down",
        check: "the VM's status",
        remedy: "take it as the end of the VM",
        judge: judge::certain,
    },
    Row {
        id: "resume-action",
        on: &[on(&[RunVcpu], &[libc::EINVAL], Flavours::PAGED)],
        text: "the answer to an MMIO exit is none that this kernel takes: retry exists on v17 only",
        check: "resume_action in the run page",
        remedy: "answer handled (0) or fault (1) and run again: nothing is lost",
        judge: judge::guarded,
    },
    Row {
        id: "vcpu-fault",
        on: &[on(&[RunVcpu], &[libc::EINVAL], Flavours::ON_TOUCH)],
        text: "the vCPU is in a state that the kernel does not know, such as an unrecoverable fault: the guest faulted without a vector table, or in its own handler",
        check: "whether the guest sets VBAR_EL1 before anything can fault",
        remedy: "give the guest vectors first; end this VM",
        judge: judge::unseen,
    },
    Row {
        id: "hypervisor-invalid",
        on: &[on(&[RunVcpu], &[libc::EINVAL], Flavours::DRIVEN)],
        text: "the hypervisor refused the vCPU's state or an argument",
        check: "the kernel log",
        remedy: "end the VM; report it with the kernel log",
        judge: judge::unseen,
    },
    Row {
        id: "hypervisor-io",
        on: &[on(&[RunVcpu], &[libc::EIO], Flavours::DRIVEN)],
        text: "the hypervisor reports a bad interrupt binding or message queue",
        check: "the kernel log",
        remedy: "end the VM; report it",
        judge: judge::certain,
    },
    Row {
        id: "hypervisor-unimplemented",
        on: &[
            on(&[RunVcpu], &[libc::EOPNOTSUPP], Flavours::DRIVEN),
            on(&[ReclaimRegion], &[libc::EOPNOTSUPP], Flavours::ON_TOUCH),
        ],
        text: "the hypervisor does not have the call that this kernel makes",
        check: "the firmware's age",
        remedy: "kernel and firmware do not fit: use the vendor's pair",
        judge: judge::rare,
    },
];
