// SPDX-License-Identifier: GPL-2.0-only
/*
 * The datapath: which device a frame goes to. steer.h tells the story; this file is the code behind it.
 *
 * Two thin families of programs, `*_xdp` and `*_tc`, over the same inline functions. `kind` is a constant in each
 * of them, so the compiler throws the other half away. Only what the two contexts do differently asks for it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "parsing.h"
#include "steer.h"

#define XDP 0
#define TC 1

#define GENERATION_PLACE "0x54574731" /* the generation of a generated program; splice.py knows it */

#ifndef PULL
#define PULL 192 /* bytes of the frame that a tc program wants to see at once */
#endif

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meta);
} meta SEC(".maps");

/* One word that says which policy holds (see struct control). Written by user space in one store. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* No program uses it: a write to a map of maps returns when every frame in flight has left the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
	    values, struct {
		    __uint(type, BPF_MAP_TYPE_ARRAY);
		    __uint(max_entries, 1);
		    __type(key, __u32);
		    __type(value, __u64);
	    });
} fence SEC(".maps");

/* What is put into the fence. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} fence_post SEC(".maps");

/* By ifindex: what the device is. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_DEVICES);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

/* By slot: where XDP sends. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} tx SEC(".maps");

/* By slot: what is attached there, and where tc sends. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct target);
} targets SEC(".maps");

/* By hop: until when it is available; 0 is the supervisor's dead-man deadline. Written by user space in place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_HOPS);
	__type(key, __u32);
	__type(value, struct lease);
} leases SEC(".maps");

/* The policy, twice: the half of the even generations and that of the odd ones. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_SEGMENTS);
	__type(key, __u32);
	__type(value, struct segment);
} segments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_RULES);
	__type(key, __u32);
	__type(value, struct rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_HOPS);
	__type(key, __u32);
	__type(value, struct hop);
} hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_GROUPS);
	__type(key, __u32);
	__type(value, struct group);
} groups SEC(".maps");

/* By group and bucket: hop ids in the order of preference, lowest byte first, 0 ends. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_GROUPS * BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} buckets SEC(".maps");

/* By hop, segment and direction: how a frame goes on that comes back from the hop. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * MAX_HOPS * MAX_SEGMENTS * 2);
	__type(key, __u32);
	__type(value, struct continuation);
} continuations SEC(".maps");

/* dispatch, and the generated programs of both halves of the policy. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, PROGRAM_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} xdp_programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, PROGRAM_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} tc_programs SEC(".maps");

/* What the frame in hand carries from program to program. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SLOTS + 1);
	__type(key, __u32);
	__type(value, struct device_counter);
} device_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct rule_counter);
} rule_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_HOPS);
	__type(key, __u32);
	__type(value, struct hop_counter);
} hop_counters SEC(".maps");

/* Flows that were sent to a tracked hop: what a draining hop keeps. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Datagrams in fragments: the hash that the first of them gave all of them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/* By hop: its recorder, where it has one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_HOPS);
	__type(key, __u32);
	__array(
	    values, struct {
		    __uint(type, BPF_MAP_TYPE_ARRAY);
		    __uint(map_flags, BPF_F_INNER_MAP); /* of any size */
		    __uint(max_entries, 1);
		    __uint(key_size, sizeof(__u32));
		    __uint(value_size, sizeof(struct record)); /* clang leaves the type out this deep */
	    });
} recorders SEC(".maps");

/* The last frame of a device with DEVICE_TRACE. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace);
} trace SEC(".maps");

static const __u32 zero;

#include "copies.h"
#include "cache.h"
#include "checksum.h"

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

/* Have the kernel send the frame to a slot; XDP_DROP or TC_ACT_SHOT when nothing is attached there. */
static __always_inline int redirect(int kind, __u32 slot)
{
	struct target *target;

	if (kind == XDP)
		return bpf_redirect_map(&tx, slot, XDP_DROP);
	target = bpf_map_lookup_elem(&targets, &slot);
	return target && target->ifindex ? (int)bpf_redirect(target->ifindex, 0) : TC_ACT_SHOT;
}

/* Send the frame to a slot, and count it: as `outcome`, or as lost by name when nothing is attached there. */
static __always_inline int send(int kind, void *ctx, const struct device *device, struct scratch *s, __u32 length,
				__u32 slot, __u32 verdict, __u32 outcome)
{
	int action = redirect(kind, slot);

	if (action == drop(kind))
		outcome = OUTCOME_NO_DEVICE;
	if (device->flags & DEVICE_COPY_OUT && outcome != OUTCOME_NO_DEVICE)
		copy_frame(kind, ctx, slot, COPY_OUT, length);
	count(device, outcome, length);
	record(device, s, outcome == OUTCOME_NO_DEVICE ? VERDICT_DROP : verdict, slot, outcome);
	return action;
}

