// From a write to everybody who watches.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// pace is how many events are written, and the pause between two: what a client can take in on a machine it shares with the server.
func pace(count int) (int, time.Duration) {
	if count > 100 {
		return 60, 50 * time.Millisecond
	}
	return 200, 5 * time.Millisecond
}

func watch() {
	path := stock("watch", 10, *size)
	for _, count := range numbers(*watchers) {
		fan(path, count, spread(count), "")
	}
	counts := numbers(*watchers)
	count := counts[len(counts)-1]
	var own []*http.Client
	for range count {
		own = append(own, client())
	}
	fan(path, count, own, ", a connection each")
}

// spread gives each hundred watchers a connection, but no fewer than usual.
func spread(count int) []*http.Client {
	many := append([]*http.Client{}, clients...)
	for len(many) < count/100 {
		many = append(many, client())
	}
	return many
}

// fan opens the watchers, patches one object again and again, and measures from before the write to each delivery.
func fan(path string, count int, on []*http.Client, how string) {
	since := current(path)
	events, pause := pace(count)
	sent := make([]atomic.Int64, events)
	seen := make([][]time.Duration, count)
	var ended sync.WaitGroup
	var failed atomic.Int64
	ready := make(chan bool, count)
	began := time.Now()
	for i := range count {
		ended.Add(1)
		go func() {
			defer ended.Done()
			resp, err := open(on[i%len(on)], "GET", path+"?watch=1&timeoutSeconds=60&resourceVersion="+since, inJSON, inJSON, nil)
			ready <- true
			if err != nil || resp.StatusCode != 200 {
				failed.Add(1)
				return
			}
			defer resp.Body.Close()
			lines := bufio.NewReaderSize(resp.Body, 4096)
			for len(seen[i]) < events {
				line, err := lines.ReadSlice('\n')
				if err != nil {
					return
				}
				now := time.Since(began)
				if at := bytes.Index(line, []byte(`"fan":"`)); at >= 0 {
					k, _ := strconv.Atoi(string(line[at+7 : at+10]))
					seen[i] = append(seen[i], now-time.Duration(sent[k].Load()))
				}
			}
		}()
	}
	for range count {
		<-ready
	}
	time.Sleep(300 * time.Millisecond)
	writer := client()
	for k := range events {
		sent[k].Store(int64(time.Since(began)))
		resp, err := open(writer, "PATCH", path+"/cm-000000", mergePatch, inJSON, []byte(fmt.Sprintf(`{"metadata":{"annotations":{"fan":"%03d"}}}`, k)))
		check(err)
		resp.Body.Close()
		time.Sleep(pause)
	}
	done := make(chan bool)
	go func() { ended.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		check(fmt.Errorf("some of %d watchers did not see all", count))
	}
	var all []time.Duration
	for _, one := range seen {
		all = append(all, one...)
	}
	p50, p99 := quantiles(all)
	report(Result{Row: fmt.Sprintf("write seen by %d watchers%s", count, how), P50: p50, P99: p99, Fails: int64(count*events - len(all))})
}
