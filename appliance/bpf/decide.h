/* SPDX-License-Identifier: GPL-2.0-only */
/* The filters and the core in one program, and the flow cache before slower filters. */
#ifndef DECIDE_H
#define DECIDE_H

#define GENERATION_PLACE "0x54574731" /* placeholder for the generation of a generated program, see splice.py */
#define FRAGMENTS_PLACE "0x54574732"  /* 1: fragments may match a rule by their datagram; 0: they cannot */
#define SLOT_PLACE "0x54574733"	      /* of the port that the program is made for */

#ifndef PULL
#define PULL 192 /* bytes of the frame that a tc program needs in linear memory */
#endif

/* What later programs need to know about the frame. */
static __always_inline void note_frame(int kind, void *ctx, struct scratch *s, const struct device *device,
				       __u32 generation, __u32 length, __u32 buffers, __u32 direction)
{
	s->device = *device;
	s->generation = generation;
	s->direction = direction;
	s->length = length;
	s->buffers = buffers;
	s->have_hash = 0;
	s->classified = 0;
	s->want = 0;
	if (kind == TC) {
		struct __sk_buff *skb = ctx;

		if (skb->data_end - skb->data < PULL && skb->data_end - skb->data < skb->len)
			bpf_skb_pull_data(skb, skb->len < PULL ? skb->len : PULL);
	}
}

/* A port for which only the counters are needed. */
static __always_inline bool plain(const struct device *device)
{
	return device->role == ROLE_PORT && !device->flags;
}

/* Certainly not longer than the other port can send; otherwise the slow path checks exactly. */
static __always_inline bool fits(int kind, void *ctx, const struct device *device, __u32 length)
{
	if (kind != XDP)
		return length + 4 <= device->peer_max || /* a tag beside it */
		       (((struct __sk_buff *)ctx)->gso_size &&
			((struct __sk_buff *)ctx)->gso_size + ETH_HLEN + 4 <= device->peer_max);
	return length <= device->peer_max &&
	       (length <= device->peer_max_sg || frame_buffers(kind, ctx, length) == BUFFERS_ONE);
}

/* Send a frame from a device to a port, and count it: the common cases, so without state for other programs. */
static __always_inline int through(int kind, __u32 slot, __u32 port, __u32 length, __u32 outcome)
{
	int action = redirect(kind, port);
	struct device_counter *counter = bpf_map_lookup_elem(&device_counters, &slot);

	if (action == drop(kind))
		outcome = OUTCOME_NO_DEVICE;
	if (counter) {
		counter->outcome[outcome].frames++;
		counter->outcome[outcome].bytes += length;
	}
	return action;
}

/*
 * Placeholder of the filters in `decide`: the index of the first rule that matches, NO_MATCH or NOT_HERE. User space
 * puts the generated code here (appliance/steering/kernel/splice.py), so the compiler must not assume anything.
 */
static __noinline __u32 filters(void *ctx)
{
	__u32 rule;

	asm volatile("%0 = -1" : "=r"(rule) : "r"(ctx));
	return rule;
}

/* Whether fragments may match a rule by their datagram. Set by user space; if not, no further check is made. */
static __always_inline bool fragments_count(void)
{
	__u32 count;

	asm volatile("%0 = " FRAGMENTS_PLACE : "=r"(count));
	return count;
}

static __always_inline struct device *device_of(int kind, void *ctx)
{
	__u32 ifindex = kind == XDP ? ((struct xdp_md *)ctx)->ingress_ifindex : ((struct __sk_buff *)ctx)->ifindex;

	return bpf_map_lookup_elem(&devices, &ifindex);
}

/*
 * A segment's filters and the core in one program, for filter sets that fit into one program: frames straight to the
 * other port are sent here, without state for other programs.
 *
 * `attached`: to a port, in place of the entry program. It is only a short cut with the same result: a frame goes back
 * to the entry if another generation is in force (then its filters are not run, and the answer is NOT_HERE), if they are
 * not valid for it, or if more than the counters is needed for the port.
 */
static __always_inline int decide(int kind, void *ctx, bool attached)
{
	__u32 found = filters(ctx); /* must come first, see splice.py */
	__u32 key = 0, place, length, buffers, generation;
	struct rule *rule = NULL;
	struct device *device;
	struct scratch *s;

	asm volatile("%0 = " GENERATION_PLACE : "=r"(generation)); /* set by user space */
	device = device_of(kind, ctx);
	if (attached && (!device || !plain(device) || found == NOT_HERE))
		goto entry;
	if (!device)
		return pass(kind);
	/* 0, but unknown to the verifier, which would otherwise follow the rest separately for each rule's number. */
	asm volatile("%0 ^= %1" : "+r"(found) : "r"(device->role >> 7));
	length = frame_length(kind, ctx);
	if (attached && length < ETH_HLEN)
		goto entry;
	if (found < MAX_RULES) {
		place = (generation & 1) * MAX_RULES + found;
		rule = bpf_map_lookup_elem(&rules, &place);
	}
	if ((attached || plain(device)) && found != NOT_HERE && !(rule && rule->length) &&
	    fits(kind, ctx, device, length) &&
	    !(fragments_count() && maybe_fragment(frame_data(kind, ctx), frame_end(kind, ctx)))) {
		if (rule) {
			__u32 counter = rule->counter;
			struct rule_counter *matched = bpf_map_lookup_elem(&rule_counters, &counter);

			if (matched) {
				matched->matched.frames++;
				matched->matched.bytes += length;
			}
		}
		return through(kind, device->slot, device->slot ^ 1, length, OUTCOME_STRAIGHT);
	}
	buffers = frame_buffers(kind, ctx, length);
	s = bpf_map_lookup_elem(&scratch, &key);
	if (!s)
		return pass(kind);
	if (device->role == ROLE_PORT) { /* a hop's frame has been recorded before */
		struct trace *t;

		note_frame(kind, ctx, s, device, generation, length, buffers, device->side);
		if (device->flags & DEVICE_TRACE) {
			t = bpf_map_lookup_elem(&trace, &key);
			if (t)
				t->steps = 0;
		}
	}
	s->rule = found;
	if (found != NOT_HERE) {
		next_program(kind, ctx, PROGRAM_DISPATCH);
	} else {
		s->rule = NO_MATCH;
		filters_program(kind, ctx, generation, s->device.segment);
	}
	return pass(kind);
entry:
	next_program(kind, ctx, PROGRAM_ENTRY);
	return pass(kind);
}

