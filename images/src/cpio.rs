//! Writing cpio archives of the "newc" kind, the one that the kernel unpacks as an initramfs.
//!
//! An own writer: the format is a header of 13 hexadecimal numbers, a name, the content, and
//! padding to 4 bytes (kernel documentation, `driver-api/early-userspace/buffer-format`), and
//! files are streamed from where they are.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes entries one after the other; names are paths in the guest, with or without a leading
/// slash. Parents are made.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    output: W,
    inode: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(output: W) -> Self {
        Self {
            output,
            inode: 0,
            folders: BTreeSet::new(),
        }
    }

    /// A folder, once.
    pub(crate) fn folder(&mut self, name: &str) -> io::Result<()> {
        let name = name.trim_matches('/');
        if name.is_empty() || self.folders.contains(name) {
            return Ok(());
        }
        self.parents(name)?;
        self.folders.insert(name.to_owned());
        self.entry(name, FOLDER | 0o755, 0, (0, 0))
    }

    /// A file with this content; `mode` is its permissions.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.stream(name, mode, content.len() as u64, &mut &content[..])
    }

    /// A copy of a file of the host, with its permissions.
    pub(crate) fn copy(&mut self, name: &str, host: &Path) -> io::Result<()> {
        let mut file = File::open(host)?;
        let meta = file.metadata()?;
        self.stream(name, meta.mode() & 0o7777, meta.len(), &mut file)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.stream_kind(
            name,
            LINK | 0o777,
            target.len() as u64,
            &mut target.as_bytes(),
        )
    }

    /// A character device.
    pub(crate) fn character_device(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
    ) -> io::Result<()> {
        let name = name.trim_matches('/');
        self.parents(name)?;
        self.entry(name, CHARACTER_DEVICE | mode, 0, device)
    }

    /// The trailer. Another archive may follow.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, 0, (0, 0))?;
        Ok(self.output)
    }

    fn stream(
        &mut self,
        name: &str,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        self.stream_kind(name, FILE | mode, size, content)
    }

    fn stream_kind(
        &mut self,
        name: &str,
        mode: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let name = name.trim_start_matches('/');
        self.parents(name)?;
        let short = u32::try_from(size)
            .map_err(|_| io::Error::other("an initramfs holds no file of 4 GiB or more"))?;
        self.entry(name, mode, short, (0, 0))?;
        // A file that grows meanwhile is cut at the size in its header.
        let copied = io::copy(&mut content.take(size), &mut self.output)?;
        if copied < size {
            return Err(io::Error::other(
                "the file became shorter while it was read",
            ));
        }
        self.pad(size)
    }

    fn parents(&mut self, name: &str) -> io::Result<()> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.folder(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, size: u32, device: (u32, u32)) -> io::Result<()> {
        self.inode += 1;
        let length =
            u32::try_from(name.len() + 1).map_err(|_| io::Error::other("the name is too long"))?;
        let numbers = [
            self.inode, mode, 0, 0, // owner and group: root
            1, 0, // links, and a time of no interest, so that equal inputs give equal bytes
            size, 0, 0, device.0, device.1, length, 0,
        ];
        let mut header = String::from("070701");
        for number in numbers {
            header.push_str(&format!("{number:08X}"));
        }
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(name.as_bytes())?;
        self.output.write_all(&[0])?;
        self.pad(header.len() as u64 + u64::from(length))
    }

    /// Zeros up to the next multiple of 4; what is before `length` is aligned already.
    fn pad(&mut self, length: u64) -> io::Result<()> {
        let rest = usize::try_from(length.wrapping_neg() % 4).unwrap_or(0);
        self.output.write_all(&[0; 4][..rest])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An entry as read back: name, mode, device, content.
    pub(crate) type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Reads archives that follow each other, as the kernel does.
    pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut offset = 0;
        while !bytes.is_empty() {
            assert!(bytes.starts_with(b"070701"), "no header at {offset}");
            let number = |i: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * i..14 + 8 * i]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_length) = (number(1), number(6), number(11));
            let aligned = |n: usize| n.next_multiple_of(4);
            let body = aligned(110 + name_length as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_length as usize - 1]).unwrap();
            let content = bytes[body..body + size as usize].to_vec();
            if name != "TRAILER!!!" {
                entries.push((name.to_owned(), mode, (number(9), number(10)), content));
            }
            let end = body + aligned(size as usize);
            offset += end;
            bytes = &bytes[end..];
        }
        entries
    }

    #[test]
    fn entries_read_back() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/init", 0o755, b"12345").unwrap();
        archive.link("bin/sh", "busybox").unwrap();
        archive.link("bin/ls", "busybox").unwrap();
        archive
            .character_device("dev/console", 0o600, (5, 1))
            .unwrap();
        archive.folder("/proc/").unwrap();
        let entries = parse(&archive.finish().unwrap());
        let expected: Vec<Entry> = vec![
            ("init".into(), 0o100_755, (0, 0), b"12345".to_vec()),
            ("bin".into(), 0o040_755, (0, 0), vec![]),
            ("bin/sh".into(), 0o120_777, (0, 0), b"busybox".to_vec()),
            ("bin/ls".into(), 0o120_777, (0, 0), b"busybox".to_vec()),
            ("dev".into(), 0o040_755, (0, 0), vec![]),
            ("dev/console".into(), 0o020_600, (5, 1), vec![]),
            ("proc".into(), 0o040_755, (0, 0), vec![]),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn every_length_is_padded() {
        for length in 0..9 {
            let mut archive = Archive::new(Vec::new());
            let name = "n".repeat(length + 1);
            archive.file(&name, 0o644, &vec![7; length]).unwrap();
            let bytes = archive.finish().unwrap();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(parse(&bytes)[0].3.len(), length);
        }
    }

    #[test]
    fn a_copy_keeps_the_mode_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "content").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o751)).unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.copy("a/b/f", &path).unwrap();
        let entries = parse(&archive.finish().unwrap());
        assert_eq!(entries.len(), 3);
        assert_eq!(
            entries[2],
            ("a/b/f".into(), 0o100_751, (0, 0), b"content".to_vec())
        );
    }

    #[test]
    fn a_file_too_large_for_the_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        File::create(&path).unwrap().set_len(1 << 32).unwrap(); // sparse
        let mut archive = Archive::new(io::sink());
        let error = archive.copy("large", &path).unwrap_err();
        assert!(error.to_string().contains("4 GiB"), "{error}");
    }

    #[test]
    fn a_file_that_shrinks_is_refused() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.stream("f", 0o644, 10, &mut &b"short"[..]).is_err());
    }
}
