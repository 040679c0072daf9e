// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Makes the golden cases of the interpreter's test: random instructions of every class with random registers and memory,
// and what another implementation of arm64 makes of them. Runs as a Linux program on arm64, under qemu-aarch64 or on
// hardware; ./generate builds and runs it.
//
// Each case is placed among BRK instructions, so that the next thing that happens after it is a signal. The signal handler
// reads the outcome from the interrupted context and puts the next case into it.
//
// The output is a sequence of classes: length and name, count (u16), then the cases; all numbers are little-endian.
//   case:    seed u64, words u8, word u32 ..., overrides u8, (register u8, value u64) ...
//   outcome: status u8 (0 done, 1 undefined); if done: flags u8, pc - CODE u32, registers u8, (register u8, value u64) ...,
//            bytes u8, (offset u16, value u8) ...
// Register 31 is the stack pointer. Only what differs from the start is listed. The start follows from the seed.

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define CODE 0x40000000ull
#define CODE_SIZE 0x10000u
#define START 0x8000u
#define DATA 0x50000000ull
#define DATA_SIZE 512u

// What a class's instructions need to be run safely.
enum kind {
    ALU,       // nothing
    BRANCH26,  // an offset of 26, 19 bits at bit 0 or 5 that stays inside the code
    BRANCH19,
    BRANCH14,
    TO_REG,    // a register that points into the code
    LITERAL,
    UNSIGNED,  // the addressing modes
    SIGNED,
    REGOFF,
    PAIR,
    BASE,      // the address is the base register; aligned for twice the size
    EXCLUSIVE, // a load-exclusive and a store-exclusive
};

struct class { const char *name; enum kind kind; const char *pattern; int weight; };

