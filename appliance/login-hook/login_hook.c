// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loaded into the SSH server (LD_PRELOAD) while logins are decided by RADIUS or TACACS+: dropbear knows only the users of
 * /etc/passwd and compares hashes. Three calls of the C library are answered here by asking bypassd
 * on a socket that root alone may open (appliance/aaa/door.py describes the messages):
 *
 *   getpwnam    a user that is not in /etc/passwd gets a number and a locked password
 *   crypt       bypassd accepts the password, refuses it, or says that the local hash decides
 *   initgroups  an accepted user gets the group of the role that came with the acceptance
 *
 * Each connection is a process of the server, so waiting for an answer holds nobody else up. If bypassd cannot be asked,
 * everything is as without this library: the local users, by their hashes. Nothing here allocates memory.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

char *crypt(const char *typed, const char *hash); /* <crypt.h> is not in every tool chain */

#ifndef DOOR
#define DOOR "/run/bypass/access/door"
#endif
#define SHELL "/usr/bin/bypass"
#define GROUP 900	  /* "bypass", as in appliance/access/groups.py */
#define FIRST_REMOTE 3000 /* users that only servers know, as there */
#define LAST_REMOTE 3099
#define WAIT_S 45 /* longer than bypassd takes at most (limits.MAX_AAA) */
#define TEXT 1024

static char user[64];	    /* of this connection: the SSH server refuses a second name */
static unsigned int number; /* its user id, if bypassd gave one */
static unsigned int role;   /* the group of its role, once it is accepted */
static int door = -1;

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void)
{
	unsetenv("LD_PRELOAD"); /* no child is to inherit this */
}

static void leave(void)
{
	if (door >= 0)
		close(door);
	door = -1;
}

static int come(void)
{
	struct sockaddr_un place = {.sun_family = AF_UNIX};
	struct timeval wait = {.tv_sec = WAIT_S};

	if (door >= 0)
		return 0;
	if (geteuid() != 0)
		return -1;
	strncpy(place.sun_path, DOOR, sizeof(place.sun_path) - 1);
	door = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (door < 0)
		return -1;
	setsockopt(door, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(door, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	if (connect(door, (struct sockaddr *)&place, sizeof(place)) == 0)
		return 0;
	leave();
	return -1;
}

/* Ask one question, whose parts are separated by zeros; the answer gets a zero at its end. */
static int ask(const char *question, size_t length, char *answer)
{
	ssize_t got;

	if (come() < 0)
		return -1;
	if (send(door, question, length, MSG_NOSIGNAL) != (ssize_t)length ||
	    (got = recv(door, answer, TEXT - 1, 0)) <= 0) {
		leave();
		return -1;
	}
	answer[got] = 0;
	return 0;
}

/* The client's address: that of the only connected internet socket. */
static void client(char *text, size_t size)
{
	struct sockaddr_storage peer;

	snprintf(text, size, "unknown");
	for (int fd = 0; fd < 64; fd++) {
		socklen_t length = sizeof(peer);

		if (getpeername(fd, (struct sockaddr *)&peer, &length) < 0)
			continue;
		if (peer.ss_family != AF_INET && peer.ss_family != AF_INET6)
			continue;
		if (getnameinfo((struct sockaddr *)&peer, length, text, size, NULL, 0, NI_NUMERICHOST) == 0) {
			if (strncmp(text, "::ffff:", 7) == 0)
				memmove(text, text + 7, strlen(text + 7) + 1);
			return;
		}
	}
}

struct passwd *getpwnam(const char *name)
{
	static struct passwd made;
	static char home[128];
	struct passwd *(*real)(const char *) = next("getpwnam");
	struct passwd *found = real ? real(name) : NULL;
	char question[TEXT], answer[TEXT];
	int length;

	user[0] = 0;
	if (strlen(name) >= sizeof(user))
		return found;
	strcpy(user, name);
	number = found ? found->pw_uid : 0;
	if (found)
		return found;
	length = snprintf(question, sizeof(question), "name%c%s", 0, name);
	if (ask(question, (size_t)length, answer) < 0 || sscanf(answer, "uid %u %127s", &number, home) != 2) {
		number = 0;
		return NULL;
	}
	made.pw_name = user;
	made.pw_passwd = "*";
	made.pw_uid = number;
	made.pw_gid = GROUP;
	made.pw_gecos = "";
	made.pw_dir = home;
	made.pw_shell = SHELL;
	return number ? &made : NULL;
}

char *crypt(const char *typed, const char *hash)
{
	static char same[512];
	static char none[] = "*0";
	char *(*real)(const char *, const char *) = next("crypt");
	char question[TEXT], answer[TEXT], address[64];
	char *made;
	int length;

	if (strlen(hash) >= sizeof(same) || strlen(typed) > 256)
		return none;
	client(address, sizeof(address));
	length =
	    snprintf(question, sizeof(question), "check%c%s%c%s%c%u%c%s", 0, user, 0, address, 0, number, 0, typed);
	if (!user[0] || ask(question, (size_t)length, answer) < 0)
		strcpy(answer, "local");
	explicit_bzero(question, sizeof(question));
	if (sscanf(answer, "accept %u", &role) == 1 && role > GROUP && role <= GROUP + 3) {
		leave();
		return strcpy(same, hash); /* what the server compares with */
	}
	role = 0;
	if (strcmp(answer, "local") != 0)
		return none;
	made = real ? real(typed, hash) : NULL;
	return made ? made : none; /* a locked account fails like a wrong password, and is logged like one */
}

int initgroups(const char *name, gid_t group)
{
	int (*real)(const char *, gid_t) = next("initgroups");
	gid_t groups[2] = {GROUP, role};

	if (role)
		return setgroups(2, groups);
	if (number >= FIRST_REMOTE && number <= LAST_REMOTE)
		return -1; /* such a user gets in by a server's word alone, whatever is in the home */
	return real ? real(name, group) : -1;
}
