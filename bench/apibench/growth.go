// How cost grows: many objects, watchers, namespaces and kinds, and the same small probe next to them.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// probe works in a namespace of a hundred objects.
func probe() {
	path := stock("probe", 100, *size)
	run("probe: GET", 4, *n, func(w, i int) error {
		_, err := send(w, "GET", fmt.Sprintf("%s/cm-%06d", path, i%100), inJSON, inJSON, nil, 200)
		return err
	})
	run("probe: LIST of 100", 4, *n/4, func(w, i int) error {
		_, err := send(w, "GET", path, inJSON, inJSON, nil, 200)
		return err
	})
	run("probe: merge patch", 4, *n, func(w, i int) error {
		body := fmt.Sprintf(`{"metadata":{"annotations":{"n":"%d"}}}`, time.Now().UnixNano())
		_, err := send(w, "PATCH", fmt.Sprintf("%s/cm-%06d", path, i%100), mergePatch, inJSON, []byte(body), 200)
		return err
	})
	run("probe: create", 4, *n, func(w, i int) error {
		_, err := send(w, "POST", path, inJSON, inJSON, jsonMap(fmt.Sprintf("new-%06d", i), "probe", i, *size, "new"), 201)
		return err
	})
	run("probe: delete", 4, *n, func(w, i int) error {
		_, err := send(w, "DELETE", fmt.Sprintf("%s/new-%06d", path, i), inJSON, inJSON, nil, 200)
		return err
	})
}

// fill stores ConfigMaps of 1 kB, half of them in one namespace and half in another.
func fill() {
	for half, ns := range []string{"large", "other"} {
		path := namespace(ns)
		run(fmt.Sprintf("create of 1 kB, protobuf, 64 clients, to %d objects", *objects/2*(half+1)), 64, *objects/2, func(w, i int) error {
			_, err := send(w, "POST", path, inProtobuf, inProtobuf, protobufMap(fmt.Sprintf("cm-%06d", i), ns, i, 1000, "new"), 201, 409)
			return err
		})
	}
}

// large lists what fill stored.
func large() {
	for _, f := range formats {
		run(fmt.Sprintf("LIST of %d, %s", *objects/2, f.name), 1, 5, func(w, i int) error {
			_, err := send(w, "GET", "/api/v1/namespaces/large/configmaps", f.mediaType, f.mediaType, nil, 200)
			return err
		})
	}
	run(fmt.Sprintf("LIST by label, 1 of 7 of %d, JSON", *objects/2), 1, 5, func(w, i int) error {
		_, err := send(w, "GET", "/api/v1/namespaces/large/configmaps?labelSelector=shard%3D3", inJSON, inJSON, nil, 200)
		return err
	})
	run(fmt.Sprintf("first page of 500 of %d, JSON", *objects/2), 1, 40, func(w, i int) error {
		_, err := send(w, "GET", "/api/v1/namespaces/large/configmaps?limit=500", inJSON, inJSON, nil, 200)
		return err
	})
}

// hold keeps watchers of a namespace where nothing happens until it is told to go on.
func hold() {
	counts := numbers(*watchers)
	count := counts[len(counts)-1]
	path := namespace("elsewhere")
	many := spread(count)
	ready := make(chan error, count)
	for i := range count {
		go func() {
			resp, err := open(many[i%len(many)], "GET", path+"?watch=1&timeoutSeconds=600&resourceVersion="+current(path), inJSON, inJSON, nil)
			ready <- err
			if err == nil {
				bufio.NewReader(resp.Body).ReadString(0)
			}
		}()
	}
	for range count {
		check(<-ready)
	}
	fmt.Println(`{"holding":` + fmt.Sprint(count) + `}`)
	bufio.NewReader(os.Stdin).ReadString('\n')
}

// namespaces makes as many as there are watchers at most.
func namespaces() {
	counts := numbers(*watchers)
	for i := range counts[len(counts)-1] {
		namespace(fmt.Sprintf("many-%04d", i))
	}
}

const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// kinds is how many kinds crds defines.
func kinds() int { return *objects / 1000 }

// crds defines kinds with a schema of some size, and waits until all are served.
func crds() {
	var fields []string
	for i := range 30 {
		fields = append(fields, fmt.Sprintf(`"field%d":{"type":"object","properties":{"name":{"type":"string","maxLength":63},"count":{"type":"integer","minimum":0},"tags":{"type":"array","items":{"type":"string"}}}}`, i))
	}
	schema := `{"type":"object","properties":{"spec":{"type":"object","properties":{` + strings.Join(fields, ",") + `}},"status":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}`
	for i := range kinds() {
		ask("POST", definitions, fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"kind%ds.bench.example.com"},"spec":{"group":"bench.example.com","scope":"Namespaced","names":{"plural":"kind%ds","singular":"kind%d","kind":"Kind%d","listKind":"Kind%dList"},"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":%s}}]}}`, i, i, i, i, i, schema), 201, 409)
	}
	for i := range kinds() {
		for {
			if _, err := send(0, "GET", fmt.Sprintf("/apis/bench.example.com/v1/kind%ds", i), inJSON, inJSON, nil, 200); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// custom creates objects of one of the kinds that crds defined.
func custom() {
	namespace("custom")
	for _, c := range numbers(*conc) {
		run(by("create of a custom resource", c), c, *n/2, func(w, i int) error {
			body := fmt.Sprintf(`{"apiVersion":"bench.example.com/v1","kind":"Kind0","metadata":{"name":"c-%d-%d"},"spec":{"field0":{"name":"a","count":1,"tags":["x","y"]},"field1":{"name":"b","count":2}}}`, c, i)
			_, err := send(w, "POST", "/apis/bench.example.com/v1/namespaces/custom/kind0s", inJSON, inJSON, []byte(body), 201)
			return err
		})
	}
}

// current is the revision of a list.
func current(path string) string {
	var list struct {
		Metadata struct{ ResourceVersion string }
	}
	json.Unmarshal(ask("GET", path+"?limit=1", "", 200), &list)
	return list.Metadata.ResourceVersion
}