static const struct class classes[] = {
    {"adr", ALU, "xxx10000 xxxxxxxxxxxxxxxxxxx xxxxx", 1},
    {"add_sub_immediate", ALU, "xxx100010 x xxxxxxxxxxxx xxxxx xxxxx", 2},
    {"logical_immediate", ALU, "xxx100100 x xxxxxx xxxxxx xxxxx xxxxx", 3},
    {"move_wide", ALU, "xxx100101 xx xxxxxxxxxxxxxxxx xxxxx", 2},
    {"bitfield", ALU, "xxx100110 x xxxxxx xxxxxx xxxxx xxxxx", 3},
    {"bitfield_64", ALU, "1xx100110 1 xxxxxx xxxxxx xxxxx xxxxx", 2},
    {"bitfield_32", ALU, "0xx100110 0 0xxxxx 0xxxxx xxxxx xxxxx", 2},
    {"extract", ALU, "x00100111 x 0 xxxxx xxxxxx xxxxx xxxxx", 2},
    {"logical_shifted", ALU, "xxx01010 xx x xxxxx xxxxxx xxxxx xxxxx", 3},
    {"add_sub_shifted", ALU, "xxx01011 xx 0 xxxxx xxxxxx xxxxx xxxxx", 3},
    {"add_sub_extended", ALU, "xxx01011 00 1 xxxxx xxx xxx xxxxx xxxxx", 3},
    {"adc_sbc", ALU, "xxx11010000 xxxxx 000000 xxxxx xxxxx", 2},
    {"rmif", ALU, "10111010000 xxxxxx 00001 xxxxx 0 xxxx", 1},
    {"setf", ALU, "00111010000 000000 x0010 xxxxx 01101", 1},
    {"conditional_compare", ALU, "xx1 11010010 xxxxx xxxx x0 xxxxx 0 xxxx", 3},
    {"conditional_select", ALU, "xx0 11010100 xxxxx xxxx 0x xxxxx xxxxx", 2},
    {"divide", ALU, "x00 11010110 xxxxx 00001x xxxxx xxxxx", 3},
    {"shift_by_register", ALU, "x00 11010110 xxxxx 0010xx xxxxx xxxxx", 2},
    {"crc32", ALU, "x00 11010110 xxxxx 010xxx xxxxx xxxxx", 2},
    {"one_source", ALU, "x10 11010110 00000 000xxx xxxxx xxxxx", 3},
    {"multiply_add", ALU, "x00 11011 x0x xxxxx x xxxxx xxxxx xxxxx", 3},
    {"multiply_high", ALU, "100 11011 x10 xxxxx 0 11111 xxxxx xxxxx", 1},
    {"flags_register", ALU, "1101010100 x 1 1011010000 10000 xxxxx", 1},
    {"carry_invert", ALU, "11010101000000000100000000011111", 1},
    {"hint", ALU, "11010101000000110010 xxxxxxx 11111", 1},
    {"barrier", ALU, "11010101000000110011 xxxx 10x 11111", 1},
    {"isb", ALU, "11010101000000110011 xxxx 110 11111", 1},
    {"branch", BRANCH26, "x00101 xxxxxxxxxxxxxxxxxxxxxxxxxx", 1},
    {"branch_conditional", BRANCH19, "01010100 xxxxxxxxxxxxxxxxxxx 0 xxxx", 2},
    {"compare_and_branch", BRANCH19, "x011010x xxxxxxxxxxxxxxxxxxx xxxxx", 2},
    {"test_and_branch", BRANCH14, "x011011x xxxxx xxxxxxxxxxxxxx xxxxx", 2},
    {"branch_to_register", TO_REG, "1101011 00xx 11111 000000 xxxxx 00000", 1},
    {"load_literal", LITERAL, "xx011000 xxxxxxxxxxxxxxxxxxx xxxxx", 1},
    {"load_store_unsigned", UNSIGNED, "xx111001xx xxxxxxxxxxxx xxxxx xxxxx", 3},
    {"load_store_unscaled", SIGNED, "xx111000xx0 xxxxxxxxx 00 xxxxx xxxxx", 2},
    {"load_store_post", SIGNED, "xx111000xx0 xxxxxxxxx 01 xxxxx xxxxx", 2},
    {"load_store_unprivileged", SIGNED, "xx111000xx0 xxxxxxxxx 10 xxxxx xxxxx", 2},
    {"load_store_pre", SIGNED, "xx111000xx0 xxxxxxxxx 11 xxxxx xxxxx", 2},
    {"load_store_register", REGOFF, "xx111000xx1 xxxxx xxx x 10 xxxxx xxxxx", 3},
    {"load_store_pair", PAIR, "xx1010 0xx x xxxxxxx xxxxx xxxxx xxxxx", 4},
    {"ldapur_stlur", SIGNED, "xx011001xx0 xxxxxxxxx 00 xxxxx xxxxx", 2},
    {"ldar_stlr", BASE, "xx001000 1x0 11111 1 11111 xxxxx xxxxx", 1},
    {"ldapr", BASE, "xx111000 101 11111 1100 00 xxxxx xxxxx", 1},
    {"compare_and_swap", BASE, "xx001000 1x1 xxxxx x 11111 xxxxx xxxxx", 2},
    {"compare_and_swap_pair", BASE, "0x001000 0x1 xxxxx x 11111 xxxxx xxxxx", 2},
    {"atomic_operation", BASE, "xx111000 xx1 xxxxx 0xxx 00 xxxxx xxxxx", 4},
    {"swap", BASE, "xx111000 xx1 xxxxx 1000 00 xxxxx xxxxx", 1},
    {"exclusive", EXCLUSIVE, "xx001000 010 11111 x 11111 xxxxx xxxxx", 2},
    {"exclusive_pair", EXCLUSIVE, "1x001000 011 11111 x xxxxx xxxxx xxxxx", 2},
};
#define CLASSES (sizeof classes / sizeof *classes)

static uint64_t rng_state;

static uint64_t next(void) // splitmix64
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

struct state { uint64_t x[32]; uint32_t nzcv; uint8_t data[DATA_SIZE]; };

