//! A disk, asked by a driver.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_blk::*;
use vm_memory::Bytes;
use vmm_adapter::MmioDevice;

use super::super::rig::{BUFFERS, Dice, LENT, Part, Rig, torment};
use super::image::Image;
use super::*;

const SECTORS: u64 = 64;

/// A file of a test's own, gone after it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(len: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("microvm-disk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, (0..len).map(|at| (at / 512) as u8 ^ at as u8).collect::<Vec<u8>>()).unwrap();
        Self(path)
    }

    fn disk(&self, read_only: bool) -> Block {
        Block::new(Image::open(&self.0, read_only, "serial-1").unwrap())
    }

    fn bytes(&self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut data = vec![0; sectors * 512];
        fs::File::open(&self.0).unwrap().read_exact_at(&mut data, sector * 512).unwrap();
        data
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// The status of a request that gives data.
fn give(rig: &mut Rig, kind: u32, sector: u64, data: &[u8]) -> u8 {
    let parts = [Part::Give(&header(kind, sector)), Part::Give(data), Part::Take(1)];
    *rig.request(0, &parts).unwrap().last().unwrap()
}

fn read(rig: &mut Rig, sector: u64, len: u32) -> (Vec<u8>, u8) {
    let header = header(VIRTIO_BLK_T_IN, sector);
    let mut data = rig.request(0, &[Part::Give(&header), Part::Take(len), Part::Take(1)]).unwrap();
    let status = data.pop().unwrap();
    (data, status)
}

#[test]
fn what_is_written_is_read_and_in_the_file() {
    let file = Scratch::new(SECTORS as usize * 512);
    let mut rig = Rig::started(file.disk(false));
    assert_eq!(read(&mut rig, 3, 1024), (file.bytes(3, 2), 0));
    let data: Vec<u8> = (0..1536).map(|n| (n * 7) as u8).collect();
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_OUT, 10, &data), 0);
    assert_eq!(file.bytes(10, 3), data);
    assert_eq!(read(&mut rig, 10, 1536), (data, 0));
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_FLUSH, 0, b""), 0);
    // The header, the data and the status may be cut anywhere.
    let request = header(VIRTIO_BLK_T_OUT, 5);
    let parts = [
        Part::Give(&request[..3]),
        Part::Give(&request[3..]),
        Part::Give(&[1; 100]),
        Part::Give(&[2; 412]),
        Part::Take(1),
    ];
    assert_eq!(rig.request(0, &parts).unwrap(), [0]);
    assert_eq!(file.bytes(5, 1), [&[1; 100][..], &[2; 412]].concat());
    let joined = rig.request(0, &[Part::Give(&header(VIRTIO_BLK_T_IN, 5)), Part::Take(513)]).unwrap();
    assert_eq!((joined.len(), joined[512]), (513, 0));
}

#[test]
fn capacity_and_name_are_told() {
    let file = Scratch::new(SECTORS as usize * 512);
    let mut rig = Rig::started(file.disk(false));
    let mut capacity = [0; 8];
    rig.mmio.read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    let id = header(VIRTIO_BLK_T_GET_ID, 0);
    let name = rig.request(0, &[Part::Give(&id), Part::Take(20), Part::Take(1)]).unwrap();
    assert_eq!(name, b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn a_read_only_disk_is_told_and_kept() {
    let file = Scratch::new(SECTORS as usize * 512);
    let before = file.bytes(0, SECTORS as usize);
    let mut rig = Rig::started(file.disk(true));
    assert_eq!(rig.offered() & 0xffff & !(1 << 9 | 1 << 2), 1 << 5);
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_OUT, 0, &[0; 512]), 1);
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_DISCARD, 0, &range(0, 1, 0)), 1);
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(0, 1, 0)), 1);
    assert_eq!(read(&mut rig, 0, 512).1, 0);
    assert_eq!(file.bytes(0, SECTORS as usize), before);
}

#[test]
fn ranges_are_zeroed_and_discarded() {
    let file = Scratch::new(SECTORS as usize * 512);
    let mut rig = Rig::started(file.disk(false));
    let two = [range(1, 2, 0), range(8, 8, 1)].concat();
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, &two), 0);
    assert_eq!((file.bytes(1, 2), file.bytes(8, 8)), (vec![0; 1024], vec![0; 4096]));
    assert_ne!(file.bytes(3, 1), [0; 512]);
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_DISCARD, 0, &range(16, 8, 0)), 0);
    assert_eq!(fs::metadata(&file.0).unwrap().len(), SECTORS * 512);
    for (kind, ranges, want) in [
        (VIRTIO_BLK_T_WRITE_ZEROES, range(SECTORS - 1, 2, 0), VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_DISCARD, range(u64::MAX, 2, 0), VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_DISCARD, range(0, 1, 1), VIRTIO_BLK_S_UNSUPP),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, 2), VIRTIO_BLK_S_UNSUPP),
        (VIRTIO_BLK_T_WRITE_ZEROES, vec![0; 15], VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_WRITE_ZEROES, vec![0; 16 * 17], VIRTIO_BLK_S_IOERR),
    ] {
        assert_eq!(u32::from(give(&mut rig, kind, 0, &ranges)), want, "{ranges:?}");
    }
}

