// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The built-in guest: greets on the UART, says which CPU it is, has a test device check accesses of every width, starts
// a second vCPU when there is one, and powers off by PSCI.
//
// Entered at offset 0, at EL1 with the MMU off and x0 = the devicetree (not read). It is position independent and
// needs no stack: every routine keeps its return address in a register of its own.
//
// With the MMU off every data access is a Device access, so all of them are aligned, and there are no exclusives.

        .equ    UART,           0x10000000      // 16550, one byte per register
        .equ    UART_THR,       0
        .equ    UART_LSR,       5
        .equ    LSR_THRE_BIT,   5

        .equ    TEST,           0x10002000
        .equ    TEST_READ,      0x00            // n bytes give the low n bytes of a pattern
        .equ    TEST_WRITE,     0x10            // n bytes must carry the pattern inverted
        .equ    TEST_COUNTS,    0x20            // passed | failed << 16

        .equ    PSCI_CPU_OFF,           0x84000002
        .equ    PSCI_CPU_ON,            0xc4000003
        .equ    PSCI_SYSTEM_OFF,        0x84000008
        .equ    PSCI_SYSTEM_RESET,      0x84000009
        // What CPU_ON may answer for a CPU that is not there.
        .equ    PSCI_INVALID_PARAMS,    -2
        .equ    PSCI_NOT_PRESENT,       -7
        .equ    PSCI_DISABLED,          -8

        // How often CPU 0 looks for CPU 1's sign of life before it gives up.
        .equ    PATIENCE,       0x10000000

        .macro  psci function
        movz    w0, #((\function) & 0xffff)
        movk    w0, #((\function) >> 16), lsl #16
        hvc     #0
        .endm

        .macro  say text
        adr     x0, \text
        bl      puts
        .endm

        .section .text, "ax"
        .globl  _start
_start:
        bl      setup

        // The host wrote this image through its caches, and we run without any. A dirty line over the flag that is
        // written back later would undo what CPU 1 writes there.
        adr     x19, flag
        dc      civac, x19
        dsb     sy

        say     text_hello
        bl      say_cpu

        bl      check_device
        bl      start_cpu1

        say     text_bye
        psci    PSCI_SYSTEM_OFF
hang:   wfi
        b       hang

// CPU 1 comes up here.
secondary:
        bl      setup
        bl      say_cpu
        mov     w1, #1
        adr     x19, flag
        str     w1, [x19]
        dsb     sy
        psci    PSCI_CPU_OFF
        b       hang

// Vectors, and the base addresses that everything below keeps: x27 = test device, x28 = UART.
setup:
        msr     daifset, #0xf
        msr     tpidr_el1, xzr
        adr     x1, vectors
        msr     vbar_el1, x1
        isb
        movz    x27, #(TEST & 0xffff)
        movk    x27, #(TEST >> 16), lsl #16
        movz    x28, #(UART & 0xffff)
        movk    x28, #(UART >> 16), lsl #16
        ret

// "CPU n is up".
say_cpu:
        mov     x26, x30
        say     text_cpu
        mrs     x0, mpidr_el1
        and     w0, w0, #0xff
        bl      putdec
        say     text_is_up
        ret     x26

