/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Headers deeper in a frame than `parsing.h` reads: behind labels, PPPoE, LLC/SNAP and tags of any kind, in tunnels, and
 * the packet that an ICMP error quotes. The innermost IP header identifies the flow.
 *
 * The first bytes of the frame are copied to a map and read from there in steps whose entire state is in that map too,
 * so that all steps look alike to the verifier, which checks each once. Few frames get here, and all others pay nothing.
 * The same in Python: appliance/frames/nested.py.
 */
#ifndef NESTED_H
#define NESTED_H

#include "parsing.h"
#include "steer.h"

#define NESTED_BYTES 256 /* bytes of the frame that are read; a power of two */
#define NESTED_STEPS 24
#define NESTED_REACH 64 /* a step reads at most this far */

enum layer {
	LAYER_ETHERNET,
	LAYER_TYPE,  /* `value`: EtherType */
	LAYER_LABEL, /* of MPLS */
	LAYER_GUESS, /* IP by its first digit; `value` 1: otherwise a control word and Ethernet */
	LAYER_IPV4,
	LAYER_IPV6,
	LAYER_TRANSPORT, /* `value`: protocol */
	LAYER_GTP	 /* `value`: the next extension header of GTP-U */
};

struct nested {
	__u8 bytes[NESTED_BYTES + NESTED_REACH];
	__u32 at;
	__u32 layer;
	__u32 value;
	__u8 found;    /* some IP header */
	__u8 six;      /* of version 6 */
	__u8 quoted;   /* by an ICMP error */
	__u8 later;    /* the last IP header is that of a later fragment */
	__u8 fragment; /* of the outermost datagram in fragments: 0 none, 1 first, 2 later */
	__u8 pad[7];
	struct parsed ip;
	struct fragment_key datagram;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nested);
} nested SEC(".maps");

static __always_inline __u32 two(const __u8 *p)
{
	return p[0] << 8 | p[1];
}

static __always_inline __u32 four(const __u8 *p)
{
	return (__u32)two(p) << 16 | two(p + 2);
}

static __always_inline __u64 eight(const __u8 *p)
{
	return (__u64)four(p) << 32 | four(p + 4);
}

static __always_inline bool go_on(struct nested *n, __u32 layer, __u32 value, __u32 bytes)
{
	n->layer = layer;
	n->value = value;
	n->at += bytes;
	return true;
}

/* Record the outermost fragmented datagram; quoted ones are not fragments of the frame's flow. */
static __always_inline void note_fragment(struct nested *n, bool later, __u32 id, __u32 protocol)
{
	if (n->quoted || n->fragment)
		return;
	n->fragment = later ? 2 : 1;
	n->datagram.source[0] = n->ip.source[0];
	n->datagram.source[1] = n->ip.source[1];
	n->datagram.destination[0] = n->ip.destination[0];
	n->datagram.destination[1] = n->ip.destination[1];
	n->datagram.id = id;
	n->datagram.protocol = protocol;
}

static __always_inline bool by_type(struct nested *n, const __u8 *p, __u32 left)
{
	__u32 type = n->value;

	switch (type) {
	case ETH_P_8021Q:
	case ETH_P_8021AD:
	case ETH_P_QINQ1:
	case ETH_P_QINQ2:
	case ETH_P_QINQ3:
		return left >= 4 && go_on(n, LAYER_TYPE, two(p + 2), 4);
	case ETH_P_MPLS_UC:
	case ETH_P_MPLS_MC:
		return go_on(n, LAYER_LABEL, 0, 0);
	case ETH_P_PPP_SES:
		if (left < 8 || two(p) != 0x1100)
			return false;
		if (two(p + 6) == 0x0021)
			return go_on(n, LAYER_IPV4, 0, 8);
		return two(p + 6) == 0x0057 && go_on(n, LAYER_IPV6, 0, 8);
	case ETH_P_IP:
		return go_on(n, LAYER_IPV4, 0, 0);
	case ETH_P_IPV6:
		return go_on(n, LAYER_IPV6, 0, 0);
	case ETH_P_TEB:
		return go_on(n, LAYER_ETHERNET, 0, 0);
	default: /* a length: LLC, and SNAP with an EtherType */
		return type <= ETH_DATA_LEN && left >= 8 && four(p) == 0xaaaa0300 && !two(p + 4) &&
		       go_on(n, LAYER_TYPE, two(p + 6), 8);
	}
}

