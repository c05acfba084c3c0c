// SPDX-License-Identifier: GPL-2.0-only
/*
 * lines NAME [NAME...]: drive the named lines of /dev/gpiochip0 to 1 until killed; the kernel releases them
 * then. For the board's tests, whose initramfs has no Python. Stands alone, without a C library, so any
 * compiler builds it.
 */
#include <linux/fcntl.h>
#include <linux/gpio.h>
#include <linux/unistd.h>

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

static void say(const char *text)
{
	long length = 0;

	while (text[length])
		length++;
	call(__NR_write, 1, (long)text, length);
}

static int find(long chip, const char *name)
{
	for (unsigned int line = 0; line < 64; line++) {
		static struct gpio_v2_line_info info;

		info = (struct gpio_v2_line_info){.offset = line};
		if (call(__NR_ioctl, chip, GPIO_V2_GET_LINEINFO_IOCTL, (long)&info) < 0)
			return -1;
		if (same(info.name, name))
			return (int)line;
	}
	return -1;
}

__attribute__((used, noreturn)) void begin(long *stack)
{
	static struct gpio_v2_line_request request;
	long count = stack[0];
	char **arguments = (char **)(stack + 1);
	long chip = call(__NR_open, (long)"/dev/gpiochip0", O_RDWR, 0);

	for (long at = 1; at < count; at++) {
		int line = find(chip, arguments[at]);

		if (line < 0) {
			say("no such line\n");
			call(__NR_exit_group, 1, 0, 0);
		}
		request.offsets[request.num_lines++] = (unsigned int)line;
	}
	request.config.flags = GPIO_V2_LINE_FLAG_OUTPUT;
	request.config.num_attrs = 1;
	request.config.attrs[0].attr.id = GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES;
	request.config.attrs[0].attr.values = ~0ULL;
	request.config.attrs[0].mask = ~0ULL;
	if (call(__NR_ioctl, chip, GPIO_V2_GET_LINE_IOCTL, (long)&request) < 0) {
		say("cannot drive\n");
		call(__NR_exit_group, 1, 0, 0);
	}
	say("driven\n");
	for (;;)
		call(__NR_pause, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
