//! Reads a trace. The file may hold anything: every length is checked before memory is taken by
//! it, and no more of it is taken than a small multiple of the file's size.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::{LayerUse, MAGIC, Trace, TraceHeader, TraceStep, VERSION};
use crate::error::ExpertError;
use crate::policy::Pass;

impl Trace {
    /// Reads a trace up to its last whole step.
    ///
    /// # Errors
    /// [`ExpertError::TraceFile`] if the file cannot be read, [`ExpertError::Trace`] if it is not
    /// a trace or damaged before its end.
    pub fn read(path: &Path) -> Result<Trace, ExpertError> {
        let failed = |source| ExpertError::TraceFile {
            action: "read",
            file: path.into(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Trace::parse(&mut BufReader::new(file), bytes).map_err(|problem| match problem {
            Problem::Read(source) => failed(source),
            Problem::Content(problem) => ExpertError::Trace {
                file: path.into(),
                problem,
            },
        })
    }

    fn parse(input: &mut impl Read, bytes: u64) -> Result<Trace, Problem> {
        let mut start = [0; 12];
        let mut left = bytes.saturating_sub(start.len() as u64);
        if bytes < start.len() as u64 || fill(input, &mut start)? < start.len() {
            return Err("it is too short to be one".to_owned().into());
        }
        let (magic, version) = start.split_at(8);
        if magic != MAGIC {
            return Err("it does not begin as one".to_owned().into());
        }
        let version = Fields(version).u32()?;
        if version != VERSION {
            let problem = format!("its version is {version}, this program reads {VERSION}");
            return Err(problem.into());
        }
        let header = match frame(input, &mut left)? {
            Frame::Whole(payload) => header(&payload)?,
            _ => return Err("its header is damaged".to_owned().into()),
        };
        let mut trace = Trace {
            header,
            ..Trace::default()
        };
        loop {
            let number = trace.steps.len();
            match frame(input, &mut left)? {
                Frame::End => return Ok(trace),
                Frame::Whole(payload) => {
                    let step = step(&payload, &trace.header);
                    trace
                        .steps
                        .push(step.map_err(|problem| format!("step {number} {problem}"))?);
                }
                Frame::Torn => {
                    trace.truncated = true;
                    return Ok(trace);
                }
                Frame::Damaged => return Err(format!("step {number} is damaged").into()),
            }
        }
    }
}

/// Why a trace cannot be read.
enum Problem {
    Read(std::io::Error),
    Content(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Problem {
        Problem::Content(problem)
    }
}

enum Frame {
    Whole(Vec<u8>),
    /// The file ends here.
    End,
    /// The file ends within it.
    Torn,
    /// Its bytes are not those written, and others follow.
    Damaged,
}

/// Reads as many bytes as there are; returns how many.
fn fill(input: &mut impl Read, out: &mut [u8]) -> Result<usize, Problem> {
    let mut done = 0;
    while done < out.len() {
        match input.read(&mut out[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Problem::Read(error)),
        }
    }
    Ok(done)
}

/// The next frame; `left` is how many bytes the file has from here on.
fn frame(input: &mut impl Read, left: &mut u64) -> Result<Frame, Problem> {
    let mut len = [0; 4];
    match fill(input, &mut len)? {
        0 => return Ok(Frame::End),
        4 => {}
        _ => return Ok(Frame::Torn),
    }
    let len = u64::from(u32::from_le_bytes(len));
    *left = left.saturating_sub(4);
    if len + 4 > *left {
        return Ok(Frame::Torn);
    }
    *left -= len + 4;
    let mut payload = vec![0; len as usize + 4];
    if fill(input, &mut payload)? < payload.len() {
        return Ok(Frame::Torn);
    }
    let check = payload.split_off(len as usize);
    match (xxh3_64(&payload) as u32).to_le_bytes()[..] == check {
        true => Ok(Frame::Whole(payload)),
        // A file's length can reach the disk before its bytes do.
        false if *left == 0 => Ok(Frame::Torn),
        false => Ok(Frame::Damaged),
    }
}

/// A payload, taken apart from its front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (front, rest) = self.0.split_at_checked(len).ok_or("ends too soon")?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

fn header(payload: &[u8]) -> Result<TraceHeader, String> {
    let mut fields = Fields(payload);
    let (identity, slot_bytes) = (fields.u64()?, fields.u64()?);
    let top_k = fields.u32()?;
    let layers = fields.u32()?;
    let mut header = TraceHeader {
        identity,
        slot_bytes,
        top_k,
        ..TraceHeader::default()
    };
    for _ in 0..layers {
        header.layers.push((fields.u32()?, fields.u32()?));
    }
    header.model = String::from_utf8_lossy(fields.0).into_owned();
    match header.problem() {
        Some(problem) => Err(format!("its header is impossible: {problem}")),
        None => Ok(header),
    }
}

fn step(payload: &[u8], header: &TraceHeader) -> Result<TraceStep, String> {
    let mut fields = Fields(payload);
    let pass = match fields.array()? {
        [0] => Pass::Sparse,
        [kind @ 1..=2] => Pass::Scan { again: kind == 2 },
        [other] => return Err(format!("is of unknown kind {other}")),
    };
    let tokens = fields.u32()?;
    let uses = (tokens as usize).checked_mul(header.top_k as usize);
    let uses = uses
        .filter(|&uses| uses > 0 && uses <= payload.len())
        .ok_or("has an impossible number of tokens")?;
    let mut step = TraceStep {
        pass,
        tokens,
        ..TraceStep::default()
    };
    while !fields.0.is_empty() {
        let turn = fields.u32()?;
        let after = step.layers.last().is_none_or(|last| last.turn < turn);
        let Some(&(layer, experts)) = header.layers.get(turn as usize).filter(|_| after) else {
            return Err(format!("has layer number {turn} out of place"));
        };
        let width = header.id_bytes();
        let ids: Vec<u32> = fields
            .bytes(uses * width)?
            .chunks_exact(width)
            .map(|id| {
                id.iter()
                    .rev()
                    .fold(0, |id, &byte| id << 8 | u32::from(byte))
            })
            .collect();
        if let Some(id) = ids.iter().find(|&&id| id >= experts) {
            return Err(format!(
                "uses expert {id} of layer {layer}, which has {experts}"
            ));
        }
        let weight = |bytes: &[u8]| f32::from_bits(u32::from_le_bytes([0, 0, bytes[0], bytes[1]]));
        let weights = fields
            .bytes(uses * 2)?
            .chunks_exact(2)
            .map(weight)
            .collect();
        step.layers.push(LayerUse { turn, ids, weights });
    }
    Ok(step)
}
