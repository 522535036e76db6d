//! Keys and values of a layer in pages of fixed size: how they lie in memory, and how they are
//! written.

use std::{fmt, str::FromStr};

use crate::{
    Cpu, KernelError, check,
    lanes::{Kernel, Lanes},
    math,
};

/// Positions in a page of keys and values.
pub const KV_PAGE_TOKENS: usize = 64;

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// binary16, rounded to nearest even; finite values beyond its range become its largest.
    #[default]
    F16,
    /// As computed.
    F32,
}

impl KvType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
        })
    }
}

impl FromStr for KvType {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<KvType, KernelError> {
        match name {
            "f16" => Ok(KvType::F16),
            "f32" => Ok(KvType::F32),
            _ => Err(KernelError::KvTypeUnknown {
                name: name.to_owned(),
            }),
        }
    }
}

/// Keys and values of [`KV_PAGE_TOKENS`] positions of one layer; zeros until written.
#[derive(Debug, Clone)]
pub struct KvPage {
    kv_heads: usize,
    head_dim: usize,
    data: KvData,
}

/// A page's memory.
#[derive(Debug, Clone)]
pub(crate) enum KvData {
    F16(Parts<u16>),
    F32(Parts<f32>),
}

/// Keys lie across positions, so that 16 scores are taken in 16 lanes; values along them.
#[derive(Debug, Clone)]
pub(crate) struct Parts<E> {
    /// `[kv_heads, head_dim, KV_PAGE_TOKENS]`.
    pub keys: Vec<E>,
    /// `[kv_heads, KV_PAGE_TOKENS, head_dim]`.
    pub values: Vec<E>,
}

/// An element of a page.
pub(crate) trait KvElement: Copy + Default + Sync {
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
        match &page.data {
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
        match &page.data {
            KvData::F32(parts) => Some(parts),
            KvData::F16(_) => None,
        }
    }
}

impl<E: KvElement> Parts<E> {
    fn zeros(len: usize) -> Parts<E> {
        Parts {
            keys: vec![E::default(); len],
            values: vec![E::default(); len],
        }
    }
}

impl KvPage {
    /// A page of zeros.
    pub fn new(kv_type: KvType, kv_heads: usize, head_dim: usize) -> KvPage {
        let len = kv_heads * head_dim * KV_PAGE_TOKENS;
        KvPage {
            kv_heads,
            head_dim,
            data: match kv_type {
                KvType::F16 => KvData::F16(Parts::zeros(len)),
                KvType::F32 => KvData::F32(Parts::zeros(len)),
            },
        }
    }

    /// Bytes of a page of this shape.
    pub fn bytes(kv_type: KvType, kv_heads: usize, head_dim: usize) -> u64 {
        (2 * kv_type.bytes() * kv_heads * head_dim * KV_PAGE_TOKENS) as u64
    }

    /// What its elements are.
    pub fn kv_type(&self) -> KvType {
        match self.data {
            KvData::F16(_) => KvType::F16,
            KvData::F32(_) => KvType::F32,
        }
    }

    /// (kv_heads, head_dim).
    pub fn shape(&self) -> (usize, usize) {
        (self.kv_heads, self.head_dim)
    }

    /// Writes the key and the value of one head at a position of the page.
    ///
    /// # Errors
    /// If there is no such position or head, or lengths differ from head_dim.
    pub fn write(
        &mut self,
        in_page: usize,
        head: usize,
        key: &[f32],
        value: &[f32],
    ) -> Result<(), KernelError> {
        self.check_place(in_page, head, key, value)?;
        let dim = self.head_dim;
        match &mut self.data {
            KvData::F16(parts) => parts.write(in_page, head, dim, key, value),
            KvData::F32(parts) => parts.write(in_page, head, dim, key, value),
        }
        Ok(())
    }

    /// Reads what [`KvPage::write`] has kept.
    ///
    /// # Errors
    /// As there.
    pub fn read(
        &self,
        in_page: usize,
        head: usize,
        key: &mut [f32],
        value: &mut [f32],
    ) -> Result<(), KernelError> {
        self.check_place(in_page, head, key, value)?;
        match &self.data {
            KvData::F16(parts) => parts.read(in_page, head, self.head_dim, key, value),
            KvData::F32(parts) => parts.read(in_page, head, self.head_dim, key, value),
        }
        Ok(())
    }

    /// Bytes that [`KvPage::save`] appends.
    pub fn saved_bytes(&self, positions: usize) -> usize {
        2 * self.kv_type().bytes() * self.kv_heads * self.head_dim * positions.min(KV_PAGE_TOKENS)
    }

    /// Appends the elements of the first positions, little-endian, as
    /// `[positions, kv_heads, (key, value), head_dim]`.
    pub fn save(&self, positions: usize, out: &mut Vec<u8>) {
        match &self.data {
            KvData::F16(parts) => parts.save(self.kv_heads, self.head_dim, positions, out),
            KvData::F32(parts) => parts.save(self.kv_heads, self.head_dim, positions, out),
        }
    }

    /// Takes what [`KvPage::save`] has written.
    ///
    /// # Errors
    /// If there are not [`KvPage::saved_bytes`] bytes.
    pub fn load(&mut self, positions: usize, bytes: &[u8]) -> Result<(), KernelError> {
        check::size(
            "key-value page",
            "bytes",
            self.saved_bytes(positions),
            bytes.len(),
        )?;
        match &mut self.data {
            KvData::F16(parts) => parts.load(self.kv_heads, self.head_dim, bytes),
            KvData::F32(parts) => parts.load(self.kv_heads, self.head_dim, bytes),
        }
        Ok(())
    }

