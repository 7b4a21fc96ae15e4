//! Header blocks: name-value pairs, deflated with a dictionary known to both sides, in one stream for the connection.

use super::dictionary::DICTIONARY;
use super::{Headers, Malformed};
use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Bounds of an inflated block: a few bytes can inflate to megabytes.
const BLOCK_BYTES_MAX: usize = 64 << 10;
const PAIRS_MAX: usize = 128;

/// Inflates blocks.
#[derive(Debug)]
pub struct HeaderDecoder {
    inflate: Decompress,
}

impl Default for HeaderDecoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl HeaderDecoder {
    /// Reads a block. After an error no further block can be read.
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, Malformed> {
        let plain = self.inflate(block)?;
        parse(&plain).ok_or(Malformed::Headers("its pairs are cut short or not text"))
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut plain = Vec::with_capacity(1 << 10);
        let mut input = block;
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= BLOCK_BYTES_MAX {
                    return Err(Malformed::Headers("too large"));
                }
                plain.reserve(plain.len());
            }
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let result = self.inflate.decompress_vec(input, &mut plain, FlushDecompress::Sync);
            let consumed = usize::try_from(self.inflate.total_in() - read).unwrap_or(usize::MAX);
            input = input.get(consumed..).unwrap_or_default();
            match result {
                Ok(Status::StreamEnd) => return Err(Malformed::Headers("the compressed stream has ended")),
                Ok(_) => {
                    let stalled = consumed == 0 && self.inflate.total_out() == written;
                    if (input.is_empty() && plain.len() < plain.capacity()) || stalled {
                        return Ok(plain);
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|_| Malformed::Headers("other dictionary"))?;
                }
                Err(_) => return Err(Malformed::Headers("not deflated data")),
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Option<Headers> {
    let count = usize::try_from(plain.try_get_u32().ok()?).ok().filter(|count| *count <= PAIRS_MAX)?;
    let mut text = || {
        let length = usize::try_from(plain.try_get_u32().ok()?).ok()?;
        let (text, rest) = plain.split_at_checked(length)?;
        plain = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    };
    (0..count).map(|_| Some((text()?.to_ascii_lowercase(), text()?))).collect()
}

/// Deflates blocks.
#[derive(Debug)]
pub struct HeaderEncoder {
    deflate: Compress,
}

impl Default for HeaderEncoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(DICTIONARY).expect("a new stream takes a dictionary");
        Self { deflate }
    }
}

impl HeaderEncoder {
    /// Makes a block.
    pub fn encode(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        let length = |length: usize| u32::try_from(length).expect("our headers are short");
        plain.put_u32(length(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(length(text.len()));
                plain.put_slice(text.as_bytes());
            }
        }
        // Deflate adds a few bytes at most to what it cannot shrink.
        let mut block = Vec::with_capacity(plain.len() + 128);
        let mut rest = plain.as_slice();
        loop {
            let read = self.deflate.total_in();
            self.deflate
                .compress_vec(rest, &mut block, FlushCompress::Sync)
                .expect("deflating into memory does not fail");
            rest = &rest[usize::try_from(self.deflate.total_in() - read).unwrap_or(rest.len())..];
            if rest.is_empty() && block.len() < block.capacity() {
                return block;
            }
            block.reserve(256);
        }
    }
}
