/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the datapath and user space share: limits, numbers and the layout of every map value.
 *
 * The Python side repeats these in appliance/steering/kernel/layout.py; tests/unit/steering/test_layout.py compares both.
 *
 * The path of a frame
 * -------------------
 * A frame arrives at a port, or from the tap of a hop, as `devices[ifindex]` says. A port of a segment without rules
 * sends it straight to the other port. If the segment's first rule matches every frame, there are no filters, and
 * `entry` continues with `dispatch`. Otherwise `decide` runs the segment's filters, which user space has put into it; a
 * frame from a port whose rule has no path, or that matches none, leaves there, unless its port needs more than counters,
 * or the rule of its datagram may count (a possible fragment). Filters that do not fit into `decide` are separate
 * programs, which leave the index of the first matching rule in `scratch`. `dispatch` determines the frame's position in
 * the rule's path, and its flow; `walk` follows the path: forward from LAN to WAN, backward from WAN to LAN. The first
 * hop that is attached, has a lease and room for the frame, accepts it, and is not draining, or knows its flow, gets it;
 * if there is none, it goes to the other port (or is blocked, if the rule says so). If the rule requires all of its hops,
 * those further on are checked too.
 * If a hop of the path may shunt flows, `shunts` is between the two (shunts.h).
 * In `dispatch`, link-local control frames leave before any hop, and possible fragments go through `fragment`, which
 * knows the rule of their datagram, if a rule of the segment tests what only first fragments contain.
 * A port attached by XDP has a short cut through all of this, in place of the entry (decide.h): a program with the
 * filters in it, or the fact that there are none, which sends straight frames. One that is made for a single port
 * (`own_xdp`) also sends those of calm flows to their first hop (first_hop.h), and leaves the others to `dispatch`, with
 * the rule in `scratch`. All other frames go to the entry. From there a hop's frames with a static continuation (below)
 * go to the next hop by `onward`, in place of `dispatch` and `walk`, if nothing about them is special.
 *
 * How a frame keeps its path across a hop
 * ---------------------------------------
 * The frame carries no mark. A frame that comes back from a hop's WAN-side tap travels from LAN to WAN, one from the
 * LAN-side tap from WAN to LAN. Where it continues is the hop's *continuation* in that segment and direction, which
 * user space computes with the policy:
 *   CONT_END, CONT_STATIC  all rules that contain the hop continue alike from there: the frame need not be classified
 *                          again, so the hop may change anything (NAT, rewritten ports, new frames).
 *   CONT_CLASSIFY          the rules differ: the frame is classified as it is now. If the rule found contains the hop,
 *                          it continues there. If not (the hop changed what the filters test), it continues by the
 *                          first rule that contains the hop, and is counted as `returned_unmatched`.
 *   CONT_NONE              no rule contains the hop (any more): out, counted as `returned_unmatched`.
 *   CONT_MIRROR            the hop gets copies only (mirror.h): dropped, so that no frame leaves twice.
 * Not possible: distinguishing two rules for a frame that a hop has changed beyond recognition; keeping both directions
 * of a flow on one member of a group after a hop that rewrites addresses; detecting that guests with tags send a frame
 * in a loop.
 */
#ifndef STEER_H
#define STEER_H

#define LAYOUT_VERSION 7

