//! The interrupt controller against another implementation: guests that do anything to a GICv3 and print what its registers
//! say, with what they printed on an emulator's.
//!
//! `golden.txt` has a hash of each guest's output. It was made by QEMU's machine `virt`:
//! `GIC_QEMU=1 cargo test -p fake-gunyah --test gic_golden` (Debian: qemu-system-arm) runs every guest there too, says
//! where the outputs part, and writes the file again. Guests do nothing that implementations may differ in: they write
//! priorities of five bits, end what they took last, and leave a group on at the CPU.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../a64_support/mod.rs"]
mod a64_support;
mod guest;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use a64_support::{Log, VecRam};
use fake_gunyah::hyp::gic::GicLayout;
use fake_gunyah::hyp::machine::Machine;
use fake_gunyah::hyp::state;
use guest::{GIC, RAM, UART};

const GUESTS: u64 = 60;

/// What a guest prints on this crate's GIC.
fn print_here(image: &[u8]) -> Vec<u8> {
    let log = std::sync::Arc::new(Log::default());
    let ram = VecRam::new(RAM, 2 << 20, image);
    let layout = GicLayout {
        distributor: GIC.distributor,
        redistributors: GIC.redistributors,
        redistributors_size: 0x2_0000,
    };
    let machine = Machine::with_gic(ram, log.clone(), 1, Some(layout));
    let mut engine = machine.engine(0);
    machine.start(RAM, 0);
    let mut output = Vec::new();
    while log.exits.lock().unwrap().is_empty() {
        let response = engine.vcpu_run([0; 3], &|| false).unwrap();
        match (response.state, response.data) {
            (state::MMIO_WRITE, [UART, 4, value]) => output.push(value as u8),
            (state::POWERED_OFF, _) => {}
            other => panic!("{other:x?}, {:?}", machine.faults()),
        }
    }
    output
}

/// And on QEMU's.
fn print_on_qemu(image: &[u8], directory: &Path) -> Vec<u8> {
    let (code, serial) = (directory.join("image"), directory.join("serial"));
    std::fs::write(&code, image).unwrap();
    let status = Command::new("qemu-system-aarch64")
        .args(["-M", "virt,gic-version=3", "-cpu", "cortex-a57", "-m", "64", "-nic", "none"])
        .args(["-display", "none", "-monitor", "none"])
        .args(["-serial", &format!("file:{}", serial.display())])
        .args(["-device", &format!("loader,file={},addr={RAM:#x},force-raw=on", code.display())])
        .args(["-device", &format!("loader,addr={RAM:#x},cpu-num=0")])
        .status()
        .unwrap_or_else(|error| panic!("qemu-system-aarch64: {error}"));
    assert!(status.success(), "{status}");
    std::fs::read(serial).unwrap()
}

/// FNV-1a
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The first word that differs, and the 40 lines before it.
fn compare(seed: u64, notes: &[guest::Note], here: &[u8], there: &[u8]) {
    let word = |bytes: &[u8], n: usize| {
        bytes.get(4 * n..4 * n + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap()))
    };
    let (mut printed, mut history) = (0, Vec::new());
    for note in notes {
        match note {
            guest::Note::Does(what) => history.push(what.clone()),
            guest::Note::Prints(what) => {
                let (here, there) = (word(here, printed), word(there, printed));
                history.push(format!("{what}: {here:x?}, there {there:x?}"));
                printed += 1;
                let last = &history[history.len().saturating_sub(40)..];
                assert_eq!(here, there, "guest {seed}: {what}\n{}", last.join("\n"));
            }
        }
    }
    assert_eq!(here.len(), there.len(), "guest {seed}");
}

#[test]
fn another_implementation_prints_the_same() {
    let golden = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gic_golden/golden.txt"));
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let qemu = std::env::var_os("GIC_QEMU").is_some();
    let mut lines = String::new();
    let mut taken = 0;
    for seed in 1..=GUESTS {
        let (image, notes) = guest::random(seed);
        let output = print_here(&image);
        if qemu {
            compare(seed, &notes, &output, &print_on_qemu(&image, scratch));
        }
        taken += guest::taken(&notes, &output);
        writeln!(lines, "{seed} {} {:016x}", output.len(), hash(&output)).unwrap();
    }
    assert!(taken > GUESTS as usize, "only {taken} interrupts were taken");
    if qemu {
        std::fs::write(&golden, &lines).unwrap();
    }
    let golden = std::fs::read_to_string(&golden).unwrap();
    assert_eq!(lines.lines().count(), golden.lines().count());
    for (line, want) in lines.lines().zip(golden.lines()) {
        assert_eq!(line, want, "GIC_QEMU=1 says where the outputs part");
    }
}