    fn check_place(
        &self,
        in_page: usize,
        head: usize,
        key: &[f32],
        value: &[f32],
    ) -> Result<(), KernelError> {
        const OP: &str = "key-value page";
        check::index(OP, "position", in_page, KV_PAGE_TOKENS)?;
        check::index(OP, "head", head, self.kv_heads)?;
        check::size(OP, "key", self.head_dim, key.len())?;
        check::size(OP, "value", self.head_dim, value.len())
    }
}

impl<E: KvElement> Parts<E> {
    fn write(&mut self, in_page: usize, head: usize, dim: usize, key: &[f32], value: &[f32]) {
        let first = head * dim * KV_PAGE_TOKENS;
        for d in 0..dim {
            self.keys[first + d * KV_PAGE_TOKENS + in_page] = E::narrow(key[d]);
            self.values[first + in_page * dim + d] = E::narrow(value[d]);
        }
    }

    fn read(&self, in_page: usize, head: usize, dim: usize, key: &mut [f32], value: &mut [f32]) {
        let first = head * dim * KV_PAGE_TOKENS;
        for d in 0..dim {
            key[d] = self.keys[first + d * KV_PAGE_TOKENS + in_page].widen();
            value[d] = self.values[first + in_page * dim + d].widen();
        }
    }
}

impl<E: KvElement> Parts<E> {
    fn save(&self, kv_heads: usize, dim: usize, positions: usize, out: &mut Vec<u8>) {
        for in_page in 0..positions.min(KV_PAGE_TOKENS) {
            for head in 0..kv_heads {
                let first = head * dim * KV_PAGE_TOKENS;
                let keys = self.keys[first + in_page..].iter().step_by(KV_PAGE_TOKENS);
                let values = &self.values[first + in_page * dim..][..dim];
                for element in keys.take(dim).chain(values) {
                    element.push_to(out);
                }
            }
        }
    }

    fn load(&mut self, kv_heads: usize, dim: usize, bytes: &[u8]) {
        for (row, bytes) in bytes.chunks_exact(2 * dim * size_of::<E>()).enumerate() {
            let (in_page, head) = (row / kv_heads, row % kv_heads);
            let first = head * dim * KV_PAGE_TOKENS;
            let keys = self.keys[first + in_page..]
                .iter_mut()
                .step_by(KV_PAGE_TOKENS);
            let values = &mut self.values[first + in_page * dim..][..dim];
            let elements = keys.take(dim).chain(values);
            for (element, bytes) in elements.zip(bytes.chunks_exact(size_of::<E>())) {
                *element = E::from_bytes(bytes);
            }
        }
    }
}

/// Checks an append; gives (kv_heads, head_dim), or None if there is nothing to write.
pub(crate) fn check_append(
    pages: &[KvPage],
    start: usize,
    k: &[f32],
    v: &[f32],
) -> Result<Option<(usize, usize)>, KernelError> {
    const OP: &str = "kv_append";
    check::size(OP, "values", k.len(), v.len())?;
    let Some(page) = pages.first().filter(|_| !k.is_empty()) else {
        return check::size(OP, "keys", 0, k.len()).map(|()| None);
    };
    let (kv_heads, head_dim) = page.shape();
    let n = check::rows(OP, "keys", k.len(), check::product(&[kv_heads, head_dim]))?;
    let needed = start.saturating_add(n).div_ceil(KV_PAGE_TOKENS);
    if pages.len() < needed {
        check::size(OP, "pages", needed, pages.len())?;
    }
    for other in pages {
        check::size(OP, "heads of a page", kv_heads, other.kv_heads)?;
        check::size(OP, "head_dim of a page", head_dim, other.head_dim)?;
    }
    Ok(Some((kv_heads, head_dim)))
}

impl Cpu {
    /// Writes `k` and `v: [n, kv_heads, head_dim]` at the positions start .. start + n of
    /// `pages`, whose first page holds position 0.
    ///
    /// # Errors
    /// If sizes do not fit or pages are missing.
    pub fn kv_append(
        &self,
        pages: &mut [KvPage],
        start: usize,
        k: &[f32],
        v: &[f32],
    ) -> Result<(), KernelError> {
        let Some((kv_heads, dim)) = check_append(pages, start, k, v)? else {
            return Ok(());
        };
        for (index, (key, value)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
            let position = start + index / kv_heads;
            let (in_page, head) = (position % KV_PAGE_TOKENS, index % kv_heads);
            match &mut pages[position / KV_PAGE_TOKENS].data {
                KvData::F16(parts) => self.backend.run(Write {
                    parts,
                    in_page,
                    head,
                    key,
                    value,
                }),
                KvData::F32(parts) => parts.write(in_page, head, dim, key, value),
            }
        }
        Ok(())
    }
}

/// One key and one value, to be converted and written.
struct Write<'a, E> {
    parts: &'a mut Parts<E>,
    in_page: usize,
    head: usize,
    key: &'a [f32],
    value: &'a [f32],
}

impl<E: KvElement> Kernel for Write<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let dim = self.key.len();
        let first = self.head * dim * KV_PAGE_TOKENS;
        let keys = &mut self.parts.keys[first..][..dim * KV_PAGE_TOKENS];
        let values = &mut self.parts.values[first + self.in_page * dim..][..dim];
        let mut i = 0;
        while i < dim {
            let mut narrow = [E::default(); 16];
            E::store(l, l.load_at(self.value, i), &mut narrow);
            let len = 16.min(dim - i);
            values[i..i + len].copy_from_slice(&narrow[..len]);
            E::store(l, l.load_at(self.key, i), &mut narrow);
            let rows = keys[i * KV_PAGE_TOKENS..].chunks_exact_mut(KV_PAGE_TOKENS);
            for (row, key) in rows.zip(narrow) {
                row[self.in_page] = key;
            }
            i += 16;
        }
    }
}
