//! The memory of a page, for either type of element.

use super::{KV_PAGE_TOKENS, KvData, KvPage};
use crate::{
    lanes::{Kernel, Lanes},
    lines::{Lines, Plain},
    math,
};

/// Keys lie across positions, so that 16 scores are taken in 16 lanes; values along them.
#[derive(Debug, Clone)]
pub(crate) struct Parts<E: Plain> {
    /// `[kv_heads, head_dim, KV_PAGE_TOKENS]`.
    pub keys: Lines<E>,
    /// `[kv_heads, KV_PAGE_TOKENS, head_dim]`; empty where keys are the values too.
    pub values: Lines<E>,
}

/// An element of a page.
pub(crate) trait KvElement: Plain + Default + Sync {
    fn narrow(x: f32) -> Self;
    fn widen(self) -> f32;
    /// Little-endian.
    fn push_to(self, out: &mut Vec<u8>);
    /// Of at least as many bytes as the element has.
    fn from_bytes(bytes: &[u8]) -> Self;
    fn load<L: Lanes>(l: L, x: &[Self; 16]) -> L::F;
    fn store<L: Lanes>(l: L, x: L::F, out: &mut [Self; 16]);
    /// The page's memory, if it is of this type.
    fn parts(page: &KvPage) -> Option<&Parts<Self>>;

    /// Elements i .. i + 16 of `x`, those past its end as zeros.
    #[inline(always)]
    fn load_at<L: Lanes>(l: L, x: &[Self], i: usize) -> L::F {
        let x = &x[i..];
        if let Some(x) = x.first_chunk() {
            return Self::load(l, x);
        }
        let mut padded = [Self::default(); 16];
        padded[..x.len()].copy_from_slice(x);
        Self::load(l, &padded)
    }
}

impl KvElement for u16 {
    fn narrow(x: f32) -> u16 {
        math::to_f16(x)
    }

    fn widen(self) -> f32 {
        math::from_f16(self)
    }

    fn push_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn from_bytes(bytes: &[u8]) -> u16 {
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    #[inline(always)]
    fn load<L: Lanes>(l: L, x: &[u16; 16]) -> L::F {
        l.load_f16(x)
    }

    #[inline(always)]
    fn store<L: Lanes>(l: L, x: L::F, out: &mut [u16; 16]) {
        let (most, finite) = (l.splat(math::F16_MAX), l.splat(f32::MAX));
        let (least, finite_least) = (l.splat(-math::F16_MAX), l.splat(-f32::MAX));
        let x = l.if_greater(x, most, l.if_greater(x, finite, x, most), x);
        let x = l.if_greater(least, x, l.if_greater(finite_least, x, x, least), x);
        l.store_f16(x, out);
    }

    fn parts(page: &KvPage) -> Option<&Parts<u16>> {
        match page.data() {
            KvData::F16(parts) => Some(parts),
            KvData::F32(_) => None,
        }
    }
}

impl KvElement for f32 {
    fn narrow(x: f32) -> f32 {
        x
    }

    fn widen(self) -> f32 {
        self
    }

    fn push_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn from_bytes(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    #[inline(always)]
    fn load<L: Lanes>(l: L, x: &[f32; 16]) -> L::F {
        l.load(x)
    }

    #[inline(always)]
    fn store<L: Lanes>(l: L, x: L::F, out: &mut [f32; 16]) {
        l.store(x, out);
    }

    fn parts(page: &KvPage) -> Option<&Parts<f32>> {
        match page.data() {
            KvData::F32(parts) => Some(parts),
            KvData::F16(_) => None,
        }
    }
}

impl<E: KvElement> Parts<E> {
    pub(super) fn zeros(keys: usize, values: usize) -> Parts<E> {
        Parts {
            keys: Lines::zeros(keys),
            values: Lines::zeros(values),
        }
    }

    /// The values of a head at a position; none where keys are the values too.
    fn values_at(&self, first: usize, in_page: usize, dim: usize) -> &[E] {
        let len = if self.values.is_empty() { 0 } else { dim };
        &self.values[(first + in_page * dim).min(self.values.len())..][..len]
    }

