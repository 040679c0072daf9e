//! The memory that comes with a tree, and the tree as the guest gets it.

use fake_gunyah::rm::{Parcel, Range, RmError, check_parcels, read_vm_config, write_overlay};

use crate::after;
use crate::tree::{Tree, good, text, wide, words};

const RAM: Range = Range { address: 0x8000_0000, size: 0x20_0000 };
const MORE: Range = Range { address: 0x9000_0000, size: 0x1000 };
const SHM: &str = "gunyah-vm-config/vdevices/shm-5";

fn image(lent: bool) -> Parcel {
    Parcel { label: Some(0), range: RAM, lent, image: true }
}

fn parcel(label: u32, range: Range, lent: bool) -> Parcel {
    Parcel { label: Some(label), range, lent, image: false }
}

/// Checks parcels against the good tree, which has a shm of label 5, after one change.
fn check(change: fn(&mut Tree), parcels: &[Parcel], shared_image: bool) -> Result<Vec<String>, RmError> {
    check_parcels(&after(change).unwrap(), parcels, shared_image)
}

fn refused(answer: Result<Vec<String>, RmError>, part: &str) {
    let error = answer.unwrap_err();
    assert_eq!(error.error.errno(), libc::ENODEV, "{error}");
    assert!(error.why.contains(part), "{error}");
}

#[test]
fn shared_memory_and_its_devices_belong_together() {
    let shared = parcel(5, MORE, false);
    assert_eq!(check(|_| (), &[image(true), shared], false), Ok(vec![]));
    refused(check(|_| (), &[image(true)], false), "the shm of label 5 is not optional");
    let optional: fn(&mut Tree) = |t| t.at(SHM).set("memory", "optional", vec![]);
    assert_eq!(check(optional, &[image(true)], false), Ok(vec![]));
    // Lent memory of that label is none.
    refused(check(|_| (), &[image(true), parcel(5, MORE, true)], false), "not optional");
    let without: fn(&mut Tree) = |t| t.remove(SHM);
    refused(check(without, &[image(true), shared], false), "needs a vdevice of type shm with the label 5");
    refused(check(optional, &[image(true), parcel(6, MORE, false)], false), "with the label 6");
    // Given page by page, the Resource Manager never hears of it.
    let unlabelled = Parcel { label: None, ..shared };
    assert_eq!(check(without, &[image(true), unlabelled], false), Ok(vec![]));
    // Where nothing is lent, nothing is beside it.
    assert_eq!(check(without, &[image(false), shared], true), Ok(vec![]));
    let elsewhere: fn(&mut Tree) = |t| t.at(SHM).set("memory", "base", wide(0xa000_0000));
    let warnings = check(elsewhere, &[image(true), shared], false).unwrap();
    assert!(warnings[0].contains("has base 0xa0000000, its memory was given at 0x90000000"), "{warnings:?}");
}

#[test]
fn a_shared_image_needs_a_debug_build() {
    let without: fn(&mut Tree) = |t| t.remove(SHM);
    refused(check(without, &[image(false)], false), "only a debug build");
    assert_eq!(check(without, &[image(false)], true), Ok(vec![]));
}

/// The good tree after a change and the Resource Manager's writing.
fn written(change: fn(&mut Tree), parcels: &[Parcel]) -> Result<Tree, RmError> {
    let mut tree = good();
    change(&mut tree);
    let buffer = tree.buffer();
    let blob = write_overlay(&buffer, &read_vm_config(&buffer).unwrap(), parcels, None)?;
    Ok(Tree::read(&blob))
}

/// The tree as it must be: the good one with these nodes put in place.
fn expected(memory: &[u32], reserved: Option<Tree>) -> Tree {
    let mut tree = good();
    tree.set("memory", "reg", words(memory));
    tree.children.extend(reserved);
    let bell = |label: u32, trigger: u32| {
        Tree::new(&format!("bell-{label:x}"))
            .with("compatible", text("qcom,gunyah-doorbell"))
            .with("label", words(&[label]))
            .with("interrupts", words(&[0, label, trigger]))
    };
    tree.children.push(
        Tree::new("hypervisor")
            .with("#address-cells", words(&[2]))
            .with("#size-cells", words(&[0]))
            .with("compatible", text("gunyah-hypervisor"))
            .child(bell(0, 1))
            .child(bell(33, 4)),
    );
    tree
}

const REG: [u32; 4] = [0, 0x8000_0000, 0, 0x20_0000];

#[test]
fn the_tree_is_written_anew_with_its_nodes() {
    assert_eq!(written(|_| (), &[image(true)]).unwrap(), expected(&REG, None));
    // Lent memory is RAM, and so is shared memory beside it.
    let more = [parcel(5, MORE, true), image(true), parcel(6, Range { address: 0xa000_0000, ..MORE }, false)];
    let reg = [&REG[..], &[0, 0x9000_0000, 0, 0x1000]].concat();
    let all = [&reg[..], &[0, 0xa000_0000, 0, 0x1000]].concat();
    assert_eq!(written(|_| (), &more).unwrap(), expected(&all, None));
    let plain = [parcel(5, MORE, false), image(false)];
    assert_eq!(written(|_| (), &plain).unwrap(), expected(&reg, None));
}

