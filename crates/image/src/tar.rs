//! Reads tar archives as they stream: ustar, GNU and PAX, long names, extended attributes, sparse files.
//!
//! Everything in an archive is from a stranger: sizes are bounded before memory is taken, numbers are checked, and a
//! name is bytes, never trusted as a path (that is `tree`'s work).

use crate::error::{Error, Result};
use std::io::{self, BufRead, ErrorKind};

const BLOCK: usize = 512;
/// Extended headers and long names above this are refused.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Pieces of one sparse file above this are refused.
const SPARSE_PIECES_MAX: usize = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry's header, its extensions merged in.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Bytes the file has when unpacked, holes included.
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Major and minor.
    pub(crate) device: (u64, u64),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of the pieces that have data; none for a plain file.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// A tar archive on a stream.
pub(crate) struct Archive<R> {
    reader: R,
    /// Bytes of the current entry's data not read yet, and the padding after them.
    left: u64,
    padding: u64,
}

/// What PAX records and GNU long names say about the next entry.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_version: (u64, u64),
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_numbers: Vec<u64>,
}

fn bad(reason: impl Into<String>) -> Error {
    Error::Archive(reason.into())
}

/// A reading error: of the archive when its bytes are wrong or end early, else of the source.
pub(crate) fn read_error(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => bad("it ends early"),
        _ => bad(error.to_string()),
    }
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, left: 0, padding: 0 }
    }

    /// The next entry; what was left of the one before is skipped. None at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip_data()?;
        let mut extension = Extension::default();
        let mut extended = false;
        loop {
            let Some(block) = self.header()? else {
                return if extended { Err(bad("it ends after an extended header")) } else { Ok(None) };
            };
            let size = number(&block[124..136]).ok_or_else(|| bad("an entry's size is no number"))?;
            let kind = match block[156] {
                b'x' => {
                    let records = self.extension(size)?;
                    extension.records(&records)?;
                    extended = true;
                    continue;
                }
                b'g' => {
                    self.extension(size)?;
                    continue;
                }
                b'L' => {
                    extension.name = Some(until_nul(&self.extension(size)?).to_vec());
                    extended = true;
                    continue;
                }
                b'K' => {
                    extension.link = Some(until_nul(&self.extension(size)?).to_vec());
                    extended = true;
                    continue;
                }
                b'0' | 0 | b'7' | b'S' => Kind::File,
                b'1' => Kind::HardLink,
                b'2' => Kind::Symlink,
                b'3' => Kind::CharDevice,
                b'4' => Kind::BlockDevice,
                b'5' => Kind::Directory,
                b'6' => Kind::Fifo,
                other => return Err(bad(format!("entry of unknown type {:?}", char::from(other)))),
            };
            return self.entry(&block, kind, size, extension).map(Some);
        }
    }

    /// The next piece of the current entry's data; empty at its end. `consume` says how much of it was used.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = self.reader.fill_buf().map_err(read_error)?;
        if piece.is_empty() {
            return Err(bad("it ends early"));
        }
        Ok(&piece[..piece.len().min(left)])
    }

    /// Marks bytes that `data` gave as used.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.left -= bytes as u64;
    }

    /// All data of the current entry, if it is not more than a limit.
    pub(crate) fn data_whole(&mut self, bytes_max: u64) -> Result<Vec<u8>> {
        if self.left > bytes_max {
            return Err(bad(format!("a document of {} bytes is over the limit of {bytes_max}", self.left)));
        }
        let mut whole = Vec::new();
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                return Ok(whole);
            }
            whole.extend_from_slice(piece);
            let used = piece.len();
            self.consume(used);
        }
    }

    fn skip_data(&mut self) -> Result<()> {
        let mut left = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        while left > 0 {
            let piece = self.reader.fill_buf().map_err(read_error)?.len();
            if piece == 0 {
                return Err(bad("it ends early"));
            }
            let used = usize::try_from(left).unwrap_or(usize::MAX).min(piece);
            self.reader.consume(used);
            left -= used as u64;
        }
        Ok(())
    }

    /// Fills a block; false at a clean end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.reader.fill_buf().map_err(read_error)?;
            if piece.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(bad("it ends early")) };
            }
            let used = piece.len().min(BLOCK - filled);
            block[filled..filled + used].copy_from_slice(&piece[..used]);
            filled += used;
            self.reader.consume(used);
        }
        Ok(true)
    }

    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        if !self.block(&mut block)? {
            return Ok(None);
        }
        if block.iter().all(|b| *b == 0) {
            if self.block(&mut block)? && block.iter().any(|b| *b != 0) {
                return Err(bad("a lone zero block between entries"));
            }
            return Ok(None);
        }
        let sum = |byte: fn(u8) -> i64| -> i64 {
            block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { byte(*b) }).sum()
        };
        let stated = number(&block[148..156]).and_then(|n| i64::try_from(n).ok());
        if stated != Some(sum(i64::from)) && stated != Some(sum(|b| i64::from(b.cast_signed()))) {
            return Err(bad("an entry's header has a wrong checksum"));
        }
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(bad(format!("an extended header of {size} bytes is over the limit of {EXTENSION_BYTES_MAX}")));
        }
        (self.left, self.padding) = (size, padding(size));
        let whole = self.data_whole(EXTENSION_BYTES_MAX)?;
        self.skip_data()?;
        Ok(whole)
    }

    fn entry(&mut self, block: &[u8; BLOCK], kind: Kind, size: u64, extension: Extension) -> Result<Entry> {
        let field = |range: std::ops::Range<usize>, what: &str| {
            number(&block[range]).ok_or_else(|| bad(format!("an entry's {what} is no number")))
        };
        let mut entry = Entry {
            name: extension.name.unwrap_or_else(|| header_name(block)),
            link: extension.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            kind,
            mode: u32::try_from(field(100..108, "mode")? & 0o7777).unwrap_or(0),
            uid: extension.uid.map_or_else(|| field(108..116, "uid"), Ok)?,
            gid: extension.gid.map_or_else(|| field(116..124, "gid"), Ok)?,
            size: extension.size.unwrap_or(size),
            mtime: extension.mtime.unwrap_or((signed(&block[136..148]).unwrap_or(0), 0)),
            device: (0, 0),
            xattrs: extension.xattrs,
            sparse: None,
        };
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.device = (field(329..337, "device")?, field(337..345, "device")?);
        }
        if kind == Kind::File && entry.name.ends_with(b"/") && block[156] != b'S' {
            entry.kind = Kind::Directory;
        }
        if entry.kind != Kind::File {
            // As Go's reader, the one images are made for: a size without data stands in old archives' links.
            entry.size = 0;
            return Ok(entry);
        }
        (self.left, self.padding) = (entry.size, padding(entry.size));
        if self.left.checked_add(self.padding).is_none_or(|n| n > i64::MAX as u64) {
            return Err(Error::entry(&entry.name, format!("absurd size {}", entry.size)));
        }
        if block[156] == b'S' {
            entry.sparse = Some(self.gnu_sparse(block)?);
            entry.size = field(483..495, "size")?;
        } else if extension.sparse_version.0 == 1 {
            entry.sparse = Some(self.pax_sparse()?);
        } else if !extension.sparse_numbers.is_empty() || extension.sparse_size.is_some() {
            let numbers = &extension.sparse_numbers;
            entry.sparse = Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
        }
        if let Some(pieces) = &entry.sparse {
            entry.size = extension.sparse_size.unwrap_or(entry.size);
            entry.name = extension.sparse_name.unwrap_or(entry.name);
            check_sparse(&entry.name, pieces, entry.size, self.left)?;
        }
        Ok(entry)
    }

    /// The map of an old GNU sparse file: four pieces in the header, more in blocks after it.
    fn gnu_sparse(&mut self, block: &[u8; BLOCK]) -> Result<Vec<(u64, u64)>> {
        let mut pieces = Vec::new();
        let mut more = sparse_fields(&block[386..482], &mut pieces)? && block[482] != 0;
        while more {
            let mut next = [0; BLOCK];
            if !self.block(&mut next)? {
                return Err(bad("it ends early"));
            }
            more = sparse_fields(&next[..504], &mut pieces)? && next[504] != 0;
            if pieces.len() > SPARSE_PIECES_MAX {
                return Err(bad("a sparse file has too many pieces"));
            }
        }
        Ok(pieces)
    }

    /// The map of a PAX 1.0 sparse file: decimal lines at the start of the data, padded to a block.
    fn pax_sparse(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut used = 0_u64;
        let mut line = |archive: &mut Self| -> Result<u64> {
            let mut value = 0_u64;
            let mut digits = 0;
            loop {
                let byte = *archive.data()?.first().ok_or_else(|| bad("a sparse map ends early"))?;
                archive.consume(1);
                used += 1;
                match byte {
                    b'0'..=b'9' if digits < 19 => value = value * 10 + u64::from(byte - b'0'),
                    b'\n' if digits > 0 => return Ok(value),
                    _ => return Err(bad("a sparse map is no list of numbers")),
                }
                digits += 1;
            }
        };
        let count = line(self)?;
        if count > SPARSE_PIECES_MAX as u64 {
            return Err(bad("a sparse file has too many pieces"));
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((line(self)?, line(self)?));
        }
        let mut rest = padding(used);
        while rest > 0 {
            let piece = self.data()?.len();
            if piece == 0 {
                return Err(bad("a sparse map ends early"));
            }
            let skip = piece.min(usize::try_from(rest).unwrap_or(BLOCK));
            self.consume(skip);
            rest -= skip as u64;
        }
        Ok(pieces)
    }
}

