//! The reader of recordings: any bytes. What it takes names objects that exist.
#![no_main]

use fake_gunyah::replay::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match parse(input) {
        Ok(recording) => {
            assert!(recording.events.windows(2).all(|pair| pair[0].0 < pair[1].0), "lines out of order");
            assert_eq!(parse(input), Ok(recording));
        }
        Err(error) => assert!(!error.to_string().is_empty() && error.line > 0),
    }
});
