//! The QEMU arguments that attach the device.

use std::path::Path;

/// Guest memory in the arguments. The backend needs a size, and QEMU wants it equal to `-m`.
const GUEST_MEMORY: &str = "2G";

/// The QEMU (10.1 or newer) arguments that attach a server's device, one element each, not
/// quoted for a shell: a PCI Express machine whose memory the device can map, and the device.
/// Another amount of memory goes into both `-m` and `size=`.
///
/// The socket's path is made absolute, so that QEMU may run in another directory. It has to be
/// UTF-8, as every path that [`Server::bind`](crate::Server::bind) accepts.
pub fn qemu_arguments(socket: &Path) -> Vec<String> {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_path_buf());
    // In JSON form commas need no escape; JSON's own escapes are serde_json's work.
    let device = serde_json::json!({
        "driver": "vfio-user-pci",
        "socket": { "type": "unix", "path": socket.to_string_lossy() },
    });
    [
        "-machine",
        "q35,memory-backend=hmmgpu-ram",
        "-m",
        GUEST_MEMORY,
        "-object",
        &format!("memory-backend-memfd,id=hmmgpu-ram,size={GUEST_MEMORY},share=on"),
        "-device",
        &device.to_string(),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_and_named_by_the_machine() {
        let arguments = qemu_arguments(Path::new("/run/gpu.sock"));
        let value = |flag: &str| {
            let at = arguments
                .iter()
                .position(|argument| argument == flag)
                .expect(flag);
            arguments[at + 1].as_str()
        };
        assert_eq!(
            value("-object"),
            "memory-backend-memfd,id=hmmgpu-ram,size=2G,share=on"
        );
        assert_eq!(value("-machine"), "q35,memory-backend=hmmgpu-ram");
        assert_eq!(value("-m"), "2G");
    }

    #[test]
    fn any_path_reaches_qemu_unchanged() {
        for path in ["/a,b.sock", "/a\"b\\c", "/a b\n\u{1}", "/\u{fc}/x", "/{}"] {
            let arguments = qemu_arguments(Path::new(path));
            let device = arguments.last().expect("device");
            assert!(
                device.starts_with('{'),
                "QEMU takes it for JSON only so: {device}"
            );
            let device: serde_json::Value = serde_json::from_str(device).expect("JSON");
            assert_eq!(device["driver"], "vfio-user-pci");
            assert_eq!(device["socket"]["type"], "unix");
            assert_eq!(device["socket"]["path"], path);
        }
    }

    #[test]
    fn a_relative_path_becomes_absolute() {
        let arguments = qemu_arguments(Path::new("gpu.sock"));
        let device: serde_json::Value =
            serde_json::from_str(arguments.last().expect("device")).expect("JSON");
        let path = device["socket"]["path"].as_str().expect("path");
        assert!(
            path.starts_with('/') && path.ends_with("/gpu.sock"),
            "{path}"
        );
    }
}
