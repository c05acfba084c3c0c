/* SPDX-License-Identifier: GPL-2.0-only */
/* Which hop gets the frame next: along the rule's path, past hops that are not available or do not accept it. */
#ifndef PATH_H
#define PATH_H

static __always_inline struct rule *rule_at(const struct scratch *s, __u32 index)
{
	__u32 place = (s->generation & 1) * MAX_RULES + (index & (MAX_RULES - 1));

	return bpf_map_lookup_elem(&rules, &place);
}

/*
 * Whether the frame exceeds the limit of an overloaded hop. CPUs do not wait for each other: the limit is met on
 * average, whatever they do concurrently.
 */
static __always_inline bool exceeds(const struct scratch *s, __u32 slot)
{
	struct gate *gate = bpf_map_lookup_elem(&gates, &slot);
	struct rule *rule = s->rule < MAX_RULES ? rule_at(s, s->rule) : NULL;
	bool none = rule && rule->flags & RULE_OVERLOAD_BYPASS, dry = s->device.flags & DEVICE_DRY;
	__u64 used;

	if (!gate || !gate->cost)
		return false;
	used = *(volatile __u64 *)&gate->used;
	if (used < s->now) { /* unused capacity is lost */
		if (!dry)
			__sync_val_compare_and_swap(&gate->used, used, s->now);
		used = s->now;
	}
	if (used - s->now > GATE_BURST_NS) {
		if (!dry)
			__sync_fetch_and_add(&gate->over, 1);
		return true;
	}
	if (!dry) /* also for frames that bypass it, so that the end of the overload shows */
		__sync_fetch_and_add(&gate->used, gate->cost);
	return none;
}

__noinline __u32 has_shunted(__u32 hop); /* shunts.h */

/* Whether the hop's `accept` filter, if it has one, matches the frame. */
static __always_inline bool accepted(const struct scratch *s, __u32 hop)
{
	__u32 place = (s->generation & 1) * MAX_HOPS + hop;
	struct hop *h = bpf_map_lookup_elem(&hops, &place);

	return !h || h->accept_bit >= 64 || s->accept >> h->accept_bit & 1;
}

/* Whether this hop may have the frame; the reason if not. */
static __always_inline __u32 judge(struct scratch *s, __u32 hop, __u64 hold_down)
{
	__u32 slot = SLOT(hop, s->device.segment, s->direction);
	__u32 place = (s->generation & 1) * MAX_HOPS + hop;
	struct target *target;
	struct lease *lease;
	struct hop *h;
	__u32 length;
	bool accepts;

	h = bpf_map_lookup_elem(&hops, &place);
	accepts = !h || h->accept_bit >= 64 || s->accept >> h->accept_bit & 1;
	if (accepts)
		s->wanted = 1;
	lease = bpf_map_lookup_elem(&leases, &hop);
	target = bpf_map_lookup_elem(&targets, &slot);
	if (s->shunts && h && h->flags & HOP_SHUNTS && lease &&
	    (s->shunts & SHUNTS_KEPT || (s->alive && lease->until > s->now && target && target->ifindex)) &&
	    has_shunted(hop))
		return REASON_SHUNTED;
	if (!s->alive)
		return REASON_SUPERVISOR;
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
	length = s->length + (h->flags & HOP_TAGS);
	if (s->buffers != BUFFERS_ANY && length > target->max)
		return REASON_OVERSIZE;
	s->available = 1;
	if (!accepts)
		return REASON_NOT_ACCEPTED;
	if (!s->ahead && lease->overloaded >> ((s->device.segment * 2 + (s->direction & 1)) & 63) & 1 &&
	    exceeds(s, slot))
		return REASON_OVERLOADED;
	if (hold_down && lease->recovered && s->now < lease->recovered + hold_down)
		return REASON_HELD;
	return REASON_TAKEN;
}

