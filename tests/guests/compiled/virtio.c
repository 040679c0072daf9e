// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Drives the virtio devices that the devicetree names, with a driver that polls, and says on the UART what it found. It
// runs with the MMU off, so it is for the interpreter: on hardware its queues would have to be in cached memory.
//
// What it does is chosen by the words of the command line (bootargs):
//   hostile    gives the first disk a queue that is wrong
//   lent       puts the queues outside of the DMA pool, as a kernel without restricted DMA does
//   noplatform does not take VIRTIO_F_ACCESS_PLATFORM
//   twice      resets each device and drives it again
//   spin       does not end

#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define UART 0x10000000ul
#define QSIZE 8u
#define SECTOR 512u
#define DATA 4096u

static void put(char c) { *(volatile u8 *)UART = (u8)c; }
static void say(const char *s) { while (*s) put(*s++); }
static void number(u64 v)
{
    if (v >= 10)
        number(v / 10);
    put((char)('0' + v % 10));
}
static void hex(u64 v)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        put("0123456789abcdef"[v >> shift & 15]);
}
static u32 big(const void *p)
{
    const u8 *b = p;
    return (u32)b[0] << 24 | (u32)b[1] << 16 | (u32)b[2] << 8 | b[3];
}
static int starts(const char *s, const char *with)
{
    while (*with)
        if (*s++ != *with++)
            return 0;
    return 1;
}
static void fill(volatile u8 *to, u8 with, u32 len) { while (len--) *to++ = with; }
static u64 sum(u64 h, const volatile u8 *p, u32 len) // FNV-1a
{
    while (len--)
        h = (h ^ *p++) * 0x100000001b3ul;
    return h;
}
#define SUM0 0xcbf29ce484222325ul

// ---- the tree ----
static u64 devices[32], pool;
static u32 found;
static const char *bootargs = "";

static int has_word(const char *word)
{
    for (const char *s = bootargs; *s; s++) {
        if (starts(s, word))
            return 1;
    }
    return 0;
}

static void read_tree(const u8 *tree)
{
    const u8 *at = tree + big(tree + 8);
    const char *strings = (const char *)tree + big(tree + 12), *node = "";
    for (;;) {
        u32 token = big(at);
        at += 4;
        if (token == 1) {
            node = (const char *)at;
            while (*at)
                at++;
            at = (const u8 *)(((u64)at + 4) & ~3ul);
        } else if (token == 3) {
            u32 len = big(at);
            const char *name = strings + big(at + 4);
            at += 8;
            if (starts(name, "reg") && !name[3]) {
                u64 addr = (u64)big(at) << 32 | big(at + 4);
                if (starts(node, "virtio_mmio@") && found < 32)
                    devices[found++] = addr;
                else if (starts(node, "dma-pool@"))
                    pool = addr;
            }
            if (starts(name, "bootargs"))
                bootargs = (const char *)at;
            at += (len + 3) & ~3u;
        } else if (token == 9) {
            return;
        }
    }
}

// ---- the driver ----
enum { READY = 0x44, NOTIFY = 0x50, ISR = 0x60, ACK = 0x64, STATUS = 0x70 };

struct desc { u64 addr; u32 len; u16 flags, next; };
struct queue {
    struct desc desc[QSIZE];
    u16 avail_flags, avail_idx, avail[QSIZE], used_event;
    u16 pad[QSIZE - 1];
    u16 used_flags, used_idx;
    struct { u32 id, len; } used[QSIZE];
    u16 avail_event;
    u8 header[64] __attribute__((aligned(16)));
    u8 data[DATA] __attribute__((aligned(16)));
    u8 status[8];
} __attribute__((aligned(64)));

// In the pool where there is one.
static struct queue here[3];
static volatile struct queue *queues = here;
static u64 device;
static u16 seen[3];
static int one_queue;

static u32 get(u32 at) { return *(volatile u32 *)(device + at); }
static void set(u32 at, u32 value) { *(volatile u32 *)(device + at) = value; }
static void barrier(void) { __asm__ volatile("dsb sy" ::: "memory"); }

static u64 offered(void)
{
    set(0x14, 0);
    u64 low = get(0x10);
    set(0x14, 1);
    return low | (u64)get(0x10) << 32;
}

