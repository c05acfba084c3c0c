/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The time at which a frame is decided: CLOCK_MONOTONIC, read once a tick, because reading any clock may cost as much as
 * all the rest of a decision, the coarse one too.
 *
 * Whoever is the first after jiffies has changed reads the clock, and the others on all CPUs take its answer until jiffies
 * changes again. So the time is late by less than jiffies is, which is one tick, and a lease counts no longer than that
 * beyond its end. The coarse clock would be later: it changes with jiffies, but a little after it, and then to a whole
 * number of ticks. Nor does the time stop with the tick of an idle CPU: an interrupt there brings jiffies up to date before
 * its handler runs (tick_irq_enter), as does the way out of idling (tick_nohz_restart_sched_tick). What can be late beyond
 * a tick is jiffies itself, and the coarse clock with it: while no CPU has a tick, for the rest of one run of softirqs,
 * which gives up after ten rounds.
 *
 * CPUs do not wait for each other. Two may read the clock in the same tick, so the time may go back by as much as the two
 * were apart: never subtract a time that another frame has left from this one.
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