/* Longer than the other port can send: XDP would drop the frame on the way out without telling anybody. */
static __always_inline bool oversize(int kind, const struct device *device, __u32 length, __u32 buffers)
{
	return kind == XDP && length > (buffers == BUFFERS_SEVERAL ? device->peer_max_sg : device->peer_max);
}

/* To the port opposite to where the frame came in, seen in the direction it travels. */
static __always_inline int leave(int kind, void *ctx, const struct device *device, struct scratch *s, __u32 length,
				 __u32 buffers, __u32 direction, __u32 outcome)
{
	__u32 slot = SLOT(0, device->segment, direction ^ 1);

	if (oversize(kind, device, length, buffers)) {
		count(device, OUTCOME_OVERSIZE, length);
		record(device, s, VERDICT_DROP, slot, OUTCOME_OVERSIZE);
		return XDP_DROP;
	}
	return send(kind, ctx, device, s, length, slot, VERDICT_PORT, outcome);
}

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
		return BUFFERS_ANY;
	return length > frame_end(kind, ctx) - frame_data(kind, ctx) ? BUFFERS_SEVERAL : BUFFERS_ONE;
}

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

/* May this hop have the frame? The reason if not. */
static __always_inline __u32 judge(struct scratch *s, __u32 hop, __u64 hold_down)
{
	__u32 slot = SLOT(hop, s->device.segment, s->direction);
	__u32 place = (s->generation & 1) * MAX_HOPS + hop;
	struct target *target;
	struct lease *lease;
	struct hop *h;

	if (!s->alive)
		return REASON_SUPERVISOR;
	lease = bpf_map_lookup_elem(&leases, &hop);
	target = bpf_map_lookup_elem(&targets, &slot);
	h = bpf_map_lookup_elem(&hops, &place);
	if (!lease || !target || !h || !target->ifindex)
		return REASON_UNAVAILABLE;
	if (lease->until <= s->now) {
		if (!lease->skipped && !(s->device.flags & DEVICE_DRY))
			lease->skipped = bpf_ktime_get_ns();
		return REASON_UNAVAILABLE;
	}
	if (lease->draining && !established(s, hop))
		return REASON_DRAINING;
	if (s->buffers == BUFFERS_SEVERAL && !(target->flags & TARGET_SG))
		return REASON_OVERSIZE;
	if (s->buffers != BUFFERS_ANY && s->length > target->max)
		return REASON_OVERSIZE;
	s->available = 1;
	if (h->accept_bit < 64 && !(s->accept >> h->accept_bit & 1))
		return REASON_NOT_ACCEPTED;
	if (hold_down && lease->recovered && s->now < lease->recovered + hold_down)
		return REASON_HELD;
	return REASON_TAKEN;
}

static __always_inline void note(struct scratch *s, __u32 hop, __u32 reason)
{
	struct hop_counter *counter;
	struct trace *t;

	if (reason != REASON_TAKEN) {
		counter = hop_count(s, hop);
		if (counter)
			counter->skipped[reason & 7]++;
	}
	t = tracing(s);
	if (t && t->steps < MAX_TRACE) {
		struct step *step = &t->step[t->steps & (MAX_TRACE - 1)];

		step->position = s->position;
		step->group = s->group;
		step->bucket = s->bucket;
		step->hop = hop;
		step->reason = reason;
		t->steps++;
	}
}

/*
 * The first hop of a list (ids in the bytes, lowest first) that may have the frame; 0 none. One that is only held
 * down is taken when no other is there. A global function: the verifier looks at it once, not at each call.
 */
__noinline __u32 choose(__u64 list, __u64 hold_down)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u32 held = 0;

	if (!s)
		return 0;
	for (int i = 0; i < MAX_MEMBERS; i++) {
		__u32 hop = list & (MAX_HOPS - 1);
		__u32 reason;

		if (!hop)
			break;
		list >>= 8;
		reason = judge(s, hop, hold_down);
		note(s, hop, reason);
		if (reason == REASON_TAKEN)
			return hop;
		if (reason == REASON_HELD && !held)
			held = hop;
	}
	if (held)
		note(s, held, REASON_TAKEN);
	return held;
}

