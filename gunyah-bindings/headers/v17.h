/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The host interface of Gunyah as posted in versions 15 to 17 of the driver series (December 2023 to February 2024):
 * guest memory has a file descriptor of its own. No Android kernel has it.
 *
 * Declared from facts: names, numbers and layouts. The comments are this project's own.
 *
 * Rules for this file, kept by the generator: a `#define` with a value has a comment right above it and becomes a
 * constant of type u32, or u64 with the suffix ULL, or u8 behind the cast ((__u8)...).
 */
#ifndef GUNYAH_BINDINGS_V17_H
#define GUNYAH_BINDINGS_V17_H

#ifdef GUNYAH_BINDINGS_HEADER
#error "one header of gunyah-bindings at a time: they declare the same names with different meanings"
#endif
#define GUNYAH_BINDINGS_HEADER

#include <linux/types.h>
#include <linux/ioctl.h>

/** The type byte of every ioctl in this module: `'G'`. */
#define GUNYAH_IOCTL_TYPE 0x47U

/**
 * Device: creates a VM. The argument must be 0; anything else is `EINVAL`.
 *
 * Returns the VM's file descriptor, with close-on-exec set.
 */
#define GUNYAH_CREATE_VM _IO(GUNYAH_IOCTL_TYPE, 0x0)

/** Guest memory flag: set close-on-exec on its file descriptor. */
#define GUNYAH_GHMF_CLOEXEC 0x1ULL
/** Guest memory flag: huge pages may back it; then addresses, offsets and sizes must be multiples of 2 MiB. */
#define GUNYAH_GHMF_ALLOW_HUGEPAGE 0x2ULL

/** How much guest memory to make; the argument of [`GUNYAH_CREATE_GUEST_MEM`]. */
struct gunyah_create_mem_args {
	/** [`GUNYAH_GHMF_CLOEXEC`], [`GUNYAH_GHMF_ALLOW_HUGEPAGE`]; any other bit is `EINVAL`. */
	__u64 flags;
	/** Length in bytes; page aligned. It never changes. */
	__u64 size;
	/** Not used; 0. The kernels read do not check. */
	__u64 reserved[6];
};

/** Device (not the VM): makes guest memory and returns its file descriptor. */
#define GUNYAH_CREATE_GUEST_MEM _IOW(GUNYAH_IOCTL_TYPE, 0x8, struct gunyah_create_mem_args)

/**
 * What the guest may do with memory, and how it gets it.
 *
 * Android's kernels use the same names for **other bits**: there the access bits start at 1 and the bits that force
 * lending or sharing are the higher ones. The two are different types, so they cannot be mixed.
 */
enum gunyah_map_flags {
	/** Lend, in every kernel read. */
	GUNYAH_MEM_DEFAULT_ACCESS = 0,
	/** Lend: the host loses access while the guest has the memory. */
	GUNYAH_MEM_FORCE_LEND = 0x1,
	/** Share: the host keeps access; the guest cannot execute from it. */
	GUNYAH_MEM_FORCE_SHARE = 0x2,
	/** The bits that choose between lending and sharing. */
	GUNYAH_MEM_ACCESS_MASK = 0x7,
	/** The guest may read. */
	GUNYAH_MEM_ALLOW_READ = 0x10,
	/** The guest may write. */
	GUNYAH_MEM_ALLOW_WRITE = 0x20,
	/** The guest may execute. */
	GUNYAH_MEM_ALLOW_EXEC = 0x40,
	/** Take a mapping away instead of making one. Only whole bindings: kernels get parts wrong. */
	GUNYAH_MEM_UNMAP = 0x100,
};

/** A piece of guest memory to map; the argument of [`GUNYAH_VM_MAP_MEM`]. */
struct gunyah_map_mem_args {
	/** Guest physical address (IPA) of the first byte; page aligned. */
	__u64 guest_addr;
	/** At least one of read, write and execute, with lend or share; to unmap, the flags of the mapping and unmap. */
	enum gunyah_map_flags flags;
	/** The file descriptor that [`GUNYAH_CREATE_GUEST_MEM`] returned. A bad one is `EINVAL`, not `EBADF`. */
	__u32 guest_mem_fd;
	/** Bytes into that memory; page aligned. */
	__u64 offset;
	/** Length in bytes; page aligned. The kernels read do not compare it with the memory's size. */
	__u64 size;
};

