/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The programs of the benchmark: a generator run in live-frames mode, the bare redirect that is the limit,
 * and a sink that counts. None of it is part of the appliance.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct setting {
	__u32 ifindex; /* where the generator or the redirect sends to */
	__u32 flows;   /* so many different source addresses and ports */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct setting);
} generator_setting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} limit_tx SEC(".maps");

#define STAMP_EVERY 32 /* frames: the clock costs as much as a redirect */

/* Times are of the kernel's monotonic clock, in ns. What a call of the generator costs before its first frame and behind
 * its last one, some 20 ms, is so left out. */
struct tally {
	__u64 frames;
	__u64 begin;   /* the first frame since user space has put 0 here */
	__u64 stamp;   /* the last frame whose number STAMP_EVERY divides, */
	__u64 stamped; /* and that number */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2); /* 0: frames that the generator sent, 1: frames that reached the sink */
	__type(key, __u32);
	__type(value, struct tally);
} tally SEC(".maps");

static __always_inline void count(__u32 key)
{
	struct tally *value = bpf_map_lookup_elem(&tally, &key);

	if (!value)
		return;
	value->frames++;
	if (!value->begin)
		value->begin = bpf_ktime_get_ns();
	if (!(value->frames % STAMP_EVERY)) {
		value->stamp = bpf_ktime_get_ns();
		value->stamped = value->frames;
	}
}

/* Frames are IPv4 and UDP without a checksum; source address and port follow the flow number. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u32 key = 0;
	struct setting *setting = bpf_map_lookup_elem(&generator_setting, &key);
	__u32 flow, sum;
	__u16 source;

	if (!setting || data + 42 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	if (setting->flows > 1) {
		/* Random, so that neither branch predictor nor cache can learn the order. */
		flow = bpf_get_prandom_u32() % setting->flows;
		source = bpf_htons(flow >> 10);
		/* The header's sum follows (RFC 1624): a bridge with netfilter drops wrong ones. */
		sum = (__u16) ~*(__u16 *)(data + 24) + (__u16) ~*(__u16 *)(data + 28) + source;
		sum = (sum & 0xffff) + (sum >> 16);
		*(__u16 *)(data + 24) = ~((sum & 0xffff) + (sum >> 16));
		*(__u16 *)(data + 28) = source;
		*(__u16 *)(data + 34) = bpf_htons(1024 + (flow & 1023));
	}
	count(0);
	return bpf_redirect(setting->ifindex, 0);
}

/* The limit: what any redirect between two devices has to do, and nothing else. */
SEC("xdp")
int limit(struct xdp_md *ctx)
{
	return bpf_redirect_map(&limit_tx, 0, XDP_DROP);
}

/* The same for a frame that comes back from the echo behind the taps. */
SEC("xdp")
int limit_back(struct xdp_md *ctx)
{
	return bpf_redirect_map(&limit_tx, 1, XDP_DROP);
}

/* A guest in the kernel: what comes in at one of its devices goes out by the other one. Ours, and that of the limit. */
SEC("xdp")
int guest(struct xdp_md *ctx)
{
	return bpf_redirect_map(&limit_tx, 2, XDP_DROP);
}

SEC("xdp")
int guest0(struct xdp_md *ctx)
{
	return bpf_redirect_map(&limit_tx, 3, XDP_DROP);
}

/* Attached where frames arrive at the far host. */
SEC("xdp")
int sink(struct xdp_md *ctx)
{
	count(1);
	return XDP_DROP;
}

/* A program that does nothing: its cost in BPF_PROG_TEST_RUN is the cost of measuring. */
SEC("xdp")
int nothing(struct xdp_md *ctx)
{
	return XDP_PASS;
}