/* Keep a copy of the frame for the day the hop dies of it. */
static __always_inline void keep(int kind, void *ctx, const struct scratch *s, __u32 hop)
{
	void *ring = bpf_map_lookup_elem(&recorders, &hop);
	struct record *head, *r;
	__u64 number;
	__u32 place, captured;

	if (!ring || s->device.flags & DEVICE_DRY)
		return;
	head = bpf_map_lookup_elem(ring, &zero);
	if (!head)
		return;
	number = __sync_fetch_and_add(&head->number, 1) + 1;
	place = 1 + (number & head->length);
	captured = s->length < head->captured ? s->length : head->captured;
	r = bpf_map_lookup_elem(ring, &place);
	if (!r || captured < ETH_HLEN || captured > RECORD_BYTES)
		return;
	r->number = 0;
	r->at = bpf_ktime_get_ns();
	r->length = s->length;
	r->captured = captured;
	r->slot = SLOT(hop, s->device.segment, s->direction);
	r->tag_proto = 0;
	if (kind == XDP) {
		if (bpf_xdp_load_bytes(ctx, 0, r->data, captured))
			return;
	} else {
		struct __sk_buff *skb = ctx;

		if (bpf_skb_load_bytes(skb, 0, r->data, captured))
			return;
		if (skb->vlan_present) {
			r->tag = skb->vlan_tci;
			r->tag_proto = skb->vlan_proto;
		}
	}
	r->number = number;
}

/* To a hop: by the tap of the side the frame comes from. */
static __always_inline int enter(int kind, void *ctx, struct scratch *s, __u32 hop)
{
	struct hop_counter *counter = hop_count(s, hop);
	__u32 place = (s->generation & 1) * MAX_HOPS + hop;
	struct hop *h = bpf_map_lookup_elem(&hops, &place);
	int action;

	if (h && h->flags & HOP_TRACKED && s->have_hash)
		track(s, hop);
	if (h && h->flags & HOP_RECORDED)
		keep(kind, ctx, s, hop);
	action = send(kind, ctx, &s->device, s, s->length, SLOT(hop, s->device.segment, s->direction), VERDICT_HOP,
		      OUTCOME_TO_HOP);
	if (counter && action == (kind == XDP ? (int)XDP_REDIRECT : TC_ACT_REDIRECT)) {
		counter->to.frames++;
		counter->to.bytes += s->length;
	}
	return action;
}

/* Place in the rule's path of the hop, or of the group that holds it; MAX_PATH: the rule does not hold it. */
static __always_inline __u32 position_of(const struct scratch *s, const struct rule *rule, __u32 hop)
{
	for (__u32 i = 0; i < MAX_PATH; i++) {
		__u32 id = rule->path[i].id;

		if (i >= rule->length)
			break;
		if (rule->path[i].kind == ITEM_HOP && id == hop)
			return i;
		if (rule->path[i].kind == ITEM_GROUP) {
			__u32 place = (s->generation & 1) * MAX_GROUPS + (id & (MAX_GROUPS - 1));
			struct group *group = bpf_map_lookup_elem(&groups, &place);

			if (group && group->members[hop >> 6 & 1] >> (hop & 63) & 1)
				return i;
		}
	}
	return MAX_PATH;
}

static __always_inline struct rule *rule_at(const struct scratch *s, __u32 index)
{
	__u32 place = (s->generation & 1) * MAX_RULES + (index & (MAX_RULES - 1));

	return bpf_map_lookup_elem(&rules, &place);
}

/* Count a frame from a port under its rule; the rule's counters, where it counts at all. */
static __always_inline struct rule_counter *rule_match(const struct scratch *s, const struct rule *rule)
{
	__u32 counter = rule->counter;
	struct rule_counter *found;

	if (s->device.flags & DEVICE_DRY)
		return NULL;
	found = bpf_map_lookup_elem(&rule_counters, &counter);
	if (found) {
		found->matched.frames++;
		found->matched.bytes += s->length;
	}
	return found;
}

/*
 * Go on with another program. The slot must be a constant: such a tail call is a direct jump in the machine's code, that
 * by a variable is an indirect one, which costs 10 ns where the kernel guards those against speculation.
 */
#define next_program(kind, ctx, slot)                                                                                  \
	do {                                                                                                           \
		if ((kind) == XDP)                                                                                     \
			bpf_tail_call_static(ctx, &xdp_programs, slot);                                                \
		else                                                                                                   \
			bpf_tail_call_static(ctx, &tc_programs, slot);                                                 \
	} while (0)

static __always_inline void accept_program(int kind, void *ctx, __u32 generation)
{
	if (generation & 1)
		next_program(kind, ctx, PROGRAM_ACCEPT(1));
	else
		next_program(kind, ctx, PROGRAM_ACCEPT(0));
}

