//! The eight pairs of 6-bit scale and minimum that Q4_K and Q5_K share, in 12 bytes.
//!
//! | bytes | low 6 bits, or low half | high 2 bits, or high half |
//! |---|---|---|
//! | 0..4 | scales 0..4 | bits 4..6 of scales 4..8 |
//! | 4..8 | minima 0..4 | bits 4..6 of minima 4..8 |
//! | 8..12 | bits 0..4 of scales 4..8 | bits 0..4 of minima 4..8 |

/// Scale and minimum of each 32 elements.
pub(super) fn unpack(packed: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|index| {
        let (scale, minimum) = if index < 4 {
            (packed[index] & 63, packed[index + 4] & 63)
        } else {
            let low = packed[index + 4];
            (
                low & 15 | packed[index - 4] >> 6 << 4,
                low >> 4 | packed[index] >> 6 << 4,
            )
        };
        (f32::from(scale), f32::from(minimum))
    })
}
