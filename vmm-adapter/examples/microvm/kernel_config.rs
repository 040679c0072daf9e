//! What a kernel was built with, where it says so: a configuration embedded by CONFIG_IKCONFIG.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use memchr::memmem;

/// The mark before a configuration that is embedded in a kernel.
const MARK: &[u8] = b"IKCFG_ST";
/// No configuration is larger; what claims to be is none.
const LARGEST: u64 = 16 << 20;
const BUFFER: usize = 64 << 10;

/// What a protected guest's kernel cannot do without when there are devices.
const NEEDED: [&str; 2] = ["CONFIG_DMA_RESTRICTED_POOL", "CONFIG_VIRTIO_MMIO"];

/// Those of the needed options that the kernel lacks. `None`: the kernel does not say.
pub(crate) fn missing(kernel: impl Read) -> io::Result<Option<Vec<&'static str>>> {
    let mut reader = BufReader::with_capacity(BUFFER, kernel);
    if !skip_past_mark(&mut reader)? {
        return Ok(None);
    }
    let mut text = Vec::new();
    if GzDecoder::new(reader).take(LARGEST).read_to_end(&mut text).is_err() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&text);
    let has = |option: &str| {
        text.lines().any(|line| line.strip_prefix(option).is_some_and(|value| value == "=y" || value == "=m"))
    };
    Ok(Some(NEEDED.into_iter().filter(|option| !has(option)).collect()))
}

/// Reads up to the end of the mark. `false`: there is none.
fn skip_past_mark(reader: &mut impl BufRead) -> io::Result<bool> {
    let finder = memmem::Finder::new(MARK);
    // The end of what went before: the mark may lie across two buffers.
    let mut tail: Vec<u8> = Vec::new();
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let edge = buffer.get(..buffer.len().min(MARK.len() - 1)).unwrap_or_default();
        let before = tail.len();
        tail.extend_from_slice(edge);
        if let Some(at) = finder.find(&tail) {
            reader.consume((at + MARK.len()).saturating_sub(before));
            return Ok(true);
        }
        if let Some(at) = finder.find(buffer) {
            reader.consume(at + MARK.len());
            return Ok(true);
        }
        let len = buffer.len();
        if len >= MARK.len() - 1 {
            tail = buffer.get(len - (MARK.len() - 1)..).unwrap_or_default().to_vec();
        } else {
            tail = tail.split_off(tail.len().saturating_sub(MARK.len() - 1));
        }
        reader.consume(len);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn kernel(config: &str, before: usize) -> Vec<u8> {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(config.as_bytes()).unwrap();
        [&vec![b'I'; before][..], MARK, &zip.finish().unwrap(), b"IKCFG_ED and the rest"].concat()
    }

    #[test]
    fn what_is_missing_is_named() {
        let all = "CONFIG_DMA_RESTRICTED_POOL=y\nCONFIG_VIRTIO_MMIO=m\n";
        assert_eq!(missing(&kernel(all, 100)[..]).unwrap(), Some(vec![]));
        let none =
            "# CONFIG_DMA_RESTRICTED_POOL is not set\nCONFIG_VIRTIO_MMIO=y\nCONFIG_DMA_RESTRICTED_POOL_X=y\n";
        assert_eq!(missing(&kernel(none, 100)[..]).unwrap(), Some(vec!["CONFIG_DMA_RESTRICTED_POOL"]));
    }

    #[test]
    fn the_mark_is_found_wherever_it_lies() {
        for before in
            [0, 1, BUFFER - 9, BUFFER - 8, BUFFER - 4, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER - 5]
        {
            assert_eq!(missing(&kernel("", before)[..]).unwrap(), Some(NEEDED.to_vec()), "{before}");
        }
        /// Gives a few bytes at a time.
        struct Slow<'a>(&'a [u8], usize);
        impl Read for Slow<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let most = out.len().min(self.1);
                self.0.read(&mut out[..most])
            }
        }
        for step in 1..10 {
            assert!(missing(Slow(&kernel("", 50), step)).unwrap().is_some(), "{step}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_say_is_not_judged() {
        assert_eq!(missing(&[0_u8; 1000][..]).unwrap(), None);
        assert_eq!(missing(&b"IKCFG_ST but no archive"[..]).unwrap(), None);
        assert_eq!(missing(&b""[..]).unwrap(), None);
    }
}
