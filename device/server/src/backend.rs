//! The device model behind [`vfio_user::ServerBackend`].

use std::fs::File;
use std::io;

use hmmgpu_contract::pci::MSIX_VECTORS;
use hmmgpu_model::{Device, DmaError, DmaMapping, Interrupt, ResetCause};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};

use crate::client_log::ClientLog;
use crate::description::Description;
use crate::event::EventFd;

/// The device model as one client uses it.
#[derive(Debug)]
pub struct ModelBackend<'d> {
    device: &'d Device,
    /// What the model raises, kept to raise it when the client asks for that.
    vectors: Vec<Option<EventFd>>,
    log: &'d ClientLog,
}

impl<'d> ModelBackend<'d> {
    /// The backend for the next client of `device`.
    pub fn new(device: &'d Device, log: &'d ClientLog) -> Self {
        Self {
            device,
            vectors: (0..MSIX_VECTORS).map(|_| None).collect(),
            log,
        }
    }

    /// What the protocol tells clients of `device`.
    pub fn describe(device: &Device) -> Description {
        Description::pci(
            device.config_size() as u64,
            |bar| device.bar_size(bar),
            MSIX_VECTORS,
        )
    }

    /// The client has gone: when this returns, nothing of it can be reached any more, neither its
    /// memory nor its events. VRAM is scrubbed before the device says that it is ready again.
    pub fn disconnect(self) {
        // This drops the DMA map and the model's ends of the interrupts as well.
        self.device.reset(ResetCause::Disconnect);
    }

    /// Connects a vector, or disconnects it.
    fn connect(&mut self, vector: u32, event: Option<EventFd>) -> io::Result<()> {
        let slot = usize::try_from(vector)
            .ok()
            .and_then(|slot| self.vectors.get_mut(slot));
        let slot = slot.ok_or(Errno::INVAL)?;
        slot.clone_from(&event);
        let sink = event.map(|event| Box::new(event) as Box<dyn Interrupt>);
        self.device.set_interrupt(vector, sink);
        Ok(())
    }
}

impl ServerBackend for ModelBackend<'_> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            ..=VFIO_PCI_BAR5_REGION_INDEX => self.device.bar_read(region, offset, data),
            VFIO_PCI_CONFIG_REGION_INDEX => self.device.config_read(offset, data),
            _ => return Err(Errno::INVAL.into()),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        match region {
            ..=VFIO_PCI_BAR5_REGION_INDEX => self.device.bar_write(region, offset, data),
            VFIO_PCI_CONFIG_REGION_INDEX => self.device.config_write(offset, data),
            _ => return Err(Errno::INVAL.into()),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let mapping = DmaMapping {
            address,
            size,
            read: flags.contains(DmaMapFlags::READ),
            write: flags.contains(DmaMapFlags::WRITE),
            backing: fd.map(|file| (file, offset)),
        };
        let backed = mapping.backing.is_some();
        let result = self.device.dma_map(mapping);
        if let Err(error) = &result {
            self.log.refused_map(error);
        } else {
            tracing::debug!("DMA map {address:#x}+{size:#x} {flags:?} backed={backed}");
        }
        result.map_err(|error| dma_error(&error))
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            self.device.dma_unmap_all();
            return Ok(());
        }
        self.device
            .dma_unmap(address, size)
            .map_err(|error| dma_error(&error))
    }

    fn reset(&mut self) -> io::Result<()> {
        self.device.reset(ResetCause::VfioUser);
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        if index != VFIO_PCI_MSIX_IRQ_INDEX {
            // The device has no others, so that none of them can be connected.
            return if fds.is_empty() {
                Ok(())
            } else {
                Err(Errno::INVAL.into())
            };
        }
        let vectors = start..start.saturating_add(count);
        if flags & VFIO_IRQ_SET_DATA_EVENTFD != 0 {
            let events = fds
                .into_iter()
                .map(EventFd::new)
                .collect::<io::Result<Vec<_>>>()?;
            let mut events = events.into_iter();
            return vectors
                .into_iter()
                .try_for_each(|vector| self.connect(vector, events.next()));
        }
        if count == 0 {
            return (0..MSIX_VECTORS).try_for_each(|vector| self.connect(vector, None));
        }
        for vector in vectors {
            let slot = usize::try_from(vector)
                .ok()
                .and_then(|slot| self.vectors.get(slot));
            if let Some(event) = slot.ok_or(Errno::INVAL)? {
                event.raise();
            }
        }
        Ok(())
    }
}

fn dma_error(error: &DmaError) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