// Reads 1, 2, 4 and 8 bytes, writes each back inverted, and prints what the device made of it.
check_device:
        mov     x26, x30

        ldrb    w1, [x27, #TEST_READ]
        mvn     w1, w1
        strb    w1, [x27, #TEST_WRITE]

        ldrh    w1, [x27, #TEST_READ]
        mvn     w1, w1
        strh    w1, [x27, #TEST_WRITE]

        ldr     w1, [x27, #TEST_READ]
        mvn     w1, w1
        str     w1, [x27, #TEST_WRITE]

        ldr     x1, [x27, #TEST_READ]
        mvn     x1, x1
        str     x1, [x27, #TEST_WRITE]

        dsb     sy
        ldr     w25, [x27, #TEST_COUNTS]
        say     text_device
        and     w0, w25, #0xffff
        bl      putdec
        say     text_passed
        lsr     w0, w25, #16
        bl      putdec
        say     text_failed
        ret     x26

// Turns CPU 1 on and waits until it has said so. PSCI's answer tells whether there is one.
start_cpu1:
        mov     x26, x30
        mrs     x1, mpidr_el1
        and     x1, x1, #0xffffffffff           // the affinity fields only,
        and     x1, x1, #0xffffffff00ffffff     // without the flags between them,
        and     x1, x1, #0xffffffffffffff00
        orr     x1, x1, #1                      // and the lowest one is 1
        adr     x2, secondary
        mov     x3, xzr
        psci    PSCI_CPU_ON
        cmp     w0, #PSCI_INVALID_PARAMS        // an int32: nothing is said about the upper half
        b.eq    only_one
        cmp     w0, #PSCI_NOT_PRESENT
        b.eq    only_one
        cmp     w0, #PSCI_DISABLED
        b.eq    only_one
        cbnz    w0, cpu1_refused

        adr     x19, flag
        mov     w1, #PATIENCE
1:      ldr     w0, [x19]
        cbnz    w0, cpu1_came
        yield
        subs    w1, w1, #1
        b.ne    1b
        say     text_lost
        b       reset

cpu1_refused:
        mov     w25, w0
        say     text_refused
        mov     x0, x25
        bl      puthex
        say     text_newline
        b       reset

cpu1_came:
        ret     x26

only_one:
        say     text_only_one
        ret     x26

reset:
        psci    PSCI_SYSTEM_RESET
        b       hang

// Prints the string at x0, up to its zero byte; a newline goes out as CR LF. Changes x0-x3, x20, x21.
puts:
        mov     x20, x30
        mov     x21, x0
1:      ldrb    w0, [x21], #1
        cbz     w0, 3f
        cmp     w0, #'\n'
        b.ne    2f
        mov     w0, #'\r'
        bl      putc
        mov     w0, #'\n'
2:      bl      putc
        b       1b
3:      ret     x20

// Prints w0 (up to 99999) in decimal. Changes x0-x3, x20-x24.
putdec:
        mov     x20, x30
        mov     w21, w0
        mov     w22, #10000
        mov     w23, #10
        mov     w24, wzr                        // becomes non-zero with the first digit
1:      udiv    w0, w21, w22
        msub    w21, w0, w22, w21
        orr     w24, w24, w0
        cmp     w22, #1
        csinc   w24, w24, wzr, ne               // the last digit is always printed
        cbz     w24, 2f
        add     w0, w0, #'0'
        bl      putc
2:      udiv    w22, w22, w23
        cbnz    w22, 1b
        ret     x20

// Prints x0 as 16 hex digits. Changes x0-x3, x20-x22.
puthex:
        mov     x20, x30
        mov     x21, x0
        mov     w22, #16
1:      ror     x21, x21, #60
        and     w0, w21, #0xf
        cmp     w0, #10
        add     w1, w0, #('a' - 10)
        add     w0, w0, #'0'
        csel    w0, w0, w1, lo
        bl      putc
        subs    w22, w22, #1
        b.ne    1b
        ret     x20

// Prints the character w0. Changes x2.
putc:   ldrb    w2, [x28, #UART_LSR]
        tbz     w2, #LSR_THRE_BIT, putc
        strb    w0, [x28, #UART_THR]
        ret

// An exception is a bug here or in the host. Without vectors it could spin where nobody can stop it, so report it and
// reset. tpidr_el1 counts how deep we are: a report that fails is not tried again.
exception:
        mrs     x4, tpidr_el1
        add     x5, x4, #1
        msr     tpidr_el1, x5
        cmp     x4, #1
        b.eq    reset
        b.hi    hang
        mov     x25, x0                         // the vector's offset
        mrs     x26, esr_el1
        mrs     x27, elr_el1
        mrs     x29, far_el1
        movz    x28, #(UART & 0xffff)
        movk    x28, #(UART >> 16), lsl #16
        say     text_exception
        mov     x0, x25
        bl      puthex
        say     text_esr
        mov     x0, x26
        bl      puthex
        say     text_elr
        mov     x0, x27
        bl      puthex
        say     text_far
        mov     x0, x29
        bl      puthex
        say     text_newline
        b       reset

        .balign 2048
vectors:
        .set    offset, 0
        .rept   16
        .balign 128
        mov     x0, #offset
        b       exception
        .set    offset, offset + 128
        .endr

        .balign 8
text_hello:     .asciz  "Hello from a Gunyah guest.\n"
text_cpu:       .asciz  "CPU "
text_is_up:     .asciz  " is up.\n"
text_device:    .asciz  "test device: "
text_passed:    .asciz  " passed, "
text_failed:    .asciz  " failed\n"
text_only_one:  .asciz  "There is no second CPU.\n"
text_refused:   .asciz  "CPU 1 cannot be turned on: "
text_lost:      .asciz  "CPU 1 was turned on and never came.\n"
text_bye:       .asciz  "Powering off.\n"
text_exception: .asciz  "Exception at vector "
text_esr:       .asciz  ", ESR "
text_elr:       .asciz  ", ELR "
text_far:       .asciz  ", FAR "
text_newline:   .asciz  "\n"

        // A cache line of its own, of the largest size that CTR_EL0 can name in practice.
        .balign 256
flag:   .word   0
        .balign 256
