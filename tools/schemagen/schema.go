package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// special are the types with a JSON form of their own; the value is their letter in the table.
var special = map[reflect.Type]string{
	reflect.TypeFor[metav1.Time]():                                "T",
	reflect.TypeFor[metav1.MicroTime]():                           "M",
	reflect.TypeFor[metav1.Duration]():                            "D",
	reflect.TypeFor[resource.Quantity]():                          "Q",
	reflect.TypeFor[intstr.IntOrString]():                         "I",
	reflect.TypeFor[runtime.RawExtension]():                       "R",
	reflect.TypeFor[metav1.FieldsV1]():                            "F",
	reflect.TypeFor[apiextensions.JSON]():                         "J",
	reflect.TypeFor[apiextensions.JSONSchemaPropsOrArray]():       "1",
	reflect.TypeFor[apiextensions.JSONSchemaPropsOrBool]():        "2",
	reflect.TypeFor[apiextensions.JSONSchemaPropsOrStringArray](): "3",
}

// table collects struct types as they are reached.
type table struct {
	models map[string]common.OpenAPIDefinition
	types  map[string]reflect.Type // short name -> struct
	queue  []reflect.Type
}

func writeSchema(out *bufio.Writer) error {
	t := &table{types: map[string]reflect.Type{}}
	t.models = openapi.GetOpenAPIDefinitions(func(path string) spec.Ref { return spec.MustCreateRef(path) })
	kinds := kindsOf()
	names := make([]schema.GroupVersionKind, 0, len(kinds))

	for gvk, typ := range kinds {
		names = append(names, gvk)
		if _, err := t.reach(typ); err != nil {
			return err
		}
	}
	bodies := map[string]string{}
	for len(t.queue) > 0 {
		typ := t.queue[0]
		t.queue = t.queue[1:]
		body, err := t.body(typ)
		if err != nil {
			return fmt.Errorf("%s: %w", typ, err)
		}
		bodies[shortName(typ)] = body
	}
	sort.Slice(names, func(i, j int) bool { return names[i].String() < names[j].String() })
	for _, gvk := range names {
		fmt.Fprintf(out, "K\t%s\t%s\t%s\t%s\n", gvk.Group, gvk.Version, gvk.Kind, shortName(kinds[gvk]))
	}
	keys := make([]string, 0, len(bodies))
	for k := range bodies {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		out.WriteString(bodies[k])
	}
	return nil
}

// kindsOf is every kind of the served group versions; those of meta/v1, which belong to all groups, under the group "*".
func kindsOf() map[schema.GroupVersionKind]reflect.Type {
	kinds := map[schema.GroupVersionKind]reflect.Type{}
	for _, s := range schemes() {
		for gvk, typ := range s.AllKnownTypes() {
			if gvk.Version == runtime.APIVersionInternal {
				continue
			}
			if strings.HasSuffix(typ.PkgPath(), "apimachinery/pkg/apis/meta/v1") {
				kinds[schema.GroupVersionKind{Group: "*", Version: "*", Kind: gvk.Kind}] = typ
			} else if servedVersions[gvk.GroupVersion()] {
				kinds[gvk] = typ
			}
		}
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[metav1.Table](), reflect.TypeFor[metav1.PartialObjectMetadata](), reflect.TypeFor[metav1.PartialObjectMetadataList](), reflect.TypeFor[metav1.Status](), reflect.TypeFor[metav1.APIResourceList](), reflect.TypeFor[metav1.APIGroupList](), reflect.TypeFor[metav1.APIGroup](), reflect.TypeFor[metav1.APIVersions](), reflect.TypeFor[metav1.LabelSelector](), reflect.TypeFor[metav1.TableOptions]()} {
		kinds[schema.GroupVersionKind{Group: "*", Version: "*", Kind: typ.Name()}] = typ
	}
	return kinds
}

