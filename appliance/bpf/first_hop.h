/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A port's frame to the first hop of its rule's path, or past the only one, decided within the port's own program; and a
 * hop's frame to the next hop of the path, by a program in place of the dispatch (`onward`).
 *
 * This is what `dispatch` and `walk` would do with it, for frames with which nothing is special: unfragmented TCP or UDP
 * behind plain IP. Either of a calm flow, to a hop, or to the first member of a group for that flow, that is available,
 * tracks its flows, is not drained, has no limit and gets no tag; or past a hop that is alone in the path, not available,
 * and not the reason to block. Any other frame is left to them, before anything has been changed or counted, and so is
 * every frame whose rule demands several hops at once, or has a hop that asks for an `accept` filter.
 */
#ifndef FIRST_HOP_H
#define FIRST_HOP_H

/* The flow of such a frame; false if it is none. Agrees with `hash_frame`. */
static __always_inline bool plain_flow(const void *data, const void *end, __u64 *hash, __u32 *flags)
{
	const __u8 *ip = data + ETH_HLEN, *ports;
	struct parsed p = {};

	if (data + ETH_HLEN + 24 > end)
		return false;
	if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_IP)) {
		if (ip[0] != 0x45 || *(__u16 *)(ip + 6) & bpf_htons(0x3fff))
			return false;
		p.protocol = ip[9];
		p.source[1] = bpf_ntohl(*(__u32 *)(ip + 12));
		p.destination[1] = bpf_ntohl(*(__u32 *)(ip + 16));
		ports = ip + 20;
	} else if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_IPV6) && data + ETH_HLEN + 44 <= end) {
		if (ip[0] >> 4 != 6)
			return false;
		p.protocol = ip[6];
		p.source[0] = (__u64)bpf_ntohl(*(__u32 *)(ip + 8)) << 32 | bpf_ntohl(*(__u32 *)(ip + 12));
		p.source[1] = (__u64)bpf_ntohl(*(__u32 *)(ip + 16)) << 32 | bpf_ntohl(*(__u32 *)(ip + 20));
		p.destination[0] = (__u64)bpf_ntohl(*(__u32 *)(ip + 24)) << 32 | bpf_ntohl(*(__u32 *)(ip + 28));
		p.destination[1] = (__u64)bpf_ntohl(*(__u32 *)(ip + 32)) << 32 | bpf_ntohl(*(__u32 *)(ip + 36));
		ports = ip + 40;
	} else {
		return false;
	}
	p.ports[0] = bpf_ntohs(*(__u16 *)ports);
	p.ports[1] = bpf_ntohs(*(__u16 *)(ports + 2));
	if (p.protocol == PROTO_TCP) {
		if ((void *)ports + 14 > end)
			return false;
		*flags = ports[13];
	} else if (p.protocol != PROTO_UDP || goes_deeper(&p)) {
		return false;
	}
	*hash = flow_hash(&p);
	return true;
}

#define NOT_SIMPLE -1

static __always_inline void count_own(__u32 slot, __u32 outcome, __u32 length)
{
	struct device_counter *counter = bpf_map_lookup_elem(&device_counters, &slot);

	if (counter) {
		counter->outcome[outcome].frames++;
		counter->outcome[outcome].bytes += length;
	}
}

/* Past the hop to the other port. */
static __always_inline int past_hop(__u32 slot, __u32 hop, __u32 reason, struct rule_counter *matched, __u32 length)
{
	struct hop_counter *counter = bpf_map_lookup_elem(&hop_counters, &hop);
	int action = redirect(XDP, slot ^ 1);

	if (counter)
		counter->skipped[reason]++;
	if (matched)
		matched->bypassed++;
	count_own(slot, action == XDP_DROP ? OUTCOME_NO_DEVICE : OUTCOME_BYPASSED, length);
	return action;
}

/* The hop that flows with this hash prefer in a group; 0: leave it to the other programs. */
static __always_inline __u32 preferred(__u32 generation, __u32 id, __u64 hash, __u64 *hold_down)
{
	__u32 place = (generation & 1) * MAX_GROUPS + (id & (MAX_GROUPS - 1)), at;
	struct group *group = bpf_map_lookup_elem(&groups, &place);
	__u64 *list;

	if (!group || group->flags & GROUP_LONG)
		return 0;
	*hold_down = group->hold_down;
	at = place * BUCKETS + (hash & (BUCKETS - 1));
	list = bpf_map_lookup_elem(&buckets, &at);
	return list ? *list & (MAX_HOPS - 1) : 0;
}

/*
 * What to do with the frame; NOT_SIMPLE: leave it to the other programs. `slot`: of the port from which the frame would
 * travel in this direction; `from`: of the device it comes from, which is that port if the hop is the `first`; `at`: the
 * position of the hop in the rule's path.
 */
