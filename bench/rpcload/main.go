// Command rpcload puts one RPC server under one kind of work, over Connect (connect-go) or gRPC (grpc-go), checks every
// answer and prints what it saw as JSON (bench/marks).
//
// It knows nothing about who is measured: bench/rpc.py starts the servers, reads their CPU and memory at the marks,
// and compares. Every server has the service bench.v1.Bench: Echo, Many (a stream of as many texts as were asked for)
// and Chat (what is said comes back, one by one). Every trial is bounded in count and in time.
package main

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"tailrace/bench/marks"
)

type options struct {
	trial, protocol, address     string
	http, clients, conns, count  int
	seconds, warmup, hold, limit time.Duration
}

// service is the one that every server has. Each client of a trial has one; its calls come one after the other.
type service interface {
	echo(ctx context.Context, text string) (string, error)
	many(ctx context.Context, count int64, each func(string) error) error
	chat(ctx context.Context) (conversation, error)
}

// conversation is one bidirectional stream.
type conversation interface {
	say(text string) error
	hear() (string, error)
	// end says that nothing more is said, and waits for the stream's end.
	end() error
}

type result = marks.Result

var trials = map[string]func(options) (result, error){
	"unary":  runUnary,
	"stream": runStream,
	"bidi":   runBidi,
	"open":   runOpen,
}

func main() {
	var o options
	flag.StringVar(&o.trial, "trial", "unary", "unary, stream (messages from the server), bidi (round trips) or open (streams that wait)")
	flag.StringVar(&o.protocol, "protocol", "connect", "connect or grpc")
	flag.StringVar(&o.address, "address", "", "HOST:PORT, without TLS")
	flag.IntVar(&o.http, "http", 2, "1 or 2, for connect")
	flag.IntVar(&o.clients, "clients", 32, "calls, or streams, at a time")
	flag.IntVar(&o.conns, "conns", 4, "connections of HTTP/2 that they share")
	flag.IntVar(&o.count, "count", 2_000, "messages of one server stream")
	flag.DurationVar(&o.seconds, "seconds", 3*time.Second, "measured time")
	flag.DurationVar(&o.warmup, "warmup", time.Second, "time before it")
	flag.DurationVar(&o.hold, "hold", 3*time.Second, "how long open streams are held")
	flag.DurationVar(&o.limit, "limit", 30*time.Second, "for one call")
	wait := flag.Bool("paced", false, "wait for a line of input after each mark")
	flag.Parse()
	if *wait {
		marks.Pace()
	}
	run, known := trials[o.trial]
	if !known {
		marks.Fail(fmt.Errorf("unknown trial %q", o.trial))
	}
	got, err := run(o)
	if err != nil {
		marks.Fail(err)
	}
	marks.End(got)
}

// services makes one for each client, sharing connections where the protocol does.
func services(o options) ([]service, func(), error) {
	if o.protocol == "grpc" {
		return grpcServices(o)
	}
	return connectServices(o)
}

// --- trials ---------------------------------------------------------------------------------------

// work is what one client does again and again; it says how many messages, or calls, it was.
type work func(ctx context.Context, s service, number, n int) (int, error)

func runUnary(o options) (result, error) {
	return closedLoop(o, func(ctx context.Context, s service, number, n int) (int, error) {
		text := fmt.Sprintf("said by %d, no %d, to be echoed", number, n)
		answer, err := s.echo(ctx, text)
		if err == nil && answer != text {
			err = fmt.Errorf("not what was said: %q", answer)
		}
		return 1, err
	})
}

func runStream(o options) (result, error) {
	return closedLoop(o, func(ctx context.Context, s service, number, n int) (int, error) {
		got := 0
		err := s.many(ctx, int64(o.count), func(text string) error {
			got++
			if len(text) != 32 {
				return fmt.Errorf("not one of 32 characters: %q", text)
			}
			return nil
		})
		if err == nil && got != o.count {
			err = fmt.Errorf("%d messages of %d", got, o.count)
		}
		return got, err
	})
}

func runBidi(o options) (result, error) {
	const rounds = 200 // of one stream
	return closedLoop(o, func(ctx context.Context, s service, number, n int) (int, error) {
		talk, err := s.chat(ctx)
		if err != nil {
			return 0, err
		}
		for round := range rounds {
			text := fmt.Sprintf("said by %d, no %d, round %d here", number, n, round)
			if err := talk.say(text); err != nil {
				return round, err
			}
			answer, err := talk.hear()
			if err != nil {
				return round, err
			}
			if answer != text {
				return round, fmt.Errorf("not what was said: %q", answer)
			}
		}
		return rounds, talk.end()
	})
}

// runOpen opens so many streams, says something in each, and holds them: what do they cost?
func runOpen(o options) (result, error) {
	all, end, err := services(o)
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	open := func(s service) error {
		talk, err := s.chat(ctx)
		if err != nil {
			return err
		}
		if err := talk.say("are you there, on your stream?  "); err != nil {
			return err
		}
		_, err = talk.hear()
		return err
	}
	first := all[:min(o.conns, len(all))] // one for each connection: what that costs is not the streams'
	for _, s := range first {
		if err := open(s); err != nil {
			return nil, err
		}
	}
	marks.Mark("base", nil)
	for _, s := range all[len(first):] {
		if err := open(s); err != nil {
			return nil, err
		}
	}
	marks.Mark("open", nil)
	time.Sleep(o.hold)
	marks.Mark("end", nil)
	return result{"sessions": len(all) - len(first), "held_seconds": o.hold.Seconds()}, nil
}

func closedLoop(o options, do work) (result, error) {
	all, end, err := services(o)
	if err != nil {
		return nil, err
	}
	defer end()
	if warm := loop(o, all, do, o.warmup); warm.failed.Load() > 0 {
		return nil, fmt.Errorf("while warming up: %v", warm.first.Load())
	}
	marks.Mark("begin", nil)
	began := time.Now()
	got := loop(o, all, do, o.seconds)
	took := time.Since(began)
	marks.Mark("end", nil)
	return got.result(took), nil
}

// tally is what the clients of one trial add up.
type tally struct {
	mu        sync.Mutex
	latencies []time.Duration
	done      atomic.Int64
	failed    atomic.Int64
	first     atomic.Value // the first complaint, as a string
}

func loop(o options, all []service, do work, length time.Duration) *tally {
	t := &tally{}
	until := time.Now().Add(length)
	var group sync.WaitGroup
	for number, s := range all {
		group.Add(1)
		go func() {
			defer group.Done()
			spent := make([]time.Duration, 0, 1<<14)
			for n := 0; time.Now().Before(until) && t.failed.Load() < 10; n++ {
				ctx, cancel := context.WithTimeout(context.Background(), o.limit)
				began := time.Now()
				count, err := do(ctx, s, number, n)
				cancel()
				t.done.Add(int64(count))
				if err != nil {
					t.failed.Add(1)
					t.first.CompareAndSwap(nil, err.Error())
				} else {
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

func (t *tally) result(took time.Duration) result {
	return marks.Figures(int(t.done.Load()), t.latencies, took, t.failed.Load(), t.first.Load())
}
