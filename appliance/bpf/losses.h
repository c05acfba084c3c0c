/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What happened to frames after the datapath's decision: those that were not sent are counted here, by cause.
 *
 * A redirect is a request. The device may be down, its ring full, or a tap may have no reader; the kernel then drops
 * the frame, which shows at a tracepoint and often in no counter. These programs are attached there: they cost nothing
 * per frame, one test per batch with XDP, and more only if something was lost.
 *
 * Tracepoints pass pointers to the kernel's own structures. User space determines the offsets of the fields that are
 * read here when the datapath is loaded (appliance/system/kernel_fields.py), so this also works on kernels without BTF.
 */
#ifndef LOSSES_H
#define LOSSES_H

/* Offsets in the running kernel. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kernel_fields);
} kernel_fields SEC(".maps");

/* By slot; the last one is for devices that are no longer ours. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SLOTS + 1);
	__type(key, __u32);
	__type(value, struct loss_counter);
} loss_counters SEC(".maps");

static __always_inline __u32 kernel_word(__u64 base, __u32 offset)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)(base + offset));
	return value;
}

static __always_inline __u64 kernel_pointer(__u64 base, __u32 offset)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)(base + offset));
	return value;
}

/* The slot of a struct net_device; SLOT_UNKNOWN if it is not ours. Interface numbers are per namespace. */
static __always_inline __u32 slot_of(const struct kernel_fields *fields, __u64 net_device)
{
	__u32 ifindex;
	struct device *device;

	if (!net_device)
		return SLOT_UNKNOWN;
	if (fields->namespaces && kernel_word(kernel_pointer(net_device, fields->device_namespace),
					      fields->namespace_number) != fields->namespace)
		return SLOT_UNKNOWN;
	ifindex = kernel_word(net_device, fields->device_ifindex);
	device = bpf_map_lookup_elem(&devices, &ifindex);
	return device && device->role != ROLE_NONE ? device->slot : SLOT_UNKNOWN;
}

/* Atomic, because an interrupt may come in between: tracepoints are hit in any context. */
static __always_inline void lose(__u32 from, __u32 to, __u32 loss, __u64 frames)
{
	struct loss_counter *counter;

	if (from == SLOT_UNKNOWN && to == SLOT_UNKNOWN)
		return;
	counter = bpf_map_lookup_elem(&loss_counters, &from);
	if (counter)
		__sync_fetch_and_add(&counter->came[loss], frames);
	counter = bpf_map_lookup_elem(&loss_counters, &to);
	if (counter)
		__sync_fetch_and_add(&counter->unsent[loss], frames);
}

/* Whether a frame on its way to this slot is a copy for a mirror, and its original another one. */
static __always_inline bool is_copy(__u32 to)
{
	struct control *c = bpf_map_lookup_elem(&control, &zero);

	return c && is_mirror(c->policy, to >> 5, to >> 1 & (MAX_SEGMENTS - 1));
}

/* Lost by the mirror alone. */
static __always_inline void lose_copy(__u32 to)
{
	struct loss_counter *counter = bpf_map_lookup_elem(&loss_counters, &to);

	if (counter)
		__sync_fetch_and_add(&counter->unsent[LOSS_QUEUE], 1);
}

static __always_inline __u32 loss_of(int error)
{
	switch (-error) {
	case 0:	  /* it accepted some of the batch */
	case 11:  /* EAGAIN */
	case 16:  /* EBUSY */
	case 28:  /* ENOSPC */
	case 105: /* ENOBUFS */
		return LOSS_FULL;
	case 6: /* ENXIO */
		return LOSS_NO_READER;
	case 100: /* ENETDOWN */
		return LOSS_DOWN;
	case 90: /* EMSGSIZE */
		return LOSS_OVERSIZE;
	case 95: /* EOPNOTSUPP */
	case 22: /* EINVAL */
		return LOSS_UNFIT;
	}
	return LOSS_OTHER;
}

/* A batch was passed to a driver: (from, to, sent, drops, error). */
SEC("raw_tp/xdp_devmap_xmit")
int batch_sent(struct bpf_raw_tracepoint_args *ctx)
{
	int drops = ctx->args[3];
	struct kernel_fields *fields;

	if (drops <= 0)
		return 0;
	fields = bpf_map_lookup_elem(&kernel_fields, &zero);
	if (fields && fields->device_ifindex)
		lose(slot_of(fields, ctx->args[0]), slot_of(fields, ctx->args[1]), loss_of(ctx->args[4]), drops);
	return 0;
}

/* A frame did not get into a batch: (from, program, target, error, kind of map, map, its index). */
SEC("raw_tp/xdp_redirect_err")
int redirect_failed(struct bpf_raw_tracepoint_args *ctx)
{
	struct kernel_fields *fields = bpf_map_lookup_elem(&kernel_fields, &zero);
	__u32 from, to = ctx->args[6];

	if (!fields || !fields->device_ifindex || (__u32)ctx->args[4] != BPF_MAP_TYPE_DEVMAP)
		return 0;
	from = slot_of(fields, ctx->args[0]);
	if (from != SLOT_UNKNOWN && to < MAX_SLOTS)
		lose(from, to, loss_of(ctx->args[3]), 1);
	return 0;
}

/* With tc: (frame, address in the kernel's code, reason). The frame has its device of arrival and of departure. */
SEC("raw_tp/kfree_skb")
int frame_freed(struct bpf_raw_tracepoint_args *ctx)
{
	struct kernel_fields *fields = bpf_map_lookup_elem(&kernel_fields, &zero);
	__u64 device;
	__u32 ingress, from, to;
	struct device *known;

	if (!fields || !fields->device_ifindex)
		return 0;
	ingress = kernel_word(ctx->args[0], fields->frame_ingress);
	if (!ingress)
		return 0; /* created here, not received */
	known = bpf_map_lookup_elem(&devices, &ingress);
	if (!known || known->role == ROLE_NONE)
		return 0;
	from = known->slot;
	device = kernel_pointer(ctx->args[0], fields->frame_device);
	to = slot_of(fields, device);
	if (to == SLOT_UNKNOWN)
		return 0;
	if (to != from && is_copy(to))
		lose_copy(to);
	else if (to != from)
		lose(from, to, LOSS_QUEUE, 1);
	else if ((__u32)ctx->args[2] == FREED_WITHOUT_REASON)
		lose(from, SLOT_UNKNOWN, LOSS_GONE, 1); /* we give a reason; the redirect, to no device, gives none */
	return 0;
}

#endif
