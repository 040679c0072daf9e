//! The console device, with its one port.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::eventfd::EventFd;

use super::queues::Queues;
use super::{Broken, Device, Progress};
use crate::input::Sink;

const QUEUES: [u16; 2] = [64, 64];
const INPUT: usize = 0;
const OUTPUT: usize = 1;
/// How much input waits for the guest.
const ROOM: usize = 4096;
/// How much output is written at a time.
const PIECE: usize = 4096;
const BATCH: usize = 64;

/// Input on its way from the user to the guest.
pub(crate) struct Typed {
    waiting: Mutex<VecDeque<u8>>,
    /// Wakes the device.
    arrived: EventFd,
    /// Wakes the user's side.
    room: EventFd,
}

impl Typed {
    /// `room` is signalled when there is room again.
    pub(crate) fn new(room: EventFd) -> io::Result<Self> {
        let arrived = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { waiting: Mutex::default(), arrived, room })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Typed {
    fn enqueue(&self, input: &[u8]) -> usize {
        let mut waiting = self.lock();
        let count = ROOM.saturating_sub(waiting.len()).min(input.len());
        waiting.extend(input.iter().take(count));
        if count > 0 {
            // A full counter wakes the device as well.
            let _ = self.arrived.write(1);
        }
        count
    }

    fn may_have_room(&self) -> bool {
        self.lock().len() < ROOM
    }
}

/// A console that writes to `out`.
pub(crate) struct Console<W> {
    typed: Arc<Typed>,
    out: W,
    complained: bool,
}

impl<W: Write> Console<W> {
    pub(crate) fn new(typed: Arc<Typed>, out: W) -> Self {
        Self { typed, out, complained: false }
    }

    /// Gives the guest what was typed, as far as it has buffers.
    fn input(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        // Under the lock nothing can come in between the look and the end.
        let mut waiting = self.typed.lock();
        let mut moved = false;
        while !waiting.is_empty() {
            let Some(mut chain) = queues.pop(INPUT)? else { break };
            let written = chain.writable.write(waiting.make_contiguous());
            waiting.drain(..written);
            moved = true;
            queues.counters.to_guest.add(written as u64);
            queues.done(INPUT, chain.head, written as u64)?;
        }
        if moved {
            let _ = self.typed.room.write(1);
        }
        Ok(())
    }

    fn output(&mut self, queues: &mut Queues<'_>) -> Result<Progress, Broken> {
        let mut piece = [0; PIECE];
        for _ in 0..BATCH {
            let Some(mut chain) = queues.pop(OUTPUT)? else { return Ok(Progress::Idle) };
            loop {
                let count = chain.readable.read(&mut piece);
                if count == 0 {
                    break;
                }
                self.write(piece.get(..count).unwrap_or_default());
                queues.counters.from_guest.add(count as u64);
            }
            queues.done(OUTPUT, chain.head, 0)?;
        }
        Ok(Progress::More)
    }

    fn write(&mut self, bytes: &[u8]) {
        let done = self.out.write_all(bytes).and_then(|()| self.out.flush());
        match done {
            // The guest goes on without its console; it is said once.
            Err(error) if !std::mem::replace(&mut self.complained, true) => {
                eprintln!("microvm: the guest's output is lost: {error}");
            }
            _ => {}
        }
    }
}

impl<W: Write + Send> Device for Console<W> {
    fn kind(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    /// struct virtio_console_config; no feature that gives its fields a meaning is offered.
    fn config(&self) -> Vec<u8> {
        vec![0; 12]
    }

    fn watch(&mut self, watch: &mut EventOps<'_>) -> Result<(), Broken> {
        let arrived = Events::new(&self.typed.arrived, EventSet::IN | EventSet::EDGE_TRIGGERED);
        watch.add(arrived).map_err(|error| Broken(format!("cannot wait for input: {error}")))
    }

    fn process(
        &mut self,
        queues: &mut Queues<'_>,
        _ready: Option<Events>,
        _watch: &mut EventOps<'_>,
    ) -> Result<Progress, Broken> {
        self.input(queues)?;
        self.output(queues)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rig::{BUFFERS, Part, Rig, torment};
    use super::*;

    /// Shared, to look at.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn console() -> (Rig, Arc<Typed>, EventFd, Screen) {
        let room = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let typed = Arc::new(Typed::new(room.try_clone().unwrap()).unwrap());
        let screen = Screen::default();
        let rig = Rig::started(Console::new(Arc::clone(&typed), screen.clone()));
        (rig, typed, room, screen)
    }

    #[test]
    fn output_is_shown_in_order() {
        let (mut rig, _, _, screen) = console();
        rig.request(OUTPUT, &[Part::Give(b"hello, "), Part::Give(b"world\n")]).unwrap();
        rig.request(OUTPUT, &[Part::Give(&[b'x'; 10_000])]).unwrap();
        assert_eq!(*screen.0.lock().unwrap(), [&b"hello, world\n"[..], &[b'x'; 10_000]].concat());
    }

    #[test]
    fn input_waits_for_the_guests_buffers_and_has_limits() {
        let (mut rig, typed, room, _) = console();
        assert_eq!(typed.enqueue(b"abc"), 3);
        assert_eq!(rig.request(INPUT, &[Part::Take(2)]).unwrap(), b"ab");
        assert_eq!(rig.request(INPUT, &[Part::Take(2)]).unwrap(), b"c");
        while room.read().is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        rig.offer(INPUT, BUFFERS, &[Part::Take(8)]);
        assert_eq!(typed.enqueue(b"later"), 5);
        assert_eq!(rig.used(INPUT), Some(5));
        assert_eq!(typed.enqueue(&[0; 10_000]), ROOM);
        assert!(!typed.may_have_room());
        assert_eq!(typed.enqueue(b"x"), 0);
        assert_eq!(rig.request(INPUT, &[Part::Take(ROOM as u32)]).unwrap().len(), ROOM);
        assert!(typed.may_have_room());
    }

    #[test]
    fn what_was_offered_before_the_end_is_shown() {
        for _ in 0..200 {
            let (mut rig, _, _, screen) = console();
            rig.offer(OUTPUT, BUFFERS, &[Part::Give(b"last words")]);
            drop(rig);
            assert_eq!(*screen.0.lock().unwrap(), b"last words");
        }
    }

    #[test]
    fn it_survives_any_driver() {
        let (mut rig, typed, _, _) = console();
        typed.enqueue(&[b'z'; 4000]);
        torment(&mut rig, 300, |_| vec![b'y'; 16]);
    }
}
