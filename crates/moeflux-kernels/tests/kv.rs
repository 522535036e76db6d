//! Keys and values in pages: what is written is read, and conversion to binary16 is the same on
//! every instruction set.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Random, assert_same, cpus, kind};
use moeflux_kernels::{Cpu, Isa, KV_PAGE_TOKENS, KernelError, KvPage, KvType, math, reference};
use proptest::prelude::*;

fn pages(kv_type: KvType, kv_heads: usize, head_dim: usize, positions: usize) -> Vec<KvPage> {
    let count = positions.div_ceil(KV_PAGE_TOKENS);
    (0..count)
        .map(|_| KvPage::new(kv_type, kv_heads, head_dim))
        .collect()
}

/// All keys, then all values, of `positions`.
fn contents(pages: &[KvPage], positions: std::ops::Range<usize>) -> Vec<f32> {
    let (mut keys, mut values) = (vec![], vec![]);
    for position in positions {
        let page = &pages[position / KV_PAGE_TOKENS];
        let (kv_heads, head_dim) = page.shape();
        for head in 0..kv_heads {
            let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
            page.read(position % KV_PAGE_TOKENS, head, &mut key, &mut value)
                .unwrap();
            keys.append(&mut key);
            values.append(&mut value);
        }
    }
    [keys, values].concat()
}

fn copy_by_bytes(page: &KvPage) -> KvPage {
    let (kv_heads, head_dim) = page.shape();
    let mut copy = KvPage::new(page.kv_type(), kv_heads, head_dim);
    let mut bytes = vec![];
    page.save(KV_PAGE_TOKENS, &mut bytes);
    assert_eq!(bytes.len(), page.saved_bytes(KV_PAGE_TOKENS));
    assert!(copy.load(KV_PAGE_TOKENS, &bytes[1..]).is_err());
    copy.load(KV_PAGE_TOKENS, &bytes).unwrap();
    copy
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn appends(
        seed: u64, kv_heads in 1usize..4, head_dim in 1usize..70, n in 0usize..80,
        start in 0usize..150, x_kind in 0usize..14, half: bool,
    ) {
        let kv_type = if half { KvType::F16 } else { KvType::F32 };
        let mut random = Random(seed);
        let len = n * kv_heads * head_dim;
        let scale = if half { 1e4 } else { 1.0 };
        let floats = |random: &mut Random| -> Vec<f32> {
            random.values(kind(x_kind), len).iter().map(|x| x * scale).collect()
        };
        let (k, v) = (floats(&mut random), floats(&mut random));
        let mut expected = pages(kv_type, kv_heads, head_dim, start + n);
        reference::kv_append(&mut expected, start, &k, &v).unwrap();
        let expected = contents(&expected, 0..start + n);
        if !half {
            let (keys, values) = expected.split_at(expected.len() / 2);
            let written = [&keys[keys.len() - len..], &values[values.len() - len..]].concat();
            let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
            assert_same("kept", &cpu, &written, &[k.clone(), v.clone()].concat());
        }
        for cpu in cpus() {
            let mut pages = pages(kv_type, kv_heads, head_dim, start + n);
            cpu.kv_append(&mut pages, start, &k, &v).unwrap();
            assert_same("kv_append", &cpu, &contents(&pages, 0..start + n), &expected);
            let loaded: Vec<KvPage> = pages.iter().map(copy_by_bytes).collect();
            assert_same("loaded", &cpu, &contents(&loaded, 0..start + n), &expected);
        }
    }
}

