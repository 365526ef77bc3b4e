//! Commands, and the answer to each.
//!
//! Every message is whole when it comes here, so that an error never costs the boundary to the
//! next one: the client gets a reply with the errno and goes on. Three kinds of message are
//! never answered, whatever they ask: posted commands, replies, and undefined ones that want no
//! reply. What goes wrong in those is counted and logged.
//!
//! A read that cannot be carried out is answered with all-ones, as on a PCI bus, because there
//! are clients that wait forever for the data behind an error reply.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use tracing::debug;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_TYPE_MASK, VFIO_REGION_INFO_FLAG_CAPS,
};
use vfio_user::{Command, DmaMapFlags, DmaUnmapFlags, ServerBackend};

use crate::capabilities;
use crate::client_log::ClientLog;
use crate::connection::{ConnectionError, Message, Receiver, send_message};
use crate::description::{Description, Region};
use crate::wire::{Fields, HEADER_BYTES, Header, Kind, MAX_DATA_BYTES};

/// Protocol version of the server. The minor one is the least that clients in use accept: QEMU
/// refuses a reply whose minor version is above its own, which is 0.
const VERSION: (u16, u16) = (0, 0);

/// Size of `argsz, flags, num_regions, num_irqs` and of `argsz, flags, index, count`.
const INFO_BYTES: u32 = 16;
/// Size of `struct vfio_region_info`.
const REGION_INFO_BYTES: u32 = 32;
/// Id of `struct vfio_region_info_cap_sparse_mmap`.
const SPARSE_MMAP_CAP: u16 = 1;
/// Size of `argsz, flags, offset, address, size`.
const DMA_MAP_BYTES: u32 = 32;
/// Size of `argsz, flags, address, size`.
const DMA_UNMAP_BYTES: u32 = 24;
/// Size of `argsz, flags, index, start, count`.
const SET_IRQS_BYTES: u32 = 20;

/// DMA_UNMAP: also report dirty pages.
const UNMAP_DIRTY_BITMAP: u32 = 1 << 0;
/// DMA_UNMAP: all maps, whatever their addresses.
const UNMAP_ALL: u32 = 1 << 1;

/// Serves one client until it goes or `socket` is shut down. Returns whether it negotiated a
/// version: one that did not has touched nothing.
///
/// `on_negotiated` is called when it has. `log` is that of all clients of the server.
///
/// # Errors
/// When the client goes inside a message, sends a header that cannot be true, or the socket
/// fails. The server itself can go on with the next client.
pub fn serve_client(
    socket: impl AsFd,
    description: &Description,
    backend: &mut dyn ServerBackend,
    log: &ClientLog,
    on_negotiated: &mut dyn FnMut(),
) -> (bool, Result<(), ConnectionError>) {
    let socket = socket.as_fd();
    let mut receiver = Receiver::new();
    let mut session = Session {
        description,
        backend,
        log,
        on_negotiated,
        negotiated: false,
        reply: Vec::new(),
    };
    let result = loop {
        let answer = match receiver.next(socket) {
            Ok(Some(message)) => session.handle(message),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if let Some(answer) = answer {
            match send_message(socket, &session.reply, answer.fd.map(AsFd::as_fd)) {
                Ok(()) => {}
                // The client went without waiting for its replies.
                Err(Errno::PIPE | Errno::CONNRESET) => break Ok(()),
                Err(errno) => break Err(errno.into()),
            }
        }
    };
    (session.negotiated, result)
}

/// A reply that is to be sent; its bytes are in [`Session::reply`].
struct Answer<'d> {
    fd: Option<&'d OwnedFd>,
}

/// What one client and the server know of each other.
struct Session<'d, 'b> {
    description: &'d Description,
    backend: &'b mut dyn ServerBackend,
    log: &'b ClientLog,
    on_negotiated: &'b mut dyn FnMut(),
    negotiated: bool,
    /// The reply under construction; kept to keep its memory.
    reply: Vec<u8>,
}

