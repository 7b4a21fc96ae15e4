//! The labels and annotations the kubelet gives sandboxes and containers, to know them again after a restart.

/// Pod name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// [`crate::spec::container_hash`] of the definition it was made from.
pub const HASH: &str = "io.kubernetes.container.hash";
/// How often it was restarted.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// The file of the machine that carries the termination message.
pub const TERMINATION_MESSAGE_FILE: &str = "io.kubernetes.container.terminationMessageFile";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Seconds the pod gets to end, for pods deleted while the kubelet was away.
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// The address of the node where a static pod's file says so: where a pod comes from.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// The hash of a static pod.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Marks a mirror pod, with the hash of its static pod.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
