/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest's lease ends with its process, in the kernel: no user space has to be woken, or to run at all.
 *
 * A process that is killed takes milliseconds to tell its parent, or a pidfd: its memory is given back first. Its
 * threads come past this tracepoint one by one, the first some ten microseconds after the signal, and those that a
 * guest cannot live without (QEMU's main thread, and one for each virtual processor) are in `threads`.
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
		/* In this order: who renews writes `until` and looks at `ended` after it. */
		*(volatile __u64 *)&lease->ended = bpf_ktime_get_ns();
		barrier();
		if (lease->until)
			*(volatile __u64 *)&lease->until = LEASE_OVER;
	}
	bpf_map_delete_elem(&threads, &thread); /* the number may go to another thread */
	return 0;
}

#endif
