/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The numbers of Qualcomm's own older interfaces (kernels 5.10 and 5.15, and a module for later ones), to recognise
 * them by. Such a host boots images that the vendor signed and cannot run an arbitrary guest.
 *
 * Declared from facts: names, numbers and layouts. The comments are this project's own. Where a record's length is
 * known and its members are not, the code is declared with the length and there is no struct.
 *
 * Rules for this file, kept by the generator: a `#define` with a value has a comment right above it and becomes a
 * constant of type u32, or u64 with the suffix ULL, or u8 behind the cast ((__u8)...).
 */
#ifndef GUNYAH_BINDINGS_VENDOR_H
#define GUNYAH_BINDINGS_VENDOR_H

#ifdef GUNYAH_BINDINGS_HEADER
#error "one header of gunyah-bindings at a time: they declare the same names with different meanings"
#endif
#define GUNYAH_BINDINGS_HEADER

#include <linux/types.h>
#include <linux/ioctl.h>

/** The type byte of the vendor's ioctls. An ioctl that such a kernel does not know is `EINVAL`, not `ENOTTY`. */
#define GH_VENDOR_IOCTL_TYPE 0xb2U

/** The type byte of the oldest form, which has no Gunyah device but one node for each VM's virtio backend. */
#define GH_VIRTIO_BACKEND_IOCTL_TYPE 0xbcU
/** The oldest form's first ioctl number. It has the virtio ioctls of [`GH_VENDOR_IOCTL_TYPE`] from 0x61 on, in the same order. */
#define GH_VIRTIO_BACKEND_IOCTL_FIRST 0x1U
/** The oldest form's last ioctl number. */
#define GH_VIRTIO_BACKEND_IOCTL_LAST 0xdU

/** Bytes of a firmware name, with its end. */
#define GH_VM_FW_NAME_MAX 16U

/** The name of a VM's firmware image, which is also the VM's; the argument of [`GH_VM_SET_FW_NAME`] and [`GH_VM_GET_FW_NAME`]. */
struct gh_fw_name {
	/** The name, ended by a zero byte. */
	__u8 name[GH_VM_FW_NAME_MAX];
};

/** A VM's name and how it ended; the argument of [`GH_VM_WAIT_FOR_EXIT`]. */
struct gh_fw_name_and_exit_status {
	/** The name, ended by a zero byte. */
	__u8 name[GH_VM_FW_NAME_MAX];
	/** The exit type; written by the kernel. */
	__u32 reason;
};

/** A piece of a VM's memory; the argument of [`GH_VM_GET_MEM_REGION`]. */
struct gh_vm_mem_region {
	/** Which piece, from 0. */
	__u8 fw_idx;
	/** Not used. */
	__u8 padding[7];
	/** Physical address of the first byte. */
	__u64 fw_phys;
	/** Length in bytes. */
	__u64 fw_size;
	/** A file descriptor. */
	__s32 fd;
	/** Not used. */
	__u32 tail_padding;
};

/** Device: creates a VM and returns its file descriptor. */
#define GH_VENDOR_CREATE_VM _IO(GH_VENDOR_IOCTL_TYPE, 0x01)
/** Device: blocks until the named VM ends. Newer vendor kernels. */
#define GH_VM_WAIT_FOR_EXIT _IOWR(GH_VENDOR_IOCTL_TYPE, 0x02, struct gh_fw_name_and_exit_status)
/** VM: creates the vCPU whose id is the argument, by value, and returns its file descriptor. */
#define GH_VENDOR_CREATE_VCPU _IO(GH_VENDOR_IOCTL_TYPE, 0x40)
/** VM: says which firmware to load. */
#define GH_VM_SET_FW_NAME _IOW(GH_VENDOR_IOCTL_TYPE, 0x41, struct gh_fw_name)
/** VM: returns which firmware was chosen. */
#define GH_VM_GET_FW_NAME _IOR(GH_VENDOR_IOCTL_TYPE, 0x42, struct gh_fw_name)
/** VM: returns the number of vCPUs. */
#define GH_VM_GET_VCPU_COUNT _IO(GH_VENDOR_IOCTL_TYPE, 0x43)
/** VM: returns the number of pieces of memory. Newer vendor kernels. */
#define GH_VM_GET_MEM_COUNT _IO(GH_VENDOR_IOCTL_TYPE, 0x44)
/** VM: describes one piece of memory. Newer vendor kernels. */
#define GH_VM_GET_MEM_REGION _IOWR(GH_VENDOR_IOCTL_TYPE, 0x45, struct gh_vm_mem_region)
/** vCPU: the first call starts the VM; blocks until it ends and returns the exit type. */
#define GH_VENDOR_VCPU_RUN _IO(GH_VENDOR_IOCTL_TYPE, 0x80)

