/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the nodes /dev/hmm_dmirrorN share.
 */
#ifndef HMMGPU_DMIRROR_H
#define HMMGPU_DMIRROR_H

#include "context.h"
#include "dmirror_abi.h"

/**
 * enum hmmgpu_populate - what to do about memory that the device cannot access
 * @HMMGPU_POPULATE_NOT: end with ENOENT
 * @HMMGPU_POPULATE_LOCKED: fault it in, mmap_lock held throughout
 * @HMMGPU_POPULATE_UNLOCKED: fault it in, mmap_lock let go where faults want it
 */
enum hmmgpu_populate {
	HMMGPU_POPULATE_NOT,
	HMMGPU_POPULATE_LOCKED,
	HMMGPU_POPULATE_UNLOCKED,
};

static inline u64 hmmgpu_cmd_bytes(const struct hmmgpu_dmirror_cmd *cmd)
{
	return cmd->npages << PAGE_SHIFT;
}

static inline u64 hmmgpu_cmd_end(const struct hmmgpu_dmirror_cmd *cmd)
{
	return cmd->addr + hmmgpu_cmd_bytes(cmd);
}

/*
 * Not all of such a range can be made accessible: it is refused at once rather
 * than when memory has run out.
 */
static inline bool hmmgpu_cmd_exceeds_ram(const struct hmmgpu_dmirror_cmd *cmd)
{
	return cmd->npages > totalram_pages();
}

/* dmirror.c */
int hmmgpu_dmirror_enter(struct hmmgpu_context *ctx);
int hmmgpu_dmirror_leave(struct hmmgpu_context *ctx, int ret);

/* dmirror_transfer.c */
int hmmgpu_dmirror_transfer(struct hmmgpu_context *ctx,
			    struct hmmgpu_dmirror_cmd *cmd, bool write,
			    enum hmmgpu_populate populate);

/* dmirror_snapshot.c */
int hmmgpu_dmirror_snapshot(struct hmmgpu_context *ctx,
			    struct hmmgpu_dmirror_cmd *cmd);

#endif /* HMMGPU_DMIRROR_H */