impl<'d> Session<'d, '_> {
    /// Carries a message out and, where it is to be answered, leaves the reply in `reply`.
    fn handle(&mut self, message: Message<'_>) -> Option<Answer<'d>> {
        let header = message.header;
        let kind = header.kind();
        // Before anything can be refused: even the shortest reply has a header.
        self.reply.clear();
        self.reply.resize(HEADER_BYTES, 0);
        let result = match kind {
            // No command was sent that it could be the reply to.
            Kind::Reply => Err(Errno::INVAL),
            Kind::Undefined { .. } => Err(Errno::INVAL),
            Kind::Command | Kind::Posted => self.execute(message, kind == Kind::Posted),
        };
        match kind {
            Kind::Command | Kind::Undefined { no_reply: false } => {
                Some(self.finish(header, result))
            }
            Kind::Reply | Kind::Posted | Kind::Undefined { no_reply: true } => {
                if let Err(errno) = result {
                    self.log.unanswered(header.command, errno);
                }
                None
            }
        }
    }

    /// Puts the header in front of the reply.
    fn finish(&mut self, command: Header, result: Result<Answer<'d>, Errno>) -> Answer<'d> {
        let (answer, error) = match result {
            Ok(answer) => (answer, None),
            Err(errno) => {
                // No warning: the client is told, and QEMU asks for interrupts that are none.
                debug!(command = command.command, "refused: {errno}");
                self.reply.truncate(HEADER_BYTES);
                (Answer { fd: None }, Some(errno))
            }
        };
        // Replies are smaller than MAX_MESSAGE_BYTES, by the checks on each command.
        let size = u32::try_from(self.reply.len()).unwrap_or(u32::MAX);
        self.reply[..HEADER_BYTES].copy_from_slice(&command.reply(size, error).to_bytes());
        answer
    }

    fn execute(&mut self, message: Message<'_>, posted: bool) -> Result<Answer<'d>, Errno> {
        if message.fds_lost {
            return Err(Errno::MFILE);
        }
        let command = Command::n(message.header.command).ok_or(Errno::OPNOTSUPP)?;
        if !matches!(command, Command::RegionRead | Command::RegionWrite) {
            debug!(
                ?command,
                bytes = message.payload.len(),
                fds = message.fds.len(),
                "message"
            );
        }
        if !self.negotiated && !matches!(command, Command::Version) {
            // A client whose version is not known may mean something else.
            return Err(Errno::INVAL);
        }
        let fields = Fields::new(message.payload);
        match command {
            // All their purpose is the reply.
            Command::Version
            | Command::DeviceGetInfo
            | Command::DeviceGetRegionInfo
            | Command::GetIrqInfo
            | Command::RegionRead
                if posted =>
            {
                return Err(Errno::INVAL);
            }
            Command::Version => self.version(fields)?,
            Command::DeviceGetInfo => self.device_info(fields)?,
            Command::DeviceGetRegionInfo => {
                return Ok(Answer {
                    fd: self.region_info(fields)?,
                });
            }
            Command::GetIrqInfo => self.irq_info(fields)?,
            Command::SetIrqs => self.set_irqs(fields, message.fds)?,
            Command::RegionRead => self.region_read(fields)?,
            Command::RegionWrite => self.region_write(fields)?,
            Command::DmaMap => self.dma_map(fields, message.fds)?,
            Command::DmaUnmap => self.dma_unmap(fields)?,
            Command::DeviceReset => {
                fields.end()?;
                self.backend.reset().map_err(|error| errno(&error))?;
            }
            // DMA_READ and DMA_WRITE go from server to client only.
            Command::Unknown
            | Command::GetRegionIoFds
            | Command::DmaRead
            | Command::DmaWrite
            | Command::UserDirtyPages => return Err(Errno::OPNOTSUPP),
        }
        Ok(Answer { fd: None })
    }

    fn put_u16(&mut self, value: u16) {
        self.reply.extend_from_slice(&value.to_ne_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.reply.extend_from_slice(&value.to_ne_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.reply.extend_from_slice(&value.to_ne_bytes());
    }

    fn version(&mut self, mut fields: Fields<'_>) -> Result<(), Errno> {
        let (major, minor) = (fields.u16()?, fields.u16()?);
        if self.negotiated || major != VERSION.0 {
            return Err(Errno::INVAL);
        }
        capabilities::check_client(fields.rest())?;
        self.negotiated = true;
        (self.on_negotiated)();
        self.put_u16(VERSION.0);
        self.put_u16(VERSION.1.min(minor));
        self.reply.extend_from_slice(&capabilities::server());
        Ok(())
    }

    fn device_info(&mut self, mut fields: Fields<'_>) -> Result<(), Errno> {
        argsz(&mut fields, INFO_BYTES)?;
        let (_flags, _regions, _irqs) = (fields.u32()?, fields.u32()?, fields.u32()?);
        self.put_u32(INFO_BYTES);
        self.put_u32(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET);
        self.put_u32(count(self.description.regions.len()));
        self.put_u32(count(self.description.irqs.len()));
        Ok(())
    }

    /// Answers with the region and, if the client has room for them, its mappable areas. If it
    /// has not, the answer says how much room they need, and the client asks again.
    fn region_info(&mut self, mut fields: Fields<'_>) -> Result<Option<&'d OwnedFd>, Errno> {
        let argsz = argsz(&mut fields, REGION_INFO_BYTES)?;
        let (_flags, index) = (fields.u32()?, fields.u32()?);
        let (_cap_offset, _size, _offset) = (fields.u32()?, fields.u64()?, fields.u64()?);
        let region = item(&self.description.regions, index)?;
        let areas = sparse_areas(region);
        let full = REGION_INFO_BYTES + count(areas.len());
        let (flags, cap_offset) = match areas.is_empty() {
            true => (region.flags, 0),
            false => (region.flags | VFIO_REGION_INFO_FLAG_CAPS, REGION_INFO_BYTES),
        };
        self.put_u32(full);
        self.put_u32(flags);
        self.put_u32(index);
        self.put_u32(cap_offset);
        self.put_u64(region.size);
        self.put_u64(region.offset);
        if argsz < full {
            return Ok(None);
        }
        self.reply.extend_from_slice(&areas);
        Ok(region.file.as_ref())
    }

    fn irq_info(&mut self, mut fields: Fields<'_>) -> Result<(), Errno> {
        argsz(&mut fields, INFO_BYTES)?;
        let (_flags, index, _count) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let irq = *item(&self.description.irqs, index)?;
        self.put_u32(INFO_BYTES);
        self.put_u32(irq.flags);
        self.put_u32(index);
        self.put_u32(irq.count);
        Ok(())
    }

    /// What the backend gets: `TRIGGER` with `DATA_EVENTFD` and as many descriptors as vectors
    /// (connect them) or none (disconnect them), or with `DATA_NONE` (raise them; with a count
    /// of zero: disconnect all of the index).
    fn set_irqs(&mut self, mut fields: Fields<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        argsz(&mut fields, SET_IRQS_BYTES)?;
        let flags = fields.u32()?;
        let (index, start, count) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let data = fields.rest();
        if flags & !(VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK) != 0 {
            return Err(Errno::INVAL);
        }
        let irq = item(&self.description.irqs, index)?;
        let data_type = flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
        let action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
        let all = count == 0
            && data_type == VFIO_IRQ_SET_DATA_NONE
            && action == VFIO_IRQ_SET_ACTION_TRIGGER;
        let range_exists = start < irq.count && count <= irq.count - start && count > 0;
        if !(range_exists || all) || action.count_ones() != 1 {
            return Err(Errno::INVAL);
        }
        if action != VFIO_IRQ_SET_ACTION_TRIGGER {
            // MSI-X vectors are masked by the client; the interrupt info says so too.
            return Err(Errno::OPNOTSUPP);
        }
        if data_type != VFIO_IRQ_SET_DATA_EVENTFD && !fds.is_empty() {
            return Err(Errno::INVAL);
        }
        match data_type {
            VFIO_IRQ_SET_DATA_NONE => self
                .backend
                .set_irqs(index, flags, start, count, Vec::new()),
            VFIO_IRQ_SET_DATA_EVENTFD if fds.is_empty() || fds.len() == count as usize => {
                let fds = fds.into_iter().map(File::from).collect();
                self.backend.set_irqs(index, flags, start, count, fds)
            }
            VFIO_IRQ_SET_DATA_BOOL => {
                let raise = data.get(..count as usize).ok_or(Errno::INVAL)?;
                let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
                (start..)
                    .zip(raise)
                    .filter(|(_, raise)| **raise != 0)
                    .try_for_each(|(vector, _)| {
                        self.backend.set_irqs(index, flags, vector, 1, Vec::new())
                    })
            }
            _ => return Err(Errno::INVAL),
        }
        .map_err(|error| errno(&error))
    }

    fn region_read(&mut self, mut fields: Fields<'_>) -> Result<(), Errno> {
        let (offset, index, count) = (fields.u64()?, fields.u32()?, fields.u32()?);
        fields.end()?;
        let bytes = data_bytes(count)?;
        self.put_u64(offset);
        self.put_u32(index);
        self.put_u32(count);
        let start = self.reply.len();
        self.reply.resize(start + bytes, 0);
        let data = &mut self.reply[start..];
        let result = access(self.description, index, offset, count).and_then(|()| {
            self.backend
                .region_read(index, offset, data)
                .map_err(|error| errno(&error))
        });
        if let Err(errno) = result {
            self.reply[start..].fill(0xff);
            self.log.failed_read(index, offset, count, errno);
        }
        Ok(())
    }

    fn region_write(&mut self, mut fields: Fields<'_>) -> Result<(), Errno> {
        let (offset, index, count) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let data = fields.rest();
        if data.len() != data_bytes(count)? {
            return Err(Errno::INVAL);
        }
        access(self.description, index, offset, count)?;
        self.backend
            .region_write(index, offset, data)
            .map_err(|error| errno(&error))?;
        self.put_u64(offset);
        self.put_u32(index);
        self.put_u32(count);
        Ok(())
    }

    fn dma_map(&mut self, mut fields: Fields<'_>, mut fds: Vec<OwnedFd>) -> Result<(), Errno> {
        argsz(&mut fields, DMA_MAP_BYTES)?;
        let flags = fields.u32()?;
        let (offset, address, size) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let known = DmaMapFlags::READ_WRITE.bits();
        if flags & !known != 0 || size == 0 || fds.len() > 1 {
            return Err(Errno::INVAL);
        }
        // The last byte has to have an address, in the guest's space and in the file.
        if address.checked_add(size - 1).is_none() || offset.checked_add(size).is_none() {
            return Err(Errno::INVAL);
        }
        let file = fds.pop().map(File::from);
        let flags = DmaMapFlags::from_bits_retain(flags);
        self.backend
            .dma_map(flags, offset, address, size, file)
            .map_err(|error| errno(&error))
    }

    /// The crate's flags are one bit to the left of the protocol's, so they are translated.
    fn dma_unmap(&mut self, mut fields: Fields<'_>) -> Result<(), Errno> {
        let argsz = argsz(&mut fields, DMA_UNMAP_BYTES)?;
        let flags = fields.u32()?;
        let (address, size) = (fields.u64()?, fields.u64()?);
        let translated = match flags {
            0 if size == 0 || address.checked_add(size - 1).is_none() => return Err(Errno::INVAL),
            0 => DmaUnmapFlags::empty(),
            UNMAP_ALL if address != 0 || size != 0 => return Err(Errno::INVAL),
            UNMAP_ALL => DmaUnmapFlags::UNMAP_ALL,
            UNMAP_DIRTY_BITMAP => return Err(Errno::OPNOTSUPP),
            _ => return Err(Errno::INVAL),
        };
        self.backend
            .dma_unmap(translated, address, size)
            .map_err(|error| errno(&error))?;
        self.put_u32(argsz);
        self.put_u32(flags);
        self.put_u64(address);
        self.put_u64(size);
        Ok(())
    }
}

/// Takes `argsz`: how many bytes the client has room for in the reply, or has sent.
fn argsz(fields: &mut Fields<'_>, least: u32) -> Result<u32, Errno> {
    match fields.u32()? {
        argsz if argsz >= least => Ok(argsz),
        _ => Err(Errno::INVAL),
    }
}

fn item<T>(items: &[T], index: u32) -> Result<&T, Errno> {
    usize::try_from(index)
        .ok()
        .and_then(|index| items.get(index))
        .ok_or(Errno::INVAL)
}

/// A number of things that were counted in memory, and are few.
fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX)
}

fn data_bytes(count: u32) -> Result<usize, Errno> {
    match usize::try_from(count) {
        Ok(count) if count <= MAX_DATA_BYTES => Ok(count),
        _ => Err(Errno::INVAL),
    }
}

/// Whether an access lies in its region.
fn access(description: &Description, index: u32, offset: u64, count: u32) -> Result<(), Errno> {
    let size = item(&description.regions, index)?.size;
    match offset.checked_add(u64::from(count)) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Errno::INVAL),
    }
}

/// The capability (`struct vfio_region_info_cap_sparse_mmap`) that lists the mappable areas;
/// empty when there are none to list.
fn sparse_areas(region: &Region) -> Vec<u8> {
    let mut bytes = Vec::new();
    if region.areas.is_empty() {
        return bytes;
    }
    // id, version, next (none); then the number of areas, and padding.
    for half in [SPARSE_MMAP_CAP, 1, 0, 0] {
        bytes.extend_from_slice(&half.to_ne_bytes());
    }
    bytes.extend_from_slice(&count(region.areas.len()).to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    for area in &region.areas {
        bytes.extend_from_slice(&area.offset.to_ne_bytes());
        bytes.extend_from_slice(&area.size.to_ne_bytes());
    }
    bytes
}

/// The errno for an error of the backend; never zero, which would mean success to a client.
fn errno(error: &io::Error) -> Errno {
    match Errno::from_io_error(error) {
        Some(errno) => errno,
        None => match error.kind() {
            io::ErrorKind::InvalidInput => Errno::INVAL,
            io::ErrorKind::Unsupported => Errno::OPNOTSUPP,
            io::ErrorKind::OutOfMemory => Errno::NOMEM,
            _ => Errno::IO,
        },
    }
}
