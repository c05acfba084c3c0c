/* SPDX-License-Identifier: GPL-2.0-only */
/* What groups have beyond an order of preference: how flows are told apart, enough members, flows of a failed one. */
#ifndef GROUPS_H
#define GROUPS_H

/* By segment: up to which time the allowed resets are used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SEGMENTS);
	__type(key, __u32);
	__type(value, __u64);
} resets SEC(".maps");

/*
 * What a group distributes the frame by, if not by all of its flow; the same for both directions. So `source` is the end
 * at the LAN, where the source of a frame to the WAN is, and a quoted packet has travelled the other way. This and the
 * next two are global functions: the verifier checks each once, and not for every state of their callers.
 */
__noinline __u64 part_hash(__u32 by)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u64 lan, wan;
	__u32 back;

	if (!s)
		return 0;
	back = (s->direction & 1) ^ (s->quoted & 1);
	lan = s->ends[back & 1];
	wan = s->ends[(back & 1) ^ 1];
	if (by == HASH_THREE)
		return finish(lan + wan + fold(s->protocol));
	if (by == HASH_TWO)
		return finish(lan + wan);
	return finish(by == HASH_SOURCE ? lan : wan);
}

/*
 * Whether fewer than `minimum` members are available, be they draining or not: then none of them gets the frame. They
 * are counted in a map, because the verifier would go through the loop for each number.
 */
__noinline __u32 too_few(__u64 list, __u32 minimum)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u64 rest = list;

	if (!s || !s->alive)
		return 0;
	s->there = 0;
	for (int i = 0; i < MAX_MEMBERS; i++) {
		__u32 hop = rest & (MAX_HOPS - 1), slot = SLOT(hop, s->device.segment, s->direction);
		struct target *target = bpf_map_lookup_elem(&targets, &slot);
		struct lease *lease = bpf_map_lookup_elem(&leases, &hop);

		rest >>= 8;
		if (!hop || !lease || !target)
			break;
		if (lease->until > s->now)
			s->there += target->ifindex != 0;
		else if (!lease->skipped && !(s->device.flags & DEVICE_DRY))
			lease->skipped = bpf_ktime_get_ns();
	}
	if (s->there >= minimum)
		return 0;
	for (int i = 0; i < MAX_MEMBERS; i++) {
		__u32 hop = list & (MAX_HOPS - 1);

		list >>= 8;
		if (!hop)
			break;
		if (accepted(s, hop))
			s->wanted = 1;
		note(s, hop, REASON_TOO_FEW);
	}
	return 1;
}

/* Whether one more reset is allowed now. CPUs do not wait for each other: the rate is met on average. */
static __always_inline bool may_reset(const struct scratch *s)
{
	__u32 segment = s->device.segment & (MAX_SEGMENTS - 1);
	__u64 *until = bpf_map_lookup_elem(&resets, &segment), used;

	if (!until)
		return false;
	used = *(volatile __u64 *)until;
	if (used < s->now)
		used = s->now;
	if (used - s->now > RESET_BURST_NS)
		return false;
	if (!(s->device.flags & DEVICE_DRY))
		*(volatile __u64 *)until = used + RESET_NS;
	return true;
}

/*
 * Look whether the frame can become a reset: TCP, not in fragments, directly behind one IP header without options or
 * extensions. In the walk and not where the flow is hashed, because only few rules need it.
 */
static __always_inline void find_tcp(int kind, void *ctx, struct scratch *s)
{
	void *data = frame_data(kind, ctx), *end = frame_end(kind, ctx);
	struct cursor c = {.at = data, .end = end};
	int proto = parse_ethertype(&c);
	__u8 *ip = c.at;
	__u32 at = c.at - data;

	s->tcp_at = 0;
	if (proto == ETH_P_IP) {
		if (c.at + 40 > end || ip[0] != 0x45 || ip[9] != PROTO_TCP || *(__u16 *)(ip + 6) & bpf_htons(0x3fff))
			return;
		s->ip6 = 0;
		s->tcp_at = at + 20;
	} else if (proto == ETH_P_IPV6) {
		if (c.at + 60 > end || ip[0] >> 4 != 6 || ip[6] != PROTO_TCP)
			return;
		s->ip6 = 1;
		s->tcp_at = at + 40;
	}
}