#define MAX_SEGMENTS 16
#define MAX_HOPS 128 /* ids 1..127; 0 means "no hop": the ports, and the supervisor's own lease */
#define MAX_GROUPS 64
#define MAX_RULES 4096
#define MAX_PATH 8	  /* hops and groups in one path */
#define MAX_MEMBERS 8	  /* hops in one group */
#define MAX_MIRRORS 4	  /* hops that get copies of a rule's frames */
#define BUCKETS 1024	  /* of one group, a power of two */
#define MAX_DEVICES 65536 /* highest ifindex + 1 */
#define MAX_SLOTS 4096	  /* MAX_HOPS * 2 * MAX_SEGMENTS */
#define SLOT_UNKNOWN 4096 /* counters of frames from devices that are not ours */
#define MAX_TRACE 64	  /* steps kept for one explained frame */
#define MAX_FLOWS 262144
#define MAX_NEW_FLOWS 65536 /* not seen in both directions yet */
#define CALM_FLOWS 65536    /* a power of two */
#define MAX_FRAGMENTS 16384
#define MAX_COPIES 8	       /* captures 1..7; 0 is none */
#define COPY_BYTES 16384       /* of one frame; a power of two */
#define COPY_INSTRUCTIONS 4096 /* of a capture's filter, a power of two */
#define RECORD_BYTES 2016      /* at most, of a recorded frame */
#define MAX_THREADS 4096       /* of all guests, with leases tied to them */
#define MAX_SHUNTS 65536       /* of one hop, at most */
#define MAX_IP_DEVICES 512     /* two a side of each hop */
#define MAX_HEADERS 32768
#define MAX_ENCAPS 256 /* MAX_HOPS * 2: a remote serves one segment */

#define ENCAP_CONFIRM_NS 1000000000ULL /* one frame in this time goes to a neighbour by the kernel (encap.h) */

#define NO_MATCH 0xffffffff
#define NO_ACCEPT_BIT 255 /* the hop accepts every frame */

#define HEARTBEAT_NEIGHBOUR                                                                                            \
	0x02545700	    /* first bytes of the address to which a routing guest sends heartbeats; + its id */
#define HEARTBEAT_KEY_AT 16 /* after an IP header: UDP, and the fields before the nonce */
#define ETH_TAG 0x88a8	    /* 802.1ad */
#define TAG_OUT 0	    /* VID: leave, in the direction the frame travels */
#define TAG_NEXT 4000	    /* VID: along the path; the tag of every frame to a hop has it */
#define TAG_OUT_LAN 4001    /* VID: leave by the LAN port */
#define TAG_OUT_WAN 4002    /* VID: leave by the WAN port */
#define TAG_SHUNT 4003	    /* VID: along the path, and the flow needs this hop no more (shunts.h) */
#define TAG_SHUNT_ONE 4004  /* VID: the same for this direction of the flow only */

#define FLOW_REFRESH_NS 1000000000ULL /* a flow's time is written at most this often */
#define FLOW_CLOSED_NS 2000000000ULL  /* after FIN from both sides the flow stays this long */
#define FLOW_IDLE_NS 300000000000ULL  /* after this time a failed member's flow is none of its flows any more */
#define COARSE_NS 20000000ULL	      /* the clock of the datapath is behind that of user space by less */
#define RESET_NS 100000ULL	      /* of TCP resets, one in this time on average, in each segment */
#define RESET_BURST_NS 100000000ULL   /* and as many at once as in this time */
#define GATE_BURST_NS 10000000ULL     /* frames in a burst, as the time that the hop needs for them */
#define SHUNT_BURST_NS 1000000000ULL  /* shunts in a burst, as the time in which the hop may ask for them */
#define FRAGMENT_NS 2000000000ULL     /* fragments of one datagram arrive within this time */
#define FRAGMENT_PAIR 0x10000	      /* bit of a key's protocol: the last fragmented datagram between two ends */
#define FRAGMENT_PAIR_NS 60000000000ULL
#define FRAGMENT_SEGMENT_SHIFT 24 /* of a key's protocol: in each segment a datagram has its own rule */

/* A device's slot: its position in the appliance. Slot of a port: hop 0. */
#define SLOT(hop, segment, side) ((hop)*32 + (segment)*2 + (side))

