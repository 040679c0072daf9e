// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Ordinary C: sorting, checksums, wide arithmetic, strings, structures, atomics. Every result is printed, and the same
// file built for the machine at hand (-DHOSTED) prints what it should be.

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#ifdef HOSTED
#include <stdio.h>
static void put(char c) { putchar(c); }
#else
static void put(char c) { *(volatile uint8_t *)0x10000000 = (uint8_t)c; }

void *memcpy(void *to, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = ((const char *)from)[i];
    return to;
}
void *memset(void *to, int c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = (char)c;
    return to;
}
#endif

typedef unsigned __int128 u128;
typedef __int128 i128;

static void put_text(const char *s) { while (*s) put(*s++); }

static void put_number(uint64_t v, unsigned base, int width)
{
    char digits[24];
    int n = 0;
    do
        digits[n++] = "0123456789abcdef"[v % base];
    while ((v /= base) || n < width);
    while (n)
        put(digits[--n]);
}

// A small printf: %d %u %x %s %c, with l for 64 bits.
static void print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        int wide = *++format == 'l';
        format += wide;
        switch (*format) {
        case 'd': {
            int64_t v = wide ? va_arg(args, int64_t) : va_arg(args, int);
            if (v < 0)
                put('-');
            put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, 1);
            break;
        }
        case 'u': put_number(wide ? va_arg(args, uint64_t) : va_arg(args, unsigned), 10, 1); break;
        case 'x': put_number(wide ? va_arg(args, uint64_t) : va_arg(args, unsigned), 16, wide ? 16 : 8); break;
        case 's': put_text(va_arg(args, const char *)); break;
        case 'c': put((char)va_arg(args, int)); break;
        default: put('%');
        }
    }
    va_end(args);
}

static uint64_t random_state = 42;
static uint64_t random_number(void)
{
    uint64_t x = random_state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return random_state = x;
}

static void sort_heap(int32_t *a, int n)
{
    for (int end = n, root = n / 2; end > 1;) {
        if (root > 0) {
            root--;
        } else {
            end--;
            int32_t t = a[end]; a[end] = a[0]; a[0] = t;
        }
        for (int at = root, child; (child = 2 * at + 1) < end; at = child) {
            if (child + 1 < end && a[child + 1] > a[child])
                child++;
            if (a[at] >= a[child])
                break;
            int32_t t = a[at]; a[at] = a[child]; a[child] = t;
        }
    }
}

static void sort_quick(int16_t *a, int from, int to)
{
    while (from < to) {
        int16_t pivot = a[(from + to) / 2];
        int i = from, j = to;
        while (i <= j) {
            while (a[i] < pivot) i++;
            while (a[j] > pivot) j--;
            if (i <= j) { int16_t t = a[i]; a[i++] = a[j]; a[j--] = t; }
        }
        sort_quick(a, from, j);
        from = i;
    }
}

static uint32_t crc(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int i = 0; i < 8; i++)
            c = c >> 1 ^ (0xedb88320u & -(c & 1));
    }
    return ~c;
}

static uint64_t hash(const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325ull;
    while (n--)
        h = (h ^ *p++) * 0x100000001b3ull;
    return h;
}

struct packet { uint8_t kind : 3, flag : 1, rest : 4; int16_t port; uint32_t address; int64_t stamp; char name[12]; };

static struct packet make_packet(int i)
{
    struct packet p = {0};
    p.kind = (unsigned)i % 7; p.flag = i & 1; p.rest = (unsigned)i % 13;
    p.port = (int16_t)(i * -771); p.address = (uint32_t)i * 2654435761u; p.stamp = -((int64_t)i << 33) + i;
    for (int c = 0; c < 11; c++)
        p.name[c] = (char)('a' + (i + c) % 26);
    return p;
}

// The compiler's library counts with SIMD instructions.
static int count_ones(uint64_t v)
{
    int n = 0;
    for (; v; v &= v - 1)
        n++;
    return n;
}

static int64_t dispatch(int op, int64_t a, int64_t b)
{
    switch (op) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return b ? a / b : 0;
    case 4: return b ? a % b : 0;
    case 5: return a & b;
    case 6: return a | ~b;
    case 7: return a ^ b;
    case 8: return (int64_t)((uint64_t)a << (b & 63));
    case 9: return a >> (b & 63);
    case 10: return a < b ? -1 : a > b;
    case 11: return (int8_t)a * (int16_t)b;
    case 12: return (int32_t)a / ((int32_t)b | 1);
    case 13: return (uint32_t)a / ((uint32_t)b | 1);
    case 14: return count_ones((uint64_t)a) - __builtin_clzll((uint64_t)b | 1);
    case 15: return (int64_t)(__builtin_bswap64((uint64_t)a) ^ __builtin_bswap32((uint32_t)b) ^ __builtin_bswap16((uint16_t)b));
    default: return (int64_t)((uint64_t)a >> 17 | (uint64_t)a << 47);
    }
}

