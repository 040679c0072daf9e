// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Entry of the compiled guests: a stack for each CPU, a zeroed .bss, then guest_main(cpu). Powers off when that returns
// on CPU 0; other CPUs turn themselves off.

        .equ    STACK_SHIFT, 14                 // 16 KiB for each CPU

        .section .text.start, "ax"
        .globl  _start, start_secondary
_start:
        adrp    x1, __bss_start
        add     x1, x1, :lo12:__bss_start
        adrp    x2, __bss_end
        add     x2, x2, :lo12:__bss_end
1:      cmp     x1, x2
        b.hs    start_secondary
        str     xzr, [x1], #8
        b       1b

start_secondary:
        mrs     x0, mpidr_el1
        and     x0, x0, #0xff
        adrp    x1, __stacks
        add     x1, x1, :lo12:__stacks
        add     x2, x0, #1
        add     x1, x1, x2, lsl #STACK_SHIFT
        mov     sp, x1
        mov     x29, xzr
        mov     x30, xzr
        mov     x19, x0
        bl      guest_main
        movz    w0, #0x0008                     // PSCI SYSTEM_OFF
        movz    w1, #0x0002                     // PSCI CPU_OFF
        cmp     x19, #0
        csel    w0, w0, w1, eq
        movk    w0, #0x8400, lsl #16
        hvc     #0
        brk     #1

// long psci(long function, long a, long b, long c)
        .globl  psci
psci:   hvc     #0
        ret
