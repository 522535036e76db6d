//! Keys and values of a layer in pages of fixed size: how they lie in memory, and how they are
//! written.

mod counted;
mod parts;

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, atomic::AtomicU64},
};

use crate::{Cpu, KernelError, check};
pub use counted::Counted;
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

/// Keys and values of [`KV_PAGE_TOKENS`] positions of one layer; zeros until written. A clone
/// shares the memory until either of the two is written.
#[derive(Debug, Clone)]
pub struct KvPage {
    kv_heads: usize,
    head_dim: usize,
    /// Whether keys are the values too.
    is_joint: bool,
    memory: Arc<Memory>,
}

/// A page's memory, which may be counted.
#[derive(Debug, Clone)]
struct Memory {
    data: KvData,
    #[allow(dead_code, reason = "it counts as long as it lives")]
    counted: Option<Counted>,
}

/// The elements of a page.
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
    pub fn joint(kv_type: KvType, kv_heads: usize, head_dim: usize) -> KvPage {
        KvPage::of(kv_type, kv_heads, head_dim, true)
    }

    fn of(kv_type: KvType, kv_heads: usize, head_dim: usize, is_joint: bool) -> KvPage {
        let len = kv_heads * head_dim * KV_PAGE_TOKENS;
        let values = if is_joint { 0 } else { len };
        let data = match kv_type {
            KvType::F16 => KvData::F16(Parts::zeros(len, values)),
            KvType::F32 => KvData::F32(Parts::zeros(len, values)),
        };
        KvPage {
            kv_heads,
            head_dim,
            is_joint,
            memory: Arc::new(Memory {
                data,
                counted: None,
            }),
        }
    }

    /// The page with its memory added to `count` as long as it lives, once however many pages share
    /// it.
    #[must_use]
    pub fn counted(mut self, count: &Arc<AtomicU64>) -> KvPage {
        let counted = Counted::new(self.own_bytes(), count);
        Arc::make_mut(&mut self.memory).counted = Some(counted);
        self
    }

    /// Whether others share the memory, so that a write has to copy it first.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.memory) > 1
    }

    /// Copies the memory now if it is shared.
    pub fn make_own(&mut self) {
        Arc::make_mut(&mut self.memory);
    }

    pub(crate) fn data(&self) -> &KvData {
        &self.memory.data
    }

    fn data_mut(&mut self) -> &mut KvData {
        &mut Arc::make_mut(&mut self.memory).data
    }

    /// Bytes of a page of this shape.
    pub fn bytes(kv_type: KvType, kv_heads: usize, head_dim: usize) -> u64 {
        2 * KvPage::joint_bytes(kv_type, kv_heads, head_dim)
    }

    /// Bytes of a page of this shape whose keys are the values too.
    pub fn joint_bytes(kv_type: KvType, kv_heads: usize, head_dim: usize) -> u64 {
        (kv_type.bytes() * kv_heads * head_dim * KV_PAGE_TOKENS) as u64
    }

    /// Bytes of this page.
    pub fn own_bytes(&self) -> u64 {
        self.saved_bytes(KV_PAGE_TOKENS) as u64
    }

    /// Whether keys are the values too.
    pub fn is_joint(&self) -> bool {
        self.is_joint
    }

    /// What its elements are.
    pub fn kv_type(&self) -> KvType {
        match self.memory.data {
            KvData::F16(_) => KvType::F16,
            KvData::F32(_) => KvType::F32,
        }
    }

    /// (kv_heads, head_dim).
    pub fn shape(&self) -> (usize, usize) {
        (self.kv_heads, self.head_dim)
    }

    /// Writes the key and the value of one head at a position of the page; where keys are the
    /// values too, the value is left out.
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
        match self.data_mut() {
            KvData::F16(parts) => parts.write(in_page, head, dim, key, value),
            KvData::F32(parts) => parts.write(in_page, head, dim, key, value),
        }
        Ok(())
    }

    /// Takes the keys and the values of one head at some positions from another page of the same
    /// type, as they are kept there.
    ///
    /// # Errors
    /// If there is no such position or head, or the pages differ in type or shape.
    pub(crate) fn copy_from(
        &mut self,
        in_page: usize,
        head: usize,
        (from, from_place): (&KvPage, usize),
        count: usize,
    ) -> Result<(), KernelError> {
        const OP: &str = "key-value page";
        let end = in_page.max(from_place).saturating_add(count);
        check::index(OP, "position", end.saturating_sub(1), KV_PAGE_TOKENS)?;
        check::index(OP, "head", head, self.kv_heads.min(from.kv_heads))?;
        check::size(OP, "head_dim", self.head_dim, from.head_dim)?;
        check::size(OP, "parts", self.is_joint.into(), from.is_joint.into())?;
        let place = (head, self.head_dim, from_place, count);
        match (self.data_mut(), from.data()) {
            (KvData::F16(own), KvData::F16(other)) => own.copy_from(in_page, place, other),
            (KvData::F32(own), KvData::F32(other)) => own.copy_from(in_page, place, other),
            (_, _) => check::size(OP, "element", 0, 1)?,
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
        match self.data() {
            KvData::F16(parts) => parts.read(in_page, head, self.head_dim, key, value),
            KvData::F32(parts) => parts.read(in_page, head, self.head_dim, key, value),
        }
        Ok(())
    }

    /// Bytes that [`KvPage::save`] appends.
    pub fn saved_bytes(&self, positions: usize) -> usize {
        let parts = if self.is_joint { 1 } else { 2 };
        let width = parts * self.kv_type().bytes() * self.kv_heads * self.head_dim;
        width * positions.min(KV_PAGE_TOKENS)
    }

    /// Appends the elements of the first positions, little-endian, as
    /// `[positions, kv_heads, (key, value), head_dim]`, without values where keys are those too.
    pub fn save(&self, positions: usize, out: &mut Vec<u8>) {
        match self.data() {
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
        let (kv_heads, head_dim) = self.shape();
        match self.data_mut() {
            KvData::F16(parts) => parts.load(kv_heads, head_dim, bytes),
            KvData::F32(parts) => parts.load(kv_heads, head_dim, bytes),
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
        let width = kv_heads * dim;
        let mut rest = k.chunks_exact(width).zip(v.chunks_exact(width));
        let mut position = start;
        while rest.len() > 0 {
            let (page, first) = (position / KV_PAGE_TOKENS, position % KV_PAGE_TOKENS);
            let here = rest.len().min(KV_PAGE_TOKENS - first);
            let data = pages[page].data_mut();
            for (in_page, (k, v)) in (first..).zip(rest.by_ref().take(here)) {
                let heads = k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate();
                for (head, (key, value)) in heads {
                    self.kv_write(data, in_page, head, key, value);
                }
            }
            position += here;
        }
        Ok(())
    }

    fn kv_write(&self, data: &mut KvData, in_page: usize, head: usize, key: &[f32], value: &[f32]) {
        match data {
            KvData::F16(parts) => self.backend.run(Write {
                parts,
                in_page,
                head,
                key,
                value,
            }),
            KvData::F32(parts) => parts.write(in_page, head, key.len(), key, value),
        }
    }
}
