//! The vsock device between a driver and programs of the host.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, GuestAddress};

use super::super::rig::{BUFFERS, Dice, Part, Rig, torment};
use super::packet::op;
use super::*;

const CID: u32 = 5;

/// The device, and where its sockets are.
fn device() -> (Rig, PathBuf) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("microvm-vsock-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    (Rig::started(Vsock::new(CID, Host::listen(&path).unwrap())), path)
}

fn listen(path: &std::path::Path, port: u32) -> UnixListener {
    let path = format!("{}_{port}", path.display());
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    // It stays usable for the test without its name, once connected.
    listener
}

/// A packet of the guest from its port 1000.
fn packet(port: u32, op: u16, flags: u32, taken: u32, data: &[u8]) -> Vec<u8> {
    let words = [1000, port, data.len() as u32];
    let credit = [flags, 1 << 16, taken];
    [
        &u64::from(CID).to_le_bytes()[..],
        &2_u64.to_le_bytes(),
        &words.map(u32::to_le_bytes).concat(),
        &1_u16.to_le_bytes(),
        &op.to_le_bytes(),
        &credit.map(u32::to_le_bytes).concat(),
        data,
    ]
    .concat()
}

fn send(rig: &mut Rig, packet: &[u8]) {
    rig.offer(TRANSMIT, BUFFERS, &[Part::Give(packet)]);
    rig.used(TRANSMIT).unwrap();
}

/// The next packet for the guest: operation, the host's port, flags, data.
fn receive(rig: &mut Rig) -> (u16, u32, u32, Vec<u8>) {
    const AT: u64 = BUFFERS + 0x2_0000;
    rig.offer(RECEIVE, AT, &[Part::Take(4096)]);
    let len = rig.used(RECEIVE).unwrap() as usize;
    let mut bytes = vec![0; len];
    rig.memory.read_slice(&mut bytes, GuestAddress(AT)).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(8), word(24) as usize, len >= 44), (2, CID, len - 44, true));
    (word(28).to_le_bytes()[2].into(), word(16), word(32), bytes[44..].to_vec())
}

#[test]
fn the_guest_connects_to_a_program() {
    let (mut rig, path) = device();
    let listener = listen(&path, 80);
    send(&mut rig, &packet(80, op::REQUEST, 0, 0, b""));
    assert_eq!(receive(&mut rig), (op::RESPONSE, 80, 0, vec![]));
    let (mut program, _) = listener.accept().unwrap();
    send(&mut rig, &packet(80, op::DATA, 0, 0, b"from the guest"));
    let mut data = [0; 14];
    program.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"from the guest");
    program.write_all(b"from the host").unwrap();
    assert_eq!(receive(&mut rig), (op::DATA, 80, 0, b"from the host".to_vec()));
    // The guest is done in both directions.
    send(&mut rig, &packet(80, op::SHUTDOWN, 3, 13, b""));
    assert_eq!(receive(&mut rig).0, op::RESET);
    assert_eq!(program.read(&mut data).unwrap(), 0);
    std::fs::remove_file(format!("{}_80", path.display())).unwrap();
}

#[test]
fn a_program_connects_to_the_guest() {
    let (mut rig, path) = device();
    let mut program = UnixStream::connect(&path).unwrap();
    program.write_all(b"CONNECT 1000\nearly").unwrap();
    let (what, port, ..) = receive(&mut rig);
    assert_eq!(what, op::REQUEST);
    send(&mut rig, &packet(port, op::RESPONSE, 0, 0, b""));
    let mut answer = vec![0; format!("OK {port}\n").len()];
    program.read_exact(&mut answer).unwrap();
    assert_eq!(answer, format!("OK {port}\n").as_bytes());
    assert_eq!(
        receive(&mut rig),
        (op::DATA, port, 0, b"early".to_vec()),
        "what followed the command is the guest's"
    );
    // The program sends no more, but still listens.
    program.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(receive(&mut rig), (op::SHUTDOWN, port, 2, vec![]));
    send(&mut rig, &packet(port, op::DATA, 0, 5, b"late"));
    send(&mut rig, &packet(port, op::SHUTDOWN, 3, 5, b""));
    let mut rest = String::new();
    program.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "late");
    assert_eq!(receive(&mut rig).0, op::RESET);
}

