/* SPDX-License-Identifier: GPL-2.0-only */
/* The recorder of a hop: the last frames that were sent to it. */
#ifndef RECORDER_H
#define RECORDER_H

/* Keep a copy of the frame, in case it crashes the hop. */
static __always_inline void keep(int kind, void *ctx, __u32 hop, __u32 slot, __u32 length)
{
	void *ring = bpf_map_lookup_elem(&recorders, &hop);
	struct record *head, *r;
	__u64 number;
	__u32 first = 0, place, captured;

	if (!ring)
		return;
	head = bpf_map_lookup_elem(ring, &first);
	if (!head)
		return;
	number = __sync_fetch_and_add(&head->number, 1) + 1;
	place = 1 + (number & head->length);
	captured = length < head->captured ? length : head->captured;
	r = bpf_map_lookup_elem(ring, &place);
	if (!r || captured < ETH_HLEN || captured > RECORD_BYTES)
		return;
	r->number = 0;
	r->at = bpf_ktime_get_ns();
	r->length = length;
	r->captured = captured;
	r->slot = slot;
	r->tag_proto = 0;
	if (kind == XDP) {
		if (bpf_xdp_load_bytes(ctx, 0, r->data, captured))
			return;
	} else {
		struct __sk_buff *skb = ctx;

		if (bpf_skb_load_bytes(skb, 0, r->data, captured))
			return;
		if (skb->vlan_present) {
			r->tag = skb->vlan_tci;
			r->tag_proto = skb->vlan_proto;
		}
	}
	r->number = number;
}

#endif