/* Slots of the program arrays `xdp_programs` and `tc_programs`. A generated program may continue in its own parts. */
#define ACCEPT_PARTS 4
#define POLICY_PARTS 24
#define PROGRAM_DISPATCH 0 /* the rule is known: what follows */
#define PROGRAM_WALK 1	   /* the flow and the accepts are known: which hop */
#define PROGRAM_ACCEPT(generation) (2 + ((generation)&1))
#define PROGRAM_ENTRY 6	   /* the entry, for the programs attached in its place */
#define PROGRAM_COPYING 5  /* the entry program once more, for devices with DEVICE_COPIES (copies.h) */
#define PROGRAM_FOUND 48   /* a port's own program has found the rule (`found`); XDP only */
#define PROGRAM_SHUNTS 49  /* from the walk: a hop of the path may have shunted the flow (shunts.h) */
#define PROGRAM_SHUNT 50   /* a hop shunts the flow of the frame */
#define PROGRAM_ONWARD 51  /* from a hop to the next one, if that is simple (first_hop.h); XDP only */
#define PROGRAM_RESET 56   /* the frame becomes a TCP reset (reset.h) */
#define PROGRAM_FRAGMENT 7 /* possibly a fragment, whose datagram's rule counts (path.h) */
#define PROGRAM_REMEMBER 4 /* the filters behind the flow cache have found the rule (cache.h) */
#define PROGRAM_POLICY(generation, segment) (8 + ((generation)&1) * MAX_SEGMENTS + (segment))
#define PROGRAM_ACCEPT_PART(generation) (40 + ((generation)&1) * ACCEPT_PARTS)
#define PROGRAM_POLICY_PART(generation, segment) (64 + (((generation)&1) * MAX_SEGMENTS + (segment)) * POLICY_PARTS)
/* Filters behind the cache; or those for frames that the filters in `decide` are not valid for (NOT_HERE). */
#define PROGRAM_FILTERS(generation, segment) (832 + ((generation)&1) * MAX_SEGMENTS + (segment))
/* `decide` with the segment's filters, as at PROGRAM_POLICY too; empty if they are separate programs, or there are none. */
#define PROGRAM_DECIDE(generation, segment) (864 + ((generation)&1) * MAX_SEGMENTS + (segment))
#define PROGRAM_SLOTS 896
/* From filters: not valid for this frame. `decide` uses those at PROGRAM_FILTERS, a port's program goes to the entry. */
#define NOT_HERE 0xfffffffe

#define CACHE_ENTRIES 4096 /* of each CPU, a power of two; 256 KiB: more would not stay in the CPU's cache */
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
	DEVICE_DRY = 4,	      /* change no counter, flow or fragment */
	DEVICE_COPY_IN = 8,   /* a capture wants copies of frames from this device */
	DEVICE_COPY_OUT = 16, /* a capture wants copies of frames to some device of the segment */
};

#define DEVICE_COPIES (DEVICE_COPY_IN | DEVICE_COPY_OUT)

/* A frame from a device (from a port; back from a hop), or to it. */
enum copy_way {
	COPY_IN,
	COPY_OUT
};

enum target_flag {
	TARGET_SG = 1
}; /* accepts frames in several buffers by XDP */

enum rule_flag {
	RULE_BLOCK = 1,		   /* on_unavailable = "block" */
	RULE_ACCEPT = 2,	   /* a hop of the path has an `accept` filter */
	RULE_HASH = 4,		   /* a group, or a hop whose flows are tracked, is in the path */
	RULE_ALL = 8,		   /* require = "all": no hop may be skipped except by its `accept` filter */
	RULE_EXCESS_BLOCK = 16,	   /* on_overload: the excess of a hop's limit is dropped and does not bypass the hop */
	RULE_OVERLOAD_BYPASS = 32, /* on_overload = "bypass-all": no frames for an overloaded hop */
	RULE_RESET = 64,	   /* a group of the path resets flows of a failed member */
};

/* In `shunts` of struct rule. */
enum rule_shunts {
	SHUNTS_POSSIBLE = 1, /* a hop of the path may shunt flows */
	SHUNTS_KEPT = 2,     /* keep_shunts: a shunt counts while its hop is not available, too */
	SHUNTS_UNKNOWN = 4,  /* of a frame: not looked at yet */
};

enum segment_flag {
	SEGMENT_LINK_LOCAL = 1, /* link-local control frames enter no hop */
	SEGMENT_FRAGMENTS = 2,	/* a rule tests something that only the first fragment of a datagram contains */
	SEGMENT_DRY_RUN = 4,	/* rules are followed and counted, and every frame goes straight */
};