static __always_inline void note_step(struct scratch *s, __u32 hop, __u32 reason)
{
	struct trace *t = tracing(s);

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

static __always_inline void note(struct scratch *s, __u32 hop, __u32 reason)
{
	struct hop_counter *counter;

	if (reason != REASON_TAKEN) {
		counter = hop_count(s, hop);
		if (counter)
			counter->skipped[reason & (REASON_PLACES - 1)]++;
	}
	note_step(s, hop, reason);
}

#include "groups.h"

/*
 * The first hop of a list (ids in the bytes, lowest first) that may have the frame; 0 none. One that is only held down
 * is taken if there is no other. The excess of an overloaded hop does not go to the others: they do not know its flows,
 * and would be overloaded next. A global function: verified once, not at each call.
 */
__noinline __u32 choose(__u64 list, __u64 hold_down)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u32 held = 0;

	if (!s)
		return 0;
	s->overloaded = 0;
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
		if (reason == REASON_OVERLOADED) {
			s->overloaded = 1;
			return 0;
		}
		if (reason == REASON_SHUNTED) { /* for the others of the group, too: they do not know the flow */
			s->shunted = 1;
			s->available = 1;
			s->wanted = 0; /* not missing, if the rule requires every hop */
			return 0;
		}
		if (reason == REASON_HELD && !held)
			held = hop;
	}
	if (held)
		note(s, held, REASON_TAKEN);
	return held;
}

#define NOT_ENTERED -1

/* To a hop: by the tap on the side from which the frame comes. NOT_ENTERED: there is no room for the hop's tag. */
static __always_inline int enter(int kind, void *ctx, struct scratch *s, __u32 hop)
{
	struct hop_counter *counter = hop_count(s, hop);
	__u32 place = (s->generation & 1) * MAX_HOPS + hop;
	struct hop *h = bpf_map_lookup_elem(&hops, &place);
	int action;

	if (h && h->flags & HOP_TRACKED && s->have_hash && !s->quoted)
		track(s, hop);
	if (h && h->flags & HOP_RECORDED && !(s->device.flags & DEVICE_DRY))
		keep(kind, ctx, hop, SLOT(hop, s->device.segment, s->direction), s->length);
	if (h && h->flags & HOP_TAGS && !put_tag(kind, ctx)) /* the hop would take a foreign tag for ours */
		return NOT_ENTERED;
	action = send(kind, ctx, &s->device, s, s->length, SLOT(hop, s->device.segment, s->direction), VERDICT_HOP,
		      OUTCOME_TO_HOP);
	if (counter && action == (kind == XDP ? (int)XDP_REDIRECT : TC_ACT_REDIRECT)) {
		counter->to.frames++;
		counter->to.bytes += s->length;
	}
	return action;
}

/* Position in the rule's path of the hop, or of the group that contains it; MAX_PATH: not in the path. */
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

/* Count a frame from a port under its rule; returns the rule's counters, if it has any. */
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

/* The first hop that may have the frame at one position of the rule's path. Global like `choose`. */
__noinline __u32 choose_at(__u32 position)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u32 id, kind, place, bucket, at;
	struct group *group;
	struct rule *rule;
	__u64 *list;

	if (!s)
		return 0;
	s->overloaded = 0;
	rule = rule_at(s, s->rule);
	if (!rule || position >= MAX_PATH)
		return 0;
	/* masked in a way that is opaque to the compiler: the verifier needs the bound in this register */
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
	bucket = (group->hash ? part_hash(group->hash) : s->hash) & (BUCKETS - 1);
	at = place * BUCKETS + bucket;
	list = bpf_map_lookup_elem(&buckets, &at);
	if (!list)
		return 0;
	s->group = id;
	s->bucket = bucket;
	if (group->minimum > 1 && too_few(*list, group->minimum))
		return 0;
	if (group->flags & (GROUP_KEEP | GROUP_RESET) && knows_failed(*list, group->hold_down, group->flags))
		return 0;
	return choose(*list, group->hold_down);
}

/*
 * A frame to one of the addresses that no bridge forwards (01:80:c2:00:00:00 to 0f: STP, LACP, LLDP, EAPOL, PTP peer
 * delay). It is for the neighbour at the other end of the wire: a guest's bridge would drop it.
 */
static __always_inline bool link_local(const void *data, const void *end)
{
	return data + ETH_HLEN <= end && *(__u32 *)data == bpf_htonl(0x0180c200) &&
	       !(*(__u16 *)(data + 4) & bpf_htons(0xfff0));
}

/* Whether the frame's segment has this flag. */
static __always_inline bool segment_has(const struct scratch *s, __u32 flag)
{
	__u32 place = (s->generation & 1) * MAX_SEGMENTS + (s->device.segment & (MAX_SEGMENTS - 1));
	struct segment *segment = bpf_map_lookup_elem(&segments, &place);

	return segment && segment->flags & flag;
}

