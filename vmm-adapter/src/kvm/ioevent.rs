//! ioeventfds.

use std::os::fd::{AsRawFd, RawFd};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::error;
use crate::error::{Error, Result};
use crate::vm::IoEventMatch;

/// What is bound.
#[derive(Debug, Default)]
pub(super) struct IoEvents(Vec<IoEvent>);

#[derive(Debug)]
struct IoEvent {
    addr: u64,
    want: IoEventMatch,
    /// The caller's, by which it unbinds.
    theirs: RawFd,
    /// KVM unbinds by an eventfd, and the caller may have closed its own.
    event: EventFd,
}

impl IoEvents {
    pub(super) fn add(
        &mut self,
        vm: &VmFd,
        fd: &EventFd,
        addr: GuestAddress,
        want: IoEventMatch,
    ) -> Result<()> {
        const OP: &str = "register_ioevent";
        check(OP, addr.0, want)?;
        if self.0.iter().any(|other| other.addr == addr.0 && overlap(other.want, want)) {
            let why = format!("another ioevent at {:#x} matches the same stores", addr.0);
            return Err(Error::invalid(OP, why));
        }
        let event = fd.try_clone().map_err(error::os(OP))?;
        let at = IoEventAddress::Mmio(addr.0);
        // The width of a value is that of its type.
        match want {
            IoEventMatch::Any => vm.register_ioevent(&event, &at, NoDatamatch),
            IoEventMatch::Value { width: 1, value } => vm.register_ioevent(&event, &at, value as u8),
            IoEventMatch::Value { width: 2, value } => vm.register_ioevent(&event, &at, value as u16),
            IoEventMatch::Value { width: 4, value } => vm.register_ioevent(&event, &at, value as u32),
            IoEventMatch::Value { value, .. } => vm.register_ioevent(&event, &at, value),
        }
        .map_err(error::ioctl(OP, "KVM_IOEVENTFD"))?;
        self.0.push(IoEvent { addr: addr.0, want, theirs: fd.as_raw_fd(), event });
        Ok(())
    }

    pub(super) fn remove(
        &mut self,
        vm: &VmFd,
        fd: &EventFd,
        addr: GuestAddress,
        want: IoEventMatch,
    ) -> Result<()> {
        const OP: &str = "unregister_ioevent";
        let same =
            |event: &IoEvent| event.addr == addr.0 && event.want == want && event.theirs == fd.as_raw_fd();
        let Some(index) = self.0.iter().position(same) else {
            return Err(Error::invalid(OP, format!("no such ioevent at {:#x}", addr.0)));
        };
        let event = self.0.swap_remove(index).event;
        let at = IoEventAddress::Mmio(addr.0);
        match want {
            IoEventMatch::Any => vm.unregister_ioevent(&event, &at, NoDatamatch),
            IoEventMatch::Value { width: 1, value } => vm.unregister_ioevent(&event, &at, value as u8),
            IoEventMatch::Value { width: 2, value } => vm.unregister_ioevent(&event, &at, value as u16),
            IoEventMatch::Value { width: 4, value } => vm.unregister_ioevent(&event, &at, value as u32),
            IoEventMatch::Value { value, .. } => vm.unregister_ioevent(&event, &at, value),
        }
        .map_err(error::ioctl(OP, "KVM_IOEVENTFD"))
    }
}

fn check(op: &'static str, addr: u64, want: IoEventMatch) -> Result<()> {
    let IoEventMatch::Value { width, value } = want else { return Ok(()) };
    if !matches!(width, 1 | 2 | 4 | 8) {
        return Err(Error::invalid(op, format!("a width of {width} bytes: it must be 1, 2, 4 or 8")));
    }
    if width < 8 && value >> (8 * width) != 0 {
        return Err(Error::invalid(op, format!("the value {value:#x} does not fit {width} bytes")));
    }
    if addr.checked_add(u64::from(width)).is_none() {
        return Err(Error::invalid(op, format!("{addr:#x} + {width} wraps around")));
    }
    Ok(())
}

/// Whether some store matches both.
fn overlap(a: IoEventMatch, b: IoEventMatch) -> bool {
    a == IoEventMatch::Any || b == IoEventMatch::Any || a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_can_match_is_checked() {
        let value = |width, value| check("op", 0x1000, IoEventMatch::Value { width, value });
        for width in [1, 2, 4, 8] {
            value(width, 0xff).unwrap();
        }
        value(8, u64::MAX).unwrap();
        for (width, wrong) in [(0, 0), (3, 0), (16, 0), (1, 256), (4, 1 << 32)] {
            assert!(value(width, wrong).is_err(), "{width} {wrong:#x}");
        }
        assert!(check("op", u64::MAX, IoEventMatch::Value { width: 1, value: 0 }).is_err());
    }

    #[test]
    fn any_store_matches_with_every_other() {
        let (a, b) = (IoEventMatch::Value { width: 4, value: 1 }, IoEventMatch::Value { width: 4, value: 2 });
        assert!(overlap(a, a) && overlap(a, IoEventMatch::Any) && overlap(IoEventMatch::Any, b));
        assert!(!overlap(a, b) && !overlap(a, IoEventMatch::Value { width: 2, value: 1 }));
    }
}
