//! The programs that run in the guest; see the library.

fn main() -> std::process::ExitCode {
    hmmgpu_guest_workloads::main()
}
