/* SPDX-License-Identifier: GPL-2.0-only */
/* Flows: their hash, the same in both directions and for all fragments, and which of them a draining hop keeps. */
#ifndef FLOWS_H
#define FLOWS_H

/* The flow's hash, for both directions the same. Ports are part of it where the frame shows them. */
static __always_inline void hash_frame(void *data, void *end, struct scratch *s)
{
	struct cursor c = {.at = data, .end = end};
	struct parsed p = {};
	struct fragment_key key;
	struct fragment *known;
	__u64 a, b;
	int proto, error = -1;

	s->have_hash = 1;
	s->flow_flags = 0;
	proto = parse_ethertype(&c);
	if (proto == ETH_P_IP)
		error = parse_ipv4(&c, &p);
	else if (proto == ETH_P_IPV6)
		error = parse_ipv6(data, &c, &p);
	if (error) { /* not IP, or not readable as such: the pair of stations */
		if (data + ETH_HLEN > end) {
			s->hash = s->hash_l3 = 0;
			return;
		}
		a = (__u64)bpf_ntohs(*(__u16 *)data) << 32 | bpf_ntohl(*(__u32 *)(data + 2));
		b = (__u64)bpf_ntohs(*(__u16 *)(data + 6)) << 32 | bpf_ntohl(*(__u32 *)(data + 8));
		s->hash = s->hash_l3 = finish(fold(a) + fold(b));
		return;
	}
	a = fold_address(p.source);
	b = fold_address(p.destination);
	s->hash_l3 = finish(a + b);
	s->flow_flags = p.tcp_flags;
	if (p.fragment == 2)
		s->hash = s->hash_l3;
	else
		s->hash = finish(fold(a ^ p.ports[0]) + fold(b ^ p.ports[1]) + p.protocol);
	if (!p.fragment)
		return;
	/* All fragments of a datagram stay together, whichever comes first. */
	key = (struct fragment_key){
	    .source = {p.source[0], p.source[1]},
	    .destination = {p.destination[0], p.destination[1]},
	    .id = p.id,
	    .protocol = proto == ETH_P_IP ? p.protocol : PROTO_FRAGMENT,
	};
	known = bpf_map_lookup_elem(&fragments, &key);
	if (known && s->now - known->seen < FRAGMENT_NS && !(p.fragment == 1 && known->first)) {
		s->hash = known->hash;
		return;
	}
	if (!(s->device.flags & DEVICE_DRY)) {
		struct fragment fresh = {.hash = s->hash, .seen = s->now, .first = p.fragment == 1};

		bpf_map_update_elem(&fragments, &key, &fresh, BPF_ANY);
	}
}

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

/* Does the hop know this flow? A new connection on a closed flow's endpoints is a new flow. */
static __always_inline bool established(const struct scratch *s, __u32 hop)
{
	struct flow_key key = {.hash = s->hash, .hop = hop};
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);

	if (!flow)
		return false;
	if (flow->fin == 3)
		return (s->flow_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN && s->now - flow->seen < FLOW_CLOSED_NS;
	return true;
}

static __always_inline void track(const struct scratch *s, __u32 hop)
{
	struct flow_key key = {.hash = s->hash, .hop = hop};
	struct flow *flow;

	if (s->device.flags & DEVICE_DRY)
		return;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (s->flow_flags & TCP_RST) {
		if (flow)
			bpf_map_delete_elem(&flows, &key);
		return;
	}
	if (!flow || (flow->fin == 3 && (s->flow_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)) {
		struct flow fresh = {.seen = s->now};

		bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY);
		return;
	}
	if (flow->fin == 3)
		return; /* closed: its last frames do not keep it */
	if (s->flow_flags & TCP_FIN) {
		flow->fin |= 1 << (s->direction & 1);
		flow->seen = s->now;
	} else if (s->now - flow->seen > FLOW_REFRESH_NS) {
		flow->seen = s->now;
	}
}

#endif
