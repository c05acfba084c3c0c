/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The largest segment that TCP's two ends offer each other, made to fit a tunnel: at the egress of a remote's devices.
 *
 * Only the option of a SYN is changed, and only to a smaller number, so ends that have a path of their own with a smaller
 * MTU keep it. The checksum follows. Frames under other headers than up to two tags and IP, or with IPv6 extensions, are
 * left alone: their long segments skip the remote, and are counted.
 */
#ifndef CLAMP_H
#define CLAMP_H

#define TCP_HEADER 20
#define TCP_CHECKSUM_AT 16
#define TCP_MOST_OPTIONS 40
#define TCP_OPTION_END 0
#define TCP_OPTION_PADDING 1
#define TCP_OPTION_MSS 2

/* By ifindex: a remote's device. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IP_DEVICES);
	__type(key, __u32);
	__type(value, struct clamp);
} clamps SEC(".maps");

/* Where the TCP header of a frame begins, and `*mtu` less what comes before its payload; 0: it is no such frame. */
static __always_inline __u32 tcp_at(struct __sk_buff *ctx, __u32 *mtu)
{
	__u32 at = ETH_HLEN;
	__u8 head[40];
	__u16 type;

	if (bpf_skb_load_bytes(ctx, at - 2, &type, 2))
		return 0;
	for (int tags = 0; tags < 2; tags++) {
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if (bpf_skb_load_bytes(ctx, at + 2, &type, 2))
			return 0;
		at += 4;
	}
	if (type == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(ctx, at, head, 20) || head[9] != PROTO_TCP)
			return 0;
		if ((head[0] & 15) < 5 || head[6] & 0x1f || head[7]) /* only the first fragment has a header */
			return 0;
		*mtu -= 20 + TCP_HEADER;
		return at + (head[0] & 15) * 4;
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(ctx, at, head, 40) || head[6] != PROTO_TCP)
			return 0;
		*mtu -= 40 + TCP_HEADER;
		return at + 40;
	}
	return 0;
}

SEC("tc")
int clamp_tc(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex, most, size, start, at, end;
	struct clamp *clamp = bpf_map_lookup_elem(&clamps, &ifindex);
	__u8 head[TCP_HEADER], option[4];
	__u16 old, new;

	if (!clamp)
		return TC_ACT_UNSPEC;
	most = clamp->mtu;
	start = tcp_at(ctx, &most);
	if (!start || bpf_skb_load_bytes(ctx, start, head, sizeof(head)) || !(head[13] & TCP_SYN))
		return TC_ACT_UNSPEC;
	at = start + TCP_HEADER;
	end = start + (head[12] >> 4) * 4;
	for (int i = 0; i < TCP_MOST_OPTIONS && at + 4 <= end; i++) {
		if (bpf_skb_load_bytes(ctx, at, option, sizeof(option)) || option[0] == TCP_OPTION_END)
			return TC_ACT_UNSPEC;
		if (option[0] == TCP_OPTION_PADDING) {
			at++;
			continue;
		}
		if (option[0] != TCP_OPTION_MSS || option[1] != 4) {
			if (option[1] < 2)
				return TC_ACT_UNSPEC;
			at += option[1];
			continue;
		}
		size = (__u32)option[2] << 8 | option[3];
		if (size <= most)
			return TC_ACT_UNSPEC;
		old = bpf_htons(size);
		new = bpf_htons(most);
		at += 2;
		if (bpf_skb_store_bytes(ctx, at, &new, 2, 0))
			return TC_ACT_UNSPEC;
		if ((at - start) & 1) { /* behind one byte of padding: it is in the other halves of two words */
			old = __builtin_bswap16(old);
			new = __builtin_bswap16(new);
		}
		bpf_l4_csum_replace(ctx, start + TCP_CHECKSUM_AT, old, new, 2);
		__sync_fetch_and_add(&clamp->clamped, 1);
		return TC_ACT_UNSPEC;
	}
	return TC_ACT_UNSPEC;
}

#endif