#define POLICY_OF(segment)                                                                                             \
	do {                                                                                                           \
		if (generation & 1)                                                                                    \
			next_program(kind, ctx, PROGRAM_POLICY(1, segment));                                           \
		else                                                                                                   \
			next_program(kind, ctx, PROGRAM_POLICY(0, segment));                                           \
	} while (0)
#define POLICY_CASE(segment)                                                                                           \
	case segment:                                                                                                  \
		POLICY_OF(segment);                                                                                    \
		break

#define FILTERS_OF(segment)                                                                                            \
	do {                                                                                                           \
		if (generation & 1)                                                                                    \
			next_program(kind, ctx, PROGRAM_FILTERS(1, segment));                                          \
		else                                                                                                   \
			next_program(kind, ctx, PROGRAM_FILTERS(0, segment));                                          \
	} while (0)
#define FILTERS_CASE(segment)                                                                                          \
	case segment:                                                                                                  \
		FILTERS_OF(segment);                                                                                   \
		break

#define DECIDE_OF(segment)                                                                                             \
	do {                                                                                                           \
		if (generation & 1)                                                                                    \
			next_program(kind, ctx, PROGRAM_DECIDE(1, segment));                                           \
		else                                                                                                   \
			next_program(kind, ctx, PROGRAM_DECIDE(0, segment));                                           \
	} while (0)
#define DECIDE_CASE(segment)                                                                                           \
	case segment:                                                                                                  \
		DECIDE_OF(segment);                                                                                    \
		break

#define EACH_OTHER_SEGMENT(of)                                                                                         \
	of(1);                                                                                                         \
	of(2);                                                                                                         \
	of(3);                                                                                                         \
	of(4);                                                                                                         \
	of(5);                                                                                                         \
	of(6);                                                                                                         \
	of(7);                                                                                                         \
	of(8);                                                                                                         \
	of(9);                                                                                                         \
	of(10);                                                                                                        \
	of(11);                                                                                                        \
	of(12);                                                                                                        \
	of(13);                                                                                                        \
	of(14);                                                                                                        \
	of(15)
_Static_assert(MAX_SEGMENTS == 16, "a case for each segment");

static __always_inline void policy_program(int kind, void *ctx, __u32 generation, __u32 segment)
{
	if (!segment) /* most have one */
		POLICY_OF(0);
	else
		switch (segment) {
			EACH_OTHER_SEGMENT(POLICY_CASE);
		}
}

/* An empty slot costs nothing: there the machine's code has no jump. */
static __always_inline void decide_program(int kind, void *ctx, __u32 generation, __u32 segment)
{
	if (!segment) { /* most have one */
		DECIDE_OF(0);
		return;
	}
	asm volatile(""
		     : "+r"(segment)); /* else the compiler looks for the segment by halving, and this one comes last */
	switch (segment) {
		EACH_OTHER_SEGMENT(DECIDE_CASE);
	}
}

static __always_inline void filters_program(int kind, void *ctx, __u32 generation, __u32 segment)
{
	if (!segment) /* most have one */
		FILTERS_OF(0);
	else
		switch (segment) {
			EACH_OTHER_SEGMENT(FILTERS_CASE);
		}
}

static __always_inline __u32 tagged(int kind, void *ctx)
{
	return kind == TC && ((struct __sk_buff *)ctx)->vlan_present;
}

/* The first hop that may have the frame of one place in the rule's path. Global as `choose`. */
__noinline __u32 choose_at(__u32 position)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u32 id, kind, place, bucket, at;
	struct group *group;
	struct rule *rule;
	__u64 *list;

	if (!s)
		return 0;
	rule = rule_at(s, s->rule);
	if (!rule || position >= MAX_PATH)
		return 0;
	/* masked in a way the compiler cannot see through: the verifier needs the bound in this very register */
	asm volatile("%0 &= %1" : "+r"(position) : "i"(MAX_PATH - 1));
	kind = rule->path[position].kind;
	id = rule->path[position].id;
	s->position = position;
	s->group = 255;
	s->bucket = 0;
	if (kind != ITEM_GROUP)
		return choose(id, 0);
	place = (s->generation & 1) * MAX_GROUPS + (id & (MAX_GROUPS - 1));
	group = bpf_map_lookup_elem(&groups, &place);
	if (!group)
		return 0;
	bucket = (group->flags & GROUP_L3 ? s->hash_l3 : s->hash) & (BUCKETS - 1);
	at = place * BUCKETS + bucket;
	list = bpf_map_lookup_elem(&buckets, &at);
	if (!list)
		return 0;
	s->group = id;
	s->bucket = bucket;
	return choose(*list, group->hold_down);
}

