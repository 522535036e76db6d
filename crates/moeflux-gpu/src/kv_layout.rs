//! How keys and values of a layer lie on the device: in 16-byte units of one head, filled up with
//! zeros. Keys in blocks of positions, `[blocks, kv_heads, units, BLOCK]`, so that threads that have
//! neighbouring positions read neighbouring units; values as `[positions, kv_heads, units]`.

use moeflux::KvType;
use moeflux_kernels::math;

/// Positions of a block of keys; room is made for whole blocks.
pub const BLOCK: usize = 64;

/// Shape of a layer's keys (and values).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// What an element is.
    pub kv_type: KvType,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Elements of a position.
    pub fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Elements of a unit.
    pub fn unit(&self) -> usize {
        16 / self.kv_type.bytes()
    }

    /// Units of a head.
    pub fn units(&self) -> usize {
        self.head_dim.div_ceil(self.unit())
    }

    /// Bytes of the keys (or values) of this many positions.
    pub fn bytes(&self, positions: usize) -> u64 {
        (positions.next_multiple_of(BLOCK) * self.kv_heads * self.units() * 16) as u64
    }

    /// Place of the first byte of each element, in the order `[positions, kv_heads, head_dim]`.
    fn places(&self, positions: usize, are_keys: bool) -> impl Iterator<Item = usize> {
        let KvShape {
            kv_heads, head_dim, ..
        } = *self;
        let (unit, units) = (self.unit(), self.units());
        let size = self.kv_type.bytes();
        (0..positions * kv_heads * head_dim).map(move |at| {
            let d = at % head_dim;
            let head = at / head_dim % kv_heads;
            let position = at / head_dim / kv_heads;
            let unit_at = if are_keys {
                let block = position / BLOCK * kv_heads + head;
                (block * units + d / unit) * BLOCK + position % BLOCK
            } else {
                (position * kv_heads + head) * units + d / unit
            };
            unit_at * 16 + d % unit * size
        })
    }

    /// The elements of the first positions, `[positions, kv_heads, head_dim]`, of the bytes that
    /// [`KvShape::bytes`] counts.
    pub fn decode(&self, bytes: &[u8], positions: usize, are_keys: bool) -> Vec<f32> {
        let element = |place: usize| match bytes.get(place..place + self.kv_type.bytes()) {
            Some(&[a, b]) => math::from_f16(u16::from_le_bytes([a, b])),
            Some(&[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => 0.0,
        };
        self.places(positions, are_keys).map(element).collect()
    }

    /// The bytes of `values`, as [`KvShape::decode`] gives them.
    pub fn encode(&self, values: &[f32], are_keys: bool) -> Vec<u8> {
        let positions = values.len() / (self.kv_heads * self.head_dim).max(1);
        let mut bytes = vec![0; self.bytes(positions) as usize];
        for (place, &value) in self.places(positions, are_keys).zip(values) {
            match self.kv_type {
                KvType::F16 => {
                    let half = math::to_f16(value).to_le_bytes();
                    bytes[place..place + 2].copy_from_slice(&half);
                }
                KvType::F32 => bytes[place..place + 4].copy_from_slice(&value.to_le_bytes()),
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for kv_type in [KvType::F16, KvType::F32] {
            for are_keys in [false, true] {
                let shape = KvShape {
                    kv_type,
                    kv_heads: 3,
                    head_dim: 10,
                };
                // Half-precision holds integers up to 2,048.
                let values: Vec<f32> = (0..70 * 30).map(|i| i as f32 - 1050.0).collect();
                let bytes = shape.encode(&values, are_keys);
                assert_eq!(bytes.len() as u64, shape.bytes(70));
                assert_eq!(shape.decode(&bytes, 70, are_keys), values);
                assert_eq!(shape.decode(&bytes, 7, are_keys), values[..7 * 30]);
            }
        }
    }
}