enum item_kind {
	ITEM_NONE,
	ITEM_HOP,
	ITEM_GROUP
};
enum group_flag {
	GROUP_STANDBY = 1,
	GROUP_LONG = 2,	 /* a port's own program leaves the group's frames to the others */
	GROUP_KEEP = 4,	 /* flows of a failed member go around the group */
	GROUP_RESET = 8, /* TCP flows of a failed member are reset */
};
/* What tells flows apart, for the choice of a member. */
enum group_hash {
	HASH_FIVE,   /* addresses, ports, protocol */
	HASH_THREE,  /* addresses, protocol */
	HASH_TWO,    /* addresses */
	HASH_SOURCE, /* the address at the LAN: the source of frames to the WAN */
	HASH_DESTINATION,
};
enum hop_flag {
	HOP_TRACKED = 1,
	HOP_RECORDED = 2,
	HOP_TAGS = 4,	 /* frames to it carry our tag; the value is that tag's length */
	HOP_SHUNTS = 64, /* may shunt flows */
};
enum continuation_kind {
	CONT_NONE,
	CONT_END,
	CONT_STATIC,
	CONT_CLASSIFY,
	CONT_MIRROR, /* the hop is a mirror in this segment: what comes out of it is dropped */
};

/* What happened to a frame; each is counted once, under the device it came from: in = the sum of these. */
enum outcome {
	OUTCOME_STRAIGHT,   /* port to port: no rule, or the rule says so */
	OUTCOME_TO_HOP,	    /* to a guest or remote */
	OUTCOME_BYPASSED,   /* to the other port: no hop of the path took it */
	OUTCOME_OUT,	    /* from a hop to a port: end of its path */
	OUTCOME_HEARTBEAT,  /* from a hop to the supervisor */
	OUTCOME_BLOCKED,    /* dropped: no hop is available, or one that is required is not, and the rule says block */
	OUTCOME_UNPARSED,   /* shorter than an Ethernet header: passed on */
	OUTCOME_NO_DEVICE,  /* dropped: no device is attached where it should go */
	OUTCOME_OVERSIZE,   /* dropped: longer than the other port can send */
	OUTCOME_NO_PROGRAM, /* a policy program was missing: passed to the other port */
	OUTCOME_UNKNOWN,    /* from a device that is not ours: left to the kernel */
	OUTCOME_LINK_LOCAL, /* port to port, despite a rule that would send this control frame to a hop */
	OUTCOME_EXCESS,	    /* dropped: exceeds the limit of an overloaded hop, and the rule says block */
	OUTCOME_RESET,	 /* became a TCP reset, or was dropped, because the group's member that knows its flow failed */
	OUTCOME_SHUNTED, /* to the other port: no hop of the path took it, and one because it has shunted the flow */
	OUTCOME_DRY_RUN, /* port to port: what the rule would do with it is only counted */
	OUTCOME_MIRROR,	 /* dropped: from a hop that is a mirror, which only gets copies */
	OUTCOMES,
};
#define OUTCOME_PLACES 20 /* entries in the map; OUTCOMES must fit */

/* Why a device did not send a frame that was on its way to it (losses.h). */
enum loss {
	LOSS_FULL,	/* its queue was full */
	LOSS_NO_READER, /* it has no reader: a tap that no process has open, a veth without a receiver */
	LOSS_DOWN,	/* it was down */
	LOSS_OVERSIZE,	/* the frame was longer than it can send */
	LOSS_UNFIT,	/* XDP cannot send to it, or no frames in several buffers */
	LOSS_QUEUE,	/* with tc: its queue or its driver dropped the frame */
	LOSS_GONE,	/* with tc: the device no longer existed */
	LOSS_OTHER,
	LOSSES,
};
#define LOSS_PLACES 10	       /* entries in the map; LOSSES must fit */
#define FREED_WITHOUT_REASON 2 /* SKB_DROP_REASON_NOT_SPECIFIED */

