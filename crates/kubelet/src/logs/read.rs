//! Reading the CRI log format: `<RFC 3339 time> <stdout|stderr> <F|P> <content>`, one entry a line.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What a reader wants of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on while the container runs.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// Only what was written at or after this time, in nanoseconds since 1970.
    pub since_ns: Option<i64>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
}

/// One entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    content: &'a [u8],
}

/// Parses an entry (without its newline).
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let content = parts.next().unwrap_or_default();
    let partial = tag.split(|b| *b == b':').next()? == b"P";
    Some(Entry { time, stream, partial, content })
}

fn time_ns(text: &[u8]) -> Option<i64> {
    let at: jiff::Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok()
}

/// Turns entries into what the reader gets.
pub(super) struct Formatter {
    options: Options,
    left: u64,
    within_line: bool,
    past_since: bool,
}

impl Formatter {
    pub(super) fn new(options: &Options) -> Formatter {
        Formatter {
            left: options.limit_bytes.unwrap_or(u64::MAX),
            past_since: options.since_ns.is_none(),
            within_line: false,
            options: options.clone(),
        }
    }

    /// Appends an entry's text; false once the limit is reached.
    pub(super) fn push(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(entry) = parse(line) else { return true };
        if self.options.stream.as_ref().is_some_and(|s| s.as_bytes() != entry.stream) {
            return true;
        }
        if !self.past_since {
            let since = self.options.since_ns.unwrap_or(i64::MIN);
            if time_ns(entry.time).is_some_and(|t| t < since) {
                return true;
            }
            self.past_since = true;
        }
        let before = out.len();
        if self.options.timestamps && !self.within_line {
            out.extend_from_slice(entry.time);
            out.push(b' ');
        }
        out.extend_from_slice(entry.content);
        if !entry.partial {
            out.push(b'\n');
        }
        self.within_line = entry.partial;
        let added = (out.len() - before) as u64;
        if added >= self.left {
            out.truncate(before + usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left = 0;
            return false;
        }
        self.left -= added;
        true
    }
}

/// Splits bytes into whole lines, keeping the rest for later.
#[derive(Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Gives each whole line to `each` until it says false.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8]) -> bool) -> bool {
        self.rest.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(end) = self.rest[start..].iter().position(|b| *b == b'\n') {
            let go_on = each(&self.rest[start..start + end]);
            start += end + 1;
            if !go_on {
                return false;
            }
        }
        self.rest.drain(..start);
        true
    }
}

/// Where the last `n` lines of these files (oldest first) begin: file and offset.
pub(super) fn tail_start(files: &[PathBuf], n: usize) -> io::Result<(usize, u64)> {
    let mut wanted = n;
    for (index, path) in files.iter().enumerate().rev() {
        let Ok(mut file) = File::open(path) else { continue };
        let (offset, found) = last_lines_offset(&mut file, wanted)?;
        if found >= wanted {
            return Ok((index, offset));
        }
        wanted -= found;
    }
    Ok((0, 0))
}

/// The offset of the last `n` lines of a file, and how many there are.
fn last_lines_offset(file: &mut File, n: usize) -> io::Result<(u64, usize)> {
    const CHUNK: u64 = 32 << 10;
    let end = file.seek(SeekFrom::End(0))?;
    if n == 0 {
        return Ok((end, 0));
    }
    let (mut at, mut found) = (end, 0);
    let mut buffer = vec![0; 32 << 10];
    while at > 0 {
        let size = CHUNK.min(at);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let part = &mut buffer[..usize::try_from(size).unwrap_or(0)];
        file.read_exact(part)?;
        for i in (0..part.len()).rev() {
            let position = at + i as u64;
            // The newline that ends the last line begins no other.
            if part[i] == b'\n' && position + 1 != end {
                found += 1;
                if found == n {
                    return Ok((position + 1, n));
                }
            }
        }
    }
    let found = if end > 0 { found + 1 } else { 0 };
    Ok((0, found))
}

/// The contents of the last entries of a log, newlines included.
pub(super) fn last_lines(path: &Path, n: usize) -> Vec<Vec<u8>> {
    let Ok(mut file) = File::open(path) else { return Vec::new() };
    let Ok((offset, _)) = last_lines_offset(&mut file, n) else { return Vec::new() };
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
        return Vec::new();
    }
    let mut formatter = Formatter::new(&Options::default());
    let mut out = Vec::new();
    Lines::default().feed(&bytes, |line| {
        let mut text = Vec::new();
        let go_on = formatter.push(line, &mut text);
        out.push(text);
        go_on
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n\
        2026-01-01T00:00:01.000000000Z stderr F two\n\
        2026-01-01T00:00:02.000000000Z stdout P thr\n\
        2026-01-01T00:00:02.000000001Z stdout F ee\n\
        2026-01-01T00:00:03.000000000Z stdout F \n";

    fn check(options: &Options) -> String {
        let mut formatter = Formatter::new(options);
        let mut out = Vec::new();
        Lines::default().feed(LOG.as_bytes(), |l| formatter.push(l, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn entries_become_lines() {
        let since = |t: &str| Some(i64::try_from(t.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap());
        for (options, want) in [
            (Options::default(), "one\ntwo\nthree\n\n"),
            (Options { stream: Some("stderr".into()), ..Options::default() }, "two\n"),
            (Options { limit_bytes: Some(6), ..Options::default() }, "one\ntw"),
            (Options { since_ns: since("2026-01-01T00:00:02Z"), ..Options::default() }, "three\n\n"),
            (
                Options { timestamps: true, limit_bytes: Some(35), ..Options::default() },
                "2026-01-01T00:00:00.000000001Z one\n",
            ),
        ] {
            assert_eq!(check(&options), want, "{options:?}");
        }
        let stamped = check(&Options { timestamps: true, ..Options::default() });
        assert!(stamped.contains("2026-01-01T00:00:02.000000000Z three\n"), "{stamped}");
    }

    #[test]
    fn the_tail_goes_back_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("0.log.1"), dir.path().join("0.log"));
        std::fs::write(&old, "a\nb\nc\n").unwrap();
        std::fs::write(&new, "d\ne\n").unwrap();
        let files = [old, new];
        for (n, want) in [(0, (1, 4)), (1, (1, 2)), (2, (1, 0)), (3, (0, 4)), (5, (0, 0)), (9, (0, 0))] {
            assert_eq!(tail_start(&files, n).unwrap(), want, "{n}");
        }
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for piece in ["a", "b\nc", "\n\nd"] {
            lines.feed(piece.as_bytes(), |l| {
                got.push(String::from_utf8_lossy(l).into_owned());
                true
            });
        }
        assert_eq!(got, ["ab", "c", ""]);
    }
}
