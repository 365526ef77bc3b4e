//! Memory mappings whose pages the driver moves about.
// mmap and its relatives cannot be had without unsafe: the whole purpose of these programs is
// to do to memory what the allocator never does.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Words of a page.
pub(crate) const WORDS: usize = PAGE / 8;
/// Bytes that one page-middle-directory entry maps: a folio of order 9.
pub(crate) const UNIT: usize = 2 << 20;
/// Pages of a unit.
pub(crate) const UNIT_PAGES: usize = UNIT / PAGE;

/// What a page may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
    /// Reading, writing and running.
    Execute,
}

impl Access {
    fn flags(self) -> libc::c_int {
        match self {
            Access::None => libc::PROT_NONE,
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
            Access::Execute => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        }
    }
}

/// What the kernel is told about memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Drop the content: it reads as zero afterwards.
    DontNeed,
    /// The content may be dropped until it is written again.
    Free,
    /// Make it a huge page now.
    Collapse,
    /// Huge pages are welcome.
    HugePage,
    /// No huge pages.
    NoHugePage,
    /// Not needed soon.
    Cold,
    /// To be reclaimed now.
    PageOut,
    /// Pages of equal content may be merged.
    Mergeable,
}

impl Advice {
    fn value(self) -> libc::c_int {
        match self {
            Advice::DontNeed => libc::MADV_DONTNEED,
            Advice::Free => libc::MADV_FREE,
            Advice::Collapse => libc::MADV_COLLAPSE,
            Advice::HugePage => libc::MADV_HUGEPAGE,
            Advice::NoHugePage => libc::MADV_NOHUGEPAGE,
            Advice::Cold => libc::MADV_COLD,
            Advice::PageOut => libc::MADV_PAGEOUT,
            Advice::Mergeable => libc::MADV_MERGEABLE,
        }
    }
}

/// A range of addresses that belongs to its owner alone, some or all of it mapped.
///
/// Pages are numbered from the start of the range. Every access is checked against the range;
/// access to a page of it that was unmapped or protected ends the process with SIGSEGV, which is
/// what such a program wants, and can reach nobody else's memory because the owner chose the
/// addresses (or lets no unmapped part lie about).
#[derive(Debug)]
pub(crate) struct Memory {
    address: usize,
    len: usize,
}

impl Memory {
    /// Anonymous, private, writable memory that begins at a multiple of 2 MiB.
    pub(crate) fn anonymous(len: usize) -> io::Result<Memory> {
        Memory::anonymous_with(len, Access::Write)
    }

    /// The same, with the access given.
    pub(crate) fn anonymous_with(len: usize, access: Access) -> io::Result<Memory> {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let room = map(0, len + UNIT, access, private, -1)?;
        let address = room.next_multiple_of(UNIT);
        let memory = Memory { address, len };
        for (start, end) in [(room, address), (address + len, room + len + UNIT)] {
            if start < end {
                unmap(start, end - start)?;
            }
        }
        Ok(memory)
    }

    /// Anonymous, private, writable memory at `address`, where nothing may be mapped yet.
    pub(crate) fn at(address: usize, len: usize) -> io::Result<Memory> {
        map_at(address, len)?;
        Ok(Memory { address, len })
    }

    /// A file's first `len` bytes, shared or private.
    pub(crate) fn file(file: BorrowedFd<'_>, len: usize, shared: bool) -> io::Result<Memory> {
        let kind = if shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        let address = map(0, len, Access::Write, kind, file.as_raw_fd())?;
        Ok(Memory { address, len })
    }

