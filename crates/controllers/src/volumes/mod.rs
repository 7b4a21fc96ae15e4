//! Volumes and claims: bound to each other, kept while they are used, released when the claim is gone.
//!
//! One loop for both, since a binding is four writes in an order (the volume's promise, its phase, the claim's volume, its phase) and
//! each is repeated from what is there when one before it failed.

mod bind;
mod fit;
mod plan;
mod protect;

use std::sync::Arc;

use client::{Delta, EventType, Informer, Recorder, reference};
use k8s_openapi::api::core::v1::{PersistentVolume as Volume, PersistentVolumeClaim as Claim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass as Class, VolumeAttributesClass as Attributes};

use crate::control::{Controller, Error, Loop, Queue, Shared};

const DEFAULTS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

struct Volumes {
    shared: Arc<Shared>,
    recorder: Recorder,
    queue: Arc<Queue>,
    volumes: Informer<Volume>,
    claims: Informer<Claim>,
    pods: Informer<Pod>,
    classes: Informer<Class>,
    attributes: Informer<Attributes>,
}

/// Starts the controllers.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let controller = Volumes {
        shared: Arc::clone(shared),
        recorder: shared.recorder("persistentvolume-controller"),
        queue: Arc::clone(&queue),
        volumes: shared.informers.all(),
        claims: shared.informers.all(),
        pods: shared.informers.all(),
        classes: shared.informers.all(),
        attributes: shared.informers.all(),
    };
    let (volumes, claims, pods) = (controller.volumes.clone(), controller.claims.clone(), controller.pods.clone());
    let (classes, attributes) = (controller.classes.clone(), controller.attributes.clone());
    Loop::new(shared, controller, queue)
        .on(&volumes, Volumes::volume_changed)
        .on(&claims, Volumes::claim_changed)
        .on(&pods, Volumes::pod_changed)
        .on(&classes, |this, queue, _| this.pending(queue))
        .on(&attributes, |_, queue, delta| queue.add(Key::Attributes.of(&client::key(&**delta.object()))))
        // One at a time: two claims must not be given the same volume.
        .start(1);
}

/// What a key of the queue is about.
#[derive(Clone, Copy)]
enum Key {
    Volume,
    Claim,
    Attributes,
}

impl Key {
    fn of(self, key: &str) -> String {
        let prefix = match self {
            Key::Volume => "volume",
            Key::Claim => "claim",
            Key::Attributes => "attributes",
        };
        format!("{prefix}:{key}")
    }
}

/// The claims that a pod's volumes name, as keys.
fn claims_of(pod: &Pod) -> Vec<String> {
    let (namespace, name) =
        (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
        _ => None,
    });
    names.map(|claim| format!("{namespace}/{claim}")).collect()
}

