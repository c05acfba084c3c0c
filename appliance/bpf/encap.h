/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Encapsulation by XDP, for remotes whose tunnels have way = "xdp".
 *
 * The datapath sends frames for such a hop to one end of a veth pair. `encap` is at the other end, in the namespace of the
 * management port, where the routes to the far ends are. It puts the outer headers on and sends the packet out of the
 * management port. What it does not do itself goes back through the pair, and `by_kernel` sends it to the kernel's tunnel:
 * the frame is then not changed at all, so that the kernel's way is the only other one. Nothing passes to a stack. What
 * comes back from the far end takes the kernel's tunnel, as ever.
 *
 * The packet is the one that the kernel would make, but for three fields that it takes from secrets of its own: the
 * identification of IPv4 (here 0, which says nothing for packets that are never fragmented, RFC 6864), and what follows
 * the flow's hash, the UDP source port and the flow label of IPv6. These have the kernel's ranges.
 */
#ifndef ENCAP_H
#define ENCAP_H

#define ENCAP_HOPS 64 /* time to live, as the kernel's tunnels have it (appliance/tunnel/plan.py) */
#define GRE_KEY_PRESENT 0x2000
#define VXLAN_HAS_VNI 0x08000000
#define LOOPBACK_IFINDEX 1
#define FAMILY_IPV4 2
#define FAMILY_IPV6 10
#define IP_DONT_FRAGMENT 0x4000
#define FLOW_LABEL 0xfffff

/* By the ifindex of a pair's other end, in the namespace of the management port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENCAPS);
	__type(key, __u32);
	__type(value, struct encap);
} encaps SEC(".maps");

/* By hop * 2 + side. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_ENCAPS);
	__type(key, __u32);
	__type(value, struct encap_state);
} encap_states SEC(".maps");

/* By hop * 2 + side: the device that its packets leave by. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, MAX_ENCAPS);
	__type(key, __u32);
	__type(value, __u32);
} encap_tx SEC(".maps");

struct inner {
	__u32 hash;
	__u32 length;
	__u8 tos; /* whose two lowest bits the outer header gets, as congestion is told across a tunnel (RFC 6040) */
};

static __always_inline int hand_over(struct encap_state *state, __u32 why)
{
	state->frames[why & (ENCAP_PLACES - 1)]++;
	return XDP_TX;
}

/* The hash of a flow that `plain_flow` does not know. All fragments of a datagram have the same one. */
static __noinline __u32 any_flow_hash(struct xdp_md *ctx)
{
	void *data = frame_data(XDP, ctx), *end = frame_end(XDP, ctx);
	struct cursor c = {.at = data, .end = end};
	struct parsed p = {};
	int type = parse_ethertype(&c), wrong = -1;

	if (type == ETH_P_IP)
		wrong = parse_ipv4(&c, &p);
	else if (type == ETH_P_IPV6)
		wrong = parse_ipv6(data, &c, &p);
	if (wrong < 0) { /* between stations */
		if (data + ETH_HLEN > end)
			return 0;
		p.source[0] = p.destination[0] = p.protocol = 0;
		p.source[1] = (__u64)bpf_ntohs(*(__u16 *)(data + 6)) << 32 | bpf_ntohl(*(__u32 *)(data + 8));
		p.destination[1] = (__u64)bpf_ntohs(*(__u16 *)data) << 32 | bpf_ntohl(*(__u32 *)(data + 2));
		p.ports[0] = p.ports[1] = 0;
	}
	if (p.fragment)
		p.ports[0] = p.ports[1] = 0;
	return flow_hash(&p);
}

/*
 * What the outer headers take from the frame; false: the kernel would take it from elsewhere (behind two tags), or drop the
 * frame (too short for the header that its type says).
 */
static __always_inline bool look_inside(struct xdp_md *ctx, struct inner *inner)
{
	void *data = frame_data(XDP, ctx), *end = frame_end(XDP, ctx);
	__u32 flags;
	__u64 hash;
	__u32 type;
	__u8 *ip = data + ETH_HLEN;

	if (data + ETH_HLEN > end)
		return false;
	type = *(__u16 *)(data + 12);
	if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD)) {
		if ((void *)ip + 4 > end)
			return false;
		type = *(__u16 *)(ip + 2);
		ip += 4;
		if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD))
			return false;
	}
	inner->tos = 0;
	if (type == bpf_htons(ETH_P_IP)) {
		if ((void *)ip + 20 > end)
			return false;
		inner->tos = ip[1];
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		if ((void *)ip + 40 > end)
			return false;
		inner->tos = ip[0] << 4 | ip[1] >> 4;
	}
	inner->hash = plain_flow(data, end, &hash, &flags) ? hash : any_flow_hash(ctx);
	return true;
}

