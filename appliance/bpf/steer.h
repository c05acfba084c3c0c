/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the datapath and user space share: limits, numbers and the layout of every map value.
 *
 * The Python side repeats these in appliance/steering/kernel/layout.py; tests/unit/steering/test_layout.py compares both.
 *
 * How a frame finds its way
 * -------------------------
 * A frame enters at a port, or at the tap of a hop. `devices[ifindex]` says which. A port of a segment without rules
 * sends it straight to the other port. With rules, `decide` asks the segment's filters, which user space has put into
 * it; a frame that no rule leads anywhere leaves there. (Filters that do not fit into it stand by themselves, and leave
 * the index of the first matching rule in `scratch`.) `dispatch` finds out where in the rule's path the frame is, and
 * its flow; `walk` goes along the path: from LAN to WAN forward, from WAN to LAN backward. The first hop that is
 * attached, has a lease, accepts the frame and is not draining gets it; when none does it goes to the other port (or is
 * blocked, where the rule says so).
 *
 * How the path is kept over a hop
 * -------------------------------
 * Nothing is written on the frame. A frame that comes back from a hop's WAN-side tap travels LAN to WAN, one from the
 * LAN-side tap WAN to LAN. Where it goes on is the hop's *continuation* in that segment and direction, which user
 * space works out with the policy:
 *   CONT_END, CONT_STATIC  every rule that holds the hop goes on alike from there: the frame need not be classified
 *                          again, so the hop may change whatever it likes (NAT, rewritten ports, new frames).
 *   CONT_CLASSIFY          the rules differ: the frame is classified as it is now. When the rule found holds the hop,
 *                          it goes on there. When not (the hop changed what the filters look at), it goes on by the
 *                          first rule that holds the hop, and is counted `returned_unmatched`.
 *   CONT_NONE              no rule holds the hop (any more): out, counted `returned_unmatched`.
 * Not possible: telling two rules apart for a frame that a hop has changed beyond recognition; keeping both
 * directions of a flow on one member of a group that lies behind a hop which rewrites addresses; noticing that
 * guests with tags send a frame round in a circle.
 */
#ifndef STEER_H
#define STEER_H

#define LAYOUT_VERSION 4

#define MAX_SEGMENTS 16
#define MAX_HOPS 128 /* ids 1..127; 0 stands for "no hop": the ports, and the supervisor's own lease */
#define MAX_GROUPS 64
#define MAX_RULES 4096
#define MAX_PATH 8	  /* hops and groups in one path */
#define MAX_MEMBERS 8	  /* hops in one group */
#define BUCKETS 1024	  /* of one group, a power of two */
#define MAX_DEVICES 65536 /* highest ifindex + 1 */
#define MAX_SLOTS 4096	  /* MAX_HOPS * 2 * MAX_SEGMENTS */
#define SLOT_UNKNOWN 4096 /* counters of frames from devices that are not ours */
#define MAX_TRACE 64	  /* steps kept for one explained frame */
#define MAX_FLOWS 262144
#define MAX_FRAGMENTS 16384
#define MAX_COPIES 8	       /* who wants copies of frames: captures 1..7; 0 is nobody */
#define COPY_BYTES 16384       /* of one frame; a power of two */
#define COPY_INSTRUCTIONS 4096 /* of a capture's filter, a power of two */
#define RECORD_BYTES 2016      /* kept of a recorded frame at most */
#define MAX_THREADS 4096       /* of all guests, that their leases are tied to */

#define NO_MATCH 0xffffffff
#define NO_ACCEPT_BIT 255 /* the hop takes every frame */

#define HEARTBEAT_NEIGHBOUR 0x02545700 /* first bytes of where a routing guest sends heartbeats; + its id */
#define HEARTBEAT_KEY_AT 16	       /* behind an IP header: UDP, and what stands before the nonce */
#define ETH_TAG 0x88a8		       /* 802.1ad */
#define TAG_OUT 0		       /* VID: leave, in the direction the frame travels */
#define TAG_NEXT 4000		       /* VID: along the path; so says the tag of a frame that a hop is handed */
#define TAG_OUT_LAN 4001	       /* VID: leave by the LAN port */
#define TAG_OUT_WAN 4002	       /* VID: leave by the WAN port */

#define FLOW_REFRESH_NS 1000000000ULL /* a flow's time is written at most this often */
#define FLOW_CLOSED_NS 2000000000ULL  /* after FIN from both sides the flow stays this long */
#define GATE_BURST_NS 10000000ULL     /* frames that may come at once, in the time that they take the hop */
#define FRAGMENT_NS 2000000000ULL     /* fragments of one datagram come within this time */

