/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The time at which a frame is decided: CLOCK_MONOTONIC, read once a tick, because reading any clock may cost as much as
 * all the rest of a decision, the coarse one too.
 *
 * Whoever comes first after jiffies has changed reads the clock, and all CPUs use that time until jiffies changes again.
 * So it is less than one tick old, and a lease counts no longer than that beyond its end: 4 ms with HZ=250, 1 ms with
 * HZ=1000. The coarse clock may be older: it is changed after jiffies, and only by whole ticks.
 *
 * The time does not stop with the tick of an idle CPU: an interrupt there brings jiffies up to date before its handler
 * runs (tick_irq_enter), and so does the way out of idling (tick_nohz_restart_sched_tick). It is late where jiffies is,
 * and the coarse clock with it: while the CPU whose tick counts has interrupts off, and if no CPU has a tick, for the rest
 * of a run of softirqs, which gives up after ten rounds.
 *
 * CPUs do not wait for each other. Two may read the clock in the same tick, so the time may go back by as much as the two
 * were apart: never subtract what another frame has written from it, which may be later; add to that instead.
 */
#ifndef CLOCK_H
#define CLOCK_H

/* `check` belongs to `now` and to this tick only, so that no half of what two CPUs write at the same time counts. */
static __always_inline __u64 now_ns(void)
{
	__u32 key = 0;
	struct tick *last = bpf_map_lookup_elem(&ticks, &key);
	__u64 tick = bpf_jiffies64(), now;

	if (last) {
		now = *(volatile __u64 *)&last->now;
		if ((now ^ *(volatile __u64 *)&last->check) == tick)
			return now;
	}
	now = bpf_ktime_get_ns();
	if (last) {
		*(volatile __u64 *)&last->now = now;
		*(volatile __u64 *)&last->check = now ^ tick;
	}
	return now;
}

#endif
