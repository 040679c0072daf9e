//! The VMM's devices, as a vCPU sees them.

use vm_memory::GuestAddress;

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOutcome {
    /// A device took it.
    Handled,
    /// Nobody is there.
    ///
    /// Where the hypervisor can ([`Feature::MmioFault`](crate::Feature::MmioFault)), the guest takes a synchronous
    /// external abort. Elsewhere a read gives all ones and a write is dropped.
    Unclaimed,
}

/// The VMM's devices. A vCPU calls this from within [`Vcpu::run`](crate::Vcpu::run), on the thread that runs it.
///
/// The width of an access is the length of `data`: 1, 2, 4 or 8 bytes. Bytes are in the order of their addresses
/// (little endian for a number). The address need not be outside of guest memory: a guest that writes to read-only
/// memory comes here too. On x86_64 KVM cuts an access that crosses a page in two, and the pieces can have any length below 8.
pub trait IoHandler: Sync {
    /// The guest loads. `data` comes filled with zeros; for [`IoOutcome::Unclaimed`] it is ignored.
    fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome;

    /// The guest stores.
    fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome;

    /// The guest loads from a port, 1, 2 or 4 bytes; as [`IoHandler::mmio_read`]. Only where there is
    /// [`Feature::PortIo`](crate::Feature::PortIo). Without an implementation nobody is at any port.
    fn pio_read(&self, _port: u16, _data: &mut [u8]) -> IoOutcome {
        IoOutcome::Unclaimed
    }

    /// The guest stores to a port. Never a fault, also where nobody is.
    fn pio_write(&self, _port: u16, _data: &[u8]) -> IoOutcome {
        IoOutcome::Unclaimed
    }
}
