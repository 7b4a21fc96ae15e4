// Writes the roles and bindings every cluster starts with, one JSON object a line, by asking upstream's policy as a library.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"

	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

var out = bufio.NewWriter(os.Stdout)

func put(kind string, objects any) {
	raw, err := json.Marshal(objects)
	if err != nil {
		panic(err)
	}
	var list []map[string]any
	if err := json.Unmarshal(raw, &list); err != nil {
		panic(err)
	}
	for _, object := range list {
		object["apiVersion"] = "rbac.authorization.k8s.io/v1"
		object["kind"] = kind
		line, err := json.Marshal(prune(object))
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(out, string(line))
	}
}

// Leaves nulls out.
func prune(value any) any {
	if object, ok := value.(map[string]any); ok {
		for key, member := range object {
			if member == nil {
				delete(object, key)
			} else {
				object[key] = prune(member)
			}
		}
	}
	return value
}

func sorted[T any](byNamespace map[string][]T) []T {
	var names []string
	for name := range byNamespace {
		names = append(names, name)
	}
	sort.Strings(names)
	var all []T
	for _, name := range names {
		all = append(all, byNamespace[name]...)
	}
	return all
}

func main() {
	defer out.Flush()
	put("ClusterRole", append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...))
	put("ClusterRoleBinding", append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...))
	put("Role", sorted(bootstrappolicy.NamespaceRoles()))
	put("RoleBinding", sorted(bootstrappolicy.NamespaceRoleBindings()))
}
