//! What the kernel log says about earlier failures.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use super::super::Examination;
use super::super::finding::{Finding, Level};

/// A piece of a message, and what it means.
const MESSAGES: [(&str, &str); 9] = [
    (
        "Failed to allocate parcel",
        "guest memory could not be handed over: the limit of locked memory, or no memory",
    ),
    (
        "RM rejected message",
        "the Resource Manager refused a call; 51000012 and 51000013 give memory, 51000015 takes it back, 56000001 \
         allocates a VM id, 56000009 names the image, 5600000b and 56000004 start the VM",
    ),
    (
        "Failed to map guest address",
        "a page could not be mapped; error 10 is: the hypervisor's page tables are full",
    ),
    ("Failed to provide folio", "a page that the guest touched could not be had; -12 as above"),
    (
        "Assign memory protection call failed",
        "the firmware refused pages: not pinnable ones, or a VM id that it does not know",
    ),
    ("Failed to start VM", "a VM did not start"),
    ("HYP mode not available", "KVM cannot run: another hypervisor holds EL2"),
    ("premature", "a doorbell was rung before its VM had started, and is lost"),
    (
        "qcom_wdt_bark_handler",
        "a CPU stopped answering, such as by a vCPU that faults without a vector table",
    ),
];

pub(super) fn messages(examination: &Examination) -> Finding {
    let lines = match read(examination) {
        Ok(lines) => lines,
        Err(error) => {
            return Finding::new("log", Level::Note, format!("not readable for this user ({error})"))
                .advise("run as root, or look yourself: dmesg | grep -i -e gunyah -e RM");
        }
    };
    let mut met: BTreeMap<usize, (u64, String)> = BTreeMap::new();
    for line in &lines {
        // The rejection has a meaning only with Gunyah's driver as its author, and "premature" is an ordinary word.
        let ours = line.contains("gunyah") || line.contains("gh_");
        for (index, (piece, _)) in MESSAGES.iter().enumerate() {
            if line.contains(piece) && (*piece != "premature" || ours) {
                let entry = met.entry(index).or_insert((0, String::new()));
                entry.0 = entry.0.saturating_add(1);
                entry.1.clone_from(line);
            }
        }
    }
    let count = met.len();
    let mut finding = if count == 0 {
        Finding::new("log", Level::Good, "none of the known messages")
    } else {
        Finding::new("log", Level::Note, format!("{count} known kinds of messages"))
    };
    let mut kinds = Vec::new();
    for (index, (times, last)) in met {
        let Some((piece, meaning)) = MESSAGES.get(index) else { continue };
        finding = finding.detail(format!("{times} times: {meaning}")).detail(format!("   the last: {last}"));
        kinds.push(format!("{piece} x{times}"));
        if let Some(error) = rejection(&last) {
            finding = finding.detail(format!("   that is: {error}"));
        }
    }
    finding.fact("messages", kinds)
}

/// The number after "Error:" of a rejection, in words. Only those numbers that were seen with their errno.
fn rejection(line: &str) -> Option<&'static str> {
    let (_, rest) = line.split_once("RM rejected message")?;
    let number = rest.split_once("Error: ")?.1.split_whitespace().next()?;
    (number.trim_end_matches('.') == "7")
        .then_some("no memory (ENOMEM), as with a low limit of locked memory")
}

/// The messages of the log, without their times.
fn read(examination: &Examination) -> io::Result<Vec<String>> {
    let path = examination.root.path("dev/kmsg");
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut lines = Vec::new();
    let mut record = vec![0; 16384];
    loop {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or(&[])).into_owned();
                lines.extend(text.lines().filter(|line| !line.starts_with(' ')).map(message));
            }
            // The end of the log, for now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The record was overwritten meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines)
}

/// A record is `priority,number,time,flags;message`. A line of a copied log is the message.
fn message(line: &str) -> String {
    match line.split_once(';') {
        Some((head, text)) if head.starts_with(|c: char| c.is_ascii_digit()) => text.to_owned(),
        _ => line.to_owned(),
    }
}
