//! Jobs that ended are deleted when their `ttlSecondsAfterFinished` is over.

use std::sync::Arc;
use std::time::Duration;

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions};

use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code};

struct Ttl {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    jobs: Informer<Job>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let jobs: Informer<Job> = shared.informers.all();
    let ttl = Ttl { shared: Arc::clone(shared), queue: Arc::clone(&queue), jobs: jobs.clone() };
    Loop::new(shared, ttl, queue).on_own(&jobs).start(4);
}

/// How long the Job may still live; `None` if nothing limits it (yet).
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let due = end.last_transition_time.as_ref()?.0.as_second() + i64::from(ttl);
    Some(Duration::from_secs(u64::try_from(due - now.as_second()).unwrap_or(0)))
}

impl Controller for Ttl {
    const NAME: &'static str = "ttl-after-finished-controller";

    fn all(&self) -> Vec<String> {
        self.jobs.list().iter().map(|j| client::key(&**j)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(job) = self.jobs.get(key) else { return Ok(()) };
        match left(&job, Timestamp::now()) {
            None => Ok(()),
            Some(wait) if !wait.is_zero() => {
                self.queue.add_after(key.to_owned(), wait);
                Ok(())
            }
            Some(_) => {
                let (namespace, name) = client::split_key(key);
                // The version, too: the limit may just have been lifted.
                let exactly = Preconditions {
                    uid: job.metadata.uid.clone(),
                    resource_version: job.metadata.resource_version.clone(),
                };
                let how = DeleteParams::foreground().preconditions(exactly);
                match self.shared.api::<Job>(namespace).delete(name, &how).await {
                    Err(e) if code(&e) == 409 => Ok(()),
                    other => other.unless_gone("delete job", key).map(drop),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::json;

    #[test]
    fn only_ended_jobs_run_out() {
        let ended = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z"}]});
        let rows = [
            (json!({"ttlSecondsAfterFinished": 10}), ended.clone(), Some(5)),
            (json!({"ttlSecondsAfterFinished": 0}), ended.clone(), Some(0)),
            (json!({}), ended, None),
            (json!({"ttlSecondsAfterFinished": 10}), json!({}), None),
        ];
        for (mut spec, status, want) in rows {
            spec["template"] = json!({});
            let job: Job = object(json!({"metadata": {"name": "j"}, "spec": spec, "status": status}));
            assert_eq!(left(&job, at(105)), want.map(Duration::from_secs), "{job:?}");
        }
    }
}
