/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A frame of a flow whose member of a group has failed becomes a TCP reset. The first one in each direction is sent on:
 * it has the number that the other end expects next. Those after it go back to their sender, with the number that it has
 * acknowledged. So both ends of a flow learn of it as soon as one of them sends two frames, or each of them one.
 */
#ifndef RESET_H
#define RESET_H

struct reset_frame {
	__u8 stations[12];
	__u8 head[60]; /* IP header without options, TCP header */
};

static __always_inline __u16 reset_fold(__s64 sum)
{
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline void swap_bytes(__u8 *a, __u8 *b, int bytes)
{
	for (int i = 0; i < bytes; i++) {
		__u8 kept = a[i];

		a[i] = b[i];
		b[i] = kept;
	}
}

/* The sum of the pseudo header with `length` bytes of TCP. */
static __always_inline __u16 reset_pseudo(__u8 *addresses, int bytes, __u16 length)
{
	__u32 rest = bpf_htonl(PROTO_TCP << 16 | length);

	return reset_fold(bpf_csum_diff(NULL, 0, (__be32 *)addresses, bytes, bpf_csum_diff(NULL, 0, &rest, 4, 0)));
}

/*
 * Rewrite the headers. `ip`: bytes of the IP header, a constant. A frame that a host left to its device with the sum of
 * the pseudo header alone in its checksum (checksum.h) is sent like that again, where the kernel keeps the mark (tc).
 */
static __always_inline void reset_headers(int kind, struct reset_frame *f, int ip, bool back)
{
	__u8 *head = f->head, *addresses = head + (ip == 20 ? 12 : 8), *tcp = head + ip;
	int bytes = ip == 20 ? 8 : 32;
	__u16 before = ip == 20 ? (head[2] << 8 | head[3]) - 20 : head[4] << 8 | head[5], sum;
	bool unfinished = kind == TC && *(__u16 *)(tcp + 16) == reset_pseudo(addresses, bytes, before);

	if (back) {
		swap_bytes(f->stations, f->stations + 6, 6);
		swap_bytes(addresses, addresses + bytes / 2, bytes / 2);
		swap_bytes(tcp, tcp + 2, 2);
		__builtin_memcpy(tcp + 4, tcp + 8, 4);
		__builtin_memset(tcp + 8, 0, 4);
	}
	tcp[12] = 0x50;
	tcp[13] = TCP_RST | (back ? 0 : tcp[13] & TCP_ACK);
	__builtin_memset(tcp + 14, 0, 6);
	if (ip == 20) {
		head[2] = 0;
		head[3] = 40;
		head[8] = 64;
		head[10] = head[11] = 0;
		sum = ~reset_fold(bpf_csum_diff(NULL, 0, (__be32 *)head, 20, 0));
		__builtin_memcpy(head + 10, &sum, 2);
	} else {
		head[4] = 0;
		head[5] = 20;
		head[7] = 64;
	}
	sum = reset_pseudo(addresses, bytes, 20);
	if (!unfinished)
		sum = ~reset_fold(bpf_csum_diff(NULL, 0, (__be32 *)tcp, 20, sum));
	__builtin_memcpy(tcp + 16, &sum, 2);
}

static __always_inline long reset_load(int kind, void *ctx, __u32 at, void *to, __u32 bytes)
{
	return kind == XDP ? bpf_xdp_load_bytes(ctx, at, to, bytes) : bpf_skb_load_bytes(ctx, at, to, bytes);
}

static __always_inline long reset_store(int kind, void *ctx, __u32 at, void *from, __u32 bytes)
{
	return kind == XDP ? bpf_xdp_store_bytes(ctx, at, from, bytes)
			   : bpf_skb_store_bytes(ctx, at, from, bytes, BPF_F_RECOMPUTE_CSUM);
}

/* Make the frame a reset; false if that is not possible. */
static __always_inline bool reset_frame(int kind, void *ctx, const struct scratch *s, struct reset_frame *f, int ip)
{
	__u32 at = s->tcp_at - ip, end = s->tcp_at + 20, length = frame_length(kind, ctx), now = end;
	__u8 nothing = 0;

	if (reset_load(kind, ctx, 0, f->stations, 12) || reset_load(kind, ctx, at, f->head, ip + 20))
		return false;
	reset_headers(kind, f, ip, s->reset == RESET_BACK);
	if (now < ETH_ZLEN) /* not below what Ethernet asks for */
		now = length < ETH_ZLEN ? length : ETH_ZLEN;
	if (kind == XDP ? bpf_xdp_adjust_tail(ctx, (int)now - (int)length) : bpf_skb_change_tail(ctx, now, 0))
		return false;
	if (reset_store(kind, ctx, 0, f->stations, 12) || reset_store(kind, ctx, at, f->head, ip + 20))
		return false;
	for (int i = 0; i < ETH_ZLEN - ETH_HLEN - 40; i++) {
		if (end >= now)
			break;
		if (reset_store(kind, ctx, end, &nothing, 1))
			return false;
		end++;
	}
	return true;
}

static __always_inline int reset(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct reset_frame f;
	bool made = false;

	if (!s)
		return pass(kind);
	if (s->reset == RESET_ON || s->reset == RESET_BACK) {
		if (s->ip6)
			made = reset_frame(kind, ctx, s, &f, 40);
		else
			made = reset_frame(kind, ctx, s, &f, 20);
	}
	if (made)
		return send(kind, ctx, &s->device, s, s->length,
			    SLOT(0, s->device.segment, s->direction ^ (s->reset == RESET_ON)), VERDICT_PORT,
			    OUTCOME_RESET);
	count(&s->device, OUTCOME_RESET, s->length);
	record(&s->device, s, VERDICT_DROP, 0, OUTCOME_RESET);
	return drop(kind);
}

#endif