// Brings the device up with these of the features of its type. 0: it refused.
static int up(u32 wanted, u32 count)
{
    u64 have = offered(), take = (have & wanted) | (1ul << 32);
    if (!has_word("noplatform"))
        take |= have & (1ul << 33);
    set(STATUS, 0);
    set(STATUS, 1);
    set(STATUS, 3);
    set(0x24, 0);
    set(0x20, (u32)take);
    set(0x24, 1);
    set(0x20, (u32)(take >> 32));
    set(STATUS, 11);
    if (!(get(STATUS) & 8)) {
        say("features refused\n");
        return 0;
    }
    one_queue = count == 1;
    for (u32 i = 0; i < count; i++) {
        volatile struct queue *q = &queues[i];
        fill((volatile u8 *)q, 0, sizeof *q);
        seen[i] = 0;
        set(0x30, i);
        set(0x38, QSIZE);
        set(0x80, (u32)(u64)q->desc);
        set(0x84, (u32)((u64)q->desc >> 32));
        set(0x90, (u32)(u64)&q->avail_flags);
        set(0x94, (u32)((u64)&q->avail_flags >> 32));
        set(0xa0, (u32)(u64)&q->used_flags);
        set(0xa4, (u32)((u64)&q->used_flags >> 32));
        set(READY, 1);
    }
    set(STATUS, 15);
    if (get(STATUS) & 64) {
        say("needs reset\n");
        return 0;
    }
    return 1;
}

static void desc(u32 q, u32 i, volatile void *p, u32 len, u32 write, u32 next)
{
    queues[q].desc[i] = (struct desc){ (u64)p, len, (u16)(write << 1 | (next != 0)), (u16)next };
}

static void offer(u32 q, u32 head)
{
    volatile struct queue *queue = &queues[q];
    queue->avail[queue->avail_idx % QSIZE] = (u16)head;
    barrier();
    queue->avail_idx++;
    barrier();
    set(NOTIFY, q);
}

// What the device wrote, when it has used a buffer; -1 when it needs a reset; -2 when there is none for long.
static long used(u32 q, u32 patience)
{
    volatile struct queue *queue = &queues[q];
    for (u32 turn = 1;; turn++) {
        if (queue->used_idx != seen[q]) {
            barrier();
            u32 len = queue->used[seen[q]++ % QSIZE].len;
            // The interrupt's bit comes, and goes when it is acknowledged. With several queues it may be gone: the device
            // can have used two buffers before the first was seen.
            while (one_queue && !(get(ISR) & 1))
                ;
            set(ACK, get(ISR));
            return (long)len;
        }
        if (turn % 4096 == 0) {
            if (get(STATUS) & 64)
                return -1;
            if (patience && turn / 4096 > patience)
                return -2;
        }
        __asm__ volatile("yield");
    }
}

// ---- disks ----
// One request. The status of the device, or -1.
static int disk(u32 type, u64 sector, u32 len, u32 write)
{
    volatile struct queue *q = queues;
    *(volatile u32 *)q->header = type;
    *(volatile u32 *)(q->header + 4) = 0;
    *(volatile u64 *)(q->header + 8) = sector;
    q->status[0] = 0xee;
    desc(0, 0, q->header, 16, 0, len ? 1 : 2);
    desc(0, 1, q->data, len, write, 2);
    desc(0, 2, q->status, 1, 1, 0);
    offer(0, 0);
    return used(0, 0) < 0 ? -1 : q->status[0];
}

static u8 pattern(u64 sector, u32 i) { return (u8)(sector * 7 + i * 13 + 1); }

static void run_disk(void)
{
    volatile struct queue *q = queues;
    int read_only = (offered() >> 5) & 1;
    if (!up(1 << 5 | 1 << 9 | 1 << 13 | 1 << 14, 1))
        return;
    u64 sectors = *(volatile u64 *)(device + 0x100);
    if (has_word("hostile")) {
        desc(0, 0, q->header, 16, 0, 1);
        desc(0, 1, (void *)0x12345678, SECTOR, 1, 2);
        desc(0, 2, q->status, 1, 1, 0);
        offer(0, 0);
        say(used(0, 0) == -1 ? "needs reset\n" : "nothing happened\n");
        if (!up(1 << 9, 1))
            return;
    }
    fill(q->data, 0, 21);
    int ok = disk(8, 0, 20, 1);
    say("disk ");
    say(ok == 0 ? (const char *)q->data : "without a name");
    say(": ");
    number(sectors);
    say(" sectors, sum ");
    u64 h = SUM0;
    for (u64 s = 0; s < sectors; s++) {
        if (disk(0, s, SECTOR, 1) != 0)
            say("READ FAILED ");
        h = sum(h, q->data, SECTOR);
    }
    hex(h);
    say("\n");
    fill(q->data, 0xaa, SECTOR);
    if (read_only) {
        say("write: status ");
        number((u64)disk(1, 0, SECTOR, 0));
        say("\n");
        return;
    }
    for (u64 s = 0; s < sectors; s++) {
        for (u32 i = 0; i < SECTOR; i++)
            q->data[i] = pattern(s, i);
        if (disk(1, s, SECTOR, 0) != 0)
            say("WRITE FAILED ");
    }
    say("flush: status ");
    number((u64)disk(4, 0, 0, 0));
    // Zeros into sectors 1 and 2.
    *(volatile u64 *)q->data = 1;
    *(volatile u32 *)(q->data + 8) = 2;
    *(volatile u32 *)(q->data + 12) = 0;
    say(", zeros: status ");
    number((u64)disk(13, 0, 16, 0));
    say(", beyond the end: status ");
    number((u64)disk(0, sectors, SECTOR, 1));
    say(", unknown: status ");
    number((u64)disk(77, 0, SECTOR, 1));
    h = SUM0;
    for (u64 s = 0; s < sectors; s++) {
        disk(0, s, SECTOR, 1);
        h = sum(h, q->data, SECTOR);
    }
    say(", sum ");
    hex(h);
    say("\n");
}

