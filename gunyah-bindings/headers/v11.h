/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The host interface of Gunyah as posted in version 11 of the driver series (March 2023) and kept up to v13.
 *
 * Declared from facts: names, numbers and layouts. The comments are this project's own. Every kernel that Android 14
 * ships answers the same numbers; what it adds is in android.h.
 *
 * Rules for this file, kept by the generator: a `#define` with a value has a comment right above it and becomes a
 * constant of type u32, or u64 with the suffix ULL, or u8 behind the cast ((__u8)...).
 */
#ifndef GUNYAH_BINDINGS_V11_H
#define GUNYAH_BINDINGS_V11_H

#ifdef GUNYAH_BINDINGS_HEADER
#error "one header of gunyah-bindings at a time: they declare the same names with different meanings"
#endif
#define GUNYAH_BINDINGS_HEADER

#include <linux/types.h>
#include <linux/ioctl.h>

/** The type byte of every ioctl in this module: `'G'`. */
#define GH_IOCTL_TYPE 0x47U

/**
 * Device: creates a VM. The argument must be 0; anything else is `EINVAL`.
 *
 * Returns the VM's file descriptor, with close-on-exec set.
 */
#define GH_CREATE_VM _IO(GH_IOCTL_TYPE, 0x0)

/** Memory region flag: the guest may read. */
#define GH_MEM_ALLOW_READ 0x1U
/** Memory region flag: the guest may write. */
#define GH_MEM_ALLOW_WRITE 0x2U
/** Memory region flag: the guest may execute. */
#define GH_MEM_ALLOW_EXEC 0x4U

/** One region of guest memory, backed by memory of the calling process; the argument of [`GH_VM_SET_USER_MEM_REGION`]. */
struct gh_userspace_memory_region {
	/** Names the region within its VM; the Resource Manager sees it as the label of the memory parcel. */
	__u32 label;
	/** What the guest may do: [`GH_MEM_ALLOW_READ`], [`GH_MEM_ALLOW_WRITE`], [`GH_MEM_ALLOW_EXEC`]; any other bit is `EINVAL`. */
	__u32 flags;
	/** Guest physical address (IPA) of the first byte; page aligned. */
	__u64 guest_phys_addr;
	/** Length in bytes; page aligned and not 0. */
	__u64 memory_size;
	/** Address of the first byte in the calling process; page aligned. */
	__u64 userspace_addr;
};

/**
 * VM: gives the guest a region of the caller's memory, shared with the host.
 *
 * One call adds one region; there is no way to change or remove one.
 */
#define GH_VM_SET_USER_MEM_REGION _IOW(GH_IOCTL_TYPE, 0x1, struct gh_userspace_memory_region)

/** Where the devicetree lies in guest memory; the argument of [`GH_VM_SET_DTB_CONFIG`]. */
struct gh_vm_dtb_config {
	/** Guest physical address of the devicetree; inside a region of guest memory. */
	__u64 guest_phys_addr;
	/** Bytes set aside for it, with room for what the Resource Manager adds. */
	__u64 size;
};

/** VM: says where the devicetree is. The last call before the start counts. */
#define GH_VM_SET_DTB_CONFIG _IOW(GH_IOCTL_TYPE, 0x2, struct gh_vm_dtb_config)

/** VM: starts the VM. No argument. A start that failed is final. */
#define GH_VM_START _IO(GH_IOCTL_TYPE, 0x3)

/** Function type: a vCPU; the argument is a [`gh_fn_vcpu_arg`] and the call returns the vCPU's file descriptor. */
#define GH_FN_VCPU 1U
/** Function type: an irqfd, an eventfd that rings a doorbell of the guest; the argument is a [`gh_fn_irqfd_arg`]. */
#define GH_FN_IRQFD 2U
/** Function type: an ioeventfd, a guest store that signals an eventfd; the argument is a [`gh_fn_ioeventfd_arg`]. */
#define GH_FN_IOEVENTFD 3U

/** The longest function argument that [`GH_VM_ADD_FUNCTION`] takes, in bytes; a longer one is `EINVAL`. */
#define GH_FN_MAX_ARG_SIZE 256U

/** The argument of a [`GH_FN_VCPU`] function. */
struct gh_fn_vcpu_arg {
	/** The vCPU's id: its place, from 0, among the CPUs of the guest's devicetree. */
	__u32 id;
};

/** irqfd flag: the interrupt is level triggered. */
#define GH_IRQFD_LEVEL 0x1U

/** The argument of a [`GH_FN_IRQFD`] function. */
struct gh_fn_irqfd_arg {
	/** The eventfd. */
	__u32 fd;
	/** The label of the doorbell in the guest's devicetree. */
	__u32 label;
	/** [`GH_IRQFD_LEVEL`] or 0; any other bit is `EINVAL`. */
	__u32 flags;
	/** Not used; keep it 0, because removal compares all bytes. */
	__u32 padding;
};

/** ioeventfd flag: only a store of the value in `datamatch` signals. It is a mask, not a bit number. */
#define GH_IOEVENTFD_DATAMATCH 0x1U

