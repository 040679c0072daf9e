/*
 * A small VMM for the tests of record and replay: runs vCPUs, prints each exit, answers each read.
 *
 *   vmm VCPUS [MODE]
 *
 *   kick, sa-restart, naive   signals for the vCPUs' threads: handled with care, with SA_RESTART, without looking at the page
 *   hang                      prints its process id, and stays after the start
 *   socket, exec              the VM's descriptor takes a trip over a socket; a second thread executes the program anew
 *   wrong-answer, wrong-region, extra-call, crash   something that a recording of another mode has not
 *
 * Exit code: 10 + the exit type that the vCPUs saw, or 1 after an error that it prints.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct region { uint32_t label, flags; uint64_t gpa, size, addr; };
struct desc { uint32_t type, arg_size; uint64_t arg; };
struct irqfd { uint32_t fd, label, flags, padding; };
struct run {
	uint8_t immediate_exit, padding[7];
	uint32_t exit_reason, hole;
	union {
		struct { uint64_t addr; uint8_t data[8]; uint32_t len; uint8_t is_write; } mmio;
		struct { uint32_t status; uint16_t type, pad; uint32_t size; uint8_t reason[8]; } status;
	};
};

#define CREATE_VM 0x4700
#define SET_REGION 0x40204701
#define START 0x4703
#define ADD_FUNCTION 0x40104704
#define RUN 0x4705
#define MMAP_SIZE 0x4706

static const char *mode = "";
static int vm;
static atomic_int exit_type = -1;
static pthread_t threads[8];
static atomic_int running;

static int is(const char *name) { return strcmp(mode, name) == 0; }

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void on_signal(int sig) { (void)sig; }

static void *vcpu(void *arg)
{
	uint32_t id = (uint32_t)(uintptr_t)arg;
	struct desc desc = { 1, sizeof(id), (uintptr_t)&id };
	int fd = ioctl(vm, ADD_FUNCTION, &desc);
	if (fd < 0)
		die("add vcpu");
	int size = ioctl(fd, MMAP_SIZE, 0);
	volatile struct run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (run == MAP_FAILED)
		die("mmap");
	atomic_fetch_add(&running, 1);
	while (atomic_load(&running) < 100)
		usleep(100);
	for (uint32_t n = 1;; n++) {
		run->exit_reason = 0;
		int ret = ioctl(fd, RUN, 0);
		if (ret < 0 && errno == EINTR) {
			if (run->exit_reason == 0 || is("naive")) {
				n--;
				continue;
			}
		} else if (ret < 0)
			die("run");
		if (run->exit_reason == 1 && run->mmio.is_write) {
			uint64_t value = 0;
			memcpy(&value, (void *)run->mmio.data, 8);
			printf("vcpu%u: write %u bytes at %lx: %lx\n", id, run->mmio.len, (long)run->mmio.addr, (long)value);
		} else if (run->exit_reason == 1) {
			uint64_t value = run->mmio.addr * 3;
			if (is("wrong-answer"))
				value++;
			memcpy((void *)run->mmio.data, &value, 8);
			printf("vcpu%u: read %u bytes at %lx\n", id, run->mmio.len, (long)run->mmio.addr);
		} else if (run->exit_reason == 2) {
			printf("vcpu%u: status %u, type %u, reason %02x\n", id, run->status.status, run->status.type,
			       run->status.reason[0]);
			atomic_store(&exit_type, run->status.type);
			break;
		} else {
			printf("vcpu%u: exit reason %u\n", id, run->exit_reason);
			break;
		}
	}
	munmap((void *)run, size);
	close(fd);
	return NULL;
}

/* Another number for the same file, which no dup() has made. */
static int over_a_socket(int fd)
{
	int pair[2];
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	memset(&control, 0, sizeof(control));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		die("socketpair");
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	if (sendmsg(pair[0], &msg, 0) < 0 || recvmsg(pair[1], &msg, 0) < 0)
		die("socket");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void *execute(void *argv)
{
	execv("/proc/self/exe", argv);
	die("exec");
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned vcpus = argc > 1 ? atoi(argv[1]) : 1;
	if (argc > 2)
		mode = argv[2];
	if (is("exec")) {
		char *again[] = { argv[0], argv[1], NULL };
		pthread_create(&threads[0], NULL, execute, again);
		pause();
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = is("sa-restart") ? SA_RESTART : 0 };
	sigaction(SIGUSR1, &action, NULL);

	int dev = open("/dev/gunyah", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		die("open");
	if (ioctl(dev, 0x47ff, 0) >= 0 || errno != ENOTTY)
		die("probe");
	vm = ioctl(dev, CREATE_VM, 0);
	if (vm < 0)
		die("create");
	/* A duplicate, and an original that is gone: the VM is the same. */
	int copy = fcntl(vm, F_DUPFD_CLOEXEC, 100);
	close(vm);
	vm = copy;
	if (is("socket"))
		vm = over_a_socket(vm);
	if (ioctl(vm, SET_REGION, NULL) >= 0 || errno != EFAULT)
		die("null region");
	void *ram = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct region region = { 0, 7, is("wrong-region") ? 0x90000000 : 0x80000000, 1 << 20, (uintptr_t)ram };
	if (ioctl(vm, SET_REGION, &region))
		die("region");
	if (is("extra-call") && ioctl(vm, SET_REGION, &region) >= 0)
		die("second region");
	struct irqfd irqfd = { eventfd(0, EFD_CLOEXEC), 7, 0, 0 };
	struct desc desc = { 2, sizeof(irqfd), (uintptr_t)&irqfd };
	if (ioctl(vm, ADD_FUNCTION, &desc))
		die("irqfd");

	/* One after the other, so that the order of the calls is the same each time. */
	for (unsigned i = 0; i < vcpus; i++) {
		pthread_create(&threads[i], NULL, vcpu, (void *)(uintptr_t)i);
		while (atomic_load(&running) <= (int)i)
			usleep(100);
	}
	if (ioctl(vm, START, 0))
		die("start");
	atomic_fetch_add(&running, 100);
	if (is("hang")) {
		printf("pid %d\n", getpid());
		pause();
	}
	if (is("crash"))
		raise(SIGSEGV);
	while ((is("kick") || is("sa-restart") || is("naive")) && atomic_load(&exit_type) < 0) {
		usleep(300);
		for (unsigned i = 0; i < vcpus; i++)
			if (atomic_load(&exit_type) < 0)
				pthread_kill(threads[i], SIGUSR1);
	}
	for (unsigned i = 0; i < vcpus; i++)
		pthread_join(threads[i], NULL);
	return 10 + atomic_load(&exit_type);
}
