/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tag by which a hop with `tags` chooses where a frame goes next. Each frame to such a hop gets one as its outermost
 * tag: only our tag decides about frames from the hop, and the tags that the frame arrived with stay unchanged, whatever
 * they contain.
 */
#ifndef TAGS_H
#define TAGS_H

/* Put our tag on a frame for such a hop; false if there is no room for it. */
static __always_inline bool put_tag(int kind, void *ctx)
{
	__u32 stations[3];
	void *data;

	if (kind == TC)
		return !bpf_skb_vlan_push(ctx, bpf_htons(ETH_TAG), TAG_NEXT);
	if (bpf_xdp_adjust_head(ctx, -HOP_TAGS))
		return false;
	data = frame_data(kind, ctx);
	if (data + HOP_TAGS + ETH_HLEN > frame_end(kind, ctx))
		return false;
	__builtin_memcpy(stations, data + HOP_TAGS, 12);
	__builtin_memcpy(data, stations, 12);
	*(__u16 *)(data + 12) = bpf_htons(ETH_TAG);
	*(__u16 *)(data + 14) = bpf_htons(TAG_NEXT);
	return true;
}

/* Remove the outermost tag of a frame from such a hop. Returns its VID, or -1 if there is none. */
static __always_inline int take_tag(int kind, void *ctx)
{
	void *data = frame_data(kind, ctx), *end = frame_end(kind, ctx);
	__u32 stations[3];
	int vid;

	if (tagged(kind, ctx)) { /* the kernel has moved the outermost tag of a received frame to the metadata */
		struct __sk_buff *skb = ctx;

		if (skb->vlan_proto != bpf_htons(ETH_TAG))
			return -1;
		vid = skb->vlan_tci & 0xfff;
		bpf_skb_vlan_pop(skb); /* an error may be about a broken tag after this one, which has been removed */
		return vid;
	}
	if (data + ETH_HLEN + 4 > end || *(__u16 *)(data + 12) != bpf_htons(ETH_TAG))
		return -1;
	vid = bpf_ntohs(*(__u16 *)(data + 14)) & 0xfff;
	if (kind == TC) {
		bpf_skb_vlan_pop(ctx);
		return vid;
	}
	__builtin_memcpy(stations, data, 12);
	__builtin_memcpy(data + 4, stations, 12);
	return bpf_xdp_adjust_head(ctx, 4) ? -1 : vid;
}

#endif
