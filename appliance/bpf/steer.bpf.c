// SPDX-License-Identifier: GPL-2.0-only
/*
 * The datapath: which device a frame goes to. steer.h describes how it works.
 *
 * Two thin families of programs, `*_xdp` and `*_tc`, over the same inline functions. `kind` is a constant in each of
 * them, so the compiler removes the other half. Only code that differs between the two contexts tests it.
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

#include "maps.h"
#include "clock.h"
#include "copies.h"
#include "cache.h"
#include "checksum.h"
#include "sending.h"
#include "nested.h"
#include "flows.h"
#include "next.h"
#include "tags.h"
#include "recorder.h"
#include "path.h"
#include "reset.h"
#include "first_hop.h"
#include "shunts.h"
#include "decide.h"
#include "exits.h"
#include "losses.h"
#include "headers.h"
#include "clamp.h"
#include "encap.h"

/*
 * Out by the port that the hop has chosen, which need not be the one that the frame travels to; `direction`: the
 * direction of that port.
 */
static __always_inline int leave_by(int kind, void *ctx, const struct device *device, __u32 length, __u32 buffers,
				    __u32 direction)
{
	__u32 slot = SLOT(0, device->segment, direction ^ 1);
	struct target *target = bpf_map_lookup_elem(&targets, &slot);
	struct device there = *device;

	if (target) {
		there.peer_max = target->max;
		there.peer_max_sg = target->flags & TARGET_SG ? target->max : 0;
	}
	return leave(kind, ctx, &there, NULL, length, buffers, direction, OUTCOME_OUT);
}

/*
 * A frame that its segment's rules, or a hop's continuation, decide about. `shunting`: it comes from a hop that has
 * shunted its flow; its tag has been taken, and it has been noted.
 */
static __always_inline int steer(int kind, void *ctx, const struct device *device, __u64 policy, __u32 length,
				 __u32 buffers, __u32 direction, bool shunting)
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
	if (!shunting)
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
		if (next->kind == CONT_MIRROR)
			return from_mirror(kind, device, length);
		counter = hop_count(s, device->hop);
		if (!shunting && device->flags & DEVICE_TAGS) {
			vid = take_tag(kind, ctx);
			if (vid >= 0)
				s->length = length = kind == XDP ? length - 4 : ((struct __sk_buff *)ctx)->len;
			if (vid == TAG_OUT)
				return leave(kind, ctx, device, NULL, length, buffers, direction, OUTCOME_OUT);
			if (vid == TAG_OUT_LAN || vid == TAG_OUT_WAN)
				return leave_by(kind, ctx, device, length, buffers, vid == TAG_OUT_LAN);
			if (vid == TAG_SHUNT || vid == TAG_SHUNT_ONE) {
				s->shunt_order = vid == TAG_SHUNT ? FLOW_CLOSED : 1 << (direction & 1);
				next_program(kind, ctx, PROGRAM_SHUNT);
			}
			if (vid > 0 && vid < MAX_HOPS)
				want = vid;
			else if (vid > 0 && vid != TAG_NEXT && counter)
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
			if (kind == XDP && next->kind == CONT_STATIC && !want && !device->flags &&
			    buffers == BUFFERS_ONE)
				next_program(kind, ctx, PROGRAM_ONWARD);
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
	/* A successful tail call does not return. */
	s->rule = NO_MATCH;
	return leave(kind, ctx, device, s, length, buffers, direction, OUTCOME_NO_PROGRAM);
}

/*
 * A heartbeat through a guest that routes: the guest has replaced the source by its own address, and the destination by
 * one from its configuration, which is not secret. So the key must be in the payload.
 */
static __always_inline bool routed_heartbeat(void *data, void *end, __u32 key)
{
	__u32 at = ETH_HLEN + HEARTBEAT_KEY_AT;

	if (data + ETH_HLEN + 1 > end)
		return false;
	if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_IP))
		at += (*(__u8 *)(data + ETH_HLEN) & 0x0f) * 4;
	else if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_IPV6))
		at += 40;
	else
		return false;
	data += at;
	return data + 4 <= end && *(__u32 *)data == key;
}

/*
 * A frame that we sent through a hop, recognized by the hop's key: in the source, or in the destination of the guest's
 * answers. Nobody on the link knows the key, so a frame that only looks like ours passes like any other.
 */
static __always_inline bool heartbeat(int kind, void *ctx, const struct device *device)
{
	void *data = frame_data(kind, ctx), *end = frame_end(kind, ctx);
	__u32 key = device->key;

	if (data + ETH_HLEN > end)
		return false;
	if (*(__u32 *)(data + 8) == key || *(__u32 *)(data + 2) == key)
		return true;
	return *(__u32 *)data == bpf_htonl(HEARTBEAT_NEIGHBOUR | device->hop) && routed_heartbeat(data, end, key);
}

/*
 * From a hop at the end of its path, whichever rule led there, and not a heartbeat: the usual way back, without state for
 * other programs.
 */
static __always_inline bool certainly_out(int kind, void *ctx, const struct device *device, __u64 policy)
{
	void *data = frame_data(kind, ctx);
	__u32 at = (((policy & 1) * MAX_HOPS + (device->hop & (MAX_HOPS - 1))) * MAX_SEGMENTS +
		    (device->segment & (MAX_SEGMENTS - 1))) *
		       2 +
		   ((device->side ^ 1) & 1);
	struct continuation *next;

	if (device->role != ROLE_HOP || device->flags || data + ETH_HLEN > frame_end(kind, ctx) ||
	    *(__u32 *)(data + 8) == device->key || *(__u32 *)(data + 2) == device->key ||
	    *(__u32 *)data == bpf_htonl(HEARTBEAT_NEIGHBOUR | device->hop))
		return false;
	next = bpf_map_lookup_elem(&continuations, &at);
	return next && next->kind == CONT_END;
}