/*
 * The filters have run on a possible fragment: a datagram's later fragments also match the rule of its first one,
 * because they do not contain its ports. The first rule wins.
 */
static __always_inline int fragment(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s)
		return pass(kind);
	s->now = now_ns();
	s->classified = 1;
	hash_frame(kind, ctx, s);
	if (s->fragment == 2 && s->fragment_rule < s->rule)
		s->rule = s->fragment_rule;
	next_program(kind, ctx, PROGRAM_DISPATCH);
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, OUTCOME_NO_PROGRAM);
}

/*
 * The rule is known: find the frame's position in the path, and its flow. Frames that need no hop leave here. Parsing
 * the flow and walking the path are separate programs, or the verifier would check the walk once for each way to parse
 * a flow.
 */
static __always_inline int dispatch(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct lease *supervisor;
	struct hop_counter *counter;
	struct rule *rule = NULL;
	__u32 position = 0, from, outcome = OUTCOME_NO_PROGRAM;
	bool accepts;

	if (!s)
		return pass(kind);
	from = s->device.hop;
	if (!s->have_hash && maybe_fragment(frame_data(kind, ctx), frame_end(kind, ctx)) &&
	    (!from || s->continuation_kind == CONT_CLASSIFY) && segment_has(s, SEGMENT_FRAGMENTS))
		next_program(kind, ctx, PROGRAM_FRAGMENT);
	if (s->rule < MAX_RULES)
		rule = rule_at(s, s->rule);
	if (link_local(frame_data(kind, ctx), frame_end(kind, ctx)) && !s->want && (from || (rule && rule->length)) &&
	    segment_has(s, SEGMENT_LINK_LOCAL)) {
		s->rule = NO_MATCH;
		outcome = from ? OUTCOME_OUT : OUTCOME_LINK_LOCAL;
		goto out;
	}
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
		if (!rule || !rule->length) { /* empty path: needs no clock and no walk */
			outcome = OUTCOME_STRAIGHT;
			goto out;
		}
		s->start = s->direction == SIDE_LAN ? 0 : rule->length - 1;
	}
	s->accept = 0;
	s->available = 0;
	supervisor = bpf_map_lookup_elem(&leases, &zero);
	s->now = now_ns();
	s->alive = supervisor && supervisor->until > s->now;
	accepts = s->want || (rule && rule->flags & RULE_ACCEPT);
	if (!s->have_hash && (s->want || (rule && rule->flags & RULE_HASH)))
		hash_frame(kind, ctx, s);
	s->shunts = SHUNTS_UNKNOWN; /* the walk finds out, if a hop of the path may have any */
	if (accepts)		    /* continues to the walk; without this program no hop accepts by filter */
		accept_program(kind, ctx, s->generation);
	next_program(kind, ctx, PROGRAM_WALK);
out:
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, outcome);
}

/*
 * The first hop from here on that may have the frame; 0 none. `missing`: the rule requires every hop, and one of the
 * remaining ones is not available; one that does not accept such frames is not required. `excess`: the frame exceeds a
 * hop's limit; it bypasses that hop, or is dropped if the rule blocks the excess. `at`: the position of that hop.
 */
static __always_inline __u32 next_hop(struct scratch *s, const struct rule *rule, bool *missing, bool *excess,
				      __u32 *at)
{
	__u32 position = s->start, first = 0, chosen;

	for (int i = 0; i < MAX_PATH; i++) {
		if (position >= rule->length) /* after the last or, because it is unsigned, before the first */
			break;
		s->wanted = 0;
		s->ahead = first != 0; /* checked only for `require`: the frame does not count there yet */
		chosen = choose_at(position);
		if (s->overloaded) {
			*excess = true;
			if (rule->flags & RULE_EXCESS_BLOCK || s->reset)
				break;
			position += s->direction == SIDE_LAN ? 1 : -1;
			continue;
		}
		if (chosen && !first) {
			first = chosen;
			*at = position;
		}
		if (!(rule->flags & RULE_ALL) ? chosen : !chosen && s->wanted) {
			*missing = !chosen;
			break;
		}
		position += s->direction == SIDE_LAN ? 1 : -1;
	}
	return first;
}

#include "mirror.h"

