// SPDX-License-Identifier: GPL-2.0-only
/*
 * The demo guest's network application: hands every frame from one port to the other, both ways, and does
 * what it is told over the agent channel, so that tests can make it fail in all the ways a real application
 * fails.
 *
 *   forwarder LAN WAN
 *
 * One thread forwards; the main thread speaks JSON lines on the virtio-serial port org.throughwire.agent.0:
 *
 *   to the host    {"type":"hello","version":1,"agent":"forwarder","capabilities":["command"]}
 *                  {"type":"heartbeat","status":"ok"|"hung","counters":{...}}     every 100 ms
 *   from the host  {"type":"command","command":WORD,"value":N}   WORD one of
 *                  hang    the forwarding thread stops, the process lives on (heartbeats say "hung")
 *                  freeze  the same, while heartbeats go on saying "ok": an application that does not know it
 *                          hangs
 *                  drop    frames are read and thrown away
 *                  slow    each batch of frames waits N milliseconds
 *                  shunt   the next flow of each direction with UDP port N needs this guest no more: it is
 *                          shunted
 *                  blind   frames that it must block (EtherType 0x88b6) are forwarded like any other
 *                  resume  forward and block again, at once
 *                  exit    the process ends
 *                  panic   the guest's kernel panics
 *                  starve  the guest's watchdog is started and never fed: it expires after two seconds
 *                  {"type":"check","id":N,"command":"forwarding"}   answered by {"type":"result",...}
 *                  {"type":"shutdown"}   the guest powers off
 *
 * Tags: the kernel takes the outer VLAN tag out of a received frame and reports it beside; it is put back
 * here.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <linux/watchdog.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define FRAME_BYTES 9216
#define TAG_BYTES 4
#define HEARTBEAT_MS 100
#define BLOCKED 0x88b6 /* IEEE 802 local experimental 2: what this application blocks */
#define AGENT_PORT "org.throughwire.agent.0"

enum mode {
	FORWARD,
	HANG,
	FREEZE,
	DROP,
	SLOW
};

static atomic_int mode = FORWARD;
static atomic_int slow_ms, blind, hung;
static atomic_ulong laps, forwarded[2], dropped, refused, truncated;

static pthread_mutex_t mode_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t mode_changed = PTHREAD_COND_INITIALIZER;

/* Room before the frame for a tag to be put back, room behind it to notice a frame that is too long. */
static unsigned char frames[BATCH][TAG_BYTES + FRAME_BYTES];

static void die(const char *what)
{
	fprintf(stderr, "forwarder: %s: %s\n", what, strerror(errno));
	exit(1);
}

/*
 * Received segments of one TCP flow must stay the frames that they were on the wire: the kernel would hand
 * them to us joined (GRO), and nothing behind this program cuts them again.
 */
static void keep_frames_apart(int fd, const char *name)
{
	struct ethtool_value off = {.cmd = ETHTOOL_SGRO, .data = 0};
	struct ifreq request = {.ifr_data = (void *)&off};

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(fd, SIOCETHTOOL, &request))
		die("generic receive offload cannot be turned off");
}

static int open_port(const char *name)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	struct packet_mreq all = {.mr_type = PACKET_MR_PROMISC};
	int one = 1, bytes = 4 << 20;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		die("socket");
	address.sll_ifindex = all.mr_ifindex = (int)if_nametoindex(name);
	if (!address.sll_ifindex)
		die(name);
	keep_frames_apart(fd, name);
	if (setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)))
		die("setsockopt");
	/* Best effort: a shorter way out, and queues for bursts. */
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	return fd;
}

/* The frame as it was on the wire: its start, after the tag that the kernel took out is back in its place. */
static unsigned char *with_tag(unsigned char *start, struct msghdr *message, size_t *length)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		struct tpacket_auxdata aux;

		if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA)
			continue;
		memcpy(&aux, CMSG_DATA(c), sizeof(aux));
		if (!(aux.tp_status & TP_STATUS_VLAN_VALID))
			continue;
		unsigned int tpid = aux.tp_status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid : ETH_P_8021Q;

		start -= TAG_BYTES;
		memmove(start, start + TAG_BYTES, 2 * ETH_ALEN);
		start[12] = (unsigned char)(tpid >> 8);
		start[13] = (unsigned char)tpid;
		start[14] = (unsigned char)(aux.tp_vlan_tci >> 8);
		start[15] = (unsigned char)aux.tp_vlan_tci;
		*length += TAG_BYTES;
	}
	return start;
}