// shortName names a struct in the table: its OpenAPI model name with the well-known prefix abbreviated.
func shortName(typ reflect.Type) string {
	name := modelName(typ)
	for _, prefix := range [][2]string{
		{"io.k8s.api.", ""}, {"io.k8s.apimachinery.pkg.apis.meta.", "meta."}, {"io.k8s.apimachinery.pkg.", "~"},
		{"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.", "apiextensions."},
		{"io.k8s.kube-aggregator.pkg.apis.apiregistration.", "apiregistration."},
	} {
		if rest, ok := strings.CutPrefix(name, prefix[0]); ok {
			return prefix[1] + rest
		}
	}
	return name
}

// modelName is the OpenAPI name of a struct.
func modelName(typ reflect.Type) string {
	if m, ok := reflect.Zero(typ).Interface().(interface{ OpenAPIModelName() string }); ok {
		return m.OpenAPIModelName()
	}
	return typ.PkgPath() + "." + typ.Name()
}

// reach notes a struct for the table and gives its name there.
func (t *table) reach(typ reflect.Type) (string, error) {
	name := shortName(typ)
	if strings.ContainsAny(name, " \t/") {
		return "", fmt.Errorf("no model name for %s", typ)
	}
	if known, ok := t.types[name]; !ok {
		t.types[name] = typ
		t.queue = append(t.queue, typ)
	} else if known != typ {
		return "", fmt.Errorf("%s names both %s and %s", name, known, typ)
	}
	return name, nil
}

// body writes one struct: a head line and a line for each field.
func (t *table) body(typ reflect.Type) (string, error) {
	model, ok := t.models[modelName(typ)]
	var b strings.Builder
	b.WriteString("T\t" + shortName(typ))
	if ok && model.Schema.Extensions["x-kubernetes-map-type"] == "atomic" {
		b.WriteString("\ta")
	}
	b.WriteString("\n")
	for i := range typ.NumField() {
		line, err := t.field(typ.Field(i), model.Schema)
		if err != nil {
			return "", fmt.Errorf("%s: %w", typ.Field(i).Name, err)
		}
		b.WriteString(line)
	}
	return b.String(), nil
}

// field writes one field as "name type number flags key:value...", or "+ struct number" for an inlined one.
func (t *table) field(f reflect.StructField, model spec.Schema) (string, error) {
	tag, tagged := f.Tag.Lookup("json")
	name, options, _ := strings.Cut(tag, ",")
	number, err := protobufNumber(f)
	if err != nil || name == "-" || !f.IsExported() {
		return "", err
	}
	if name == "" {
		if !f.Anonymous || f.Type.Kind() != reflect.Struct {
			return "", fmt.Errorf("neither named nor inlined (tagged %v)", tagged)
		}
		inner, err := t.reach(f.Type)
		return fmt.Sprintf("+\t%s\t%s\n", inner, number), err
	}
	kind, err := t.typeOf(f.Type)
	if err != nil {
		return "", err
	}
	flags := ""
	if strings.Contains(options, "omitempty") {
		flags += "o"
	}
	if strings.Contains(options, "omitzero") {
		flags += "z"
	}
	for _, r := range model.Required {
		if r == name {
			flags += "r"
		}
	}
	line := name + "\t" + kind + "\t" + number + "\t" + flags
	property, ok := model.Properties[name]
	if ok {
		line += facts(property)
	}
	if ok && patchFacts(f) != patchExtensions(property) {
		return "", fmt.Errorf("patch strategy %q in the tag and %q in the model", patchFacts(f), patchExtensions(property))
	}
	return line + patchFacts(f) + "\n", nil
}

