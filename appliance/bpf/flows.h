/* SPDX-License-Identifier: GPL-2.0-only */
/* Flows: their hash, the same in both directions and for all fragments, and which ones a draining hop keeps. */
#ifndef FLOWS_H
#define FLOWS_H

/* The hash with the ports, for a frame that is no later fragment. */
static __always_inline __u64 flow_hash(const struct parsed *p)
{
	__u64 a = fold_address(p->source), b = fold_address(p->destination);

	return finish(fold(a ^ p->ports[0]) + fold(b ^ p->ports[1]) + p->protocol);
}

/* The flow's ends, and their hash, with the ports if they are known; it is the same for either direction. */
static __always_inline void hash_parsed(struct scratch *s, const struct parsed *p, bool later)
{
	__u64 a = fold_address(p->source), b = fold_address(p->destination);

	s->ends[0] = a;
	s->ends[1] = b;
	s->protocol = p->protocol;
	s->flow_flags = later ? 0 : p->tcp_flags;
	s->hash = later ? finish(a + b) : flow_hash(p);
}

/* The fragment belongs to the flow of another one. */
static __always_inline void same_flow(struct scratch *s, struct fragment *fresh, const struct fragment *other)
{
	fresh->hash = s->hash = other->hash;
	fresh->ends[0] = s->ends[0] = other->ends[0];
	fresh->ends[1] = s->ends[1] = other->ends[1];
	fresh->protocol = s->protocol = other->protocol;
}

/*
 * All fragments of a datagram stay together, whichever arrives first. A later one that overtakes its first follows the
 * last fragmented datagram between the same ends: correctly, if that is of the same flow.
 */
static __always_inline void hash_fragment(struct scratch *s)
{
	struct fragment fresh = {.hash = s->hash,
				 .seen = s->now,
				 .first = s->fragment == 1,
				 .rule = NO_MATCH,
				 .generation = s->generation,
				 .protocol = s->protocol,
				 .ends = {s->ends[0], s->ends[1]}};
	struct fragment *known, *like;
	struct fragment_key pair;

	s->datagram.protocol |= (__u32)s->device.segment << FRAGMENT_SEGMENT_SHIFT;
	pair = s->datagram;
	pair.id = 0;
	pair.protocol |= FRAGMENT_PAIR;
	known = bpf_map_lookup_elem(&fragments, &s->datagram);
	if (known && s->now >= known->seen + FRAGMENT_NS)
		known = NULL;
	barrier_var(known); /* or the compiler would use what it knows of the comparison, and not check for NULL */
	if (s->fragment == 2) {
		like = known;
		if (!like) {
			like = bpf_map_lookup_elem(&fragments, &pair);
			if (like && s->now >= like->seen + FRAGMENT_PAIR_NS)
				like = NULL;
		}
		if (like) {
			same_flow(s, &fresh, like);
			if (like->generation == s->generation)
				fresh.rule = s->fragment_rule = like->rule;
		}
		if (known)
			return;
	} else if (s->device.flags & DEVICE_DRY) {
		if (known && !known->first)
			same_flow(s, &fresh, known);
	} else {
		if (s->classified)
			fresh.rule = s->rule;
		else if (known && known->generation == s->generation)
			fresh.rule = known->rule;
		bpf_map_update_elem(&fragments, &pair, &fresh, BPF_ANY);
		if (known && !known->first) {
			same_flow(s, &fresh, known);
			fresh.first = 0;
		}
	}
	if (!(s->device.flags & DEVICE_DRY))
		bpf_map_update_elem(&fragments, &s->datagram, &fresh, BPF_ANY);
}

/* The frame's flow: by the innermost readable IP header, or by the pair of stations. */
static __always_inline void hash_frame(int kind, void *ctx, struct scratch *s)
{
	void *data = frame_data(kind, ctx), *end = frame_end(kind, ctx);
	struct cursor c = {.at = data, .end = end};
	struct nested *inside = NULL;
	struct parsed p = {};
	__u64 a, b;
	int proto, error = -1;

	s->have_hash = 1;
	s->flow_flags = 0;
	s->fragment = 0;
	s->quoted = 0;
	s->fragment_rule = NO_MATCH;
	proto = parse_ethertype(&c);
	if (proto == ETH_P_IP)
		error = parse_ipv4(&c, &p);
	else if (proto == ETH_P_IPV6)
		error = parse_ipv6(data, &c, &p);
	if (error) { /* unless there is more inside: the stations, read now, because a helper invalidates the pointers */
		if (data + ETH_HLEN > end) {
			s->hash = s->ends[0] = s->ends[1] = 0;
			s->protocol = 0;
			return;
		}
		a = (__u64)bpf_ntohs(*(__u16 *)data) << 32 | bpf_ntohl(*(__u32 *)(data + 2));
		b = (__u64)bpf_ntohs(*(__u16 *)(data + 6)) << 32 | bpf_ntohl(*(__u32 *)(data + 8));
		s->ends[0] = fold(b);
		s->ends[1] = fold(a);
		s->protocol = 0;
		s->hash = finish(s->ends[0] + s->ends[1]);
	}
	if (error || goes_deeper(&p))
		inside = look_deeper(kind, ctx, s->length);
	if (inside) {
		hash_parsed(s, &inside->ip, inside->later);
		s->quoted = inside->quoted;
		s->fragment = inside->fragment;
		if (s->fragment)
			s->datagram = inside->datagram;
	} else if (!error) {
		hash_parsed(s, &p, p.fragment == 2);
		s->fragment = p.fragment;
		if (s->fragment) {
			s->datagram.source[0] = p.source[0];
			s->datagram.source[1] = p.source[1];
			s->datagram.destination[0] = p.destination[0];
			s->datagram.destination[1] = p.destination[1];
			s->datagram.id = p.id;
			s->datagram.protocol = proto == ETH_P_IP ? p.protocol : PROTO_FRAGMENT;
		}
	}
	if (s->fragment)
		hash_fragment(s);
}

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