impl Extension {
    /// Reads `LENGTH KEY=VALUE\n` records.
    fn records(&mut self, mut text: &[u8]) -> Result<()> {
        let wrong = || bad("a PAX header is damaged");
        while !until_nul(text).is_empty() {
            let space = text.iter().take(20).position(|b| *b == b' ').ok_or_else(wrong)?;
            let length = decimal(&text[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
            if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
                return Err(wrong());
            }
            let record = &text[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            text = &text[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let count = || decimal(value).ok_or_else(|| bad("a PAX header has a damaged number"));
        match key {
            b"path" if !value.is_empty() => self.name = Some(value.to_vec()),
            b"linkpath" if !value.is_empty() => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(count()?),
            b"uid" => self.uid = Some(count()?),
            b"gid" => self.gid = Some(count()?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(|| bad("a PAX header has a damaged time"))?),
            b"GNU.sparse.major" => self.sparse_version.0 = count()?,
            b"GNU.sparse.minor" => self.sparse_version.1 = count()?,
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(count()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse_numbers.push(count()?),
            b"GNU.sparse.map" => {
                for part in value.split(|b| *b == b',').filter(|part| !part.is_empty()) {
                    let number = decimal(part).ok_or_else(|| bad("a PAX header has a damaged sparse map"))?;
                    self.sparse_numbers.push(number);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// The name in a header; POSIX headers split long ones, GNU's keep other things in the prefix field.
fn header_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// Octal digits among spaces and NULs, or GNU's big-endian binary; none if neither or negative.
fn number(field: &[u8]) -> Option<u64> {
    signed(field).and_then(|n| u64::try_from(n).ok())
}

fn signed(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let start = if negative { -1_i64 } else { 0 };
        return field.iter().enumerate().try_fold(start, |value, (i, byte)| {
            let byte = if i == 0 { byte & if negative { 0xff } else { 0x7f } } else { *byte };
            let shifted = value.checked_mul(256)?;
            Some(shifted | i64::from(byte))
        });
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit) && !text.is_empty();
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// `[-]seconds[.fraction]`
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let mut nanoseconds = 0;
    for i in 0..9 {
        let digit = fraction.as_bytes().get(i).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
    }
    match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((seconds - 1, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

/// Offset-and-length pairs of 12 characters each; false at the first empty one.
fn sparse_fields(fields: &[u8], pieces: &mut Vec<(u64, u64)>) -> Result<bool> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            return Ok(false);
        }
        let piece = number(&pair[..12]).zip(number(&pair[12..]));
        pieces.push(piece.ok_or_else(|| bad("a sparse map has a damaged number"))?);
    }
    Ok(true)
}

/// Pieces must ascend without overlap within the file, and their data be what the entry has.
fn check_sparse(name: &[u8], pieces: &[(u64, u64)], size: u64, data: u64) -> Result<()> {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for (offset, length) in pieces {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| Error::entry(name, "its sparse map is not in order"))?;
        total += length;
    }
    if total == data { Ok(()) } else { Err(Error::entry(name, "its sparse map does not fit its data")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut archive = Archive::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = archive.next()? {
            let data = archive.data_whole(1 << 20)?;
            entries.push((entry, data));
        }
        Ok(entries)
    }

    fn sample(name: &str, data: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(3_000_000);
        header.set_mtime(7);
        builder.append_data(&mut header, name, data).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn names_of_all_lengths() {
        for length in [1, 99, 100, 101, 155, 255, 256, 1000] {
            let name = "n".repeat(length);
            let entries = list(&sample(&name, b"hello")).unwrap();
            assert_eq!(entries.len(), 1, "{length}");
            let (entry, data) = &entries[0];
            assert_eq!(entry.name, name.as_bytes(), "{length}");
            assert_eq!((entry.mode, entry.uid, entry.mtime), (0o4755, 3_000_000, (7, 0)));
            assert_eq!(data, b"hello");
        }
    }

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"12x\0\0\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"777777777777", Some(0o777_777_777_777)),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
        assert_eq!(signed(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(pax_time(b"1.x"), None);
    }

    #[test]
    fn damage_is_refused() {
        let good = sample("file", &[7; 600]);
        assert!(list(&good).is_ok());
        for cut in [1, 511, 513, 600, 1100] {
            assert!(list(&good[..cut]).is_err(), "cut at {cut}");
        }
        for flip in [0, 100, 124, 148, 156, 300] {
            let mut bytes = good.clone();
            bytes[flip] ^= 0x41;
            assert!(list(&bytes).is_err(), "flip at {flip}");
        }
        let mut lone = good.clone();
        lone.splice(0..0, [0; 512]);
        assert!(list(&lone).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = list(&noise);
        }

        #[test]
        fn changed_archives_never_panic(at in 0_usize..1536, with in any::<u8>(), fix in any::<bool>()) {
            let mut bytes = sample("a/b", &[1; 500]);
            bytes[at] = with;
            if fix {
                let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(bytes[i]) }).sum();
                bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = list(&bytes);
        }
    }
}