static const uint64_t special[8] = {
    0, ~0ull, 1ull << 63, ~0ull >> 1, 0x80000000ull, 0x7fffffffull, 0xffffffffull, 0xffffffff80000000ull,
};

// The start that a seed stands for. The test has the same function.
static void start_of(uint64_t seed, struct state *s)
{
    rng_state = seed;
    for (int r = 0; r < 32; r++) {
        uint64_t how = next(), v = next();
        switch (how & 7) {
        case 0: v &= 0xff; break;
        case 1: v &= 0xffffffff; break;
        case 2: v = -(v & 0xff); break;
        case 3: v = special[v & 7]; break;
        case 4: v = 1ull << (v & 63); break;
        case 5: v = (uint64_t)(int64_t)(int32_t)v; break;
        }
        s->x[r] = v;
    }
    s->x[31] &= ~15ull;
    s->nzcv = next() & 15;
    for (unsigned i = 0; i < DATA_SIZE; i += 8) {
        uint64_t v = next();
        memcpy(s->data + i, &v, 8);
    }
}

// The case at hand.
static struct { uint64_t seed; unsigned words; uint32_t word[2]; unsigned overrides;
                struct { uint8_t reg; uint64_t value; } override[2]; } cur;
static struct state before;

static uint8_t *out;
static size_t out_len, out_max;

static void put(const void *p, size_t n)
{
    if (out_len + n > out_max)
        out = realloc(out, out_max = 2 * (out_len + n));
    memcpy(out + out_len, p, n);
    out_len += n;
}
static void put8(unsigned v) { uint8_t b = v; put(&b, 1); }

static uint32_t bits(uint32_t w, int hi, int lo) { return w >> lo & (~0u >> (31 - hi + lo)); }
static int64_t sext(uint64_t v, int width) { return (int64_t)(v << (64 - width)) >> (64 - width); }
static void override(unsigned reg, uint64_t value)
{
    cur.override[cur.overrides].reg = reg;
    cur.override[cur.overrides++].value = value;
}

static uint32_t fill(const char *pattern)
{
    uint32_t w = 0, random = next();
    int n = 0;
    for (; *pattern; pattern++) {
        if (*pattern == ' ')
            continue;
        w = w << 1 | (*pattern == 'x' ? random & 1 : (uint32_t)(*pattern - '0'));
        random >>= *pattern == 'x';
        n++;
    }
    if (n != 32) {
        fprintf(stderr, "a pattern has %d bits\n", n);
        exit(2);
    }
    return w;
}

// An aligned place in the middle of the data, for an access of `size` bytes.
static uint64_t place(unsigned size) { return DATA + 128 + (next() % 240 & ~(uint64_t)(size - 1)); }

