// Command go_sdk is the official Go SDK's server in the benchmark; see ../tailrace_server.py for what its tools must do.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type echoArgs struct {
	Text string `json:"text"`
}

type line struct {
	SKU   string   `json:"sku"`
	Name  string   `json:"name"`
	Qty   int      `json:"qty"`
	Price float64  `json:"price"`
	Tags  []string `json:"tags"`
}

type structuredArgs struct {
	Order struct {
		ID       string `json:"id"`
		Customer string `json:"customer"`
		Lines    []line `json:"lines"`
	} `json:"order"`
}

type receipt struct {
	Lines    int `json:"lines"`
	Quantity int `json:"quantity"`
}

type burstArgs struct {
	Count int     `json:"count"`
	Size  int     `json:"size"`
	Pause float64 `json:"pause,omitempty"`
}

type effectArgs struct {
	Key     string  `json:"key"`
	Seconds float64 `json:"seconds"`
}

type slowArgs struct {
	Seconds float64 `json:"seconds"`
}

type broadcastArgs struct {
	First int `json:"first"`
	Count int `json:"count"`
}

func text(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
}

// note leaves a trace in the witness file of `tailrace check`.
func note(line string) {
	if path := os.Getenv("TAILRACE_WITNESS"); path != "" {
		if file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			defer file.Close()
			_, _ = file.WriteString(line + "\n")
		}
	}
}

// effect leaves a trace of its start, and of its end unless its context was cancelled before.
func effect(ctx context.Context, in effectArgs) error {
	note("start " + in.Key)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(in.Seconds * float64(time.Second))):
		note("end " + in.Key)
		return nil
	}
}

func build() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "bench", Version: "1.0.0"}, nil)

	mcp.AddTool(s, &mcp.Tool{Name: "echo"},
		func(_ context.Context, _ *mcp.CallToolRequest, in echoArgs) (*mcp.CallToolResult, any, error) {
			return text(in.Text), nil, nil
		})

	mcp.AddTool(s, &mcp.Tool{Name: "structured"},
		func(_ context.Context, _ *mcp.CallToolRequest, in structuredArgs) (*mcp.CallToolResult, receipt, error) {
			out := receipt{Lines: len(in.Order.Lines)}
			for _, l := range in.Order.Lines {
				out.Quantity += l.Qty
			}
			return nil, out, nil
		})

	mcp.AddTool(s, &mcp.Tool{Name: "burst"},
		func(ctx context.Context, request *mcp.CallToolRequest, in burstArgs) (*mcp.CallToolResult, any, error) {
			padding := strings.Repeat("x", in.Size)
			for n := 1; n <= in.Count; n++ {
				if err := request.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
					ProgressToken: request.Params.GetProgressToken(), Progress: float64(n), Message: padding,
				}); err != nil {
					return nil, nil, err
				}
				if in.Pause > 0 {
					time.Sleep(time.Duration(in.Pause * float64(time.Second)))
				}
			}
			return text("sent"), nil, nil
		})

	mcp.AddTool(s, &mcp.Tool{Name: "slow"},
		func(_ context.Context, _ *mcp.CallToolRequest, in slowArgs) (*mcp.CallToolResult, any, error) {
			time.Sleep(time.Duration(in.Seconds * float64(time.Second)))
			return text("done"), nil, nil
		})

	mcp.AddTool(s, &mcp.Tool{Name: "effect"},
		func(ctx context.Context, _ *mcp.CallToolRequest, in effectArgs) (*mcp.CallToolResult, any, error) {
			if err := effect(ctx, in); err != nil {
				return nil, nil, err
			}
			return text(in.Key), nil, nil
		})

	mcp.AddTool(s, &mcp.Tool{Name: "broadcast"},
		func(_ context.Context, request *mcp.CallToolRequest, in broadcastArgs) (*mcp.CallToolResult, any, error) {
			for n := in.First; n < in.First+in.Count; n++ {
				for session := range s.Sessions() {
					if session == request.Session {
						continue // it has no stream open, and nobody to hear it
					}
					_ = session.NotifyProgress(context.Background(), &mcp.ProgressNotificationParams{
						ProgressToken: "broadcast", Progress: float64(n),
					})
				}
			}
			return text("sent"), nil, nil
		})
	return s
}

// serve answers until SIGTERM, then waits for what is in flight, at most ten seconds.
func serve(listen func() error, shutdown func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- listen() }()
	select {
	case err := <-failed:
		log.Fatal(err)
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := shutdown(limited); err != nil {
		log.Print(err)
	}
}

func main() {
	transport, address := os.Args[1], "127.0.0.1:"+os.Args[2]
	s := build()
	one := func(*http.Request) *mcp.Server { return s }
	switch transport {
	case "stdio":
		log.Fatal(s.Run(context.Background(), &mcp.StdioTransport{}))
	case "sse":
		http.Handle("/sse", mcp.NewSSEHandler(one, nil))
	default:
		// The version of 2026-07-28 is served by its stateless handlers only.
		options := &mcp.StreamableHTTPOptions{Stateless: transport == "modern"}
		if len(os.Args) > 3 && os.Args[3] == "resumable" {
			options.EventStore = mcp.NewMemoryEventStore(nil)
		}
		http.Handle("/mcp", mcp.NewStreamableHTTPHandler(one, options))
	}
	listening := &http.Server{Addr: address}
	serve(listening.ListenAndServe, listening.Shutdown)
}
