//! How much an image may ask of this machine.

use std::io;

/// Bounds on what strangers' archives and registries may make us do. The defaults let every sane image pass.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Plain bytes of one layer's archive.
    pub layer_bytes_max: u64,
    /// Plain bytes for each packed byte, once a layer is over `ratio_free_bytes`: a decompression bomb.
    pub ratio_max: u64,
    /// Plain bytes of a layer below which the ratio does not matter.
    pub ratio_free_bytes: u64,
    /// Entries of one layer.
    pub entries_max: u64,
    /// Bytes of a manifest, index or configuration.
    pub document_bytes_max: u64,
    /// Layers of one image; overlayfs takes 500.
    pub layers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes_max: 64 << 30,
            ratio_max: 250,
            ratio_free_bytes: 1 << 30,
            entries_max: 4_000_000,
            document_bytes_max: 8 << 20,
            layers_max: 498,
        }
    }
}

impl Limits {
    /// Whether a layer may go on unpacking.
    pub(crate) fn check_unpacked(&self, packed: u64, plain: u64) -> io::Result<()> {
        let refuse = |message: String| Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        if plain > self.layer_bytes_max {
            return refuse(format!("it unpacks to more than {} bytes", self.layer_bytes_max));
        }
        if plain > self.ratio_free_bytes && plain / self.ratio_max > packed {
            return refuse(format!("a decompression bomb: {plain} bytes from {packed}"));
        }
        Ok(())
    }
}
