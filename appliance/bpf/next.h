/* SPDX-License-Identifier: GPL-2.0-only */
/* Tail calls. */
#ifndef NEXT_H
#define NEXT_H

/*
 * Continue with another program. The slot must be a constant: such a tail call is a direct jump in machine code, while
 * one by a variable is an indirect jump, which costs 10 ns if the kernel guards those against speculation.
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

/* An empty slot costs nothing: the machine code has no jump there. */
static __always_inline void decide_program(int kind, void *ctx, __u32 generation, __u32 segment)
{
	if (!segment) { /* most have one */
		DECIDE_OF(0);
		return;
	}
	asm volatile(
	    ""
	    : "+r"(segment)); /* or the compiler would use a binary search for the segment, with this one last */
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

#endif
