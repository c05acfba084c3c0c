/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copies of frames for captures. The recorder of frames sent to hops (recorder.h) is separate.
 *
 * No packet socket sees frames that XDP redirects, so the datapath copies them itself: where they arrive from a
 * device, and where they are sent to one. Without a capture this costs one test of a flag that is at hand
 * anyway. A copy goes into the capture's own ring, which its reader has mapped; a full ring loses copies
 * (counted), never a frame.
 */
#ifndef COPIES_H
#define COPIES_H

/* By slot: which captures want copies there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct copy_point);
} copy_points SEC(".maps");

/* By capture: its settings. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_COPIES);
	__type(key, __u32);
	__type(value, struct copy_wish);
} copy_wishes SEC(".maps");

/* By capture: its ring, which is created when it begins and removed when it ends. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_COPIES);
	__type(key, __u32);
	__array(
	    values, struct {
		    __uint(type, BPF_MAP_TYPE_RINGBUF);
		    __uint(max_entries, 4096);
	    });
} copy_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_COPIES);
	__type(key, __u32);
	__type(value, struct copy_counter);
} copy_counters SEC(".maps");

/*
 * The frame being copied, in one piece as on the wire, and the filter's registers. They are here and not on the
 * stack, so that the verifier does not track their values and all iterations of the loop look alike to it.
 */
struct copy_buffer {
	struct copied head;
	__u8 data[COPY_BYTES];
	__u32 at;
	__u32 a;
	__u32 x;
	__u32 result;
	__u32 memory[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct copy_buffer);
} copy_buffer SEC(".maps");

struct copy_machine {
	struct copy_buffer *buffer;
	struct copy_wish *wish;
};

/* Instruction fields of classic BPF, <linux/filter.h>. */
#define CLASS(code) ((code)&0x07)
#define LOAD_SIZE(code) (((code)&0x18) == 0x00 ? 4 : ((code)&0x18) == 0x08 ? 2 : 1)
#define MODE(code) ((code)&0xe0)
#define OPERATION(code) ((code)&0xf0)
#define BY_X(code) ((code)&0x08)

/* Bytes of the frame as a number; false if the frame is too short. */
static __always_inline bool copy_load(struct copy_buffer *buffer, __u64 offset, __u32 size, __u32 *value)
{
	if (offset + size > buffer->head.captured)
		return false;
	*value = buffer->data[offset & (COPY_BYTES - 1)];
	if (size > 1)
		*value = *value << 8 | buffer->data[(offset + 1) & (COPY_BYTES - 1)];
	if (size > 2) {
		*value = *value << 8 | buffer->data[(offset + 2) & (COPY_BYTES - 1)];
		*value = *value << 8 | buffer->data[(offset + 3) & (COPY_BYTES - 1)];
	}
	return true;
}

/* The value of an arithmetic instruction; false: division by zero, which rejects the frame. */
static __always_inline bool copy_calculate(struct copy_buffer *m, __u32 operation, __u32 operand)
{
	switch (operation) {
	case BPF_ADD:
		m->a += operand;
		return true;
	case BPF_SUB:
		m->a -= operand;
		return true;
	case BPF_MUL:
		m->a *= operand;
		return true;
	case BPF_DIV:
		if (!operand)
			return false;
		m->a /= operand;
		return true;
	case BPF_MOD:
		if (!operand)
			return false;
		m->a %= operand;
		return true;
	case BPF_OR:
		m->a |= operand;
		return true;
	case BPF_AND:
		m->a &= operand;
		return true;
	case BPF_XOR:
		m->a ^= operand;
		return true;
	case BPF_LSH: /* libpcap: shifts by 32 and more give 0 */
		m->a = operand < 32 ? m->a << operand : 0;
		return true;
	case BPF_RSH:
		m->a = operand < 32 ? m->a >> operand : 0;
		return true;
	default: /* BPF_NEG */
		m->a = -m->a;
		return true;
	}
}

/* One instruction; 1 when the filter has ended. User space has checked that the filter only jumps
 * forward. */
static long copy_step(__u32 index __attribute__((unused)), void *context)
{
	struct copy_machine *machine = context;
	struct copy_buffer *m = machine->buffer;
	struct copy_wish *wish = machine->wish;
	__u32 at = m->at & (COPY_INSTRUCTIONS - 1);
	__u32 code = wish->filter[at].code, k = wish->filter[at].k, value = 0;
	bool jump;

	m->at = at + 1;
	switch (CLASS(code)) {
	case BPF_LD:
	case BPF_LDX:
		switch (MODE(code)) {
		case BPF_ABS:
			if (!copy_load(m, k, LOAD_SIZE(code), &value))
				return 1;
			break;
		case BPF_IND:
			if (!copy_load(m, (__u64)m->x + k, LOAD_SIZE(code), &value))
				return 1;
			break;
		case BPF_MSH:
			if (!copy_load(m, k, 1, &value))
				return 1;
			value = (value & 15) << 2;
			break;
		case BPF_MEM:
			value = m->memory[k & 15];
			break;
		case BPF_LEN:
			value = m->head.length;
			break;
		default: /* BPF_IMM */
			value = k;
		}
		if (CLASS(code) == BPF_LD)
			m->a = value;
		else
			m->x = value;
		return 0;
	case BPF_ST:
		m->memory[k & 15] = m->a;
		return 0;
	case BPF_STX:
		m->memory[k & 15] = m->x;
		return 0;
	case BPF_ALU:
		return copy_calculate(m, OPERATION(code), BY_X(code) ? m->x : k) ? 0 : 1;
	case BPF_JMP:
		value = BY_X(code) ? m->x : k;
		switch (OPERATION(code)) {
		case BPF_JA:
			m->at += k;
			return 0;
		case BPF_JEQ:
			jump = m->a == value;
			break;
		case BPF_JGT:
			jump = m->a > value;
			break;
		case BPF_JGE:
			jump = m->a >= value;
			break;
		default: /* BPF_JSET */
			jump = m->a & value;
		}
		m->at += jump ? wish->filter[at].jt : wish->filter[at].jf;
		return 0;
	case BPF_RET:
		m->result = (code & 0x18) == 0x10 ? m->a : (code & 0x18) == 0x08 ? m->x : k;
		return 1;
	default: /* BPF_MISC */
		if (code & 0x80)
			m->a = m->x;
		else
			m->x = m->a;
		return 0;
	}
}

