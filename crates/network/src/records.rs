//! Which pod has which address: one file per pod, written before anything else is made for it.
//!
//! A file `pods/<address>` comes into being whole and at once (a hard link to a finished temporary file), so two
//! owners of an address are impossible, also across a crash and across two processes that should not be there.
//! Files are not synced to disk: after a machine crash no pod network is left that they could describe.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::pod::PortMapping;

/// What is known of an attached pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) sandbox: String,
    pub(crate) netns: PathBuf,
    pub(crate) ports: Vec<PortMapping>,
    #[serde(skip, default = "unspecified")]
    pub(crate) address: Ipv4Addr,
}

fn unspecified() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

/// The records of one instance.
pub(crate) struct Records {
    folder: PathBuf,
    by_sandbox: HashMap<String, Record>,
    used: std::collections::HashSet<Ipv4Addr>,
    /// The offset in the range of the address given out last: the next search starts behind it, so that an address
    /// rests as long as possible before it is used again.
    last: u64,
}

/// Why no address was given out.
#[derive(Debug)]
pub(crate) enum AllocateError {
    Exhausted,
    Write(PathBuf, io::Error),
}

impl Records {
    /// Reads what is there; half-written files of a crash are removed.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Records> {
        fs::create_dir_all(&folder)?;
        let mut records = Records { folder, by_sandbox: HashMap::new(), used: Default::default(), last: 1 };
        for entry in fs::read_dir(&records.folder)? {
            let path = entry?.path();
            match read(&path) {
                Some(record) => records.insert(record),
                None => {
                    tracing::warn!(path = %path.display(), "removing an unreadable pod address record");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(records)
    }

    fn insert(&mut self, record: Record) {
        self.used.insert(record.address);
        self.by_sandbox.insert(record.sandbox.clone(), record);
    }

    pub(crate) fn get(&self, sandbox: &str) -> Option<&Record> {
        self.by_sandbox.get(sandbox)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Record> {
        self.by_sandbox.values()
    }

    /// Gives the sandbox a free address of the range: never the first (the network), the second (the gateway)
    /// or the last (broadcast).
    pub(crate) fn allocate(&mut self, range: Cidr, mut record: Record) -> Result<Ipv4Addr, AllocateError> {
        let first = 2;
        let count = range.size().saturating_sub(3);
        for step in 1..=count {
            let offset = first + (self.last + step).saturating_sub(first) % count;
            let address = range.nth(offset);
            if self.used.contains(&address) {
                continue;
            }
            record.address = address;
            let path = self.path(address);
            match write(&path, &record) {
                Ok(()) => {}
                // Someone else's, in spite of the data directory's lock: leave it alone.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(AllocateError::Write(path, error)),
            }
            self.last = offset;
            self.insert(record);
            return Ok(address);
        }
        Err(AllocateError::Exhausted)
    }

    /// Frees the sandbox's address.
    pub(crate) fn release(&mut self, sandbox: &str) -> Result<(), (PathBuf, io::Error)> {
        let Some(record) = self.by_sandbox.get(sandbox) else { return Ok(()) };
        let path = self.path(record.address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path, error)),
            _ => {}
        }
        self.used.remove(&record.address);
        self.by_sandbox.remove(sandbox);
        Ok(())
    }

    fn path(&self, address: Ipv4Addr) -> PathBuf {
        self.folder.join(address.to_string())
    }
}

fn read(path: &Path) -> Option<Record> {
    let address = path.file_name()?.to_str()?.parse().ok()?;
    let mut record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    record.address = address;
    Some(record)
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sandbox: &str) -> Record {
        Record {
            sandbox: sandbox.to_owned(),
            netns: PathBuf::from("/netns"),
            ports: Vec::new(),
            address: Ipv4Addr::UNSPECIFIED,
        }
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("kijabi-{name}-{}", std::process::id()));
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_address_once_and_reuse_last() {
        let folder = Folder::new("records");
        let range: Cidr = "10.9.0.0/29".parse().unwrap();
        let mut records = Records::open(folder.0.clone()).unwrap();
        let mut given: Vec<Ipv4Addr> = Vec::new();
        for number in 0..5 {
            given.push(records.allocate(range, record(&format!("s{number}"))).unwrap());
        }
        given.sort();
        let expected: Vec<Ipv4Addr> = (2..7).map(|host| Ipv4Addr::new(10, 9, 0, host)).collect();
        assert_eq!(given, expected);
        let full = records.allocate(range, record("one too many"));
        assert!(matches!(full, Err(AllocateError::Exhausted)), "{full:?}");

        // A restart knows them all, and a torn file does not matter.
        fs::write(folder.0.join("10.9.0.4.new"), "{\"sand").unwrap();
        let mut records = Records::open(folder.0.clone()).unwrap();
        assert_eq!(records.all().count(), 5);
        let address = records.get("s3").unwrap().address;
        records.release("s3").unwrap();
        records.release("s3").unwrap();
        assert_eq!(records.allocate(range, record("next")).unwrap(), address);

        // With room, a freed address is not the next one given out.
        let range: Cidr = "10.9.1.0/24".parse().unwrap();
        let freed = records.allocate(range, record("a")).unwrap();
        records.release("a").unwrap();
        assert_ne!(records.allocate(range, record("b")).unwrap(), freed);
    }
}
