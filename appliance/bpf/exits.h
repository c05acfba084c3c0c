/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest's lease ends with its process, in the kernel: no user space has to wake up, or to run at all.
 *
 * It takes milliseconds until the parent of a killed process, or a pidfd, is notified, because its memory is freed
 * first. Its threads pass this tracepoint one by one, the first some ten microseconds after the signal, and those
 * that a guest needs to work (QEMU's main thread, and one for each vCPU) are in `threads`.
 */
#ifndef EXITS_H
#define EXITS_H

SEC("raw_tp/sched_process_exit")
int thread_exit(__attribute__((unused)) void *ctx)
{
	__u32 thread = bpf_get_current_pid_tgid(); /* its lower half */
	__u32 *hop = bpf_map_lookup_elem(&threads, &thread);
	struct lease *lease;

	if (!hop)
		return 0;
	lease = bpf_map_lookup_elem(&leases, hop);
	if (lease && !lease->ended) {
		/* In this order: a renewal writes `until` and then reads `ended`. */
		*(volatile __u64 *)&lease->ended = bpf_ktime_get_ns();
		barrier();
		if (lease->until)
			*(volatile __u64 *)&lease->until = LEASE_OVER;
	}
	bpf_map_delete_elem(&threads, &thread); /* the number may be reused by another thread */
	return 0;
}

#endif
