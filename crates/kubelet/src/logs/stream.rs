//! Sends a log to a reader, and what is added to it while the container runs.

use super::files;
use super::read::{Formatter, Lines, Options, tail_start};
use crate::inotify::Watch;
use bytes::Bytes;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

const CHUNK: usize = 32 << 10;

struct Reader {
    formatter: Formatter,
    lines: Lines,
    buffer: Vec<u8>,
    tx: mpsc::Sender<Bytes>,
}

impl Reader {
    /// Sends what the file has from its present offset; false when the reader has enough or is gone.
    async fn drain(&mut self, file: &mut File) -> io::Result<bool> {
        loop {
            let n = file.read(&mut self.buffer)?;
            if n == 0 {
                return Ok(true);
            }
            let mut out = Vec::with_capacity(n);
            let Reader { formatter, lines, buffer, .. } = self;
            let go_on = lines.feed(&buffer[..n], |line| formatter.push(line, &mut out));
            if !out.is_empty() && self.tx.send(Bytes::from(out)).await.is_err() {
                return Ok(false);
            }
            if !go_on {
                return Ok(false);
            }
        }
    }
}

/// Sends the log at `path` with its rotated parts. With `follow` it goes on until `ended` (the container ended) and the file
/// is read to its end. Ends early when the receiver is dropped.
pub async fn stream(
    path: PathBuf,
    options: Options,
    tx: mpsc::Sender<Bytes>,
    ended: impl Future<Output = ()>,
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
    let watch = if options.follow { Some(Watch::folder(&dir)?) } else { None };
    let list = files(&path);
    let (first, offset) = match options.tail {
        Some(n) => tail_start(&list, n)?,
        None => (0, 0),
    };
    let mut reader =
        Reader { formatter: Formatter::new(&options), lines: Lines::default(), buffer: vec![0; CHUNK], tx };
    let mut current = None;
    for (i, file) in list.iter().enumerate().skip(first) {
        let Ok(mut file) = File::open(file) else { continue };
        if i == first {
            file.seek(SeekFrom::Start(offset))?;
        }
        if !reader.drain(&mut file).await? {
            return Ok(());
        }
        current = Some(file);
    }
    match watch {
        Some(watch) => follow(reader, watch, &path, current, ended).await,
        None => Ok(()),
    }
}

async fn follow(
    mut reader: Reader,
    watch: Watch,
    path: &Path,
    mut current: Option<File>,
    ended: impl Future<Output = ()>,
) -> io::Result<()> {
    tokio::pin!(ended);
    let mut last = false;
    loop {
        if let Some(file) = &mut current
            && !reader.drain(file).await?
        {
            return Ok(());
        }
        let newer = newer(path, current.as_ref());
        if let Some(newer) = newer {
            current = Some(newer);
            continue;
        }
        if last {
            return Ok(());
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            () = &mut ended => last = true,
            () = reader.tx.closed() => return Ok(()),
        }
    }
}

/// The file now under that name, when it is another than the one being read.
fn newer(path: &Path, current: Option<&File>) -> Option<File> {
    let now = std::fs::metadata(path).ok()?;
    let same = current.and_then(|f| f.metadata().ok()).is_some_and(|m| m.ino() == now.ino());
    if same { None } else { File::open(path).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn entry(text: &str) -> String {
        format!("2026-01-01T00:00:00.000000001Z stdout F {text}\n")
    }

    async fn next(rx: &mut mpsc::Receiver<Bytes>) -> String {
        let bytes = tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.expect("in time");
        bytes.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    #[tokio::test]
    async fn following_over_a_rotation_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, entry("one")).unwrap();
        let (tx, mut rx) = mpsc::channel(8);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let options = Options { follow: true, ..Options::default() };
        let task = tokio::spawn(stream(path.clone(), options, tx, async {
            let _ = ended.await;
        }));
        assert_eq!(next(&mut rx).await, "one\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(entry("two").as_bytes()).unwrap();
        assert_eq!(next(&mut rx).await, "two\n");
        std::fs::rename(&path, dir.path().join("0.log.20260101-000000")).unwrap();
        std::fs::write(&path, entry("three")).unwrap();
        assert_eq!(next(&mut rx).await, "three\n");
        end.send(()).unwrap();
        assert_eq!(rx.recv().await, None);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn rotated_parts_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(dir.path().join("0.log.20260101-000000"), entry("old")).unwrap();
        std::fs::write(&path, entry("new")).unwrap();
        for (tail, want) in [(None, "old\nnew\n"), (Some(1), "new\n"), (Some(2), "old\nnew\n")] {
            let (tx, mut rx) = mpsc::channel(8);
            let options = Options { tail, ..Options::default() };
            stream(path.clone(), options, tx, std::future::pending()).await.unwrap();
            let mut got = String::new();
            while let Some(part) = rx.recv().await {
                got.push_str(&String::from_utf8_lossy(&part));
            }
            assert_eq!(got, want);
        }
    }
}
