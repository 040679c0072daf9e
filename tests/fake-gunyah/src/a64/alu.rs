//! Pure arithmetic: no CPU state, no memory.

/// The condition flags, as the low four bits N, Z, C, V.
pub(super) type Nzcv = u8;

/// Bits `hi` down to `lo` of an instruction.
pub(super) fn bits(word: u32, hi: u32, lo: u32) -> u32 {
    (word >> lo) & (u32::MAX >> (31 - (hi - lo)))
}

/// Bit `n` of an instruction.
pub(super) fn bit(word: u32, n: u32) -> bool {
    (word >> n) & 1 == 1
}

/// Sign-extends the low `width` bits (1 to 64) of `value`.
pub(super) fn sign_extend(value: u64, width: u32) -> u64 {
    let shift = 64 - width;
    (((value << shift) as i64) >> shift) as u64
}

/// The low `width` bits set, for 0 to 64.
pub(super) fn ones(width: u32) -> u64 {
    u64::MAX.checked_shr(64 - width).unwrap_or(0)
}

/// Truncates to 32 bits unless `sf`.
pub(super) fn trim(sf: bool, value: u64) -> u64 {
    if sf { value } else { value & 0xffff_ffff }
}

/// N and Z of a result, C and V clear.
pub(super) fn nz(sf: bool, value: u64) -> Nzcv {
    let negative = if sf { value >> 63 } else { (value >> 31) & 1 };
    let zero = trim(sf, value) == 0;
    ((negative as u8) << 3) | (u8::from(zero) << 2)
}

/// `a + b + carry` with all four flags.
pub(super) fn add_with_carry(sf: bool, a: u64, b: u64, carry: bool) -> (u64, Nzcv) {
    let top = if sf { 63 } else { 31 };
    let (a, b) = (trim(sf, a), trim(sf, b));
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let sum = trim(sf, wide as u64);
    let carry_out = (wide >> (top + 1)) & 1 == 1;
    let overflow = ((a ^ sum) & (b ^ sum)) >> top & 1 == 1;
    (sum, nz(sf, sum) | (u8::from(carry_out) << 1) | u8::from(overflow))
}

/// Shifts by `amount` (below the width): 0 LSL, 1 LSR, 2 ASR, 3 ROR.
pub(super) fn shift(sf: bool, value: u64, kind: u32, amount: u32) -> u64 {
    if sf {
        match kind {
            0 => value << (amount & 63),
            1 => value >> (amount & 63),
            2 => ((value as i64) >> (amount & 63)) as u64,
            _ => value.rotate_right(amount),
        }
    } else {
        let value = value as u32;
        u64::from(match kind {
            0 => value << (amount & 31),
            1 => value >> (amount & 31),
            2 => ((value as i32) >> (amount & 31)) as u32,
            _ => value.rotate_right(amount),
        })
    }
}

/// UXTB, UXTH, UXTW, UXTX, SXTB, SXTH, SXTW, SXTX, then a left shift.
pub(super) fn extend(value: u64, option: u32, amount: u32) -> u64 {
    let width = 8 << (option & 3);
    let extended = if option & 4 == 0 { value & ones(width) } else { sign_extend(value, width) };
    extended << amount
}

/// The value of a logical immediate; `None` where the encoding is reserved.
///
/// The pattern is a run of ones, rotated, in elements of 2 to 64 bits that repeat. N and the leading ones of `imms` tell
/// the size of an element.
pub(super) fn logical_immediate(sf: bool, n: u32, immr: u32, imms: u32) -> Option<u64> {
    if !sf && n == 1 {
        return None;
    }
    let selector = (n << 6) | (!imms & 0x3f);
    let size_log2 = 31u32.checked_sub(selector.leading_zeros())?;
    if size_log2 == 0 {
        return None;
    }
    let size = 1 << size_log2;
    let run = (imms & (size - 1)) + 1;
    if run == size {
        return None;
    }
    let rotate = immr & (size - 1);
    let element = ones(run);
    let mut pattern =
        if rotate == 0 { element } else { ((element >> rotate) | (element << (size - rotate))) & ones(size) };
    let mut filled = size;
    while filled < 64 {
        pattern |= pattern << filled;
        filled *= 2;
    }
    Some(trim(sf, pattern))
}

/// UBFM, SBFM and BFM in one: the field of `src`, its lowest bit and its width in the result.
///
/// For `imms >= immr` the field comes from the middle of the source and lands at bit 0; else it comes from the bottom and
/// lands at `width - immr`.
pub(super) struct Field {
    /// The field's bits, at bit 0.
    pub(super) value: u64,
    /// How many bits it has.
    pub(super) width: u32,
    /// Where it lands.
    pub(super) lsb: u32,
}

/// Takes the field apart; `immr` and `imms` are below the register width.
pub(super) fn bitfield(sf: bool, src: u64, immr: u32, imms: u32) -> Field {
    let reg = if sf { 64 } else { 32 };
    let src = trim(sf, src);
    if imms >= immr {
        let width = imms - immr + 1;
        Field { value: (src >> immr) & ones(width), width, lsb: 0 }
    } else {
        let width = imms + 1;
        Field { value: src & ones(width), width, lsb: reg - immr }
    }
}

/// CRC-32 (or CRC-32C) of the low `len` bytes, least significant first, without inversions.
pub(super) fn crc32(castagnoli: bool, acc: u32, value: u64, len: u32) -> u32 {
    let polynomial = if castagnoli { 0x82f6_3b78 } else { 0xedb8_8320 };
    let mut crc = acc;
    for byte in value.to_le_bytes().into_iter().take(len as usize) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let feedback = if crc & 1 == 1 { polynomial } else { 0 };
            crc = (crc >> 1) ^ feedback;
        }
    }
    crc
}

/// Whether `condition` (0 EQ … 14 AL, 15 also always) holds.
pub(super) fn condition_holds(condition: u32, nzcv: Nzcv) -> bool {
    let (n, z, c, v) = (nzcv & 8 != 0, nzcv & 4 != 0, nzcv & 2 != 0, nzcv & 1 != 0);
    let holds = match condition >> 1 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    holds != (condition & 1 == 1)
}
