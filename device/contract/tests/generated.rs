//! The committed C header and reference are those that the definitions give.

use std::path::Path;

use hmmgpu_contract::emit;

fn project_file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

#[test]
fn c_header_is_current() {
    emit::check_generated(&project_file("guest-driver/hmmgpu_hw.h"), &emit::c_header());
}

#[test]
fn reference_is_current() {
    emit::check_generated(&project_file("docs/hardware.md"), &emit::markdown());
}