#[test]
fn another_label_is_a_buffer_that_the_guest_must_not_map() {
    let buffer = |reg: &[u32]| Tree::new("buffer@80000000").with("reg", words(reg)).flag("no-map");
    let reserved = |reg: &[u32]| {
        Tree::new("reserved-memory")
            .with("#address-cells", words(&[2]))
            .with("#size-cells", words(&[2]))
            .flag("ranges")
            .child(buffer(reg))
    };
    let named = Parcel { label: Some(3), ..image(true) };
    assert_eq!(written(|_| (), &[named]).unwrap(), expected(&REG, Some(reserved(&REG))));
    // One that is there says how its children are written.
    let own: fn(&mut Tree) = |t| {
        let node = Tree::new("reserved-memory").with("#size-cells", words(&[1])).flag("ranges");
        t.children.push(node);
    };
    let mut tree = expected(&REG, None);
    let node = Tree::new("reserved-memory").with("#size-cells", words(&[1])).flag("ranges");
    let at = tree.children.len() - 1;
    tree.children.insert(at, node.child(buffer(&[0, 0x8000_0000, 0x20_0000])));
    assert_eq!(written(own, &[named]).unwrap(), tree);
}

#[test]
fn firmware_is_no_ram() {
    let firmware = Range { address: 0x7fc0_0000, size: 0x40_0000 };
    let with: fn(&mut Tree) = |t| {
        t.set("gunyah-vm-config/memory", "firmware-address", wide(0x7fc0_0000));
        t.set("gunyah-vm-config/memory", "firmware-size-max", wide(0x40_0000));
    };
    let tree_of_guest = written(with, &[image(true), parcel(1, firmware, true)]).unwrap();
    let mut tree = expected(&REG, None);
    with(&mut tree);
    assert_eq!(tree_of_guest, tree);
}

#[test]
fn small_cells_hold_what_fits() {
    let narrow: fn(&mut Tree) = |t| {
        t.set("", "#address-cells", words(&[1]));
        t.set("", "#size-cells", words(&[1]));
    };
    let mut tree = expected(&[0x8000_0000, 0x20_0000], None);
    narrow(&mut tree);
    assert_eq!(written(narrow, &[image(true)]).unwrap(), tree);
    let high = Parcel { range: Range { address: 1 << 33, ..RAM }, ..image(true) };
    let error = written(narrow, &[high]).unwrap_err();
    assert_eq!(error.error.errno(), libc::EINVAL);
    assert!(error.why.contains("0x200000000 does not fit into 1 cells"), "{error}");
}

#[test]
fn a_tree_can_outgrow_its_buffer_and_its_manager() {
    let blob = good().blob();
    let vm = read_vm_config(&blob).unwrap();
    let error = write_overlay(&blob, &vm, &[image(true)], None).unwrap_err();
    assert_eq!(error.error.errno(), libc::ENOMEM, "{error}");
    let buffer = good().buffer();
    let whole = write_overlay(&buffer, &vm, &[image(true)], None).unwrap().len();
    let limited = |largest| write_overlay(&buffer, &vm, &[image(true)], Some(largest));
    assert_eq!(limited(whole).map(|blob| blob.len()), Ok(whole));
    assert_eq!(limited(whole - 1).unwrap_err().error.errno(), libc::EINVAL);
}

#[test]
fn the_header_is_kept() {
    let mut buffer = good().buffer();
    // A reservation in the place of the end mark, with the structure moved behind a new one.
    let (start, blob) = (56, good().blob());
    let mut moved = blob[..start].to_vec();
    moved[40..48].copy_from_slice(&0x1234_5000_u64.to_be_bytes());
    moved[48..56].copy_from_slice(&0x1000_u64.to_be_bytes());
    moved.extend([0; 16]);
    moved.extend(&blob[start..]);
    for word in [1, 2, 3] {
        let old = u32::from_be_bytes(moved[word * 4..word * 4 + 4].try_into().unwrap());
        moved[word * 4..word * 4 + 4].copy_from_slice(&(old + 16).to_be_bytes());
    }
    moved[28..32].copy_from_slice(&7_u32.to_be_bytes());
    buffer[..moved.len()].copy_from_slice(&moved);
    let vm = read_vm_config(&buffer).unwrap();
    let written = write_overlay(&buffer, &vm, &[image(true)], None).unwrap();
    assert_eq!(written[28..32], 7_u32.to_be_bytes(), "the boot CPU");
    assert_eq!(written[40..72], moved[40..72], "the reservations");
    assert_eq!(written[72..][..4], 1_u32.to_be_bytes());
}
