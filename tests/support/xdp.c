// SPDX-License-Identifier: GPL-2.0-only
/*
 * xdp IFINDEX: attach a program that passes every frame to the device's driver, until killed. For the board's
 * tests, whose initramfs has no Python. Stands alone, without a C library, so any compiler builds it.
 */
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/unistd.h>

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

static void say(const char *text)
{
	long length = 0;

	while (text[length])
		length++;
	call(__NR_write, 1, (long)text, length);
}

__attribute__((used, noreturn)) void begin(long *stack)
{
	static const struct bpf_insn pass[] = {
	    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = XDP_PASS},
	    {.code = BPF_JMP | BPF_EXIT},
	};
	static union bpf_attr load, attach;
	const char *digits = (const char *)stack[2];
	unsigned int ifindex = 0;
	long program;

	while (stack[0] == 2 && *digits >= '0' && *digits <= '9')
		ifindex = ifindex * 10 + (unsigned int)(*digits++ - '0');
	load.prog_type = BPF_PROG_TYPE_XDP;
	load.insns = (unsigned long)pass;
	load.insn_cnt = sizeof(pass) / sizeof(pass[0]);
	load.license = (unsigned long)"GPL";
	program = call(__NR_bpf, BPF_PROG_LOAD, (long)&load, sizeof(load));
	if (program < 0) {
		say("cannot load\n");
		call(__NR_exit_group, 1, 0, 0);
	}
	attach.link_create.prog_fd = (unsigned int)program;
	attach.link_create.target_ifindex = ifindex;
	attach.link_create.attach_type = BPF_XDP;
	attach.link_create.flags = XDP_FLAGS_DRV_MODE;
	if (call(__NR_bpf, BPF_LINK_CREATE, (long)&attach, sizeof(attach)) < 0) {
		say("cannot attach\n");
		call(__NR_exit_group, 1, 0, 0);
	}
	say("attached\n");
	for (;;)
		call(__NR_pause, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