/*
 * The rule is known: where in its path the frame is, and its flow. What needs no hop leaves here. Reading the flow and
 * walking the path are programs of their own, or the verifier would look at the walk once for each way to read a flow.
 */
static __always_inline int dispatch(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct lease *supervisor;
	struct hop_counter *counter;
	struct rule *rule = NULL;
	__u32 position = 0, from;
	bool accepts;

	if (!s)
		return pass(kind);
	from = s->device.hop;
	if (s->rule < MAX_RULES)
		rule = rule_at(s, s->rule);
	if (from) {
		if (s->continuation_kind == CONT_STATIC || s->continuation_kind == CONT_END) {
			position = s->continuation_position;
		} else if (s->continuation_kind == CONT_CLASSIFY) {
			position = rule ? position_of(s, rule, from) : MAX_PATH;
			if (position == MAX_PATH) {
				counter = hop_count(s, from);
				if (counter)
					counter->returned_unmatched++;
				s->rule = s->continuation_rule;
				rule = rule_at(s, s->rule);
				position = s->continuation_position;
			}
		}
		s->start = position + (s->direction == SIDE_LAN ? 1 : -1);
	} else {
		if (rule && !rule->length)
			rule_match(s, rule);
		if (!rule || !rule->length) /* nothing on the way: needs no clock and no walk */
			return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_STRAIGHT);
		s->start = s->direction == SIDE_LAN ? 0 : rule->length - 1;
	}
	s->accept = 0;
	s->available = 0;
	supervisor = bpf_map_lookup_elem(&leases, &zero);
	s->now = bpf_ktime_get_coarse_ns();
	s->alive = supervisor && supervisor->until > s->now;
	accepts = s->want || (rule && rule->flags & RULE_ACCEPT);
	if (s->want || (rule && rule->flags & RULE_HASH))
		hash_frame(frame_data(kind, ctx), frame_end(kind, ctx), s);
	if (accepts) /* goes on to the walk; without such a program no hop accepts by filter */
		accept_program(kind, ctx, s->generation);
	next_program(kind, ctx, PROGRAM_WALK);
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_NO_PROGRAM);
}

/* Everything is known: walk the path. */
static __always_inline int walk(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct rule_counter *rule_count = NULL;
	struct hop_counter *hop_counter;
	struct rule *rule = NULL;
	__u32 position, from, outcome, chosen = 0;

	if (!s)
		return pass(kind);
	from = s->device.hop;
	if (s->want) {
		s->group = 255;
		s->bucket = 0;
		s->position = 255;
		if (s->want != from)
			chosen = choose(s->want, 0);
		if (chosen)
			return enter(kind, ctx, s, chosen);
		hop_counter = hop_count(s, from);
		if (hop_counter)
			hop_counter->bad_tag++;
	}
	if (s->rule < MAX_RULES)
		rule = rule_at(s, s->rule);
	outcome = !rule || from ? OUTCOME_OUT : OUTCOME_BYPASSED;
	if (rule && !from)
		rule_count = rule_match(s, rule);
	position = s->start;
	for (int i = 0; i < MAX_PATH; i++) {
		if (!rule || position >= rule->length) /* behind the last, or, as it is unsigned, before the first */
			break;
		chosen = choose_at(position);
		if (chosen) {
			if (rule_count)
				rule_count->to_hop++;
			return enter(kind, ctx, s, chosen);
		}
		position += s->direction == SIDE_LAN ? 1 : -1;
	}
	if (outcome == OUTCOME_BYPASSED) {
		if (rule && !s->available && rule->flags & RULE_BLOCK) {
			if (rule_count)
				rule_count->blocked++;
			count(&s->device, OUTCOME_BLOCKED, s->length);
			record(&s->device, s, VERDICT_DROP, 0, OUTCOME_BLOCKED);
			return drop(kind);
		}
		if (rule_count)
			rule_count->bypassed++;
	}
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, outcome);
}

/* The tag of a hop with `tags`: off with it. Its VID, or -1 when there is none. */
static __always_inline int take_tag(int kind, void *ctx)
{
	void *data = frame_data(kind, ctx), *end = frame_end(kind, ctx);
	__u32 stations[3];
	int vid;

	if (tagged(kind, ctx)) { /* the kernel has moved the outermost tag of a received frame to the metadata */
		struct __sk_buff *skb = ctx;

		if (skb->vlan_proto != bpf_htons(ETH_TAG))
			return -1;
		vid = skb->vlan_tci & 0xfff;
		bpf_skb_vlan_pop(skb); /* its error may be about a broken tag behind this one, which is gone */
		return vid;
	}
	if (data + ETH_HLEN + 4 > end || *(__u16 *)(data + 12) != bpf_htons(ETH_TAG))
		return -1;
	vid = bpf_ntohs(*(__u16 *)(data + 14)) & 0xfff;
	if (kind == TC) {
		bpf_skb_vlan_pop(ctx);
		return vid;
	}
	__builtin_memcpy(stations, data, 12);
	__builtin_memcpy(data + 4, stations, 12);
	return bpf_xdp_adjust_head(ctx, 4) ? -1 : vid;
}

