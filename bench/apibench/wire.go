// The ConfigMaps sent, in both formats. Protobuf is written by hand: three messages need no library.
package main

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// format is one way of writing a ConfigMap.
type format struct {
	name, mediaType string
	configMap       func(name, namespace string, i, size int, note string) []byte
}

var formats = []format{{"JSON", inJSON, jsonMap}, {"protobuf", inProtobuf, protobufMap}}

func jsonMap(name, namespace string, i, size int, note string) []byte {
	return []byte(fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":%q,"labels":{"app":"bench","shard":"%d"},"annotations":{"note":%q}},"data":{"k":%q}}`,
		name, namespace, i%7, note, strings.Repeat("x", size)))
}

// field appends a length-delimited field.
func field(out []byte, number int, value []byte) []byte {
	out = binary.AppendUvarint(out, uint64(number<<3|2))
	out = binary.AppendUvarint(out, uint64(len(value)))
	return append(out, value...)
}

func entry(key, value string) []byte { return field(field(nil, 1, []byte(key)), 2, []byte(value)) }

func protobufMap(name, namespace string, i, size int, note string) []byte {
	meta := field(nil, 1, []byte(name))
	meta = field(meta, 3, []byte(namespace))
	meta = field(meta, 11, entry("app", "bench"))
	meta = field(meta, 11, entry("shard", fmt.Sprint(i%7)))
	meta = field(meta, 12, entry("note", note))
	raw := field(field(nil, 1, meta), 2, entry("k", strings.Repeat("x", size)))
	unknown := field(nil, 1, entry("v1", "ConfigMap"))
	unknown = field(unknown, 2, raw)
	return append([]byte("k8s\x00"), unknown...)
}