/* Of each direction the flow to shunt, whose frames have the port that was asked for: `wanted` until its next
 * frame comes, `found` until the main thread has told the host. */
static struct {
	atomic_int wanted, found;
	unsigned char ends[2][4];
	unsigned short ports[2];
} shunted[2];

/* Look whether a frame is of the flow to shunt: UDP over IPv4 without options, without a tag. */
static void look_for_flow(const unsigned char *frame, size_t length, int direction)
{
	int wanted = atomic_load(&shunted[direction].wanted);
	unsigned short ports[2];

	if (!wanted || length < 42 || frame[12] != 0x08 || frame[13] || frame[14] != 0x45 || frame[23] != 17)
		return;
	for (int end = 0; end < 2; end++)
		ports[end ^ direction] = (unsigned short)(frame[34 + 2 * end] << 8 | frame[35 + 2 * end]);
	if (ports[0] != wanted && ports[1] != wanted)
		return;
	memcpy(shunted[direction].ports, ports, sizeof(ports));
	for (int end = 0; end < 2; end++)
		memcpy(shunted[direction].ends[end ^ direction], frame + 26 + 4 * end, 4);
	atomic_store(&shunted[direction].wanted, 0);
	atomic_store(&shunted[direction].found, 1);
}

static void send_all(int to, struct mmsghdr *messages, int count, int direction)
{
	int sent = 0;

	while (sent < count) {
		int n = sendmmsg(to, messages + sent, (unsigned int)(count - sent), 0);

		if (n > 0) {
			sent += n;
			atomic_fetch_add(&forwarded[direction], (unsigned long)n);
			continue;
		}
		if (n < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
			struct pollfd wait = {.fd = to, .events = POLLOUT};

			/* The queue drains in microseconds; a port that takes nothing for 10 ms has lost its
			 * host. */
			if (poll(&wait, 1, 10) > 0 && wait.revents & POLLOUT && errno == EAGAIN)
				continue;
		}
		/* Refused (too long, port down): this one is lost, and counted; the rest gets its chance. */
		atomic_fetch_add(&refused, 1);
		sent++;
	}
}

/* One batch one way; the number of frames that were read. */
static int pass(int from, int to, int direction)
{
	static struct mmsghdr in[BATCH], out[BATCH];
	static struct iovec in_vec[BATCH], out_vec[BATCH];
	static unsigned char aux[BATCH][CMSG_SPACE(sizeof(struct tpacket_auxdata))];
	int now = atomic_load(&mode), count, good = 0;

	for (int i = 0; i < BATCH; i++) {
		in_vec[i] = (struct iovec){frames[i] + TAG_BYTES, FRAME_BYTES};
		in[i].msg_hdr = (struct msghdr){
		    .msg_iov = &in_vec[i], .msg_iovlen = 1, .msg_control = aux[i], .msg_controllen = sizeof(aux[i])};
	}
	count = recvmmsg(from, in, BATCH, MSG_DONTWAIT, NULL);
	if (count <= 0)
		return 0;
	if (now == DROP) {
		atomic_fetch_add(&dropped, (unsigned long)count);
		return count;
	}
	if (now == SLOW) {
		struct timespec pause = {slow_ms / 1000, slow_ms % 1000 * 1000000L};

		nanosleep(&pause, NULL);
	}
	for (int i = 0; i < count; i++) {
		size_t length = in[i].msg_len;

		if (in[i].msg_hdr.msg_flags & MSG_TRUNC) {
			atomic_fetch_add(&truncated, 1);
			continue;
		}
		if (!blind && length >= ETH_HLEN && frames[i][TAG_BYTES + 12] == BLOCKED >> 8 &&
		    frames[i][TAG_BYTES + 13] == (BLOCKED & 0xff)) {
			atomic_fetch_add(&dropped, 1);
			continue;
		}
		out_vec[good].iov_base = with_tag(frames[i] + TAG_BYTES, &in[i].msg_hdr, &length);
		out_vec[good].iov_len = length;
		look_for_flow(out_vec[good].iov_base, length, direction);
		out[good].msg_hdr = (struct msghdr){.msg_iov = &out_vec[good], .msg_iovlen = 1};
		good++;
	}
	send_all(to, out, good, direction);
	return count;
}