/* In the place of a segment's filters: ask the flow cache first. */
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

/* Behind those filters: note what they found. */
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

/* What later programs need to know of the frame. */
static __always_inline void note_frame(int kind, void *ctx, struct scratch *s, const struct device *device,
				       __u32 generation, __u32 length, __u32 buffers, __u32 direction)
{
	s->device = *device;
	s->generation = generation;
	s->direction = direction;
	s->length = length;
	s->buffers = buffers;
	s->have_hash = 0;
	s->want = 0;
	if (kind == TC) {
		struct __sk_buff *skb = ctx;

		if (skb->data_end - skb->data < PULL && skb->data_end - skb->data < skb->len)
			bpf_skb_pull_data(skb, skb->len < PULL ? skb->len : PULL);
	}
}

/* A port of which nobody wants to know more than the counters. */
static __always_inline bool plain(const struct device *device)
{
	return device->role == ROLE_PORT && !device->flags;
}

/* Surely not longer than the other port can send; what is not sure goes the long way, which asks exactly. */
static __always_inline bool fits(int kind, void *ctx, const struct device *device, __u32 length)
{
	if (kind != XDP)
		return true;
	return length <= device->peer_max &&
	       (length <= device->peer_max_sg || frame_buffers(kind, ctx, length) == BUFFERS_ONE);
}

/* A plain port's frame straight to the other port: what most frames are, so without a note of it for other programs. */
static __always_inline int through(int kind, const struct device *device, __u32 length)
{
	__u32 slot = device->slot;
	int action = redirect(kind, slot ^ 1);
	struct device_counter *counter = bpf_map_lookup_elem(&device_counters, &slot);
	__u32 outcome = action == drop(kind) ? OUTCOME_NO_DEVICE : OUTCOME_STRAIGHT;

	if (counter) {
		counter->outcome[outcome].frames++;
		counter->outcome[outcome].bytes += length;
	}
	return action;
}

/*
 * The place of the filters in `decide`: the index of the first rule that matches, NO_MATCH or NOT_HERE. User space puts
 * the generated code here (appliance/steering/splice.py), so nothing may be known of it.
 */
static __noinline __u32 filters(void *ctx)
{
	__u32 rule;

	asm volatile("%0 = -1" : "=r"(rule) : "r"(ctx));
	return rule;
}

/*
 * A segment's filters and the core in one program, for sets of filters that are one program: what goes straight to the
 * other port is sent here, without a note of it for other programs.
 *
 * `attached`: to a port, in the place of the entry program. It is a shorter way and never another one: a frame goes back
 * to the entry as soon as another generation holds, or when somebody wants to know more of the port than its counters.
 */
