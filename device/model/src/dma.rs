//! The DMA map: which DMA addresses there are, and the memory behind them.
//!
//! Every access of an engine happens under a [`DmaView`], a read lock. Whoever changes the map
//! takes the write lock and so waits for accesses in flight; afterwards nothing touches what was
//! unmapped. Engines hold a view for a bounded number of bytes and descriptors, so that the wait is
//! short.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::Status;
use rustix::io::Errno;
use vm_memory::{AtomicAccess, Bytes, VolatileMemory, VolatileSlice};

use crate::command::Fault;
use crate::copy;
use crate::guest_memory::{GuestMemory, Refused};
use crate::lost::Lost;

/// Most maps at once. Stops a client from using up the process's file descriptors and maps; a
/// QEMU guest needs about twenty.
pub const MAX_DMA_MAPS: usize = 512;

/// A range of DMA addresses, and what is behind it.
#[derive(Debug)]
pub struct DmaMapping {
    /// First DMA address; a multiple of 4 KiB.
    pub address: u64,
    /// Size in bytes; a multiple of 4 KiB, not zero.
    pub size: u64,
    /// The device may read it.
    pub read: bool,
    /// The device may write it.
    pub write: bool,
    /// File and byte offset (a multiple of 4 KiB) of the memory behind it. Without one the range
    /// is remembered, and descriptors that touch it fail with `STATUS_DMA_UNMAPPED`.
    pub backing: Option<(File, u64)>,
}

/// Why a DMA map or unmap was refused.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// Address, size or offset is not a multiple of 4 KiB, the size is zero, the range wraps
    /// around, or neither reading nor writing is allowed.
    #[error("DMA range {address:#x}+{size:#x} is malformed: give page-aligned, non-empty ranges")]
    Malformed {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// The range overlaps one that is mapped.
    #[error("DMA range {address:#x}+{size:#x} overlaps a mapped one: unmap that first")]
    Overlap {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// Nothing is mapped there.
    #[error("DMA range {address:#x}+{size:#x} is not mapped")]
    NotMapped {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// The range covers mapped ranges, but is not one of them.
    #[error(
        "DMA range {address:#x}+{size:#x} is not exactly one that was mapped: unmap whole maps"
    )]
    Partial {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
    },
    /// The bound on the number of maps is reached.
    #[error("{limit} DMA ranges are mapped already: unmap some, or map larger ones")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// The file cannot be mapped as asked.
    #[error("the memory behind DMA range {address:#x}+{size:#x} cannot be mapped: {reason}")]
    Backing {
        /// Address as given.
        address: u64,
        /// Size as given.
        size: u64,
        /// What the host said.
        reason: String,
        /// errno of the host.
        errno: i32,
    },
}

impl DmaError {
    /// The errno that tells a vfio client the same.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Malformed { .. } | Self::Partial { .. } => Errno::INVAL.raw_os_error(),
            Self::Overlap { .. } => Errno::EXIST.raw_os_error(),
            Self::NotMapped { .. } => Errno::NOENT.raw_os_error(),
            Self::TooMany { .. } => Errno::NOSPC.raw_os_error(),
            Self::Backing { errno, .. } => *errno,
        }
    }
}

/// Memory of a client that has gone: its file was shortened, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostMemory {
    /// The DMA address of the access that found it; `None` when that range was unmapped since.
    pub address: Option<u64>,
}

impl fmt::Display for LostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its memory ")?;
        if let Some(address) = self.address {
            write!(f, "at DMA address {address:#x} ")?;
        }
        f.write_str("has gone: the file behind it was shortened, or cannot be read")
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

#[derive(Debug)]
struct Map {
    address: u64,
    size: u64,
    read: bool,
    write: bool,
    region: Option<Arc<GuestMemory>>,
}

impl Map {
    fn end(&self) -> u64 {
        self.address + self.size
    }

    /// The DMA address of what is at `at` in this process.
    fn address_of(&self, at: usize) -> Option<u64> {
        let region = self.region.as_deref()?;
        let offset = at.checked_sub(region.as_ptr().addr())?;
        (offset < region.size()).then(|| self.address + offset as u64)
    }
}

/// Maps, none of which overlaps another, by their addresses. It is looked at for each transfer, and
/// changes when the guest's memory does.
type Table = Vec<Map>;

/// The map.
#[derive(Debug)]
pub(crate) struct DmaMap {
    table: RwLock<Table>,
    lost: Arc<Lost>,
}

