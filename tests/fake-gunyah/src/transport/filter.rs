//! The seccomp filter: which system calls the fake gets to see.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_RSH, BPF_W, sock_filter,
};

/// Offsets in the `seccomp_data` that the filter looks at. Arguments are 64 bits wide; the lower half comes first
/// on the little-endian machines that this crate supports.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const fn data_arg_low(n: u32) -> u32 {
    16 + 8 * n
}

/// `AUDIT_ARCH` of this machine: the ELF machine number, 64 bit, little endian.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 62 | 0xc000_0000;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 183 | 0xc000_0000;

/// The open flags that decide: reading and writing, and nothing that makes it certain to be another kind of file.
const OPEN_MASK: u32 = (libc::O_ACCMODE | libc::O_DIRECTORY | libc::O_PATH) as u32;
const OPEN_WANTED: u32 = libc::O_RDWR as u32;

const fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// If the accumulator is `k`, fall through; else skip `otherwise` instructions.
const fn unless(k: u32, otherwise: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: 0, jf: otherwise, k }
}

/// If the accumulator is `k`, skip `then` instructions; else fall through.
const fn when(k: u32, then: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: then, jf: 0, k }
}

const fn load(offset: u32) -> sock_filter {
    stmt(BPF_LD | BPF_W | BPF_ABS, offset)
}

const ALLOW: sock_filter = stmt(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW);
const NOTIFY: sock_filter = stmt(BPF_RET | BPF_K, libc::SECCOMP_RET_USER_NOTIF);

/// The ioctl types ("magic" bytes) of the Gunyah family: `'G'`, Android's `'A'`, and the vendor's.
pub(crate) const IOCTL_TYPES: [u8; 3] = [b'G', b'A', 0xb2];

/// Builds the filter for this machine.
///
/// The filter cannot look at a path or behind a file descriptor, so it lets more through than is ours; what isn't is
/// answered with "carry on".
pub(crate) fn program() -> Vec<sock_filter> {
    let mut f = vec![load(DATA_ARCH), when(AUDIT_ARCH, 1), ALLOW];

    // ioctl: the type is the second byte of the request.
    let [a, b, c] = IOCTL_TYPES;
    let ioctl = [
        load(data_arg_low(1)),
        stmt(BPF_ALU | BPF_RSH | BPF_K, 8),
        stmt(BPF_ALU | BPF_AND | BPF_K, 0xff),
        when(a.into(), 2),
        when(b.into(), 1),
        unless(c.into(), 1),
        NOTIFY,
        ALLOW,
    ];
    let open = |flags_arg: u32| {
        [
            load(data_arg_low(flags_arg)),
            stmt(BPF_ALU | BPF_AND | BPF_K, OPEN_MASK),
            unless(OPEN_WANTED, 1),
            NOTIFY,
            ALLOW,
        ]
    };

    f.push(load(DATA_NR));
    let mut block = |nr: libc::c_long, body: &[sock_filter]| {
        f.push(unless(nr as u32, body.len() as u8));
        f.extend_from_slice(body);
    };
    block(libc::SYS_ioctl, &ioctl);
    block(libc::SYS_openat, &open(2));
    #[cfg(target_arch = "x86_64")]
    block(libc::SYS_open, &open(1));
    block(libc::SYS_openat2, &[NOTIFY]);
    block(libc::SYS_fallocate, &[NOTIFY]);
    f.push(ALLOW);
    f
}
