// Package plan is what both Go drivers do with their client: the steps of a plan, in order, and one JSON report.
// Options, steps and report are those of ../../python/plan.py. It judges nothing.
package plan

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const limit = 30 * time.Second // for all of it

// Options are the driver's one argument.
type Options struct {
	Transport string            `json:"transport"` // streamable, sse or stdio
	Target    json.RawMessage   `json:"target"`    // the URL, or the command as a list
	Env       map[string]string `json:"env"`       // of a stdio server
	Era       string            `json:"era"`       // legacy or auto
	Plan      map[string]Step   `json:"plan"`
	Patience  float64           `json:"patience"` // seconds for the answer of a call whose stream was cut, and for the list after it
}

// URL is the target of an HTTP transport.
func (o Options) URL() string {
	var url string
	must(json.Unmarshal(o.Target, &url))
	return url
}

// Command is the target of stdio, with its environment.
func (o Options) Command() (command []string, env []string) {
	must(json.Unmarshal(o.Target, &command))
	env = os.Environ()
	for name, value := range o.Env {
		env = append(env, name+"="+value)
	}
	return command, env
}

// A Step is one call of a tool.
type Step struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
}

// A Tool as it was listed.
type Tool struct {
	Name   string `json:"name"`
	Input  any    `json:"input"`
	Output any    `json:"output"`
}

// An Answer is a tool's result.
type Answer struct {
	IsError bool
	Content any
	Text    string
}

// OnProgress is called for each progress notification, one at a time.
type OnProgress func(done, total float64, message string)

// A Client wraps one library. Call is also cancelled by its context.
type Client interface {
	Connect(ctx context.Context, options Options) (protocol, server string, err error)
	List(ctx context.Context) ([]Tool, error)
	Call(ctx context.Context, step Step, onProgress OnProgress) (Answer, error)
	Close() error
}

// Main does what the command line asks for, with this client.
func Main(client Client) {
	var options Options
	must(json.Unmarshal([]byte(os.Args[1]), &options))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	report, err := follow(ctx, client, options)
	if err != nil {
		say(map[string]any{"failed": err.Error()})
		os.Exit(1)
	}
	say(map[string]any{"at": "leaving"})
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	report["closing"] = nil
	if err := client.Close(); err != nil {
		report["closing"] = err.Error()
	}
	say(report)
}

func follow(ctx context.Context, client Client, options Options) (map[string]any, error) {
	protocol, server, err := client.Connect(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	report := map[string]any{"protocol": protocol, "server": server}
	if report["tools"], err = client.List(ctx); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if step, asked := options.Plan["cut"]; asked {
		report["cut"] = cut(ctx, client, step, time.Duration(options.Patience*float64(time.Second)))
		return report, nil
	}
	answer, err := client.Call(ctx, options.Plan["structured"], nil)
	if err != nil {
		return nil, fmt.Errorf("structured: %w", err)
	}
	report["structured"] = map[string]any{"isError": answer.IsError, "content": answer.Content, "text": answer.Text}
	var seen steps
	count := func(done, total float64, message string) { seen.add(done, total, message) }
	if answer, err = client.Call(ctx, options.Plan["progress"], count); err != nil {
		return nil, fmt.Errorf("progress: %w", err)
	}
	report["progress"] = map[string]any{"isError": answer.IsError, "seen": seen.soFar()}
	if answer, err = client.Call(ctx, options.Plan["error"], nil); err != nil {
		return nil, fmt.Errorf("error: %w", err)
	}
	report["error"] = map[string]any{"isError": answer.IsError, "text": answer.Text}
	if report["cancelled"], err = cancelled(ctx, client, options.Plan["cancel"]); err != nil {
		return nil, fmt.Errorf("cancel: %w", err)
	}
	if report["after"], err = client.List(ctx); err != nil {
		return nil, fmt.Errorf("list again: %w", err)
	}
	return report, nil
}

// cancelled cancels the call at its first progress: it runs for sure then. True when no answer came.
func cancelled(ctx context.Context, client Client, step Step) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := client.Call(ctx, step, func(float64, float64, string) { cancel() })
	if err != nil && !errors.Is(err, context.Canceled) {
		return false, err
	}
	return err != nil, nil
}

// cut calls, says so at the first progress, and sees what becomes of it; then it lists: is the client still good for anything?
func cut(ctx context.Context, client Client, step Step, patience time.Duration) map[string]any {
	report := map[string]any{"text": nil, "problem": nil}
	var seen steps
	inTime, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := client.Call(inTime, step, func(done, total float64, message string) {
		if seen.add(done, total, message) == 1 {
			say(map[string]any{"at": "cut"})
		}
	})
	if err != nil {
		report["problem"] = told(inTime, err)
	} else {
		report["text"] = answer.Text
	}
	inTime, cancel = context.WithTimeout(ctx, patience)
	defer cancel()
	if tools, err := client.List(inTime); err != nil {
		report["later"] = told(inTime, err)
	} else {
		report["later"] = len(tools)
	}
	report["seen"] = seen.soFar()
	return report
}

// steps are the progress notifications of a call: libraries may hand them over in goroutines of their own, after the answer even.
type steps struct {
	mu  sync.Mutex
	all [][3]any
}

func (s *steps) add(done, total float64, message string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, [3]any{done, total, message})
	return len(s.all)
}

func (s *steps) soFar() [][3]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// Text joins the text parts of a result's content, which every library can write as JSON.
func Text(content any) string {
	var parts []struct {
		Text string `json:"text"`
	}
	data, err := json.Marshal(content)
	must(err)
	must(json.Unmarshal(data, &parts))
	var text strings.Builder
	for _, part := range parts {
		text.WriteString(part.Text)
	}
	return text.String()
}

func told(ctx context.Context, err error) string {
	deadline, _ := ctx.Deadline()
	if time.Until(deadline) < 500*time.Millisecond { // the libraries word it in ways of their own, and one is early
		return "no answer"
	}
	return err.Error()
}

func say(what any) {
	data, err := json.Marshal(what)
	must(err)
	fmt.Println(string(data))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
