// Command client-go does what controllers in Go do to an API server, and stops with a message at the first thing that is not as it
// should be: discovery, typed and dynamic clients, protobuf, server-side apply, shared informers, watch-list, leader election.
//
//	client-go KUBECONFIG NAMESPACE
package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

// The time that anything here may take.
const patience = 30 * time.Second

type suite struct {
	config    *rest.Config
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	mapper    *restmapper.DeferredDiscoveryRESTMapper
	namespace string
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	check("read the kubeconfig", err)
	config.QPS, config.Burst = 1000, 1000
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	client := kubernetes.NewForConfigOrDie(protobuf)
	s := &suite{
		config:    config,
		client:    client,
		dynamic:   dynamic.NewForConfigOrDie(config),
		mapper:    restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
		namespace: os.Args[2],
	}
	ctx := context.Background()
	for _, step := range []struct {
		name string
		run  func(context.Context)
	}{
		{"discovery, REST mapper and OpenAPI", s.discovery},
		{"typed client in protobuf, conflicts, patches, pages", s.typed},
		{"server-side apply", s.apply},
		{"shared informers, and a watch that begins with the list", s.informers},
		{"a custom resource through the dynamic client and its informer", s.custom},
		{"leader election with hand-over", s.election},
	} {
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, 2*patience)
		step.run(limited)
		cancel()
		fmt.Printf("  %s (%d ms)\n", step.name, time.Since(began).Milliseconds())
	}
}

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAILED: %s: %v\n", what, err)
		os.Exit(1)
	}
}

func expect(what string, good bool, details ...any) {
	if !good {
		check(what, fmt.Errorf("not so: %v", details))
	}
}

// Waits until the condition holds.
func until(ctx context.Context, what string, condition func() bool) {
	check(what, wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		return condition(), nil
	}))
}

func (s *suite) discovery(ctx context.Context) {
	groups, resources, err := s.client.Discovery().ServerGroupsAndResources()
	check("discover", err)
	expect("all groups are discovered", len(groups) > 15 && len(resources) > 20, len(groups), len(resources))
	mapping, err := s.mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"})
	check("map a kind", err)
	expect("a Deployment is at deployments", mapping.Resource.Resource == "deployments" && mapping.Scope.Name() == "namespace")
	document, err := s.client.Discovery().OpenAPISchema()
	check("read OpenAPI v2 in protobuf", err)
	expect("OpenAPI v2 has the kinds", len(document.GetDefinitions().GetAdditionalProperties()) > 300)
	spec, err := openapi3.NewRoot(s.client.Discovery().OpenAPIV3()).GVSpec(schema.GroupVersion{Group: "apps", Version: "v1"})
	check("read OpenAPI v3", err)
	expect("OpenAPI v3 has the kinds", spec.Components.Schemas["io.k8s.api.apps.v1.Deployment"] != nil)
}

func (s *suite) typed(ctx context.Context) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	made, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "typed-", Labels: map[string]string{"typed": "yes"}},
		Data:       map[string]string{"a": "1"}, BinaryData: map[string][]byte{"b": {0, 255}},
	}, metav1.CreateOptions{})
	check("create", err)
	stale := made.DeepCopy()
	made.Data["a"] = "2"
	made, err = maps.Update(ctx, made, metav1.UpdateOptions{})
	check("update", err)
	_, err = maps.Update(ctx, stale, metav1.UpdateOptions{})
	expect("a stale update is a conflict", errors.IsConflict(err), err)
	check("retry on conflict", retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := maps.Get(ctx, made.Name, metav1.GetOptions{})
		if err == nil {
			current.Data["a"] = "3"
			_, err = maps.Update(ctx, current, metav1.UpdateOptions{})
		}
		return err
	}))
	for _, kind := range []types.PatchType{types.StrategicMergePatchType, types.MergePatchType} {
		_, err = maps.Patch(ctx, made.Name, kind, []byte(`{"data":{"p":"`+string(kind)+`"}}`), metav1.PatchOptions{})
		check("patch", err)
	}
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: made.Name}}, metav1.CreateOptions{})
	expect("a name is taken once", errors.IsAlreadyExists(err), err)
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Not_Good"}}, metav1.CreateOptions{})
	expect("a bad name is invalid", errors.IsInvalid(err), err)
	for i := range 25 {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%d", i), Labels: map[string]string{"typed": "yes"}}}, metav1.CreateOptions{})
		check("create", err)
	}
	options := metav1.ListOptions{LabelSelector: "typed=yes"}
	pages := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) }))
	pages.PageSize = 10
	count := 0
	check("list in pages", pages.EachListItem(ctx, options, func(runtime.Object) error { count++; return nil }))
	expect("pages have everything once", count == 26, count)
	partial, err := metadata.NewForConfigOrDie(s.config).Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(s.namespace).List(ctx, options)
	check("list metadata", err)
	expect("metadata of everything", len(partial.Items) == 26 && partial.Items[0].Kind == "PartialObjectMetadata", len(partial.Items))
	check("delete the collection", maps.DeleteCollection(ctx, metav1.DeleteOptions{}, options))
	left, err := maps.List(ctx, options)
	check("list", err)
	expect("nothing is left", len(left.Items) == 0, len(left.Items))
}

