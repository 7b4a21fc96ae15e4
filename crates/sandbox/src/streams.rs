//! Exec, attach and port-forward.

use crate::files;
use crate::state::{Core, internal, lock};
use cri::{ContainerState, Duplex, ExecResult, NamespaceMode, ProcessStreams, StreamOptions, TerminalSize};
use runtime::client::{self, Execution, Session};
use runtime::wire::Reply;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{self, Receiver, Sender};
use tokio::sync::{mpsc, oneshot};

/// What is kept of each output of a command run for its result.
const OUTPUT_SIZE_MAX: usize = 16 * 1024;
/// Once such a command ended, how long processes it left behind may hold its output open.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);
/// How many terminal sizes may wait.
const SIZES_MAX: usize = 8;
/// How long a port inside may take to accept.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// What ends the input of a terminal.
const END_OF_TRANSMISSION: u8 = 4;

/// This end of a stream and the process's.
type Output = (Receiver, OwnedFd);

fn failed(e: io::Error) -> cri::Error {
    internal("make a pipe", &e)
}

fn output() -> cri::Result<Output> {
    let (theirs, mine) = pipe::pipe().map_err(failed)?;
    Ok((mine, theirs.into_blocking_fd().map_err(failed)?))
}

fn input() -> cri::Result<(Sender, OwnedFd)> {
    let (mine, theirs) = pipe::pipe().map_err(failed)?;
    Ok((mine, theirs.into_blocking_fd().map_err(failed)?))
}

fn wrong(id: &str, error: &client::Error) -> cri::Error {
    match error {
        client::Error::Failed(failure) if failure.gone => {
            cri::Error::FailedPrecondition(format!("container {id} is not running"))
        }
        client::Error::Failed(failure) => cri::Error::InvalidArgument(format!(
            "failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: {}: unknown",
            failure.message
        )),
        lost @ client::Error::Lost { .. } => internal("exec", lost),
    }
}

/// The process's ends of its streams, in order.
type Ends = [Option<OwnedFd>; 3];

/// This side's halves of a process's streams.
type Halves = (Option<Sender>, Option<Receiver>, Option<Receiver>);

/// Pipes for what was asked: this side's halves, and the process's.
fn pipes(options: StreamOptions) -> cri::Result<(Halves, Ends)> {
    let stdin = options.stdin.then(input).transpose()?;
    let stdout = options.stdout.then(output).transpose()?;
    let stderr = (options.stderr && !options.tty).then(output).transpose()?;
    let (stdin, theirs_in) = stdin.unzip();
    let (stdout, theirs_out) = stdout.unzip();
    let (stderr, theirs_err) = stderr.unzip();
    Ok(((stdin, stdout, stderr), [theirs_in, theirs_out, theirs_err]))
}

impl Core {
    async fn execute(&self, id: &str, command: &[String], tty: bool, ends: Ends) -> cri::Result<Execution> {
        let (pod, container) = self.container(id)?;
        if container.state() != ContainerState::Running {
            return Err(cri::Error::FailedPrecondition(format!("container {id} is not running")));
        }
        let file = files::read_container(&pod.dir, id).map_err(|e| internal("read container state", &e))?;
        let mut process = file.spec.process;
        process.args = command.to_vec();
        process.tty = tty;
        if tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        pod.shim.exec(id, process, file.spec.cgroups, ends).await.map_err(|error| wrong(id, &error))
    }

