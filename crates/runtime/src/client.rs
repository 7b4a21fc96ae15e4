//! The program's side: start a pod's shim or find it again, and ask it for things.

use crate::program::Program;
use crate::shim::NAME;
use crate::spec::{Cgroups, ContainerRecord, ContainerSpec, PodSpec, Process};
use crate::wire::{self, Failure, Reply, Request};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The socket's name in a sandbox's folder.
pub const SOCKET: &str = "shim.sock";

/// Where the shim writes how a container fares.
pub fn record_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.record"))
}

/// A record the shim wrote; none when the container was never started.
pub fn read_record(dir: &Path, id: &str) -> Option<ContainerRecord> {
    serde_json::from_slice(&std::fs::read(record_path(dir, id)).ok()?).ok()
}

/// A short path to the socket in a folder, for addresses hold but 107 bytes; good while the descriptor is open.
pub(crate) fn socket_path(dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd()));
    Ok((fd, path))
}

/// Why a request to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It said so.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// It is not there, or the connection broke.
    #[error("shim {step}: {source}")]
    Lost {
        /// What was being done.
        step: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    fn lost(step: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Lost { step, source }
    }
}

/// A connection to a shim with one request on it.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Session {
    fn new(stream: UnixStream) -> Session {
        Session { stream, buffer: Vec::new(), fds: Vec::new() }
    }

    async fn connect(dir: &Path) -> Result<Session, Error> {
        let (_dir, path) = socket_path(dir).map_err(Error::lost("connect"))?;
        Ok(Session::new(UnixStream::connect(path).await.map_err(Error::lost("connect"))?))
    }

    async fn send(&mut self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let bytes = wire::encode(message);
        let mut sent = 0;
        while sent < bytes.len() {
            let fds = if sent == 0 { fds } else { &[] };
            let send = || wire::send(self.stream.as_fd(), &bytes[sent..], fds);
            sent += self.stream.async_io(Interest::WRITABLE, send).await.map_err(Error::lost("send"))?;
        }
        Ok(())
    }

    /// The next thing the shim says; none when it closed the connection.
    ///
    /// # Errors
    /// When the connection broke or what came makes no sense.
    pub async fn next(&mut self) -> Result<Option<Reply>, Error> {
        loop {
            if let Some(reply) = wire::decode(&mut self.buffer).map_err(Error::lost("receive"))? {
                return Ok(Some(reply));
            }
            let Session { stream, buffer, fds } = self;
            let receive = || wire::receive(stream.as_fd(), buffer, fds);
            if stream.async_io(Interest::READABLE, receive).await.map_err(Error::lost("receive"))? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next thing said, with a failure as an error and silence as a loss.
    async fn answer(&mut self) -> Result<Reply, Error> {
        match self.next().await? {
            Some(Reply::Failed(failure)) => Err(Error::Failed(failure)),
            Some(reply) => Ok(reply),
            None => Err(Error::lost("receive")(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Tells an attached terminal's new size.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn resize(&mut self, width: u16, height: u16) -> Result<(), Error> {
        self.send(&Request::Resize { width, height }, &[]).await
    }
}

/// What a shim said when greeted.
#[derive(Debug)]
pub struct Greeting {
    /// The shim's process.
    pub pid: i32,
    /// The version of its protocol.
    pub version: u32,
    /// Its containers.
    pub containers: Vec<ContainerRecord>,
    /// The connection on which it tells what ends; when it closes, the shim is gone.
    pub events: Session,
}

async fn greet(mut events: Session) -> Result<Greeting, Error> {
    match events.answer().await? {
        Reply::Hello { version, pid, containers } => Ok(Greeting { pid, version, containers, events }),
        other => Err(nonsense(&other)),
    }
}

fn nonsense(reply: &Reply) -> Error {
    Error::Lost { step: "receive", source: io::Error::other(format!("unexpected answer {reply:?}")) }
}

/// A started process.
#[derive(Debug)]
pub struct Running {
    /// Its number on the machine.
    pub pid: i32,
    /// When it started, for a container's first process.
    pub started_at_ns: i64,
}

/// A process run in a container. Dropping `session` kills it.
#[derive(Debug)]
pub struct Execution {
    /// On which [`Reply::Exit`] comes.
    pub session: Session,
    /// The terminal's master, when it has one.
    pub terminal: Option<OwnedFd>,
}

/// A pod's shim, known by its sandbox's folder.
#[derive(Clone, Debug)]
pub struct Shim {
    dir: PathBuf,
}

impl Shim {
    /// Names the shim of a folder; whether it runs shows when it is asked for something.
    pub fn at(dir: impl Into<PathBuf>) -> Shim {
        Shim { dir: dir.into() }
    }

    /// Executes a shim for a pod and waits until it is ready. The child process is the caller's to wait for.
    ///
    /// # Errors
    /// When it could not be executed, or could not set the pod's namespaces up.
    pub async fn start(program: &Program, pod: PodSpec) -> Result<(Shim, Greeting, std::process::Child), Error> {
        let (mine, theirs) = StdStream::pair().map_err(Error::lost("start"))?;
        mine.set_nonblocking(true).map_err(Error::lost("start"))?;
        let mut command = std::process::Command::new(program.path());
        // With the environment cleared and nothing run between fork and exec, the kernel need not copy this process.
        command.arg0(NAME).arg(&pod.id).env_clear().stdin(OwnedFd::from(theirs));
        // The program's allocator (mimalloc) would back its first megabytes with huge pages: 4 MiB a shim.
        command.env("MIMALLOC_ALLOW_THP", "0");
        let mut child = command.spawn().map_err(Error::lost("start"))?;
        drop(command);
        let shim = Shim { dir: pod.dir.clone() };
        let mut session = Session::new(UnixStream::from_std(mine).map_err(Error::lost("start"))?);
        let greeting = async {
            session.send(&Request::Pod(Box::new(pod)), &[]).await?;
            greet(session).await
        };
        match greeting.await {
            Ok(greeting) => Ok((shim, greeting, child)),
            Err(error) => {
                let _ended = child.kill();
                let _reaped = child.wait();
                Err(error)
            }
        }
    }

    /// Finds a running shim again.
    ///
    /// # Errors
    /// When it does not run any more.
    pub async fn subscribe(&self) -> Result<Greeting, Error> {
        let mut session = Session::connect(&self.dir).await?;
        session.send(&Request::Subscribe, &[]).await?;
        greet(session).await
    }

    async fn ask(&self, request: &Request) -> Result<Reply, Error> {
        let mut session = Session::connect(&self.dir).await?;
        session.send(request, &[]).await?;
        session.answer().await
    }

    async fn order(&self, request: &Request) -> Result<(), Error> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => Err(nonsense(&other)),
        }
    }

    /// Makes and starts a container; back when its program runs.
    ///
    /// # Errors
    /// [`Error::Failed`] says why it cannot run.
    pub async fn start_container(&self, spec: ContainerSpec) -> Result<Running, Error> {
        match self.ask(&Request::Start(Box::new(spec))).await? {
            Reply::Started { pid, started_at_ns } => Ok(Running { pid, started_at_ns }),
            other => Err(nonsense(&other)),
        }
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// [`Failure::gone`] when it does not run.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.order(&Request::Signal { id: id.to_owned(), signal }).await
    }

    /// Opens a container's log file anew.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn reopen_log(&self, id: &str, path: &Path) -> Result<(), Error> {
        self.order(&Request::ReopenLog { id: id.to_owned(), path: path.to_owned() }).await
    }

    /// Lets the shim forget an ended container.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn forget(&self, id: &str) -> Result<(), Error> {
        self.order(&Request::Forget { id: id.to_owned() }).await
    }

    /// Kills all its containers and ends the shim.
    ///
    /// # Errors
    /// When the shim is gone already.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.order(&Request::Shutdown).await
    }

    /// Runs a process in a container, with these descriptors as its streams (none with a terminal).
    ///
    /// # Errors
    /// [`Error::Failed`] says why it cannot run.
    pub async fn exec(
        &self,
        id: &str,
        process: Process,
        cgroups: Cgroups,
        streams: [Option<OwnedFd>; 3],
    ) -> Result<Execution, Error> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(|error| Error::lost("exec")(error.into()))?;
        let fds = streams.each_ref().map(|fd| fd.as_ref().map_or(null.as_fd(), AsFd::as_fd));
        let fds = if process.tty { &[] } else { fds.as_slice() };
        let mut session = Session::connect(&self.dir).await?;
        session.send(&Request::Exec { id: id.to_owned(), process: Box::new(process), cgroups }, fds).await?;
        match session.answer().await? {
            Reply::Started { .. } => {
                let terminal = session.fds.pop();
                Ok(Execution { session, terminal })
            }
            other => Err(nonsense(&other)),
        }
    }

    /// Connects those descriptors to a container's first process, until the session is dropped or the container ends.
    ///
    /// # Errors
    /// [`Failure::gone`] when it does not run.
    pub async fn attach(&self, id: &str, streams: [Option<OwnedFd>; 3]) -> Result<Session, Error> {
        let [stdin, stdout, stderr] = streams.each_ref().map(Option::is_some);
        let fds: Vec<_> = streams.iter().flatten().map(AsFd::as_fd).collect();
        let mut session = Session::connect(&self.dir).await?;
        session.send(&Request::Attach { id: id.to_owned(), stdin, stdout, stderr }, &fds).await?;
        match session.answer().await? {
            Reply::Done => Ok(session),
            other => Err(nonsense(&other)),
        }
    }
}
