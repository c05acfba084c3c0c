/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copies of a rule's frames for hops that are mirrors: such a hop sees what the hop beside it gets, from both sides,
 * and what it sends is dropped (CONT_MIRROR), so that it can neither change nor delay anything.
 *
 * With tc only: XDP cannot clone a frame, so user space attaches a segment with mirrors by tc. A mirror needs no
 * lease: it gets copies while it fails its checks, too, and what its tap does not take is lost there.
 */
#ifndef MIRROR_H
#define MIRROR_H

#define NO_MEMORY -12
#define NO_DEVICE -22

/* Whether a hop's frames in this segment are those of a mirror, under this policy. */
static __always_inline bool is_mirror(__u64 policy, __u32 hop, __u32 segment)
{
	__u32 at =
	    (((policy & 1) * MAX_HOPS + (hop & (MAX_HOPS - 1))) * MAX_SEGMENTS + (segment & (MAX_SEGMENTS - 1))) * 2;
	struct continuation *next = bpf_map_lookup_elem(&continuations, &at);

	return next && next->kind == CONT_MIRROR;
}

/* Drop a frame that came out of a mirror. */
static __always_inline int from_mirror(int kind, const struct device *device, __u32 length)
{
	count(device, OUTCOME_MIRROR, length);
	record(device, NULL, VERDICT_DROP, 0, OUTCOME_MIRROR);
	return drop(kind);
}

/* Give a copy to one mirror, if it accepts such frames and there is room. */
static __always_inline void copy_to_mirror(struct __sk_buff *ctx, struct scratch *s, __u32 hop)
{
	__u32 slot = SLOT(hop, s->device.segment, s->direction), place = (s->generation & 1) * MAX_HOPS + hop;
	struct hop *h = bpf_map_lookup_elem(&hops, &place);
	struct target *target = bpf_map_lookup_elem(&targets, &slot);
	struct lease *lease = bpf_map_lookup_elem(&leases, &hop);
	struct hop_counter *counter;
	long answer = 0;

	if (!target || !lease || !h || !target->ifindex) {
		note(s, hop, REASON_UNAVAILABLE);
		return;
	}
	if (s->buffers != BUFFERS_ANY && s->length > target->max) {
		note(s, hop, REASON_OVERSIZE);
		return;
	}
	if (h->accept_bit < 64 && !(s->accept >> h->accept_bit & 1)) {
		note(s, hop, REASON_NOT_ACCEPTED);
		return;
	}
	if (lease->overloaded >> ((s->device.segment * 2 + (s->direction & 1)) & 63) & 1 && exceeds(s, slot)) {
		note(s, hop, REASON_OVERLOADED);
		return;
	}
	note_step(s, hop, REASON_MIRRORED);
	counter = hop_count(s, hop);
	if (!counter) /* a dry run */
		return;
	if (target->ifindex != ctx->ifindex) /* not where one device plays them all (explain/backends.py) */
		answer = bpf_clone_redirect(ctx, target->ifindex, 0);
	if (answer == NO_MEMORY || answer == NO_DEVICE) {
		counter->uncopied++;
		return;
	}
	counter->copies.frames++;
	counter->copies.bytes += s->length;
	if (h->flags & HOP_RECORDED)
		keep(TC, ctx, hop, slot, s->length);
	if (s->device.flags & DEVICE_COPY_OUT)
		copy_frame(TC, ctx, slot, COPY_OUT, s->length);
}

/*
 * The frame's way along its path is known: copies for the mirrors beside the positions that it passes, up to the hop
 * that takes it at position `last`, if one does.
 */
static __noinline void mirror(struct __sk_buff *ctx, bool taken, __u32 last)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct rule *rule;

	if (!s)
		return;
	rule = rule_at(s, s->rule);
	if (!rule)
		return;
	for (int i = 0; i < MAX_MIRRORS; i++) {
		__s32 position = rule->mirrors[i] >> 8, start = s->start, end = last;
		__u32 hop = rule->mirrors[i] & (MAX_HOPS - 1);

		if (!hop)
			return;
		if (s->direction == SIDE_LAN ? position < start || (taken && position > end)
					     : position > start || (taken && position < end))
			continue;
		s->position = position;
		s->group = 255;
		s->bucket = 0;
		copy_to_mirror(ctx, s, hop);
	}
}

#endif
