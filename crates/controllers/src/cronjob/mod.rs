//! CronJobs: a Job again and again.

mod plan;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use client::{Delta, EventType, Informer, Recorder, reference};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use self::schedule::Schedule;
use crate::control::{Controller, Error, Loop, Queue, Shared, Step, code, is_namespace_terminating, message};
use crate::owner;

/// When the Job was due, on the Job.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct CronJobs {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    recorder: Recorder,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let controller = CronJobs {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        crons: shared.informers.all(),
        jobs: shared.informers.all(),
        recorder: shared.recorder("cronjob-controller"),
    };
    let (crons, jobs) = (controller.crons.clone(), controller.jobs.clone());
    Loop::new(shared, controller, queue).on_own(&crons).on(&jobs, CronJobs::job_changed).start(4);
}

/// The Job of `cron` that is due at `due`. Its name follows from the time, so the same one is never made twice.
fn job_of(cron: &CronJob, due: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.clone().job_template;
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = due.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED.to_owned(), local.replace("+00:00", "Z"));
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), due.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner::reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

impl CronJobs {
    fn job_changed(&self, queue: &Queue, delta: &Delta<Job>) {
        let meta = &delta.object().metadata;
        if let Some(owner) = owner::controller(meta).filter(|o| o.kind == "CronJob") {
            queue.add(format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), owner.name));
        }
    }

    fn warn(&self, cron: &CronJob, reason: &str, text: String) {
        self.recorder.event(&reference(cron), EventType::Warning, reason, text);
    }

    async fn delete(&self, cron: &CronJob, name: &str) -> Result<(), Error> {
        let api = self.shared.api::<Job>(cron.metadata.namespace.as_deref().unwrap_or_default());
        let deleted = api.delete(name, &DeleteParams::background()).await.unless_gone("delete job", name)?;
        if deleted.is_some() {
            self.recorder.event(&reference(cron), EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
        }
        Ok(())
    }

    async fn start(
        &self,
        cron: &CronJob,
        due: Timestamp,
        zone: &TimeZone,
        status: CronJobStatus,
    ) -> Result<CronJobStatus, Error> {
        let job = job_of(cron, due, zone);
        let name = job.metadata.name.clone().unwrap_or_default();
        let api = self.shared.api::<Job>(cron.metadata.namespace.as_deref().unwrap_or_default());
        match api.create(&PostParams::default(), &job).await {
            Ok(made) => {
                self.recorder.event(
                    &reference(cron),
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created job {name}"),
                );
                Ok(plan::started(status, &made, due))
            }
            Err(e) if is_namespace_terminating(&e) => Ok(status),
            Err(e) if code(&e) == 409 => {
                let existing = api.get(&name).await.step("read job", &name)?;
                Ok(plan::started(status, &existing, due))
            }
            Err(source) => {
                self.warn(cron, "FailedCreate", format!("Error creating job: {}", message(&source)));
                Err(Error::Call { step: "create job", name, source })
            }
        }
    }

    async fn write_status(&self, cron: &CronJob, status: CronJobStatus) -> Result<(), Error> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let name = cron.metadata.name.as_deref().unwrap_or_default();
        let api = self.shared.api::<CronJob>(cron.metadata.namespace.as_deref().unwrap_or_default());
        let update = CronJob { status: Some(status), ..cron.clone() };
        api.replace_status(name, &PostParams::default(), &update)
            .await
            .unless_gone("write the status of", name)
            .map(drop)
    }
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";

    fn all(&self) -> Vec<String> {
        self.crons.list().iter().map(|c| client::key(&**c)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(cron) = self.crons.get(key) else { return Ok(()) };
        let spec = cron.spec.clone();
        let schedule = match Schedule::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                self.warn(&cron, "UnparseableSchedule", format!("unparseable schedule: {} : {error}", spec.schedule));
                return Ok(());
            }
        };
        let zone = match spec.time_zone.as_deref().map(TimeZone::get) {
            None => TimeZone::system(),
            Some(Ok(zone)) => zone,
            Some(Err(error)) => {
                self.warn(&cron, "UnknownTimeZone", format!("invalid timeZone: {error}"));
                return Ok(());
            }
        };
        let mut jobs = self.jobs.list_in(cron.metadata.namespace.as_deref().unwrap_or_default());
        jobs.retain(|j| owner::is_controlled_by(&j.metadata, cron.metadata.uid.as_deref()));
        let plan = plan::plan(&cron, &schedule, &zone, &jobs, Timestamp::now());
        for (warning, reason, text) in &plan.events {
            let kind = if *warning { EventType::Warning } else { EventType::Normal };
            self.recorder.event(&reference(&*cron), kind, reason, text.clone());
        }
        for name in plan.replace.iter().chain(&plan.prune) {
            self.delete(&cron, name).await?;
        }
        let status = match plan.start {
            Some(due) => self.start(&cron, due, &zone, plan.status).await?,
            None => plan.status,
        };
        self.write_status(&cron, status).await?;
        if let Some(wait) = plan.next {
            self.queue.add_after(key.to_owned(), wait + Duration::from_millis(50));
        }
        Ok(())
    }
}