/* Why a hop was skipped, or chosen (the first). */
enum reason {
	REASON_TAKEN,
	REASON_UNAVAILABLE,  /* no lease, or not attached to this segment */
	REASON_NOT_ACCEPTED, /* its `accept` filter does not match */
	REASON_DRAINING,     /* the flow is new, and the hop gets no new ones */
	REASON_OVERSIZE,     /* the frame is too long for its tap */
	REASON_HELD,	     /* available again, but not for long enough (standby, hold_down) */
	REASON_SUPERVISOR,   /* the supervisor's own lease has expired */
	REASON_OVERLOADED,   /* the frame exceeds the hop's limit */
	REASON_TOO_FEW,	     /* fewer members of the group are available than its minimum */
	REASON_KEPT,	     /* not available, and its flows go around the group meanwhile */
	REASON_RESET,	     /* not available, and its flows are reset */
	REASON_SHUNTED,	     /* it has said that it does not need the flow */
	REASON_MIRRORED,     /* a mirror: it gets a copy */
	REASONS,
};

#define REASON_PLACES 16 /* entries in the counters, a power of two; REASONS must fit */

/* What a frame of a flow that is reset becomes. */
enum reset {
	RESET_NO,   /* it is not reset */
	RESET_NONE, /* nothing: it is dropped */
	RESET_ON,   /* a reset to the end that it is for */
	RESET_BACK, /* a reset to the end that it comes from */
};

/* What encapsulation in XDP puts around a frame. */
enum encap_kind {
	ENCAP_NONE, /* nothing: all frames go by the kernel */
	ENCAP_GRE,
	ENCAP_VXLAN,
	ENCAP_GENEVE,
};

/* What became of a frame there: sent, or why it went by the kernel's tunnel. */
enum encapsulated {
	ENCAP_SENT,
	ENCAP_OFF,	 /* it is not possible now; user space knows why */
	ENCAP_LONG,	 /* it would not fit, or came in several buffers */
	ENCAP_INNER,	 /* two tags, or it ends within a header */
	ENCAP_NEIGHBOUR, /* the neighbour is not resolved */
	ENCAP_ROUTE,	 /* no route, or by another port */
	ENCAP_ROOM,	 /* the driver left no room before it */
	ENCAP_CONFIRM,	 /* so that the kernel keeps checking the neighbour */
	ENCAP_LOST,	 /* dropped: the port that it should leave by had gone */
	ENCAPSULATED,
};
#define ENCAP_PLACES 16 /* entries in the counters, a power of two; ENCAPSULATED must fit */

enum buffers {
	BUFFERS_ONE,
	BUFFERS_SEVERAL, /* only some devices can send such a frame by XDP */
	BUFFERS_ANY,	 /* tc: several frames of one flow in one, which the kernel splits if necessary */
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
	__u32 key; /* hop: of its heartbeats, in the frame's byte order; a secret of this bypassd. Never 0 for a hop */
};

struct target {
	__u32 ifindex; /* 0: nothing attached */
	__u32 flags;
	__u32 max; /* longest frame that the device can send; with tc, except for several frames in one */
	__u32 pad;
};

struct rule {
	__u8 length;
	__u8 flags;
	__u16 counter; /* index in `rule_counters`, the same in all policies */
	struct {
		__u8 kind;
		__u8 id;
	} path[MAX_PATH];
	__u32 shunts; /* enum rule_shunts */
	/*
	 * Hops that get copies, ended by 0: id in the lower byte, and in the upper one the position in the path beside which
	 * the mirror is, whose frames it gets. A path without hops has one item, ITEM_NONE, if it has mirrors.
	 */
	__u16 mirrors[MAX_MIRRORS];
};

struct group {
	__u64 members[2]; /* bit set of hop ids */
	__u64 hold_down;  /* ns */
	__u32 flags;
	__u8 hash;    /* enum group_hash */
	__u8 minimum; /* with fewer available members the group counts as not available */
	__u16 pad;
};

struct hop {
	__u8 accept_bit;
	__u8 flags;
	__u16 pad;
	__u32 pad2;
};

struct segment {
	__u32 constant_rule; /* index of the first rule, if it matches every frame; NO_MATCH: run the policy program */
	__u32 flags;
};

struct continuation {
	__u16 rule;    /* first rule that contains the hop */
	__u8 position; /* of the hop in that rule's path */
	__u8 kind;
	__u32 pad;
};