/* A dry run: count what the rule would do with a frame from a port. */
static __always_inline void only_count(const struct scratch *s, const struct rule *rule, struct rule_counter *counter,
				       bool taken, bool short_of_hops, bool excess)
{
	if (excess && rule->flags & RULE_EXCESS_BLOCK)
		counter->blocked++;
	else if (taken)
		counter->to_hop++;
	else if (short_of_hops && rule->flags & RULE_BLOCK)
		counter->blocked++;
	else if (s->shunted)
		counter->shunted++;
	else
		counter->bypassed++;
}

/* Everything is known: walk the path. */
static __always_inline int walk(int kind, void *ctx)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct rule_counter *rule_count = NULL;
	struct hop_counter *hop_counter;
	struct rule *rule = NULL;
	__u32 from, outcome, shunts, chosen = 0, at = 0;
	bool missing = false, excess = false;
	int action;

	if (!s)
		return pass(kind);
	if (s->rule < MAX_RULES)
		rule = rule_at(s, s->rule);
	if (s->shunts == SHUNTS_UNKNOWN) {
		s->shunts = 0;
		if (rule && rule->shunts) /* continues here */
			next_program(kind, ctx, PROGRAM_SHUNTS);
	}
	from = s->device.hop;
	s->shunted = 0;
	if (s->want) {
		s->group = 255;
		s->bucket = 0;
		s->position = 255;
		s->ahead = 0;
		shunts = s->shunts;
		s->shunts = 0; /* whoever sends it there knows why */
		if (s->want != from)
			chosen = choose(s->want, 0);
		s->shunts = shunts;
		if (chosen) {
			action = enter(kind, ctx, s, chosen);
			if (action != NOT_ENTERED)
				return action;
		}
		hop_counter = s->want != from && s->overloaded ? NULL : hop_count(s, from);
		if (hop_counter)
			hop_counter->bad_tag++;
	}
	outcome = !rule || from ? OUTCOME_OUT : OUTCOME_BYPASSED;
	if (rule && !from)
		rule_count = rule_match(s, rule);
	s->reset = RESET_NO;
	if (rule && rule->flags & RULE_RESET)
		find_tcp(kind, ctx, s);
	if (rule)
		chosen = next_hop(s, rule, &missing, &excess, &at);
	if (rule && !from && segment_has(s, SEGMENT_DRY_RUN)) {
		if (excess && !s->reset && rule_count)
			rule_count->excess++;
		outcome = OUTCOME_STRAIGHT;
		if (rule->path[0].kind == ITEM_NONE)
			goto out;
		if (rule_count)
			only_count(s, rule, rule_count, chosen && !missing,
				   rule->flags & RULE_ALL ? missing : !s->available, excess && !s->reset);
		outcome = OUTCOME_DRY_RUN;
		goto out;
	}
	if (kind == TC && rule && rule->mirrors[0])
		mirror(ctx, chosen && !missing, at);
	if (excess && s->reset)
		next_program(kind, ctx, PROGRAM_RESET);
	if (excess && rule_count)
		rule_count->excess++;
	if (excess && rule && rule->flags & RULE_EXCESS_BLOCK) {
		count(&s->device, OUTCOME_EXCESS, s->length);
		record(&s->device, s, VERDICT_DROP, 0, OUTCOME_EXCESS);
		return drop(kind);
	}
	if (chosen && !missing) {
		action = enter(kind, ctx, s, chosen);
		if (action != NOT_ENTERED) {
			if (rule_count)
				rule_count->to_hop++;
			return action;
		}
		missing = true;
	}
	if (rule && rule->flags & RULE_BLOCK && (rule->flags & RULE_ALL ? missing : !from && !s->available)) {
		if (rule_count)
			rule_count->blocked++;
		count(&s->device, OUTCOME_BLOCKED, s->length);
		record(&s->device, s, VERDICT_DROP, 0, OUTCOME_BLOCKED);
		return drop(kind);
	}
	if (rule && rule->path[0].kind == ITEM_NONE) { /* only mirrors; no frame comes back from them */
		outcome = OUTCOME_STRAIGHT;
		goto out;
	}
	if (s->shunted && !from)
		outcome = OUTCOME_SHUNTED;
	if (rule_count && s->shunted)
		rule_count->shunted++;
	else if (rule_count)
		rule_count->bypassed++;
out:
	return leave(kind, ctx, &s->device, s, s->length, s->buffers, s->direction, outcome);
}

#endif
