package main

import (
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crd "k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiservice "k8s.io/kube-aggregator/pkg/registry/apiservice"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
)

// strategy is what upstream does when an object is created or changed.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// strategyOf is upstream's strategy of a kind, nil where the tool does not know it.
func strategyOf(kind schema.GroupKind) strategy {
	return map[string]strategy{
		"ConfigMap": configmap.Strategy, "Endpoints": endpoint.Strategy, "Event": event.Strategy, "LimitRange": limitrange.Strategy,
		"Namespace": namespace.Strategy, "Node": node.Strategy, "PersistentVolume": persistentvolume.Strategy,
		"PersistentVolumeClaim": persistentvolumeclaim.Strategy, "Pod": pod.Strategy, "PodTemplate": podtemplate.Strategy,
		"ReplicationController": replicationcontroller.Strategy, "ResourceQuota": resourcequota.Strategy, "Secret": secret.Strategy,
		"Service": service.Strategy, "ServiceAccount": serviceaccount.Strategy,
		"Deployment.apps": deployment.Strategy, "ReplicaSet.apps": replicaset.Strategy, "DaemonSet.apps": daemonset.Strategy,
		"StatefulSet.apps": statefulset.Strategy, "ControllerRevision.apps": controllerrevision.Strategy,
		"Job.batch": job.Strategy, "CronJob.batch": cronjob.Strategy, "Lease.coordination.k8s.io": lease.Strategy,
		"HorizontalPodAutoscaler.autoscaling": horizontalpodautoscaler.Strategy, "EndpointSlice.discovery.k8s.io": endpointslice.Strategy,
		"CertificateSigningRequest.certificates.k8s.io": certificates.Strategy,
		"Ingress.networking.k8s.io":                     ingress.Strategy, "IngressClass.networking.k8s.io": ingressclass.Strategy,
		"NetworkPolicy.networking.k8s.io": networkpolicy.Strategy, "ServiceCIDR.networking.k8s.io": servicecidr.Strategy,
		"IPAddress.networking.k8s.io": ipaddress.Strategy, "PriorityClass.scheduling.k8s.io": priorityclass.Strategy,
		"PodDisruptionBudget.policy": poddisruptionbudget.Strategy, "RuntimeClass.node.k8s.io": runtimeclass.Strategy,
		"Role.rbac.authorization.k8s.io": role.Strategy, "RoleBinding.rbac.authorization.k8s.io": rolebinding.Strategy,
		"ClusterRole.rbac.authorization.k8s.io": clusterrole.Strategy, "ClusterRoleBinding.rbac.authorization.k8s.io": clusterrolebinding.Strategy,
		"StorageClass.storage.k8s.io": storageclass.Strategy, "CSIDriver.storage.k8s.io": csidriver.Strategy, "CSINode.storage.k8s.io": csinode.Strategy,
		"CSIStorageCapacity.storage.k8s.io": csistoragecapacity.Strategy, "VolumeAttachment.storage.k8s.io": volumeattachment.Strategy,
		"FlowSchema.flowcontrol.apiserver.k8s.io":                     flowschema.Strategy,
		"PriorityLevelConfiguration.flowcontrol.apiserver.k8s.io":     prioritylevelconfiguration.Strategy,
		"MutatingWebhookConfiguration.admissionregistration.k8s.io":   mutatingwebhookconfiguration.Strategy,
		"ValidatingWebhookConfiguration.admissionregistration.k8s.io": validatingwebhookconfiguration.Strategy,
		"CustomResourceDefinition.apiextensions.k8s.io":               crd.NewStrategy(crdserver.Scheme),
		"APIService.apiregistration.k8s.io":                           apiservice.NewStrategy(aggregator.Scheme),
	}[kind.String()]
}
