//! The memory that comes with a devicetree, and whether the two fit.

use super::config::VmDescription;
use super::error::RmError;
use super::memory::Range;

/// A piece of the VM's memory at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The label under which the Resource Manager knows it. `None`: the driver gives it page by page, later.
    pub label: Option<u32>,
    /// Where the guest finds it.
    pub range: Range,
    /// The host has lost its access to it.
    pub lent: bool,
    /// It holds the devicetree: the VM's image.
    pub image: bool,
}

/// Checks a VM's memory against its description. `shared_image`: this Resource Manager starts an image that the host still
/// reaches.
///
/// Returns what a real one would log.
///
/// # Errors
/// `NORESOURCE` for a shared image that is not taken (seen), for a shared parcel beside a lent image without an `shm` device
/// of its label (known to be refused; code chosen), and for an `shm` device that is not `optional` and has no parcel (chosen).
pub fn check_parcels(
    vm: &VmDescription,
    parcels: &[Parcel],
    shared_image: bool,
) -> Result<Vec<String>, RmError> {
    let image_lent = parcels.iter().any(|parcel| parcel.image && parcel.lent);
    if !image_lent && !shared_image {
        return Err(RmError::missing(
            "the image is shared, and only a debug build starts such a VM: lend it",
        ));
    }
    let shared = || parcels.iter().filter(|parcel| !parcel.image && !parcel.lent);
    if image_lent {
        for parcel in shared() {
            let known = |label| vm.shm.iter().any(|shm| shm.label == label);
            if let Some(label) = parcel.label.filter(|label| !known(*label)) {
                return Err(RmError::missing(format!(
                    "the shared memory at {:#x} beside lent memory needs a vdevice of type shm with the label {label}",
                    parcel.range.address
                )));
            }
        }
    }
    let mut warnings = Vec::new();
    for shm in &vm.shm {
        match shared().find(|parcel| parcel.label == Some(shm.label)) {
            None if shm.optional => {}
            None => {
                return Err(RmError::missing(format!(
                    "the shm of label {} is not optional, and no shared parcel has its label",
                    shm.label
                )));
            }
            Some(parcel) => {
                if let Some(base) = shm.base.filter(|base| *base != parcel.range.address) {
                    warnings.push(format!(
                        "the shm of label {} has base {base:#x}, its memory was given at {:#x}",
                        shm.label, parcel.range.address
                    ));
                }
            }
        }
    }
    Ok(warnings)
}
