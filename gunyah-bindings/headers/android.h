/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The host interface of Gunyah as Android's kernels have it: android14-6.1, android15-6.6 and android16-6.12.
 *
 * Declared from facts: names, numbers and layouts. The comments are this project's own. The names are those of Android
 * 15 and later; Android 14 has the numbers that the comments give it under v11's names.
 *
 * Rules for this file, kept by the generator: a `#define` with a value has a comment right above it and becomes a
 * constant of type u32, or u64 with the suffix ULL, or u8 behind the cast ((__u8)...).
 */
#ifndef GUNYAH_BINDINGS_ANDROID_H
#define GUNYAH_BINDINGS_ANDROID_H

#ifdef GUNYAH_BINDINGS_HEADER
#error "one header of gunyah-bindings at a time: they declare the same names with different meanings"
#endif
#define GUNYAH_BINDINGS_HEADER

#include <linux/types.h>
#include <linux/ioctl.h>

/** The type byte of the ioctls that all forms share: `'G'`. */
#define GUNYAH_IOCTL_TYPE 0x47U
/** The type byte of the ioctls that Android adds: `'A'`. */
#define GUNYAH_ANDROID_IOCTL_TYPE 0x41U

/**
 * Device: creates a VM. The argument must be 0; anything else is `EINVAL`.
 *
 * Returns the VM's file descriptor, with close-on-exec set. All of Android 14, 15 and 16.
 */
#define GUNYAH_CREATE_VM _IO(GUNYAH_IOCTL_TYPE, 0x0)

/**
 * What the guest may do with memory, and how it gets it.
 *
 * The guest-memory form (v15 to v17) uses the same names for **other bits**: there the access bits start at 0x10 and
 * the bits that force lending or sharing are the low ones. The two are different types, so they cannot be mixed.
 */
enum gunyah_map_flags {
	/** Lend or share as the memory's kind and the VM call for. */
	GUNYAH_MEM_DEFAULT_ACCESS = 0,
	/** The guest may read. */
	GUNYAH_MEM_ALLOW_READ = 0x1,
	/** The guest may write. */
	GUNYAH_MEM_ALLOW_WRITE = 0x2,
	/** The guest may execute. */
	GUNYAH_MEM_ALLOW_EXEC = 0x4,
	/** Lend: the host loses access while the guest has the memory. */
	GUNYAH_MEM_FORCE_LEND = 0x10,
	/** Share: the host keeps access. */
	GUNYAH_MEM_FORCE_SHARE = 0x20,
	/** The bits that choose between lending and sharing. */
	GUNYAH_MEM_ACCESS_MASK = 0x70,
	/** Take a mapping away instead of making one. */
	GUNYAH_MEM_UNMAP = 0x100,
};

/**
 * One region of guest memory, backed by memory of the calling process.
 *
 * The argument of [`GUNYAH_VM_SET_USER_MEM_REGION`] and [`GUNYAH_VM_ANDROID_LEND_USER_MEM`].
 */
struct gunyah_userspace_memory_region {
	/** Names the region within its VM; android15-6.6 and android16-6.12 do not check that it is the only one of its name. */
	__u32 label;
	/** What the guest may do: read, write, execute; any other bit is `EINVAL`. */
	enum gunyah_map_flags flags;
	/** Guest physical address (IPA) of the first byte; page aligned. */
	__u64 guest_phys_addr;
	/** Length in bytes; page aligned and not 0. */
	__u64 memory_size;
	/** Address of the first byte in the calling process; page aligned. */
	__u64 userspace_addr;
};

/** VM: gives the guest a region of the caller's memory, shared with the host. Android 14, 15, 16. */
#define GUNYAH_VM_SET_USER_MEM_REGION _IOW(GUNYAH_IOCTL_TYPE, 0x1, struct gunyah_userspace_memory_region)

/** Where the devicetree lies in guest memory; the argument of [`GUNYAH_VM_SET_DTB_CONFIG`]. */
struct gunyah_vm_dtb_config {
	/** Guest physical address of the devicetree; inside a region of guest memory. */
	__u64 guest_phys_addr;
	/** Bytes set aside for it; below 4096 Android 15 and 16 refuse the start with `EINVAL`. */
	__u64 size;
};

/** VM: says where the devicetree is. The last call before the start counts. Android 14, 15, 16. */
#define GUNYAH_VM_SET_DTB_CONFIG _IOW(GUNYAH_IOCTL_TYPE, 0x2, struct gunyah_vm_dtb_config)

/** VM: starts the VM. No argument. A start that failed is final. Android 14, 15, 16. */
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
	/** The vCPU's id: its place, from 0, among the CPUs of the guest's devicetree. android16-6.12 answers 0 for a duplicate. */
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
	/** Not used; keep it 0, because some kernels compare all bytes on removal. */
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
	/** Not used; keep it 0, because some kernels compare all bytes on removal. */
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

/** VM: adds a function. Returns a file descriptor for a vCPU and 0 for the others. Android 14, 15, 16. */
#define GUNYAH_VM_ADD_FUNCTION _IOW(GUNYAH_IOCTL_TYPE, 0x4, struct gunyah_fn_desc)

/** VM: removes a function. Pass the bytes that added it: that is what every kernel takes. Android 14, 15, 16. */
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
	/** The register's value. */
	__u64 value;
};

/** VM: sets a register of the first vCPU; only before the start. Android 15 and 16. */
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
/** Exit reason: memory that the guest touched could not be brought in; see [`gunyah_vcpu_run_page_fault`]. Android 15 and 16. */
#define GUNYAH_VCPU_EXIT_PAGE_FAULT 3U