func (s *suite) apply(ctx context.Context) {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	selector := map[string]string{"app": "applied"}
	wanted := func(image string) *appsapply.DeploymentApplyConfiguration {
		return appsapply.Deployment("applied", s.namespace).WithSpec(appsapply.DeploymentSpec().WithReplicas(0).
			WithSelector(metaapply.LabelSelector().WithMatchLabels(selector)).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(selector).WithSpec(coreapply.PodSpec().
				WithContainers(coreapply.Container().WithName("c").WithImage(image).WithPorts(coreapply.ContainerPort().WithContainerPort(80))))))
	}
	_, err := deployments.Apply(ctx, wanted("one"), metav1.ApplyOptions{FieldManager: "first"})
	check("apply", err)
	_, err = deployments.Apply(ctx, wanted("two"), metav1.ApplyOptions{FieldManager: "second"})
	expect("another manager conflicts", errors.IsConflict(err), err)
	applied, err := deployments.Apply(ctx, wanted("two"), metav1.ApplyOptions{FieldManager: "second", Force: true})
	check("force", err)
	extracted, err := appsapply.ExtractDeployment(applied, "second")
	check("extract what a manager applied", err)
	expect("the manager owns the image", *extracted.Spec.Template.Spec.Containers[0].Image == "two")
	status, err := deployments.ApplyStatus(ctx, appsapply.Deployment("applied", s.namespace).WithStatus(appsapply.DeploymentStatus().
		WithConditions(appsapply.DeploymentCondition().WithType("E2E").WithStatus("True").WithReason("r").WithMessage("m"))),
		metav1.ApplyOptions{FieldManager: "status", Force: true})
	check("apply the status", err)
	expect("the condition is there", len(status.Status.Conditions) > 0)
	check("delete", deployments.Delete(ctx, "applied", metav1.DeleteOptions{}))
}

func (s *suite) informers(ctx context.Context) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "before"}}, metav1.CreateOptions{})
	check("create", err)
	factory := informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithNamespace(s.namespace))
	configMaps := factory.Core().V1().ConfigMaps()
	var added, updated, deleted atomic.Int32
	_, err = configMaps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added.Add(1) },
		UpdateFunc: func(any, any) { updated.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	})
	check("add a handler", err)
	factory.Core().V1().Secrets().Informer()
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		expect("the cache is filled", synced, kind)
	}
	_, err = configMaps.Lister().ConfigMaps(s.namespace).Get("before")
	check("read the cache", err)
	start := added.Load()
	for i := range 50 {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("seen-%d", i)}}, metav1.CreateOptions{})
		check("create", err)
	}
	until(ctx, "additions are seen", func() bool { return added.Load() == start+50 })
	_, err = maps.Patch(ctx, "seen-0", types.MergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{})
	check("patch", err)
	until(ctx, "a change is seen", func() bool { return updated.Load() == 1 })
	for i := range 50 {
		check("delete", maps.Delete(ctx, fmt.Sprintf("seen-%d", i), metav1.DeleteOptions{}))
	}
	until(ctx, "deletions are seen", func() bool { return deleted.Load() == 50 })
	left, err := configMaps.Lister().List(labels.Everything())
	check("list the cache", err)
	expect("the cache forgets", len(left) == int(start), len(left), start)
	s.watchList(ctx)
	check("delete", maps.Delete(ctx, "before", metav1.DeleteOptions{}))
}