/** VM: maps guest memory into the VM, or takes it away. Before and after the start. */
#define GUNYAH_VM_MAP_MEM _IOW(GUNYAH_IOCTL_TYPE, 0x9, struct gunyah_map_mem_args)

/** Where the devicetree lies in guest memory; the argument of [`GUNYAH_VM_SET_DTB_CONFIG`]. */
struct gunyah_vm_dtb_config {
	/** Guest physical address of the devicetree; inside one binding of guest memory. */
	__u64 guest_phys_addr;
	/** Bytes set aside for it; below 4096 the start is refused with `EINVAL`. */
	__u64 size;
};

/** VM: says where the devicetree is. The last call before the start counts. */
#define GUNYAH_VM_SET_DTB_CONFIG _IOW(GUNYAH_IOCTL_TYPE, 0x2, struct gunyah_vm_dtb_config)

/** VM: starts the VM. No argument. A start that failed is final. */
#define GUNYAH_VM_START _IO(GUNYAH_IOCTL_TYPE, 0x3)

/** Function type: a vCPU; the argument is a [`gunyah_fn_vcpu_arg`] and the call returns the vCPU's file descriptor. */
#define GUNYAH_FN_VCPU 1U
/** Function type: an irqfd, an eventfd that rings a doorbell of the guest; the argument is a [`gunyah_fn_irqfd_arg`]. */
#define GUNYAH_FN_IRQFD 2U
/** Function type: an ioeventfd, a guest store that signals an eventfd; the argument is a [`gunyah_fn_ioeventfd_arg`]. */
#define GUNYAH_FN_IOEVENTFD 3U

/** The longest function argument that [`GUNYAH_VM_ADD_FUNCTION`] takes, in bytes; a longer one is `EINVAL`. */
#define GUNYAH_FN_MAX_ARG_SIZE 256U

/** The argument of a [`GUNYAH_FN_VCPU`] function. */
struct gunyah_fn_vcpu_arg {
	/** The vCPU's id: its place, from 0, among the CPUs of the guest's devicetree. A duplicate is `EEXIST`. */
	__u32 id;
};

/** irqfd flag: the interrupt is level triggered. */
#define GUNYAH_IRQFD_LEVEL 0x1U

/** The argument of a [`GUNYAH_FN_IRQFD`] function. */
struct gunyah_fn_irqfd_arg {
	/** The eventfd. */
	__u32 fd;
	/** The label of the doorbell in the guest's devicetree. */
	__u32 label;
	/** [`GUNYAH_IRQFD_LEVEL`] or 0; any other bit is `EINVAL`. */
	__u32 flags;
	/** Not used; keep it 0, because v11 compares all bytes on removal. */
	__u32 padding;
};

/** ioeventfd flag: only a store of the value in `datamatch` signals. It is a mask, not a bit number. */
#define GUNYAH_IOEVENTFD_DATAMATCH 0x1U

/** The argument of a [`GUNYAH_FN_IOEVENTFD`] function. */
struct gunyah_fn_ioeventfd_arg {
	/** The value to look for, with [`GUNYAH_IOEVENTFD_DATAMATCH`]. */
	__u64 datamatch;
	/** The exact guest physical address of the store. */
	__u64 addr;
	/** Bytes stored: 1, 2, 4 or 8; or 0 for any, which is allowed without [`GUNYAH_IOEVENTFD_DATAMATCH`] only. */
	__u32 len;
	/** The eventfd. */
	__s32 fd;
	/** [`GUNYAH_IOEVENTFD_DATAMATCH`] or 0; any other bit is `EINVAL`. */
	__u32 flags;
	/** Not used; keep it 0, because v11 compares all bytes on removal. */
	__u32 padding;
};