    /// Anonymous memory that forked children share.
    pub(crate) fn shared(len: usize) -> io::Result<Memory> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let address = map(0, len, Access::Write, flags, -1)?;
        Ok(Memory { address, len })
    }

    /// Memory of the kernel's pool of huge pages, of its default size.
    pub(crate) fn hugetlb(len: usize) -> io::Result<Memory> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        let address = map(0, len, Access::Write, flags, -1)?;
        Ok(Memory { address, len })
    }

    /// Maps a file's beginning in the place of some pages, shared or private.
    pub(crate) fn map_file(
        &mut self,
        pages: Range<usize>,
        file: BorrowedFd<'_>,
        shared: bool,
    ) -> io::Result<()> {
        let (address, len) = self.part(&pages);
        unmap(address, len)?;
        let kind = if shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        let flags = kind | libc::MAP_FIXED_NOREPLACE;
        map(address, len, Access::Write, flags, file.as_raw_fd()).map(drop)
    }

    /// First address.
    pub(crate) fn address(&self) -> usize {
        self.address
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Pages.
    pub(crate) fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// Address of a page.
    pub(crate) fn page_address(&self, page: usize) -> usize {
        assert!(page <= self.pages());
        self.address + page * PAGE
    }

    /// The words of a page.
    pub(crate) fn words(&self, page: usize) -> &[u64] {
        assert!(page < self.pages());
        // SAFETY: the page lies in the range that this value owns, and is aligned. It is mapped,
        // or the access ends the process (see the type). It changes only through `&mut self`.
        unsafe { std::slice::from_raw_parts((self.address + page * PAGE) as *const u64, WORDS) }
    }

    /// The words of a page, to write.
    pub(crate) fn words_mut(&mut self, page: usize) -> &mut [u64] {
        assert!(page < self.pages());
        // SAFETY: as in `words`; `&mut self` makes the reference the only one.
        unsafe { std::slice::from_raw_parts_mut((self.address + page * PAGE) as *mut u64, WORDS) }
    }

    /// A word of a page, for use by several threads and a GPU at once.
    pub(crate) fn atomic(&self, page: usize, word: usize) -> &AtomicU64 {
        assert!(page < self.pages() && word < WORDS);
        // SAFETY: as in `words`; the word is aligned, and whoever else uses it does so atomically.
        unsafe { AtomicU64::from_ptr((self.address + page * PAGE + word * 8) as *mut u64) }
    }

    /// The words of some pages, to write.
    pub(crate) fn words_of_mut(&mut self, pages: Range<usize>) -> &mut [u64] {
        let (address, len) = self.part(&pages);
        // SAFETY: as in `words_mut`, for a range that `part` has checked.
        unsafe { std::slice::from_raw_parts_mut(address as *mut u64, len / 8) }
    }

    /// The bytes of some pages.
    pub(crate) fn bytes_of(&self, pages: &Range<usize>) -> &[u8] {
        let (address, len) = self.part(pages);
        // SAFETY: as in `words`, for a range that `part` has checked.
        unsafe { std::slice::from_raw_parts(address as *const u8, len) }
    }

    /// The bytes of some pages, to write.
    pub(crate) fn bytes_of_mut(&mut self, pages: &Range<usize>) -> &mut [u8] {
        let (address, len) = self.part(pages);
        // SAFETY: as in `words_mut`, for a range that `part` has checked.
        unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) }
    }

    /// The bytes of a page.
    pub(crate) fn bytes(&self, page: usize) -> &[u8] {
        let words = self.words(page);
        // SAFETY: the same memory; bytes have no alignment and no invalid values.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), PAGE) }
    }

    /// The bytes of a page, to write.
    pub(crate) fn bytes_mut(&mut self, page: usize) -> &mut [u8] {
        let words = self.words_mut(page);
        // SAFETY: the same memory; bytes have no alignment and no invalid values.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), PAGE) }
    }

    /// Reads one word of a page; the read really happens, though its value may not be wanted.
    pub(crate) fn touch(&self, page: usize) -> u64 {
        let words = self.words(page);
        // SAFETY: a valid reference.
        unsafe { std::ptr::read_volatile(&raw const words[0]) }
    }

    /// Allocates some pages now, as a write to each would; what is there stays.
    pub(crate) fn populate(&self, pages: Range<usize>) -> io::Result<()> {
        let (address, len) = self.part(&pages);
        let advice = libc::MADV_POPULATE_WRITE;
        // SAFETY: the range belongs to this value, and its content does not change.
        check(unsafe { libc::madvise(address as *mut libc::c_void, len, advice) })
    }

    /// Advises the kernel about some pages.
    pub(crate) fn advise(&mut self, pages: Range<usize>, advice: Advice) -> io::Result<()> {
        let (address, len) = self.part(&pages);
        // SAFETY: the range belongs to this value, and `&mut self` says that no reference into
        // it is alive whose content DONTNEED or FREE would change.
        check(unsafe { libc::madvise(address as *mut libc::c_void, len, advice.value()) })
    }

    /// Keeps some pages in memory.
    pub(crate) fn lock(&self, pages: Range<usize>) -> io::Result<()> {
        let (address, len) = self.part(&pages);
        // SAFETY: the range belongs to this value, and its content does not change.
        check(unsafe { libc::mlock(address as *const libc::c_void, len) })
    }

    /// Changes what some pages may be used for.
    pub(crate) fn protect(&mut self, pages: Range<usize>, access: Access) -> io::Result<()> {
        let (address, len) = self.part(&pages);
        // SAFETY: the range belongs to this value and no reference into it is alive.
        check(unsafe { libc::mprotect(address as *mut libc::c_void, len, access.flags()) })
    }

    /// Unmaps some pages. The addresses still belong to this value.
    pub(crate) fn unmap(&mut self, pages: Range<usize>) -> io::Result<()> {
        let (address, len) = self.part(&pages);
        unmap(address, len)
    }

    /// Maps some pages anew that were unmapped; they read as zero.
    pub(crate) fn map_again(&mut self, pages: Range<usize>) -> io::Result<()> {
        let (address, len) = self.part(&pages);
        map_at(address, len)
    }

    /// Moves the mappings to `address`, where nothing may be mapped: `runs` are the pages that
    /// are mapped here. The pages keep their distance from the start.
    pub(crate) fn move_to(&mut self, address: usize, runs: &[Range<usize>]) -> io::Result<()> {
        for run in runs {
            let (from, len) = self.part(run);
            let to = address + run.start * PAGE;
            // SAFETY: the source belongs to this value and no reference into it is alive; the
            // destination belongs to the caller and holds no mapping.
            let result = unsafe {
                libc::mremap(
                    from as *mut libc::c_void,
                    len,
                    len,
                    libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                    to as *mut libc::c_void,
                )
            };
            if result == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        self.address = address;
        Ok(())
    }

    /// Moves the mappings of some pages to `address`, where nothing may be mapped. What was there
    /// is not mapped any more.
    pub(crate) fn move_part(&mut self, pages: Range<usize>, address: usize) -> io::Result<Memory> {
        let (from, len) = self.part(&pages);
        let mut part = Memory { address: from, len };
        let all = 0..part.pages();
        let result = part.move_to(address, &[all]);
        if let Err(error) = result {
            // The pages are still this value's.
            std::mem::forget(part);
            return Err(error);
        }
        Ok(part)
    }

    fn part(&self, pages: &Range<usize>) -> (usize, usize) {
        assert!(pages.start <= pages.end && pages.end <= self.pages());
        (
            self.address + pages.start * PAGE,
            (pages.end - pages.start) * PAGE,
        )
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Parts that are not mapped are no error; nothing can be done about other ones.
        let _ = unmap(self.address, self.len);
    }
}

fn map(
    address: usize,
    len: usize,
    access: Access,
    flags: libc::c_int,
    fd: libc::c_int,
) -> io::Result<usize> {
    // SAFETY: without MAP_FIXED a new mapping touches no memory that is in use.
    let result = unsafe {
        libc::mmap(
            address as *mut libc::c_void,
            len,
            access.flags(),
            flags,
            fd,
            0,
        )
    };
    if result == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(result as usize)
}

fn map_at(address: usize, len: usize) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let got = map(address, len, Access::Write, flags, -1)?;
    if got != address {
        unmap(got, len)?;
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    Ok(())
}

fn unmap(address: usize, len: usize) -> io::Result<()> {
    // SAFETY: callers pass ranges that they own, with no reference into them alive.
    check(unsafe { libc::munmap(address as *mut libc::c_void, len) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
