package main

import (
	"bufio"
	"fmt"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
)

// writeColumns writes the columns that upstream prints of each internal kind: "group kind name|type|format|priority ...".
func writeColumns(out *bufio.Writer) error {
	lines := []string{}
	for gvk := range legacyscheme.Scheme.AllKnownTypes() {
		if gvk.Version != runtime.APIVersionInternal || strings.HasSuffix(gvk.Kind, "List") || !isServedGroup(gvk.Group) {
			continue
		}
		object, err := legacyscheme.Scheme.New(gvk)
		if err != nil {
			return err
		}
		table, err := tables.GenerateTable(object, printers.GenerateOptions{Wide: true})
		if err != nil {
			continue // A kind without printers.
		}
		line := gvk.Group + "\t" + gvk.Kind
		for _, c := range table.ColumnDefinitions {
			line += fmt.Sprintf("\t%s|%s|%s|%d", c.Name, c.Type, c.Format, c.Priority)
		}
		lines = append(lines, line)
	}
	sort.Strings(lines)
	_, err := out.WriteString(strings.Join(lines, "\n") + "\n")
	return err
}

func isServedGroup(group string) bool {
	for gv := range servedVersions {
		if gv.Group == group {
			return true
		}
	}
	return false
}
