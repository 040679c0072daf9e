//! Numbers and bytes as a recording writes them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The `N` bytes at `offset`; missing ones are 0.
pub(crate) fn take<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(bytes.iter().skip(offset)) {
        *to = *from;
    }
    out
}

pub(crate) fn put(bytes: &mut [u8], offset: usize, data: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(data) {
        *to = *from;
    }
}

/// Bytes as hexadecimal digits, first byte first.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut out = [0; N];
    for (to, digits) in out.iter_mut().zip(bytes.chunks(2)) {
        *to = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(out)
}

/// A number as a string in hexadecimal with `0x`.
pub(crate) struct Hex(pub(crate) u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        hex_number(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no number in hexadecimal with 0x")))
    }
}

/// Reads a number as [`Hex`] writes it.
pub(crate) fn hex_number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    // A sign would be taken, too.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Bytes in hexadecimal.
pub(crate) struct HexBytes<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Serialize for HexBytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for HexBytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        from_hex(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not {N} bytes in hexadecimal")))
    }
}
