package main

import (
	"fmt"
	"sync"
	"time"

	"tailrace/bench/marks"
)

// sequence checks that what arrives is 1, 2, 3...; what was skipped is lost. What came again, or after the answer
// of the call it belongs to (told by its token: those of one client's calls grow), is misordered.
type sequence struct {
	last, arrived, lost, misordered, short int
	token, after                           float64
}

func (s *sequence) take(data []byte, size int) {
	got, ok := number(data, `"progress":`)
	token, _ := number(data, `"progressToken":`) // a broadcast's is no number
	s.token = max(s.token, token)
	n := int(got)
	switch {
	case token > 0 && token <= s.after:
		s.misordered++
	case !ok || len(data) < size:
		s.short++
	case n > s.last:
		s.lost += n - s.last - 1
		s.arrived++
		s.last = n
	default:
		s.misordered++
	}
}

// end tells how many were sent: those that never came are lost as well.
func (s *sequence) end(sent int) { s.lost += max(sent-s.last, 0) }

// runBurst calls the tool `burst` over and over: `count` progress notifications, as fast as the server can.
func runBurst(o options) (result, error) {
	all, end, about, err := openClients(o)
	if err != nil {
		return nil, err
	}
	defer end()
	answered := make([]float64, len(all))
	if _, _, err := bursts(o, all, answered, o.warmup); err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	marks.Mark("begin", about)
	began := time.Now()
	sum, calls, err := bursts(o, all, answered, o.seconds)
	took := time.Since(began)
	marks.Mark("end", about)
	got := result{
		"calls": calls, "seconds": took.Seconds(), "arrived": sum.arrived, "sent": calls * o.count,
		"per_second": float64(sum.arrived) / took.Seconds(), "lost": sum.lost, "misordered": sum.misordered,
		"wrong": sum.short,
	}
	if err != nil {
		got["complaint"] = err.Error()
	}
	return got, nil
}

// bursts remembers in answered, for each client, the token of its last call that has its answer.
func bursts(o options, all []client, answered []float64, length time.Duration) (sum sequence, calls int, first error) {
	arguments := []byte(fmt.Sprintf(`{"count":%d,"size":%d}`, o.count, o.size))
	until := time.Now().Add(length)
	var mu sync.Mutex
	var group sync.WaitGroup
	for at, c := range all {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				seen := sequence{after: answered[at]}
				_, err := c.call("burst", arguments, func(data []byte) { seen.take(data, o.size) })
				seen.end(o.count)
				answered[at] = max(answered[at], seen.token)
				mu.Lock()
				sum.arrived += seen.arrived
				sum.lost += seen.lost
				sum.misordered += seen.misordered
				sum.short += seen.short
				calls++
				if err != nil && first == nil {
					first = err
				}
				mu.Unlock()
				if err != nil || !time.Now().Before(until) {
					return
				}
			}
		}()
	}
	group.Wait()
	return sum, calls, first
}