struct lease {
	__u64 until;	 /* ns, CLOCK_MONOTONIC: available before this time */
	__u64 recovered; /* when it last became available again; 0: it has had no gap since its first lease */
	__u64 draining;	 /* 1: it gets no new flows */
	__u64 skipped;	 /* when the first frame bypassed it since it lost its lease; 0: none yet */
	/*
	 * When the first of the threads that the lease is tied to ended (exits.h): nothing renews the lease until user
	 * space has handled that, and writes 0. 0 also where no thread is tied to it, or the kernel does not report ends.
	 */
	__u64 ended;
	__u64 overloaded; /* the directions that a gate limits: bit segment * 2 + direction */
};
#define LEASE_OVER 1 /* `until` of a hop that was available before */

/*
 * The limit of frames to an overloaded hop in one direction: one per `cost` on average. `used` is the time up to which
 * the hop's capacity is used; a frame exceeds the limit if that is GATE_BURST_NS ahead.
 */
struct gate {
	__u64 cost; /* ns; 0: no limit */
	__u64 used; /* ns, as in clock.h */
	__u64 over; /* frames beyond the limit */
};

/* One word, so that a single store switches the whole policy: generation, and which segments have rules. */
struct control {
	__u64 policy; /* bits 0-31 generation, bits 32-47 one bit per segment */
};
#define POLICY_SEGMENT(word, segment) (((word) >> (32 + (segment))) & 1)

/*
 * By slot of a port: the longest frame that the port's own program may handle, which is not longer than the other port
 * can send. 0: none, because the port's device is another one, delivers frames in several buffers, or needs more than
 * its counters.
 */
struct own_ways {
	__u64 longest[MAX_SEGMENTS * 2];
};

/* Identity of the program, for a supervisor that finds it pinned. */
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

/* Frames that were lost after the decision, by the device where they arrived, and by the one that did not send them. */
struct loss_counter {
	__u64 came[LOSS_PLACES];
	__u64 unsent[LOSS_PLACES];
};

/* Offsets in the running kernel's structures, in bytes; 0: not known (yet). */
struct kernel_fields {
	__u32 device_ifindex;	/* struct net_device */
	__u32 device_namespace; /* ... its pointer to struct net */
	__u32 namespace_number; /* struct net: the inode number that /proc shows */
	__u32 frame_device;	/* struct sk_buff */
	__u32 frame_ingress;
	__u32 namespaces; /* 1: those two are known, and only devices count that are in: */
	__u32 namespace;
	__u32 pad;
};

struct rule_counter {
	struct tally matched; /* frames from ports */
	__u64 to_hop;
	__u64 bypassed;
	__u64 blocked;
	__u64 excess;  /* exceeded the limit of a hop of the path: bypassed it, or dropped */
	__u64 shunted; /* to the other port, because their flows are shunted */
};

struct hop_counter {
	struct tally to;
	__u64 skipped[REASON_PLACES]; /* by reason */
	__u64 bad_tag;		      /* tag of a hop that is unknown, not available, or itself */
	__u64 returned_unmatched;
	struct tally copies; /* it got as a mirror; those that its tap did not take included (losses.h) */
	__u64 uncopied;	     /* the kernel had no memory for a copy, or the tap was gone */
};

/* Captures at one device, as bit sets, and how many bytes they want. */
struct copy_point {
	__u32 in;
	__u32 out;
	__u32 bytes;
	__u32 pad;
};

/* A capture's settings: a filter in classic BPF (none: every frame), and how much of each frame. */
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

/* The header of a copy. */
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
	__u64
	    fin; /* FLOW_CLOSED: FIN, FLOW_BOTH: frames, FLOW_RESET: a reset, one bit per direction each; FLOW_FAILED */
};
#define FLOW_CLOSED 3
#define FLOW_FRAME 4 /* shifted by the direction */
#define FLOW_BOTH 12
#define FLOW_RESET 16ULL  /* shifted by the direction in which a reset has been sent on */
#define FLOW_FAILED 64ULL /* a frame of it came while its hop was not available */

/*
 * A flow of whose frames nothing changes what is known about it, by direction until this time (flows.h). An entry is
 * shared by all flows of its place in the table, and holds the last one.
 */
