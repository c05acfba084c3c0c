/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows that a hop has shunted: it has said, by a tag or through its agent, that it needs no more of their frames.
 *
 * Such a frame skips that hop, and that hop only: the others of its path still see it. If no hop is left, it goes straight
 * to the other port. A shunt ends by its time, when no frame has come for a while, with the connection (RST, FIN from both
 * sides, or the first segment of a new connection on the same endpoints), when it is removed, and when its hop returns
 * after it was not available. While the hop is not available its shunts do not count, unless the rule keeps them, so that a
 * rule that blocks does so with these flows too.
 *
 * A flow is known by all of its addresses, ports, tag and segment, and not by a hash that someone at the link could aim at.
 * Fragments, IPv4 options, extension headers and everything in tunnels cannot be shunted: those frames go to the hop.
 */
#ifndef SHUNTS_H
#define SHUNTS_H

static __always_inline bool carries_tunnel(__u16 port)
{
	return port == PORT_VXLAN || port == PORT_GENEVE || port == PORT_GTPU;
}

/* The flow of a frame in this direction, for which a shunt may exist; false: none. */
static __always_inline bool shunt_flow(int kind, void *ctx, __u32 segment, __u32 direction, struct shunt_key *key,
				       __u32 *flags)
{
	void *data = frame_data(kind, ctx), *end = frame_end(kind, ctx);
	const __u8 *ip = data + ETH_HLEN, *ports;
	__u32 *source = key->lan, *destination = key->wan;
	struct parsed p = {};
	__u32 type;

	if (data + ETH_HLEN + 24 > end)
		return false;
	type = *(__u16 *)(data + 12);
	key->vlan = 0;
	if (tagged(kind, ctx)) {
		struct __sk_buff *skb = ctx;

		key->vlan =
		    SHUNT_TAG | (skb->vlan_tci & 0xfff) | (skb->vlan_proto == bpf_htons(ETH_P_8021AD) ? SHUNT_AD : 0);
	} else if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD)) {
		key->vlan =
		    SHUNT_TAG | (bpf_ntohs(*(__u16 *)ip) & 0xfff) | (type == bpf_htons(ETH_P_8021AD) ? SHUNT_AD : 0);
		type = *(__u16 *)(ip + 2);
		ip += 4;
	}
	if (direction) {
		source = key->wan;
		destination = key->lan;
	}
	if (type == bpf_htons(ETH_P_IP)) {
		if ((void *)ip + 24 > end || ip[0] != 0x45 || *(__u16 *)(ip + 6) & bpf_htons(0x3fff))
			return false;
		p.protocol = ip[9];
		key->place = segment;
		source[0] = source[1] = source[2] = 0;
		destination[0] = destination[1] = destination[2] = 0;
		source[3] = *(__u32 *)(ip + 12);
		destination[3] = *(__u32 *)(ip + 16);
		ports = ip + 20;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		if ((void *)ip + 44 > end || ip[0] >> 4 != 6)
			return false;
		p.protocol = ip[6];
		key->place = segment | SHUNT_IPV6;
		__builtin_memcpy(source, ip + 8, 16);
		__builtin_memcpy(destination, ip + 24, 16);
		ports = ip + 40;
	} else {
		return false;
	}
	p.ports[0] = bpf_ntohs(*(__u16 *)ports);
	p.ports[1] = bpf_ntohs(*(__u16 *)(ports + 2));
	*flags = 0;
	if (p.protocol == PROTO_TCP) {
		if ((void *)ports + 14 > end)
			return false;
		*flags = ports[13];
	} else if (p.protocol != PROTO_UDP || carries_tunnel(p.ports[0]) || carries_tunnel(p.ports[1])) {
		return false;
	}
	key->protocol = p.protocol;
	key->lan_port = *(__u16 *)(direction ? ports + 2 : ports);
	key->wan_port = *(__u16 *)(direction ? ports : ports + 2);
	return true;
}

static __always_inline struct shunt *shunt_at(__u32 hop, const struct shunt_key *key)
{
	void *table = bpf_map_lookup_elem(&shunts, &hop);

	return table ? bpf_map_lookup_elem(table, key) : NULL;
}

/* Whether the shunt is in force. It may be younger than `now`, see clock.h. */
static __always_inline bool in_force(const struct shunt *shunt, const struct lease *lease, __u64 now)
{
	return now < shunt->until && now < shunt->seen + shunt->idle && shunt->since >= lease->recovered;
}

/* It ends by then, and what any CPU has found out about shunts is to be looked up again. */
static __always_inline void end_by(struct shunt *shunt, __u64 until)
{
	struct shunt_epoch *epoch = bpf_map_lookup_elem(&shunt_epoch, &zero);

	*(volatile __u64 *)&shunt->until = until;
	if (epoch)
		__sync_fetch_and_add(&epoch->datapath, 1);
}