// Makes a case; 0: not this one, try again.
static int make(const struct class *c)
{
    uint64_t choice = next();
    uint32_t w = fill(c->pattern);
    unsigned rn = bits(w, 9, 5), rt = bits(w, 4, 0), rm = bits(w, 20, 16), rt2 = bits(w, 14, 10);
    unsigned size = 1u << bits(w, 31, 30);
    uint32_t offset = (next() % (CODE_SIZE / 4)) - START / 4; // in instructions, inside the code
    cur.words = 1;
    cur.overrides = 0;
    switch (c->kind) {
    case ALU:
        if (!strcmp(c->name, "hint") && bits(w, 11, 5) >= 1 && bits(w, 11, 5) <= 3)
            return 0; // yield, wfe, wfi
        if (!strcmp(c->name, "crc32") && next() % 4) // most of them with the size that fits the register
            w = (w & ~(3u << 10)) | (w >> 31 ? 3u << 10 : (uint32_t)(next() % 3) << 10);
        break;
    case BRANCH26:
        w = (w & 0xfc000000) | (offset & 0x3ffffff);
        break;
    case BRANCH19:
        w = (w & 0xff00001f) | (offset & 0x7ffff) << 5;
        if (choice & 1)
            override(rt, 0);
        break;
    case BRANCH14:
        w = (w & 0xfff8001f) | (offset & 0x3fff) << 5;
        break;
    case TO_REG:
        if (rn == 31)
            return 0;
        override(rn, CODE + START + 4 * (int64_t)(int32_t)offset);
        break;
    case LITERAL:
        // Eight bytes must fit and, as for every access, be aligned.
        offset = (choice % (CODE_SIZE / 8)) * 2 - START / 4;
        w = (w & 0xff00001f) | (offset & 0x7ffff) << 5;
        break;
    case UNSIGNED:
        override(rn, place(size) - (uint64_t)bits(w, 21, 10) * size);
        break;
    case SIGNED: {
        int mode = bits(w, 11, 10), back = mode & 1;
        if (back && rn == rt && rn != 31)
            return 0;
        override(rn, place(size) - (mode == 1 ? 0 : sext(bits(w, 20, 12), 9)));
        break;
    }
    case REGOFF: {
        if (rm == rn || (bits(w, 15, 14) & 1) == 0)
            return 0;
        int64_t index = (int64_t)(choice % 61) - 30;
        if (!(w >> 12 & 1))
            index *= size;
        uint64_t value = index;
        if (bits(w, 15, 13) == 2) { // UXTW: what is above does not count
            index = llabs(index);
            value = (uint64_t)index | next() << 32;
        } else if (bits(w, 15, 13) == 6) {
            value = (uint32_t)index | next() << 32;
        }
        if (rm == 31)
            index = 0;
        else
            override(rm, value);
        override(rn, place(size) - index * (w >> 12 & 1 ? size : 1));
        break;
    }
    case PAIR: {
        int mode = bits(w, 24, 23), back = mode & 1, load = w >> 22 & 1;
        if ((load && rt == rt2) || (back && rn != 31 && (rn == rt || rn == rt2)))
            return 0;
        if (bits(w, 31, 30) == 1 && !load)
            return 0; // stores a tag
        if (bits(w, 31, 30) == 3)
            return 0;
        size = bits(w, 31, 30) == 2 ? 8 : 4;
        override(rn, place(size) - (mode == 1 ? 0 : sext(bits(w, 21, 15), 7) * size));
        break;
    }
    case BASE:
        override(rn, place(16));
        if (!strcmp(c->name, "compare_and_swap") && choice % 2) { // half of them succeed
            if (rm == rn || rm == 31)
                return 0;
            uint64_t at = cur.override[0].value, v;
            struct state s;
            uint64_t saved = rng_state;
            start_of(cur.seed, &s);
            rng_state = saved;
            memcpy(&v, s.data + (at - DATA), 8);
            override(rm, v);
        }
        break;
    case EXCLUSIVE: {
        int pair = w >> 21 & 1;
        unsigned rs = choice & 31, t = choice >> 5 & 31, t2 = pair ? choice >> 10 & 31 : 31;
        if (pair && rt == rt2)
            return 0;
        if (rs == t || (pair && rs == t2) || rs == rn || rt == rn || (pair && rt2 == rn))
            return 0;
        override(rn, place(16));
        cur.words = 2;
        cur.word[1] = (w & 0xffa003e0) | (choice >> 16 & 1) << 15 | rs << 16 | t2 << 10 | t;
        break;
    }
    }
    // A stack pointer that is no multiple of 16 is a fault on hardware, and not in every emulator.
    if (c->kind >= UNSIGNED && rn == 31 && cur.override[cur.overrides - 1].value & 15)
        return 0;
    cur.word[0] = w;
    return 1;
}

static unsigned at_class, left;
static uint64_t case_seed;

