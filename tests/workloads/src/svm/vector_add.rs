//! The simplest use: two vectors from the allocator, one call.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use super::{Common, mib, ms, needs_memory};
use crate::gpu::Gpu;
use crate::{reference, size};

/// Compute y = a * x + y with the GPU, on vectors from the ordinary allocator, and compare every
/// element with what the CPU computes.
#[derive(Debug, Parser)]
#[command(
    name = "svm-vector-add",
    after_help = "Example: hmmgpu run -- svm-vector-add --size 64M"
)]
struct Args {
    /// Bytes of each vector.
    #[arg(long, default_value = "32M", value_parser = size::parse)]
    size: usize,
    /// The factor.
    #[arg(long, default_value_t = 2.5)]
    factor: f32,
    #[command(flatten)]
    common: Common,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let count = args.size / size_of::<f32>();
    ensure!(count > 0, "--size: at least 4 bytes are needed");
    needs_memory(2 * args.size)?;
    let gpu = Gpu::open(&args.common.node)?;

    let x: Vec<f32> = (0..count).map(element).collect();
    let mut y: Vec<f32> = (0..count).rev().map(element).collect();

    // The GPU gets the pointers, faults on the memory behind them, and computes.
    let report = gpu.saxpy(args.factor, &x, &mut y)?;

    // The CPU reads the result where it is.
    for (index, &found) in y.iter().enumerate() {
        let expected = reference::saxpy(args.factor, element(index), element(count - 1 - index));
        ensure!(
            found.to_bits() == expected.to_bits(),
            "y[{index}] is {found} instead of {expected}"
        );
    }
    println!(
        "y = {} * x + y: {count} elements, 2 x {} MiB, all right; {} on the GPU, {} faults",
        args.factor,
        mib(args.size),
        ms(report.time),
        report.faults
    );
    Ok(ExitCode::SUCCESS)
}

/// Numbers whose products and sums have to be rounded.
fn element(index: usize) -> f32 {
    #[allow(clippy::cast_precision_loss)] // below 2^24
    let number = (index % 9_999_991) as f32;
    number / 7.0
}
