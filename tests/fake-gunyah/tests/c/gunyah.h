/* What the C test programs need of the v11 interface, declared here so that they test the numbers, too. */
#ifndef TEST_GUNYAH_H
#define TEST_GUNYAH_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define CREATE_VM 0x4700u
#define SET_USER_MEM_REGION 0x40204701u
#define SET_DTB_CONFIG 0x40104702u
#define LEND_USER_MEM 0x40204111u
#define VM_START 0x4703u
#define ADD_FUNCTION 0x40104704u
#define VCPU_RUN 0x4705u
#define VCPU_MMAP_SIZE 0x4706u

struct region {
	uint32_t label, flags;
	uint64_t guest_phys_addr, memory_size, userspace_addr;
};

struct fn_desc {
	uint32_t type, arg_size;
	uint64_t arg;
};

struct run {
	volatile uint8_t immediate_exit;
	uint8_t padding[7];
	volatile uint32_t exit_reason;
	union {
		struct {
			volatile uint64_t phys_addr;
			volatile uint8_t data[8];
			volatile uint32_t len;
			volatile uint8_t is_write;
		} mmio;
		struct {
			volatile uint32_t status;
			volatile uint16_t exit_type, exit_padding;
			volatile uint32_t reason_size;
			volatile uint8_t reason[8];
		} status;
	};
};

static inline int check(int ret, const char *what)
{
	if (ret < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		exit(3);
	}
	return ret;
}

/* Reads a whole file, of at most `room` bytes. */
static inline size_t load(const char *path, char *to, size_t room)
{
	FILE *file = fopen(path, "rb");
	if (!file) {
		perror(path);
		exit(3);
	}
	size_t size = fread(to, 1, room, file);
	fclose(file);
	return size;
}

/* A VM, with nothing in it yet. */
static inline int open_vm(void)
{
	int dev = check(open("/dev/gunyah", O_RDWR | O_CLOEXEC), "open");
	int vm = check(ioctl(dev, CREATE_VM, 0), "CREATE_VM");
	close(dev);
	return vm;
}

static inline int add_vcpu(int vm, uint32_t id)
{
	struct fn_desc desc = { 1, sizeof(id), (uintptr_t)&id };
	return check(ioctl(vm, ADD_FUNCTION, &desc), "ADD_FUNCTION");
}

static inline struct run *map_vcpu(int vcpu)
{
	int size = check(ioctl(vcpu, VCPU_MMAP_SIZE, 0), "VCPU_MMAP_SIZE");
	struct run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED) {
		perror("mmap");
		exit(3);
	}
	return run;
}

#endif