    fn values_at_mut(&mut self, first: usize, in_page: usize, dim: usize) -> &mut [E] {
        let len = if self.values.is_empty() { 0 } else { dim };
        let at = (first + in_page * dim).min(self.values.len());
        &mut self.values[at..][..len]
    }
}

impl<E: KvElement> Parts<E> {
    pub(super) fn write(
        &mut self,
        in_page: usize,
        head: usize,
        dim: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let first = head * dim * KV_PAGE_TOKENS;
        for d in 0..dim {
            self.keys[first + d * KV_PAGE_TOKENS + in_page] = E::narrow(key[d]);
        }
        let values = self.values_at_mut(first, in_page, dim);
        for (kept, value) in values.iter_mut().zip(value) {
            *kept = E::narrow(*value);
        }
    }

    pub(super) fn read(
        &self,
        in_page: usize,
        head: usize,
        dim: usize,
        key: &mut [f32],
        value: &mut [f32],
    ) {
        let first = head * dim * KV_PAGE_TOKENS;
        for d in 0..dim {
            key[d] = self.keys[first + d * KV_PAGE_TOKENS + in_page].widen();
        }
        value.copy_from_slice(key);
        let values = self.values_at(first, in_page, dim);
        for (value, kept) in value.iter_mut().zip(values) {
            *value = kept.widen();
        }
    }

    /// Takes the keys and the values of a head at some positions of another page that has the same
    /// parts.
    pub(super) fn copy_from(
        &mut self,
        in_page: usize,
        (head, dim, from_place, count): (usize, usize, usize, usize),
        from: &Parts<E>,
    ) {
        let first = head * dim * KV_PAGE_TOKENS;
        for d in 0..dim {
            let row = first + d * KV_PAGE_TOKENS;
            let keys = &from.keys[row + from_place..][..count];
            self.keys[row + in_page..][..count].copy_from_slice(keys);
        }
        if !self.values.is_empty() {
            let values = &from.values[first + from_place * dim..][..count * dim];
            self.values[first + in_page * dim..][..count * dim].copy_from_slice(values);
        }
    }

    pub(super) fn save(&self, kv_heads: usize, dim: usize, positions: usize, out: &mut Vec<u8>) {
        for in_page in 0..positions.min(KV_PAGE_TOKENS) {
            for head in 0..kv_heads {
                let first = head * dim * KV_PAGE_TOKENS;
                let keys = self.keys[first + in_page..].iter().step_by(KV_PAGE_TOKENS);
                let values = self.values_at(first, in_page, dim);
                for element in keys.take(dim).chain(values) {
                    element.push_to(out);
                }
            }
        }
    }

    pub(super) fn load(&mut self, kv_heads: usize, dim: usize, bytes: &[u8]) {
        let parts = if self.values.is_empty() { 1 } else { 2 };
        for (row, bytes) in bytes.chunks_exact(parts * dim * size_of::<E>()).enumerate() {
            let (in_page, head) = (row / kv_heads, row % kv_heads);
            let first = head * dim * KV_PAGE_TOKENS;
            let mut elements = bytes.chunks_exact(size_of::<E>()).map(E::from_bytes);
            let keys = self.keys[first + in_page..].iter_mut();
            for (key, element) in keys.step_by(KV_PAGE_TOKENS).take(dim).zip(&mut elements) {
                *key = element;
            }
            let values = self.values_at_mut(first, in_page, dim);
            for (value, element) in values.iter_mut().zip(elements) {
                *value = element;
            }
        }
    }
}

/// One key and one value, to be converted and written.
pub(super) struct Write<'a, E: KvElement> {
    pub parts: &'a mut Parts<E>,
    pub in_page: usize,
    pub head: usize,
    pub key: &'a [f32],
    pub value: &'a [f32],
}

impl<E: KvElement> Kernel for Write<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.key.len();
        let first = self.head * dim * KV_PAGE_TOKENS;
        let Parts { keys, values } = self.parts;
        let keys = &mut keys[first..][..dim * KV_PAGE_TOKENS];
        let mut values = values[..].get_mut(first + self.in_page * dim..);
        let mut i = 0;
        while i < dim {
            let mut narrow = [E::default(); 16];
            if let Some(values) = values.as_deref_mut().filter(|values| !values.is_empty()) {
                E::store(l, l.load_at(self.value, i), &mut narrow);
                let len = 16.min(dim - i);
                values[i..i + len].copy_from_slice(&narrow[..len]);
            }
            E::store(l, l.load_at(self.key, i), &mut narrow);
            let rows = keys[i * KV_PAGE_TOKENS..].chunks_exact_mut(KV_PAGE_TOKENS);
            for (row, key) in rows.zip(narrow) {
                row[self.in_page] = key;
            }
            i += 16;
        }
    }
}