/*
 * `copies`: for devices with captures; the program without them is shorter and calls no function, which alone costs as
 * much as counting the frame.
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
	if (!copies && certainly_out(kind, ctx, known, policy)) {
		length = frame_length(kind, ctx);
		if (fits(kind, ctx, known, length))
			return through(kind, known->slot, SLOT(0, known->segment, known->side), length, OUTCOME_OUT);
	}
	if (!copies && plain(known)) {
		if (POLICY_SEGMENT(policy, known->segment & (MAX_SEGMENTS - 1))) {
			if (frame_data(kind, ctx) + ETH_HLEN <= frame_end(kind, ctx))
				decide_program(kind, ctx, policy, known->segment);
		} else {
			length = frame_length(kind, ctx);
			if (fits(kind, ctx, known, length))
				return through(kind, known->slot, known->slot ^ 1, length, OUTCOME_STRAIGHT);
		}
	}
	here = *known;
	if (copies) {
		if (device->flags & DEVICE_COPY_IN)
			copy_frame(kind, ctx, device->slot, COPY_IN, frame_length(kind, ctx));
	} else {
		if (device->flags & DEVICE_COPIES)
			next_program(kind, ctx, PROGRAM_COPYING);
		device->flags &= ~DEVICE_COPIES; /* so that the compiler removes all code about them */
	}
	if (device->role == ROLE_PORT) {
		direction = device->side;
		if (!POLICY_SEGMENT(policy, device->segment & (MAX_SEGMENTS - 1))) {
			length = frame_length(kind, ctx);
			return leave(kind, ctx, device, NULL, length, frame_buffers(kind, ctx, length), direction,
				     OUTCOME_STRAIGHT);
		}
	} else {
		direction = device->side ^ 1; /* a frame from a hop's WAN side travels from LAN to WAN */
		if (heartbeat(kind, ctx, device)) {
			count(device, OUTCOME_HEARTBEAT, frame_length(kind, ctx));
			record(device, NULL, VERDICT_STACK, 0, OUTCOME_HEARTBEAT);
			return pass(kind);
		}
		/* by the pointers, because the length is a call with XDP */
		if (frame_data(kind, ctx) + ETH_HLEN > frame_end(kind, ctx) &&
		    is_mirror(policy, device->hop, device->segment))
			return from_mirror(kind, device, frame_length(kind, ctx));
	}
	length = frame_length(kind, ctx);
	if (length < ETH_HLEN)
		return leave(kind, ctx, device, NULL, length, frame_buffers(kind, ctx, length), direction,
			     OUTCOME_UNPARSED);
	return steer(kind, ctx, device, policy, length, frame_buffers(kind, ctx, length), direction, false);
}

/* A hop shunts the flow of the frame; the frame itself goes on along its path. */
static __always_inline int shunt(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct device device;

	if (!s)
		return pass(kind);
	enter_shunt(kind, ctx, s);
	device = s->device;
	return steer(kind, ctx, &device, s->generation, s->length, s->buffers, s->direction, true);
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

/* For devices that deliver frames with incomplete checksums. */
SEC("xdp.frags")
int entry_filling_xdp(struct xdp_md *ctx)
{
	if (!surely_finished(ctx) && frame_buffers(XDP, ctx, frame_length(XDP, ctx)) == BUFFERS_ONE)
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
int own_xdp(struct xdp_md *ctx)
{
	return decide_own(ctx, false);
}

SEC("xdp.frags")
int found_xdp(struct xdp_md *ctx)
{
	return found(ctx);
}

SEC("xdp.frags")
int onward_xdp(struct xdp_md *ctx)
{
	return onward(ctx);
}

SEC("xdp.frags")
int own_shunting_xdp(struct xdp_md *ctx)
{
	return decide_own(ctx, true);
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
int fragment_xdp(struct xdp_md *ctx)
{
	return fragment(XDP, ctx);
}

SEC("xdp.frags")
int shunts_xdp(struct xdp_md *ctx)
{
	return look_for_shunts(XDP, ctx);
}

SEC("xdp.frags")
int shunt_xdp(struct xdp_md *ctx)
{
	return shunt(XDP, ctx);
}

SEC("xdp.frags")
int walk_xdp(struct xdp_md *ctx)
{
	return walk(XDP, ctx);
}

SEC("xdp.frags")
int reset_xdp(struct xdp_md *ctx)
{
	return reset(XDP, ctx);
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
int fragment_tc(struct __sk_buff *ctx)
{
	return fragment(TC, ctx);
}

SEC("tc")
int shunts_tc(struct __sk_buff *ctx)
{
	return look_for_shunts(TC, ctx);
}

SEC("tc")
int shunt_tc(struct __sk_buff *ctx)
{
	return shunt(TC, ctx);
}

SEC("tc")
int walk_tc(struct __sk_buff *ctx)
{
	return walk(TC, ctx);
}

SEC("tc")
int reset_tc(struct __sk_buff *ctx)
{
	return reset(TC, ctx);
}

char _license[] SEC("license") = "GPL";