/* At most `most`. The value is hidden from the compiler, which would otherwise check a copy that the
 * verifier does not track. */
static __always_inline __u64 copy_bound(__u64 bytes, __u64 most)
{
	asm volatile("" : "+r"(bytes));
	return bytes > most ? most : bytes;
}

/* Give the copy in the buffer to one capture, if its filter matches. A global function: verified once. */
__noinline int copy_to(__u32 sink)
{
	struct copy_buffer *buffer = bpf_map_lookup_elem(&copy_buffer, &zero);
	struct copy_wish *wish = bpf_map_lookup_elem(&copy_wishes, &sink);
	struct copy_counter *counter = bpf_map_lookup_elem(&copy_counters, &sink);
	void *ring = bpf_map_lookup_elem(&copy_rings, &sink);
	struct copy_machine machine = {.buffer = buffer, .wish = wish};
	__u32 whole;
	__u64 bytes;

	if (!buffer || !wish || !counter || !ring)
		return 0;
	if (wish->instructions) {
		buffer->at = buffer->a = buffer->x = buffer->result = 0;
		bpf_loop(COPY_INSTRUCTIONS, copy_step, &machine, 0);
		if (!buffer->result)
			return 0;
	}
	whole = buffer->head.captured;
	bytes = copy_bound(whole < wish->bytes ? whole : wish->bytes, COPY_BYTES);
	buffer->head.captured = bytes;
	if (bpf_ringbuf_output(ring, buffer, sizeof(buffer->head) + bytes, 0))
		counter->lost++;
	else
		counter->copied++;
	buffer->head.captured = whole;
	return 0;
}

/* Give the copy in the buffer to all captures that want it. */
__noinline int copy_deliver(__u32 wanted)
{
	for (__u32 sink = 1; sink < MAX_COPIES; sink++)
		if (wanted >> sink & 1)
			copy_to(sink);
	return 0;
}

/* Copy the frame into the buffer, with the tag that the kernel keeps in the metadata. */
static __always_inline void copy_load_frame(int kind, void *ctx, struct copy_buffer *buffer, __u32 length, __u32 wanted)
{
	__u64 bytes = wanted < length ? wanted : length;

	buffer->head.length = length;
	if (kind == TC && ((struct __sk_buff *)ctx)->vlan_present && length >= 12) {
		struct __sk_buff *skb = ctx;
		__u32 tci = skb->vlan_tci, proto = skb->vlan_proto; /* network order */

		buffer->head.length = length + 4;
		buffer->head.captured = 0;
		if (bpf_skb_load_bytes(ctx, 0, buffer->data, 12))
			return;
		buffer->data[12] = proto;
		buffer->data[13] = proto >> 8;
		buffer->data[14] = tci >> 8;
		buffer->data[15] = tci;
		bytes = copy_bound(bytes > 12 ? bytes - 12 : 0, COPY_BYTES - 16);
		if (bytes && bpf_skb_load_bytes(ctx, 12, buffer->data + 16, bytes))
			bytes = 0;
		buffer->head.captured = bytes + 16;
		return;
	}
	bytes = copy_bound(bytes, COPY_BYTES);
	if (bytes && (kind == XDP ? bpf_xdp_load_bytes(ctx, 0, buffer->data, bytes)
				  : bpf_skb_load_bytes(ctx, 0, buffer->data, bytes)))
		bytes = 0;
	buffer->head.captured = bytes;
}

static __always_inline void copy(int kind, void *ctx, __u32 slot, __u32 way, __u32 length)
{
	struct copy_point *point = bpf_map_lookup_elem(&copy_points, &slot);
	struct copy_buffer *buffer = bpf_map_lookup_elem(&copy_buffer, &zero);
	__u32 wanted;

	if (!point || !buffer)
		return;
	wanted = way == COPY_OUT ? point->out : point->in;
	if (!wanted)
		return;
	buffer->head.when = bpf_ktime_get_ns();
	buffer->head.slot = slot;
	buffer->head.way = way;
	copy_load_frame(kind, ctx, buffer, length, point->bytes);
	copy_deliver(wanted);
}

static __noinline void copy_by_xdp(struct xdp_md *ctx, __u32 slot, __u32 way, __u32 length)
{
	copy(XDP, ctx, slot, way, length);
}

static __noinline void copy_by_tc(struct __sk_buff *ctx, __u32 slot, __u32 way, __u32 length)
{
	copy(TC, ctx, slot, way, length);
}

/* Copy the frame for all captures at this point. Only called if the flag is set. */
static __always_inline void copy_frame(int kind, void *ctx, __u32 slot, __u32 way, __u32 length)
{
	if (kind == XDP)
		copy_by_xdp(ctx, slot, way, length);
	else
		copy_by_tc(ctx, slot, way, length);
}

#endif