/*
 * Where packets of this tunnel go now, as the kernel's routes and neighbours say; enum encapsulated. Asked once a tick on
 * each CPU: that is no older than what a packet in a queue was decided by, and the answer costs as much as all the rest.
 */
static __always_inline __u32 find_way(struct xdp_md *ctx, struct encap *encap, struct encap_state *state, __u64 tick,
				      __u32 whole)
{
	struct bpf_fib_lookup way = {};
	__u64 now = now_ns();
	long answer;

	if (now >= encap->confirmed + ENCAP_CONFIRM_NS) {
		/* The kernel checks a neighbour that it sends to itself, and notes when it has moved. */
		encap->confirmed = now;
		return ENCAP_CONFIRM;
	}
	way.family = encap->six ? FAMILY_IPV6 : FAMILY_IPV4;
	way.l4_protocol = encap->kind == ENCAP_GRE ? PROTO_GRE : PROTO_UDP;
	way.dport = encap->port;
	way.tot_len = whole;
	/* As a packet of our own: routes are those of what this system sends, and nothing is forwarded by any port. */
	way.ifindex = LOOPBACK_IFINDEX;
	if (encap->six) {
		__builtin_memcpy(way.ipv6_src, encap->source, 16);
		__builtin_memcpy(way.ipv6_dst, encap->destination, 16);
	} else {
		way.ipv4_src = encap->source[0];
		way.ipv4_dst = encap->destination[0];
	}
	answer = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return ENCAP_NEIGHBOUR;
	if (answer == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return ENCAP_LONG;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS || way.ifindex != encap->route)
		return ENCAP_ROUTE;
	state->tick = tick;
	state->version = encap->version;
	state->mtu = way.mtu_result;
	__builtin_memcpy(state->stations, way.dmac, 6);
	__builtin_memcpy(state->stations + 6, way.smac, 6);
	return ENCAP_SENT;
}

static __always_inline __u8 *put_ethernet(__u8 *at, const struct encap_state *state, __u16 type)
{
	__builtin_memcpy(at, state->stations, 12);
	*(__u16 *)(at + 12) = bpf_htons(type);
	return at + ETH_HLEN;
}

static __always_inline __u8 *put_ipv4(__u8 *at, const struct encap *encap, __u32 length, __u8 tos, __u8 protocol)
{
	__u32 *words = (__u32 *)at;
	__u32 first = bpf_htonl(0x45000000 | (__u32)tos << 16 | length);
	__u32 third = bpf_htonl(ENCAP_HOPS << 24 | (__u32)protocol << 16);
	__u64 sum = (__u64)first + bpf_htonl(IP_DONT_FRAGMENT) + third + encap->source[0] + encap->destination[0];

	words[0] = first;
	words[1] = bpf_htonl(IP_DONT_FRAGMENT);
	words[2] = third;
	*(__u16 *)(at + 10) = ~checksum_fold(sum);
	words[3] = encap->source[0];
	words[4] = encap->destination[0];
	return at + 20;
}

static __always_inline __u8 *put_ipv6(__u8 *at, const struct encap *encap, __u32 length, const struct inner *inner,
				      __u8 tos, __u8 protocol)
{
	__u32 *words = (__u32 *)at;

	words[0] = bpf_htonl(6U << 28 | (__u32)tos << 20 | (inner->hash & FLOW_LABEL));
	words[1] = bpf_htonl(length << 16 | (__u32)protocol << 8 | ENCAP_HOPS);
	__builtin_memcpy(at + 8, encap->source, 16);
	__builtin_memcpy(at + 24, encap->destination, 16);
	return at + 40;
}

static __always_inline __u8 *put_udp(__u8 *at, const struct encap *encap, const struct inner *inner, __u32 length)
{
	__u32 port = encap->least_port + (__u32)((__u64)inner->hash * encap->ports >> 32);

	*(__u16 *)at = bpf_htons(port);
	*(__u16 *)(at + 2) = encap->port;
	*(__u16 *)(at + 4) = bpf_htons(length);
	*(__u16 *)(at + 6) = 0; /* no checksum, which IPv4 allows and the kernel's tunnels have too */
	return at + 8;
}

