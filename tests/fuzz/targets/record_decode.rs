//! What the recorder makes of a program's ioctls: any request, any argument, any memory behind it.
#![no_main]

use fake_gunyah::record::decode_for_fuzzing;
use libfuzzer_sys::fuzz_target;

/// Half of the requests are those that exist.
const REQUESTS: [u32; 19] = [
    0x4700,
    0x4020_4701,
    0x4010_4702,
    0x4703,
    0x4010_4704,
    0x4705,
    0x4706,
    0x4010_4707,
    0x4040_4708,
    0x4020_4709,
    0x4010_470a,
    0x4110,
    0x4020_4111,
    0x4010_4112,
    0x4010_4113,
    0x4028_4115,
    0x4010_4116,
    0x4117,
    0x4010_b241,
];

fuzz_target!(|input: &[u8]| {
    let Some((head, memory)) = input.split_first_chunk::<6>() else { return };
    let [kind, near, word @ ..] = *head;
    let word = u32::from_le_bytes(word);
    let known = REQUESTS.get(usize::from(kind) / 2 % REQUESTS.len());
    let request = if kind % 2 == 0 { known.copied().unwrap_or(word) } else { word };
    let arg = if near < 0xf0 { 0x1000 + u64::from(near) } else { u64::from(word) << 32 | u64::from(near) };
    let line = decode_for_fuzzing(request, arg, memory);
    // One line, and no longer than a few structures: guest memory is not copied by mistake.
    assert!(!line.contains('\n') && line.len() < 4096, "{line}");
});
