// SPDX-License-Identifier: GPL-2.0-only
/*
 * What faults of the GPU do about ranges of addresses.
 */
#include "context.h"

/**
 * hmmgpu_policy_set() - give advice for a range
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 * @policy: POLICY value
 *
 * Return: 0 or -ENOMEM.
 */
int hmmgpu_policy_set(struct hmmgpu_context *ctx, unsigned long start,
		      unsigned long end, unsigned int policy)
{
	void *entry = NULL;

	if (policy != HMMGPU_POLICY_DEFAULT)
		entry = xa_mk_value(policy);
	return mtree_store_range(&ctx->policies, start, end - 1, entry,
				 GFP_KERNEL_ACCOUNT);
}

/**
 * hmmgpu_policy_get() - what was advised for an address
 * @ctx: the context
 * @addr: the address
 * @start: first address of a range around it; moved up to where the same advice
 *         begins
 * @end: end of this range; moved down to where the same advice ends
 *
 * Return: POLICY value.
 */
unsigned int hmmgpu_policy_get(struct hmmgpu_context *ctx, unsigned long addr,
			       unsigned long *start, unsigned long *end)
{
	MA_STATE(mas, &ctx->policies, addr, addr);
	void *entry;

	mas_lock(&mas);
	entry = mas_walk(&mas);
	*start = max(*start, mas.index);
	if (mas.last < *end - 1)
		*end = mas.last + 1;
	mas_unlock(&mas);
	return entry ? xa_to_value(entry) : HMMGPU_POLICY_DEFAULT;
}