/** What function to add or remove; the argument of [`GUNYAH_VM_ADD_FUNCTION`] and [`GUNYAH_VM_REMOVE_FUNCTION`]. */
struct gunyah_fn_desc {
	/** [`GUNYAH_FN_VCPU`], [`GUNYAH_FN_IRQFD`] or [`GUNYAH_FN_IOEVENTFD`]; any other is `ENOENT`. */
	__u32 type;
	/** Length in bytes of what `arg` points to. */
	__u32 arg_size;
	/** Address of the function's argument in the calling process. */
	__u64 arg;
};

/** VM: adds a function. Returns a file descriptor for a vCPU and 0 for the others. */
#define GUNYAH_VM_ADD_FUNCTION _IOW(GUNYAH_IOCTL_TYPE, 0x4, struct gunyah_fn_desc)

/** VM: removes a function. Pass the bytes that added it; `ENOENT` when nothing matches. */
#define GUNYAH_VM_REMOVE_FUNCTION _IOW(GUNYAH_IOCTL_TYPE, 0x7, struct gunyah_fn_desc)

/** Boot context: bits by which the register set is shifted; the register's number within its set is below. */
#define GUNYAH_VM_BOOT_CONTEXT_REG_SHIFT 8U

/** Boot context: the set of X0 to X31. */
#define GUNYAH_REG_SET_X ((__u8)0)
/** Boot context: the set of the program counter, number 0. */
#define GUNYAH_REG_SET_PC ((__u8)1)
/** Boot context: the set of the stack pointers, numbers 0 to 2. A Resource Manager was seen that refuses 2. */
#define GUNYAH_REG_SET_SP ((__u8)2)

/** The value of one register when the first vCPU starts; the argument of [`GUNYAH_VM_SET_BOOT_CONTEXT`]. */
struct gunyah_vm_boot_context {
	/** The register: its set (a `GUNYAH_REG_SET_` number) shifted left by [`GUNYAH_VM_BOOT_CONTEXT_REG_SHIFT`], plus its number. Bits above 15 must be 0. */
	__u32 reg;
	/** Not used; 0. */
	__u32 reserved;
	/** The register's value. Values that look like an internal entry of the kernel's table are refused with `EINVAL`. */
	__u64 value;
};

/** VM: sets a register of the first vCPU; only before the start. */
#define GUNYAH_VM_SET_BOOT_CONTEXT _IOW(GUNYAH_IOCTL_TYPE, 0xa, struct gunyah_vm_boot_context)

/** Why a VM no longer runs. Any number may be found in the run page, so this is no closed set. */
enum gunyah_vm_status {
	/** The VM could not be loaded: the Resource Manager refused to set it up. */
	GUNYAH_VM_STATUS_LOAD_FAILED = 1,
	/** The VM has exited; [`gunyah_vm_exit_info`] says how. */
	GUNYAH_VM_STATUS_EXITED = 2,
	/** The VM is in a state from which it cannot run. A start that the Resource Manager refused ends here, too. */
	GUNYAH_VM_STATUS_CRASHED = 3,
};

/** Room in bytes for the exit reason. */
#define GUNYAH_VM_MAX_EXIT_REASON_SIZE 8U

/** How a VM ended, as the Resource Manager said. */
struct gunyah_vm_exit_info {
	/** The exit type; the crate's `exit` module names the known ones. */
	__u16 type;
	/** Not used. */
	__u16 padding;
	/**
	 * Bytes of reason that the Resource Manager sent.
	 *
	 * May be more than fit: at most the first [`GUNYAH_VM_MAX_EXIT_REASON_SIZE`] are in `reason`.
	 */
	__u32 reason_size;
	/** The reason's first bytes, little-endian. */
	__u8 reason[GUNYAH_VM_MAX_EXIT_REASON_SIZE];
};