// facts are the schema's statements on one property.
func facts(p spec.Schema) (line string) {
	if d, err := json.Marshal(p.Default); err == nil && p.Default != nil && !zero(string(d)) {
		line += "\td:" + string(d)
	}
	if len(p.Enum) > 0 {
		values := make([]string, len(p.Enum))
		for i, v := range p.Enum {
			values[i] = fmt.Sprint(v)
		}
		line += "\te:" + strings.Join(values, ",")
	}
	if p.Items != nil && p.Items.Schema != nil && len(p.Items.Schema.Enum) > 0 {
		values := make([]string, len(p.Items.Schema.Enum))
		for i, v := range p.Items.Schema.Enum {
			values[i] = fmt.Sprint(v)
		}
		line += "\ti:" + strings.Join(values, ",")
	}
	if l, ok := p.Extensions["x-kubernetes-list-type"]; ok {
		line += "\tl:" + l.(string)
	}
	if keys, ok := p.Extensions["x-kubernetes-list-map-keys"]; ok {
		names := []string{}
		for _, k := range keys.([]any) {
			names = append(names, k.(string))
		}
		line += "\tk:" + strings.Join(names, ",")
	}
	if m, ok := p.Extensions["x-kubernetes-map-type"]; ok {
		line += "\tm:" + m.(string)
	}
	return line
}

// patchFacts are the strategic-merge directives in a field's tags.
func patchFacts(f reflect.StructField) (line string) {
	if s := f.Tag.Get("patchStrategy"); s != "" {
		line += "\tp:" + s
	}
	if k := f.Tag.Get("patchMergeKey"); k != "" {
		line += "\tq:" + k
	}
	return line
}

// patchExtensions are the same directives as the OpenAPI model states them.
func patchExtensions(p spec.Schema) (line string) {
	if s, ok := p.Extensions["x-kubernetes-patch-strategy"]; ok {
		line += "\tp:" + s.(string)
	}
	if k, ok := p.Extensions["x-kubernetes-patch-merge-key"]; ok {
		line += "\tq:" + k.(string)
	}
	return line
}

// zero tells whether a default is only the zero value of its Go type.
func zero(d string) bool { return d == `""` || d == "0" || d == "false" || d == "{}" || d == "null" }

// typeOf spells a type in the table's grammar: "*" pointer, "[" list of, "{" map to, "!" list that protobuf wraps in a message,
// "name=" a named Go type, then a letter or a struct.
func (t *table) typeOf(typ reflect.Type) (string, error) {
	if letter, ok := special[typ]; ok {
		return letter, nil
	}
	if typ.Kind() != reflect.Struct && typ.Name() != "" && typ.PkgPath() != "" {
		inner, err := t.plain(typ)
		if _, wrapped := reflect.PointerTo(typ).MethodByName("MarshalToSizedBuffer"); wrapped {
			inner = "!" + inner
		}
		return typ.String() + "=" + inner, err
	}
	return t.plain(typ)
}

// plain spells a type by its kind.
func (t *table) plain(typ reflect.Type) (string, error) {
	if _, ok := reflect.PointerTo(typ).MethodByName("UnmarshalJSON"); ok {
		return "", fmt.Errorf("%s decodes itself in a way the table does not know", typ)
	}
	prefix := map[reflect.Kind]string{reflect.Pointer: "*", reflect.Slice: "[", reflect.Map: "{"}[typ.Kind()]
	if typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Uint8 {
		return "y", nil
	}
	if prefix != "" {
		inner, err := t.typeOf(typ.Elem())
		return prefix + inner, err
	}
	if typ.Kind() == reflect.Struct {
		return t.reach(typ)
	}
	letters := map[reflect.Kind]string{reflect.String: "s", reflect.Bool: "b", reflect.Int32: "i", reflect.Int64: "l", reflect.Float64: "f", reflect.Uint8: "u", reflect.Interface: "A"}
	if letter, ok := letters[typ.Kind()]; ok {
		return letter, nil
	}
	return "", fmt.Errorf("no letter for %s", typ)
}

// protobufNumber is the field number in a tag, 0 when there is none. The tag's wire type is not read: upstream's encoder goes by
// the Go type, and a few tags say otherwise.
func protobufNumber(f reflect.StructField) (string, error) {
	tag, ok := f.Tag.Lookup("protobuf")
	if !ok || tag == "-" {
		return "0", nil
	}
	parts := strings.Split(tag, ",")
	if len(parts) < 2 || strings.Contains(tag, "packed") {
		return "", fmt.Errorf("protobuf tag %q", tag)
	}
	_, err := strconv.Atoi(parts[1])
	return parts[1], err
}