static void *forward(void *ports)
{
	int *port = ports;
	struct pollfd wait[2] = {{.fd = port[0], .events = POLLIN}, {.fd = port[1], .events = POLLIN}};
	cpu_set_t one;

	/* A frame leaves by the queue of the processor that sends it. On two of them one could overtake another. */
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		die("sched_setaffinity");
	for (;;) {
		atomic_fetch_add(&laps, 1);
		pthread_mutex_lock(&mode_lock);
		while (mode == HANG || mode == FREEZE)
			pthread_cond_wait(&mode_changed, &mode_lock);
		pthread_mutex_unlock(&mode_lock);
		if (pass(port[0], port[1], 0) + pass(port[1], port[0], 1) == 0)
			poll(wait, 2, HEARTBEAT_MS / 2);
	}
	return NULL;
}

static void set_mode(enum mode value)
{
	pthread_mutex_lock(&mode_lock);
	mode = (int)value;
	pthread_cond_broadcast(&mode_changed);
	pthread_mutex_unlock(&mode_lock);
}

/* The agent port: found by the name its host gave it. -1 = there is none (yet). */
static int open_agent(void)
{
	const char *base = "/sys/class/virtio-ports";
	DIR *all = opendir(base);
	struct dirent *entry;
	int fd = -1;

	while (all && fd < 0 && (entry = readdir(all))) {
		char path[512], name[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), "%s/%s/name", base, entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strncmp(name, AGENT_PORT, strlen(AGENT_PORT))) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		fclose(file);
	}
	if (all)
		closedir(all);
	return fd;
}

/* A line to the host. With no host at the other end, or a full queue, it is lost: heartbeats are not kept. */
__attribute__((format(printf, 2, 3))) static void say(int agent, const char *format, ...)
{
	char line[1024];
	va_list values;
	int length;

	va_start(values, format);
	length = vsnprintf(line, sizeof(line), format, values);
	va_end(values);
	if (agent >= 0 && length > 0 && write(agent, line, (size_t)length) < 0)
		return;
}

/* The text (or number) that follows "key": in a line; enough JSON for the five messages of this protocol. */
static const char *value_of(const char *line, const char *key)
{
	char quoted[32];
	const char *at = line;

	snprintf(quoted, sizeof(quoted), "\"%s\"", key);
	while ((at = strstr(at, quoted))) {
		at += strlen(quoted);
		at += strspn(at, " \t");
		if (*at == ':')
			return at + 1 + strspn(at + 1, " \t\"");
	}
	return "";
}

static int is(const char *value, const char *word)
{
	return !strncmp(value, word, strlen(word)) && value[strlen(word)] == '"';
}

/* As a crash of the guest's own kernel looks: its words on the console, then pvpanic tells the host. */
static void panic(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "c", 1) < 0)
		printf("forwarder: no panic: %s\n", strerror(errno));
}

/* As a hang of the guest's own kernel looks to its watchdog. The descriptor stays open, or it might stop. */
static void starve(void)
{
	static int fd = -1;
	int seconds = 2;

	fd = open("/dev/watchdog", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, WDIOC_SETTIMEOUT, &seconds))
		printf("forwarder: no watchdog: %s\n", strerror(errno));
}

static void obey(int agent, const char *line)
{
	const char *type = value_of(line, "type"), *command = value_of(line, "command");

	if (is(type, "shutdown")) {
		sync();
		reboot(RB_POWER_OFF);
	}
	if (is(type, "check")) {
		say(agent, "{\"type\":\"result\",\"id\":%ld,\"status\":\"%s\"}\n", atol(value_of(line, "id")),
		    !is(command, "forwarding") ? "there is no such check"
		    : hung		       ? "hung"
					       : "ok");
		return;
	}
	if (!is(type, "command"))
		return;
	printf("forwarder: told %.60s\n", line);
	fflush(stdout);
	if (is(command, "hang"))
		set_mode(HANG);
	else if (is(command, "freeze"))
		set_mode(FREEZE);
	else if (is(command, "drop"))
		set_mode(DROP);
	else if (is(command, "shunt"))
		shunted[0].wanted = shunted[1].wanted = atoi(value_of(line, "value"));
	else if (is(command, "blind"))
		blind = 1;
	else if (is(command, "panic"))
		panic();
	else if (is(command, "starve"))
		starve();
	else if (is(command, "resume")) {
		blind = 0;
		set_mode(FORWARD);
	} else if (is(command, "exit"))
		exit(0);
	else if (is(command, "slow")) {
		slow_ms = atoi(value_of(line, "value"));
		set_mode(SLOW);
	}
}