// Puts the next case into the context; 0 at the end.
static int load_next(ucontext_t *uc)
{
    static size_t scale = 0;
    if (!scale)
        scale = atoi(getenv("CASES") ? getenv("CASES") : "50");
    while (!left) {
        if (at_class == CLASSES)
            return 0;
        const struct class *c = &classes[at_class++];
        left = c->weight * scale;
        put8(strlen(c->name));
        put(c->name, strlen(c->name));
        uint16_t n = left;
        put(&n, 2);
    }
    left--;
    do {
        rng_state = case_seed += 0x632be59bd9b4e019ull;
        cur.seed = next();
        rng_state = ~cur.seed;
    } while (!make(&classes[at_class - 1]));

    start_of(cur.seed, &before);
    for (unsigned i = 0; i < cur.overrides; i++)
        before.x[cur.override[i].reg] = cur.override[i].value;
    memcpy((void *)DATA, before.data, DATA_SIZE);
    uint32_t *code = (uint32_t *)(CODE + START);
    memcpy(code, cur.word, 4 * cur.words);
    __builtin___clear_cache((char *)code, (char *)(code + 2));

    for (int r = 0; r < 31; r++)
        uc->uc_mcontext.regs[r] = before.x[r];
    uc->uc_mcontext.sp = before.x[31];
    uc->uc_mcontext.pc = CODE + START;
    uc->uc_mcontext.pstate = (uint64_t)before.nzcv << 28;
    return 1;
}

static void collect(int sig, ucontext_t *uc)
{
    put(&cur.seed, 8);
    put8(cur.words);
    put(cur.word, 4 * cur.words);
    put8(cur.overrides);
    for (unsigned i = 0; i < cur.overrides; i++) {
        put8(cur.override[i].reg);
        put(&cur.override[i].value, 8);
    }
    uint32_t pc = uc->uc_mcontext.pc - CODE;
    if (sig == SIGILL) {
        put8(1);
    } else if (sig == SIGTRAP) {
        put8(0);
        put8(uc->uc_mcontext.pstate >> 28 & 15);
        put(&pc, 4);
        size_t count_at = out_len;
        put8(0);
        for (int r = 0; r < 32; r++) {
            uint64_t v = r == 31 ? uc->uc_mcontext.sp : uc->uc_mcontext.regs[r];
            if (v != before.x[r]) {
                put8(r);
                put(&v, 8);
                out[count_at]++;
            }
        }
        count_at = out_len;
        put8(0);
        for (unsigned i = 0; i < DATA_SIZE; i++) {
            uint8_t v = ((uint8_t *)DATA)[i];
            if (v != before.data[i]) {
                uint16_t at = i;
                put(&at, 2);
                put8(v);
                out[count_at]++;
            }
        }
    } else {
        fprintf(stderr, "%s: %08x %08x: signal %d at +%x\n", classes[at_class - 1].name, cur.word[0], cur.word[1], sig, pc);
        _exit(1);
    }
    // The places of the two words become BRK again.
    uint32_t *code = (uint32_t *)(CODE + START);
    for (unsigned i = 0; i < 2; i++)
        code[i] = 0xd4200000 | (START / 4 + i) << 5;
}

static void handler(int sig, siginfo_t *info, void *context)
{
    (void)info;
    static int running;
    if (running)
        collect(sig, context);
    running = 1;
    if (!load_next(context)) {
        fwrite(out, 1, out_len, stdout);
        fflush(stdout);
        _exit(0);
    }
}

int main(void)
{
    static uint8_t stack[1 << 16];
    stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    const int signals[] = {SIGTRAP, SIGILL, SIGSEGV, SIGBUS};

    case_seed = getenv("SEED") ? strtoull(getenv("SEED"), 0, 0) : 1;
    if (mmap((void *)CODE, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED ||
        mmap((void *)DATA, 0x1000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
        sigaltstack(&alt, 0)) {
        perror("memory");
        return 1;
    }
    for (uint32_t i = 0; i < CODE_SIZE / 4; i++)
        ((uint32_t *)CODE)[i] = 0xd4200000 | i << 5;
    sigfillset(&action.sa_mask);
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, 0);
    out = malloc(out_max = 1 << 20);
    __asm__ volatile("brk #0");
    return 1;
}