    pub(crate) async fn exec_streams(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        options: StreamOptions,
    ) -> cri::Result<ProcessStreams> {
        let mut streams = if options.tty {
            let execution = self.execute(id, command, true, [None, None, None]).await?;
            let (session, terminal) = (execution.session, execution.terminal);
            let master = terminal.ok_or_else(|| cri::Error::Internal("the shim gave no terminal".to_owned()))?;
            rustix::io::ioctl_fionbio(&master, true).map_err(|e| internal("set up the terminal", &e))?;
            self.terminal_streams(session, master)?
        } else {
            let ((stdin, stdout, stderr), ends) = pipes(options)?;
            let session = self.execute(id, command, false, ends).await?.session;
            let (resize, _no_terminal) = mpsc::channel(SIZES_MAX);
            ProcessStreams {
                stdin: stdin.map(|s| Box::pin(s) as _),
                stdout: stdout.map(|s| Box::pin(s) as _),
                stderr: stderr.map(|s| Box::pin(s) as _),
                resize,
                exit: self.follow_exec(session, None),
            }
        };
        streams.stdin = streams.stdin.filter(|_| options.stdin);
        streams.stdout = streams.stdout.filter(|_| options.stdout);
        Ok(streams)
    }

    fn terminal_streams(&self, session: Session, master: OwnedFd) -> cri::Result<ProcessStreams> {
        let end = |e: io::Error| internal("set up the terminal", &e);
        let reader = Receiver::from_owned_fd_unchecked(master.try_clone().map_err(end)?).map_err(end)?;
        let writer = Sender::from_owned_fd_unchecked(master.try_clone().map_err(end)?).map_err(end)?;
        let (resize, sizes) = mpsc::channel(SIZES_MAX);
        Ok(ProcessStreams {
            stdin: Some(Box::pin(TerminalWriter { inner: writer, ended: false })),
            stdout: Some(Box::pin(TerminalReader(reader))),
            stderr: None,
            resize,
            exit: self.follow_exec(session, Some((master, sizes))),
        })
    }

