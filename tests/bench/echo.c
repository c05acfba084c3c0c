/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Stands in for a guest in the benchmark: what it reads from one tap it writes to the other, at once and
 * unchanged. Arguments: the names of the two taps, then a processor for each of their queues, whose frames a
 * thread on that processor passes on; without any, they have one queue. With -o before them, the taps have a
 * virtio header and take segments that are still to be cut and summed (TCP), as a guest with offloads does.
 * Ends with its standard input.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
	BURST = 64,
	FRAME = 65536 + 64, /* the longest segment and its headers */
	QUEUES = 256
};

struct queue {
	int taps[2];
	int processor; /* -1: any */
};

static int open_tap(const char *name, int several, int offloads)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | (several ? IFF_MULTI_QUEUE : 0) |
					     (offloads ? IFF_VNET_HDR : 0)};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request)) {
		fprintf(stderr, "echo: cannot open the tap %s: %s\n", name, strerror(errno));
		exit(1);
	}
	if (offloads && ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)) {
		perror("echo: offloads");
		exit(1);
	}
	return fd;
}

/* Forward until there is nothing to read or the burst is over; a full tap costs the frame, as a full ring
 * would. */
static void forward(int from, int to, char *frame)
{
	for (int i = 0; i < BURST; i++) {
		ssize_t length = read(from, frame, FRAME);

		if (length <= 0)
			return;
		if (write(to, frame, length) < 0 && errno != EAGAIN)
			perror("echo: write");
	}
}

static void *serve(void *argument)
{
	struct queue *queue = argument;
	struct pollfd fds[2] = {{.fd = queue->taps[0], .events = POLLIN}, {.fd = queue->taps[1], .events = POLLIN}};
	char *frame = malloc(FRAME);
	cpu_set_t only;

	if (!frame)
		exit(1);
	CPU_ZERO(&only);
	if (queue->processor >= 0) {
		CPU_SET(queue->processor, &only);
		if (sched_setaffinity(0, sizeof(only), &only)) {
			perror("echo: processor");
			exit(1);
		}
	}
	while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
		if (fds[0].revents)
			forward(fds[0].fd, fds[1].fd, frame);
		if (fds[1].revents)
			forward(fds[1].fd, fds[0].fd, frame);
	}
	exit(1);
}

int main(int argc, char **argv)
{
	static struct queue queues[QUEUES];
	int offloads = argc > 1 && !strcmp(argv[1], "-o");
	int count;
	char end;

	argc -= offloads;
	argv += offloads;
	count = argc > 3 ? argc - 3 : 1;
	if (argc < 3 || count > QUEUES) {
		fprintf(stderr, "usage: echo [-o] TAP TAP [PROCESSOR...]\n");
		return 2;
	}
	for (int at = 0; at < count; at++) {
		queues[at].processor = argc > 3 ? atoi(argv[3 + at]) : -1;
		for (int side = 0; side < 2; side++)
			queues[at].taps[side] = open_tap(argv[1 + side], count > 1, offloads);
	}
	for (int at = 0; at < count; at++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, serve, &queues[at]))
			return 1;
	}
	puts("ready");
	fflush(stdout);
	return read(0, &end, 1) < 0;
}
