// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compiles where cpuid() has a header of its own.
 */
#include <asm/cpuid/api.h>

void hmmgpu_probe(unsigned int *regs);

void hmmgpu_probe(unsigned int *regs)
{
	cpuid(0, &regs[0], &regs[1], &regs[2], &regs[3]);
}