/* A device's slot: which place in the appliance it has. Slot of a port: hop 0. */
#define SLOT(hop, segment, side) ((hop)*32 + (segment)*2 + (side))

/* Slots of the program arrays `xdp_programs` and `tc_programs`. A generated program may go on in parts of its own. */
#define ACCEPT_PARTS 4
#define POLICY_PARTS 24
#define PROGRAM_DISPATCH 0 /* the rule is known: which way from here */
#define PROGRAM_WALK 1	   /* the flow and the accepts are known: which hop */
#define PROGRAM_ACCEPT(generation) (2 + ((generation)&1))
#define PROGRAM_ENTRY 6	   /* where every frame begins; for programs that are attached in its place */
#define PROGRAM_COPYING 5  /* the entry program once more, for devices with DEVICE_COPIES (copies.h) */
#define PROGRAM_REMEMBER 4 /* the filters behind the flow cache have found the rule (cache.h) */
#define PROGRAM_POLICY(generation, segment) (8 + ((generation)&1) * MAX_SEGMENTS + (segment))
#define PROGRAM_ACCEPT_PART(generation) (40 + ((generation)&1) * ACCEPT_PARTS)
#define PROGRAM_POLICY_PART(generation, segment) (64 + (((generation)&1) * MAX_SEGMENTS + (segment)) * POLICY_PARTS)
#define PROGRAM_FILTERS(generation, segment) (832 + ((generation)&1) * MAX_SEGMENTS + (segment)) /* behind the cache */
#define PROGRAM_DECIDE(generation, segment) (864 + ((generation)&1) * MAX_SEGMENTS + (segment))	 /* see `decide` */
#define PROGRAM_SLOTS 896
#define NOT_HERE 0xfffffffe /* from filters: this frame is not for them, but for those at PROGRAM_FILTERS */

#define CACHE_ENTRIES 4096 /* of each CPU, a power of two; 256 KiB: more would not stay near the processor */
#define CACHE_IPV6 0x100   /* bits of struct cached's tag, above the protocol */
#define CACHE_SEGMENT_SHIFT 16
#define CACHE_USED 0x80000000

enum side {
	SIDE_LAN,
	SIDE_WAN
}; /* direction: 0 from LAN to WAN, 1 from WAN to LAN */
enum role {
	ROLE_NONE,
	ROLE_PORT,
	ROLE_HOP
};

enum device_flag {
	DEVICE_TAGS = 1,      /* hop: may choose the next hop by a tag */
	DEVICE_TRACE = 2,     /* write `trace` */
	DEVICE_DRY = 4,	      /* touch no counter, flow or fragment */
	DEVICE_COPY_IN = 8,   /* somebody wants copies of what comes from this device */
	DEVICE_COPY_OUT = 16, /* somebody wants copies of what is sent to some device of the segment */
};

#define DEVICE_COPIES (DEVICE_COPY_IN | DEVICE_COPY_OUT)

/* A frame that comes from a device (from a port; back from a hop), or is sent to it. */
enum copy_way {
	COPY_IN,
	COPY_OUT
};

enum target_flag {
	TARGET_SG = 1
}; /* takes frames of several buffers by XDP */

enum rule_flag {
	RULE_BLOCK = 1,		   /* on_unavailable = "block" */
	RULE_ACCEPT = 2,	   /* a hop of the path has an `accept` filter */
	RULE_HASH = 4,		   /* a group, or a hop whose flows are tracked, is in the path */
	RULE_EXCESS_BLOCK = 16,	   /* on_overload: what exceeds a hop's limit is dropped, not led around the hop */
	RULE_OVERLOAD_BYPASS = 32, /* on_overload = "bypass-all": nothing for an overloaded hop */
};

enum item_kind {
	ITEM_NONE,
	ITEM_HOP,
	ITEM_GROUP
};
enum group_flag {
	GROUP_STANDBY = 1,
	GROUP_L3 = 2
};
enum hop_flag {
	HOP_TRACKED = 1,
	HOP_RECORDED = 2,
	HOP_TAGS = 4, /* what it is handed carries a tag of ours; its value is that tag's length */
};
enum continuation_kind {
	CONT_NONE,
	CONT_END,
	CONT_STATIC,
	CONT_CLASSIFY
};