// A watch that sends the list first, then a bookmark that says so.
func (s *suite) watchList(ctx context.Context) {
	yes := true
	stream, err := s.client.CoreV1().ConfigMaps(s.namespace).Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	check("watch with initial events", err)
	defer stream.Stop()
	seen := 0
	for event := range stream.ResultChan() {
		switch event.Type {
		case watch.Added:
			seen++
		case watch.Bookmark:
			ended := event.Object.(*corev1.ConfigMap).Annotations["k8s.io/initial-events-end"] == "true"
			expect("the list comes before the bookmark", ended && seen > 0, seen)
			return
		default:
			expect("only additions and a bookmark come", false, event.Type)
		}
	}
	expect("the watch ends after its bookmark", false)
}

func (s *suite) custom(ctx context.Context) {
	definitions := s.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "gauges.go.kijabi.dev"},
		"spec": map[string]any{
			"group": "go.kijabi.dev", "scope": "Namespaced", "names": map[string]any{"kind": "Gauge", "plural": "gauges"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}
	_, err := definitions.Create(ctx, definition, metav1.CreateOptions{})
	check("create the definition", err)
	defer func() {
		check("delete the definition", definitions.Delete(ctx, "gauges.go.kijabi.dev", metav1.DeleteOptions{}))
	}()
	var resource schema.GroupVersionResource
	until(ctx, "the kind is discovered", func() bool {
		s.mapper.Reset()
		mapping, err := s.mapper.RESTMapping(schema.GroupKind{Group: "go.kijabi.dev", Kind: "Gauge"})
		if err == nil {
			resource = mapping.Resource
		}
		return err == nil
	})
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(s.dynamic, 0, s.namespace, nil)
	lister := factory.ForResource(resource).Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	gauges := s.dynamic.Resource(resource).Namespace(s.namespace)
	gauge := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "go.kijabi.dev/v1", "kind": "Gauge", "metadata": map[string]any{"name": "g"}, "spec": map[string]any{"level": int64(3)},
	}}
	gauge, err = gauges.Apply(ctx, "g", gauge, metav1.ApplyOptions{FieldManager: "dynamic"})
	check("apply the custom resource", err)
	gauge.SetManagedFields(nil)
	check("set a field", unstructured.SetNestedField(gauge.Object, "full", "status", "state"))
	_, err = gauges.UpdateStatus(ctx, gauge, metav1.UpdateOptions{})
	check("update the status", err)
	until(ctx, "the informer shows the status", func() bool {
		object, err := lister.ByNamespace(s.namespace).Get("g")
		if err != nil {
			return false
		}
		state, _, _ := unstructured.NestedString(object.(*unstructured.Unstructured).Object, "status", "state")
		return state == "full"
	})
	check("delete the custom resource", gauges.Delete(ctx, "g", metav1.DeleteOptions{}))
	until(ctx, "the informer forgets", func() bool {
		_, err := lister.ByNamespace(s.namespace).Get("g")
		return errors.IsNotFound(err)
	})
}

// Two candidates: the first leads until it lets go, then the second takes over.
func (s *suite) election(ctx context.Context) {
	var leader atomic.Value
	leader.Store("")
	candidate := func(name string) context.CancelFunc {
		ctx, cancel := context.WithCancel(ctx)
		lock, err := resourcelock.New(resourcelock.LeasesResourceLock, s.namespace, "election", s.client.CoreV1(), s.client.CoordinationV1(),
			resourcelock.ResourceLockConfig{Identity: name})
		check("make the lock", err)
		go leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leader.Store(name) },
				OnStoppedLeading: func() {},
			},
		})
		return cancel
	}
	stopFirst := candidate("first")
	until(ctx, "the first leads", func() bool { return leader.Load() == "first" })
	stopSecond := candidate("second")
	defer stopSecond()
	lease := func() (string, int32) {
		l, err := s.client.CoordinationV1().Leases(s.namespace).Get(ctx, "election", metav1.GetOptions{})
		check("read the lease", err)
		return *l.Spec.HolderIdentity, *l.Spec.LeaseTransitions
	}
	holder, before := lease()
	expect("the lease names the first", holder == "first", holder)
	stopFirst()
	until(ctx, "the second takes over", func() bool { return leader.Load() == "second" })
	holder, after := lease()
	expect("the lease names the second", holder == "second" && after == before+1, holder, after)
}
