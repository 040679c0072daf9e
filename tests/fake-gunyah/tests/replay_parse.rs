//! The recording's parser: what it takes, and what it says about anything else.
#![cfg(feature = "record")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use fake_gunyah::replay::parse;

const HEADER: &str = r#"{"format":"gunyah-recording","version":1,"page_size":4096}"#;
const GOOD: [&str; 6] = [
    r#"{"t":1,"us":2,"tid":0,"op":"open","args":{"path":"/dev/gunyah"},"ret":0,"new":{"kind":"device","n":0}}"#,
    r#"{"t":2,"op":"GH_CREATE_VM","obj":{"kind":"device","n":0},"args":{"arg":"0x0"},"ret":0,"new":{"kind":"vm","n":0}}"#,
    r#"{"t":3,"op":"GH_VM_ADD_FUNCTION","obj":{"kind":"vm","n":0},"ret":0,"new":{"kind":"vcpu","n":0}}"#,
    r#"{"t":4,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"answer":{"immediate_exit":1,"data":"00"},"errno":"EINTR","page":{"exit_reason":1,"mmio":{"phys_addr":"0xffffffffffffffff","len":200,"is_write":255,"data":"0102030405060708","resume_action":2},"stale":true}}"#,
    r#"{"t":5,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"ret":0,"page":{"exit_reason":3,"page_fault":{"phys_addr":"0x80001000","attempt":-2,"resume_action":1}}}"#,
    r#"{"t":6,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"end":"unfinished","new_in_version_2":[1,{"a":null}]}"#,
];

fn text(lines: &[&str]) -> Vec<u8> {
    format!("{HEADER}\n{}\n", lines.join("\n")).into_bytes()
}

