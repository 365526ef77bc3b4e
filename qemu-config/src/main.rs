//! The `hmmgpu` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    hmmgpu::cli::main()
}