/* What became of a frame; each frame is counted once, under the device it came from: in = the sum of these. */
enum outcome {
	OUTCOME_STRAIGHT,   /* port to port: no rule, or the rule says so */
	OUTCOME_TO_HOP,	    /* to a guest or remote */
	OUTCOME_BYPASSED,   /* to the other port, as no hop of the path took it */
	OUTCOME_OUT,	    /* from a hop to a port: end of its path */
	OUTCOME_HEARTBEAT,  /* from a hop to the supervisor */
	OUTCOME_BLOCKED,    /* dropped: no hop available, and the rule says block */
	OUTCOME_UNPARSED,   /* shorter than an Ethernet header: passed on */
	OUTCOME_NO_DEVICE,  /* dropped: where it should go nothing is attached */
	OUTCOME_OVERSIZE,   /* dropped: longer than the other port can send */
	OUTCOME_NO_PROGRAM, /* a policy program was missing: passed to the other port */
	OUTCOME_UNKNOWN,    /* from a device that is not ours: left to the kernel */
	OUTCOME_EXCESS,	    /* dropped: exceeds what an overloaded hop carries, and the rule says block */
	OUTCOMES,
};
#define OUTCOME_PLACES 16 /* room in the map; OUTCOMES must fit */

/* Why a hop was skipped, or taken (the first). */
enum reason {
	REASON_TAKEN,
	REASON_UNAVAILABLE,  /* no lease, or not attached to this segment */
	REASON_NOT_ACCEPTED, /* its `accept` filter does not match */
	REASON_DRAINING,     /* the flow is new, and the hop takes no new ones */
	REASON_OVERSIZE,     /* its tap cannot take a frame of this length */
	REASON_HELD,	     /* back again, but not for long enough (standby, hold_down) */
	REASON_SUPERVISOR,   /* the supervisor's own lease is over */
	REASON_OVERLOADED,   /* the frame exceeds what the hop carries */
	REASONS,
};

enum buffers {
	BUFFERS_ONE,
	BUFFERS_SEVERAL, /* only some devices can send such a frame by XDP */
	BUFFERS_ANY,	 /* tc: the kernel takes care */
};

enum verdict {
	VERDICT_NONE,
	VERDICT_PORT,
	VERDICT_HOP,
	VERDICT_DROP,
	VERDICT_STACK
};

struct device {
	__u8 role;
	__u8 segment;
	__u8 side;
	__u8 hop;
	__u16 slot;
	__u16 flags;
	__u32 peer_max; /* longest frame the port opposite can send; in several buffers: */
	__u32 peer_max_sg;
	__u32 key; /* hop: of its heartbeats, as it lies in the frame; a secret of this bypassd. Never 0 for a hop */
};

struct target {
	__u32 ifindex; /* 0: nothing attached */
	__u32 flags;
	__u32 max; /* longest frame by XDP */
	__u32 pad;
};

struct rule {
	__u8 length;
	__u8 flags;
	__u16 counter; /* index in `rule_counters`, the rule's own over all policies */
	struct {
		__u8 kind;
		__u8 id;
	} path[MAX_PATH];
	__u32 pad;
};

struct group {
	__u64 members[2]; /* bit set of hop ids */
	__u64 hold_down;  /* ns */
	__u32 flags;
	__u32 pad;
};

struct hop {
	__u8 accept_bit;
	__u8 flags;
	__u16 pad;
	__u32 pad2;
};

struct segment {
	__u32 constant_rule; /* the first rule matches every frame; NO_MATCH: ask the policy program */
	__u32 pad;
};

struct continuation {
	__u16 rule;    /* first rule that holds the hop */
	__u8 position; /* of the hop in that rule's path */
	__u8 kind;
	__u32 pad;
};

struct lease {
	__u64 until;	  /* ns, CLOCK_MONOTONIC: available before this time */
	__u64 recovered;  /* when it last came back from being unavailable; 0: it never was */
	__u64 draining;	  /* 1: new flows go elsewhere */
	__u64 skipped;	  /* when the first frame was led around it since it lost its lease; 0: none was */
	__u64 ended;	  /* when its process ended (exits.h): no lease until it has another; 0: it runs, or has none */
	__u64 overloaded; /* the directions that a gate limits: bit segment * 2 + direction */
};
#define LEASE_OVER 1 /* `until` of a hop that was available before */

/*
 * How many frames a hop is handed in one direction, while it is overloaded: one each `cost` on the average. `used` is the
 * time up to which the hop's capacity is given away; a frame is one too many when that lies GATE_BURST_NS ahead.
 */
struct gate {
	__u64 cost; /* ns; 0: no limit */
	__u64 used; /* ns, as bpf_ktime_get_coarse_ns */
	__u64 over; /* frames beyond the limit */
};

/* One word, so that one store switches the whole policy: generation, and which segments have rules. */
struct control {
	__u64 policy; /* bits 0-31 generation, bits 32-47 one bit a segment */
};
#define POLICY_SEGMENT(word, segment) (((word) >> (32 + (segment))) & 1)

/* Which program this is, for the supervisor that finds it pinned. */
struct meta {
	__u64 layout;
	__u8 digest[32]; /* SHA-256 of the object file */
};

