/*
 * The naive VMM loop, in three manners of handling signals.
 *
 * The guest loads 4 bytes at A and stores what it got at A + 8, over and over. This program answers each load with a
 * number that is never 0, and looks at what comes back. It says what it has seen; what is missing was lost.
 *
 * usage: echo plain|kvm|look|restart [DTB [ROUNDS]]
 *   plain    no signals
 *   kvm      after each 100th load: answer, immediate_exit = 1, RUN, immediate_exit = 0 - KVM's way to complete I/O
 *   look     a signal every 300 us, EINTR, and a look at exit_reason after each; less often where an exit takes longer than
 *            that, by the first 200: on an emulated host the guest would get nowhere
 *   restart  the same signal with SA_RESTART, and no look
 *
 * With a devicetree (of a VM with one CPU and 2 MiB at 0x80000000), the guest is the code below, so this runs under
 * `fake-gunyah run` and on a real host alike:
 *
 *   microvm --dtb one.dtb
 *   fake-gunyah run --host open-2023 -- ./echo look one.dtb
 *
 * Without one it needs a fake whose guest is a script.
 */
#include "gunyah.h"

static void on_alarm(int signal)
{
	(void)signal;
}

#define RAM 0x80000000ull
#define SIZE (2u << 20)
#define DTB (1u << 20)
#define DTB_SIZE 0x4000u

/* 20 000 times, or ROUNDS: load 4 bytes at A = 0x10000000, store them at A + 8. Then power off. */
static uint32_t guest[] = {
	0xd2a20001, /* movz x1, #0x1000, lsl #16 */
	0x5289c402, /* movz w2, #20000 */
	0xb9400020, /* ldr  w0, [x1] */
	0xb9000820, /* str  w0, [x1, #8] */
	0x71000442, /* subs w2, w2, #1 */
	0x54ffffa1, /* b.ne .-12 */
	0x52800100, /* SYSTEM_OFF */
	0x72b08000,
	0xd4000002, /* hvc  #0 */
	0x14000000, /* b    . */
};

static void set_rounds(const char *text)
{
	unsigned long rounds = strtoul(text, NULL, 0);
	if (rounds < 1 || rounds > 0xffff) {
		fprintf(stderr, "ROUNDS: 1 to 65535\n");
		exit(2);
	}
	guest[1] = 0x52800002 | rounds << 5;
}

/* Signals from now on, when the exits so far took `since` on. */
static void start_signals(const struct timespec *since, unsigned long exits)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	long us = ((now.tv_sec - since->tv_sec) * 1000000 + (now.tv_nsec - since->tv_nsec) / 1000) / (long)exits;
	if (us < 300)
		us = 300;
	struct itimerval every = { { us / 1000000, us % 1000000 }, { us / 1000000, us % 1000000 } };
	setitimer(ITIMER_REAL, &every, NULL);
}

/* Gives the guest its memory: lent where that can be done, since many hosts start no shared image. */
static void give_memory(int vm, const char *dtb)
{
	/* Aligned and populated, as lent memory should be. */
	char *ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (ram == MAP_FAILED) {
		perror("mmap");
		exit(3);
	}
	memcpy(ram, guest, sizeof(guest));
	load(dtb, ram + DTB, DTB_SIZE);
	struct region region = { 0, 7, RAM, SIZE, (uintptr_t)ram };
	uint64_t config[2] = { RAM + DTB, DTB_SIZE };
	if (ioctl(vm, LEND_USER_MEM, &region) < 0)
		check(ioctl(vm, SET_USER_MEM_REGION, &region), "SET_USER_MEM_REGION");
	check(ioctl(vm, SET_DTB_CONFIG, config), "SET_DTB_CONFIG");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "plain";
	int kvm = !strcmp(mode, "kvm"), look = !strcmp(mode, "look"), restart = !strcmp(mode, "restart");
	unsigned long reads = 0, writes = 0, right = 0, zero = 0, wrong = 0;
	unsigned long eintr = 0, finished = 0, outstanding = 0, completed = 0;
	uint32_t value = 0;
	int owed = 0, signals = 0;

	int vm = open_vm();
	if (argc > 3)
		set_rounds(argv[3]);
	if (argc > 2)
		give_memory(vm, argv[2]);
	int vcpu = add_vcpu(vm, 0);
	struct run *run = map_vcpu(vcpu);
	check(ioctl(vm, VM_START, 0), "VM_START");

	if (look || restart) {
		struct sigaction action = { .sa_handler = on_alarm, .sa_flags = restart ? SA_RESTART : 0 };
		sigaction(SIGALRM, &action, NULL);
	}
	struct timespec began;
	clock_gettime(CLOCK_MONOTONIC, &began);

	for (;;) {
		if (reads + writes == 200 && (look || restart) && !signals) {
			signals = 1;
			start_signals(&began, 200);
		}
		run->exit_reason = 0;
		int ret = ioctl(vcpu, VCPU_RUN, 0);
		if (ret < 0) {
			/* Seen now and then at the VM's end. */
			if (errno == EBUSY)
				continue;
			if (errno != EINTR) {
				perror("RUN");
				return 3;
			}
			eintr++;
			if (run->exit_reason == 0) {
				outstanding += owed;
				owed = 0;
				continue;
			}
			finished++;
		}
		owed = 0;
		if (run->exit_reason == 2)
			break;
		if (run->exit_reason != 1)
			continue;
		uint32_t data;
		if (!run->mmio.is_write) {
			reads++;
			value = value * 1664525u + 1013904223u;
			value |= 1;
			data = value;
			memcpy((void *)run->mmio.data, &data, 4);
			owed = 1;
			if (kvm && reads % 100 == 0) {
				run->exit_reason = 0;
				run->immediate_exit = 1;
				if (ioctl(vcpu, VCPU_RUN, 0) < 0 && errno == EINTR && run->exit_reason == 0)
					completed++;
				run->immediate_exit = 0;
			}
		} else {
			writes++;
			memcpy(&data, (void *)run->mmio.data, 4);
			if (data == value)
				right++;
			else if (data == 0)
				zero++;
			else
				wrong++;
		}
	}
	printf("reads=%lu writes=%lu right=%lu zero=%lu wrong=%lu eintr=%lu finished=%lu outstanding=%lu completed=%lu\n",
	       reads, writes, right, zero, wrong, eintr, finished, outstanding, completed);
	return 0;
}