/// A driver may cut packets as it likes.
#[test]
fn packets_come_in_any_buffers() {
    let (mut rig, path) = device();
    let listener = listen(&path, 87);
    // In one buffer, more than which it may hold too; its header in pieces.
    let request = [&packet(87, op::REQUEST, 0, 0, b"")[..], b"not of it"].concat();
    rig.request(
        TRANSMIT,
        &[Part::Give(&request[..3]), Part::Give(&request[3..20]), Part::Give(&request[20..])],
    )
    .unwrap();
    assert_eq!(receive(&mut rig).0, op::RESPONSE);
    let (mut program, _) = listener.accept().unwrap();
    let data: Vec<u8> = (0..1000).map(|n| (n / 3) as u8).collect();
    let whole = packet(87, op::DATA, 0, 0, &data);
    let layouts: [&[usize]; 6] = [
        &[],                    // header and data in one
        &[44],                  // each its own
        &[44, 45, 300, 301],    // data in several
        &[43],                  // a part of the header with the data
        &[45],                  // a part of the data with the header
        &[1, 30, 44, 44, 1043], // both in several, one of them empty
    ];
    for cuts in layouts {
        let mut parts = Vec::new();
        let mut from = 0;
        for to in cuts.iter().copied().chain([whole.len()]) {
            parts.push(Part::Give(&whole[from..to]));
            from = to;
        }
        rig.request(TRANSMIT, &parts).unwrap();
        let mut got = vec![0; data.len()];
        program.read_exact(&mut got).unwrap();
        assert!(got == data, "{cuts:?}");
    }
    for sizes in [&[100][..], &[44, 56], &[10, 34, 1, 55], &[43, 57], &[45, 55], &[44, 20, 20, 16]] {
        program.write_all(&data[..56]).unwrap();
        let parts: Vec<_> = sizes.iter().map(|size| Part::Take(*size)).collect();
        let got = rig.request(RECEIVE, &parts).unwrap();
        assert!(got[44..] == data[..56] && got.len() == 100, "{sizes:?}");
    }
    std::fs::remove_file(format!("{}_87", path.display())).unwrap();
}

#[test]
fn packets_without_what_they_say_break_the_device() {
    let (mut rig, path) = device();
    let listener = listen(&path, 88);
    let short = packet(88, op::DATA, 0, 0, b"data");
    let mut long = short.clone();
    long[24..28].copy_from_slice(&(MOST_DATA + 1).to_le_bytes());
    for wrong in [&short[..43], &short[..47], &long] {
        assert_eq!(rig.request(TRANSMIT, &[Part::Give(wrong)]), None);
        rig.start(u64::MAX);
    }
    // The same towards the guest: no room for a header, and none for data.
    for (data, size) in [(&b""[..], 43), (b"data", 44)] {
        send(&mut rig, &packet(88, op::REQUEST, 0, 0, b""));
        let (mut program, _) = listener.accept().unwrap();
        if !data.is_empty() {
            assert_eq!(rig.request(RECEIVE, &[Part::Take(44)]).unwrap().len(), 44, "a header is enough here");
            program.write_all(data).unwrap();
        }
        assert_eq!(rig.request(RECEIVE, &[Part::Take(size)]), None);
        rig.start(u64::MAX);
    }
    std::fs::remove_file(format!("{}_88", path.display())).unwrap();
}

#[test]
fn nobody_there_is_a_reset() {
    let (mut rig, path) = device();
    send(&mut rig, &packet(81, op::REQUEST, 0, 0, b""));
    assert_eq!(receive(&mut rig), (op::RESET, 81, 0, vec![]));
    send(&mut rig, &packet(82, op::DATA, 0, 0, b"to nobody"));
    assert_eq!(receive(&mut rig), (op::RESET, 82, 0, vec![]));
    // The guest refuses.
    let mut program = UnixStream::connect(&path).unwrap();
    program.write_all(b"CONNECT 1000\n").unwrap();
    let (_, port, ..) = receive(&mut rig);
    send(&mut rig, &packet(port, op::RESET, 0, 0, b""));
    assert_eq!(program.read(&mut [0; 1]).unwrap(), 0);
    // Another address, another type.
    let mut other = packet(80, op::REQUEST, 0, 0, b"");
    other[8] = 3;
    send(&mut rig, &other);
    assert_eq!(receive(&mut rig).0, op::RESET);
    let mut other = packet(80, op::REQUEST, 0, 0, b"");
    other[28] = 2;
    send(&mut rig, &other);
    assert_eq!(receive(&mut rig).0, op::RESET);
}

