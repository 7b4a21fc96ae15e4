package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"sort"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/yaml"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/printers"
	internalprinters "k8s.io/kubernetes/pkg/printers/internalversion"
)

// writeGolden runs every document of the fixtures through upstream and writes what came out, one JSON document a line:
// objects.jsonl (the written form, the defaulted form, its protobuf bytes, errors on creation, and the row of a table),
// updates.jsonl (errors of a change) and patches.jsonl (results of strategic merge patches).
func writeGolden(fixtures, out string) error {
	capabilities.Initialize(capabilities.Capabilities{AllowPrivileged: true})
	steps := []struct {
		name string
		each func(json.RawMessage) (any, error)
	}{{"objects", goldenObject}, {"updates", goldenUpdate}, {"patches", goldenPatch}}
	for _, step := range steps {
		documents, err := readDocuments(filepath.Join(fixtures, step.name))
		if err != nil {
			return err
		}
		var lines bytes.Buffer
		encoder := json.NewEncoder(&lines)
		encoder.SetEscapeHTML(false)
		for at, document := range documents {
			result, err := step.each(document)
			if err != nil {
				return fmt.Errorf("%s, document %d: %w\n%s", step.name, at+1, err, document)
			}
			if err := encoder.Encode(result); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(out, step.name+".jsonl"), lines.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readDocuments reads every YAML document of a folder, in the order of file names.
func readDocuments(folder string) (documents []json.RawMessage, err error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	sort.Strings(paths)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
		for {
			var document json.RawMessage
			if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			if len(document) > 0 && string(document) != "null" {
				documents = append(documents, document)
			}
		}
	}
	return documents, nil
}

// loaded is a document as its versioned type, as decoded and with defaults, and as the internal type.
type loaded struct {
	gvk                schema.GroupVersionKind
	scheme             *runtime.Scheme
	written, defaulted runtime.Object
	internal           runtime.Object
}

func load(document json.RawMessage) (*loaded, error) {
	var head metav1.TypeMeta
	if err := json.Unmarshal(document, &head); err != nil {
		return nil, err
	}
	gvk := head.GroupVersionKind()
	typ, scheme := kindOf(gvk)
	if typ == nil {
		return nil, fmt.Errorf("no kind %s", gvk)
	}
	written := reflect.New(typ).Interface().(runtime.Object)
	if err := json.Unmarshal(document, written); err != nil {
		return nil, err
	}
	defaulted := written.DeepCopyObject()
	scheme.Default(defaulted)
	internal, err := scheme.UnsafeConvertToVersion(defaulted.DeepCopyObject(), schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal})
	return &loaded{gvk, scheme, written, defaulted, internal}, err
}

type cause struct {
	Reason  string `json:"reason"`
	Field   string `json:"field"`
	Message string `json:"message"`
}

type object struct {
	In        json.RawMessage `json:"in"`
	Written   runtime.Object  `json:"written"`
	Defaulted runtime.Object  `json:"defaulted"`
	Protobuf  string          `json:"protobuf,omitempty"`
	Encoded   string          `json:"encoded,omitempty"`
	Validated bool            `json:"validated"`
	Prepared  runtime.Object  `json:"prepared,omitempty"`
	Errors    []cause         `json:"errors,omitempty"`
	Cells     []any           `json:"cells,omitempty"`
}

func goldenObject(document json.RawMessage) (any, error) {
	l, err := load(document)
	if err != nil {
		return nil, err
	}
	result := object{In: document, Written: l.written, Defaulted: l.defaulted}
	if m, ok := l.defaulted.(interface{ Marshal() ([]byte, error) }); ok {
		raw, err := m.Marshal()
		if err != nil {
			return nil, err
		}
		result.Protobuf = base64.StdEncoding.EncodeToString(raw)
	}
	if l.gvk.Kind == "ConfigMap" {
		// The whole body of a request, once with its head.
		var body bytes.Buffer
		if err := protobuf.NewSerializer(l.scheme, l.scheme).Encode(l.defaulted, &body); err != nil {
			return nil, err
		}
		result.Encoded = base64.StdEncoding.EncodeToString(body.Bytes())
	}
	if result.Cells, err = cells(l.internal); err != nil {
		return nil, err
	}
	if s := strategyOf(l.gvk.GroupKind()); s != nil {
		ctx := requestFor(l, s.NamespaceScoped())
		result.Validated = true
		if l.gvk.Kind == "Secret" {
			// The write-only field is folded in by the conversion to the internal type, not by defaulting.
			if result.Prepared, err = l.scheme.ConvertToVersion(l.internal.DeepCopyObject(), l.gvk.GroupVersion()); err != nil {
				return nil, err
			}
		}
		if accessor, err := meta.Accessor(l.internal); err == nil {
			rest.FillObjectMetaSystemFields(accessor)
		}
		result.Errors = causes(rest.BeforeCreate(s, ctx, l.internal))
	}
	return result, nil
}

func requestFor(l *loaded, namespaced bool) context.Context {
	ctx := genericapirequest.WithNamespace(genericapirequest.NewContext(), metav1.NamespaceNone)
	info := &genericapirequest.RequestInfo{APIGroup: l.gvk.Group, APIVersion: l.gvk.Version}
	if accessor, err := meta.Accessor(l.internal); err == nil && namespaced {
		ctx = genericapirequest.WithNamespace(ctx, accessor.GetNamespace())
		info.Namespace = accessor.GetNamespace()
	}
	return genericapirequest.WithRequestInfo(ctx, info)
}

func causes(err error) (list []cause) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		if err != nil {
			list = append(list, cause{Message: err.Error()})
		}
		return list
	}
	if status.Status().Details != nil {
		for _, c := range status.Status().Details.Causes {
			list = append(list, cause{string(c.Type), c.Field, c.Message})
		}
	}
	// Upstream goes through maps in no order.
	sort.SliceStable(list, func(i, j int) bool { return list[i].Field+list[i].Message < list[j].Field+list[j].Message })
	if len(list) == 0 {
		list = append(list, cause{Reason: string(status.Status().Reason), Message: status.Status().Message})
	}
	return list
}

