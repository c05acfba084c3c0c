/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The flow cache: which rule the frames of a flow match, for rule sets whose filters are slower than a table
 * lookup. User space puts it before a segment's filters only if every filter of the set gives the same answer
 * for all frames of one key, and only where it is faster (appliance/filter/flowkey.py).
 *
 * Two programs surround the filters: `recall` looks up the frame's key and skips the filters if it is known;
 * otherwise the filters run and end in `remember`, which stores their result. An entry is valid for one
 * generation of the policy, which a frame carries from its first program to its last: a new policy finds no
 * entry of the old one. Each CPU has a table of its own, and a frame is finished before the next begins, so
 * no lock is needed.
 *
 * A frame has a key if it is an untagged IPv4 frame that is not a later fragment, or an untagged IPv6 frame
 * without extension headers with TCP, UDP or SCTP in it, and long enough for the ports (IPv4: any four bytes
 * after the header). All others go through the filters.
 */
#ifndef CACHE_H
#define CACHE_H

#include "parsing.h"
#include "steer.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CACHE_ENTRIES);
	__type(key, __u32);
	__type(value, struct cached);
} cache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cache_counter);
} cache_counters SEC(".maps");

/* The frame's key, without tag and generation; false if it has none. Big-endian as in the frame. */
static __always_inline bool flow_key_of(const __u8 *data, const void *end, struct cached *key)
{
	__u16 ethertype;

	if ((void *)data + 38 > end)
		return false;
	ethertype = *(__u16 *)(data + 12);
	if (ethertype == bpf_htons(ETH_P_IP)) {
		__u32 header = (data[14] & 0x0f) * 4;

		if (*(__u16 *)(data + 20) & bpf_htons(0x1fff))
			return false;
		key->source[0] = key->destination[0] = 0;
		key->source[1] = *(__u32 *)(data + 26);
		key->destination[1] = *(__u32 *)(data + 30);
		key->tag = data[23];
		data += header;
		if ((void *)data + 18 > end)
			return false;
		key->ports = *(__u32 *)(data + 14);
		return true;
	}
	if (ethertype != bpf_htons(ETH_P_IPV6) || (void *)data + 58 > end)
		return false;
	if (data[20] != PROTO_TCP && data[20] != PROTO_UDP && data[20] != PROTO_SCTP)
		return false;
	/* by 32 bits: the header is not aligned to 8 */
	key->source[0] = (__u64) * (__u32 *)(data + 22) << 32 | *(__u32 *)(data + 26);
	key->source[1] = (__u64) * (__u32 *)(data + 30) << 32 | *(__u32 *)(data + 34);
	key->destination[0] = (__u64) * (__u32 *)(data + 38) << 32 | *(__u32 *)(data + 42);
	key->destination[1] = (__u64) * (__u32 *)(data + 46) << 32 | *(__u32 *)(data + 50);
	key->ports = *(__u32 *)(data + 54);
	key->tag = data[20] | CACHE_IPV6;
	return true;
}

/* The index of a key in the table. */
static __always_inline __u32 cache_place(const struct cached *key)
{
	__u64 ends = key->source[1] ^ key->source[0] * 0x9e3779b97f4a7c15ULL;

	ends += (key->destination[1] ^ key->destination[0] * 0xc2b2ae3d27d4eb4fULL) * 0x9fb21c651e98df25ULL;
	ends = (ends ^ (__u64)key->ports << 20) + key->tag;
	return fold(ends * 0xff51afd7ed558ccdULL) & (CACHE_ENTRIES - 1);
}

/* True if the rule of the frame's flow is known; it is then in `s->rule`. If not, `remember` may store it. */
static __always_inline bool recalled(const void *data, const void *end, struct scratch *s)
{
	struct cache_counter *counter;
	struct cached key, *entry;
	__u32 place;

	if (s->device.flags & DEVICE_DRY || !flow_key_of(data, end, &key))
		return false;
	key.tag |= CACHE_USED | s->device.segment << CACHE_SEGMENT_SHIFT;
	place = cache_place(&key);
	entry = bpf_map_lookup_elem(&cache, &place);
	counter = bpf_map_lookup_elem(&cache_counters, &zero);
	if (!entry || !counter)
		return false;
	if (entry->tag == key.tag && entry->generation == s->generation && entry->ports == key.ports &&
	    entry->source[1] == key.source[1] && entry->destination[1] == key.destination[1] &&
	    entry->source[0] == key.source[0] && entry->destination[0] == key.destination[0]) {
		s->rule = entry->rule;
		counter->hits++;
		return true;
	}
	counter->misses++;
	/* Without its tag the entry is not valid yet: if the filters break off, it never becomes so. */
	entry->tag = 0;
	entry->generation = s->generation;
	entry->ports = key.ports;
	entry->source[0] = key.source[0];
	entry->source[1] = key.source[1];
	entry->destination[0] = key.destination[0];
	entry->destination[1] = key.destination[1];
	s->cache_place = place;
	s->cache_tag = key.tag;
	return false;
}

/* The filters have found the rule: store it for later frames. */
static __always_inline void remember(const struct scratch *s)
{
	__u32 place = s->cache_place;
	struct cached *entry = bpf_map_lookup_elem(&cache, &place);

	if (!entry) /* the frame has no key */
		return;
	entry->rule = s->rule;
	entry->tag = s->cache_tag;
}

#endif