// ---- random numbers ----
static void run_rng(void)
{
    if (!up(0, 1))
        return;
    u64 h = SUM0;
    u32 total = 0;
    while (total < 256) {
        desc(0, 0, queues->data, 64, 1, 0);
        offer(0, 0);
        long len = used(0, 0);
        if (len <= 0 || len > 64)
            break;
        h = sum(h, queues->data, (u32)len);
        total += (u32)len;
    }
    say("rng: ");
    number(total);
    say(" bytes, sum ");
    hex(h);
    say("\n");
}

// ---- console ----
static void run_console(void)
{
    static const char text[] = "hello from the virtio console\n";
    if (!up(0, 2))
        return;
    desc(0, 0, queues[0].data, 256, 1, 0);
    offer(0, 0);
    for (u32 i = 0; i < sizeof text - 1; i++)
        queues[1].data[i] = (u8)text[i];
    desc(1, 0, queues[1].data, sizeof text - 1, 0, 0);
    offer(1, 0);
    used(1, 0);
    if (!has_word("echo"))
        return;
    // A line in, the same line out, the other way round.
    u8 line[256];
    u32 len = 0;
    while (len == 0 || line[len - 1] != '\n') {
        long got = used(0, 0);
        for (long i = 0; i < got && len < sizeof line; i++)
            line[len++] = queues[0].data[i];
        offer(0, 0);
    }
    for (u32 i = 0; i + 1 < len; i++)
        queues[1].data[i] = line[len - 2 - i];
    queues[1].data[len - 1] = '\n';
    desc(1, 0, queues[1].data, len, 0, 0);
    offer(1, 0);
    used(1, 0);
}

// ---- network ----
static void run_net(void)
{
    if (!up(1 << 5, 2))
        return;
    say("net ");
    for (u32 i = 0; i < 6; i++) {
        u8 byte = *(volatile u8 *)(device + 0x100 + i);
        put("0123456789abcdef"[byte >> 4]);
        put("0123456789abcdef"[byte & 15]);
    }
    u32 good = 0;
    desc(0, 0, queues[0].data, 2048, 1, 0);
    for (u32 n = 0; n < 16; n++) {
        u32 len = 60 + n * 90;
        volatile u8 *out = queues[1].data;
        fill(out, 0, 12);
        fill(out + 12, 0xff, 6);
        for (u32 i = 6; i < len; i++)
            out[12 + i] = pattern(n, i);
        offer(0, 0);
        desc(1, 0, out, 12 + len, 0, 0);
        offer(1, 0);
        used(1, 0);
        long got = used(0, 200);
        volatile u8 *in = queues[0].data;
        if (got == (long)(12 + len) && sum(SUM0, in + 12, len) == sum(SUM0, out + 12, len) && in[10] == 1)
            good++;
    }
    say(": ");
    number(good);
    say(" of 16 frames came back\n");
}

// ---- vsock ----
struct packet { u64 src, dst; u32 sport, dport, len; u16 type, op; u32 flags, room, taken; } __attribute__((packed));
static u64 cid;
static u32 taken;

