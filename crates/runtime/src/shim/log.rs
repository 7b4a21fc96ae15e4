//! A container's log file in CRI format: `<time> stdout F <line>`, with `P` for the parts of a long line.

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A line longer than this is written in parts, as containerd does.
const LINE_SIZE_MAX: usize = 16 * 1024;

/// Which of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// An open log file, and the unfinished line of each stream.
pub(super) struct Log {
    path: PathBuf,
    file: Option<OwnedFd>,
    unfinished: [Vec<u8>; 2],
}

impl Log {
    /// Opens the file at its end, making it and its folder when missing; an empty path keeps no log.
    pub(super) fn open(path: &Path) -> io::Result<Log> {
        let mut log = Log { path: path.to_owned(), file: None, unfinished: [Vec::new(), Vec::new()] };
        log.reopen(path)?;
        Ok(log)
    }

    /// Goes on in a new file, after the present one was renamed.
    pub(super) fn reopen(&mut self, path: &Path) -> io::Result<()> {
        if !path.as_os_str().is_empty() {
            self.path = path.to_owned();
        }
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let open = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(&self.path, flags, Mode::from(0o640))
        };
        let file = match open() {
            Err(rustix::io::Errno::NOENT) => {
                std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
                open()
            }
            file => file,
        };
        self.file = Some(file?);
        Ok(())
    }

    /// Takes what a container wrote.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let mut text = Vec::with_capacity(bytes.len() + 128);
        let stamp = stamp();
        format(&stamp, stream, &mut self.unfinished[stream as usize], bytes, &mut text);
        self.put(&text);
    }

    /// Writes unfinished lines: nothing more will come.
    pub(super) fn finish(&mut self) {
        let mut text = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.unfinished[stream as usize]);
            if !rest.is_empty() {
                entry(&stamp(), stream, "F", &rest, &mut text);
            }
        }
        self.put(&text);
    }

    /// A full disk loses lines; it must not stop the container.
    fn put(&self, mut text: &[u8]) {
        let Some(file) = &self.file else { return };
        while !text.is_empty() {
            match rustix::io::write(file, text) {
                Ok(written) => text = &text[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn entry(stamp: &str, stream: Stream, tag: &str, line: &[u8], text: &mut Vec<u8>) {
    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    for part in [stamp, " ", name, " ", tag, " "] {
        text.extend_from_slice(part.as_bytes());
    }
    text.extend_from_slice(line);
    text.push(b'\n');
}

fn format(stamp: &str, stream: Stream, unfinished: &mut Vec<u8>, mut bytes: &[u8], text: &mut Vec<u8>) {
    while !bytes.is_empty() {
        let room = LINE_SIZE_MAX - unfinished.len();
        let look = &bytes[..bytes.len().min(room)];
        match look.iter().position(|byte| *byte == b'\n') {
            Some(end) if unfinished.is_empty() => {
                entry(stamp, stream, "F", &look[..end], text);
                bytes = &bytes[end + 1..];
            }
            Some(end) => {
                unfinished.extend_from_slice(&look[..end]);
                entry(stamp, stream, "F", unfinished, text);
                *unfinished = Vec::new();
                bytes = &bytes[end + 1..];
            }
            None => {
                unfinished.extend_from_slice(look);
                bytes = &bytes[look.len()..];
                // A line of exactly this length is whole when its end comes next.
                if unfinished.len() == LINE_SIZE_MAX && bytes.first() != Some(&b'\n') && !bytes.is_empty() {
                    entry(stamp, stream, "P", unfinished, text);
                    unfinished.clear();
                } else if unfinished.len() == LINE_SIZE_MAX {
                    let whole = bytes.first() == Some(&b'\n');
                    entry(stamp, stream, if whole { "F" } else { "P" }, unfinished, text);
                    *unfinished = Vec::new();
                    bytes = &bytes[usize::from(whole)..];
                }
            }
        }
    }
}

/// Now, in nanoseconds since 1970.
pub(super) fn now_ns() -> i64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as i64)
}

/// Now as RFC 3339 with nanoseconds.
fn stamp() -> String {
    let now = now_ns();
    let (seconds, nanos) = (now.div_euclid(1_000_000_000), now.rem_euclid(1_000_000_000));
    let (days, seconds) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// The date of a day counted from 1970-01-01 (Gregorian, by eras of 400 years that start on 1 March).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_781, (2026, 11, 24))] {
            assert_eq!(civil(days), date, "day {days}");
        }
    }

    /// Writes the pieces one after another and gives what the log holds, time left out.
    fn check(pieces: &[&[u8]], expected: &[(&str, usize)], left: usize) {
        let (mut text, mut unfinished) = (Vec::new(), Vec::new());
        for piece in pieces {
            format("T", Stream::Stderr, &mut unfinished, piece, &mut text);
        }
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<_> = text.lines().map(|l| (&l[..11], l.len() - 11)).collect();
        let expected: Vec<_> = expected.iter().map(|(tag, len)| (format!("T stderr {tag} "), *len)).collect();
        assert_eq!(lines, expected.iter().map(|(a, b)| (a.as_str(), *b)).collect::<Vec<_>>());
        assert_eq!(unfinished.len(), left);
    }

    #[test]
    fn lines_are_kept_whole_and_long_ones_split() {
        let long = vec![b'x'; LINE_SIZE_MAX];
        check(&[b"one\ntwo\n"], &[("F", 3), ("F", 3)], 0);
        check(&[b"on", b"e", b"\n\n"], &[("F", 3), ("F", 0)], 0);
        check(&[b"rest"], &[], 4);
        check(&[&long, b"abc\n"], &[("P", LINE_SIZE_MAX), ("F", 3)], 0);
        check(&[&long[1..], b"abc\n"], &[("P", LINE_SIZE_MAX), ("F", 2)], 0);
        check(&[&[&long[..], b"\n"].concat()], &[("F", LINE_SIZE_MAX)], 0);
    }
}