/** The argument of a [`GH_FN_IOEVENTFD`] function. */
struct gh_fn_ioeventfd_arg {
	/** The value to look for, with [`GH_IOEVENTFD_DATAMATCH`]. */
	__u64 datamatch;
	/** The exact guest physical address of the store. */
	__u64 addr;
	/** Bytes stored: 1, 2, 4 or 8; or 0 for any, which is allowed without [`GH_IOEVENTFD_DATAMATCH`] only. */
	__u32 len;
	/** The eventfd. */
	__s32 fd;
	/** [`GH_IOEVENTFD_DATAMATCH`] or 0; any other bit is `EINVAL`. */
	__u32 flags;
	/** Not used; keep it 0, because removal compares all bytes. */
	__u32 padding;
};

/** What function to add or remove; the argument of [`GH_VM_ADD_FUNCTION`] and [`GH_VM_REMOVE_FUNCTION`]. */
struct gh_fn_desc {
	/** [`GH_FN_VCPU`], [`GH_FN_IRQFD`] or [`GH_FN_IOEVENTFD`]; any other is `ENOENT`. */
	__u32 type;
	/** Length in bytes of what `arg` points to. */
	__u32 arg_size;
	/** Address of the function's argument in the calling process. */
	__u64 arg;
};

/** VM: adds a function. Returns a file descriptor for a vCPU and 0 for the others. */
#define GH_VM_ADD_FUNCTION _IOW(GH_IOCTL_TYPE, 0x4, struct gh_fn_desc)

/** VM: removes a function. Pass the bytes that added it; v11 answers 0 even when nothing matches. */
#define GH_VM_REMOVE_FUNCTION _IOW(GH_IOCTL_TYPE, 0x7, struct gh_fn_desc)

/** Why a VM no longer runs. Any number may be found in the run page, so this is no closed set. */
enum gh_vm_status {
	/** The VM could not be loaded: the Resource Manager refused to set it up. */
	GH_VM_STATUS_LOAD_FAILED = 1,
	/** The VM has exited; [`gh_vm_exit_info`] says how. */
	GH_VM_STATUS_EXITED = 2,
	/** The VM is in a state from which it cannot run. */
	GH_VM_STATUS_CRASHED = 3,
};

/** Room in bytes for the exit reason. */
#define GH_VM_MAX_EXIT_REASON_SIZE 8U

/** How a VM ended, as the Resource Manager said. */
struct gh_vm_exit_info {
	/** The exit type; the crate's `exit` module names the known ones. */
	__u16 type;
	/** Not used. */
	__u16 padding;
	/**
	 * Bytes of reason that the Resource Manager sent.
	 *
	 * May be more than fit: at most the first [`GH_VM_MAX_EXIT_REASON_SIZE`] are in `reason`.
	 */
	__u32 reason_size;
	/** The reason's first bytes, little-endian. */
	__u8 reason[GH_VM_MAX_EXIT_REASON_SIZE];
};

/** Exit reason: nothing to tell. */
#define GH_VCPU_EXIT_UNKNOWN 0U
/** Exit reason: the guest loads from or stores to a device; see [`gh_vcpu_run_mmio`]. */
#define GH_VCPU_EXIT_MMIO 1U
/** Exit reason: the VM does not run (any more); see [`gh_vcpu_run_status`]. */
#define GH_VCPU_EXIT_STATUS 2U

/** An access of the guest to a device: what the run page holds with [`GH_VCPU_EXIT_MMIO`]. */
struct gh_vcpu_run_mmio {
	/** The guest physical address. */
	__u64 phys_addr;
	/** The bytes stored; or room for the answer to a load. Little-endian. */
	__u8 data[8];
	/** Bytes of `data` that count. */
	__u32 len;
	/** 1 for a store, 0 for a load. */
	__u8 is_write;
};

/** Why the VM does not run: what the run page holds with [`GH_VCPU_EXIT_STATUS`]. */
struct gh_vcpu_run_status {
	/** Why the VM does not run. */
	enum gh_vm_status status;
	/** How it ended; of meaning with [`GH_VM_STATUS_EXITED`](gh_vm_status::GH_VM_STATUS_EXITED) only. */
	struct gh_vm_exit_info exit_info;
};

/** The page that a vCPU shares with its VMM: `mmap` of the vCPU's file descriptor at offset 0. */
struct gh_vcpu_run {
	/** Written by the VMM: not 0 makes [`GH_VCPU_RUN`] end with `EINTR` before it enters the guest. */
	__u8 immediate_exit;
	/** Not used. */
	__u8 padding[7];
	/** Written by the kernel: why the guest stopped, one of the `GH_VCPU_EXIT_` numbers. */
	__u32 exit_reason;
	/** What belongs to the exit reason. */
	union {
		/** With [`GH_VCPU_EXIT_MMIO`]. */
		struct gh_vcpu_run_mmio mmio;
		/** With [`GH_VCPU_EXIT_STATUS`]. */
		struct gh_vcpu_run_status status;
	};
};

/** vCPU: runs the guest until it needs the VMM. No argument. */
#define GH_VCPU_RUN _IO(GH_IOCTL_TYPE, 0x5)
/** vCPU: returns the bytes to map for the run page: one page. No argument. */
#define GH_VCPU_MMAP_SIZE _IO(GH_IOCTL_TYPE, 0x6)

#endif
