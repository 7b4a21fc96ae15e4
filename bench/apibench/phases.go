// What is measured of requests: the verbs in both formats, lists, apply, admission, and how cost grows.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// verbs creates, reads, replaces and patches, for each number of clients.
func verbs() {
	levels := numbers(*conc)
	for _, f := range formats {
		ns := map[string]string{"JSON": "verbs-json", "protobuf": "verbs-protobuf"}[f.name]
		path := namespace(ns)
		name := func(i int) string { return fmt.Sprintf("cm-%06d", i) }
		created := 0
		for _, c := range levels {
			base, total := created, *n
			if c == 1 {
				total = *n / 3
			}
			run(by("create, "+f.name, c), c, total, func(w, i int) error {
				_, err := send(w, "POST", path, f.mediaType, f.mediaType, f.configMap(name(base+i), ns, base+i, *size, "new"), 201)
				return err
			})
			created += total
		}
		for _, c := range levels {
			run(by("GET, "+f.name, c), c, *n, func(w, i int) error {
				_, err := send(w, "GET", path+"/"+name(i%created), f.mediaType, f.mediaType, nil, 200)
				return err
			})
			run(by("update, "+f.name, c), c, *n/2, func(w, i int) error {
				_, err := send(w, "PUT", path+"/"+name(i%created), f.mediaType, f.mediaType, f.configMap(name(i%created), ns, i, *size, fmt.Sprint(c, i)), 200)
				return err
			})
			run(by("merge patch, "+f.name, c), c, *n/2, func(w, i int) error {
				body := fmt.Sprintf(`{"metadata":{"annotations":{"n":"%d-%d"}}}`, c, i)
				_, err := send(w, "PATCH", path+"/"+name(i%created), mergePatch, f.mediaType, []byte(body), 200)
				return err
			})
		}
		c := levels[len(levels)-1]
		run(by("delete, "+f.name, c), c, created/2, func(w, i int) error {
			_, err := send(w, "DELETE", path+"/"+name(i), inJSON, f.mediaType, nil, 200)
			return err
		})
	}
}

// stock creates objects without measuring.
func stock(ns string, count, size int) string {
	path := namespace(ns)
	failed := make(chan error, 64)
	var next int64
	for w := range 64 {
		go func() {
			for {
				i := int(atomic.AddInt64(&next, 1)) - 1
				if i >= count {
					failed <- nil
					return
				}
				if _, err := send(w, "POST", path, inProtobuf, inProtobuf, protobufMap(fmt.Sprintf("cm-%06d", i), ns, i, size, "new"), 201, 409); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	for range 64 {
		check(<-failed)
	}
	return path
}

func lists() {
	path := stock("lists", *listed, *size)
	for _, f := range formats {
		get := func(query string) func(int, int) error {
			return func(w, _ int) error {
				_, err := send(w, "GET", path+query, f.mediaType, f.mediaType, nil, 200)
				return err
			}
		}
		run(fmt.Sprintf("LIST of %d from the cache, %s", *listed, f.name), 1, *rounds, get("?resourceVersion=0"))
		run(fmt.Sprintf("LIST of %d, %s", *listed, f.name), 1, *rounds, get(""))
		run(fmt.Sprintf("LIST by label, 1 of 7 of %d, %s", *listed, f.name), 1, 2**rounds, get("?labelSelector=shard%3D3"))
		run(fmt.Sprintf("LIST by label, none of %d, %s", *listed, f.name), 1, 2**rounds, get("?labelSelector=shard%3D9"))
	}
}

// apply: paused Deployments of no replicas, which controllers leave alone.
func apply() {
	namespace("apply")
	for _, c := range numbers(*conc) {
		run(by("server-side apply of a Deployment", c), c, *n/2, func(w, i int) error {
			name := fmt.Sprintf("d-%04d", i%200)
			body := fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":%q,"labels":{"app":"bench"}},"spec":{"replicas":0,"paused":true,"selector":{"matchLabels":{"app":"bench"}},"template":{"metadata":{"labels":{"app":"bench"}},"spec":{"containers":[{"name":"c","image":"nginx:%d","ports":[{"containerPort":80}],"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],"resources":{"limits":{"cpu":"500m","memory":"64Mi"}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}],"volumes":[{"name":"v","emptyDir":{}}]}}}}`, name, i)
			_, err := send(w, "PATCH", "/apis/apps/v1/namespaces/apply/deployments/"+name+"?fieldManager=bench", applyPatch, inJSON, []byte(body), 200, 201)
			return err
		})
	}
}

const admission = "/apis/admissionregistration.k8s.io/v1"

// admitted measures creates in a namespace whose admission is set up, once an object that must be refused is.
func admitted(what, ns string) {
	path := namespace(ns)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := send(0, "POST", path, inJSON, inJSON, jsonMap("refused", ns, 0, 10, "refused"), 201); err != nil {
			break
		}
		ask("DELETE", path+"/refused", "", 200)
		if time.Now().After(end) {
			check(fmt.Errorf("%s: never in force", what))
		}
	}
	for _, c := range numbers(*conc) {
		run(by("create passing one "+what, c), c, *n/2, func(w, i int) error {
			_, err := send(w, "POST", path, inJSON, inJSON, jsonMap(fmt.Sprintf("cm-%d-%06d", c, i), ns, i, *size, "new"), 201)
			return err
		})
	}
}

func policy() {
	ask("POST", admission+"/validatingadmissionpolicies", `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":"bench"},"spec":{"failurePolicy":"Fail","matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE","UPDATE"],"resources":["configmaps"]}]},"validations":[{"expression":"!has(object.metadata.annotations) || !('note' in object.metadata.annotations) || object.metadata.annotations['note'] != 'refused'","message":"refused"},{"expression":"object.data.all(k, size(k) < 100)"}]}}`, 201, 409)
	ask("POST", admission+"/validatingadmissionpolicybindings", `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicyBinding","metadata":{"name":"bench"},"spec":{"policyName":"bench","validationActions":["Deny"],"matchResources":{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"policy"}}}}}`, 201, 409)
	admitted("validating policy", "policy")
	ask("DELETE", admission+"/validatingadmissionpolicybindings/bench", "", 200)
	ask("DELETE", admission+"/validatingadmissionpolicies/bench", "", 200)
}

// webhook serves one that allows, but for the object that tells it is in force.
func webhook() {
	listener, authority := hookListener()
	hook := func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Request struct {
				UID  string
				Name string
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", inJSON)
		fmt.Fprintf(w, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":%q,"allowed":%t}}`, review.Request.UID, review.Request.Name != "refused")
	}
	go http.Serve(listener, http.HandlerFunc(hook))
	ask("POST", admission+"/validatingwebhookconfigurations", fmt.Sprintf(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingWebhookConfiguration","metadata":{"name":"bench"},"webhooks":[{"name":"bench.example.com","clientConfig":{"url":"https://%s/","caBundle":%q},"rules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE"],"resources":["configmaps"]}],"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"webhook"}},"sideEffects":"None","admissionReviewVersions":["v1"],"timeoutSeconds":10}]}`,
		listener.Addr(), base64.StdEncoding.EncodeToString(authority)), 201)
	admitted("webhook", "webhook")
	ask("DELETE", admission+"/validatingwebhookconfigurations/bench", "", 200)
	listener.Close()
}

func hookListener() (net.Listener, []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	check(err)
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}, NextProtos: []string{"http/1.1"}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	check(err)
	return listener, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