static __always_inline bool read_ipv4(struct nested *n, const __u8 *p, __u32 left)
{
	__u32 offset, header;

	if (left < 20 || p[0] >> 4 != 4 || (p[0] & 15) < 5)
		return false;
	header = (p[0] & 15) * 4;
	n->found = 1;
	n->six = 0;
	n->ip.source[0] = n->ip.destination[0] = 0;
	n->ip.source[1] = four(p + 12);
	n->ip.destination[1] = four(p + 16);
	n->ip.protocol = p[9];
	n->ip.ports[0] = n->ip.ports[1] = n->ip.tcp_flags = 0;
	offset = two(p + 6);
	if (offset & 0x3fff)
		note_fragment(n, offset & 0x1fff, two(p + 4), p[9]);
	if (offset & 0x1fff) {
		n->later = 1;
		return false;
	}
	return go_on(n, LAYER_TRANSPORT, p[9], header);
}

static __always_inline bool read_ipv6(struct nested *n, const __u8 *p, __u32 left)
{
	if (left < 40 || p[0] >> 4 != 6)
		return false;
	n->found = n->six = 1;
	n->ip.source[0] = eight(p + 8);
	n->ip.source[1] = eight(p + 16);
	n->ip.destination[0] = eight(p + 24);
	n->ip.destination[1] = eight(p + 32);
	n->ip.protocol = p[6];
	n->ip.ports[0] = n->ip.ports[1] = n->ip.tcp_flags = 0;
	return go_on(n, LAYER_TRANSPORT, p[6], 40);
}

/* An extension header of IPv6. */
static __always_inline bool extension(struct nested *n, const __u8 *p, __u32 left)
{
	__u32 bytes = (p[1] + 1) * 8, offset;

	if (!n->six || left < 8)
		return false;
	if (n->value == PROTO_AH) {
		bytes = (p[1] + 2) * 4;
	} else if (n->value == PROTO_FRAGMENT) {
		bytes = 8;
		offset = two(p + 2);
		if (offset & 0xfff9) /* otherwise "atomic": not fragmented after all */
			note_fragment(n, offset & 0xfff8, four(p + 4), PROTO_FRAGMENT);
		if (offset & 0xfff8) {
			n->ip.protocol = p[0];
			n->later = 1;
			return false;
		}
	}
	n->ip.protocol = p[0];
	return go_on(n, LAYER_TRANSPORT, p[0], bytes);
}

/* UDP, and the tunnels that have a port of their own. */
static __always_inline bool read_udp(struct nested *n, const __u8 *p, __u32 left)
{
	__u32 port = two(p + 2);

	n->ip.ports[0] = two(p);
	n->ip.ports[1] = port;
	if (left < 16)
		return false;
	if (port == PORT_VXLAN)
		return four(p + 8) == 0x08000000 && go_on(n, LAYER_ETHERNET, 0, 16);
	if (port == PORT_GENEVE)
		return p[8] >> 6 == 0 && go_on(n, LAYER_TYPE, two(p + 10), 16 + (p[8] & 63) * 4);
	if (port != PORT_GTPU || p[8] >> 4 != 3 || p[9] != 255)
		return false;
	if (!(p[8] & 7))
		return go_on(n, LAYER_GUESS, 0, 16);
	return left >= 20 && go_on(n, LAYER_GTP, p[8] & 4 ? p[19] : 0, 20);
}

static __always_inline bool read_transport(struct nested *n, const __u8 *p, __u32 left)
{
	__u32 flags;

	switch (n->value) {
	case PROTO_HOPOPTS:
	case PROTO_ROUTING:
	case PROTO_FRAGMENT:
	case PROTO_AH:
	case PROTO_DSTOPTS:
	case PROTO_MOBILITY:
		return extension(n, p, left);
	case PROTO_IPIP:
		return go_on(n, LAYER_IPV4, 0, 0);
	case PROTO_IPV6:
		return go_on(n, LAYER_IPV6, 0, 0);
	case PROTO_GRE:
		flags = two(p);
		if (left < 4 || flags & 0x4007) /* routed, or another version */
			return false;
		return go_on(n, LAYER_TYPE, two(p + 2),
			     4 + (flags >> 15 & 1) * 4 + (flags >> 13 & 1) * 4 + (flags >> 12 & 1) * 4);
	case PROTO_ICMP:
		if (n->six || left < 8 || (p[0] != 3 && p[0] != 4 && p[0] != 5 && p[0] != 11 && p[0] != 12))
			return false;
		n->quoted = 1;
		return go_on(n, LAYER_IPV4, 0, 8);
	case PROTO_ICMPV6:
		if (!n->six || left < 8 || p[0] < 1 || p[0] > 4)
			return false;
		n->quoted = 1;
		return go_on(n, LAYER_IPV6, 0, 8);
	case PROTO_UDP:
		return left >= 4 && read_udp(n, p, left);
	case PROTO_TCP:
		if (left >= 14 && !n->quoted) /* a quoted packet opens and closes nothing */
			n->ip.tcp_flags = p[13];
		/* fallthrough */
	case PROTO_SCTP:
	case PROTO_UDPLITE:
	case PROTO_DCCP:
		if (left < 4)
			return false;
		n->ip.ports[0] = two(p);
		n->ip.ports[1] = two(p + 2);
		return false;
	default:
		return false;
	}
}

