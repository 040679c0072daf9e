/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Fixed-width types for the generator, so that it needs no headers of the host's and writes the same on every host.
 * bindgen turns the standard names into Rust's own integers.
 */
#ifndef REGENERATE_LINUX_TYPES_H
#define REGENERATE_LINUX_TYPES_H

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;

#define __u8 uint8_t
#define __u16 uint16_t
#define __u32 uint32_t
#define __u64 uint64_t
#define __s32 int32_t

#endif
