/*
 * A VMM in C that runs flat arm64 code with a devicetree: client CODE DTB
 * Prints what the guest writes to its UART.
 */
#include "gunyah.h"

#define RAM 0x80000000ull
#define SIZE (4u << 20)
#define DTB (1u << 20)

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	char *ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	load(argv[1], ram, DTB);
	uint64_t dtb[2] = { RAM + DTB, load(argv[2], ram + DTB, DTB) };
	struct region region = { 0, 7, RAM, SIZE, (uintptr_t)ram };
	int vm = open_vm();
	check(ioctl(vm, SET_USER_MEM_REGION, &region), "SET_USER_MEM_REGION");
	check(ioctl(vm, SET_DTB_CONFIG, dtb), "SET_DTB_CONFIG");
	int vcpu = add_vcpu(vm, 0);
	struct run *run = map_vcpu(vcpu);
	check(ioctl(vm, VM_START, 0), "VM_START");

	static const uint64_t pattern = 0x8877665544332211ull;
	unsigned passed = 0, failed = 0;
	for (;;) {
		check(ioctl(vcpu, VCPU_RUN, 0), "VCPU_RUN");
		if (run->exit_reason == 2)
			break;
		uint64_t addr = run->mmio.phys_addr, value = 0;
		unsigned len = run->mmio.len;
		if (run->mmio.is_write) {
			memcpy(&value, (void *)run->mmio.data, len);
			if (addr == 0x10000000)
				putchar((int)value);
			else if (addr == 0x10002010)
				*(memcmp(&value, &(uint64_t){ ~pattern }, len) ? &failed : &passed) += 1;
		} else {
			if (addr == 0x10000005)
				value = 0x60;
			else if (addr == 0x10002000)
				value = pattern, passed++;
			else if (addr == 0x10002020)
				value = passed | failed << 16;
			memcpy((void *)run->mmio.data, &value, len);
		}
	}
	fflush(stdout);
	return run->status.status == 2 && run->status.exit_type == 1 ? 0 : 1;
}
