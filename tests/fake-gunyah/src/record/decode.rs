//! What an ioctl asks: its name, and its argument's fields.
//!
//! The recorder and the replay decode with the same code, so what they compare is decoded alike.

use std::borrow::Cow;
use std::mem::offset_of;

use gunyah_bindings::{android, v11, v17, vendor};
use serde_json::{Map, Value};

use super::format::Kind;
use super::text::{take, to_hex};

/// What the decoder asks about the calling process.
pub(crate) trait Caller {
    /// Copies from its memory; `None` where nothing is mapped.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Option<()>;
    /// Names a descriptor in a way that means something in another process, too.
    fn describe_fd(&self, fd: i32) -> String;
    /// Its page size in bytes.
    fn page_size(&self) -> u64;
}

/// A decoded ioctl.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) op: Cow<'static, str>,
    pub(crate) args: Map<String, Value>,
}

/// What an ioctl's argument is.
#[derive(Clone, Copy)]
enum Arg {
    /// Not used.
    None,
    /// A number in place of the pointer.
    Number(&'static str),
    Region,
    /// An address and a size.
    Range,
    Function,
    CreateMem,
    MapMem,
    BootContext,
    MapCma,
    Auth,
    FirmwareName,
    /// Something that this crate does not look into.
    Opaque,
}

/// Whether an ioctl code is of a type that Gunyah hosts use. Others use these types, too.
pub(crate) fn is_candidate(request: u32) -> bool {
    let kind = request >> 8 & 0xff;
    [v11::GH_IOCTL_TYPE, android::GUNYAH_ANDROID_IOCTL_TYPE, vendor::GH_VENDOR_IOCTL_TYPE].contains(&kind)
}

/// An ioctl's name in its header, and what it takes.
fn lookup(request: u32) -> Option<(&'static str, Arg)> {
    macro_rules! table {
        ($($module:ident::$name:ident => $arg:expr,)*) => {
            match request {
                $($module::$name => Some((stringify!($name), $arg)),)*
                _ => None,
            }
        };
    }
    table! {
        v11::GH_CREATE_VM => Arg::Number("arg"),
        v11::GH_VM_SET_USER_MEM_REGION => Arg::Region,
        v11::GH_VM_SET_DTB_CONFIG => Arg::Range,
        v11::GH_VM_START => Arg::None,
        v11::GH_VM_ADD_FUNCTION => Arg::Function,
        v11::GH_VM_REMOVE_FUNCTION => Arg::Function,
        v11::GH_VCPU_RUN => Arg::None,
        v11::GH_VCPU_MMAP_SIZE => Arg::None,
        v17::GUNYAH_CREATE_GUEST_MEM => Arg::CreateMem,
        v17::GUNYAH_VM_MAP_MEM => Arg::MapMem,
        v17::GUNYAH_VM_SET_BOOT_CONTEXT => Arg::BootContext,
        android::GUNYAH_ANDROID_TENTATIVE => Arg::None,
        android::GUNYAH_VM_ANDROID_LEND_USER_MEM => Arg::Region,
        android::GUNYAH_VM_ANDROID_SET_FW_CONFIG => Arg::Range,
        android::GUNYAH_VM_ANDROID_RECLAIM_REGION => Arg::Range,
        android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD => Arg::None,
        android::GUNYAH_VM_ANDROID_MAP_CMA_MEM => Arg::MapCma,
        android::GUNYAH_VM_ANDROID_SET_AUTH_TYPE => Arg::Auth,
        android::GUNYAH_VM_ANDROID_CHECK_EXTENSION => Arg::Number("cap"),
        vendor::GH_VENDOR_CREATE_VM => Arg::None,
        vendor::GH_VENDOR_CREATE_VCPU => Arg::Number("id"),
        vendor::GH_VENDOR_VCPU_RUN => Arg::None,
        vendor::GH_VM_SET_FW_NAME => Arg::FirmwareName,
        vendor::GH_VM_GET_FW_NAME => Arg::Opaque,
        vendor::GH_VM_GET_VCPU_COUNT => Arg::None,
        vendor::GH_VM_GET_MEM_COUNT => Arg::None,
        vendor::GH_VM_GET_MEM_REGION => Arg::Opaque,
        vendor::GH_VM_WAIT_FOR_EXIT => Arg::Opaque,
    }
}

/// Decodes ioctl `request` with argument `arg`.
pub(crate) fn decode(request: u32, arg: u64, caller: &dyn Caller) -> Request {
    let Some((name, kind)) = lookup(request) else {
        return Request { op: format!("{request:#x}").into(), args: Map::new() };
    };
    let mut fields = Fields { caller, args: Map::new() };
    fields.argument(kind, arg);
    Request { op: name.into(), args: fields.args }
}

struct Fields<'a> {
    caller: &'a dyn Caller,
    args: Map<String, Value>,
}