struct calm_flow {
	__u64 hash;
	__u64 hop;
	__u64 until[2]; /* ns */
};

/*
 * A flow that a hop has shunted, as both directions see it: TCP or UDP, not fragmented, directly behind Ethernet or one
 * tag. Addresses and ports as in the frame; an IPv4 address is the last word.
 */
struct shunt_key {
	__u32 lan[4];
	__u32 wan[4];
	__u16 lan_port;
	__u16 wan_port;
	__u16 vlan; /* 0: no tag; SHUNT_TAG, the VID, and SHUNT_AD if the tag is an 802.1ad one */
	__u8 protocol;
	__u8 place; /* segment; SHUNT_IPV6 */
};
#define SHUNT_TAG 0x1000
#define SHUNT_AD 0x2000
#define SHUNT_IPV6 0x80

/* Times in ns, CLOCK_MONOTONIC. It counts only if it is not older than the last return of its hop (see struct lease). */
struct shunt {
	__u64 since;
	__u64 until;
	__u64 seen;	  /* written once a second at most */
	__u64 idle;	  /* without a frame for this long it is over */
	__u32 directions; /* that are shunted, one bit each */
	__u32 fin;	  /* FIN, one bit per direction */
};

/*
 * What a CPU has found out about a flow, be it shunted or not, in a table of its own: the frequent case needs no look into
 * the tables of the hops. Valid until the flow's time is to be written again, and only while `epoch` is that of the
 * datapath, which counts whatever begins a shunt or ends one before its time.
 */
struct shunt_hit {
	struct shunt_key key;
	__u64 until;
	__u64 since;
	__u32 epoch;
	__u16 hop;
	__u16 directions;
};
#define SHUNT_HITS 1024 /* a power of two; 64 KiB of each CPU */

/* What begins shunts, or ends them before their time, counted on both sides: a hit has the sum. */
struct shunt_epoch {
	__u64 datapath;
	__u64 user_space;
};

/* The clock (ns) as it was read last, and XORed with the tick (jiffies) of that time. */
struct tick {
	__u64 now;
	__u64 check;
};

/* By hop: what it may shunt by tags, and what has been refused. Written by user space in place, but for `used`. */
struct shunt_limit {
	__u64 time;
	__u64 idle;
	__u64 cost; /* ns: one shunt per `cost` on average */
	__u64 used;
	__u64 entered;
	__u64 unfit;	    /* asked for by a frame that has no such flow */
	__u64 too_frequent; /* more than one per `cost` */
	__u64 full;	    /* the hop's table is full */
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
	__u32 first; /* 1: written by a first fragment, which knows the ports */
	__u32
	    rule; /* that the first fragment matches, in this generation of the policy; NO_MATCH: none, or not known */
	__u32 generation;
	__u32 protocol; /* of the flow, as `hash`: only the first fragment is sure to show them */
	__u64 ends[2];
};

/*
 * The recorder of a hop: an array whose first entry is the head, followed by a ring of the last frames to the hop. In
 * the head, `number` counts the frames, `length` is the ring's size - 1 (a power of two less one), `captured` the
 * number of bytes kept of a frame. A frame's `number` is 0 while it is being written.
 */
struct record {
	__u64 number; /* of the frame, from 1 */
	__u64 at;     /* ns, CLOCK_MONOTONIC */
	__u32 length;
	__u16 captured;
	__u16 slot; /* of the tap it went to */
	__u16 tag;  /* a tag that tc keeps in the metadata: TCI, and TPID or 0 */
	__u16 tag_proto;
	__u32 pad;
	__u8 data[RECORD_BYTES];
};

