//! What std does not offer: signals as a file descriptor, poll, locks and holes in files, tap interfaces, connecting without waiting, terminal settings.
#![expect(unsafe_code, reason = "calls into the C library")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The signals that end a run in order.
const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

fn ending_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set before anything reads it, and sigaddset gets a set that is.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks the signals that end a run, on this thread and those that it makes.
pub(crate) fn block_ending_signals() -> io::Result<()> {
    let set = ending_set();
    // SAFETY: the set is initialised and lives across the call; no old set is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A file descriptor that can be read when one of them is there.
pub(crate) fn ending_signals() -> io::Result<OwnedFd> {
    let set = ending_set();
    // SAFETY: the set is initialised and lives across the call.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The signal that is there.
pub(crate) fn taken_signal(fd: &OwnedFd) -> Option<u8> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes no more than `size` bytes to a buffer of that size.
    let count = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    // SAFETY: all of it was zeroed, and every bit pattern is valid for its integers.
    let info = unsafe { info.assume_init() };
    if usize::try_from(count) == Ok(size) { u8::try_from(info.ssi_signo).ok() } else { None }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Yes,
    No,
}

/// Waits until one of the descriptors can be read or is at its end; -1 stands for none. `timeout` is in ms, -1 for ever.
pub(crate) fn wait<const N: usize>(fds: [RawFd; N], timeout: i32) -> io::Result<[Ready; N]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: the array has N entries and lives across the call.
        let count = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
        if count >= 0 {
            return Ok(polled.map(|entry| if entry.revents == 0 { Ready::No } else { Ready::Yes }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Which of these sockets' other ends are closed. When it cannot be told none is.
pub(crate) fn hung_up<'a>(sockets: impl IntoIterator<Item = &'a UnixStream>) -> Vec<bool> {
    let entry = |socket: &UnixStream| libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
    let mut polled: Vec<_> = sockets.into_iter().map(entry).collect();
    // SAFETY: the list has as many entries as is said, and lives across the call, which does not wait.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0) };
    polled.iter().map(|entry| entry.revents & (libc::POLLHUP | libc::POLLERR) != 0).collect()
}

/// Locks a file for one writer, or for readers, until it is closed. `WouldBlock`: others have it.
pub(crate) fn lock(file: &File, exclusive: bool) -> io::Result<()> {
    let kind = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
    // SAFETY: a call on a file that is open, without pointers.
    let done = unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Connects to a Unix socket without waiting for whoever listens there. The result does not block either.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: zeros are valid for all of its fields.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // The last byte stays 0.
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path of a socket is too long"));
    }
    for (slot, byte) in address.sun_path.iter_mut().zip(bytes) {
        *slot = *byte as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: a call without pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and nobody else has it.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes of an address of that size, which lives across the call.
    let done = unsafe { libc::connect(fd, (&raw const address).cast(), size) };
    if done == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// A file that is in memory only, of `size` zeros, and that nobody can make larger.
pub(crate) fn memory_file(name: &str, size: u64) -> io::Result<File> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a zero byte and lives across the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    // SAFETY: a call with a number, on a file that is open.
    let done =
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_GROW | libc::F_SEAL_SHRINK) };
    if done == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

/// Makes `file`, an open /dev/net/tun, the other end of a tap interface, with a header before each frame.
pub(crate) fn attach_tap(file: &File, name: &str) -> io::Result<()> {
    let mut request = interface(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the kernel reads and writes a whole ifreq, which lives across the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets how long the headers are, and that frames to read are to be complete, whatever somebody asked of the interface before.
pub(crate) fn set_up_tap(file: &File, header: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(header).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads an int, which lives across the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &size) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a call with a number, on a file that is open.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, 0 as libc::c_ulong) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives this thread a network of its own, which goes away with it.
#[cfg(test)]
pub(crate) fn enter_own_network() -> io::Result<()> {
    // SAFETY: a call without pointers, which is about this thread alone.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this network has an interface of that name.
pub(crate) fn has_interface(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name ends with a zero byte and lives across the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// Brings a network interface up.
pub(crate) fn bring_up(name: &str) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut request = interface(name)?;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads a whole ifreq, which lives across the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &mut request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A request about the interface of that name.
fn interface(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: zeros are valid for all of its fields.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // The last byte stays 0.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface's name has 1 to 15 bytes"));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

/// Frees the room of a part of a file, which reads as zeros then.
pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Makes a part of a file read as zeros, and keeps its room.
pub(crate) fn zero_range(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

fn allocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let (offset, len) =
        (libc::off_t::try_from(offset).map_err(too_large)?, libc::off_t::try_from(len).map_err(too_large)?);
    // SAFETY: a call on a file that is open, without pointers.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads from standard input past std's buffer, which poll would not see.
pub(crate) fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes no more than the buffer's length.
    let count = unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Waits until standard output takes something, or says itself that it does not. `false`: it does neither, and `stop` can be read.
pub(crate) fn wait_for_stdout(stop: RawFd) -> io::Result<bool> {
    let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
    let mut polled = [entry(libc::STDOUT_FILENO, libc::POLLOUT), entry(stop, libc::POLLIN)];
    loop {
        // SAFETY: the array has two entries and lives across the call.
        let count = unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
        if count > 0 {
            let [stdout, _] = polled;
            return Ok(stdout.revents != 0);
        }
        let error = io::Error::last_os_error();
        if count < 0 && error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Standard output, opened again so that writes do not wait. The one we were given is shared with others, who may not
/// expect that of it. `None`: it is no pipe or terminal, or cannot be opened.
pub(crate) fn stdout_that_does_not_wait() -> Option<OwnedFd> {
    let stdout = io::stdout();
    let again = || {
        let mut options = File::options();
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        options.write(true).custom_flags(flags).open("/proc/self/fd/1").map(OwnedFd::from).ok()
    };
    let is_pipe = || {
        let kind = std::fs::metadata("/proc/self/fd/1").map(|data| data.file_type());
        kind.is_ok_and(|kind| kind.is_fifo())
    };
    if stdout.is_terminal() || is_pipe() { again() } else { None }
}

/// Writes to standard output, without std's buffer: to `own`, or to the one we were given.
pub(crate) fn write_stdout(own: Option<&OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
    let fd = own.map_or(libc::STDOUT_FILENO, AsRawFd::as_raw_fd);
    // SAFETY: the kernel reads no more than the slice's length.
    let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// The settings of the terminal on standard input.
pub(crate) fn terminal_settings() -> io::Result<libc::termios> {
    let mut settings = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: tcgetattr fills the settings or leaves the zeros; zeros are valid for all of their integers.
    let (done, settings) =
        unsafe { (libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()), settings.assume_init()) };
    if done == 0 { Ok(settings) } else { Err(io::Error::last_os_error()) }
}

/// Raw input, one byte at a time. Output is left alone, so that our own messages look right.
pub(crate) fn make_input_raw(settings: &mut libc::termios) {
    settings.c_iflag &= !(libc::IGNBRK
        | libc::BRKINT
        | libc::PARMRK
        | libc::ISTRIP
        | libc::INLCR
        | libc::IGNCR
        | libc::ICRNL
        | libc::IXON);
    settings.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN);
    for (index, value) in [(libc::VMIN, 1), (libc::VTIME, 0)] {
        if let Some(slot) = settings.c_cc.get_mut(index) {
            *slot = value;
        }
    }
}

/// Sets the terminal on standard input.
pub(crate) fn set_terminal(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the settings are initialised and live across the call.
    let done = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, settings) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
