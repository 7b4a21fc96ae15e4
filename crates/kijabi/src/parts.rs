//! The parts of the running program: each has a name, is watched, and is started again when it fails.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The first pause before a failed part is started again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// One part and how it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PartStatus {
    pub(crate) name: String,
    pub(crate) healthy: bool,
    /// What it does, or why it is not healthy.
    pub(crate) message: String,
}

/// All parts.
#[derive(Clone)]
pub(crate) struct Parts {
    tasks: TaskTracker,
    token: CancellationToken,
    states: Arc<Mutex<Vec<PartStatus>>>,
}

impl Parts {
    pub(crate) fn new(token: CancellationToken) -> Parts {
        Parts { tasks: TaskTracker::new(), token, states: Arc::default() }
    }

    /// Cancelled when the program ends.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a part until the program ends. `start` is called again when it fails or panics.
    pub(crate) fn run<F, E>(&self, name: &str, start: impl Fn(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        self.set(name, true, "running");
        let (parts, name) = (self.clone(), name.to_owned());
        self.tasks.spawn(async move {
            let mut pause = FIRST_PAUSE;
            while !parts.token.is_cancelled() {
                let ended = tokio::spawn(start(parts.token.clone())).await;
                if parts.token.is_cancelled() {
                    return;
                }
                let why = match ended {
                    Ok(Ok(())) => "it ended by itself".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(panic) => panic.to_string(),
                };
                tracing::error!(part = name, why, "a part of the program failed, it is started again");
                parts.set(&name, false, &why);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = parts.token.cancelled() => return,
                }
                pause = (pause * 2).min(LAST_PAUSE);
                parts.set(&name, true, &format!("running; failed before: {why}"));
            }
        });
    }

    /// Runs a part that ends only with the program.
    pub(crate) fn run_once(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) {
        self.set(name, true, "running");
        let (parts, name) = (self.clone(), name.to_owned());
        self.tasks.spawn(async move {
            let ended = tokio::spawn(work).await;
            if !parts.token.is_cancelled() {
                let why = ended.err().map_or("it ended by itself".to_owned(), |panic| panic.to_string());
                tracing::error!(part = name, why, "a part of the program failed");
                parts.set(&name, false, &why);
            }
        });
    }

    fn set(&self, name: &str, healthy: bool, message: &str) {
        let mut states = self.states.lock();
        let state = PartStatus { name: name.to_owned(), healthy, message: message.to_owned() };
        match states.iter_mut().find(|s| s.name == name) {
            Some(known) => *known = state,
            None => states.push(state),
        }
    }

    /// How all of them are.
    pub(crate) fn statuses(&self) -> Vec<PartStatus> {
        self.states.lock().clone()
    }

    /// Waits until all have ended, after the token was cancelled.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