/*
 * A member of the group is not available: what becomes of a flow that it knows. REASON_KEPT: it goes around the group;
 * REASON_RESET: it is reset, see s->reset; REASON_TAKEN: it may go to another member, as does every flow that the member
 * does not know, or no longer, and every new connection. `held`: it is available again, but not for long enough; what it
 * knows from after its return is none of this.
 */
__noinline __u32 fate(__u32 hop, __u32 group, __u32 held)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct flow_key key = {.hop = hop};
	__u64 mark, ends = 0;
	struct flow *flow;
	bool dry;

	if (!s)
		return REASON_TAKEN;
	key.hash = s->hash;
	dry = s->device.flags & DEVICE_DRY;
	mark = FLOW_RESET << (s->direction & 1);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || s->now >= flow->seen + FLOW_IDLE_NS || (!(group & GROUP_KEEP) && (s->ahead || !s->tcp_at)))
		return REASON_TAKEN;
	if (held) {
		struct lease *lease = bpf_map_lookup_elem(&leases, &hop);

		if (!lease || (!(flow->fin & FLOW_FAILED) && flow->seen + COARSE_NS >= lease->recovered))
			return REASON_TAKEN;
	}
	if ((flow->fin & FLOW_CLOSED) == FLOW_CLOSED && s->now >= flow->seen + FLOW_CLOSED_NS)
		return REASON_TAKEN;
	if (!s->quoted && (s->flow_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		if (!dry)
			bpf_map_delete_elem(&flows, &key);
		return REASON_TAKEN;
	}
	if (group & GROUP_KEEP) {
		if (dry || s->quoted)
			return REASON_KEPT;
		if (s->flow_flags & TCP_RST) {
			bpf_map_delete_elem(&flows, &key);
			return REASON_KEPT;
		}
		if (s->flow_flags & TCP_FIN)
			ends = 1ULL << (s->direction & 1);
		if ((flow->fin & (FLOW_FAILED | ends)) != (FLOW_FAILED | ends))
			__sync_fetch_and_or(&flow->fin, FLOW_FAILED | ends);
		if (!held && (s->flow_flags & TCP_FIN || s->now > flow->seen + FLOW_REFRESH_NS))
			flow->seen = s->now;
		return REASON_KEPT;
	}
	s->overloaded = 1; /* as with an overloaded hop, no other one gets the frame */
	s->reset = RESET_NONE;
	if (s->flow_flags & TCP_RST) { /* it closes the flow itself */
		s->reset = RESET_ON;
		if (!dry)
			bpf_map_delete_elem(&flows, &key);
	} else if (s->flow_flags & TCP_ACK && may_reset(s)) {
		s->reset = flow->fin & mark ? RESET_BACK : RESET_ON;
		if (!dry)
			__sync_fetch_and_or(&flow->fin, FLOW_FAILED | mark);
	}
	return REASON_RESET;
}

/*
 * Whether a member that is not available knows the flow, which therefore goes to none of the group: members are asked in
 * order, up to the first that would get the frame.
 */
__noinline __u32 knows_failed(__u64 list, __u64 hold_down, __u32 group)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s || !s->alive)
		return 0;
	for (int i = 0; i < MAX_MEMBERS; i++) {
		__u32 hop = list & (MAX_HOPS - 1), slot = SLOT(hop, s->device.segment, s->direction), reason;
		struct target *target = bpf_map_lookup_elem(&targets, &slot);
		struct lease *lease = bpf_map_lookup_elem(&leases, &hop);
		bool there;

		list >>= 8;
		if (!hop || !lease || !target)
			break;
		there = lease->until > s->now && target->ifindex;
		if (there && lease->draining && !established(s, hop))
			continue;
		if (there && !(hold_down && lease->recovered && s->now < lease->recovered + hold_down))
			break;
		reason = fate(hop, group, there);
		if (!reason)
			continue;
		if (!there && !lease->skipped && !(s->device.flags & DEVICE_DRY))
			lease->skipped = bpf_ktime_get_ns();
		if (accepted(s, hop))
			s->wanted = 1;
		note(s, hop, reason);
		return 1;
	}
	return 0;
}

#endif
