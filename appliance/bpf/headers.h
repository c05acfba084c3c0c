/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Remotes whose tunnels carry IP: a frame's Ethernet header is taken off before the tunnel, and put back on return.
 *
 * The device of such a hop is one end of a veth pair. `strip` is at the other end: it notes the header's addresses for
 * the frame's flow, hop and side, and sends the packet to the tunnel. `restore` is at the tunnel. A packet gets the
 * addresses with which its flow entered at the other side. If that flow is not known, it gets those of the last new
 * flow between its two ends; or else, turned round, those of the last one from its destination to its source, because
 * then the remote answers in the name of an end. Otherwise it is dropped and counted. So is a frame with a tag or
 * without IP, which the policy keeps away from such a hop: on return nobody could tell the VLANs apart.
 */
#ifndef HEADERS_H
#define HEADERS_H

#define PACKET_HEAD 128 /* bytes that are made readable: headers up to the ports, of all but odd packets */

/* By ifindex: the other end of a hop's pair, or its tunnel. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IP_DEVICES);
	__type(key, __u32);
	__type(value, struct ip_device);
} ip_devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_HEADERS);
	__type(key, struct header_key);
	__type(value, struct header);
} headers SEC(".maps");

static __always_inline int refuse_packet(struct ip_device *device)
{
	if (device)
		__sync_fetch_and_add(&device->dropped, 1);
	return TC_ACT_SHOT;
}

/* The flow of the packet that begins at this offset; its version of IP, or a negative number. Fragments have no ports. */
static __always_inline int packet_flow(struct __sk_buff *ctx, __u32 at, struct header_key *key)
{
	void *data, *end;
	struct parsed p = {};
	struct cursor c;
	int version, wrong;

	if (ctx->data + at + PACKET_HEAD > ctx->data_end)
		bpf_skb_pull_data(ctx, ctx->len < at + PACKET_HEAD ? ctx->len : at + PACKET_HEAD);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + at + 20 > end)
		return -1;
	c.at = data + at;
	c.end = end;
	version = *(__u8 *)c.at >> 4;
	if (version == 4)
		wrong = parse_ipv4(&c, &p);
	else if (version == 6)
		wrong = parse_ipv6(data, &c, &p);
	else
		return -1;
	if (wrong < 0)
		return -1;
	key->source[0] = p.source[0];
	key->source[1] = p.source[1];
	key->destination[0] = p.destination[0];
	key->destination[1] = p.destination[1];
	key->protocol = p.protocol;
	if (p.has_ports && !p.fragment) {
		key->ports[0] = p.ports[0];
		key->ports[1] = p.ports[1];
	}
	return version;
}

static __always_inline void any_flow(struct header_key *key)
{
	key->ports[0] = key->ports[1] = 0;
	key->protocol = 0;
}

static __always_inline bool same_header(const struct header *one, const struct header *other)
{
	const __u32 *words = (const void *)one, *others = (const void *)other;

	return words[0] == others[0] && words[1] == others[1] && words[2] == others[2];
}

SEC("tc")
int strip_tc(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex;
	struct ip_device *device = bpf_map_lookup_elem(&ip_devices, &ifindex);
	struct header_key key = {};
	struct header header = {}, *known;
	void *data;
	__u16 type;
	int version;

	if (!device || ctx->vlan_present)
		return refuse_packet(device);
	version = packet_flow(ctx, ETH_HLEN, &key);
	data = (void *)(long)ctx->data;
	if (version < 0 || data + ETH_HLEN > (void *)(long)ctx->data_end)
		return refuse_packet(device);
	type = *(__u16 *)(data + 12);
	if (type != (version == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6)))
		return refuse_packet(device);
	__builtin_memcpy(header.destination, data, 6);
	__builtin_memcpy(header.source, data + 6, 6);
	key.hop = device->hop;
	key.side = device->side;
	known = bpf_map_lookup_elem(&headers, &key);
	if (!known || !same_header(known, &header)) {
		bpf_map_update_elem(&headers, &key, &header, BPF_ANY);
		any_flow(&key);
		bpf_map_update_elem(&headers, &key, &header, BPF_ANY);
	}
	return bpf_redirect(device->to, 0);
}

SEC("tc")
int restore_tc(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex;
	struct ip_device *device = bpf_map_lookup_elem(&ip_devices, &ifindex);
	struct header_key key = {}, back = {};
	struct header *known;
	struct ethhdr ethernet = {};
	int version;

	version = packet_flow(ctx, 0, &key);
	if (!device || version < 0)
		return refuse_packet(device);
	key.hop = device->hop;
	key.side = device->side ^ 1;
	known = bpf_map_lookup_elem(&headers, &key);
	if (!known) {
		any_flow(&key);
		known = bpf_map_lookup_elem(&headers, &key);
	}
	if (known) {
		__builtin_memcpy(ethernet.h_dest, known->destination, 6);
		__builtin_memcpy(ethernet.h_source, known->source, 6);
	} else {
		__builtin_memcpy(back.source, key.destination, sizeof(back.source));
		__builtin_memcpy(back.destination, key.source, sizeof(back.destination));
		back.hop = key.hop;
		back.side = device->side;
		known = bpf_map_lookup_elem(&headers, &back);
		if (!known)
			return refuse_packet(device);
		__builtin_memcpy(ethernet.h_dest, known->source, 6);
		__builtin_memcpy(ethernet.h_source, known->destination, 6);
	}
	ethernet.h_proto = version == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (bpf_skb_change_head(ctx, ETH_HLEN, 0) || bpf_skb_store_bytes(ctx, 0, &ethernet, ETH_HLEN, 0))
		return refuse_packet(device);
	return bpf_redirect(device->to, 0);
}

#endif