#[test]
fn what_is_not_on_the_disk_fails_and_what_is_unknown_is_said() {
    let file = Scratch::new(SECTORS as usize * 512);
    let mut rig = Rig::started(file.disk(false));
    for (sector, len) in
        [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100)]
    {
        assert_eq!(read(&mut rig, sector, len).1, 1, "{sector} {len}");
        assert_eq!(give(&mut rig, VIRTIO_BLK_T_OUT, sector, &vec![9; len as usize]), 1);
    }
    assert_eq!(give(&mut rig, 77, 0, &[0; 512]), 2);
    assert_eq!(fs::metadata(&file.0).unwrap().len(), SECTORS * 512);
    assert!(!rig.needs_reset());
}

#[test]
fn chains_that_break_the_rules_break_the_device_until_a_reset() {
    let file = Scratch::new(SECTORS as usize * 512);
    let mut rig = Rig::new(file.disk(false), true);
    let good = BUFFERS;
    let (next, write, indirect) = (1, 2, 4);
    for chain in [
        // Served, if nobody looked whether they come to an end.
        vec![(good, 16, next, 1), (good, 1, write | next, 1)],
        vec![(good, 16, next, 1), (good, 1, write | next, 300)],
        vec![(good, 16, next, 0)],                          // a loop
        vec![(good, 16, next, 300)],                        // out of the table
        vec![(good, 16, 0, 0)],                             // no status
        vec![(good, 8, next, 1), (good, 1, write, 0)],      // half a header
        vec![(good, 16, next, 1), (LENT, 1, write, 0)],     // lent memory
        vec![(LENT - 8, 16, next, 1), (good, 1, write, 0)], // across the end
        vec![(u64::MAX - 3, 16, next, 1), (good, 1, write, 0)],
        vec![(good, 1, write | next, 1), (good, 16, 0, 0)], // the wrong way round
        vec![(good, 16, indirect, 0)],                      // a table of nonsense
        vec![(good, 15, indirect, 0)],
        vec![(LENT, 16, indirect, 0)],
    ] {
        rig.memory.write_slice(&[0xff; 64], vm_memory::GuestAddress(good)).unwrap();
        rig.start(u64::MAX);
        rig.offer_descriptors(0, &chain);
        assert_eq!(rig.used(0), None, "{chain:x?}");
    }
    rig.start(u64::MAX);
    assert_eq!(read(&mut rig, 0, 512).1, 0, "it works again");
}

#[test]
fn it_survives_any_driver() {
    let file = Scratch::new(SECTORS as usize * 512);
    let mut rig = Rig::new(file.disk(false), true);
    let kinds = [0, 1, 4, 8, 11, 13, 99];
    torment(&mut rig, 600, |dice: &mut Dice| {
        let sector = if dice.below(4) == 0 { dice.roll() } else { dice.below(SECTORS) };
        header(kinds[dice.below(7) as usize], sector)
    });
    rig.start(u64::MAX);
    assert_eq!(give(&mut rig, VIRTIO_BLK_T_OUT, 7, &[3; 512]), 0);
    assert_eq!(fs::metadata(&file.0).unwrap().len(), SECTORS * 512, "the file is as long as before");
}

#[test]
fn images_that_cannot_be_are_explained() {
    let why = |path: &std::path::Path, read_only| Image::open(path, read_only, "").unwrap_err().to_string();
    let odd = Scratch::new(1000);
    assert!(why(&odd.0, false).contains("1000 bytes") && why(&odd.0, false).contains("truncate -s %512"));
    let empty = Scratch::new(0);
    assert!(why(&empty.0, false).contains("is empty"));
    assert!(why("/".as_ref(), true).contains("neither a file nor a block device"));
    assert!(why("/no/such/disk".as_ref(), true).contains("cannot open the disk /no/such/disk"));
    assert!(why("/dev/null".as_ref(), true).contains("neither"));
}

#[test]
fn a_disk_has_one_writer_or_readers() {
    let file = Scratch::new(512);
    let first = Image::open(&file.0, false, "").unwrap();
    let error = Image::open(&file.0, true, "").unwrap_err().to_string();
    assert!(error.contains("in use by another VM"), "{error}");
    drop(first);
    let _readers = [(); 2].map(|()| Image::open(&file.0, true, "").unwrap());
    assert!(Image::open(&file.0, false, "").is_err());
}
