//! Private files: written whole or not at all.

use crate::Error;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// No certificate or key file is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}

/// Makes `dir` with its parents, readable for its owner only.
pub(crate) fn private_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create directory", dir))?;
    let metadata = dir.metadata().map_err(failed("read", dir))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed("restrict", dir))?;
    }
    Ok(())
}

/// The whole of `path`; none when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open", path))?,
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed("read", path))?;
    Ok(Some(text))
}

/// Writes what can be made anew with mode 0600: to a neighbour first, then renamed. Power loss may leave nothing of it.
pub(crate) fn write(path: &Path, content: &str) -> Result<(), Error> {
    put(path, content, false)
}

/// Writes what cannot be made anew (all trust hangs on it), synced before it is renamed. The caller syncs the directory.
pub(crate) fn write_durably(path: &Path, content: &str) -> Result<(), Error> {
    put(path, content, true)
}

fn put(path: &Path, content: &str, durably: bool) -> Result<(), Error> {
    let neighbour = path.with_extension("new");
    let result = (|| {
        let _ = std::fs::remove_file(&neighbour);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&neighbour)?;
        file.write_all(content.as_bytes())?;
        if durably {
            file.sync_data()?;
        }
        std::fs::rename(&neighbour, path)
    })();
    result.map_err(failed("write", path))
}

/// Makes renames in `dir` last.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}