static void send(u32 sport, u32 dport, u32 op, u32 len)
{
    volatile u8 *h = queues[1].header;
    *(volatile u64 *)h = cid;
    *(volatile u64 *)(h + 8) = 2;
    *(volatile u32 *)(h + 16) = sport;
    *(volatile u32 *)(h + 20) = dport;
    *(volatile u32 *)(h + 24) = len;
    *(volatile u16 *)(h + 28) = 1;
    *(volatile u16 *)(h + 30) = (u16)op;
    *(volatile u32 *)(h + 32) = op == 4 ? 3 : 0;
    *(volatile u32 *)(h + 36) = 1024;
    *(volatile u32 *)(h + 40) = taken;
    desc(1, 0, h, 44, 0, len ? 1 : 0);
    desc(1, 1, queues[1].data, len, 0, 0);
    offer(1, 0);
    used(1, 0);
}

// The next packet from the host: its operation, its ports and its data's length. The buffer is offered again by recycle().
static u32 packet_sport, packet_dport, packet_len;
static int serving;
static void recycle(void) { offer(0, 0); }
static u32 receive(void)
{
    for (;;) {
        if (used(0, 0) < 44)
            return 0;
        volatile u8 *h = queues[0].header;
        packet_sport = *(volatile u32 *)(h + 16);
        packet_dport = *(volatile u32 *)(h + 20);
        packet_len = *(volatile u32 *)(h + 24);
        u32 op = *(volatile u16 *)(h + 30);
        if (op != 1 || serving)
            return op;
        // Somebody of the host is too early.
        send(packet_dport, packet_sport, 3, 0);
        recycle();
    }
}

static void run_vsock(void)
{
    if (!up(0, 3))
        return;
    cid = *(volatile u64 *)(device + 0x100);
    desc(0, 0, queues[0].header, 44, 1, 1);
    desc(0, 1, queues[0].data, DATA, 1, 0);
    offer(0, 0);
    say("vsock cid ");
    number(cid);
    // Nobody listens at port 9.
    send(1000, 9, 1, 0);
    say(receive() == 3 ? ": refused" : ": NOT REFUSED");
    recycle();
    // At port 1234 there is an echo.
    taken = 0;
    send(1001, 1234, 1, 0);
    u32 op = receive();
    recycle();
    if (op == 2) {
        u32 len = 3000, got = 0;
        u64 want, have = SUM0;
        for (u32 i = 0; i < len; i++)
            queues[1].data[i] = pattern(3, i);
        want = sum(SUM0, queues[1].data, len);
        send(1001, 1234, 5, len);
        while (got < len && (op = receive()) != 0) {
            if (op == 5) {
                have = sum(have, queues[0].data, packet_len);
                got += packet_len;
                taken += packet_len;
            }
            recycle();
            if (op == 3)
                break;
            send(1001, 1234, 6, 0);
        }
        say(have == want ? ", echo good" : ", ECHO BAD");
        send(1001, 1234, 4, 0);
        do {
            op = receive();
            recycle();
        } while (op != 3 && op != 0);
    } else {
        say(", no echo");
    }
    say("\n");
    if (!has_word("serve"))
        return;
    // Programs of the host connect to port 52 and get back what they send.
    u32 peer = 0;
    taken = 0;
    serving = 1;
    for (;;) {
        op = receive();
        u32 from = packet_sport, len = packet_len;
        if (op == 1 && packet_dport != 52) {
            send(packet_dport, from, 3, 0);
        } else if (op == 1) {
            peer = from;
            send(52, peer, 2, 0);
        } else if (op == 5) {
            for (u32 i = 0; i < len; i++)
                queues[1].data[i] = queues[0].data[i];
            taken += len;
            send(52, peer, 5, len);
        } else if (op == 4) {
            send(52, peer, 3, 0);
            say("served\n");
            return;
        }
        recycle();
    }
}

int guest_main(const u8 *tree)
{
    read_tree(tree);
    if (pool && !has_word("lent"))
        queues = (volatile struct queue *)pool;
    say(pool ? "pool\n" : "no pool\n");
    for (u32 n = 0; n < found; n++) {
        device = devices[n];
        if (get(0) != 0x74726976 || get(4) != 2) {
            say("NO VIRTIO DEVICE\n");
            return 1;
        }
        for (int times = has_word("twice") ? 2 : 1; times > 0; times--) {
            switch (get(8)) {
            case 1: run_net(); break;
            case 2: run_disk(); break;
            case 3: run_console(); break;
            case 4: run_rng(); break;
            case 19: run_vsock(); break;
            default: say("unknown device\n");
            }
            set(STATUS, 0);
        }
    }
    say("done\n");
    while (has_word("spin"))
        __asm__ volatile("yield");
    return 0;
}