/** Resume action: carry on with the answer given. The kernel presets it on every MMIO exit. */
#define GUNYAH_VCPU_RESUME_HANDLED ((__u8)0)
/** Resume action: the guest takes a synchronous external abort. Android 15 and 16. */
#define GUNYAH_VCPU_RESUME_FAULT ((__u8)1)
/** Resume action: try the instruction again. **Android 15 and 16 refuse it with `EINVAL`**; v15 to v17 take it. */
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
	/** How to go on: one of the `GUNYAH_VCPU_RESUME_` numbers. Android 14 has padding here and ignores it. */
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

/** vCPU: runs the guest until it needs the VMM. No argument. Android 14, 15, 16. */
#define GUNYAH_VCPU_RUN _IO(GUNYAH_IOCTL_TYPE, 0x5)
/** vCPU: returns the bytes to map for the run page: one page. No argument. Android 14, 15, 16. */
#define GUNYAH_VCPU_MMAP_SIZE _IO(GUNYAH_IOCTL_TYPE, 0x6)

/** Device: answers 0, and says thereby that the kernel is an early android14-6.1, whose interface was not final. No argument. */
#define GUNYAH_ANDROID_TENTATIVE _IO(GUNYAH_ANDROID_IOCTL_TYPE, 0x10)

/** VM: gives the guest a region of the caller's memory, and the host loses access to it. Android 14 (early, too), 15, 16. */
#define GUNYAH_VM_ANDROID_LEND_USER_MEM _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x11, struct gunyah_userspace_memory_region)

/** Where the firmware lies in guest memory; the argument of [`GUNYAH_VM_ANDROID_SET_FW_CONFIG`]. */
struct gunyah_vm_firmware_config {
	/** Guest physical address of the firmware; inside a region of guest memory. */
	__u64 guest_phys_addr;
	/** Length in bytes. */
	__u64 size;
};

/**
 * VM: says where the guest's firmware is, and makes the VM a protected one that starts there.
 *
 * Android 14, 15, 16; one of the early android14-6.1 kernels read lacks it.
 */
#define GUNYAH_VM_ANDROID_SET_FW_CONFIG _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x12, struct gunyah_vm_firmware_config)

/** A range of guest memory; the argument of [`GUNYAH_VM_ANDROID_RECLAIM_REGION`]. */
struct gunyah_address_range {
	/** Guest physical address of the first byte; page aligned. */
	__u64 guest_phys_addr;
	/** Length in bytes; page aligned. **Never 0**: the kernels do not check, and compute a last page before the first. */
	__u64 size;
};

/** VM: takes memory back from the guest, as when a balloon inflates. Android 15 (not its first builds) and 16. */
#define GUNYAH_VM_ANDROID_RECLAIM_REGION _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x13, struct gunyah_address_range)

/** Node of a reserved memory region (not the Gunyah device): returns a file descriptor for its memory. No argument. Android 16. */
#define GUNYAH_ANDROID_CREATE_CMA_MEM_FD _IO(GUNYAH_ANDROID_IOCTL_TYPE, 0x14)

/** Memory of a reserved region to give to the guest; the argument of [`GUNYAH_VM_ANDROID_MAP_CMA_MEM`]. */
struct gunyah_map_cma_mem_args {
	/** Names the region within its VM. */
	__u32 label;
	/** Guest physical address of the first byte; page aligned. */
	__u64 guest_addr;
	/** What the guest may do, and whether to lend. */
	enum gunyah_map_flags flags;
	/** The file descriptor that [`GUNYAH_ANDROID_CREATE_CMA_MEM_FD`] returned. */
	__u32 guest_mem_fd;
	/** Bytes into that memory; page aligned. */
	__u64 offset;
	/** Length in bytes; page aligned. */
	__u64 size;
};

/** VM: gives the guest memory of a reserved region. Android 16. */
#define GUNYAH_VM_ANDROID_MAP_CMA_MEM _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x15, struct gunyah_map_cma_mem_args)

/** Authentication type: a protected VM of Android, by its firmware. */
#define GUNYAH_AUTH_ANDROID_PVM 0U
/** Authentication type: a trusted VM of Qualcomm; the argument is a [`gunyah_qtvm_auth_arg`]. */
#define GUNYAH_AUTH_QCOM_TRUSTED_VM 1U

/** How the VM's image is authenticated; the argument of [`GUNYAH_VM_ANDROID_SET_AUTH_TYPE`]. */
struct gunyah_auth_desc {
	/** [`GUNYAH_AUTH_ANDROID_PVM`] or [`GUNYAH_AUTH_QCOM_TRUSTED_VM`]. */
	__u32 type;
	/** Length in bytes of what `arg` points to. */
	__u32 arg_size;
	/** Address of the type's argument in the calling process. */
	__u64 arg;
};

/** The argument of [`GUNYAH_AUTH_QCOM_TRUSTED_VM`]. */
struct gunyah_qtvm_auth_arg {
	/** The VM's id as the Resource Manager knows it. */
	__u16 vm_id;
	/** The peripheral (PAS) id of the image. */
	__u32 peripheral_id;
	/** Guest physical address of the image. */
	__u64 guest_phys_addr;
	/** Length of the image in bytes. */
	__u64 size;
};

/** VM: chooses how the image is authenticated. Android 16. */
#define GUNYAH_VM_ANDROID_SET_AUTH_TYPE _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x16, struct gunyah_auth_desc)

/** Capability: a vCPU that sleeps with a timer set is woken by the host. */
#define GUNYAH_CAP_VCPU_TIMER_WAKEUP 0U

/** VM: says whether the host has a capability, given by number: 1 or 0. Android 16 (not its first builds). */
#define GUNYAH_VM_ANDROID_CHECK_EXTENSION _IO(GUNYAH_ANDROID_IOCTL_TYPE, 0x17)

#endif