static __always_inline int decide(int kind, void *ctx, bool attached)
{
	__u32 found = filters(ctx); /* first of all, see splice.py */
	__u32 key = 0, place, length, buffers, ifindex, generation;
	struct rule *rule = NULL;
	struct device *device;
	struct scratch *s;

	asm volatile("%0 = " GENERATION_PLACE : "=r"(generation)); /* user space puts it in */
	ifindex = kind == XDP ? ((struct xdp_md *)ctx)->ingress_ifindex : ((struct __sk_buff *)ctx)->ifindex;
	device = bpf_map_lookup_elem(&devices, &ifindex);
	if (attached) {
		struct control *c = bpf_map_lookup_elem(&control, &key);

		if (!device || !plain(device) || !c || (__u32) * (volatile __u64 *)&c->policy != generation)
			goto entry;
	} else if (!device) {
		return pass(kind);
	}
	/* 0, but the verifier does not know: it would else follow all that comes for each rule's number. */
	asm volatile("%0 ^= %1" : "+r"(found) : "r"(device->role >> 7));
	length = frame_length(kind, ctx);
	if (attached && length < ETH_HLEN)
		goto entry;
	if (found < MAX_RULES) {
		place = (generation & 1) * MAX_RULES + found;
		rule = bpf_map_lookup_elem(&rules, &place);
	}
	if (plain(device) && found != NOT_HERE && !(rule && rule->length) && fits(kind, ctx, device, length)) {
		if (rule) {
			__u32 counter = rule->counter;
			struct rule_counter *matched = bpf_map_lookup_elem(&rule_counters, &counter);

			if (matched) {
				matched->matched.frames++;
				matched->matched.bytes += length;
			}
		}
		return through(kind, device, length);
	}
	buffers = frame_buffers(kind, ctx, length);
	s = bpf_map_lookup_elem(&scratch, &key);
	if (!s)
		return pass(kind);
	if (device->role == ROLE_PORT) { /* a hop's frame has been noted before */
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

/* A device's frame that its segment's rules, or a hop's continuation, decide about. */
static __always_inline int steer(int kind, void *ctx, const struct device *device, __u64 policy, __u32 length,
				 __u32 buffers, __u32 direction)
{
	__u32 place = (policy & 1) * MAX_SEGMENTS + (device->segment & (MAX_SEGMENTS - 1));
	struct segment *segment = bpf_map_lookup_elem(&segments, &place);
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct continuation *next;
	struct hop_counter *counter;
	struct trace *t;
	__u32 want = 0;
	int vid;

	if (!s || !segment)
		return pass(kind);
	note_frame(kind, ctx, s, device, policy, length, buffers, direction);
	s->rule = segment->constant_rule;
	t = tracing(s);
	if (t)
		t->steps = 0;
	if (device->hop) {
		__u32 at = (((policy & 1) * MAX_HOPS + (device->hop & (MAX_HOPS - 1))) * MAX_SEGMENTS +
			    (device->segment & (MAX_SEGMENTS - 1))) *
			       2 +
			   (direction & 1);

		next = bpf_map_lookup_elem(&continuations, &at);
		if (!next)
			return pass(kind);
		counter = hop_count(s, device->hop);
		if (device->flags & DEVICE_TAGS) {
			vid = take_tag(kind, ctx);
			if (vid >= 0)
				s->length = length = kind == XDP ? length - 4 : ((struct __sk_buff *)ctx)->len;
			if (vid == TAG_OUT)
				return leave(kind, ctx, device, NULL, length, buffers, direction, OUTCOME_OUT);
			if (vid == TAG_OUT_LAN || vid == TAG_OUT_WAN)
				return leave(kind, ctx, device, NULL, length, buffers, vid == TAG_OUT_LAN, OUTCOME_OUT);
			if (vid > 0 && vid < MAX_HOPS)
				want = vid;
			else if (vid > 0 && counter)
				counter->bad_tag++;
		}
		if (next->kind == CONT_NONE && counter)
			counter->returned_unmatched++;
		if (next->kind <= CONT_END && !want)
			return leave(kind, ctx, device, NULL, length, buffers, direction, OUTCOME_OUT);
		s->continuation_kind = next->kind;
		s->continuation_position = next->position;
		s->continuation_rule = next->rule;
		if (next->kind == CONT_NONE)
			s->rule = NO_MATCH;
		else if (next->kind != CONT_CLASSIFY)
			s->rule = next->rule;
		s->want = want;
		if (next->kind != CONT_CLASSIFY) {
			next_program(kind, ctx, PROGRAM_DISPATCH);
			goto missing;
		}
	}
	s->want = want;
	if (segment->constant_rule != NO_MATCH) {
		next_program(kind, ctx, PROGRAM_DISPATCH);
	} else {
		policy_program(kind, ctx, policy, device->segment);
	}
missing:
	/* A tail call that works does not come back. */
	s->rule = NO_MATCH;
	return leave(kind, ctx, device, s, length, buffers, direction, OUTCOME_NO_PROGRAM);
}

/* What we sent through a hop and came out of it: by EtherType, or by the address that only our own frames have. */
static __always_inline bool heartbeat(int kind, void *ctx, __u32 hop)
{
	void *data = frame_data(kind, ctx);

	if (data + ETH_HLEN > frame_end(kind, ctx))
		return false;
	if (bpf_ntohl(*(__u32 *)(data + 6)) == (HEARTBEAT_ADDRESS | hop))
		return true;
	return *(__u16 *)(data + 12) == bpf_htons(ETH_HEARTBEAT) && !tagged(kind, ctx);
}

/*
 * `copies`: made for devices where somebody wants copies; the program without them is shorter, and calls no function,
 * which alone costs as much as to count the frame.
 */
static __always_inline int entry(int kind, void *ctx, __u32 ifindex, bool copies)
{
	struct device *known = bpf_map_lookup_elem(&devices, &ifindex);
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct device unknown = {.slot = SLOT_UNKNOWN};
	struct device here, *device = &here;
	__u32 length, direction;
	__u64 policy;

	if (!known || known->role == ROLE_NONE || !c) {
		count(&unknown, OUTCOME_UNKNOWN, frame_length(kind, ctx));
		return pass(kind);
	}
	policy = *(volatile __u64 *)&c->policy;
	if (!copies && plain(known)) {
		if (POLICY_SEGMENT(policy, known->segment & (MAX_SEGMENTS - 1))) {
			if (frame_data(kind, ctx) + ETH_HLEN <= frame_end(kind, ctx))
				decide_program(kind, ctx, policy, known->segment);
		} else {
			length = frame_length(kind, ctx);
			if (fits(kind, ctx, known, length))
				return through(kind, known, length);
		}
	}
	here = *known;
	if (copies) {
		if (device->flags & DEVICE_COPY_IN)
			copy_frame(kind, ctx, device->slot, COPY_IN, frame_length(kind, ctx));
	} else {
		if (device->flags & DEVICE_COPIES)
			next_program(kind, ctx, PROGRAM_COPYING);
		device->flags &= ~DEVICE_COPIES; /* so that the compiler leaves out all that is about them */
	}
	if (device->role == ROLE_PORT) {
		direction = device->side;
		if (!POLICY_SEGMENT(policy, device->segment & (MAX_SEGMENTS - 1))) {
			length = frame_length(kind, ctx);
			return leave(kind, ctx, device, NULL, length, frame_buffers(kind, ctx, length), direction,
				     OUTCOME_STRAIGHT);
		}
	} else {
		direction = device->side ^ 1; /* what comes from a hop's WAN side travels from LAN to WAN */
		if (heartbeat(kind, ctx, device->hop)) {
			count(device, OUTCOME_HEARTBEAT, frame_length(kind, ctx));
			record(device, NULL, VERDICT_STACK, 0, OUTCOME_HEARTBEAT);
			return pass(kind);
		}
	}
	length = frame_length(kind, ctx);
	if (length < ETH_HLEN)
		return leave(kind, ctx, device, NULL, length, frame_buffers(kind, ctx, length), direction,
			     OUTCOME_UNPARSED);
	return steer(kind, ctx, device, policy, length, frame_buffers(kind, ctx, length), direction);
}

SEC("xdp.frags")
int entry_xdp(struct xdp_md *ctx)
{
	return entry(XDP, ctx, ctx->ingress_ifindex, false);
}

SEC("xdp.frags")
int copying_xdp(struct xdp_md *ctx)
{
	return entry(XDP, ctx, ctx->ingress_ifindex, true);
}

/* For devices that hand frames over with checksums that are not finished. */
SEC("xdp.frags")
int entry_filling_xdp(struct xdp_md *ctx)
{
	if (frame_buffers(XDP, ctx, frame_length(XDP, ctx)) == BUFFERS_ONE)
		fill_checksum(ctx);
	return entry(XDP, ctx, ctx->ingress_ifindex, false);
}

SEC("xdp.frags")
int decide_xdp(struct xdp_md *ctx)
{
	return decide(XDP, ctx, false);
}

SEC("xdp.frags")
int attached_xdp(struct xdp_md *ctx)
{
	return decide(XDP, ctx, true);
}

SEC("xdp.frags")
int recall_xdp(struct xdp_md *ctx)
{
	return recall(XDP, ctx);
}

SEC("xdp.frags")
int remember_xdp(struct xdp_md *ctx)
{
	return noted(XDP, ctx);
}

SEC("xdp.frags")
int dispatch_xdp(struct xdp_md *ctx)
{
	return dispatch(XDP, ctx);
}

SEC("xdp.frags")
int walk_xdp(struct xdp_md *ctx)
{
	return walk(XDP, ctx);
}

SEC("tc")
int entry_tc(struct __sk_buff *ctx)
{
	return entry(TC, ctx, ctx->ifindex, false);
}

SEC("tc")
int copying_tc(struct __sk_buff *ctx)
{
	return entry(TC, ctx, ctx->ifindex, true);
}

SEC("tc")
int decide_tc(struct __sk_buff *ctx)
{
	return decide(TC, ctx, false);
}

SEC("tc")
int recall_tc(struct __sk_buff *ctx)
{
	return recall(TC, ctx);
}

SEC("tc")
int remember_tc(struct __sk_buff *ctx)
{
	return noted(TC, ctx);
}

SEC("tc")
int dispatch_tc(struct __sk_buff *ctx)
{
	return dispatch(TC, ctx);
}

SEC("tc")
int walk_tc(struct __sk_buff *ctx)
{
	return walk(TC, ctx);
}

char _license[] SEC("license") = "GPL";
