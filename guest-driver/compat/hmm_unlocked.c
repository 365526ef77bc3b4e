// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compiles where hmm_range_fault() can let go of mmap_lock.
 */
#include <linux/hmm.h>

int hmmgpu_probe(struct hmm_range *range);

int hmmgpu_probe(struct hmm_range *range)
{
	return hmm_range_fault_unlocked_timeout(range, 0);
}