/* Put the headers on. `kind` and `six` are constants. False: there is no room, and the frame is as before. */
static __always_inline bool put_headers(struct xdp_md *ctx, const struct encap *encap, const struct encap_state *state,
					const struct inner *inner, __u32 kind, bool six)
{
	const int own = kind == ENCAP_GRE ? 8 : 16, header = ETH_HLEN + (six ? 40 : 20) + own;
	const __u8 protocol = kind == ENCAP_GRE ? PROTO_GRE : PROTO_UDP;
	__u32 length = inner->length + own;
	__u8 tos = (inner->tos & 3) == 3 ? 2 : inner->tos & 3;
	__u8 *at;

	if (bpf_xdp_adjust_head(ctx, -header))
		return false;
	at = frame_data(XDP, ctx);
	if (at + header > (__u8 *)frame_end(XDP, ctx))
		return false;
	at = put_ethernet(at, state, six ? ETH_P_IPV6 : ETH_P_IP);
	at = six ? put_ipv6(at, encap, length, inner, tos, protocol) : put_ipv4(at, encap, length + 20, tos, protocol);
	if (kind == ENCAP_GRE) {
		*(__u16 *)at = bpf_htons(GRE_KEY_PRESENT);
		*(__u16 *)(at + 2) = bpf_htons(ETH_P_TEB);
		*(__u32 *)(at + 4) = encap->key;
		return true;
	}
	at = put_udp(at, encap, inner, length);
	*(__u32 *)at = kind == ENCAP_VXLAN ? bpf_htonl(VXLAN_HAS_VNI) : bpf_htonl(ETH_P_TEB);
	*(__u32 *)(at + 4) = encap->key;
	return true;
}

SEC("xdp.frags")
int encap_xdp(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex, place, why = ENCAP_SENT, whole;
	struct encap *encap = bpf_map_lookup_elem(&encaps, &ifindex);
	struct encap_state *state;
	struct inner inner = {};
	bool done = false;
	__u64 tick;

	if (!encap)
		return XDP_TX; /* not set up yet */
	place = encap->place;
	state = bpf_map_lookup_elem(&encap_states, &place);
	if (!state)
		return XDP_TX;
	if (encap->kind == ENCAP_NONE)
		return hand_over(state, ENCAP_OFF);
	inner.length = frame_end(XDP, ctx) - frame_data(XDP, ctx);
	if (inner.length > 0xffff - 128 || frame_length(XDP, ctx) != inner.length)
		return hand_over(state, ENCAP_LONG); /* in several buffers */
	if (!look_inside(ctx, &inner))
		return hand_over(state, ENCAP_INNER);
	whole = inner.length + encap->overhead;
	tick = bpf_jiffies64();
	if (state->tick != tick || state->version != encap->version)
		why = find_way(ctx, encap, state, tick, whole);
	else if (whole > state->mtu)
		why = ENCAP_LONG;
	if (why != ENCAP_SENT)
		return hand_over(state, why);
	if (encap->kind == ENCAP_VXLAN)
		done = put_headers(ctx, encap, state, &inner, ENCAP_VXLAN, false);
	else if (encap->kind == ENCAP_GENEVE)
		done = put_headers(ctx, encap, state, &inner, ENCAP_GENEVE, false);
	else if (encap->six)
		done = put_headers(ctx, encap, state, &inner, ENCAP_GRE, true);
	else
		done = put_headers(ctx, encap, state, &inner, ENCAP_GRE, false);
	if (!done)
		return hand_over(state, ENCAP_ROOM);
	if (bpf_redirect_map(&encap_tx, place, XDP_DROP) == XDP_DROP) {
		state->frames
		    [ENCAP_LOST]++; /* the headers are on, and cannot come off: it is gone in a moment of change */
		return XDP_DROP;
	}
	state->frames[ENCAP_SENT]++;
	return XDP_REDIRECT;
}

/* At the datapath's end of the pair: what has come back goes to the kernel's tunnel. */
SEC("tc")
int by_kernel_tc(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex;
	struct ip_device *device = bpf_map_lookup_elem(&ip_devices, &ifindex);

	return device ? (int)bpf_redirect(device->to, 0) : TC_ACT_SHOT;
}

/* Some drivers can be sent to by XDP only while a program is attached to them. */
SEC("xdp.frags")
int pass_xdp(__attribute__((unused)) struct xdp_md *ctx)
{
	return XDP_PASS;
}

#endif