static __always_inline bool step_in(struct nested *n, const __u8 *p, __u32 left)
{
	__u32 bytes;

	switch (n->layer) {
	case LAYER_ETHERNET:
		return left >= ETH_HLEN && go_on(n, LAYER_TYPE, two(p + 12), ETH_HLEN);
	case LAYER_TYPE:
		return by_type(n, p, left);
	case LAYER_LABEL:
		return left >= 4 && go_on(n, p[2] & 1 ? LAYER_GUESS : LAYER_LABEL, 1, 4);
	case LAYER_GUESS:
		if (p[0] >> 4 == 4)
			return go_on(n, LAYER_IPV4, 0, 0);
		if (p[0] >> 4 == 6)
			return go_on(n, LAYER_IPV6, 0, 0);
		return p[0] >> 4 == 0 && n->value && go_on(n, LAYER_ETHERNET, 0, 4);
	case LAYER_IPV4:
		return read_ipv4(n, p, left);
	case LAYER_IPV6:
		return read_ipv6(n, p, left);
	case LAYER_TRANSPORT:
		return read_transport(n, p, left);
	case LAYER_GTP:
		if (!n->value)
			return go_on(n, LAYER_GUESS, 0, 0);
		bytes = p[0] * 4;
		if (!bytes || bytes > NESTED_REACH / 2 || bytes > left)
			return false;
		asm volatile("%0 &= %1" : "+r"(bytes) : "i"(NESTED_REACH - 1));
		return go_on(n, LAYER_GTP, p[(bytes - 1) & (NESTED_REACH - 1)], bytes);
	default:
		return false;
	}
}

/* Parse the frame's first `bytes`. A global function: verified once. */
__noinline int read_nested(__u32 bytes)
{
	struct nested *n = bpf_map_lookup_elem(&nested, &zero);

	if (!n)
		return 0;
	n->at = n->layer = n->value = 0;
	n->found = n->six = n->quoted = n->later = n->fragment = 0;
	for (int i = 0; i < NESTED_STEPS; i++) {
		__u32 at = *(volatile __u32 *)&n->at, left = bytes - at;

		if (at >= bytes)
			break;
		asm volatile("%0 &= %1" : "+r"(at) : "i"(NESTED_BYTES - 1));
		if (!step_in(n, n->bytes + at, left))
			break;
	}
	return 0;
}

/* The innermost IP header of the frame; NULL if none can be read. */
static __always_inline struct nested *look_deeper(int kind, void *ctx, __u32 length)
{
	struct nested *n = bpf_map_lookup_elem(&nested, &zero);
	__u64 bytes = copy_bound(length, NESTED_BYTES);

	if (!n || !bytes ||
	    (kind == XDP ? bpf_xdp_load_bytes(ctx, 0, n->bytes, bytes) : bpf_skb_load_bytes(ctx, 0, n->bytes, bytes)))
		return NULL;
	read_nested(bytes);
	return n->found ? n : NULL;
}

/* Whether there is more to find than `parse_ipv4` and `parse_ipv6` found. */
static __always_inline bool goes_deeper(const struct parsed *p)
{
	if (p->fragment == 2)
		return false;
	return p->protocol == PROTO_ICMP || p->protocol == PROTO_ICMPV6 || p->protocol == PROTO_GRE ||
	       p->protocol == PROTO_IPIP || p->protocol == PROTO_IPV6 ||
	       (p->protocol == PROTO_UDP &&
		(p->ports[1] == PORT_VXLAN || p->ports[1] == PORT_GENEVE || p->ports[1] == PORT_GTPU));
}

#endif
