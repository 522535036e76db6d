//! Bit streams of small integers to bytes.

/// Unpacks integers of `bits` bits (2, 3, 4, 5, 6 or 8; low bits first) to one byte each.
/// `packed` holds `out.len() * bits / 8` bytes; the length of `out` is a multiple of 8.
#[inline(always)]
pub(crate) fn unpack(bits: u32, packed: &[u8], out: &mut [u8]) {
    match bits {
        2 => unpack_eights::<2>(packed, out),
        3 => unpack_eights::<3>(packed, out),
        4 => unpack_eights::<4>(packed, out),
        5 => unpack_eights::<5>(packed, out),
        6 => unpack_eights::<6>(packed, out),
        _ => out.copy_from_slice(&packed[..out.len()]),
    }
}

/// Eight integers are `BITS` bytes; they are spread over a word in three halvings.
#[inline(always)]
fn unpack_eights<const BITS: usize>(packed: &[u8], out: &mut [u8]) {
    let four: u64 = (1 << (4 * BITS)) - 1;
    let two: u64 = ((1 << (2 * BITS)) - 1) * 0x0000_0001_0000_0001;
    let one: u64 = ((1 << BITS) - 1) * 0x0001_0001_0001_0001;
    let (packed, _) = packed.as_chunks::<BITS>();
    let (out, _) = out.as_chunks_mut::<8>();
    for (packed, out) in packed.iter().zip(out) {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(packed);
        let word = u64::from_le_bytes(word);
        let word = (word & four) | ((word >> (4 * BITS)) & four) << 32;
        let word = (word & two) | ((word >> (2 * BITS)) & two) << 16;
        let word = (word & one) | ((word >> BITS) & one) << 8;
        *out = word.to_le_bytes();
    }
}
