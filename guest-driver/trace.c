// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes the tracepoints of hmmgpu_trace.h.
 */
#define CREATE_TRACE_POINTS
#include "hmmgpu_trace.h"
