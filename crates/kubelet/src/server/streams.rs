//! Exec, attach and port-forward, over WebSockets.

use super::query::Query;
use super::{Handlers, text};
use crate::directory::Entry;
use crate::spec;
use cri::{ContainerState, ProcessStreams, StreamOptions, TerminalSize};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serve::Body;
use serve::remote::{Process, Session, Wanted};

/// Streams of the runtime as the session wants them.
fn process(streams: ProcessStreams) -> Process {
    let ProcessStreams { stdin, stdout, stderr, resize, exit } = streams;
    Process {
        stdin,
        stdout,
        stderr,
        resize: Box::new(move |width, height| {
            // When sizes come faster than they are applied, the next one tells the same.
            let _ = resize.try_send(TerminalSize { width, height });
        }),
        exit: Box::pin(async move {
            match exit.await {
                Ok(Ok(code)) => Ok(code),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the runtime let go of the process".into()),
            }
        }),
    }
}

fn stream_options(wanted: &Wanted) -> StreamOptions {
    StreamOptions { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr && !wanted.tty, tty: wanted.tty }
}

impl Handlers {
    /// The id of a container that runs.
    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<(Entry, String), Box<Response<Body>>> {
        let entry = self.find(namespace, pod)?;
        let status = entry.view.latest(container).filter(|c| c.state == ContainerState::Running);
        match status.map(|c| c.id.clone()) {
            Some(id) => Ok((entry, id)),
            None => Err(Box::new(text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))),
        }
    }

    fn keep(&self, session: Session) {
        let token = self.context.token.clone();
        self.sessions.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = session => {}
            }
        });
    }

    pub(super) fn exec(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Response<Body> {
        let (_, id) = match self.running(namespace, pod, container) {
            Ok(found) => found,
            Err(response) => return *response,
        };
        let command = query.all("command");
        if command.is_empty() {
            return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command");
        }
        let wanted = Wanted::from_query(request.uri().query().unwrap_or_default());
        let (context, options) = (self.context.clone(), stream_options(&wanted));
        let (response, session) = serve::remote::exec(request, wanted, async move {
            context.runtime().exec(&id, &command, options).await.map(process).map_err(|e| e.to_string())
        });
        self.keep(session);
        response
    }

    pub(super) fn attach(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Response<Body> {
        let (entry, id) = match self.running(namespace, pod, container) {
            Ok(found) => found,
            Err(response) => return *response,
        };
        let mut wanted = Wanted::from_query(request.uri().query().unwrap_or_default());
        // The container decides whether there is a terminal and a standard input.
        if let Some((_, c)) = spec::container(&entry.pod, container) {
            wanted.tty = c.tty == Some(true);
            wanted.stdin &= c.stdin == Some(true);
        }
        let (context, options) = (self.context.clone(), stream_options(&wanted));
        let (response, session) = serve::remote::exec(request, wanted, async move {
            context.runtime().attach(&id, options).await.map(process).map_err(|e| e.to_string())
        });
        self.keep(session);
        response
    }

    pub(super) fn port_forward(&self, request: Request<Incoming>, namespace: &str, pod: &str) -> Response<Body> {
        let entry = match self.find(namespace, pod) {
            Ok(entry) => entry,
            Err(response) => return *response,
        };
        let Some(sandbox) = entry.view.sandbox().map(|s| s.id.clone()) else {
            return text(StatusCode::NOT_FOUND, format!("pod not found (\"{pod}\")"));
        };
        let context = self.context.clone();
        let (response, session) = serve::remote::port_forward(request, move |port| {
            let (context, sandbox) = (context.clone(), sandbox.clone());
            async move {
                let connection = context.runtime().port_forward(&sandbox, port).await.map_err(|e| e.to_string())?;
                Ok(Box::new(connection) as Box<dyn serve::Duplex>)
            }
        });
        self.keep(session);
        response
    }
}
