/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Stands in for a guest in the benchmark: what it reads from one tap it writes to the other, at once and
 * unchanged. Arguments: the names of the two taps. Ends with its standard input.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
	BURST = 64,
	FRAME = 65536
};

static int open_tap(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request)) {
		fprintf(stderr, "echo: cannot open the tap %s: %s\n", name, strerror(errno));
		exit(1);
	}
	return fd;
}

/* Forward until there is nothing to read or the burst is over; a full tap costs the frame, as a full ring
 * would. */
static void forward(int from, int to)
{
	static char frame[FRAME];

	for (int i = 0; i < BURST; i++) {
		ssize_t length = read(from, frame, sizeof(frame));

		if (length <= 0)
			return;
		if (write(to, frame, length) < 0 && errno != EAGAIN)
			perror("echo: write");
	}
}

int main(int argc, char **argv)
{
	struct pollfd fds[3] = {{.fd = 0, .events = POLLIN}};

	if (argc != 3) {
		fprintf(stderr, "usage: echo TAP TAP\n");
		return 2;
	}
	for (int i = 0; i < 2; i++)
		fds[i + 1] = (struct pollfd){.fd = open_tap(argv[i + 1]), .events = POLLIN};
	puts("ready");
	fflush(stdout);
	while (poll(fds, 3, -1) >= 0 || errno == EINTR) {
		if (fds[0].revents)
			return 0;
		if (fds[1].revents)
			forward(fds[1].fd, fds[2].fd);
		if (fds[2].revents)
			forward(fds[2].fd, fds[1].fd);
	}
	return 1;
}