impl DmaMap {
    /// An empty one.
    ///
    /// # Errors
    /// As [`Lost::new`].
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            table: RwLock::default(),
            lost: Arc::new(Lost::new()?),
        })
    }

    /// Whether memory behind the map was lost. Then nothing can be accessed any more.
    pub(crate) fn lost(&self) -> &Lost {
        &self.lost
    }

    /// What was lost, if anything.
    pub(crate) fn lost_memory(&self) -> Option<LostMemory> {
        let at = self.lost.at()?;
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let address = table.iter().find_map(|map| map.address_of(at));
        Some(LostMemory { address })
    }

    /// Adds a range. Returns the mapping that may be populated ahead of its use, and whether for
    /// writing.
    pub(crate) fn map(
        &self,
        mapping: DmaMapping,
    ) -> Result<Option<(Arc<GuestMemory>, bool)>, DmaError> {
        let DmaMapping {
            address,
            size,
            read,
            write,
            backing,
        } = mapping;
        check_range(address, size)?;
        let misaligned = |(_, offset): &(File, u64)| offset % PAGE_SIZE != 0;
        if !(read || write) || backing.as_ref().is_some_and(misaligned) {
            return Err(DmaError::Malformed { address, size });
        }
        // Mapping the file is slow beside the rest, so it is done before the lock is taken.
        self.admit(&self.view().table, address, size)?;
        let region = backing
            .map(|(file, offset)| {
                let len =
                    usize::try_from(size).map_err(|_| DmaError::Malformed { address, size })?;
                let refused = |refused: Refused| DmaError::Backing {
                    address,
                    size,
                    reason: refused.reason,
                    errno: refused.errno.raw_os_error(),
                };
                GuestMemory::map(file, offset, len, write, &self.lost).map_err(refused)
            })
            .transpose()?
            .map(Arc::new);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        self.admit(&table, address, size)?;
        let populate = region.clone().map(|region| (region, write));
        let place = table.partition_point(|map| map.address < address);
        let map = Map {
            address,
            size,
            read,
            write,
            region,
        };
        table.insert(place, map);
        Ok(populate)
    }

    /// Whether a new range fits.
    fn admit(&self, table: &Table, address: u64, size: u64) -> Result<(), DmaError> {
        if overlaps(table, address, size) {
            return Err(DmaError::Overlap { address, size });
        }
        if table.len() >= MAX_DMA_MAPS {
            return Err(DmaError::TooMany {
                limit: MAX_DMA_MAPS,
            });
        }
        Ok(())
    }

    /// Takes out a range, which must be exactly one that was mapped. Returns the mapping, which
    /// nobody uses any more.
    pub(crate) fn unmap(
        &self,
        address: u64,
        size: u64,
    ) -> Result<Option<Arc<GuestMemory>>, DmaError> {
        check_range(address, size)?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.binary_search_by_key(&address, |map| map.address) {
            Ok(place) if table[place].size == size => Ok(table.remove(place).region),
            _ if overlaps(&table, address, size) => Err(DmaError::Partial { address, size }),
            _ => Err(DmaError::NotMapped { address, size }),
        }
    }

    /// Takes out all ranges. Returns their mappings, which nobody uses any more.
    pub(crate) fn unmap_all(&self) -> impl Iterator<Item = Arc<GuestMemory>> + use<> {
        let removed =
            std::mem::take(&mut *self.table.write().unwrap_or_else(PoisonError::into_inner));
        removed.into_iter().filter_map(|map| map.region)
    }

    /// Waits until every access that has begun is over.
    pub(crate) fn barrier(&self) {
        drop(self.table.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The map for accesses. It must not be held while waiting for anything but locks that come
    /// after it, which are all held for moments.
    pub(crate) fn view(&self) -> DmaView<'_> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        DmaView::new(table, &self.lost)
    }

    /// As [`Self::view`]; `None` when it would have to wait.
    pub(crate) fn try_view(&self) -> Option<DmaView<'_>> {
        match self.table.try_read() {
            Ok(table) => Some(DmaView::new(table, &self.lost)),
            Err(TryLockError::Poisoned(poisoned)) => {
                Some(DmaView::new(poisoned.into_inner(), &self.lost))
            }
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn check_range(address: u64, size: u64) -> Result<(), DmaError> {
    let aligned = address.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
    // The last byte must have an address; so must the byte after it, which keeps ends simple.
    if !aligned || size == 0 || address.checked_add(size).is_none() {
        return Err(DmaError::Malformed { address, size });
    }
    Ok(())
}

/// Whether a map shares an address with a range.
fn overlaps(table: &Table, address: u64, size: u64) -> bool {
    let after = table.partition_point(|map| map.address < address + size);
    table[..after].last().is_some_and(|map| map.end() > address)
}

/// The DMA map as it is for the duration of some accesses. All that they have written is written
/// when it is dropped.
#[derive(Debug)]
pub(crate) struct DmaView<'a> {
    table: RwLockReadGuard<'a, Table>,
    lost: &'a Lost,
    /// Place of the map that was found last, which is most often the next, too.
    last: Cell<usize>,
}

impl Drop for DmaView<'_> {
    fn drop(&mut self) {
        copy::settle();
    }
}