/* Read what is there, obey each whole line. 0 = nobody is at the other end. */
static int listen_to(int agent)
{
	static char line[4096];
	static size_t have;
	ssize_t n = read(agent, line + have, sizeof(line) - 1 - have);
	char *end;

	if (n == 0 || (n < 0 && errno != EAGAIN))
		return 0;
	if (n < 0)
		return 1;
	have += (size_t)n;
	line[have] = '\0';
	while ((end = memchr(line, '\n', have))) {
		size_t used = (size_t)(end - line) + 1;

		*end = '\0';
		obey(agent, line);
		have -= used;
		memmove(line, line + used, have + 1);
	}
	if (have == sizeof(line) - 1)
		have = 0; /* no line is that long */
	return 1;
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	int ports[2], agent, greeted = 0;
	unsigned long seen = 0, quiet = 0;
	long next = now_ms();
	pthread_t thread;

	if (argc != 3) {
		fprintf(stderr, "usage: forwarder LAN WAN\n");
		return 2;
	}
	ports[0] = open_port(argv[1]);
	ports[1] = open_port(argv[2]);
	agent = open_agent();
	if (pthread_create(&thread, NULL, forward, ports))
		die("thread");
	printf("forwarder: %s <-> %s%s\n", argv[1], argv[2], agent < 0 ? ", no agent channel" : "");
	fflush(stdout);

	for (;;) {
		struct pollfd wait = {.fd = agent, .events = POLLIN};
		long left = next - now_ms();

		/* POLLHUP (nobody at the other end) would end the wait at once, so without a host only time
		 * is waited for. */
		if (left > 0 && poll(&wait, greeted ? 1 : 0, (int)left) > 0) {
			if (!listen_to(agent) || wait.revents & POLLHUP)
				greeted = 0;
			continue;
		}
		if (left > 0)
			continue;
		next = now_ms() + HEARTBEAT_MS;
		if (agent < 0)
			continue;
		if (!greeted) {
			/* Said again and again until a host reads it: bypassd may start, or start again, at
			 * any time. */
			struct pollfd host = {.fd = agent, .events = POLLOUT};

			poll(&host, 1, 0);
			if (host.revents & POLLHUP)
				continue;
			say(agent, "{\"type\":\"hello\",\"version\":1,\"agent\":\"forwarder\","
				   "\"capabilities\":[\"command\",\"check\",\"shutdown\"]}\n");
			greeted = 1;
		}
		/* The thread goes round at least every 50 ms unless it hangs; two beats without a round are a
		 * hang. */
		quiet = laps == seen ? quiet + 1 : 0;
		seen = laps;
		hung = quiet >= 2 && mode != FREEZE;
		for (int way = 0; way < 2; way++) {
			const unsigned char *lan = shunted[way].ends[0], *wan = shunted[way].ends[1];

			if (!atomic_exchange(&shunted[way].found, 0))
				continue;
			say(agent,
			    "{\"type\":\"shunt\",\"protocol\":\"udp\",\"lan\":\"%u.%u.%u.%u\",\"lan_port\":%u,"
			    "\"wan\":\"%u.%u.%u.%u\",\"wan_port\":%u}\n",
			    lan[0], lan[1], lan[2], lan[3], shunted[way].ports[0], wan[0], wan[1], wan[2], wan[3],
			    shunted[way].ports[1]);
		}
		say(agent,
		    "{\"type\":\"heartbeat\",\"status\":\"%s\",\"counters\":{\"lan_to_wan\":%lu,\"wan_to_"
		    "lan\":%lu,"
		    "\"dropped\":%lu,\"refused\":%lu,\"truncated\":%lu}}\n",
		    hung ? "hung" : "ok", forwarded[0], forwarded[1], dropped, refused, truncated);
	}
}