var tables = printers.NewTableGenerator().With(internalprinters.AddHandlers)

func cells(internal runtime.Object) ([]any, error) {
	table, err := tables.GenerateTable(internal, printers.GenerateOptions{Wide: true})
	if err != nil || len(table.Rows) == 0 {
		return nil, nil //nolint:nilerr // A kind without printers has no cells.
	}
	return table.Rows[0].Cells, nil
}

func goldenUpdate(document json.RawMessage) (any, error) {
	var in struct{ Old, New json.RawMessage }
	if err := json.Unmarshal(document, &in); err != nil {
		return nil, err
	}
	// The new object is given as a merge patch of the old one.
	merged, err := merge(in.Old, in.New)
	if err != nil {
		return nil, err
	}
	before, err := load(in.Old)
	if err != nil {
		return nil, err
	}
	after, err := load(merged)
	if err != nil {
		return nil, err
	}
	s := strategyOf(after.gvk.GroupKind())
	if s == nil {
		return nil, fmt.Errorf("no strategy for %s", after.gvk)
	}
	for _, o := range []runtime.Object{before.internal, after.internal} {
		accessor, err := meta.Accessor(o)
		if err != nil {
			return nil, err
		}
		accessor.SetResourceVersion("1")
		accessor.SetUID("11111111-1111-1111-1111-111111111111")
	}
	ctx := requestFor(after, s.NamespaceScoped())
	errs := causes(rest.BeforeUpdate(s, ctx, after.internal, before.internal))
	return map[string]any{"old": before.defaulted, "new": after.defaulted, "errors": errs}, nil
}

// merge applies a JSON merge patch.
func merge(target, patch json.RawMessage) (json.RawMessage, error) {
	var t, p any
	if err := errors.Join(json.Unmarshal(target, &t), json.Unmarshal(patch, &p)); err != nil {
		return nil, err
	}
	var walk func(t, p any) any
	walk = func(t, p any) any {
		changes, ok := p.(map[string]any)
		if !ok {
			return p
		}
		fields, ok := t.(map[string]any)
		if !ok {
			fields = map[string]any{}
		}
		for k, v := range changes {
			if v == nil {
				delete(fields, k)
			} else {
				fields[k] = walk(fields[k], v)
			}
		}
		return fields
	}
	return json.Marshal(walk(t, p))
}

func goldenPatch(document json.RawMessage) (any, error) {
	var in struct{ Object, Patch json.RawMessage }
	if err := json.Unmarshal(document, &in); err != nil {
		return nil, err
	}
	var head metav1.TypeMeta
	if err := json.Unmarshal(in.Object, &head); err != nil {
		return nil, err
	}
	typ, _ := kindOf(head.GroupVersionKind())
	if typ == nil {
		return nil, fmt.Errorf("no kind %s", head.GroupVersionKind())
	}
	result, err := strategicpatch.StrategicMergePatch(in.Object, in.Patch, reflect.New(typ).Elem().Interface())
	line := map[string]any{"object": in.Object, "patch": in.Patch}
	if err != nil {
		line["error"] = err.Error()
	} else {
		line["result"] = json.RawMessage(result)
	}
	return line, nil
}
