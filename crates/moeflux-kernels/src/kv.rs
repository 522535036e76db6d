//! Keys and values of a layer in pages of fixed size: how they lie in memory, and how they are
//! written.

mod parts;

use std::{fmt, str::FromStr};

use crate::{Cpu, KernelError, check};
use parts::Write;
pub(crate) use parts::{KvElement, Parts};

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
    /// Whether keys are the values too.
    is_shared: bool,
    data: KvData,
}

/// A page's memory.
#[derive(Debug, Clone)]
pub(crate) enum KvData {
    F16(Parts<u16>),
    F32(Parts<f32>),
}

impl KvPage {
    /// A page of zeros.
    pub fn new(kv_type: KvType, kv_heads: usize, head_dim: usize) -> KvPage {
        KvPage::of(kv_type, kv_heads, head_dim, false)
    }

    /// A page of zeros whose keys are the values too, kept once.
    pub fn shared(kv_type: KvType, kv_heads: usize, head_dim: usize) -> KvPage {
        KvPage::of(kv_type, kv_heads, head_dim, true)
    }

    fn of(kv_type: KvType, kv_heads: usize, head_dim: usize, is_shared: bool) -> KvPage {
        let len = kv_heads * head_dim * KV_PAGE_TOKENS;
        let values = if is_shared { 0 } else { len };
        KvPage {
            kv_heads,
            head_dim,
            is_shared,
            data: match kv_type {
                KvType::F16 => KvData::F16(Parts::zeros(len, values)),
                KvType::F32 => KvData::F32(Parts::zeros(len, values)),
            },
        }
    }

    /// Bytes of a page of this shape.
    pub fn bytes(kv_type: KvType, kv_heads: usize, head_dim: usize) -> u64 {
        2 * KvPage::shared_bytes(kv_type, kv_heads, head_dim)
    }

    /// Bytes of a page of this shape whose keys are the values too.
    pub fn shared_bytes(kv_type: KvType, kv_heads: usize, head_dim: usize) -> u64 {
        (kv_type.bytes() * kv_heads * head_dim * KV_PAGE_TOKENS) as u64
    }

    /// Bytes of this page.
    pub fn own_bytes(&self) -> u64 {
        self.saved_bytes(KV_PAGE_TOKENS) as u64
    }

    /// Whether keys are the values too.
    pub fn is_shared(&self) -> bool {
        self.is_shared
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

    /// Writes the key and the value of one head at a position of the page; where keys are the values
    /// too, the value is left out.
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
        let parts = if self.is_shared { 1 } else { 2 };
        let width = parts * self.kv_type().bytes() * self.kv_heads * self.head_dim;
        width * positions.min(KV_PAGE_TOKENS)
    }

    /// Appends the elements of the first positions, little-endian, as
    /// `[positions, kv_heads, (key, value), head_dim]`, without values where keys are those too.
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
