/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The ioctl encoding of arm64 and x86-64, for the generator: number in bits 0 to 7, type in bits 8 to 15, length of
 * the argument in bits 16 to 29, direction in bits 30 (user space writes) and 31 (user space reads).
 * The crate's tests compare the result with the system's own linux/ioctl.h.
 */
#ifndef REGENERATE_LINUX_IOCTL_H
#define REGENERATE_LINUX_IOCTL_H

#define _IOC_WRITE 1U
#define _IOC_READ 2U
#define _IOC(dir, type, nr, size) ((__u32)(((dir) << 30) | ((size) << 16) | ((type) << 8) | (nr)))

#define _IO(type, nr) _IOC(0U, type, nr, 0)
#define _IOR(type, nr, arg) _IOC(_IOC_READ, type, nr, sizeof(arg))
#define _IOW(type, nr, arg) _IOC(_IOC_WRITE, type, nr, sizeof(arg))
#define _IOWR(type, nr, arg) _IOC(_IOC_READ | _IOC_WRITE, type, nr, sizeof(arg))

#endif
