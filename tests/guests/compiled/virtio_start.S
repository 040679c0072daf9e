// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Entry of the virtio guest: a stack, a zeroed .bss, then guest_main(devicetree). Its answer is 0 to power off, anything
// else to reset.

        .section .text.start, "ax"
        .globl  _start
_start:
        mov     x19, x0
        adrp    x1, __bss_start
        add     x1, x1, :lo12:__bss_start
        adrp    x2, __bss_end
        add     x2, x2, :lo12:__bss_end
1:      cmp     x1, x2
        b.hs    2f
        str     xzr, [x1], #8
        b       1b
2:      adrp    x1, __stacks
        add     x1, x1, :lo12:__stacks
        add     x1, x1, #0x8000
        mov     sp, x1
        mov     x29, xzr
        mov     x30, xzr
        mov     x0, x19
        bl      guest_main
        cmp     x0, #0
        movz    w0, #0x0008                     // PSCI SYSTEM_OFF
        movz    w1, #0x0009                     // PSCI SYSTEM_RESET
        csel    w0, w0, w1, eq
        movk    w0, #0x8400, lsl #16
        hvc     #0
        brk     #1
