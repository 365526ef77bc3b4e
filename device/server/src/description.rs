//! What regions and interrupts a device has: all that the protocol asks of it before use.

use std::os::fd::OwnedFd;

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::IrqInfo;

/// A part of a region that the client may map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapArea {
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// One region of a device.
#[derive(Debug, Default)]
pub struct Region {
    /// Size in bytes; zero: the device has no such region.
    pub size: u64,
    /// `VFIO_REGION_INFO_FLAG_*`, other than `CAPS`, which follows from `areas`.
    pub flags: u32,
    /// Offset of the region in `file`.
    pub offset: u64,
    /// File that the client maps instead of sending messages.
    pub file: Option<OwnedFd>,
    /// Parts that may be mapped; none: all, if there is a file.
    pub areas: Vec<MmapArea>,
}

/// What regions and interrupts a device has, by their VFIO indices.
#[derive(Debug)]
pub struct Description {
    /// Regions by index.
    pub regions: Vec<Region>,
    /// Interrupts by index.
    pub irqs: Vec<IrqInfo>,
}

impl Description {
    /// A PCI function of one configuration space, BARs and MSI-X vectors. None of the regions
    /// is mappable: with one that is, QEMU waits for the reply to every register write.
    ///
    /// `bar_bytes` tells the size of a BAR by its number; zero: no such BAR.
    pub fn pci(config_bytes: u64, bar_bytes: impl Fn(u32) -> u64, msix_vectors: u32) -> Self {
        let regions = (0..VFIO_PCI_NUM_REGIONS)
            .map(|index| {
                let size = match index {
                    ..=VFIO_PCI_BAR5_REGION_INDEX => bar_bytes(index),
                    VFIO_PCI_CONFIG_REGION_INDEX => config_bytes,
                    _ => 0,
                };
                let flags = match size {
                    0 => 0,
                    _ => VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                };
                Region {
                    size,
                    flags,
                    ..Region::default()
                }
            })
            .collect();
        // The indices behind MSI-X (errors, and requests to give the device up) do not exist:
        // QEMU warns of one that exists and has no vectors.
        let irqs = (0..=VFIO_PCI_MSIX_IRQ_INDEX)
            .map(|index| {
                let (flags, count) = match index {
                    VFIO_PCI_MSIX_IRQ_INDEX => (VFIO_IRQ_INFO_EVENTFD, msix_vectors),
                    _ => (0, 0),
                };
                IrqInfo {
                    index,
                    flags,
                    count,
                }
            })
            .collect();
        Self { regions, irqs }
    }
}