static __always_inline int to_hop_at(void *ctx, __u32 slot, __u32 from, __u32 generation, const struct rule *rule,
				     __u32 at, __u32 length, bool first)
{
	void *data = frame_data(XDP, ctx), *end = frame_end(XDP, ctx);
	__u32 hop = rule->path[at].id;
	__u32 key = 0, flags = 0, reason = REASON_TAKEN, tap, number;
	bool alone = first && rule->length == 1 && rule->path[at].kind == ITEM_HOP;
	struct lease *supervisor = bpf_map_lookup_elem(&leases, &key), *lease;
	struct hop_counter *counter;
	struct rule_counter *matched = NULL;
	struct target *target;
	__u64 hash, now, hold_down = 0;
	struct hop *h;
	int action;

	if ((rule->length > 1 && rule->flags & RULE_ALL) || rule->flags & RULE_ACCEPT || link_local(data, end) ||
	    !supervisor)
		return NOT_SIMPLE;
	now = now_ns();
	if (!first && rule->path[at].kind == ITEM_HOP) { /* before all else: not available is left to others */
		lease = bpf_map_lookup_elem(&leases, &hop);
		if (!lease || lease->until <= now)
			return NOT_SIMPLE;
	}
	if (!plain_flow(data, end, &hash, &flags))
		return NOT_SIMPLE;
	if (rule->path[at].kind == ITEM_GROUP) {
		hop = preferred(generation, hop, hash, &hold_down);
		if (!hop)
			return NOT_SIMPLE;
	}
	tap = hop * 32 + slot;
	number = (generation & 1) * MAX_HOPS + hop;
	h = bpf_map_lookup_elem(&hops, &number);
	lease = bpf_map_lookup_elem(&leases, &hop);
	target = bpf_map_lookup_elem(&targets, &tap);
	if (!h || !lease || !target)
		return NOT_SIMPLE;
	if (supervisor->until <= now)
		reason = REASON_SUPERVISOR;
	else if (!target->ifindex)
		reason = REASON_UNAVAILABLE;
	else if (lease->until <= now) {
		if (!lease->skipped) /* the first frame past it, whose time is noted */
			return NOT_SIMPLE;
		reason = REASON_UNAVAILABLE;
	} else if (h->flags & HOP_TAGS || !(h->flags & HOP_TRACKED) || length > target->max || lease->draining ||
		   lease->overloaded || (hold_down && now < lease->recovered + hold_down) ||
		   !calm(hash, flags, hop, slot & 1, now)) {
		return NOT_SIMPLE;
	}
	if (reason != REASON_TAKEN && (!alone || rule->flags & RULE_BLOCK))
		return NOT_SIMPLE;
	if (first) { /* a rule counts frames from ports */
		number = rule->counter;
		matched = bpf_map_lookup_elem(&rule_counters, &number);
	}
	if (matched) {
		matched->matched.frames++;
		matched->matched.bytes += length;
	}
	if (reason != REASON_TAKEN)
		return past_hop(slot, hop, reason, matched, length);
	if (h->flags & HOP_RECORDED)
		keep(XDP, ctx, hop, tap, length);
	action = redirect(XDP, tap);
	if (matched)
		matched->to_hop++;
	count_own(from, action == XDP_DROP ? OUTCOME_NO_DEVICE : OUTCOME_TO_HOP, length);
	counter = bpf_map_lookup_elem(&hop_counters, &hop);
	if (counter && action == XDP_REDIRECT) {
		counter->to.frames++;
		counter->to.bytes += length;
	}
	return action;
}

/* The same at the beginning of the path. `slot`: of the port. */
static __always_inline int to_first_hop(void *ctx, __u32 slot, __u32 generation, const struct rule *rule, __u32 length)
{
	__u32 at = slot & 1 ? (rule->length - 1) & (MAX_PATH - 1) : 0;

	return to_hop_at(ctx, slot, slot, generation, rule, at, length, true);
}

/*
 * From a hop whose frames all continue at one position of one rule (CONT_STATIC), and have arrived in one buffer: to the
 * hop there. What is not simple goes on to the dispatch, as it would without this program.
 */
static __always_inline int onward(void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u32 position, port;
	struct rule *rule;
	int action;

	if (!s)
		return pass(XDP);
	rule = rule_at(s, s->rule);
	position = s->continuation_position + (s->direction == SIDE_LAN ? 1 : -1);
	if (rule && position < rule->length && !rule->shunts) {
		asm volatile("%0 &= %1" : "+r"(position) : "i"(MAX_PATH - 1)); /* the verifier needs the bound */
		port = SLOT(0, s->device.segment, s->direction & 1);
		action = to_hop_at(ctx, port, s->device.slot, s->generation, rule, position, s->length, false);
		if (action != NOT_SIMPLE)
			return action;
	}
	next_program(XDP, ctx, PROGRAM_DISPATCH);
	s->rule = NO_MATCH;
	return leave(XDP, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_NO_PROGRAM);
}

#endif