#[test]
fn programs_that_go_before_the_guest_answers_are_forgotten() {
    let (mut rig, path) = device();
    let connect = || {
        let mut program = UnixStream::connect(&path).unwrap();
        program.write_all(b"CONNECT 1000\n").unwrap();
        program
    };
    // The guest was asked: it hears.
    let program = connect();
    let (what, asked, ..) = receive(&mut rig);
    assert_eq!(what, op::REQUEST);
    drop(program);
    assert_eq!(receive(&mut rig), (op::RESET, asked, 0, vec![]));
    // An answer that is late is to nobody.
    send(&mut rig, &packet(asked, op::RESPONSE, 0, 0, b""));
    assert_eq!(receive(&mut rig), (op::RESET, asked, 0, vec![]));
    // More than there is room for, one after the other, whom the guest never answers.
    for _ in 0..2 * muxer::MOST {
        let program = connect();
        let (mut what, mut port, ..) = receive(&mut rig);
        while what == op::RESET {
            (what, port, ..) = receive(&mut rig);
        }
        assert!(what == op::REQUEST && port > asked);
        drop(program);
    }
}

#[test]
fn the_guest_is_not_asked_for_programs_that_are_gone() {
    let (mut rig, path) = device();
    for _ in 0..2 * muxer::MOST {
        let mut program = UnixStream::connect(&path).unwrap();
        program.write_all(b"CONNECT 1000\n").unwrap();
        // Its command is read; nothing goes to the guest, which has given no buffer.
        std::thread::yield_now();
        drop(program);
    }
    let mut program = UnixStream::connect(&path).unwrap();
    program.write_all(b"CONNECT 2000\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    rig.settle();
    const AT: u64 = BUFFERS + 0x2_0000;
    let mut heard = Vec::new();
    while heard.last() != Some(&(2000, op::REQUEST)) {
        assert!(heard.len() < 3, "{heard:?}");
        rig.offer(RECEIVE, AT, &[Part::Take(4096)]);
        rig.used(RECEIVE).unwrap();
        let mut bytes = [0; 44];
        rig.memory.read_slice(&mut bytes, GuestAddress(AT)).unwrap();
        heard.push((u32::from_le_bytes(bytes[20..24].try_into().unwrap()), u16::from(bytes[30])));
    }
    // But for one packet, which was on its way.
    assert!(heard.len() == 1 || heard[..2] == [(1000, op::REQUEST), (1000, op::RESET)], "{heard:?}");
}

/// As many connections as there may be, of programs that are gone, and a guest that never ends one.
#[test]
fn connections_that_the_guest_does_not_end_make_room() {
    const AT: u64 = BUFFERS + 0x2_0000;
    let (mut rig, path) = device();
    let listener = listen(&path, 89);
    // What the guest hears when it connects from this port.
    let connect = |rig: &mut Rig, guest: u32| {
        let mut request = packet(89, op::REQUEST, 0, 0, b"");
        request[16..20].copy_from_slice(&guest.to_le_bytes());
        send(rig, &request);
        loop {
            rig.offer(RECEIVE, AT, &[Part::Take(4096)]);
            rig.used(RECEIVE).unwrap();
            let mut bytes = [0; 44];
            rig.memory.read_slice(&mut bytes, GuestAddress(AT)).unwrap();
            if bytes[20..24] == guest.to_le_bytes() {
                return u16::from(bytes[30]);
            }
        }
    };
    let most = muxer::MOST as u32;
    let mut programs = Vec::new();
    for guest in 0..most {
        assert_eq!(connect(&mut rig, guest), op::RESPONSE);
        programs.push(listener.accept().unwrap().0);
    }
    assert_eq!(connect(&mut rig, most), op::RESET, "all of them are in use");
    programs.clear();
    std::thread::sleep(std::time::Duration::from_millis(50));
    rig.settle();
    for guest in most..2 * most {
        assert_eq!(connect(&mut rig, guest), op::RESPONSE, "{guest}");
        programs.push(listener.accept().unwrap().0);
    }
    assert_eq!(connect(&mut rig, 2 * most), op::RESET, "all of them are in use again");
    std::fs::remove_file(format!("{}_89", path.display())).unwrap();
}

#[test]
fn commands_that_are_wrong_end_the_connection() {
    let (_rig, path) = device();
    for wrong in [
        "connect 1\n",
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT 4294967296\n",
        "CONNECT 1 2\n",
        "CONNECT 0000000000000001",
    ] {
        let mut program = UnixStream::connect(&path).unwrap();
        program.write_all(wrong.as_bytes()).unwrap();
        let end = program.read(&mut [0; 1]);
        assert!(matches!(end, Ok(0) | Err(_)), "{wrong:?}: {end:?}");
    }
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let (mut rig, path) = device();
    let listener = listen(&path, 83);
    send(&mut rig, &packet(83, op::REQUEST, 0, 0, b""));
    receive(&mut rig);
    let (mut program, _) = listener.accept().unwrap();
    let data: Vec<u8> = (0..200_000_u32).map(|n| (n / 3) as u8).collect();
    let theirs = data.clone();
    let writer = std::thread::spawn(move || program.write_all(&theirs).map(|()| program));
    let (mut got, mut asked) = (Vec::new(), 0);
    while got.len() < data.len() {
        let (what, _, _, part) = receive(&mut rig);
        got.extend_from_slice(&part);
        match what {
            op::DATA => {}
            op::CREDIT_REQUEST => {
                assert_eq!(got.len() % (1 << 16), 0, "it asks when the guest's buffer is full");
                asked += 1;
                send(&mut rig, &packet(83, op::CREDIT_UPDATE, 0, got.len() as u32, b""));
            }
            other => panic!("{other}"),
        }
    }
    assert!(got == data && asked >= 3);
    drop(writer.join().unwrap().unwrap());
    std::fs::remove_file(format!("{}_83", path.display())).unwrap();
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_cut_off() {
    let (mut rig, path) = device();
    let listener = listen(&path, 84);
    send(&mut rig, &packet(84, op::REQUEST, 0, 0, b""));
    assert_eq!(receive(&mut rig).0, op::RESPONSE);
    let (_program, _) = listener.accept().unwrap();
    // The program reads nothing: the socket holds a part, and then the device's buffer is full.
    for _ in 0..200 {
        send(&mut rig, &packet(84, op::DATA, 0, 0, &[7; 8000]));
    }
    let mut told = receive(&mut rig).0;
    while told == op::CREDIT_UPDATE {
        told = receive(&mut rig).0;
    }
    assert_eq!(told, op::RESET);
    std::fs::remove_file(format!("{}_84", path.display())).unwrap();
}

#[test]
fn a_reset_ends_all_connections_and_a_new_driver_can_make_others() {
    let (mut rig, path) = device();
    let listener = listen(&path, 85);
    for _ in 0..3 {
        send(&mut rig, &packet(85, op::REQUEST, 0, 0, b""));
        assert_eq!(receive(&mut rig).0, op::RESPONSE);
        let (mut program, _) = listener.accept().unwrap();
        rig.start(u64::MAX);
        assert_eq!(program.read(&mut [0; 1]).unwrap(), 0, "it hears at once");
    }
    std::fs::remove_file(format!("{}_85", path.display())).unwrap();
}

#[test]
fn the_socket_goes_with_the_device_and_a_dead_one_is_replaced() {
    let (rig, path) = device();
    assert!(Host::listen(&path).unwrap_err().to_string().contains("cannot listen"), "it is in use");
    drop(rig);
    assert!(!path.exists());
    // As a killed microvm leaves it.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Host::listen(&path).unwrap());
    assert!(!path.exists());
}

#[test]
fn it_survives_any_driver() {
    let (mut rig, path) = device();
    let listener = listen(&path, 86);
    listener.set_nonblocking(true).unwrap();
    let mut held = Vec::new();
    torment(&mut rig, 400, |dice: &mut Dice| {
        held.extend(listener.accept());
        held.truncate(8);
        let port = if dice.below(4) == 0 { dice.roll() as u32 } else { 86 };
        let data = vec![1; dice.below(100) as usize];
        packet(port, dice.below(9) as u16, dice.below(4) as u32, dice.roll() as u32, &data)
    });
    std::fs::remove_file(format!("{}_86", path.display())).unwrap();
}