static uint64_t ackermann(uint64_t m, uint64_t n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static int32_t numbers[500];
static int16_t shorts[333];
static uint8_t bytes[777];
static uint32_t grid[16][16];

int guest_main(long cpu);
int guest_main(long cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < 500; i++)
        numbers[i] = (int32_t)random_number();
    sort_heap(numbers, 500);
    int ordered = 1;
    for (unsigned i = 1; i < 500; i++)
        ordered &= numbers[i - 1] <= numbers[i];
    print("heap sort: %d, %d .. %d, %lx\n", ordered, numbers[0], numbers[499], hash(numbers, sizeof numbers));

    for (unsigned i = 0; i < 333; i++)
        shorts[i] = (int16_t)random_number();
    sort_quick(shorts, 0, 332);
    print("quick sort: %d .. %d, %lx\n", shorts[0], shorts[332], hash(shorts, sizeof shorts));

    for (unsigned i = 0; i < 777; i++)
        bytes[i] = (uint8_t)(random_number() >> 11);
    print("crc: %x %x\n", crc((const uint8_t *)"123456789", 9), crc(bytes, sizeof bytes));

    u128 product = 1;
    for (unsigned i = 0; i < 40; i++)
        product = product * (random_number() | 1) + i;
    u128 quotient = product / 1000000007u, remainder = product % ((u128)1 << 70 | 12345);
    i128 negative = -(i128)(product >> 3) / 77777777777777;
    print("u128: %lx%lx / %lx%lx %% %lx%lx - %lx%lx\n", (uint64_t)(product >> 64), (uint64_t)product,
          (uint64_t)(quotient >> 64), (uint64_t)quotient, (uint64_t)(remainder >> 64), (uint64_t)remainder,
          (uint64_t)((u128)negative >> 64), (uint64_t)negative);

    uint64_t sum = 0;
    for (int i = 0; i < 100; i++) {
        struct packet p = make_packet(i), q = p;
        q.stamp += p.port;
        sum = sum * 31 + hash(&q.stamp, 8) + q.kind * 3 + q.flag + q.rest + q.address + hash(q.name, 12);
    }
    print("structures: %lx\n", sum);

    int64_t acc = 0x123456789abcdef;
    for (int i = 0; i < 4000; i++) {
        int64_t b = (int64_t)random_number();
        acc = acc * 3 + dispatch(i % 17, (i & 32 ? acc : acc >> (i & 31)), i & 64 ? b : b >> 40);
    }
    print("dispatch: %lx\n", (uint64_t)acc);

    for (unsigned y = 0; y < 16; y++)
        for (unsigned x = 0; x < 16; x++)
            grid[y][x] = (uint32_t)random_number() >> (x + y) / 2;
    for (int round = 0; round < 3; round++)
        for (unsigned y = 0; y < 16; y++)
            for (unsigned x = 0; x < 16; x++)
                for (unsigned k = 0; k < 16; k++)
                    grid[y][x] += grid[y][k] * grid[k][x] + round;
    print("grid: %lx\n", hash(grid, sizeof grid));

    print("ackermann: %lu %lu\n", ackermann(2, 9), ackermann(3, 3));

    static uint8_t byte_cell; static uint16_t half_cell; static uint32_t word_cell; static uint64_t long_cell;
    uint64_t seen = 0;
    for (unsigned i = 0; i < 300; i++) {
        uint64_t v = random_number();
        seen = seen * 7 + __atomic_fetch_add(&byte_cell, (uint8_t)v, __ATOMIC_SEQ_CST);
        seen = seen * 7 + __atomic_fetch_xor(&half_cell, (uint16_t)v, __ATOMIC_RELAXED);
        seen = seen * 7 + __atomic_exchange_n(&word_cell, (uint32_t)(v >> 9), __ATOMIC_ACQ_REL);
        seen = seen * 7 + __atomic_fetch_and(&long_cell, v | 0xff00ff, __ATOMIC_RELEASE);
        seen = seen * 7 + __atomic_fetch_or(&long_cell, v << 20, __ATOMIC_ACQUIRE);
        uint64_t expected = i & 1 ? long_cell : v;
        seen = seen * 7 + __atomic_compare_exchange_n(&long_cell, &expected, v * 5, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
        seen += expected + __atomic_load_n(&word_cell, __ATOMIC_ACQUIRE);
        __atomic_store_n(&half_cell, (uint16_t)seen, __ATOMIC_RELEASE);
    }
    print("atomics: %lx %x %x %x %lx\n", seen, byte_cell, half_cell, word_cell, long_cell);
    print("done\n");
    return 0;
}

#ifdef HOSTED
int main(void) { return guest_main(0); }
#endif