/** Exit reason: nothing to tell. */
#define GUNYAH_VCPU_EXIT_UNKNOWN 0U
/** Exit reason: the guest loads from or stores to a device; see [`gunyah_vcpu_run_mmio`]. */
#define GUNYAH_VCPU_EXIT_MMIO 1U
/** Exit reason: the VM does not run (any more); see [`gunyah_vcpu_run_status`]. */
#define GUNYAH_VCPU_EXIT_STATUS 2U
/** Exit reason: memory that the guest touched could not be brought in; see [`gunyah_vcpu_run_page_fault`]. */
#define GUNYAH_VCPU_EXIT_PAGE_FAULT 3U

/** Resume action: carry on with the answer given. The kernel presets it on every MMIO exit. */
#define GUNYAH_VCPU_RESUME_HANDLED ((__u8)0)
/** Resume action: the guest takes a synchronous external abort. */
#define GUNYAH_VCPU_RESUME_FAULT ((__u8)1)
/** Resume action: try once more to bring the page in, then execute the instruction again. **Android 15 and 16 refuse it with `EINVAL`**. */
#define GUNYAH_VCPU_RESUME_RETRY ((__u8)2)

/** An access of the guest to a device: what the run page holds with [`GUNYAH_VCPU_EXIT_MMIO`]. */
struct gunyah_vcpu_run_mmio {
	/** The guest physical address. */
	__u64 phys_addr;
	/** The bytes stored; or room for the answer to a load. Little-endian. */
	__u8 data[8];
	/** Bytes of `data` that count. */
	__u32 len;
	/** 1 for a store, 0 for a load. Leave it alone: the kernel reads it again when it brings pages in. */
	__u8 is_write;
	/** How to go on: one of the `GUNYAH_VCPU_RESUME_` numbers. */
	__u8 resume_action;
};

/** Why the VM does not run: what the run page holds with [`GUNYAH_VCPU_EXIT_STATUS`]. */
struct gunyah_vcpu_run_status {
	/** Why the VM does not run. */
	enum gunyah_vm_status status;
	/** How it ended; of meaning with [`GUNYAH_VM_STATUS_EXITED`](gunyah_vm_status::GUNYAH_VM_STATUS_EXITED) only. */
	struct gunyah_vm_exit_info exit_info;
};

/** A page that could not be brought in: what the run page holds with [`GUNYAH_VCPU_EXIT_PAGE_FAULT`]. */
struct gunyah_vcpu_run_page_fault {
	/** The guest physical address. */
	__u64 phys_addr;
	/** What came of the kernel's own try to bring the page in: a negative errno. */
	__s32 attempt;
	/** Preset to [`GUNYAH_VCPU_RESUME_FAULT`], and ignored by every kernel read: the next run executes again. */
	__u8 resume_action;
};

/** The page that a vCPU shares with its VMM: `mmap` of the vCPU's file descriptor at offset 0. */
struct gunyah_vcpu_run {
	/** Written by the VMM: not 0 makes [`GUNYAH_VCPU_RUN`] end with `EINTR` before it enters the guest. */
	__u8 immediate_exit;
	/** Not used. */
	__u8 padding[7];
	/** Written by the kernel: why the guest stopped, one of the `GUNYAH_VCPU_EXIT_` numbers. */
	__u32 exit_reason;
	/** What belongs to the exit reason. */
	union {
		/** With [`GUNYAH_VCPU_EXIT_MMIO`]. */
		struct gunyah_vcpu_run_mmio mmio;
		/** With [`GUNYAH_VCPU_EXIT_STATUS`]. */
		struct gunyah_vcpu_run_status status;
		/** With [`GUNYAH_VCPU_EXIT_PAGE_FAULT`]. */
		struct gunyah_vcpu_run_page_fault page_fault;
	};
};

/** vCPU: runs the guest until it needs the VMM. No argument. */
#define GUNYAH_VCPU_RUN _IO(GUNYAH_IOCTL_TYPE, 0x5)
/** vCPU: returns the bytes to map for the run page: one page. No argument. */
#define GUNYAH_VCPU_MMAP_SIZE _IO(GUNYAH_IOCTL_TYPE, 0x6)

#endif
