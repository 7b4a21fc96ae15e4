package main

import (
	"reflect"

	"k8s.io/api/admission/v1"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/controlplane"
)

// schemes are the scheme of the core API server, of custom resource definitions, and of the aggregator.
func schemes() []*runtime.Scheme {
	return []*runtime.Scheme{legacyscheme.Scheme, crdserver.Scheme, aggregator.Scheme}
}

// servedVersions are the group versions on by default, with those that clients and webhooks exchange but no path serves.
var servedVersions = served()

func served() map[schema.GroupVersion]bool {
	versions := map[schema.GroupVersion]bool{
		v1.SchemeGroupVersion:              true,
		apidiscovery.SchemeGroupVersion:    true,
		apiextensions.SchemeGroupVersion:   true,
		apiregistration.SchemeGroupVersion: true,
	}
	for gv, on := range controlplane.DefaultAPIResourceConfigSource().GroupVersionConfigs {
		if on {
			versions[gv] = true
		}
	}
	return versions
}

// kindOf is the Go type of a served kind.
func kindOf(gvk schema.GroupVersionKind) (reflect.Type, *runtime.Scheme) {
	for _, s := range schemes() {
		if t, ok := s.AllKnownTypes()[gvk]; ok {
			return t, s
		}
	}
	return nil, nil
}
