//! Measures what the reader threads get out of a disk, through leases as an engine takes them.
//!
//! `cargo run --release -p moeflux-experts --example read_bandwidth [DIRECTORY [MEGABYTES]]`
//! writes a file of that size there, and reads it with every reader and 1 to 16 threads: 8 random
//! records a lease (decode), and all records in one lease (prefill).
#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use moeflux_experts::{Catalog, ReaderKind, Record, Residency, ResidencyOptions, Segment};

/// An expert of 3 x 512 x 2048 weights at 4.5 bits.
const RECORD_BYTES: u64 = 3 * 512 * 2048 * 9 / 16;
const SLOTS: u64 = 48;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let megabytes = match arguments.next() {
        Some(text) => text.to_string_lossy().parse()?,
        None => 1000u64,
    };
    let records = (megabytes * 1_000_000 / RECORD_BYTES).max(8);
    let file = tempfile::NamedTempFile::new_in(&directory)?;
    fill(file.as_file(), records)?;
    let catalog = catalog(file.path().into(), records);
    println!(
        "{records} records of {RECORD_BYTES} bytes in {}, GB/s",
        directory.display()
    );
    println!(
        "{:<10} {:>7} {:>12} {:>12}",
        "reader", "threads", "8 a lease", "all at once"
    );
    for kind in [ReaderKind::Direct, ReaderKind::Buffered] {
        for read_threads in [1, 2, 4, 8, 16] {
            let mut options = ResidencyOptions::new(SLOTS * RECORD_BYTES);
            options.reader = kind.into();
            options.read_threads = read_threads;
            let mut rates = [0.0; 2];
            for (rate, records_a_lease) in rates.iter_mut().zip([8, records]) {
                forget_cached_pages(file.as_file());
                let mut residency = Residency::open(catalog.clone(), options.clone())?;
                *rate = measure(&mut residency, records, records_a_lease)?;
            }
            println!(
                "{kind:<10} {read_threads:>7} {:>12.2} {:>12.2}",
                rates[0], rates[1]
            );
        }
    }
    Ok(())
}

/// Reads every record once, in a scattered order. Returns GB/s.
fn measure(residency: &mut Residency, records: u64, a_lease: u64) -> Result<f64, Box<dyn Error>> {
    // Steps by a number that shares no factor with the count visit every record.
    let step = (records * 3 / 8..)
        .find(|&step| gcd(step, records) == 1)
        .unwrap_or(1);
    let order: Vec<u32> = (0..records)
        .map(|at| (at * step % records) as u32)
        .collect();
    let start = Instant::now();
    for experts in order.chunks(a_lease as usize) {
        let mut lease = residency.lease(0, experts)?;
        while lease.next()?.is_some() {}
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(residency.stats().bytes_read as f64 / seconds / 1e9)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn fill(mut file: &File, records: u64) -> std::io::Result<()> {
    let mut state = 1u64;
    for _ in 0..records {
        let words = (0..RECORD_BYTES / 8).flat_map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()
        });
        file.write_all(&words.collect::<Vec<u8>>())?;
    }
    file.sync_all()
}

fn catalog(file: PathBuf, records: u64) -> Catalog {
    let record = |number: u64| {
        let offset = number * RECORD_BYTES;
        let segment = Segment {
            file: 0,
            offset,
            bytes: RECORD_BYTES,
            slot_offset: 0,
        };
        Record {
            segments: vec![segment],
            checksum: None,
        }
    };
    let layers = BTreeMap::from([(0, (0..records).map(record).collect())]);
    Catalog {
        files: vec![file],
        layers,
        prepare: None,
    }
}

/// Makes the next buffered reads come from the disk.
fn forget_cached_pages(file: &File) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open; the call only advises.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}
