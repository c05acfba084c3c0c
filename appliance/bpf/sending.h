/* SPDX-License-Identifier: GPL-2.0-only */
/* Sending a frame, and counting that: the same for XDP and tc except for differences of their contexts. */
#ifndef SENDING_H
#define SENDING_H

static __always_inline void *frame_data(int kind, void *ctx)
{
	return kind == XDP ? (void *)(long)((struct xdp_md *)ctx)->data : (void *)(long)((struct __sk_buff *)ctx)->data;
}

static __always_inline void *frame_end(int kind, void *ctx)
{
	return kind == XDP ? (void *)(long)((struct xdp_md *)ctx)->data_end
			   : (void *)(long)((struct __sk_buff *)ctx)->data_end;
}

static __always_inline __u32 frame_length(int kind, void *ctx)
{
	return kind == XDP ? (__u32)bpf_xdp_get_buff_len(ctx) : ((struct __sk_buff *)ctx)->len;
}

/* enum buffers; `length` is the frame's. */
static __always_inline __u32 frame_buffers(int kind, void *ctx, __u32 length)
{
	if (kind != XDP)
		return ((struct __sk_buff *)ctx)->gso_size ? BUFFERS_ANY : BUFFERS_ONE;
	return length > frame_end(kind, ctx) - frame_data(kind, ctx) ? BUFFERS_SEVERAL : BUFFERS_ONE;
}

static __always_inline struct trace *tracing(const struct scratch *s)
{
	if (!(s->device.flags & DEVICE_TRACE))
		return NULL;
	return bpf_map_lookup_elem(&trace, &zero);
}

static __always_inline void count(const struct device *device, __u32 outcome, __u32 length)
{
	__u32 slot = device->slot;
	struct device_counter *counter;

	if (device->flags & DEVICE_DRY || outcome >= OUTCOMES)
		return;
	counter = bpf_map_lookup_elem(&device_counters, &slot);
	if (!counter)
		return;
	counter->outcome[outcome].frames++;
	counter->outcome[outcome].bytes += length;
}

static __always_inline struct hop_counter *hop_count(const struct scratch *s, __u32 hop)
{
	if (s->device.flags & DEVICE_DRY)
		return NULL;
	return bpf_map_lookup_elem(&hop_counters, &hop);
}

static __always_inline int pass(int kind)
{
	return kind == XDP ? (int)XDP_PASS : TC_ACT_OK;
}

static __always_inline int drop(int kind)
{
	return kind == XDP ? (int)XDP_DROP : TC_ACT_SHOT;
}

static __always_inline void record(const struct device *device, struct scratch *s, __u32 verdict, __u32 slot,
				   __u32 outcome)
{
	struct trace *t;

	if (!(device->flags & DEVICE_TRACE))
		return;
	t = bpf_map_lookup_elem(&trace, &zero);
	if (!t)
		return;
	t->verdict = verdict;
	t->slot = slot;
	t->outcome = outcome;
	if (s) {
		t->rule = s->rule;
		t->hash = s->have_hash ? s->hash : 0;
	} else {
		t->rule = NO_MATCH;
		t->steps = 0;
		t->hash = 0;
	}
}

/* Have the kernel send the frame to a slot; XDP_DROP or TC_ACT_SHOT if no device is attached there. */
static __always_inline int redirect(int kind, __u32 slot)
{
	struct target *target;

	if (kind == XDP)
		return bpf_redirect_map(&tx, slot, XDP_DROP);
	target = bpf_map_lookup_elem(&targets, &slot);
	return target && target->ifindex ? (int)bpf_redirect(target->ifindex, 0) : TC_ACT_SHOT;
}

/* Send the frame to a slot and count it: as `outcome`, or as dropped by cause if no device is attached there. */
static __always_inline int send(int kind, void *ctx, const struct device *device, struct scratch *s, __u32 length,
				__u32 slot, __u32 verdict, __u32 outcome)
{
	int action = redirect(kind, slot);

	if (action == drop(kind))
		outcome = OUTCOME_NO_DEVICE;
	if (device->flags & DEVICE_COPY_OUT && outcome != OUTCOME_NO_DEVICE)
		copy_frame(kind, ctx, slot, COPY_OUT, frame_length(kind, ctx)); /* with our tag, if it has one */
	count(device, outcome, length);
	record(device, s, outcome == OUTCOME_NO_DEVICE ? VERDICT_DROP : verdict, slot, outcome);
	return action;
}

/*
 * Longer than the other port can send: XDP would drop the frame on the way out, and tc would pass it to a driver with
 * undefined results.
 */
static __always_inline bool oversize_xdp(const struct device *device, __u32 length, __u32 buffers)
{
	return length > (buffers == BUFFERS_SEVERAL ? device->peer_max_sg : device->peer_max);
}

static __always_inline bool oversize_tc(struct __sk_buff *skb, const struct device *device, __u32 length, __u32 buffers)
{
	if (buffers == BUFFERS_ANY)
		length = skb->gso_size + ETH_HLEN; /* each segment that it is split into */
	return length + (skb->vlan_present ? 4 : 0) > device->peer_max;
}

static __always_inline int refuse(int kind, const struct device *device, struct scratch *s, __u32 length, __u32 slot)
{
	__u32 outcome = OUTCOME_OVERSIZE;

	if (kind == TC)
		asm volatile(
		    ""
		    : "+r"(
			outcome)); /* or the compiler would merge this with other counts, which the verifier cannot follow */
	count(device, outcome, length);
	record(device, s, VERDICT_DROP, slot, outcome);
	return drop(kind);
}

/* To the port that is opposite in the frame's direction. */
static __always_inline int leave(int kind, void *ctx, const struct device *device, struct scratch *s, __u32 length,
				 __u32 buffers, __u32 direction, __u32 outcome)
{
	__u32 slot = SLOT(0, device->segment, direction ^ 1);

	if (kind == TC) {
		if (oversize_tc(ctx, device, length, buffers))
			return refuse(kind, device, s, length, slot);
		asm volatile(""
			     : "+r"(outcome)); /* or the compiler would use a range that the verifier does not know */
	}
	if (kind == XDP && oversize_xdp(device, length, buffers))
		return refuse(kind, device, s, length, slot);
	return send(kind, ctx, device, s, length, slot, VERDICT_PORT, outcome);
}

#endif