impl Fields<'_> {
    fn number(&mut self, name: &str, value: impl Into<Value>) {
        self.args.insert(name.to_owned(), value.into());
    }

    fn hex(&mut self, name: &str, value: u64) {
        self.args.insert(name.to_owned(), format!("{value:#x}").into());
    }

    /// An address of the process: only what a kernel checks of it.
    fn pointer(&mut self, name: &str, value: u64) {
        let aligned = value % self.caller.page_size().max(1) == 0;
        let text = match value {
            0 => "null",
            _ if aligned => "aligned",
            _ => "unaligned",
        };
        self.args.insert(name.to_owned(), text.into());
    }

    fn descriptor(&mut self, name: &str, fd: i32) {
        let text = self.caller.describe_fd(fd);
        self.args.insert(name.to_owned(), text.into());
    }

    /// Fields that must be 0 and mostly are: only shown if not.
    fn rest(&mut self, name: &str, bytes: &[u8]) {
        if bytes.iter().any(|byte| *byte != 0) {
            self.args.insert(name.to_owned(), to_hex(bytes).into());
        }
    }

    /// Copies the argument; if it can't be, says so in its place.
    fn copy<const N: usize>(&mut self, name: &str, addr: u64) -> Option<[u8; N]> {
        let mut buf = [0; N];
        if self.caller.read(addr, &mut buf).is_none() {
            let text = if addr == 0 { "null" } else { "unreadable" };
            self.args.insert(name.to_owned(), text.into());
            return None;
        }
        Some(buf)
    }

    fn argument(&mut self, kind: Arg, arg: u64) {
        match kind {
            Arg::None => {}
            Arg::Number(name) => self.hex(name, arg),
            Arg::Opaque => {
                if arg == 0 {
                    self.number("arg", "null");
                }
            }
            _ => {
                // The fields, or nothing more if the argument is not there.
                let _ = self.structure(kind, arg);
            }
        }
    }

    fn structure(&mut self, kind: Arg, arg: u64) -> Option<()> {
        macro_rules! field {
            ($s:ident, $type:path, $field:ident, $int:ty) => {
                <$int>::from_le_bytes(take(&$s, offset_of!($type, $field)))
            };
        }
        match kind {
            Arg::Region => {
                use v11::gh_userspace_memory_region as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                self.number("label", field!(s, T, label, u32));
                self.number("flags", field!(s, T, flags, u32));
                self.hex("guest_phys_addr", field!(s, T, guest_phys_addr, u64));
                self.hex("memory_size", field!(s, T, memory_size, u64));
                self.pointer("userspace_addr", field!(s, T, userspace_addr, u64));
            }
            Arg::Range => {
                use v11::gh_vm_dtb_config as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                self.hex("guest_phys_addr", field!(s, T, guest_phys_addr, u64));
                self.hex("size", field!(s, T, size, u64));
            }
            Arg::CreateMem => {
                use v17::gunyah_create_mem_args as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                self.hex("flags", field!(s, T, flags, u64));
                self.hex("size", field!(s, T, size, u64));
            }
            Arg::MapMem => {
                use v17::gunyah_map_mem_args as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                self.hex("guest_addr", field!(s, T, guest_addr, u64));
                self.number("flags", field!(s, T, flags, u32));
                self.descriptor("guest_mem_fd", field!(s, T, guest_mem_fd, i32));
                self.hex("offset", field!(s, T, offset, u64));
                self.hex("size", field!(s, T, size, u64));
            }
            Arg::MapCma => {
                use android::gunyah_map_cma_mem_args as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                self.number("label", field!(s, T, label, u32));
                self.hex("guest_addr", field!(s, T, guest_addr, u64));
                self.number("flags", field!(s, T, flags, u32));
                self.descriptor("guest_mem_fd", field!(s, T, guest_mem_fd, i32));
                self.hex("offset", field!(s, T, offset, u64));
                self.hex("size", field!(s, T, size, u64));
            }
            Arg::BootContext => {
                use v17::gunyah_vm_boot_context as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                self.number("reg", field!(s, T, reg, u32));
                self.hex("value", field!(s, T, value, u64));
                self.rest("reserved", &take::<4>(&s, offset_of!(T, reserved)));
            }
            Arg::Auth => {
                use android::gunyah_auth_desc as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                let (auth, size) = (field!(s, T, type_, u32), field!(s, T, arg_size, u32));
                self.number("type", auth);
                self.number("arg_size", size);
                if auth == android::GUNYAH_AUTH_QCOM_TRUSTED_VM {
                    return self.trusted_vm(size, field!(s, T, arg, u64));
                }
            }
            Arg::FirmwareName => {
                let s = self.copy::<{ vendor::GH_VM_FW_NAME_MAX as usize }>("arg", arg)?;
                let name: Vec<u8> = s.iter().copied().take_while(|byte| *byte != 0).collect();
                self.number("name", String::from_utf8_lossy(&name).into_owned());
            }
            Arg::Function => {
                use v11::gh_fn_desc as T;
                let s = self.copy::<{ size_of::<T>() }>("arg", arg)?;
                let (function, size) = (field!(s, T, type_, u32), field!(s, T, arg_size, u32));
                match function {
                    v11::GH_FN_VCPU => self.number("function", "vcpu"),
                    v11::GH_FN_IRQFD => self.number("function", "irqfd"),
                    v11::GH_FN_IOEVENTFD => self.number("function", "ioeventfd"),
                    other => self.number("function", other),
                }
                self.number("arg_size", size);
                return self.function(function, size, field!(s, T, arg, u64));
            }
            Arg::None | Arg::Number(_) | Arg::Opaque => {}
        }
        Some(())
    }

    fn trusted_vm(&mut self, size: u32, addr: u64) -> Option<()> {
        use android::gunyah_qtvm_auth_arg as T;
        if size as usize == size_of::<T>() {
            let s = self.copy::<{ size_of::<T>() }>("auth_arg", addr)?;
            self.number("vm_id", u16::from_le_bytes(take(&s, offset_of!(T, vm_id))));
            self.number("peripheral_id", u32::from_le_bytes(take(&s, offset_of!(T, peripheral_id))));
            self.hex("guest_phys_addr", u64::from_le_bytes(take(&s, offset_of!(T, guest_phys_addr))));
            self.hex("size", u64::from_le_bytes(take(&s, offset_of!(T, size))));
        }
        Some(())
    }

    /// A function's own argument. Of one that has not its structure's size, nothing is shown: a kernel would not look
    /// at it either.
    fn function(&mut self, function: u32, size: u32, addr: u64) -> Option<()> {
        macro_rules! field {
            ($s:ident, $type:path, $field:ident, $int:ty) => {
                <$int>::from_le_bytes(take(&$s, offset_of!($type, $field)))
            };
        }
        match (function, size as usize) {
            (v11::GH_FN_VCPU, n) if n == size_of::<v11::gh_fn_vcpu_arg>() => {
                let s = self.copy::<4>("function_arg", addr)?;
                self.number("id", u32::from_le_bytes(s));
            }
            (v11::GH_FN_IRQFD, n) if n == size_of::<v11::gh_fn_irqfd_arg>() => {
                use v11::gh_fn_irqfd_arg as T;
                let s = self.copy::<{ size_of::<T>() }>("function_arg", addr)?;
                self.descriptor("fd", field!(s, T, fd, i32));
                self.number("label", field!(s, T, label, u32));
                self.number("flags", field!(s, T, flags, u32));
                self.rest("padding", &take::<4>(&s, offset_of!(T, padding)));
            }
            (v11::GH_FN_IOEVENTFD, n) if n == size_of::<v11::gh_fn_ioeventfd_arg>() => {
                use v11::gh_fn_ioeventfd_arg as T;
                let s = self.copy::<{ size_of::<T>() }>("function_arg", addr)?;
                self.hex("addr", field!(s, T, addr, u64));
                self.number("len", field!(s, T, len, u32));
                self.hex("datamatch", field!(s, T, datamatch, u64));
                self.descriptor("fd", field!(s, T, fd, i32));
                self.number("flags", field!(s, T, flags, u32));
                self.rest("padding", &take::<4>(&s, offset_of!(T, padding)));
            }
            _ => {}
        }
        Some(())
    }
}

/// What kind of object an ioctl's new descriptor stands for.
pub(crate) fn returns(code: u32, args: &Map<String, Value>) -> Option<Kind> {
    match code {
        v11::GH_CREATE_VM | vendor::GH_VENDOR_CREATE_VM => Some(Kind::Vm),
        v11::GH_VM_ADD_FUNCTION => {
            (args.get("function").and_then(Value::as_str) == Some("vcpu")).then_some(Kind::Vcpu)
        }
        vendor::GH_VENDOR_CREATE_VCPU => Some(Kind::Vcpu),
        v17::GUNYAH_CREATE_GUEST_MEM => Some(Kind::GuestMem),
        android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD => Some(Kind::Cma),
        _ => None,
    }
}