/* Whether the hop has shunted the flow of the frame, which may end it. Global like `choose`. */
__noinline __u32 has_shunted(__u32 hop)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct lease *lease = bpf_map_lookup_elem(&leases, &hop);
	__u32 direction, flags;
	struct shunt *shunt;
	bool dry, shunted;

	if (!s || !lease)
		return false;
	direction = s->direction & 1;
	flags = s->shunt_flags;
	dry = s->device.flags & DEVICE_DRY;
	shunt = shunt_at(hop, &s->shunt_key);
	if (!shunt || !in_force(shunt, lease, s->now))
		return false;
	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) { /* another connection, which the hop has not seen */
		if (!dry)
			end_by(shunt, 0);
		return false;
	}
	shunted = shunt->directions >> direction & 1;
	if (dry)
		return shunted;
	if (flags & TCP_RST) {
		end_by(shunt, 0);
	} else if (flags & TCP_FIN) {
		__sync_fetch_and_or(&shunt->fin, 1 << direction);
		if (shunt->fin == FLOW_CLOSED && s->now + FLOW_CLOSED_NS < shunt->until)
			end_by(shunt, s->now + FLOW_CLOSED_NS);
	}
	if (s->now > shunt->seen + FLOW_REFRESH_NS)
		*(volatile __u64 *)&shunt->seen = s->now;
	return shunted;
}

static __always_inline struct shunt_hit *hit_at(const struct shunt_key *key)
{
	const __u64 *words = (const __u64 *)key;
	__u64 ends =
	    words[1] * 0x9e3779b97f4a7c15ULL ^ words[3] * 0xff51afd7ed558ccdULL ^ words[4] * 0xc4ceb9fe1a85ec53ULL;
	__u32 place = ends >> 54;

	_Static_assert(SHUNT_HITS == 1 << 10, "the uppermost bits of a hash");
	return bpf_map_lookup_elem(&shunt_hits, &place);
}

static __always_inline bool same_key(const struct shunt_key *one, const struct shunt_key *other)
{
	const __u64 *a = (const __u64 *)one, *b = (const __u64 *)other;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]));
}

enum shunted {
	NOT_SHUNTED,	/* no hop that the frame would go to first has shunted its flow */
	ONLY_SHUNTED,	/* the only hop of the path has, it is there, and nothing is to be written to its shunt */
	MAY_BE_SHUNTED, /* ask the walk */
};

/* Note what is known about the flow at a hop, until it may change by itself; `shunt` NULL: nothing. */
static __always_inline void note_hit(struct shunt_hit *hit, const struct shunt_key *key, __u32 hop,
				     const struct shunt *shunt, __u64 now)
{
	__u64 until = now + FLOW_REFRESH_NS;

	hit->key = *key;
	hit->hop = hop;
	hit->since = ~0ULL;
	hit->directions = 0;
	if (shunt) {
		hit->since = shunt->since;
		hit->directions = shunt->directions;
		until = shunt->seen + (shunt->idle < FLOW_REFRESH_NS ? shunt->idle : FLOW_REFRESH_NS);
		if (until > shunt->until)
			until = shunt->until;
	}
	hit->until = until;
}

/* The frequent cases, without walking the path. The rule is for a frame from a port, and has SHUNTS_POSSIBLE. */
static __always_inline enum shunted shunted_at_once(const struct rule *rule, const struct shunt_key *key, __u32 flags,
						    __u32 segment, __u32 direction)
{
	__u32 nothing = 0 /* no constant data: part of a template */,
	      at = direction ? (rule->length - 1) & (MAX_PATH - 1) : 0, hop = rule->path[at].id,
	      tap = SLOT(hop, segment, direction), epoch;
	struct lease *supervisor, *lease;
	struct shunt_epoch *counted;
	struct target *target;
	struct shunt_hit *hit;
	struct shunt *shunt;
	__u64 now;

	if (rule->path[at].kind != ITEM_HOP || flags & (TCP_FIN | TCP_SYN | TCP_RST))
		return MAY_BE_SHUNTED;
	hit = hit_at(key);
	counted = bpf_map_lookup_elem(&shunt_epoch, &nothing);
	supervisor = bpf_map_lookup_elem(&leases, &nothing);
	lease = bpf_map_lookup_elem(&leases, &hop);
	target = bpf_map_lookup_elem(&targets, &tap);
	if (!hit || !counted || !supervisor || !lease || !target)
		return MAY_BE_SHUNTED;
	/* before the look into the table, so that whatever begins or ends a shunt meanwhile counts */
	epoch = *(volatile __u64 *)&counted->datapath + *(volatile __u64 *)&counted->user_space;
	now = now_ns();
	if (!target->ifindex || now >= supervisor->until || now >= lease->until)
		return rule->shunts & SHUNTS_KEPT ? MAY_BE_SHUNTED : NOT_SHUNTED;
	if (!same_key(&hit->key, key) || hit->hop != hop || hit->epoch != epoch || now >= hit->until) {
		hit->epoch = epoch;
		hit->until = 0;
		shunt = shunt_at(hop, key);
		if (shunt && !in_force(shunt, lease, now))
			shunt = NULL;
		if (shunt && now > shunt->seen + FLOW_REFRESH_NS)
			return MAY_BE_SHUNTED;
		note_hit(hit, key, hop, shunt, now);
	}
	if (hit->since < lease->recovered || !(hit->directions >> (direction & 1) & 1))
		return NOT_SHUNTED;
	return rule->length == 1 ? ONLY_SHUNTED : MAY_BE_SHUNTED;
}

