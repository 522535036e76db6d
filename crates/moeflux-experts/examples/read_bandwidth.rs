//! Measures what a disk gives, and how much of it records get through leases as an engine takes
//! them.
//!
//! `cargo run --release -p moeflux-experts --example read_bandwidth FILE [MEGABYTES [SHIFT [PLACE]]]`
//! takes the disk's profile on a large file, then reads records of 3 segments of 576 KiB scattered
//! over it with every reader and several depths, about so many megabytes each: 8 records a lease
//! (decode), and all of them in one (prefill). Segments begin SHIFT bytes into a block of the file
//! (default 0), and PLACE bytes into one of memory (default: where no copy is needed).
#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use moeflux_experts::{
    Catalog, DiskProfile, ReaderKind, Record, Residency, ResidencyOptions, Segment,
};

/// A matrix of 512 x 2048 weights at 4.5 bits.
const SEGMENT_BYTES: u64 = 512 * 2048 * 9 / 16;
const RECORD_BYTES: u64 = 3 * SEGMENT_BYTES;
const SLOTS: u64 = 48;
const A_LEASE: [usize; 2] = [8, usize::MAX];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = PathBuf::from(arguments.next().ok_or("which file?")?);
    let megabytes: u64 = arguments.next().map_or(Ok(600), |text| text.parse())?;
    let shift: u64 = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let place: u64 = arguments
        .next()
        .map_or(Ok(shift % 512), |text| text.parse())?;
    let profile = DiskProfile::measure(std::slice::from_ref(&file), &mut |_| ())?;
    if let Some(profile) = &profile {
        show(profile);
    }
    let records = std::fs::metadata(&file)?.len() / (2 * RECORD_BYTES);
    let catalog = catalog(file, records.saturating_sub(1), shift, place);
    let used = (megabytes * 1_000_000 / RECORD_BYTES).min(records - 1) as u32;
    println!("\nGB/s (seconds of processor a GB)");
    println!(
        "{:<9} {:>6} {:>15} {:>15}",
        "reader", "depth", "8 a lease", "all at once"
    );
    let depths = [1, 2, 4, 8, 16].map(Some);
    for kind in [ReaderKind::Uring, ReaderKind::Direct] {
        for depth in depths.into_iter().chain([None]) {
            let mut options = ResidencyOptions::new(catalog.slot_bytes() * SLOTS);
            options.reader = kind.into();
            match depth {
                Some(depth) => options.read_threads = depth,
                None => options.profile = profile.clone(),
            }
            let mut cells = Vec::new();
            let mut at_work = String::new();
            for a_lease in A_LEASE {
                let mut residency = Residency::open(catalog.clone(), options.clone())?;
                let stats = residency.stats();
                at_work = format!("{:<9} {:>6}", stats.reader, stats.depth);
                let (rate, cpu) = measure(&mut residency, used, a_lease)?;
                cells.push(format!("{rate:>7.2} ({cpu:.3})"));
            }
            println!("{at_work} {:>15} {:>15}", cells[0], cells[1]);
        }
    }
    Ok(())
}

fn show(profile: &DiskProfile) {
    println!(
        "{}: {} with {} in flight of {} KiB, {:.2} GB/s",
        profile.device,
        profile.reader,
        profile.depth,
        profile.piece_bytes >> 10,
        profile.bytes_per_second / 1e9
    );
    for point in &profile.points {
        println!(
            "  {:<7} {:>2} of {:>4} KiB: {:.2} GB/s, {:.0} us",
            point.reader,
            point.depth,
            point.piece_bytes >> 10,
            point.bytes_per_second / 1e9,
            point.latency_us
        );
    }
}

/// Reads some records, each once, in a scattered order. Returns GB/s and seconds of processor a GB.
fn measure(
    residency: &mut Residency,
    used: u32,
    a_lease: usize,
) -> Result<(f64, f64), Box<dyn Error>> {
    // An odd step that shares no factor with a power of two visits every record below it.
    let all = used.next_power_of_two();
    let scattered = (0..all).map(|at| at.wrapping_mul(2_654_435_761) % all);
    let order: Vec<u32> = scattered.filter(|&record| record < used).collect();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for experts in order.chunks(a_lease.min(order.len())) {
        let mut lease = residency.lease(0, experts)?;
        while lease.next()?.is_some() {}
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let gigabytes = residency.stats().bytes_read as f64 / 1e9;
    Ok((gigabytes / seconds, cpu / gigabytes))
}

/// Records of three segments from three parts of the file, as stacked tensors have them.
fn catalog(file: PathBuf, records: u64, shift: u64, place: u64) -> Catalog {
    let record = |number: u64| {
        let segment = |part: u64| Segment {
            file: 0,
            offset: (part * records + number) * 2 * SEGMENT_BYTES + shift,
            bytes: SEGMENT_BYTES,
            slot_offset: part * SEGMENT_BYTES + place,
        };
        Record {
            segments: (0..3).map(segment).collect(),
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

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the call writes one rusage; zeroes are one, too.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }
    #[cfg(not(unix))]
    0.0
}
