//! Which of the measured settings to use.

use super::DiskPoint;
use crate::reader::ReaderKind;

/// Depth is judged with pieces of this size: that of many models' matrices, so that the result
/// holds whatever the record's size.
pub(super) const USUAL_PIECE_BYTES: u64 = 1 << 20;

/// With fewer in flight, the disk would idle whenever the next request is not ready at once; and a
/// short measurement that favours less is more often chance than truth.
const LEAST_DEPTH: usize = 4;

/// Rates that differ by less than this part are taken as equal.
const SAME: f64 = 0.03;

/// Of a reader's settings with pieces of the usual size, the one with the fewest requests in flight
/// that is as fast as any.
pub(super) fn frugal(points: &[DiskPoint], reader: ReaderKind) -> Option<DiskPoint> {
    let usual = || {
        let of_reader = points.iter().filter(move |point| point.reader == reader);
        let usual = of_reader.filter(|point| point.piece_bytes == USUAL_PIECE_BYTES);
        usual.filter(|point| point.depth >= LEAST_DEPTH)
    };
    let best = fastest(usual())?;
    let as_fast = usual().filter(|point| nearly(point, best));
    as_fast.min_by_key(|point| point.depth).copied()
}

/// A reader's settings: those of [`frugal`], unless pieces of another size are faster.
pub(super) fn best_of(points: &[DiskPoint], reader: ReaderKind) -> Option<DiskPoint> {
    let frugal = frugal(points, reader)?;
    let same_depth = |point: &&DiskPoint| (point.reader, point.depth) == (reader, frugal.depth);
    let other = fastest(points.iter().filter(same_depth))?;
    match nearly(&frugal, other) {
        true => Some(frugal),
        false => Some(*other),
    }
}

/// The settings to use: io_uring's, which cost the least time of the processor, unless another
/// reader's are faster.
pub(super) fn preferred(points: &[DiskPoint]) -> Option<DiskPoint> {
    let uring = best_of(points, ReaderKind::Uring);
    let direct = best_of(points, ReaderKind::Direct);
    match (uring, direct) {
        (Some(uring), Some(direct)) if !nearly(&uring, &direct) => Some(direct),
        (uring, direct) => uring.or(direct),
    }
}

fn fastest<'a>(points: impl Iterator<Item = &'a DiskPoint>) -> Option<&'a DiskPoint> {
    points.max_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second))
}

/// Whether a setting is as fast as another, or nearly.
fn nearly(point: &DiskPoint, other: &DiskPoint) -> bool {
    point.bytes_per_second >= other.bytes_per_second * (1.0 - SAME)
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
        let rates = [(1, 200.0), (2, 80.0), (4, 97.1), (8, 100.0), (16, 99.0)];
        let points = rates.map(|(depth, rate)| point(ReaderKind::Uring, depth, UNIT, rate));
        let chosen = preferred(&points).unwrap();
        assert_eq!((chosen.depth, chosen.piece_bytes), (4, UNIT));
        assert!(best_of(&points, ReaderKind::Direct).is_none());
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
