// Package marks is what the load generators (bench/load, bench/rpcload) say to bench/measure.py: lines of JSON on
// standard output, each a phase that begins or the result, and the figures of a result that all of them have.
package marks

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Result is what a trial prints; keys are stable, bench/report.py and bench/rpc.py read them.
type Result map[string]any

var paced *bufio.Reader

// Pace lets each mark wait for a line of input.
func Pace() {
	paced = bufio.NewReader(os.Stdin)
}

// Mark tells bench/measure.py that a phase begins, so that it reads CPU and memory now; paced, it waits for a line
// that says it has done so: a server over stdio is gone soon after the last mark.
func Mark(name string, more Result) {
	line := map[string]any{"mark": name}
	for key, value := range more {
		line[key] = value
	}
	say(line)
	if paced != nil {
		paced.ReadString('\n')
	}
}

// End prints the result.
func End(got Result) {
	say(map[string]any{"result": got})
}

// Fail says why there is none, and ends the program.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, filepath.Base(os.Args[0])+":", err)
	os.Exit(1)
}

func say(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		Fail(err)
	}
	os.Stdout.Write(append(text, '\n'))
}

// Figures are those of so many calls, of whose times these are all or some; complaint is the first one, or nil.
func Figures(calls int, latencies []time.Duration, took time.Duration, failed int64, complaint any) Result {
	slices.Sort(latencies)
	got := Result{
		"calls": calls, "seconds": took.Seconds(), "rps": float64(calls) / took.Seconds(), "failed": failed,
		"p50_us": percentile(latencies, 50), "p90_us": percentile(latencies, 90), "p99_us": percentile(latencies, 99),
	}
	if text, ok := complaint.(string); ok {
		got["complaint"] = text
	}
	return got
}

// percentile of a sorted list, in microseconds: the smallest value that p percent do not exceed.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := (len(sorted)*p+99)/100 - 1
	return float64(sorted[max(at, 0)].Nanoseconds()) / 1000
}
