# SPDX-License-Identifier: GPL-2.0-only
"""pcap filters as kernel programs: libpcap's classic BPF, translated and merged. `compiler` is the entry point."""