static __always_inline void count_shunted(const struct rule *rule, __u32 length)
{
	__u32 hop = rule->path[0].id, counter = rule->counter;
	struct rule_counter *matched = bpf_map_lookup_elem(&rule_counters, &counter);
	struct hop_counter *skipped = bpf_map_lookup_elem(&hop_counters, &hop);

	if (matched) {
		matched->matched.frames++;
		matched->matched.bytes += length;
		matched->shunted++;
	}
	if (skipped)
		skipped->skipped[REASON_SHUNTED]++;
}

/* The same in a port's own program, for a frame from its slot. */
static __always_inline enum shunted own_shunted(void *ctx, __u32 slot, const struct rule *rule)
{
	struct shunt_key key;
	__u32 flags;

	if (link_local(frame_data(XDP, ctx), frame_end(XDP, ctx)) ||
	    !shunt_flow(XDP, ctx, slot >> 1, slot & 1, &key, &flags))
		return NOT_SHUNTED;
	return shunted_at_once(rule, &key, flags, slot >> 1, slot & 1);
}

/* Before the walk, if a hop of the path may shunt flows: the frame's flow as the shunts know it. */
static __always_inline int look_for_shunts(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct rule *rule;

	if (!s)
		return pass(kind);
	rule = rule_at(s, s->rule);
	if (rule && shunt_flow(kind, ctx, s->device.segment, s->direction, &s->shunt_key, &s->shunt_flags)) {
		if (!s->device.hop && !(s->device.flags & (DEVICE_DRY | DEVICE_TRACE)) &&
		    !segment_has(s, SEGMENT_DRY_RUN) &&
		    shunted_at_once(rule, &s->shunt_key, s->shunt_flags, s->device.segment, s->direction) ==
			ONLY_SHUNTED) {
			count_shunted(rule, s->length);
			return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_SHUNTED);
		}
		s->shunts = rule->shunts;
	}
	next_program(kind, ctx, PROGRAM_WALK);
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_NO_PROGRAM);
}

/* A hop shunts the flow of the frame that comes from it, within its limits. */
static __always_inline void enter_shunt(int kind, void *ctx, struct scratch *s)
{
	__u32 hop = s->device.hop, place = (s->generation & 1) * MAX_HOPS + hop, flags;
	struct hop *h = bpf_map_lookup_elem(&hops, &place);
	struct shunt_limit *limit = bpf_map_lookup_elem(&shunt_limits, &hop);
	void *table = bpf_map_lookup_elem(&shunts, &hop);
	struct shunt_epoch *epoch;
	struct hop_counter *counter;
	struct shunt fresh = {}, *known;
	__u64 now = now_ns(), used;

	if (s->device.flags & DEVICE_DRY)
		return;
	if (!h || !(h->flags & HOP_SHUNTS) || !limit || !table) {
		counter = hop_count(s, hop);
		if (counter)
			counter->bad_tag++;
		return;
	}
	if (!shunt_flow(kind, ctx, s->device.segment, s->direction, &s->shunt_key, &flags)) {
		__sync_fetch_and_add(&limit->unfit, 1);
		return;
	}
	known = bpf_map_lookup_elem(table, &s->shunt_key);
	if (known && now < known->until && now < known->since + FLOW_REFRESH_NS && known->directions == s->shunt_order)
		return; /* the hop has tagged several frames of the flow */
	used = *(volatile __u64 *)&limit->used;
	if (used < now) {
		__sync_val_compare_and_swap(&limit->used, used, now);
		used = now;
	}
	if (used - now > SHUNT_BURST_NS) {
		__sync_fetch_and_add(&limit->too_frequent, 1);
		return;
	}
	__sync_fetch_and_add(&limit->used, limit->cost);
	fresh.since = fresh.seen = bpf_ktime_get_ns(); /* not before the hop's return, as `now` may be */
	fresh.until = fresh.since + limit->time;
	fresh.idle = limit->idle;
	fresh.directions = s->shunt_order;
	if (bpf_map_update_elem(table, &s->shunt_key, &fresh, BPF_ANY))
		__sync_fetch_and_add(&limit->full, 1);
	else
		__sync_fetch_and_add(&limit->entered, 1);
	epoch = bpf_map_lookup_elem(&shunt_epoch, &zero);
	if (epoch) /* what the CPUs have found out about the flow is no longer valid */
		__sync_fetch_and_add(&epoch->datapath, 1);
}

#endif