/*
 * The same for one port, whose slot it contains, in place of the entry program. `own_ways` has been asked before the
 * filters: the frame is not too long, in one piece, and needs no more than the counters; otherwise the answer is
 * NOT_HERE. What else a frame may need is in other programs, so that this one needs few registers. `shunts`: a hop of a rule's path may shunt
 * flows, which costs other frames a little.
 */
static __always_inline int decide_own(void *ctx, bool shunts)
{
	__u32 found = filters(ctx); /* must come first, see splice.py */
	__u32 key = 0, counter = MAX_RULES /* none */, place, length, generation, slot;
	struct rule_counter *matched;
	struct rule *rule;
	struct scratch *s;
	int action;

	asm volatile("%0 = " GENERATION_PLACE : "=r"(generation)); /* set by user space */
	asm volatile("%0 = " SLOT_PLACE : "=r"(slot));		   /* set by user space */
	length = frame_end(XDP, ctx) - frame_data(XDP, ctx);
	if (found == NOT_HERE || length < ETH_HLEN) {
		next_program(XDP, ctx, PROGRAM_ENTRY);
		return pass(XDP);
	}
	asm volatile("%0 ^= %1" : "+r"(found) : "r"(length >> 31)); /* 0, but unknown to the verifier, as above */
	if (found < MAX_RULES) {
		place = (generation & 1) * MAX_RULES + found;
		rule = bpf_map_lookup_elem(&rules, &place);
		if (!rule)
			return pass(XDP);
		if (shunts && rule->shunts) { /* shunts.h */
			enum shunted said = own_shunted(ctx, slot, rule);

			if (said == MAY_BE_SHUNTED)
				goto more;
			if (said == ONLY_SHUNTED) {
				count_shunted(rule, length);
				return through(XDP, slot, slot ^ 1, length, OUTCOME_SHUNTED);
			}
		}
		if (rule->length) { /* first_hop.h */
			action = to_first_hop(ctx, slot, generation, rule, length);
			if (action != NOT_SIMPLE)
				return action;
			goto more;
		}
		counter = rule->counter;
	}
	if (!fragments_count() || !maybe_fragment(frame_data(XDP, ctx), frame_end(XDP, ctx))) {
		matched = counter < MAX_RULES ? bpf_map_lookup_elem(&rule_counters, &counter) : NULL;
		if (matched) {
			matched->matched.frames++;
			matched->matched.bytes += length;
		}
		return through(XDP, slot, slot ^ 1, length, OUTCOME_STRAIGHT);
	}
more:
	s = bpf_map_lookup_elem(&scratch, &key);
	if (s) {
		s->rule = found;
		s->generation = generation;
		next_program(XDP, ctx, PROGRAM_FOUND);
	}
	return pass(XDP);
}

/* A port's own program has found the rule of a frame, and more than sending it is needed. */
static __always_inline int found(void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct device *device = device_of(XDP, ctx);
	__u32 length = frame_end(XDP, ctx) - frame_data(XDP, ctx);

	if (!s)
		return pass(XDP);
	if (!device || device->role != ROLE_PORT) { /* no longer ours */
		next_program(XDP, ctx, PROGRAM_ENTRY);
		return pass(XDP);
	}
	note_frame(XDP, ctx, s, device, s->generation, length, BUFFERS_ONE, device->side);
	next_program(XDP, ctx, PROGRAM_DISPATCH);
	s->rule = NO_MATCH;
	return leave(XDP, ctx, &s->device, s, length, BUFFERS_ONE, device->side, OUTCOME_NO_PROGRAM);
}

/* In place of a segment's filters: ask the flow cache first. */
static __always_inline int recall(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s)
		return pass(kind);
	s->cache_place = CACHE_ENTRIES;
	if (!tagged(kind, ctx) && recalled(frame_data(kind, ctx), frame_end(kind, ctx), s))
		next_program(kind, ctx, PROGRAM_DISPATCH);
	else
		filters_program(kind, ctx, s->generation, s->device.segment);
	s->rule = NO_MATCH;
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_NO_PROGRAM);
}

/* After those filters: store their result. */
static __always_inline int noted(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s)
		return pass(kind);
	remember(s);
	next_program(kind, ctx, PROGRAM_DISPATCH);
	s->rule = NO_MATCH;
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_NO_PROGRAM);
}

#endif