impl<'a> DmaView<'a> {
    fn new(table: RwLockReadGuard<'a, Table>, lost: &'a Lost) -> Self {
        let last = Cell::new(0);
        Self { table, lost, last }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The map that an address is in.
    fn find(&self, address: u64) -> Option<&Map> {
        let has = |map: &&Map| map.address <= address && address < map.end();
        if let found @ Some(_) = self.table.get(self.last.get()).filter(has) {
            return found;
        }
        let after = self.table.partition_point(|map| map.address <= address);
        let place = after.checked_sub(1)?;
        self.last.set(place);
        self.table.get(place).filter(has)
    }

    /// The memory from `address` to the end of its map, or as much as `len` of it.
    pub(crate) fn slice(
        &self,
        address: u64,
        len: usize,
        access: Access,
    ) -> Result<VolatileSlice<'_, ()>, Fault> {
        let unmapped = Fault::at(Status::STATUS_DMA_UNMAPPED, address);
        let map = self.find(address).ok_or(unmapped)?;
        let region = map.region.as_deref().ok_or(unmapped)?;
        // What was read of it since were zeros: nobody is told of what was done with them.
        if self.lost.at().is_some() {
            return Err(unmapped);
        }
        let allowed = match access {
            Access::Read => map.read,
            Access::Write => map.write,
        };
        if !allowed {
            return Err(Fault::at(Status::STATUS_DMA_PERMISSION, address));
        }
        let at = usize::try_from(address - map.address).map_err(|_| unmapped)?;
        region
            .get_slice(at, len.min(region.size() - at))
            .map_err(|_| unmapped)
    }

    /// Whether all of a range can be accessed; it may span adjacent maps.
    pub(crate) fn check(&self, address: u64, bytes: u64, access: Access) -> Result<(), Fault> {
        let end = address
            .checked_add(bytes)
            .ok_or(Fault::at(Status::STATUS_DMA_UNMAPPED, address))?;
        let mut at = address;
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX);
            at += self.slice(at, len, access)?.len() as u64;
        }
        Ok(())
    }

    /// Reads bytes, which may span adjacent maps.
    pub(crate) fn read(&self, mut address: u64, mut data: &mut [u8]) -> Result<(), Fault> {
        while !data.is_empty() {
            let slice = self.slice(address, data.len(), Access::Read)?;
            let read = slice.copy_to(data);
            data = &mut data[read..];
            address = address.wrapping_add(read as u64);
        }
        Ok(())
    }

    /// Writes bytes, which may span adjacent maps.
    pub(crate) fn write(&self, mut address: u64, mut data: &[u8]) -> Result<(), Fault> {
        while !data.is_empty() {
            let slice = self.slice(address, data.len(), Access::Write)?;
            slice.copy_from(data);
            address = address.wrapping_add(slice.len() as u64);
            data = &data[slice.len()..];
        }
        Ok(())
    }

    /// Loads a naturally aligned word.
    pub(crate) fn load<T: AtomicAccess>(&self, address: u64, order: Ordering) -> Result<T, Fault> {
        self.slice(address, size_of::<T>(), Access::Read)?
            .load(0, order)
            .map_err(|_| Fault::at(Status::STATUS_DMA_UNMAPPED, address))
    }

    /// Stores a naturally aligned word, after all that was copied before.
    pub(crate) fn store<T: AtomicAccess>(
        &self,
        address: u64,
        value: T,
        order: Ordering,
    ) -> Result<(), Fault> {
        copy::settle();
        self.slice(address, size_of::<T>(), Access::Write)?
            .store(value, 0, order)
            .map_err(|_| Fault::at(Status::STATUS_DMA_UNMAPPED, address))
    }
}
