// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// As many CPUs as there are add to shared counters at the same time: by an atomic addition, by compare-and-swap, under a
// lock, and by atomics of other widths. CPU 0 prints the sums.

#include <stdint.h>

#define ROUNDS 2000u
#define PSCI_CPU_ON 0xc4000003l

extern char start_secondary[];
long psci(long function, long a, long b, long c);
int guest_main(long cpu);

static uint64_t added, swapped, locked;
static uint32_t lock, small, done;
static uint16_t halves;

static void put(char c) { *(volatile uint8_t *)0x10000000 = (uint8_t)c; }
static void put_text(const char *s) { while (*s) put(*s++); }
static void put_number(uint64_t v)
{
    if (v >= 10)
        put_number(v / 10);
    put((char)('0' + v % 10));
}

static void work(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        __atomic_fetch_add(&added, 3, __ATOMIC_RELAXED);
        uint64_t old = __atomic_load_n(&swapped, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&swapped, &old, old + 5, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            ;
        while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
            while (__atomic_load_n(&lock, __ATOMIC_RELAXED))
                __asm__ volatile("yield");
        locked = locked + 7; // not atomic
        __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
        __atomic_fetch_add(&small, 1, __ATOMIC_SEQ_CST);
        __atomic_fetch_sub(&halves, 1, __ATOMIC_SEQ_CST);
    }
    __atomic_fetch_add(&done, 1, __ATOMIC_RELEASE);
}

int guest_main(long cpu)
{
    if (cpu != 0) {
        work();
        return 0;
    }
    uint32_t cpus = 1;
    while (cpus < 8 && psci(PSCI_CPU_ON, cpus, (long)start_secondary, 0) == 0)
        cpus++;
    work();
    while (__atomic_load_n(&done, __ATOMIC_ACQUIRE) != cpus)
        __asm__ volatile("yield");
    put_text("cpus ");
    put_number(cpus);
    put_text(" added ");
    put_number(added);
    put_text(" swapped ");
    put_number(swapped);
    put_text(" locked ");
    put_number(locked);
    put_text(" small ");
    put_number(small);
    put_text(" halves ");
    put_number(halves);
    put('\n');
    return 0;
}
