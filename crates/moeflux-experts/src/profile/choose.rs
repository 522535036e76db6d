//! Which of the measured settings to use.

use super::DiskPoint;
use crate::reader::ReaderKind;

/// Depth is judged with pieces of this size: that of many models' matrices, so that the result
/// holds whatever the record's size.
pub(super) const USUAL_PIECE_BYTES: u64 = 1 << 20;

/// Rates that differ by less than this part are taken as equal.
const SAME: f64 = 0.03;

/// A reader's settings: the fewest requests in flight that are as fast as any number; then pieces
/// of the usual size, unless others are faster.
pub(super) fn fastest_frugal(points: &[DiskPoint], reader: ReaderKind) -> Option<DiskPoint> {
    let of_reader = || points.iter().filter(move |point| point.reader == reader);
    let usual = || of_reader().filter(|point| point.piece_bytes == USUAL_PIECE_BYTES);
    let best = fastest(usual())?;
    let frugal = usual()
        .filter(|point| nearly(point.bytes_per_second, best.bytes_per_second))
        .min_by_key(|point| point.depth)?;
    let same_depth = of_reader().filter(|point| point.depth == frugal.depth);
    let other = fastest(same_depth)?;
    match nearly(frugal.bytes_per_second, other.bytes_per_second) {
        true => Some(*frugal),
        false => Some(*other),
    }
}

/// The settings to use: io_uring's, which cost the least time of the processor, unless another
/// reader's are faster.
pub(super) fn preferred(points: &[DiskPoint]) -> Option<DiskPoint> {
    let [uring, direct] =
        [ReaderKind::Uring, ReaderKind::Direct].map(|reader| fastest_frugal(points, reader));
    match (uring, direct) {
        (Some(uring), Some(direct)) => {
            match nearly(uring.bytes_per_second, direct.bytes_per_second) {
                true => Some(uring),
                false => Some(direct),
            }
        }
        (uring, direct) => uring.or(direct),
    }
}

fn fastest<'a>(points: impl Iterator<Item = &'a DiskPoint>) -> Option<&'a DiskPoint> {
    points.max_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second))
}

/// Whether a rate is as high as another, or nearly.
fn nearly(rate: f64, other: f64) -> bool {
    rate >= other * (1.0 - SAME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    const UNIT: u64 = USUAL_PIECE_BYTES;

    fn point(reader: ReaderKind, depth: usize, piece_bytes: u64, rate: f64) -> DiskPoint {
        DiskPoint {
            reader,
            depth,
            piece_bytes,
            bytes_per_second: rate,
            latency_us: 1.0,
        }
    }

    #[test]
    fn the_fewest_requests_within_three_per_cent_win() {
        let rates = [(1, 50.0), (2, 80.0), (4, 97.1), (8, 100.0), (16, 99.0)];
        let points = rates.map(|(depth, rate)| point(ReaderKind::Uring, depth, UNIT, rate));
        let chosen = preferred(&points).unwrap();
        assert_eq!((chosen.depth, chosen.piece_bytes), (4, UNIT));
        assert!(fastest_frugal(&points, ReaderKind::Direct).is_none());
        assert!(preferred(&[]).is_none());
    }

    #[test]
    fn another_piece_or_reader_must_be_clearly_faster() {
        let mut points = vec![
            point(ReaderKind::Uring, 4, UNIT, 100.0),
            point(ReaderKind::Uring, 4, 4 * UNIT, 102.0),
            point(ReaderKind::Uring, 1, 4 * UNIT, 500.0),
            point(ReaderKind::Direct, 8, UNIT, 102.0),
        ];
        let chosen = preferred(&points).unwrap();
        assert_eq!(
            (chosen.reader, chosen.piece_bytes),
            (ReaderKind::Uring, UNIT)
        );
        points.push(point(ReaderKind::Uring, 4, 2 * UNIT, 110.0));
        assert_eq!(preferred(&points).unwrap().piece_bytes, 2 * UNIT);
        points.push(point(ReaderKind::Direct, 16, UNIT, 120.0));
        let chosen = preferred(&points).unwrap();
        assert_eq!((chosen.reader, chosen.depth), (ReaderKind::Direct, 16));
    }
}
