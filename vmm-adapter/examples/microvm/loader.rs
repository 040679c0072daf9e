//! Puts kernel, RAM disk and devicetree into guest memory.

use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::{BootContext, MemoryRegion, Vm};

use crate::cli::Options;
use crate::error::{Error, Result};
use crate::layout;
use crate::payload::{Blob, Kernel};

/// What the RAM disk's address and the tree's are aligned to: the largest page of arm64, and the smallest.
const INITRD_ALIGNMENT: u64 = 0x1_0000;
const TREE_PAGE: u64 = 4096;
/// A tree with its room beyond this was seen to make a Resource Manager fail.
const LARGEST_GOOD_TREE: u64 = 16 << 10;

/// Loads all of it. `tree` lacks what is known only here.
pub(crate) fn load(
    vm: &dyn Vm,
    ram: &MemoryRegion,
    kernel: &Kernel,
    initrd: Option<&Blob>,
    mut tree: GuestTree,
    options: &Options,
) -> Result<BootContext> {
    let kernel_end = kernel.end(ram.size())?;
    let entry = GuestAddress(layout::RAM.saturating_add(kernel.offset));
    kernel.image.load(ram, entry)?;
    let initrd_end = match initrd {
        None => kernel_end,
        Some(blob) => {
            let addr = GuestAddress(kernel_end.next_multiple_of(INITRD_ALIGNMENT));
            if !ram.contains(addr, blob.size) {
                return Err(Error::new(format!(
                    "the initrd is too big: {} KiB at {:#x} do not fit in {} KiB of memory (--memory)",
                    blob.size.div_ceil(1024),
                    addr.0,
                    ram.size() / 1024
                )));
            }
            blob.load(ram, addr)?;
            tree.initrd = Some((addr, blob.size));
            addr.0.saturating_add(blob.size)
        }
    };

    let blob = fdt::write(vm, &tree)?;
    if let Some(path) = &options.dtb {
        std::fs::write(path, &blob).map_err(|error| {
            Error::new(format!("cannot write the devicetree to {}: {error}", path.display()))
        })?;
    }
    let size = blob.len() as u64;
    let fdt_size = size.saturating_add(vm.tree_slack(size)).next_multiple_of(TREE_PAGE);
    if fdt_size > LARGEST_GOOD_TREE {
        eprintln!(
            "microvm: the devicetree takes {fdt_size} bytes; beyond {LARGEST_GOOD_TREE} some hosts fail to start"
        );
    }
    let ram_end = layout::RAM.saturating_add(ram.size());
    let fdt = GuestAddress(ram_end.saturating_sub(fdt_size) & !(TREE_PAGE - 1));
    if fdt.0 < initrd_end {
        return Err(Error::new(format!(
            "the devicetree needs {fdt_size} bytes behind kernel and initrd: give the guest more than {} KiB (--memory)",
            ram.size() / 1024
        )));
    }
    ram.write(fdt, &blob)?;
    Ok(BootContext { entry, fdt, fdt_size })
}
