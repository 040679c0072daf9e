//! A request of the driver: the buffers that it gave, checked.

use std::collections::VecDeque;
use std::io;
use std::ops::Deref;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryBackend, ReadVolatile, VolatileSlice, WriteVolatile};
use vmm_adapter::SharedMemory;

use super::Broken;
use super::dma::Dma;

/// A request.
#[derive(Debug)]
pub(crate) struct Chain<'m> {
    /// What the driver knows it by.
    pub(crate) head: u16,
    /// What the driver wrote for the device.
    pub(crate) readable: Buffers<'m>,
    /// What the device is to fill.
    pub(crate) writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Takes a chain of descriptors apart.
    ///
    /// A chain that ends before it says so (a loop, a number out of range, a table out of reach) breaks the device, and so
    /// does a buffer out of its reach: nothing that follows could be trusted.
    pub(crate) fn parse<M>(dma: &'m Dma, chain: DescriptorChain<M>) -> Result<Self, Broken>
    where
        M: Deref<Target = SharedMemory>,
    {
        let head = chain.head_index();
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        let mut ended = false;
        for descriptor in chain {
            ended = !descriptor.has_next();
            let buffers = if descriptor.is_write_only() {
                &mut writable
            } else if writable.is_empty() {
                &mut readable
            } else {
                return Err(Broken::new("a buffer to read comes behind one to write"));
            };
            buffers.push(dma, descriptor.addr(), descriptor.len())?;
        }
        if ended { Ok(Self { head, readable, writable }) } else { Err(Self::endless()) }
    }

    pub(crate) fn endless() -> Broken {
        Broken::new(
            "a chain of descriptors loops, or points out of its table or of the memory that devices can reach",
        )
    }
}

/// Buffers in guest memory, one behind the other. Reading and writing use them up.
#[derive(Debug, Default)]
pub(crate) struct Buffers<'m>(VecDeque<VolatileSlice<'m>>);

impl<'m> Buffers<'m> {
    fn push(&mut self, dma: &'m Dma, addr: vm_memory::GuestAddress, len: u32) -> Result<(), Broken> {
        let len = usize::try_from(len).map_err(|_| Broken::new("a buffer is too large"))?;
        for slice in dma.memory().get_slices(addr, len) {
            self.0.push_back(slice.map_err(|_| dma.out_of_reach("a buffer", addr))?);
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes are left.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum, slice| sum.saturating_add(slice.len() as u64))
    }

    /// Fills `out`, if there is that much.
    pub(crate) fn read_exact(&mut self, mut out: &mut [u8]) -> Option<()> {
        if self.len() < out.len() as u64 {
            return None;
        }
        while !out.is_empty() {
            let slice = self.next(out.len())?;
            let (now, rest) = std::mem::take(&mut out).split_at_mut_checked(slice.len())?;
            slice.copy_to(now);
            out = rest;
        }
        Some(())
    }

    /// Reads as much as fits. Answers how much that was.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> usize {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX).min(out.len());
        out.get_mut(..len).and_then(|out| self.read_exact(out)).map_or(0, |()| len)
    }

    /// Writes as much as there is room for. Answers how much that was.
    pub(crate) fn write(&mut self, mut data: &[u8]) -> usize {
        let mut written: usize = 0;
        while let Some(slice) = self.next(data.len()) {
            let Some((now, rest)) = data.split_at_checked(slice.len()) else { break };
            slice.copy_from(now);
            written = written.saturating_add(now.len());
            data = rest;
        }
        written
    }

    /// Fills all of it from `source`, without a copy in between.
    pub(crate) fn fill_from(&mut self, source: &mut impl ReadVolatile) -> io::Result<()> {
        while let Some(mut slice) = self.0.pop_front() {
            source.read_exact_volatile(&mut slice).map_err(io_error)?;
        }
        Ok(())
    }

    /// Gives all of it to `sink`, without a copy in between.
    pub(crate) fn drain_to(&mut self, sink: &mut impl WriteVolatile) -> io::Result<()> {
        while let Some(slice) = self.0.pop_front() {
            sink.write_all_volatile(&slice).map_err(io_error)?;
        }
        Ok(())
    }

    /// Cuts off all but the first `len` bytes, and gives them. `None`: there are not that many.
    pub(crate) fn split_off(&mut self, len: u64) -> Option<Self> {
        let mut room = usize::try_from(len).ok()?;
        for (index, slice) in self.0.iter().enumerate() {
            if room < slice.len() {
                let (front, back) = slice.split_at(room).ok()?;
                let mut rest = self.0.split_off(index);
                rest.pop_front();
                rest.push_front(back);
                if !front.is_empty() {
                    self.0.push_back(front);
                }
                return Some(Self(rest));
            }
            room -= slice.len();
        }
        (room == 0).then(Self::default)
    }

    /// The next piece, of `most` bytes at most. `None` at the end, and when none are wanted.
    fn next(&mut self, most: usize) -> Option<VolatileSlice<'m>> {
        if most == 0 {
            return None;
        }
        let slice = self.0.pop_front()?;
        match slice.split_at(most) {
            Ok((now, rest)) => {
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
                Some(now)
            }
            // It is shorter.
            Err(_) => Some(slice),
        }
    }
}

fn io_error(error: vm_memory::VolatileMemoryError) -> io::Error {
    match error {
        vm_memory::VolatileMemoryError::IOError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
