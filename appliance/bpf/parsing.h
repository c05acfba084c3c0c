/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parses a frame for its flow. The functions that take the cursor, which has the frame's end in it, leave it after the
 * headers that they have read, where the next header begins; those of a later fragment and of ports are read without
 * moving it. They return a negative number if the frame is too short for a header or has another one; the cursor is
 * then somewhere before that, and of no use. Ports that the frame is too short for are no error: it has none. The check
 * against `end` is directly before each access, because the verifier loses it after arithmetic on the cursor.
 */
#ifndef PARSING_H
#define PARSING_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_VLANS 4
#define MAX_EXTENSIONS 8
#define MAX_OFFSET 2047 /* an extension header beyond this is not read; all bits set */

#define PROTO_HOPOPTS 0
#define PROTO_ICMP 1
#define PROTO_IPIP 4
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_DCCP 33
#define PROTO_IPV6 41
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_GRE 47
#define PROTO_AH 51
#define PROTO_ICMPV6 58
#define PROTO_DSTOPTS 60
#define PROTO_SCTP 132
#define PROTO_MOBILITY 135
#define PROTO_UDPLITE 136
#define PORT_GTPU 2152
#define PORT_VXLAN 4789
#define PORT_GENEVE 6081

/* Addresses as numbers in host order; an IPv4 address is in source[1] and destination[1]. */
struct parsed {
	__u64 source[2];
	__u64 destination[2];
	__u32 id;
	__u16 ports[2];
	__u8 protocol;
	__u8 has_ports;
	__u8 fragment; /* 0 whole, 1 first fragment, 2 later fragment */
	__u8 tcp_flags;
};

struct cursor {
	void *at;
	void *end;
};

static __always_inline int parse_ethertype(struct cursor *c)
{
	__u16 proto;

	if (c->at + ETH_HLEN > c->end)
		return -1;
	proto = *(__u16 *)(c->at + 12);
	c->at += ETH_HLEN;
	/* tags: 802.1Q and 802.1ad, in any order */
	for (int i = 0; i < MAX_VLANS; i++) {
		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if (c->at + 4 > c->end)
			return -1;
		proto = *(__u16 *)(c->at + 2);
		c->at += 4;
	}
	return bpf_ntohs(proto);
}

/* The same for frames that are not plain IPv4; `type` in the frame's byte order, followed by at least 20 bytes. */
static __always_inline bool maybe_inner_fragment(const void *data, const void *end, __u32 type)
{
	const void *ip = data + ETH_HLEN;
	__u8 next;

	for (int i = 0; i < 2; i++) {
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD) && type != bpf_htons(ETH_P_QINQ1))
			break;
		type = *(__u16 *)(ip + 2);
		ip += 4;
		if (ip + 20 > end)
			return false;
	}
	if (type == bpf_htons(ETH_P_PPP_SES)) {
		type = *(__u16 *)(ip + 6);
		type = type == bpf_htons(0x0021)   ? bpf_htons(ETH_P_IP)
		       : type == bpf_htons(0x0057) ? bpf_htons(ETH_P_IPV6)
						   : 0;
		ip += 8;
		if (ip + 20 > end)
			return false;
	}
	if (type == bpf_htons(ETH_P_IP))
		return *(__u16 *)(ip + 6) & bpf_htons(0x3fff);
	if (type == bpf_htons(ETH_P_IPV6)) {
		next = *(__u8 *)(ip + 6);
		return next == PROTO_FRAGMENT || next == PROTO_HOPOPTS || next == PROTO_ROUTING ||
		       next == PROTO_DSTOPTS;
	}
	return type == bpf_htons(ETH_P_MPLS_UC) || type == bpf_htons(ETH_P_MPLS_MC);
}

/*
 * Whether to check if the frame is a fragment whose datagram's rule counts: a quick test with false positives. IPv4 and
 * IPv6, behind at most two tags and PPPoE; always yes behind MPLS labels.
 */
static __always_inline bool maybe_fragment(const void *data, const void *end)
{
	__u32 type;

	if (data + ETH_HLEN + 20 > end)
		return false;
	type = *(__u16 *)(data + 12);
	if (type == bpf_htons(ETH_P_IP)) /* most frames are */
		return *(__u16 *)(data + ETH_HLEN + 6) & bpf_htons(0x3fff);
	asm volatile("" : "+r"(type)); /* or the compiler would use a binary search for the type, with IPv4 last */
	return maybe_inner_fragment(data, end, type);
}

