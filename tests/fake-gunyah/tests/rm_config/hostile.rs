//! Trees that lie: damaged, cut off, and mutated at random. None may panic, hang or be taken for good.

use std::time::{Duration, Instant};

use fake_gunyah::rm::{Parcel, Range, read_vm_config, write_overlay};

use crate::tree::{blob, good, words};

fn why(bytes: &[u8]) -> String {
    let error = read_vm_config(bytes).unwrap_err();
    assert_eq!(error.error.errno(), libc::ENODEV, "{error}");
    error.why
}

fn with_header(index: usize, value: u32) -> Vec<u8> {
    let mut bytes = good().blob();
    bytes[index * 4..index * 4 + 4].copy_from_slice(&value.to_be_bytes());
    bytes
}

#[test]
fn a_header_that_lies() {
    assert!(why(&[]).contains("0 bytes"));
    assert!(why(&[0; 4096]).contains("no devicetree"));
    assert!(why(&0xd00d_feed_u32.to_be_bytes()).contains("version"));
    let len = good().blob().len() as u32;
    for (index, value, part) in [
        (0, 0xedfe_0dd0, "no devicetree"),
        (1, len + 1, "bytes, the buffer has"),
        (1, u32::MAX, "bytes, the buffer has"),
        (2, u32::MAX - 3, "structure block"),
        (2, len + 4 - len % 4, "structure block"),
        (2, 57, "aligned"),
        (3, u32::MAX, "strings block"),
        (5, 15, "version 15"),
        (6, 18, "compatible down to 18"),
        (8, u32::MAX, "strings block"),
        (9, u32::MAX, "structure block"),
        (9, 8, "no end mark"),
    ] {
        let why = why(&with_header(index, value));
        assert!(why.contains(part), "word {index} = {value:#x}: {why}");
    }
}

#[test]
fn the_older_layout_is_read_without_its_structure_size() {
    let mut bytes = with_header(5, 16);
    bytes[36..40].copy_from_slice(&[0xff; 4]);
    assert_eq!(read_vm_config(&bytes).map(|vm| vm.vcpus), Ok(2));
}

#[test]
fn a_structure_that_lies() {
    let name = u32::from_be_bytes(*b"abcd");
    for (structure, part) in [
        (&[][..], "no end mark"),
        (&[9], "no root"),
        (&[2, 9], "a node ends that was not begun"),
        (&[1, 0, 9], "ends inside a node"),
        (&[1, 0, 2, 1, 0, 2, 9], "more than one root"),
        (&[1, 0, 7, 9], "0x7 is no token"),
        (&[3, 0, 0, 1, 0, 2, 9], "outside of every node"),
        (&[1, 0, 3], "cut off"),
        (&[1, 0, 3, 0], "cut off"),
        (&[1, 0, 3, 1000, 0, 2, 9], "cut off"),
        (&[1, 0, 3, u32::MAX, 0, 2, 9], "cut off"),
        (&[1, 0, 3, 0, 1000, 2, 9], "strings block"),
        (&[1, 0, 3, 0, 2, 2, 9], "strings block"),
        (&[1, 0xffff_ff00, 2, 9], "no text"),
        (&[1, name, name, name], "no text or too long"),
    ] {
        // The strings block is one name, then one without its NUL.
        let why = why(&blob(&words(structure), b"a\0b"));
        assert!(why.contains(part), "{structure:?}: {why}");
    }
    let deep: Vec<u32> = [1, 0].repeat(100);
    assert!(why(&blob(&words(&deep), b"")).contains("deeper than 64"));
    let mut long = vec![1];
    long.extend([name; 64]);
    long.extend([0, 2, 9]);
    assert!(why(&blob(&words(&long), b"")).contains("too long"));
    assert!(why(&blob(&words(&[4, 1, 0, 4, 2, 4, 9]), b"")).contains("no VM is described"));
}