    /// Waits for an exec'ed process in a task of its own; the process is killed when nobody waits for its exit code.
    fn follow_exec(
        &self,
        mut session: Session,
        terminal: Option<(OwnedFd, mpsc::Receiver<TerminalSize>)>,
    ) -> oneshot::Receiver<cri::Result<i32>> {
        let (mut tell, exit) = oneshot::channel();
        let token = self.token.clone();
        self.tasks.spawn(async move {
            let (master, mut sizes) = terminal.unzip();
            loop {
                let size = async {
                    match &mut sizes {
                        Some(sizes) => sizes.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = tell.closed() => return,
                    () = token.cancelled() => return,
                    reply = session.next() => {
                        let _nobody_waits = tell.send(exit_code(reply));
                        return;
                    }
                    size = size => match (size, &master) {
                        (Some(size), Some(master)) => resize(master, size),
                        _ => sizes = None,
                    },
                }
            }
        });
        exit
    }

    pub(crate) async fn exec_result(
        self: &Arc<Self>,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> cri::Result<ExecResult> {
        let (stdout, their_stdout) = output()?;
        let (stderr, their_stderr) = output()?;
        let run = async {
            let mut execution =
                self.execute(id, command, false, [None, Some(their_stdout), Some(their_stderr)]).await?;
            let (mut kept_out, mut kept_err) = (Vec::new(), Vec::new());
            let code = {
                let outputs = async { tokio::join!(keep(stdout, &mut kept_out), keep(stderr, &mut kept_err)) };
                tokio::pin!(outputs);
                tokio::select! {
                    code = execution.session.next() => {
                        let _left_open = tokio::time::timeout(OUTPUT_PATIENCE, outputs).await;
                        exit_code(code)?
                    }
                    _ = &mut outputs => exit_code(execution.session.next().await)?,
                }
            };
            Ok(ExecResult { stdout: kept_out, stderr: kept_err, exit_code: code })
        };
        match timeout.filter(|timeout| !timeout.is_zero()) {
            None => run.await,
            Some(timeout) => tokio::time::timeout(timeout, run).await.unwrap_or_else(|_| {
                let text = format!("command {command:?} timed out after {timeout:?}");
                Err(cri::Error::DeadlineExceeded(text))
            }),
        }
    }

    pub(crate) async fn attach_streams(
        self: &Arc<Self>,
        id: &str,
        options: StreamOptions,
    ) -> cri::Result<ProcessStreams> {
        let (pod, container) = self.container(id)?;
        let options = StreamOptions { tty: container.tty, ..options };
        let ((stdin, stdout, stderr), ends) = pipes(options)?;
        let mut session = pod.shim.attach(id, ends).await.map_err(|error| wrong(id, &error))?;
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(SIZES_MAX);
        let (mut tell, exit) = oneshot::channel();
        let mut ended = container.ended.subscribe();
        let token = self.token.clone();
        self.tasks.spawn(async move {
            let mut open = true;
            loop {
                tokio::select! {
                    () = tell.closed() => return,
                    () = token.cancelled() => return,
                    size = sizes.recv(), if open => match size {
                        Some(size) => drop(session.resize(size.width, size.height).await),
                        None => open = false,
                    },
                    _ = session.next() => break,
                }
            }
            // The shim lets go when the container ended and all its output was taken.
            let known = tokio::time::timeout(OUTPUT_PATIENCE, ended.wait_for(|ended| *ended)).await;
            let code = match known {
                Ok(Ok(_)) => Ok(container.status().exit_code),
                _ => Err(cri::Error::Internal("the connection to the container's shim was lost".to_owned())),
            };
            let _nobody_waits = tell.send(code);
        });
        Ok(ProcessStreams {
            stdin: stdin.map(|s| Box::pin(s) as _),
            stdout: stdout.map(|s| Box::pin(s) as _),
            stderr: stderr.map(|s| Box::pin(s) as _),
            resize,
            exit,
        })
    }

    pub(crate) async fn forward(self: &Arc<Self>, id: &str, port: u16) -> cri::Result<Box<dyn Duplex>> {
        let pod = self.pod(id)?;
        if !pod.ready() {
            return Err(cri::Error::FailedPrecondition(format!("sandbox {id} is not ready")));
        }
        let host = lock(&pod.file).status.namespaces.network == NamespaceMode::Node;
        let netns = pod.dir.join("netns");
        let connected = self
            .blocking(move |_| if host { Ok(connect(port)) } else { network::netns::run(&netns, || connect(port)) })
            .await;
        let refused = |e: &dyn std::error::Error| internal(&format!("connect to port {port} of the pod"), e);
        let stream = connected.map_err(|e| refused(&e))?.map_err(|e| refused(&e))?;
        stream.set_nonblocking(true).map_err(|e| refused(&e))?;
        Ok(Box::new(tokio::net::TcpStream::from_std(stream).map_err(|e| refused(&e))?))
    }
}

/// Connects to a port of loopback, as servers listen on either family.
fn connect(port: u16) -> io::Result<TcpStream> {
    let to = |address: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_PATIENCE);
    to(Ipv4Addr::LOCALHOST.into()).or_else(|first| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| first))
}

fn exit_code(reply: Result<Option<Reply>, client::Error>) -> cri::Result<i32> {
    match reply {
        Ok(Some(Reply::Exit { code })) => Ok(code),
        Ok(_) => Err(cri::Error::Internal("the container's shim is gone".to_owned())),
        Err(error) => Err(internal("exec", &error)),
    }
}

fn resize(master: &OwnedFd, size: TerminalSize) {
    let size = rustix::termios::Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    let _closed = rustix::termios::tcsetwinsize(master, size);
}

/// Keeps the beginning of a stream and reads the rest away.
async fn keep(mut stream: Receiver, kept: &mut Vec<u8>) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_SIZE_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}

/// A terminal's output: its far end being closed is its end, not an error.
struct TerminalReader(Receiver);

impl AsyncRead for TerminalReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, buf)) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

/// A terminal's input: its end is a character.
struct TerminalWriter {
    inner: Sender,
    ended: bool,
}

impl AsyncWrite for TerminalWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            // A process that is gone needs no end of input.
            let _gone = ready!(Pin::new(&mut self.inner).poll_write(cx, &[END_OF_TRANSMISSION]));
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}