/* Whether the hop knows this flow. A new connection on a closed flow's endpoints is a new flow. */
static __always_inline bool established(const struct scratch *s, __u32 hop)
{
	struct flow_key key = {.hash = s->hash, .hop = hop};
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);

	if (!flow)
		flow = bpf_map_lookup_elem(&new_flows, &key);
	if (!flow)
		return false;
	if ((flow->fin & FLOW_CLOSED) == FLOW_CLOSED)
		return (s->flow_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN && s->now < flow->seen + FLOW_CLOSED_NS;
	return true;
}

static __always_inline struct calm_flow *calm_at(__u64 hash, __u32 hop)
{
	__u32 place = ((__u32)hash + hop * 0x9e3779b1) % CALM_FLOWS;

	return bpf_map_lookup_elem(&calm_flows, &place);
}

/*
 * Whether `track` would change nothing. Looking into its tables costs as much as the rest of a decision; this is one
 * look into an array. An entry says so until the flow's time is to be written again, and not beyond anything that
 * changes what is known about the flow. The CPUs do not wait for each other: a change that another one makes at the same
 * time may show that much later. The same if a table displaces the flow meanwhile.
 */
static __always_inline bool calm(__u64 hash, __u32 flags, __u32 hop, __u32 direction, __u64 now)
{
	struct calm_flow *entry = calm_at(hash, hop);

	/* few branches, because the verifier follows what comes after once for each */
	return entry && !((entry->hash ^ hash) | (entry->hop ^ hop) | (flags & (TCP_FIN | TCP_SYN | TCP_RST))) &&
	       now <= entry->until[direction & 1];
}

static __always_inline void calm_down(const struct scratch *s, __u32 hop, __u64 seen)
{
	struct calm_flow *entry = calm_at(s->hash, hop);

	if (!entry || s->flow_flags & (TCP_FIN | TCP_SYN | TCP_RST))
		return;
	if ((entry->hash ^ s->hash) | (entry->hop ^ hop)) {
		*(volatile __u64 *)&entry->until[0] = 0;
		*(volatile __u64 *)&entry->until[1] = 0;
		entry->hash = s->hash;
		entry->hop = hop;
		barrier();
	}
	*(volatile __u64 *)&entry->until[s->direction & 1] = seen + FLOW_REFRESH_NS;
}

/* What is known about the flow changes: the frames of both directions count again. */
static __always_inline void disturb(const struct scratch *s, __u32 hop)
{
	struct calm_flow *entry = calm_at(s->hash, hop);

	if (!entry) /* whichever flow it holds: another one is only looked up once more */
		return;
	*(volatile __u64 *)&entry->until[0] = 0;
	*(volatile __u64 *)&entry->until[1] = 0;
}

/*
 * A flow begins in `new_flows` and is established by a frame that is not part of the handshake, once both ends have
 * sent: the flows of a SYN flood, including all answers to it, never are.
 */
static __always_inline void track(const struct scratch *s, __u32 hop)
{
	struct flow_key key = {.hash = s->hash, .hop = hop};
	bool opens = (s->flow_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN, begins = false;
	__u64 marks = FLOW_FRAME << (s->direction & 1);
	struct flow *flow;

	if (s->device.flags & DEVICE_DRY || calm(s->hash, s->flow_flags, hop, s->direction, s->now))
		return;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		begins = true;
		flow = bpf_map_lookup_elem(&new_flows, &key);
	}
	if (s->flow_flags & TCP_RST) {
		disturb(s, hop);
		if (flow && begins)
			bpf_map_delete_elem(&new_flows, &key);
		else if (flow)
			bpf_map_delete_elem(&flows, &key);
		return;
	}
	if (!flow || ((flow->fin & FLOW_CLOSED) == FLOW_CLOSED && opens)) {
		struct flow fresh = {.seen = s->now, .fin = marks};

		disturb(s, hop);
		if (flow && !begins)
			bpf_map_delete_elem(&flows, &key);
		bpf_map_update_elem(&new_flows, &key, &fresh, BPF_ANY);
		return;
	}
	if ((flow->fin & FLOW_CLOSED) == FLOW_CLOSED)
		return; /* closed: its last frames do not extend it */
	if (s->flow_flags & TCP_FIN)
		marks |= 1 << (s->direction & 1);
	if ((flow->fin & marks) != marks) { /* two CPUs may process a frame of it at the same time */
		__sync_fetch_and_or(&flow->fin, marks);
		disturb(s, hop);
	}
	if (s->flow_flags & TCP_FIN || s->now > flow->seen + FLOW_REFRESH_NS)
		flow->seen = s->now;
	if (begins && (flow->fin & FLOW_BOTH) == FLOW_BOTH && !(s->flow_flags & TCP_SYN)) {
		struct flow known = *flow;

		bpf_map_update_elem(&flows, &key, &known, BPF_ANY);
		bpf_map_delete_elem(&new_flows, &key);
		calm_down(s, hop, known.seen);
		return;
	}
	calm_down(s, hop, flow->seen);
}

#endif
