/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Checksums that a host left to its device, for devices without hardware (veth).
 *
 * A host with offloads writes only the sum of the pseudo header into a TCP or UDP frame and marks the frame; the
 * network card does the rest. A veth only passes the mark on, and XDP cannot represent it: the frame would
 * arrive broken. So the sum is completed here, for frames that contain only the sum of their pseudo header. A
 * frame whose true checksum has that value gets the same value again.
 */
#ifndef CHECKSUM_H
#define CHECKSUM_H

#include "parsing.h"

#define CHECKSUM_BLOCK 64
#define CHECKSUM_BLOCKS                                                                                                \
	56 /* a veth with XDP accepts less than a page in one buffer; longer frames are left unchanged */

static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/*
 * Where a checksum is to be completed. The bytes are written and read one by one, off the places where the verifier
 * keeps track of values: so all kinds of frames look alike to it, and it walks the loops below once. Told apart, the
 * eight kinds took it longer than all other programs together.
 */
struct unfinished {
	volatile __u8 aligned, header, field, udp; /* `field`: offset of the checksum from the header */
	__u32 left;				   /* bytes from the header on */
	__u64 pseudo;
};

/* Complete the sum of `left` bytes from offset `header` of the frame on. */
static __always_inline void checksum_finish(struct xdp_md *ctx, struct unfinished *at)
{
	__u8 *data = (void *)(long)ctx->data, *p;
	void *end = (void *)(long)ctx->data_end;
	__u32 header = at->header, field = header + at->field, left = at->left;
	__u64 sum = 0;
	__u16 whole;

	if (header > 64 || field > 128)
		return;
	p = data + header;
	if ((void *)data + field + 2 > end || *(__u16 *)(data + field) != checksum_fold(at->pseudo))
		return;
	for (int i = 0; i < CHECKSUM_BLOCKS; i++) {
		if (left < CHECKSUM_BLOCK || (void *)p + CHECKSUM_BLOCK > end)
			break;
		sum = bpf_csum_diff(NULL, 0, (void *)p, CHECKSUM_BLOCK, sum);
		p += CHECKSUM_BLOCK;
		left -= CHECKSUM_BLOCK;
	}
#pragma unroll
	for (__u32 part = CHECKSUM_BLOCK / 2; part >= 4; part /= 2) {
		if (left < part)
			continue;
		if ((void *)p + part > end)
			return;
		sum = bpf_csum_diff(NULL, 0, (void *)p, part, sum);
		p += part;
		left -= part;
	}
	if (left >= 2) {
		if ((void *)p + 2 > end)
			return;
		sum += *(__u16 *)p;
		p += 2;
		left -= 2;
	}
	if (left == 1) {
		if ((void *)p + 1 > end)
			return;
		sum += *p;
		left = 0;
	}
	if (left) /* truncated, or too long */
		return;
	whole = ~checksum_fold(sum);
	*(__u16 *)(data + field) = at->udp && !whole ? 0xffff : whole;
}

/* `tag`: bytes of the VLAN tag between the stations and the EtherType, a constant. */
static __always_inline bool find_unfinished(struct xdp_md *ctx, __u32 tag, struct unfinished *at)
{
	__u8 *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 sum = 0;
	__u32 length;
	__u8 proto;

	if ((void *)data + 42 + tag > end)
		return false;
	if (*(__u16 *)(data + 12 + tag) == bpf_htons(ETH_P_IP)) {
		/* with options or in fragments the host has computed it itself */
		proto = data[23 + tag];
		if (data[14 + tag] != 0x45 || *(__u16 *)(data + 20 + tag) & bpf_htons(0x3fff))
			return false;
		length = bpf_ntohs(*(__u16 *)(data + 16 + tag)) - 20;
		sum += *(__u32 *)(data + 26 + tag);
		sum += *(__u32 *)(data + 30 + tag);
		sum += bpf_htons(proto);
		sum += bpf_htons(length);
		at->header = 34 + tag;
	} else if (*(__u16 *)(data + 12 + tag) == bpf_htons(ETH_P_IPV6) && (void *)data + 62 + tag <= end) {
		proto = data[20 + tag];
		length = bpf_ntohs(*(__u16 *)(data + 18 + tag));
		for (int i = 22; i < 54; i += 4)
			sum += *(__u32 *)(data + i + tag);
		sum += bpf_htons(proto);
		sum += bpf_htons(length);
		at->header = 54 + tag;
	} else {
		return false;
	}
	at->udp = proto == PROTO_UDP;
	at->field = at->udp ? 6 : 16;
	at->left = length & 0xffff;
	at->pseudo = sum;
	return proto == PROTO_TCP || proto == PROTO_UDP;
}

/*
 * A quick look, so that frames with a checksum need no function call: an ordinary frame of IPv4 in whose checksum is not
 * the sum of the pseudo header. All that is not known here is false.
 */
static __always_inline bool surely_finished(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u64 sum;
	__u16 found;

	if ((void *)data + 34 + 18 > (void *)(long)ctx->data_end || *(__u16 *)(data + 12) != bpf_htons(ETH_P_IP) ||
	    data[14] != 0x45 || *(__u16 *)(data + 20) & bpf_htons(0x3fff))
		return false;
	if (data[23] == PROTO_UDP)
		found = *(__u16 *)(data + 40);
	else if (data[23] == PROTO_TCP)
		found = *(__u16 *)(data + 50);
	else
		return false;
	sum = (__u64) * (__u32 *)(data + 26) + *(__u32 *)(data + 30) + bpf_htons(data[23]) +
	      bpf_htons(bpf_ntohs(*(__u16 *)(data + 16)) - 20);
	return found != checksum_fold(sum);
}

static __noinline int fill_checksum(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	struct unfinished at = {};
	bool found;

	if ((void *)data + ETH_HLEN > (void *)(long)ctx->data_end)
		return 0;
	if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_8021Q))
		found = find_unfinished(ctx, 4, &at);
	else
		found = find_unfinished(ctx, 0, &at);
	if (found)
		checksum_finish(ctx, &at);
	return 0;
}

#endif
