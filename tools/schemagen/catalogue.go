package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// writeCatalogue turns a discovery dump (the folder holds api.json and apis.json, the aggregated documents, and one resource
// list for each group version) into lines: "G group version", "R resource ...", "S subresource ...".
func writeCatalogue(dump string, out *bufio.Writer) error {
	for _, name := range []string{"api.json", "apis.json"} {
		var list apidiscovery.APIGroupDiscoveryList
		if err := readJSON(filepath.Join(dump, name), &list); err != nil {
			return err
		}
		for _, group := range list.Items {
			for _, version := range group.Versions {
				if err := writeVersion(dump, group.Name, version, out); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func writeVersion(dump, group string, version apidiscovery.APIVersionDiscovery, out *bufio.Writer) error {
	var plain metav1.APIResourceList
	file := strings.TrimPrefix(group+"_"+version.Version, "_") + ".json"
	if err := readJSON(filepath.Join(dump, file), &plain); err != nil {
		return err
	}
	hashes := map[string]string{}
	for _, r := range plain.APIResources {
		hashes[r.Name] = r.StorageVersionHash
	}
	fmt.Fprintf(out, "G\t%s\t%s\n", group, version.Version)
	for _, r := range version.Resources {
		scope := map[apidiscovery.ResourceScope]string{apidiscovery.ScopeNamespace: "N", apidiscovery.ScopeCluster: "C"}[r.Scope]
		kind := kindColumns(r.ResponseKind, group, version.Version)
		fmt.Fprintln(out, strings.Join([]string{"R", r.Resource, r.SingularResource, kind, scope, strings.Join(r.Verbs, ","),
			strings.Join(r.ShortNames, ","), strings.Join(r.Categories, ","), hashes[r.Resource]}, "\t"))
		for _, s := range r.Subresources {
			fmt.Fprintln(out, strings.Join([]string{"S", s.Subresource, kindColumns(s.ResponseKind, group, version.Version), strings.Join(s.Verbs, ",")}, "\t"))
		}
	}
	return nil
}

// kindColumns is group, version and kind; an empty version stands for the one the resource is in.
func kindColumns(kind *metav1.GroupVersionKind, group, version string) string {
	if kind == nil {
		return "\t\t"
	}
	if kind.Version == "" {
		return group + "\t" + version + "\t" + kind.Kind
	}
	return kind.Group + "\t" + kind.Version + "\t" + kind.Kind
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