/// Every binary16 and its neighbours and midpoints in f32.
#[test]
fn every_binary16_is_kept_and_everything_else_is_rounded() {
    let mut x = Vec::new();
    for bits in 0..=u16::MAX {
        let exact = math::from_f16(bits);
        assert!(exact.is_nan() || math::to_f16(exact) == bits, "{bits:x}");
        x.extend([exact, exact.next_up(), exact.next_down()]);
        x.extend([exact * (1.0 + 1.0 / 2048.0), exact * 1.000_7]);
    }
    x.extend([65504.0, 65519.9, 65520.0, 1e30, f32::MAX, f32::INFINITY]);
    x.resize(x.len().next_multiple_of(64), -65520.0);
    let rows = x.len() / 64;
    let expected: Vec<f32> = x.iter().map(|&x| math::from_f16(math::to_f16(x))).collect();
    for (&x, &kept) in x.iter().zip(&expected).filter(|(x, _)| x.is_finite()) {
        let nearest = half::f16::from_f32(x).to_f32();
        let saturated = nearest.clamp(-65504.0, 65504.0);
        assert_eq!(kept.to_bits(), saturated.to_bits(), "{x:e}");
    }
    for cpu in cpus() {
        let mut pages = pages(KvType::F16, 1, 64, rows);
        cpu.kv_append(&mut pages, 0, &x, &x).unwrap();
        let kept = contents(&pages, 0..rows);
        assert_same("conversion", &cpu, &kept[..x.len()], &expected);
        assert_same("conversion", &cpu, &kept[x.len()..], &expected);
    }
}

#[test]
fn clones_share_memory_until_one_is_written() {
    let count = Arc::new(AtomicU64::new(0));
    let bytes = KvPage::bytes(KvType::F16, 2, 4);
    let counted = || count.load(Ordering::Relaxed);
    let mut pages = vec![KvPage::new(KvType::F16, 2, 4).counted(&count)];
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    cpu.kv_append(&mut pages, 0, &[1.0; 8], &[2.0; 8]).unwrap();
    let kept = pages.clone();
    assert!(pages[0].is_shared() && kept[0].is_shared());
    assert_eq!(counted(), bytes);
    cpu.kv_append(&mut pages, 1, &[3.0; 8], &[4.0; 8]).unwrap();
    assert!(!pages[0].is_shared());
    assert_eq!(counted(), 2 * bytes);
    let (old, new) = (contents(&kept, 0..2), contents(&pages, 0..2));
    assert_eq!(old[..8], new[..8]);
    assert_eq!((old[8], new[8]), (0.0, 3.0));
    let mut third = kept[0].clone();
    drop(pages);
    third.make_own();
    assert!(!third.is_shared() && counted() == 2 * bytes);
    drop((kept, third));
    assert_eq!(counted(), 0);
}

#[test]
fn wrong_sizes_are_errors() {
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    let mut pages = pages(KvType::F16, 2, 4, 64);
    assert!(cpu.kv_append(&mut pages, 63, &[0.0; 8], &[0.0; 8]).is_ok());
    let late = cpu.kv_append(&mut pages, 64, &[0.0; 8], &[0.0; 8]);
    assert!(matches!(late, Err(KernelError::Size { what: "pages", .. })));
    assert!(
        cpu.kv_append(&mut pages, usize::MAX, &[0.0; 8], &[0.0; 8])
            .is_err()
    );
    assert!(cpu.kv_append(&mut pages, 0, &[0.0; 8], &[0.0; 4]).is_err());
    assert!(cpu.kv_append(&mut pages, 0, &[0.0; 4], &[0.0; 4]).is_err());
    assert!(cpu.kv_append(&mut [], 0, &[0.0; 8], &[0.0; 8]).is_err());
    assert!(pages[0].write(64, 0, &[0.0; 4], &[0.0; 4]).is_err());
    assert!(pages[0].write(0, 2, &[0.0; 4], &[0.0; 4]).is_err());
    assert!(pages[0].read(0, 0, &mut [0.0; 3], &mut [0.0; 4]).is_err());
    assert_eq!("f16".parse::<KvType>().unwrap(), KvType::F16);
    assert_eq!(
        KvType::F32.to_string().parse::<KvType>().unwrap(),
        KvType::F32
    );
    assert!("f8".parse::<KvType>().is_err());
}
