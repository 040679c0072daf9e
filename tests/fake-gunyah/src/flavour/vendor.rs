//! The vendors' interface of ioctl type 0xB2. It boots signed images by name, which nothing here can do; the fake
//! answers as its device does to somebody who asks in the wrong language.

use super::{Differences, v11};
use crate::errno::Errno;

pub(super) const DIFFERENCES: Differences = Differences {
    // Unknown ioctls are EINVAL everywhere: this is how to tell the interface.
    absent: Errno::EINVAL,
    absent_on_vcpu: Errno::EINVAL,
    gunyah: false,
    user_memory: false,
    ..v11::DIFFERENCES
};
