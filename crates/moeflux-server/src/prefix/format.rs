//! Files of the prefix cache: versioned, checksummed, bound to the model.
//!
//! Layout, little-endian: magic (8 bytes), identity of the engine's state (u64), bytes of the
//! payload (u64), key of the node and of the one that it hangs on (u128 each), position of the
//! node's first token (u64), position of a recurrent state or 0 for keys and values (u64), number
//! of tokens (u64), tokens (u32 each), xxh3 of all before (u64); the payload, xxh3 of it (u64).

use std::io::{Error, ErrorKind, Read, Write};

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128_with_seed};

/// Format 1.
const MAGIC: &[u8; 8] = b"MFLXPFX1";
/// The most tokens that a header may claim.
const MOST_TOKENS: u64 = 1 << 24;
/// Bytes of a header before its tokens.
const FIXED: usize = 8 + 8 + 8 + 16 + 16 + 8 + 8 + 8;

/// What stands before the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which engine's state it is.
    pub identity: u64,
    /// Bytes of the payload.
    pub payload: u64,
    /// The node.
    pub key: u128,
    /// The node that it hangs on.
    pub parent: u128,
    /// Position of the node's first token.
    pub start: usize,
    /// The position of a recurrent state; `None`: keys and values.
    pub position: Option<usize>,
    /// The node's tokens; none in the file of a recurrent state.
    pub tokens: Vec<u32>,
}

/// The key of a node with `tokens` from position `start` on that hangs on the node `parent`.
pub fn key(parent: u128, start: usize, tokens: &[u32]) -> u128 {
    let mut bytes = parent.to_le_bytes().to_vec();
    bytes.extend((start as u64).to_le_bytes());
    bytes.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    xxh3_128_with_seed(&bytes, 0)
}

impl Header {
    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        (FIXED + self.tokens.len() * 4 + 16) as u64 + self.payload
    }

    /// Writes a file whose payload `write` writes.
    pub fn write(
        &self,
        out: &mut dyn Write,
        write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut head = MAGIC.to_vec();
        head.extend(self.identity.to_le_bytes());
        head.extend(self.payload.to_le_bytes());
        head.extend(self.key.to_le_bytes());
        head.extend(self.parent.to_le_bytes());
        head.extend((self.start as u64).to_le_bytes());
        head.extend((self.position.unwrap_or(0) as u64).to_le_bytes());
        head.extend((self.tokens.len() as u64).to_le_bytes());
        head.extend(self.tokens.iter().flat_map(|t| t.to_le_bytes()));
        head.extend(xxh3_64(&head).to_le_bytes());
        out.write_all(&head)?;
        let mut payload = Hashed::new(out);
        write(&mut payload)?;
        let (bytes, sum) = (payload.bytes, payload.hash.digest());
        if bytes != self.payload {
            return Err(Error::other(
                "the payload has another length than announced",
            ));
        }
        out.write_all(&sum.to_le_bytes())
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Those of `input`; [`ErrorKind::InvalidData`] if it is damaged or no such file.
    pub fn read(input: &mut dyn Read) -> std::io::Result<Header> {
        let mut head = vec![0; FIXED];
        input.read_exact(&mut head)?;
        let mut rest = &head[..];
        let mut field = |bytes: usize| -> u128 {
            let (mine, behind) = rest.split_at(bytes);
            rest = behind;
            mine.iter().rev().fold(0, |n, b| n << 8 | u128::from(*b))
        };
        if field(8) != u128::from(u64::from_le_bytes(*MAGIC)) {
            return Err(damaged());
        }
        let (identity, payload) = (field(8) as u64, field(8) as u64);
        let (key, parent) = (field(16), field(16));
        let (start, position) = (field(8) as usize, field(8) as usize);
        let count = field(8) as u64;
        if count > MOST_TOKENS {
            return Err(damaged());
        }
        let tokens = head.len()..head.len() + count as usize * 4;
        head.resize(tokens.end + 8, 0);
        input.read_exact(&mut head[tokens.start..])?;
        let (body, sum) = head.split_last_chunk::<8>().ok_or_else(damaged)?;
        if xxh3_64(body) != u64::from_le_bytes(*sum) {
            return Err(damaged());
        }
        let token = |b: &[u8; 4]| u32::from_le_bytes(*b);
        Ok(Header {
            identity,
            payload,
            key,
            parent,
            start,
            position: (position > 0).then_some(position),
            tokens: body[tokens.start..]
                .as_chunks::<4>()
                .0
                .iter()
                .map(token)
                .collect(),
        })
    }

    /// Reads the payload, which follows the header, with `read`, and checks it.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn read_payload<T>(
        &self,
        input: &mut dyn Read,
        read: impl FnOnce(&mut dyn Read) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        let mut payload = Hashed::new(input);
        let value = read(&mut payload)?;
        let (bytes, found) = (payload.bytes, payload.hash.digest());
        let mut sum = [0; 8];
        input.read_exact(&mut sum)?;
        match bytes == self.payload && found == u64::from_le_bytes(sum) {
            true => Ok(value),
            false => Err(damaged()),
        }
    }
}

fn damaged() -> Error {
    Error::new(ErrorKind::InvalidData, "it is damaged")
}

/// Counts and hashes what goes through.
struct Hashed<'a, T: ?Sized> {
    inner: &'a mut T,
    hash: Xxh3,
    bytes: u64,
}

impl<'a, T: ?Sized> Hashed<'a, T> {
    fn new(inner: &'a mut T) -> Hashed<'a, T> {
        Hashed {
            inner,
            hash: Xxh3::new(),
            bytes: 0,
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl Write for Hashed<'_, dyn Write + '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.note(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl Read for Hashed<'_, dyn Read + '_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.note(&bytes[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (Header, Vec<u8>) {
        let header = Header {
            identity: 7,
            payload: 5,
            key: key(3, 10, &[1, 2]),
            parent: 3,
            start: 10,
            position: None,
            tokens: vec![1, 2],
        };
        let mut bytes = Vec::new();
        let write = &mut |out: &mut dyn Write| out.write_all(b"state");
        assert!(header.write(&mut bytes, write).is_ok());
        (header, bytes)
    }

    fn read(bytes: &[u8]) -> std::io::Result<(Header, Vec<u8>)> {
        let mut input = bytes;
        let header = Header::read(&mut input)?;
        let payload = header.read_payload(&mut input, |input| {
            let mut payload = vec![0; 5];
            input.read_exact(&mut payload)?;
            Ok(payload)
        })?;
        Ok((header, payload))
    }

    #[test]
    fn files_are_read_as_written() {
        let (header, bytes) = file();
        assert_eq!(bytes.len() as u64, header.file_bytes());
        assert!(matches!(read(&bytes), Ok((h, p)) if h == header && p == b"state"));
    }

    #[test]
    fn every_change_and_every_cut_is_noticed() {
        let (_, bytes) = file();
        for at in 0..bytes.len() {
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(read(&changed).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn another_length_than_announced_is_an_error() {
        let (header, _) = file();
        let write = &mut |out: &mut dyn Write| out.write_all(b"stat");
        assert!(header.write(&mut Vec::new(), write).is_err());
    }
}