fn phase(claim: &Claim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

impl Volumes {
    fn volume_changed(&self, queue: &Queue, delta: &Delta<Volume>) {
        let volume = delta.object();
        queue.add(Key::Volume.of(&client::key(&**volume)));
        if let Some(to) = fit::claimant(volume) {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            queue.add(Key::Claim.of(&format!("{}/{}", text(&to.namespace), text(&to.name))));
        } else {
            self.pending(queue);
        }
        self.attributes_kept(queue);
    }

    fn claim_changed(&self, queue: &Queue, delta: &Delta<Claim>) {
        let claim = delta.object();
        queue.add(Key::Claim.of(&client::key(&**claim)));
        if let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) {
            queue.add(Key::Volume.of(name));
        }
        if matches!(delta, Delta::Deleted(_)) {
            // A volume may have been promised to it before it knew.
            let promised = self.volumes.list().into_iter().filter(|volume| fit::is_promised(volume, claim));
            promised.for_each(|volume| queue.add(Key::Volume.of(&client::key(&*volume))));
        }
        self.attributes_kept(queue);
    }

    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let unchanged = |old: &Pod, new: &Pod| {
            let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            node(old) == node(new) && crate::pods::is_finished(old) == crate::pods::is_finished(new)
        };
        if let Delta::Applied { old: Some(old), new } = delta
            && unchanged(old, new)
        {
            return;
        }
        claims_of(delta.object()).iter().for_each(|claim| queue.add(Key::Claim.of(claim)));
    }

    /// Claims that wait look again.
    fn pending(&self, queue: &Queue) {
        let waiting = self.claims.list().into_iter().filter(|claim| phase(claim) == "Pending");
        waiting.for_each(|claim| queue.add(Key::Claim.of(&client::key(&*claim))));
    }

    /// Classes of attributes that are being deleted may be free now.
    fn attributes_kept(&self, queue: &Queue) {
        let held = self.attributes.list().into_iter().filter(|class| class.metadata.deletion_timestamp.is_some());
        held.for_each(|class| queue.add(Key::Attributes.of(&client::key(&*class))));
    }

    fn tell<K: kube::Resource<DynamicType = ()>>(&self, object: &K, told: Option<plan::Told>) {
        if let Some((warns, reason, text)) = told {
            let kind = if warns { EventType::Warning } else { EventType::Normal };
            self.recorder.event(&reference(object), kind, reason, text);
        }
    }

    /// The class of claims that name none: the newest that is marked; of those of the same second, the first by name.
    fn default_class(&self) -> Option<String> {
        let marked = |class: &Arc<Class>| {
            let annotations = class.metadata.annotations.as_ref();
            annotations.is_some_and(|all| DEFAULTS.iter().any(|mark| all.get(*mark).is_some_and(|v| v == "true")))
        };
        let order = |class: &Arc<Class>| {
            let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, std::cmp::Reverse(class.metadata.name.clone()))
        };
        let newest = self.classes.list().into_iter().filter(marked).max_by(|a, b| order(a).cmp(&order(b)));
        newest.and_then(|class| class.metadata.name.clone())
    }

    async fn claim(&self, key: &str) -> Result<(), Error> {
        let Some(claim) = self.claims.get(key) else { return Ok(()) };
        if self.protect_claim(&claim, key).await? {
            return Ok(());
        }
        let (volumes, classes) = (self.volumes.list(), self.classes.list());
        match plan::claim(&claim, &volumes, &classes, self.default_class().as_deref()) {
            plan::ClaimAction::Phase(phase, told) => self.set_claim_phase(&claim, phase, told).await,
            plan::ClaimAction::Bind(volume) => self.bind(&volume, &claim).await,
            plan::ClaimAction::Classify(class) => self.classify(&claim, class).await,
            plan::ClaimAction::Provision(by) => self.provision(&claim, &by).await,
        }
    }

    async fn volume(&self, key: &str) -> Result<(), Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(()) };
        if self.protect_volume(&volume, key).await? {
            return Ok(());
        }
        let claim = self.claimed_by(&volume).await?;
        match plan::volume(&volume, claim.as_deref()) {
            plan::VolumeAction::Phase(phase) => self.set_volume_phase(&volume, phase, None).await.map(drop),
            plan::VolumeAction::Reclaim => self.reclaim(&volume).await,
            plan::VolumeAction::Unbind => self.unbind(&volume).await,
            plan::VolumeAction::TellClaim => {
                if let Some(claim) = claim {
                    self.queue.add(Key::Claim.of(&client::key(&*claim)));
                }
                Ok(())
            }
        }
    }
}

impl Controller for Volumes {
    const NAME: &'static str = "persistentvolume-binder-controller";

    fn all(&self) -> Vec<String> {
        let volumes = self.volumes.list().into_iter().map(|volume| Key::Volume.of(&client::key(&*volume)));
        let claims = self.claims.list().into_iter().map(|claim| Key::Claim.of(&client::key(&*claim)));
        let attributes = self.attributes.list().into_iter().map(|class| Key::Attributes.of(&client::key(&*class)));
        volumes.chain(claims).chain(attributes).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        match key.split_once(':') {
            Some(("volume", key)) => self.volume(key).await,
            Some(("claim", key)) => self.claim(key).await,
            Some((_, key)) => self.protect_attributes(key).await,
            None => Ok(()),
        }
    }
}
