//! Packing of small integers into a little-endian bit stream: eight of them fill `bits` bytes.

/// Packs `codes` (integers in f32, below `2^bits`, a multiple of 8 of them) into `out`.
pub(super) fn pack(bits: u32, codes: &[f32], out: &mut [u8]) {
    match bits {
        2 => pack_bits::<2>(codes, out),
        3 => pack_bits::<3>(codes, out),
        4 => pack_bits::<4>(codes, out),
        5 => pack_bits::<5>(codes, out),
        6 => pack_bits::<6>(codes, out),
        _ => pack_bits::<8>(codes, out),
    }
}

/// The reverse of [`pack`].
pub(super) fn unpack(bits: u32, bytes: &[u8], codes: &mut [f32]) {
    match bits {
        2 => unpack_bits::<2>(bytes, codes),
        3 => unpack_bits::<3>(bytes, codes),
        4 => unpack_bits::<4>(bytes, codes),
        5 => unpack_bits::<5>(bytes, codes),
        6 => unpack_bits::<6>(bytes, codes),
        _ => unpack_bits::<8>(bytes, codes),
    }
}

fn pack_bits<const BITS: usize>(codes: &[f32], out: &mut [u8]) {
    for (codes, out) in codes
        .as_chunks::<8>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<BITS>().0)
    {
        let mut word = 0_u64;
        for (place, &code) in codes.iter().enumerate() {
            word |= (code as i32 as u64) << (place * BITS);
        }
        out.copy_from_slice(&word.to_le_bytes()[..BITS]);
    }
}

fn unpack_bits<const BITS: usize>(bytes: &[u8], codes: &mut [f32]) {
    let mask = (1_u64 << BITS) - 1;
    for (bytes, codes) in bytes
        .as_chunks::<BITS>()
        .0
        .iter()
        .zip(codes.as_chunks_mut::<8>().0)
    {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (place, code) in codes.iter_mut().enumerate() {
            *code = ((word >> (place * BITS)) & mask) as u16 as f32;
        }
    }
}
