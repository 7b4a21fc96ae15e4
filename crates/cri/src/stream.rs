//! Byte streams into containers: exec, attach, port-forward.

use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// A readable half.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
/// A writable half; shutting it down closes the far end's standard input.
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A duplex connection into a pod's network namespace.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What the caller of exec or attach wants connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error (never together with `tty`: a terminal has one output).
    pub stderr: bool,
    /// Give the process a terminal (exec), or treat the container as having one (attach).
    pub tty: bool,
}

/// A process's streams, connected to the caller. Dropping it ends an exec'ed process and detaches from an attached one.
pub struct ProcessStreams {
    /// Present when stdin was asked for.
    pub stdin: Option<Writer>,
    /// Present when stdout was asked for.
    pub stdout: Option<Reader>,
    /// Present when stderr was asked for and there is no terminal.
    pub stderr: Option<Reader>,
    /// Terminal sizes to apply; of use only with a terminal.
    pub resize: mpsc::Sender<TerminalSize>,
    /// The exit code, once the process ended (exec), or the container ended (attach): 128 + n after signal n.
    pub exit: oneshot::Receiver<crate::Result<i32>>,
}

/// What a finished command left (exec probes and hooks).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecResult {
    /// Standard output, at most 16 KiB of it.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 KiB of it.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub exit_code: i32,
}
