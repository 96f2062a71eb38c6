package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tailrace/bench/marks"
)

// work makes the arguments of the n-th call of a client, and says what its answer must contain.
type work func(number, n int, to []byte) (arguments []byte, want func([]byte) bool)

func workOf(tool string) (work, error) {
	switch tool {
	case "echo", "publish":
		return echoWork, nil
	case "structured":
		order, quantity := bigOrder()
		return func(_, _ int, _ []byte) ([]byte, func([]byte) bool) {
			return order, func(answer []byte) bool {
				got, ok := number(answer, `"quantity":`)
				return ok && got == float64(quantity)
			}
		}, nil
	}
	return nil, fmt.Errorf("no work for the tool %q", tool)
}

func echoWork(number, n int, to []byte) ([]byte, func([]byte) bool) {
	to = append(to, `{"text":"said by `...)
	to = strconv.AppendInt(to, int64(number), 10)
	to = append(to, ", "...)
	to = strconv.AppendInt(to, int64(n), 10)
	to = append(to, `"}`...)
	said := to[len(`{"text":`) : len(to)-1] // with its quotes, so that 1 is not found in 12
	return to, func(answer []byte) bool { return bytes.Contains(answer, said) }
}

// bigOrder is about 5 kB of nested, typed arguments.
func bigOrder() (arguments []byte, quantity int) {
	var lines []string
	for n := range 48 {
		quantity += n + 1
		lines = append(lines, fmt.Sprintf(
			`{"sku":"SKU-%05d","name":"tea of the sort number %d","qty":%d,"price":%d.25,"tags":["green","loose"]}`,
			n, n, n+1, n+3))
	}
	return []byte(`{"order":{"id":"order-1","customer":"a customer of ours","lines":[` + strings.Join(lines, ",") + `]}}`), quantity
}

// tally is what the clients of one trial add up.
type tally struct {
	mu        sync.Mutex
	latencies []time.Duration
	failed    atomic.Int64
	wrong     atomic.Int64
	first     atomic.Value // the first complaint, as a string
}

func (t *tally) complain(err error) {
	t.first.CompareAndSwap(nil, err.Error())
}

func (t *tally) result(took time.Duration) result {
	got := marks.Figures(len(t.latencies), t.latencies, took, t.failed.Load(), t.first.Load())
	got["wrong"] = t.wrong.Load()
	return got
}

// openClients opens the trial's clients, and returns what ends them.
func openClients(o options) ([]client, func(), result, error) {
	var all []client
	if o.era == "stdio" {
		p, err := startPipe(o)
		if err != nil {
			return nil, nil, nil, err
		}
		for number := range max(o.clients, 1) {
			all = append(all, &stdioClient{pipe: p, number: number})
		}
		return all, p.stop, result{"pid": p.process.Process.Pid}, nil
	}
	end := func() {
		for _, c := range all {
			c.close()
		}
	}
	for range max(o.clients, o.sessions) {
		c, err := newClient(o)
		if err != nil {
			end()
			return nil, nil, nil, err
		}
		all = append(all, c)
	}
	return all, end, nil, nil
}

// runCalls is a closed loop: each of the clients calls again as soon as it has its answer; or, with a rate, at fixed
// times: a call that begins late because the one before it took too long has waited since its time. With more
// sessions than clients, each client takes turns on its share of them.
func runCalls(o options) (result, error) {
	do, err := workOf(o.tool)
	if err != nil {
		return nil, err
	}
	all, end, about, err := openClients(o)
	if err != nil {
		return nil, err
	}
	defer end()

	if warm := loop(o, all, do, o.warmup); warm.failed.Load() > 0 || warm.wrong.Load() > 0 {
		return nil, fmt.Errorf("while warming up: %v", warm.first.Load())
	}
	marks.Mark("begin", about)
	began := time.Now()
	got := loop(o, all, do, o.seconds)
	took := time.Since(began)
	marks.Mark("end", about)
	report := got.result(took)
	report["reconnects"] = reconnects(all)
	if o.land != "" {
		report["away_percent"] = awayPercent(all)
	}
	return report, nil
}

func loop(o options, all []client, do work, length time.Duration) *tally {
	t := &tally{}
	start := time.Now()
	until := start.Add(length)
	var group sync.WaitGroup
	for number := range o.clients {
		group.Add(1)
		go func() {
			defer group.Done()
			mine := share(all, number, o.clients)
			spent := make([]time.Duration, 0, 1<<14)
			var arguments []byte
			for n := 0; time.Now().Before(until) && t.failed.Load() < 100; n++ {
				var want func([]byte) bool
				arguments, want = do(number, n, arguments[:0])
				began := time.Now()
				if o.rate > 0 {
					due := start.Add(time.Duration((float64(n) + float64(number)/float64(o.clients)) * float64(o.clients) / o.rate * float64(time.Second)))
					if due.After(began) {
						time.Sleep(due.Sub(began))
						due = time.Now()
					}
					began = due
				}
				answer, err := mine[n%len(mine)].call(o.tool, arguments, nil)
				switch {
				case err != nil:
					t.failed.Add(1)
					t.complain(err)
				case !want(answer):
					t.wrong.Add(1)
					t.complain(wrong("not what was asked for", answer))
				default:
					spent = append(spent, time.Since(began))
				}
			}
			t.mu.Lock()
			t.latencies = append(t.latencies, spent...)
			t.mu.Unlock()
		}()
	}
	group.Wait()
	return t
}

func share(all []client, number, of int) []client {
	var mine []client
	for at := number; at < len(all); at += of {
		mine = append(mine, all[at])
	}
	return mine
}

func reconnects(all []client) int {
	sum := 0
	for _, c := range all {
		switch c := c.(type) {
		case *streamable:
			sum += c.conn.reconnects
			for _, path := range c.paths {
				if path.conn != c.conn {
					sum += path.conn.reconnects
				}
			}
		case *sseClient:
			sum += c.posts.reconnects
		}
	}
	return sum
}