#[test]
fn what_is_read_is_written_again() {
    let recording = parse(&text(&GOOD)).unwrap();
    let lines: Vec<String> =
        recording.events.iter().map(|(_, e)| serde_json::to_string(e).unwrap()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(parse(&text(&lines)).unwrap(), recording);
    let page = |n: usize| recording.events[n].1.page.unwrap();
    assert!(
        page(3).stale
            && page(3).exit[..16] == [255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4, 5, 6, 7, 8]
    );
    assert_eq!(page(3).exit[16..], [200, 0, 0, 0, 255, 2, 0, 0]);
    assert_eq!(page(4).exit[..13], [0, 0x10, 0, 0x80, 0, 0, 0, 0, 254, 255, 255, 255, 1]);
    // Lines of other systems, and empty ones.
    let odd = String::from_utf8(text(&GOOD)).unwrap().replace('\n', "\r\n\r\n");
    assert_eq!(parse(odd.as_bytes()).unwrap().events.len(), GOOD.len());
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let header = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(header(""), "line 1: no header");
    assert_eq!(header("\n"), "line 1: no header");
    assert_eq!(header("hello"), "line 1: expected value (column 1)");
    assert_eq!(header("{}"), "line 1: missing field `format` (column 2)");
    let other = HEADER.replace("gunyah-recording", "perf");
    assert_eq!(header(&other), "line 1: the format is `perf`, not `gunyah-recording`");
    assert_eq!(header(&HEADER.replace(":1", ":2")), "line 1: version 2; this program reads 1");
    assert_eq!(header(&HEADER.replace("4096", "4095")), "line 1: a page size of 4095 bytes");
    assert_eq!(header(&HEADER.replace("4096", "0")), "line 1: a page size of 0 bytes");

    // One line of the good ones, changed: what is said.
    let changed = |n: usize, from: &str, to: &str| {
        let line = GOOD[n].replace(from, to);
        assert_ne!(line, GOOD[n]);
        let mut lines = GOOD;
        lines[n] = &line;
        let error = parse(&text(&lines)).unwrap_err();
        assert_eq!(error.line, n + 2, "{error}");
        error.why
    };
    assert_eq!(changed(0, "\"ret\":0", "\"ret\":-1"), "`ret` is negative: an error is an `errno`");
    for (n, from, to, why) in [
        (0, r#""ret":0,"#, "", "needs exactly one of `ret`, `errno` and `end`"),
        (0, r#""ret":0"#, r#""ret":0,"errno":"EIO""#, "needs exactly one of `ret`, `errno` and `end`"),
        (0, r#""ret":0"#, r#""errno":"EIO""#, "`open` has made device0, but not succeeded"),
        (0, r#""op":"open""#, r#""op":"open","obj":{"kind":"device","n":0}"#, "an `open` on device0"),
        (0, r#""device""#, r#""vm""#, "`open` cannot make vm0"),
        (0, r#""device""#, r#""disk""#, "unknown variant `disk`"),
        (0, r#""t":1"#, r#""t":-1"#, "invalid value: integer `-1`"),
        (0, r#""tid":0"#, r#""tid":4294967296"#, "invalid value: integer `4294967296`"),
        (1, r#""obj":{"kind":"device","n":0},"#, "", "`GH_CREATE_VM` without `obj`"),
        (1, r#""new":{"kind":"vm""#, r#""new":{"kind":"device""#, "`GH_CREATE_VM` cannot make device0"),
        (2, r#""kind":"vm""#, r#""kind":"cma""#, "no earlier call has made cma0"),
        (2, r#""kind":"vcpu""#, r#""kind":"vm""#, "vm0 exists already"),
        (3, "EINTR", "EINTER", "no errno is called `EINTER`"),
        (3, r#""EINTR""#, "4096", "`errno` is not in 1 to 4095"),
        (3, r#""EINTR""#, "0", "`errno` is not in 1 to 4095"),
        (3, "0xffffffffffffffff", "0x10000000000000000", "is no number in hexadecimal"),
        (3, "0xffffffffffffffff", "16", "`16` is no number in hexadecimal with 0x"),
        (3, "0xffffffffffffffff", "0x+1", "`0x+1` is no number in hexadecimal with 0x"),
        (3, "0102030405060708", "010203040506070", "`010203040506070` is not 8 bytes in hexadecimal"),
        (3, "0102030405060708", "ää030405060708", "is not 8 bytes in hexadecimal"),
        (3, r#""exit_reason":1"#, r#""exit_reason":2"#, "the page's fields don't belong to exit_reason 2"),
        (3, r#""exit_reason":1"#, r#""exit_reason":9"#, "the page's fields don't belong to exit_reason 9"),
        (
            3,
            r#"GH_VCPU_RUN","obj":{"kind":"vcpu""#,
            r#"GH_VM_START","obj":{"kind":"vm""#,
            "has a `page`, but not a vCPU",
        ),
        (5, "unfinished", "lost", "unknown variant `lost`"),
        (5, "}]}", "", "EOF while parsing"),
        // A value that is looked at is too deep; one that is skipped ends too early.
        (5, "null", &"[".repeat(500), "column"),
    ] {
        let said = changed(n, from, to);
        assert!(said.contains(why), "{from} -> {to}: {said}");
    }
}

#[test]
fn nothing_makes_it_panic() {
    // Every beginning of a good recording, and every byte of it turned into every one that JSON cares about.
    let good = text(&GOOD);
    let mut refused = 0;
    for end in 0..good.len() {
        refused += usize::from(parse(&good[..end]).is_err());
    }
    assert!(refused > good.len() / 2);
    let mut bytes = good.clone();
    for at in 0..bytes.len() {
        for byte in
            [b'"', b'{', b'}', b'[', b',', b':', b'\\', b'\n', b'0', b'9', b'-', b'e', b'.', 0, 0x80, 0xff]
        {
            let before = std::mem::replace(&mut bytes[at], byte);
            if let Err(error) = parse(&bytes) {
                assert!((1..=GOOD.len() + 3).contains(&error.line) && !error.why.is_empty());
            }
            bytes[at] = before;
        }
    }
    assert_eq!(bytes, good);
}