/* A flow, and the rule that its frames match; addresses and ports in the frame's byte order. */
struct cached {
	__u64 source[2];
	__u64 destination[2];
	__u32 ports;
	__u32 tag; /* protocol, kind, segment; 0: not valid */
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

/* A frame's state from program to program. The generated programs write only `rule` and `accept`. */
struct scratch {
	__u32 rule; /* offset 0: index of the matching rule, or NO_MATCH */
	__u32 generation;
	__u64 accept; /* offset 8: bit set of the `accept` filters that match */
	__u64 hash;
	__u64 ends[2]; /* the flow's addresses as numbers: source, destination */
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
	__u8 available; /* some hop of the path was available, with room for the frame, which it need not accept */
	__u8 wanted;	/* some hop of the path accepts the frame, available or not */
	__u8 alive;	/* the supervisor's lease is valid */
	__u8 position;
	__u8 group;
	__u8 overloaded; /* the hop last checked is, and must not get the frame */
	__u8 ahead;	 /* a hop is checked only for `require`: the frame does not count there yet */
	__u16 bucket;
	__u32 start;	   /* position in the path where the walk begins */
	__u32 cache_place; /* where `remember` stores the rule; CACHE_ENTRIES: nowhere */
	__u32 cache_tag;
	__u8 fragment;	     /* 0 none, 1 first, 2 later */
	__u8 classified;     /* the filters have found `rule`, for this frame */
	__u8 quoted;	     /* an ICMP error: its flow is that of the packet in it */
	__u8 protocol;	     /* of the flow; 0 of one between stations */
	__u32 fragment_rule; /* the rule of a later fragment's datagram; NO_MATCH: none, or not known */
	__u32 shunts;	     /* enum rule_shunts, if the frame is of a flow that can be shunted; else 0 */
	__u8 tcp_at;	     /* offset of the TCP header of a frame that can become a reset; else 0 */
	__u8 ip6;	     /* ... behind a header of IPv6 */
	__u8 reset;	     /* enum reset */
	__u8 there;	     /* members of a group that are available */
	struct fragment_key datagram;
	struct shunt_key shunt_key;
	__u32 shunt_flags; /* TCP flags of the frame */
	__u8 shunted;	   /* a hop was skipped because it has shunted the flow */
	__u8 shunt_order;  /* directions that the hop shunts, one bit each */
	__u16 pad4;
	__u32 pad5;
};

/*
 * A device of a remote whose tunnels carry IP (headers.h): the other end of its pair, or the tunnel. `to`: ifindex of the
 * one of the two that a packet is sent to; `side`: of both in the segment.
 */
struct ip_device {
	__u32 to;
	__u16 hop;
	__u8 side;
	__u8 pad;
	__u64 dropped; /* no header was known, or it was no IP without tags */
};

/* A remote's device whose TCP connections fit its tunnel. `mtu`: of what it carries; `clamped`: SYNs that were changed. */
struct clamp {
	__u32 mtu;
	__u32 pad;
	__u64 clamped;
};

/*
 * Encapsulation in XDP of one side of a remote. Addresses, key and port in the packet's byte order; an IPv4 address is the
 * first word.
 */
struct encap {
	__u32 source[4];
	__u32 destination[4];
	__u32 key;	/* with its padding: of VXLAN and Geneve the upper three bytes */
	__u32 route;	/* ifindex that routes must name; another one than that of the port, if it is a bridge */
	__u32 place;	/* hop * 2 + side */
	__u32 overhead; /* bytes that are added before the frame, without Ethernet */
	__u16 port;
	__u16 least_port; /* of the UDP source port, in host order, */
	__u16 ports;	  /* and how many there are */
	__u8 kind;	  /* enum encap_kind */
	__u8 six;	  /* IPv6 outside */
	__u64 version;	  /* another one: what is known of the way is void */
	__u64 confirmed;  /* ns, as in clock.h: when a frame last went by the kernel for its neighbour's sake */
};

/* The same of one CPU: the way of this tick, and counters by enum encapsulated. */
struct encap_state {
	__u64 tick;
	__u64 version;
	__u8 stations[12]; /* destination and source */
	__u32 mtu;
	__u64 frames[ENCAP_PLACES];
};

/* A flow that entered a remote at one side, as in struct parsed; without protocol and ports the last new one between two
 * ends. */
struct header_key {
	__u64 source[2];
	__u64 destination[2];
	__u16 ports[2];
	__u16 hop;
	__u8 protocol;
	__u8 side;
};

/* Addresses of Ethernet. */
struct header {
	__u8 destination[6];
	__u8 source[6];
} __attribute__((aligned(4)));

#endif
