//! What a bzImage says of itself. Layout: Documentation/arch/x86/boot.rst of the kernel.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::ImageError;

/// All of the header is within so many bytes.
const HEADER: u64 = 64 * 1024;
/// Where the header's magic is, and the offset of the version, from [`SETUP`].
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
const VERSION_AT: usize = 0x20e;
const SETUP: usize = 0x200;

/// The release of the kernel in an image: what `uname -r` says when it runs.
pub(super) fn release(path: &Path) -> Result<String, ImageError> {
    let mut header = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEADER).read_to_end(&mut header))
        .map_err(ImageError::io("read", path))?;
    release_in(&header).ok_or_else(|| ImageError::NotKernel {
        path: path.to_owned(),
        why: "it is no bzImage of x86".to_owned(),
    })
}

fn release_in(header: &[u8]) -> Option<String> {
    if !header.get(MAGIC_AT..)?.starts_with(MAGIC) {
        return None;
    }
    let offset = header.get(VERSION_AT..VERSION_AT + 2)?;
    let offset = usize::from(u16::from_le_bytes(offset.try_into().ok()?));
    let text = header.get(SETUP + offset..)?;
    let text = text.split(|byte| *byte == 0).next()?;
    // "7.3.4 (who@where) #1 SMP ..."
    let release = std::str::from_utf8(text).ok()?.split(' ').next()?;
    (!release.is_empty()).then(|| release.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header that says this.
    pub(in crate::kernel) fn header(version: &str) -> Vec<u8> {
        let mut header = vec![0; 0x400];
        header[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        header[VERSION_AT..VERSION_AT + 2].copy_from_slice(&0x100u16.to_le_bytes());
        header[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        header
    }

    #[test]
    fn the_release_is_the_first_word_of_the_version() {
        let release = |version| release_in(&header(version));
        assert_eq!(release("7.3.4+x (a@b) #1 SMP").as_deref(), Some("7.3.4+x"));
        assert_eq!(release(""), None);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(release_in(b"ELF"), None);
        assert_eq!(release_in(&[0; 0x400]), None);
        let mut far = header("7.3");
        far[VERSION_AT + 1] = 0xff;
        assert_eq!(release_in(&far), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        std::fs::write(&path, "x").unwrap();
        let error = super::release(&path).unwrap_err().to_string();
        assert!(error.contains("no bzImage"), "{error}");
    }
}
