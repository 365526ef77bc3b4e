//! Puts the revision of the source into the program: a result must name the code that made it.

use std::path::Path;
use std::process::Command;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git")
            .arg("-C")
            .arg(&folder)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let revision = match git(&["describe", "--always", "--tags", "--dirty"]) {
        // A description without a tag is a bare hash: the version in front says what it is of.
        Some(found) if found.starts_with('v') => found,
        Some(found) => format!("{version}-g{found}"),
        None => version,
    };
    println!("cargo::rustc-env=HMMGPU_REVISION={revision}");
    println!("cargo::rerun-if-changed=build.rs");
    // What moves when a commit is made or another one is checked out, and the sources that make
    // the tree dirty.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        let log = folder.join(log);
        if log.exists() {
            println!("cargo::rerun-if-changed={}", log.display());
        }
    }
    for part in [
        "device",
        "guest-driver",
        "images",
        "qemu-config",
        "Cargo.lock",
    ] {
        let part = folder.join(part);
        if part.exists() {
            println!("cargo::rerun-if-changed={}", part.display());
        }
    }
}