#[test]
fn every_cut_is_noticed() {
    let whole = good().blob();
    for len in 0..whole.len() {
        assert!(read_vm_config(&whole[..len]).is_err(), "cut to {len} bytes");
        // The same with a header that claims the shorter length.
        let mut short = whole[..len].to_vec();
        if let Some(total) = short.get_mut(4..8) {
            total.copy_from_slice(&(len as u32).to_be_bytes());
            assert!(read_vm_config(&short).is_err(), "cut to {len} bytes with a header that agrees");
        }
    }
}

/// A generator of numbers that are different enough, and the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn no_mutation_makes_it_panic() {
    let whole = good().blob();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut good, mut bad, mut written) = (0, 0, 0);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(bytes.len());
            match numbers.below(3) {
                0 => bytes[at] = numbers.below(256) as u8,
                1 => bytes[at] ^= 1 << numbers.below(8),
                _ => {
                    let word = [0, 1, 2, 3, 4, 9, u32::MAX, 0x7fff_ffff][numbers.below(8)].to_be_bytes();
                    let at = at / 4 * 4;
                    if let Some(slot) = bytes.get_mut(at..at + 4) {
                        slot.copy_from_slice(&word);
                    }
                }
            }
        }
        match read_vm_config(&bytes) {
            Ok(vm) => {
                good += 1;
                bytes.resize(bytes.len() + 8192, 0);
                let range = Range { address: numbers.below(1 << 40) as u64, size: 0x1000 };
                let label = Some(numbers.below(2) as u32);
                let image = Parcel { label, range, lent: true, image: true };
                // What it writes is a tree again, with the node that it must not have had.
                if let Ok(tree) = write_overlay(&bytes, &vm, &[image], None) {
                    let again = read_vm_config(&tree).unwrap_err().why;
                    assert!(again.contains("/hypervisor"), "{again}");
                    written += 1;
                }
            }
            Err(error) => {
                assert!(!error.why.is_empty());
                bad += 1;
            }
        }
    }
    // Both happen often, or the mutations test nothing.
    assert!(good > 1000 && bad > 1000 && written > 1000, "{good} good, {written} written, {bad} bad");
}

/// Trees that would take for ever if any step were quadratic: two megabytes each. The limit is a watchdog, not a
/// measure: these take milliseconds, and minutes if something is wrong.
#[test]
fn large_trees_take_linear_time() {
    let started = Instant::now();
    let nodes: Vec<u32> = [1, 0].into_iter().chain([1, 0, 2].repeat(170_000)).chain([2, 9]).collect();
    assert!(why(&blob(&words(&nodes), b"")).contains("no VM is described"));

    let properties: Vec<u32> = [1, 0].into_iter().chain([3, 0, 0].repeat(170_000)).chain([2, 9]).collect();
    let long_name = vec![b'x'; 1 << 20];
    assert!(why(&blob(&words(&properties), &long_name)).contains("strings block"));
    let longest_name = [vec![b'x'; 255], vec![0]].concat();
    assert!(why(&blob(&words(&properties), &longest_name)).contains("no VM is described"));

    let mut many_cpus = good();
    let cpu = many_cpus.at("cpus/cpu@1").clone();
    many_cpus.at("cpus").children.extend(std::iter::repeat_n(cpu, 20_000));
    assert_eq!(read_vm_config(&many_cpus.buffer()).unwrap().vcpus, 20_002);

    let mut many_bells = good();
    let bell = many_bells.at("gunyah-vm-config/vdevices/bell-0").clone();
    many_bells.at("gunyah-vm-config/vdevices").children.extend(std::iter::repeat_n(bell, 20_000));
    let buffer = many_bells.buffer();
    let vm = read_vm_config(&buffer).unwrap();
    assert_eq!(vm.doorbells.len(), 20_002);
    let range = Range { address: 0, size: 0x1000 };
    let image = Parcel { label: Some(0), range, lent: true, image: true };
    write_overlay(&buffer, &vm, &[image], None).unwrap();
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}
