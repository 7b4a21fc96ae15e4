//! Decompression by what the bytes are (gzip, zstd, plain), on a thread of its own, with a bound on what comes out.

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::tar::read_error;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;

/// Counts the bytes read through it.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A reader of the plain bytes, whatever they are packed with.
fn decoder<'a, R: Read + Send + 'a>(mut source: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = [0; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match source.read(&mut magic[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let whole = Cursor::new(magic[..filled].to_vec()).chain(source);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(64 << 10, whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        [b'B', b'Z', b'h', _] | [0xfd, b'7', b'z', b'X'] => {
            let message = "packed with bzip2 or xz, which images are not";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        _ => Box::new(whole),
    })
}

/// The plain bytes, until they are more than the limits allow.
pub(crate) struct Bounded<'a> {
    inner: Box<dyn Read + Send + 'a>,
    packed: Arc<AtomicU64>,
    plain: u64,
    limits: &'a Limits,
}

/// A reader of the plain bytes that ends with an error at the limits.
pub(crate) fn bounded<'a>(source: impl Read + Send + 'a, limits: &'a Limits) -> io::Result<Bounded<'a>> {
    let packed = Arc::new(AtomicU64::new(0));
    let inner = decoder(Counted { inner: source, bytes: packed.clone() })?;
    Ok(Bounded { inner, packed, plain: 0, limits })
}

impl Read for Bounded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.plain += n as u64;
        self.limits.check_unpacked(self.packed.load(Ordering::Relaxed), self.plain)?;
        Ok(n)
    }
}

/// The reading end of `plain`: chunks from the decompressing thread.
pub(crate) struct Pipe {
    chunks: Receiver<io::Result<Vec<u8>>>,
    spare: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

/// Decompresses on a thread while `consume` reads; returns what it made and the digest of all plain bytes.
///
/// The rest of the stream is read to its end after `consume` is done, because the digest covers it too. An error of the
/// source or of a limit reaches `consume` as a reading error.
pub(crate) fn plain<T>(
    source: impl Read + Send,
    limits: &Limits,
    consume: impl FnOnce(&mut Pipe) -> Result<T>,
) -> Result<(T, Digest)> {
    let (sender, chunks) = sync_channel(CHUNKS);
    let (spare, spares) = sync_channel(CHUNKS + 2);
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || decode(source, limits, &sender, &spares));
        let mut pipe = Pipe { chunks, spare, chunk: Vec::new(), at: 0 };
        let made = consume(&mut pipe).and_then(|made| {
            while !pipe.fill_buf().map_err(read_error)?.is_empty() {
                pipe.at = pipe.chunk.len();
            }
            Ok(made)
        });
        drop(pipe);
        let digest = worker.join();
        made.and_then(|made| {
            let digest = digest.map_err(|_| Error::Archive("the decompressing thread failed".into()))?;
            Ok((made, digest))
        })
    })
}

/// The thread: reads, unpacks, hashes and hands on chunks until the end, an error, or nobody listens.
fn decode(
    source: impl Read + Send,
    limits: &Limits,
    sender: &SyncSender<io::Result<Vec<u8>>>,
    spares: &Receiver<Vec<u8>>,
) -> Digest {
    let mut hasher = Hasher::default();
    let mut reader = match bounded(source, limits) {
        Ok(reader) => reader,
        Err(error) => {
            let _ = sender.send(Err(error));
            return hasher.finish();
        }
    };
    loop {
        let mut chunk = spares.try_recv().unwrap_or_default();
        let result = fill(&mut reader, &mut chunk);
        hasher.update(&chunk);
        let last = chunk.is_empty() || result.is_err();
        let sent = match result {
            Ok(()) if chunk.is_empty() => break,
            Ok(()) => sender.send(Ok(chunk)),
            Err(error) => sender.send(Err(error)),
        };
        if last || sent.is_err() {
            break;
        }
    }
    hasher.finish()
}

/// Fills a chunk as far as the source goes.
fn fill(reader: &mut dyn Read, chunk: &mut Vec<u8>) -> io::Result<()> {
    chunk.resize(CHUNK, 0);
    let mut filled = 0;
    while filled < CHUNK {
        match reader.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    chunk.truncate(filled);
    Ok(())
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() {
            let used = std::mem::take(&mut self.chunk);
            self.at = 0;
            if used.capacity() > 0 {
                let _ = self.spare.try_send(used);
            }
            match self.chunks.recv() {
                Ok(chunk) => self.chunk = chunk?,
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let n = piece.len().min(buf.len());
        buf[..n].copy_from_slice(&piece[..n]);
        self.consume(n);
        Ok(n)
    }
}