static __always_inline int parse_ports(struct cursor *c, struct parsed *p)
{
	if (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP && p->protocol != PROTO_SCTP &&
	    p->protocol != PROTO_UDPLITE && p->protocol != PROTO_DCCP)
		return 0;
	if (c->at + 4 > c->end)
		return 0;
	p->ports[0] = bpf_ntohs(*(__u16 *)c->at);
	p->ports[1] = bpf_ntohs(*(__u16 *)(c->at + 2));
	p->has_ports = 1;
	if (p->protocol == PROTO_TCP && c->at + 14 <= c->end)
		p->tcp_flags = *(__u8 *)(c->at + 13);
	return 0;
}

static __always_inline int parse_ipv4(struct cursor *c, struct parsed *p)
{
	__u8 *ip = c->at;
	__u32 header;
	__u16 offset;

	if (c->at + 20 > c->end)
		return -1;
	header = (ip[0] & 0x0f) * 4;
	if (ip[0] >> 4 != 4 || header < 20)
		return -1;
	p->protocol = ip[9];
	p->source[1] = bpf_ntohl(*(__u32 *)(ip + 12));
	p->destination[1] = bpf_ntohl(*(__u32 *)(ip + 16));
	offset = bpf_ntohs(*(__u16 *)(ip + 6));
	if (offset & 0x3fff) {
		p->id = bpf_ntohs(*(__u16 *)(ip + 4));
		p->fragment = offset & 0x1fff ? 2 : 1;
	}
	if (p->fragment == 2)
		return 0;
	c->at += header;
	return parse_ports(c, p);
}

static __always_inline int parse_ipv6(void *data, struct cursor *c, struct parsed *p)
{
	__u8 *ip = c->at;
	__u32 at;
	__u8 next;

	if (c->at + 40 > c->end)
		return -1;
	if (ip[0] >> 4 != 6)
		return -1;
	/* by 32 bits: the header is not aligned to 8 */
	p->source[0] = (__u64)bpf_ntohl(*(__u32 *)(ip + 8)) << 32 | bpf_ntohl(*(__u32 *)(ip + 12));
	p->source[1] = (__u64)bpf_ntohl(*(__u32 *)(ip + 16)) << 32 | bpf_ntohl(*(__u32 *)(ip + 20));
	p->destination[0] = (__u64)bpf_ntohl(*(__u32 *)(ip + 24)) << 32 | bpf_ntohl(*(__u32 *)(ip + 28));
	p->destination[1] = (__u64)bpf_ntohl(*(__u32 *)(ip + 32)) << 32 | bpf_ntohl(*(__u32 *)(ip + 36));
	next = ip[6];
	at = (__u32)(c->at - data) + 40;
	/*
	 * By offset from the frame's start: with a plain bounded number the verifier sees that all iterations are
	 * alike, but not with a moved pointer.
	 */
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 *extension;

		if (at > MAX_OFFSET)
			break;
		asm volatile("%0 &= %1" : "+r"(at) : "i"(MAX_OFFSET));
		extension = data + at;
		if (next != PROTO_FRAGMENT && next != PROTO_HOPOPTS && next != PROTO_ROUTING && next != PROTO_DSTOPTS &&
		    next != PROTO_MOBILITY && next != PROTO_AH)
			break;
		if ((void *)extension + 8 > c->end)
			break;
		if (next == PROTO_FRAGMENT) {
			__u16 offset = bpf_ntohs(*(__u16 *)(extension + 2));

			if (offset & 0xfff9) { /* otherwise "atomic": not fragmented after all */
				p->id = bpf_ntohl(*(__u32 *)(extension + 4));
				p->fragment = offset & 0xfff8 ? 2 : 1;
			}
			next = extension[0];
			at += 8;
			if (p->fragment == 2)
				break;
		} else if (next == PROTO_AH) {
			next = extension[0];
			at += (extension[1] + 2) * 4;
		} else {
			next = extension[0];
			at += (extension[1] + 1) * 8;
		}
	}
	p->protocol = next;
	if (p->fragment == 2)
		return 0;
	if (at > MAX_OFFSET)
		return 0;
	asm volatile("%0 &= %1" : "+r"(at) : "i"(MAX_OFFSET));
	c->at = data + at;
	return parse_ports(c, p);
}

/* One multiplication; spreads low bits upwards and folds them back. */
static __always_inline __u64 fold(__u64 x)
{
	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 32;
}

/* Every bit of the input changes about half of the output bits. */
static __always_inline __u64 finish(__u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

static __always_inline __u64 fold_address(const __u64 *address)
{
	return fold(fold(address[0]) ^ address[1]);
}

#endif