/** virtio backend: bytes of VM memory that can be mapped from the VM's file descriptor; an 8-byte record. */
#define GH_VIRTIO_GET_SHMEM_SIZE _IOC(_IOC_READ, GH_VENDOR_IOCTL_TYPE, 0x61, 8)
/** virtio backend: registers an ioeventfd; a 16-byte record. */
#define GH_VIRTIO_IOEVENTFD _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x62, 16)
/** virtio backend: registers an irqfd; a 16-byte record. */
#define GH_VIRTIO_IRQFD _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x63, 16)
/** virtio backend: blocks until the guest's driver wants something; a 16-byte record. */
#define GH_VIRTIO_WAIT_FOR_EVENT _IOC(_IOC_READ | _IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x64, 16)
/** virtio backend: offers device features; a 16-byte record. */
#define GH_VIRTIO_SET_DEVICE_FEATURES _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x65, 16)
/** virtio backend: the longest queue; a 16-byte record. */
#define GH_VIRTIO_SET_QUEUE_NUM_MAX _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x66, 16)
/** virtio backend: writes the device's configuration; a 16-byte record. */
#define GH_VIRTIO_SET_DEVICE_CONFIG _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x67, 16)
/** virtio backend: reads the configuration that the driver wrote; a 16-byte record. */
#define GH_VIRTIO_GET_DRIVER_CONFIG _IOC(_IOC_READ | _IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x68, 16)
/** virtio backend: describes a queue; a 40-byte record. */
#define GH_VIRTIO_GET_QUEUE_INFO _IOC(_IOC_READ | _IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x69, 40)
/** virtio backend: the features that the driver took; a 16-byte record. */
#define GH_VIRTIO_GET_DRIVER_FEATURES _IOC(_IOC_READ | _IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x6a, 16)
/** virtio backend: acknowledges that the driver is ready; a 4-byte record. */
#define GH_VIRTIO_ACK_DRIVER_OK _IOC(_IOC_READ | _IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x6b, 4)
/** virtio backend: says that the backend is ready. Known from one user only. */
#define GH_VIRTIO_SET_APP_READY _IO(GH_VENDOR_IOCTL_TYPE, 0x6c)
/** virtio backend: acknowledges a reset; an 8-byte record. */
#define GH_VIRTIO_ACK_RESET _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x6d, 8)
/** virtio input: writes the device's configuration; a 32-byte record. */
#define GH_VIRTIO_INPUT_SET_CONFIG _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x6e, 32)
/** virtio input: writes the device's data; a 140-byte record. */
#define GH_VIRTIO_INPUT_SET_DATA _IOC(_IOC_WRITE, GH_VENDOR_IOCTL_TYPE, 0x6f, 140)

/** Exit type that [`GH_VENDOR_VCPU_RUN`] returns: unknown. */
#define GH_VM_EXIT_UNKNOWN 0U
/** Exit type: shut down. */
#define GH_VM_EXIT_SHUTDOWN 1U
/** Exit type: restart wanted. */
#define GH_VM_EXIT_RESTART 2U
/** Exit type: the guest panicked. */
#define GH_VM_EXIT_PANIC 3U
/** Exit type: the non-secure watchdog bit. */
#define GH_VM_EXIT_NS_WATCHDOG 4U
/** Exit type: an error of the hypervisor. */
#define GH_VM_EXIT_HYP_ERROR 5U
/** Exit type: an asynchronous external abort. */
#define GH_VM_EXIT_ASYNC_EXT_ABORT 6U
/** Exit type: stopped by the host. */
#define GH_VM_EXIT_FORCE_STOPPED 7U

#endif