struct tally {
	__u64 frames;
	__u64 bytes;
};

struct device_counter {
	struct tally outcome[OUTCOME_PLACES];
};

struct rule_counter {
	struct tally matched; /* frames from ports */
	__u64 to_hop;
	__u64 bypassed;
	__u64 blocked;
	__u64 excess; /* exceeded what a hop of the path carries: bypassed it, or dropped */
};

struct hop_counter {
	struct tally to;
	__u64 skipped[8]; /* by reason */
	__u64 bad_tag;	  /* tag names a hop that is unknown, not available, or itself */
	__u64 returned_unmatched;
};

/* Who wants copies at one device, as bit sets of sinks, and of how many bytes. */
struct copy_point {
	__u32 in;
	__u32 out;
	__u32 bytes;
	__u32 pad;
};

/* A capture's wish: a filter in classic BPF (none: every frame), and how much of each frame. */
struct copy_wish {
	__u32 bytes;
	__u32 instructions;
	struct {
		__u16 code;
		__u8 jt;
		__u8 jf;
		__u32 k;
	} filter[COPY_INSTRUCTIONS];
};

struct copy_counter {
	__u64 copied;
	__u64 lost; /* the ring was full */
};

/* What stands before the bytes of a copy. */
struct copied {
	__u64 when;	/* ns, CLOCK_MONOTONIC */
	__u32 length;	/* of the frame */
	__u32 captured; /* bytes that follow */
	__u16 slot;
	__u16 way; /* enum copy_way */
	__u32 pad;
};

struct flow_key {
	__u64 hash;
	__u64 hop;
};

struct flow {
	__u64 seen; /* ns */
	__u64 fin;  /* bit a direction; 3: closed */
};

struct fragment_key {
	__u64 source[2];
	__u64 destination[2];
	__u32 id;
	__u32 protocol;
};

struct fragment {
	__u64 hash;
	__u64 seen;  /* ns */
	__u64 first; /* 1: written by a first fragment, which knows the ports */
};

/*
 * The recorder of a hop: an array, its first entry is the head, behind it a ring of the last frames handed to the hop.
 * In the head `number` counts the frames, `length` is the ring's size - 1 (a power of two less one), `captured` how
 * many bytes of a frame are kept. A frame's `number` is 0 while it is being written.
 */
struct record {
	__u64 number; /* of the frame, from 1 */
	__u64 at;     /* ns, CLOCK_MONOTONIC */
	__u32 length;
	__u16 captured;
	__u16 slot; /* of the tap it went to */
	__u16 tag;  /* a tag that tc keeps beside the frame: TCI, and TPID or 0 */
	__u16 tag_proto;
	__u32 pad;
	__u8 data[RECORD_BYTES];
};

/* A flow, and the rule that its frames match; addresses and ports as they lie in the frame. */
struct cached {
	__u64 source[2];
	__u64 destination[2];
	__u32 ports;
	__u32 tag; /* protocol, kind, segment; 0: no answer */
	__u32 generation;
	__u32 rule;
	__u64 pad[2];
};

struct cache_counter {
	__u64 hits;
	__u64 misses;
};

struct step {
	__u8 position; /* in the path */
	__u8 group;    /* 255: none */
	__u8 hop;
	__u8 reason;
	__u16 bucket;
	__u16 pad;
};

struct trace {
	__u32 rule;
	__u32 verdict;
	__u32 slot; /* where it goes */
	__u32 outcome;
	__u32 steps;
	__u32 pad;
	__u64 hash;
	struct step step[MAX_TRACE];
};

/* What one frame carries from program to program. The generated programs know the first two fields only. */
struct scratch {
	__u32 rule; /* offset 0: index of the matching rule, or NO_MATCH */
	__u32 generation;
	__u64 accept; /* offset 8: bit set of the `accept` filters that match */
	__u64 hash;
	__u64 hash_l3;
	__u64 now;
	__u64 flow_flags; /* TCP flags of the frame */
	__u32 length;
	__u32 buffers; /* enum buffers */
	struct device device;
	__u32 want; /* hop chosen by a tag, 0 none */
	__u32 direction;
	__u32 continuation_rule;
	__u8 continuation_position;
	__u8 continuation_kind;
	__u8 have_hash;
	__u8 available; /* some hop of the path was available */
	__u8 alive;	/* the supervisor's lease holds */
	__u8 position;
	__u8 group;
	__u16 bucket;
	__u8 overloaded; /* the hop last looked at is, and must not have the frame */
	__u8 pad;
	__u32 start;	   /* where in the path the walk begins */
	__u32 cache_place; /* where `remember` notes the rule; CACHE_ENTRIES: nowhere */
	__u32 cache_tag;
	__u32 pad2;
};

#endif
