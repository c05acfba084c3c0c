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

#define CHECKSUM_UDP 0x100

/*
 * Complete the sum of `left` bytes from offset `header` of the frame on; `field`: offset of the checksum from
 * `header`, and CHECKSUM_UDP. A global function, so that the verifier walks its loops once and not for each caller:
 * inlined, they took it longer than all other programs together.
 */
__attribute__((noinline)) int checksum_finish(struct xdp_md *ctx, __u32 header, __u32 field, __u64 pseudo, __u32 left)
{
	__u8 *data = (void *)(long)ctx->data, *p;
	void *end = (void *)(long)ctx->data_end;
	bool udp = field & CHECKSUM_UDP;
	__u64 sum = 0;
	__u16 whole;

	field &= 0xff;
	if (header > 64 || field > 64)
		return 0;
	p = data + header;
	field += header;
	if ((void *)data + field + 2 > end || *(__u16 *)(data + field) != checksum_fold(pseudo))
		return 0;
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
			return 0;
		sum = bpf_csum_diff(NULL, 0, (void *)p, part, sum);
		p += part;
		left -= part;
	}
	if (left >= 2) {
		if ((void *)p + 2 > end)
			return 0;
		sum += *(__u16 *)p;
		p += 2;
		left -= 2;
	}
	if (left == 1) {
		if ((void *)p + 1 > end)
			return 0;
		sum += *p;
		left = 0;
	}
	if (left) /* truncated, or too long */
		return 0;
	whole = ~checksum_fold(sum);
	*(__u16 *)(data + field) = udp && !whole ? 0xffff : whole;
	return 0;
}

/* `tag`: bytes of the VLAN tag between the stations and the EtherType, a constant. */
static __always_inline void fill_behind(struct xdp_md *ctx, __u32 tag)
{
	__u8 *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 sum = 0;
	__u32 length;
	__u8 proto;

	if ((void *)data + 42 + tag > end)
		return;
	if (*(__u16 *)(data + 12 + tag) == bpf_htons(ETH_P_IP)) {
		/* with options or in fragments the host has computed it itself */
		proto = data[23 + tag];
		if (data[14 + tag] != 0x45 || *(__u16 *)(data + 20 + tag) & bpf_htons(0x3fff))
			return;
		length = bpf_ntohs(*(__u16 *)(data + 16 + tag)) - 20;
		sum += *(__u32 *)(data + 26 + tag);
		sum += *(__u32 *)(data + 30 + tag);
		sum += bpf_htons(proto);
		sum += bpf_htons(length);
		if (proto == PROTO_TCP)
			checksum_finish(ctx, 34 + tag, 16, sum, length & 0xffff);
		else if (proto == PROTO_UDP)
			checksum_finish(ctx, 34 + tag, 6 | CHECKSUM_UDP, sum, length & 0xffff);
	} else if (*(__u16 *)(data + 12 + tag) == bpf_htons(ETH_P_IPV6) && (void *)data + 62 + tag <= end) {
		proto = data[20 + tag];
		length = bpf_ntohs(*(__u16 *)(data + 18 + tag));
		for (int i = 22; i < 54; i += 4)
			sum += *(__u32 *)(data + i + tag);
		sum += bpf_htons(proto);
		sum += bpf_htons(length);
		if (proto == PROTO_TCP)
			checksum_finish(ctx, 54 + tag, 16, sum, length);
		else if (proto == PROTO_UDP)
			checksum_finish(ctx, 54 + tag, 6 | CHECKSUM_UDP, sum, length);
	}
}

static __noinline int fill_checksum(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;

	if ((void *)data + ETH_HLEN > (void *)(long)ctx->data_end)
		return 0;
	if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_8021Q))
		fill_behind(ctx, 4);
	else
		fill_behind(ctx, 0);
	return 0;
}

#endif
