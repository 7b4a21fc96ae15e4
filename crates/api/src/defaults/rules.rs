//! The rules by type: fixed values as tables, everything else as functions.

use super::{Object, kinds, pods};

/// By struct: fields that get a fixed value (JSON) when they are not set. A struct inlined in another brings its rules along.
pub(super) const CONSTANTS: &[(&str, &[(&str, &str)])] = &[
    (
        "core.v1.PodSpec",
        &[
            ("dnsPolicy", r#""ClusterFirst""#),
            ("restartPolicy", r#""Always""#),
            ("securityContext", "{}"),
            ("terminationGracePeriodSeconds", "30"),
            ("schedulerName", r#""default-scheduler""#),
        ],
    ),
    (
        "core.v1.Container",
        &[("terminationMessagePath", r#""/dev/termination-log""#), ("terminationMessagePolicy", r#""File""#)],
    ),
    (
        "core.v1.EphemeralContainerCommon",
        &[("terminationMessagePath", r#""/dev/termination-log""#), ("terminationMessagePolicy", r#""File""#)],
    ),
    (
        "core.v1.Probe",
        &[("timeoutSeconds", "1"), ("periodSeconds", "10"), ("successThreshold", "1"), ("failureThreshold", "3")],
    ),
    ("core.v1.HTTPGetAction", &[("path", r#""/""#), ("scheme", r#""HTTP""#)]),
    ("core.v1.GRPCAction", &[("service", r#""""#)]),
    ("core.v1.ObjectFieldSelector", &[("apiVersion", r#""v1""#)]),
    ("core.v1.SecretVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.ConfigMapVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.DownwardAPIVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.ProjectedVolumeSource", &[("defaultMode", "420")]),
    ("core.v1.ServiceAccountTokenProjection", &[("expirationSeconds", "3600")]),
    ("core.v1.HostPathVolumeSource", &[("type", r#""""#)]),
    ("core.v1.AzureDiskVolumeSource", &[("readOnly", "false")]),
    ("core.v1.Secret", &[("type", r#""Opaque""#)]),
    (
        "core.v1.PersistentVolumeSpec",
        &[("persistentVolumeReclaimPolicy", r#""Retain""#), ("volumeMode", r#""Filesystem""#)],
    ),
    ("core.v1.PersistentVolumeStatus", &[("phase", r#""Pending""#)]),
    ("core.v1.PersistentVolumeClaimSpec", &[("volumeMode", r#""Filesystem""#)]),
    ("core.v1.PersistentVolumeClaimStatus", &[("phase", r#""Pending""#)]),
    ("core.v1.NamespaceStatus", &[("phase", r#""Active""#)]),
    ("core.v1.ReplicationControllerSpec", &[("replicas", "1")]),
    ("core.v1.EndpointPort", &[("protocol", r#""TCP""#)]),
    ("core.v1.ServiceSpec", &[("sessionAffinity", r#""None""#), ("type", r#""ClusterIP""#)]),
    ("core.v1.ServicePort", &[("protocol", r#""TCP""#)]),
    ("discovery.v1.EndpointPort", &[("name", r#""""#), ("protocol", r#""TCP""#)]),
    (
        "apps.v1.DeploymentSpec",
        &[("replicas", "1"), ("revisionHistoryLimit", "10"), ("progressDeadlineSeconds", "600")],
    ),
    ("apps.v1.ReplicaSetSpec", &[("replicas", "1")]),
    ("apps.v1.DaemonSetSpec", &[("revisionHistoryLimit", "10")]),
    (
        "apps.v1.StatefulSetSpec",
        &[
            ("replicas", "1"),
            ("revisionHistoryLimit", "10"),
            ("podManagementPolicy", r#""OrderedReady""#),
            ("persistentVolumeClaimRetentionPolicy", "{}"),
        ],
    ),
    (
        "apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy",
        &[("whenDeleted", r#""Retain""#), ("whenScaled", r#""Retain""#)],
    ),
    (
        "batch.v1.CronJobSpec",
        &[
            ("concurrencyPolicy", r#""Allow""#),
            ("suspend", "false"),
            ("successfulJobsHistoryLimit", "3"),
            ("failedJobsHistoryLimit", "1"),
        ],
    ),
    ("batch.v1.PodFailurePolicyOnPodConditionsPattern", &[("status", r#""True""#)]),
    ("autoscaling.v1.HorizontalPodAutoscalerSpec", &[("minReplicas", "1")]),
    (
        "autoscaling.v2.HorizontalPodAutoscalerSpec",
        &[
            ("minReplicas", "1"),
            (
                "metrics",
                r#"[{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]"#,
            ),
        ],
    ),
    ("networking.v1.IngressClassParametersReference", &[("scope", r#""Cluster""#)]),
    ("networking.v1.NetworkPolicyPort", &[("protocol", r#""TCP""#)]),
    ("scheduling.v1.PriorityClass", &[("preemptionPolicy", r#""PreemptLowerPriority""#)]),
    ("storage.v1.StorageClass", &[("reclaimPolicy", r#""Delete""#), ("volumeBindingMode", r#""Immediate""#)]),
    (
        "storage.v1.CSIDriverSpec",
        &[
            ("attachRequired", "true"),
            ("fsGroupPolicy", r#""ReadWriteOnceWithFSType""#),
            ("podInfoOnMount", "false"),
            ("preventPodSchedulingIfMissing", "false"),
            ("requiresRepublish", "false"),
            ("seLinuxMount", "false"),
            ("storageCapacity", "false"),
            ("volumeLifecycleModes", r#"["Persistent"]"#),
        ],
    ),
    ("rbac.v1.RoleRef", &[("apiGroup", r#""rbac.authorization.k8s.io""#)]),
    ("admissionregistration.v1.ValidatingWebhook", WEBHOOK),
    ("admissionregistration.v1.MutatingWebhook", WEBHOOK),
    ("admissionregistration.v1.Rule", &[("scope", r#""*""#)]),
    ("admissionregistration.v1.ServiceReference", &[("port", "443")]),
    ("admissionregistration.v1.ValidatingAdmissionPolicySpec", &[("failurePolicy", r#""Fail""#)]),
    ("admissionregistration.v1.MutatingAdmissionPolicySpec", &[("failurePolicy", r#""Fail""#)]),
    (
        "admissionregistration.v1.MatchResources",
        &[("matchPolicy", r#""Equivalent""#), ("namespaceSelector", "{}"), ("objectSelector", "{}")],
    ),
    ("flowcontrol.v1.FlowSchemaSpec", &[("matchingPrecedence", "1000")]),
    (
        "flowcontrol.v1.LimitedPriorityLevelConfiguration",
        &[("nominalConcurrencyShares", "30"), ("lendablePercent", "0")],
    ),
    ("flowcontrol.v1.ExemptPriorityLevelConfiguration", &[("nominalConcurrencyShares", "0"), ("lendablePercent", "0")]),
    ("flowcontrol.v1.QueuingConfiguration", &[("queues", "64"), ("handSize", "8"), ("queueLengthLimit", "50")]),
    ("apiextensions.v1.CustomResourceDefinitionSpec", &[("conversion", r#"{"strategy": "None"}"#)]),
    ("apiextensions.v1.ServiceReference", &[("port", "443")]),
    ("apiregistration.v1.ServiceReference", &[("port", "443")]),
    ("resource.v1.ExactDeviceRequest", &[("allocationMode", r#""ExactCount""#)]),
    ("resource.v1.DeviceSubRequest", &[("allocationMode", r#""ExactCount""#)]),
];

const WEBHOOK: &[(&str, &str)] = &[
    ("failurePolicy", r#""Fail""#),
    ("matchPolicy", r#""Equivalent""#),
    ("namespaceSelector", "{}"),
    ("objectSelector", "{}"),
    ("timeoutSeconds", "10"),
];

/// Sets fields of one struct.
type Function = fn(&mut Object);

/// By struct: what is more than a fixed value. They run after the fixed values of the struct and before its fields.
pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("core.v1.Pod", pods::pod),
    ("core.v1.PodSpec", pods::service_account),
    ("core.v1.PodStatus", pods::addresses),
    ("core.v1.Container", pods::pull_policy),
    ("core.v1.EphemeralContainerCommon", pods::pull_policy),
    ("core.v1.Volume", pods::volume),
    ("core.v1.ImageVolumeSource", pods::image_volume),
    ("core.v1.Service", kinds::service),
    ("core.v1.Secret", kinds::secret),
    ("core.v1.Namespace", kinds::namespace),
    ("core.v1.NodeStatus", kinds::node_status),
    ("core.v1.LimitRangeItem", kinds::limit_range_item),
    ("core.v1.ReplicationController", kinds::replication_controller),
    ("apps.v1.DeploymentStrategy", kinds::deployment_strategy),
    ("apps.v1.DaemonSetUpdateStrategy", kinds::daemon_set_strategy),
    ("apps.v1.StatefulSetUpdateStrategy", kinds::stateful_set_strategy),
    ("batch.v1.Job", kinds::job),
    ("autoscaling.v2.HorizontalPodAutoscalerBehavior", kinds::scaling_behavior),
    ("networking.v1.NetworkPolicySpec", kinds::network_policy),
    ("rbac.v1.Subject", kinds::subject),
    ("admissionregistration.v1.MutatingWebhook", kinds::mutating_webhook),
    ("apiextensions.v1.CustomResourceDefinition", kinds::custom_resource_definition),
    ("resource.v1.ExactDeviceRequest", kinds::device_count),
    ("resource.v1.DeviceSubRequest", kinds::device_count),
];
