/* SPDX-License-Identifier: GPL-2.0-only */
/* Which hop has the frame next: along the rule's path, past hops that are not available or do not accept it. */
#ifndef PATH_H
#define PATH_H

static __always_inline struct rule *rule_at(const struct scratch *s, __u32 index)
{
	__u32 place = (s->generation & 1) * MAX_RULES + (index & (MAX_RULES - 1));

	return bpf_map_lookup_elem(&rules, &place);
}

/*
 * Does the frame exceed what an overloaded hop is handed? Processors do not wait for each other: the limit is met on the
 * average, whatever they do at the same time.
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
	if (used < s->now) { /* capacity that nobody used is gone */
		if (!dry)
			__sync_val_compare_and_swap(&gate->used, used, s->now);
		used = s->now;
	}
	if (used - s->now > GATE_BURST_NS) {
		if (!dry)
			__sync_fetch_and_add(&gate->over, 1);
		return true;
	}
	if (!dry) /* also for what goes around: so the end of the overload shows */
		__sync_fetch_and_add(&gate->used, gate->cost);
	return none;
}

/* May this hop have the frame? The reason if not. */
static __always_inline __u32 judge(struct scratch *s, __u32 hop, __u64 hold_down)
{
	__u32 slot = SLOT(hop, s->device.segment, s->direction);
	__u32 place = (s->generation & 1) * MAX_HOPS + hop;
	struct target *target;
	__u32 length;
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
	length = s->length + (h->flags & HOP_TAGS);
	if (s->buffers != BUFFERS_ANY && length > target->max)
		return REASON_OVERSIZE;
	s->available = 1;
	if (h->accept_bit < 64 && !(s->accept >> h->accept_bit & 1))
		return REASON_NOT_ACCEPTED;
	if (lease->overloaded >> ((s->device.segment * 2 + (s->direction & 1)) & 63) & 1 && exceeds(s, slot))
		return REASON_OVERLOADED;
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
 * down is taken when no other is there. What an overloaded hop has no room for is not for the others: they know nothing of
 * its flows, and would be the next to be overloaded. A global function: the verifier looks at it once, not at each call.
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

#define NOT_ENTERED -1

/* To a hop: by the tap of the side the frame comes from. NOT_ENTERED: there is no room for the hop's tag. */
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
	if (h && h->flags & HOP_TAGS && !put_tag(kind, ctx)) /* the hop would take a tag of somebody else for ours */
		return NOT_ENTERED;
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
	bool excess = false;
	int action;

	if (!s)
		return pass(kind);
	from = s->device.hop;
	if (s->want) {
		s->group = 255;
		s->bucket = 0;
		s->position = 255;
		if (s->want != from)
			chosen = choose(s->want, 0);
		if (chosen) {
			action = enter(kind, ctx, s, chosen);
			if (action != NOT_ENTERED)
				return action;
		}
		hop_counter = s->want != from && s->overloaded ? NULL : hop_count(s, from);
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
			action = enter(kind, ctx, s, chosen);
			if (action == NOT_ENTERED)
				break;
			if (rule_count)
				rule_count->to_hop++;
			return action;
		}
		if (s->overloaded) {
			if (rule_count && !excess)
				rule_count->excess++;
			excess = true;
			if (rule->flags & RULE_EXCESS_BLOCK) {
				count(&s->device, OUTCOME_EXCESS, s->length);
				record(&s->device, s, VERDICT_DROP, 0, OUTCOME_EXCESS);
				return drop(kind);
			}
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

#endif
