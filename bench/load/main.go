// Command load puts one MCP server under one kind of work, checks every answer and prints what it saw as JSON.
//
// It knows nothing about who is measured: bench/run.py starts the servers, reads their CPU and memory at the
// marks that are printed here, and compares. Raw connections and no JSON library on the hot path keep it from
// being the bottleneck. Every trial is bounded in count and in time.
package main

import (
	"flag"
	"fmt"
	"time"

	"tailrace/bench/marks"
)

type options struct {
	trial, era, url, tool    string
	clients, sessions        int
	count, size              int
	seconds, warmup, hold    time.Duration
	limit, quiet, resumeWait time.Duration
	join                     bool
	rate                     float64
	land                     string
	command                  []string
}

type result = marks.Result

var trials = map[string]func(options) (result, error){
	"calls":     runCalls,
	"burst":     runBurst,
	"idle":      runIdle,
	"broadcast": runBroadcast,
	"slow":      runSlowReader,
	"resume":    runResume,
}

func main() {
	var o options
	flag.StringVar(&o.trial, "trial", "calls", "calls, burst, idle, broadcast, slow or resume")
	flag.StringVar(&o.era, "era", "sessions", "sessions (Streamable 2025-11-25), streams (the same with an open GET each; idle only), modern (2026-07-28), sse, stdio")
	flag.StringVar(&o.url, "url", "", "http://127.0.0.1:PORT/mcp or /sse")
	flag.StringVar(&o.tool, "tool", "echo", "echo, publish (which is given and answers the same) or structured")
	flag.IntVar(&o.clients, "clients", 8, "calls in flight")
	flag.IntVar(&o.sessions, "sessions", 0, "sessions that the clients take turns on; 0: one each")
	flag.IntVar(&o.count, "count", 1000, "notifications a call, or a round")
	flag.IntVar(&o.size, "size", 64, "bytes of text in a notification")
	flag.DurationVar(&o.seconds, "seconds", 3*time.Second, "measured time")
	flag.DurationVar(&o.warmup, "warmup", time.Second, "time before it")
	flag.DurationVar(&o.hold, "hold", 5*time.Second, "how long idle sessions are held")
	flag.DurationVar(&o.limit, "limit", 30*time.Second, "for one call; over it, it counts as failed")
	flag.DurationVar(&o.quiet, "quiet", 2*time.Second, "no delivery for so long: the rest is lost")
	flag.DurationVar(&o.resumeWait, "resume-wait", 2*time.Second, "between cut and resume, so that the tool has ended")
	flag.Float64Var(&o.rate, "rate", 0, "calls a second of all clients together; 0: each calls again at once (trial calls)")
	flag.StringVar(&o.land, "land", "", "era sessions, several workers: own (calls go over the connection that made the session), other (over one to a worker that does not have it) or any (over several in turn, wherever they land)")
	flag.BoolVar(&o.join, "join", false, "each session calls the tool `join` before a broadcast")
	wait := flag.Bool("paced", false, "wait for a line of input after each mark")
	flag.Parse()
	if *wait {
		marks.Pace()
	}
	o.command = flag.Args()

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
