// Command mcp_go is mcp-go's server in the benchmark; see ../tailrace_server.py for what its tools must do.
package main

import (
	"context"
	"log"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
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

func build() *server.MCPServer {
	s := server.NewMCPServer("bench", "1.0.0", server.WithToolCapabilities(false))

	s.AddTool(mcp.NewTool("echo", mcp.WithInputSchema[echoArgs]()), mcp.NewTypedToolHandler(
		func(_ context.Context, _ mcp.CallToolRequest, in echoArgs) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText(in.Text), nil
		}))

	s.AddTool(mcp.NewTool("structured", mcp.WithInputSchema[structuredArgs]()), mcp.NewStructuredToolHandler(
		func(_ context.Context, _ mcp.CallToolRequest, in structuredArgs) (receipt, error) {
			out := receipt{Lines: len(in.Order.Lines)}
			for _, l := range in.Order.Lines {
				out.Quantity += l.Qty
			}
			return out, nil
		}))

	s.AddTool(mcp.NewTool("burst", mcp.WithInputSchema[burstArgs]()), mcp.NewTypedToolHandler(
		func(ctx context.Context, request mcp.CallToolRequest, in burstArgs) (*mcp.CallToolResult, error) {
			said := map[string]any{"progressToken": request.Params.Meta.ProgressToken}
			if in.Size > 0 {
				said["message"] = strings.Repeat("x", in.Size)
			}
			for n := 1; n <= in.Count; n++ {
				said = maps.Clone(said) // each is encoded later, by another goroutine
				said["progress"] = n
				// Its error says that the session's queue of 100 was full and this one is lost: that is what users get.
				_ = s.SendNotificationToClient(ctx, "notifications/progress", said)
				if in.Pause > 0 {
					time.Sleep(time.Duration(in.Pause * float64(time.Second)))
				}
			}
			return mcp.NewToolResultText("sent"), nil
		}))

	s.AddTool(mcp.NewTool("slow", mcp.WithInputSchema[slowArgs]()), mcp.NewTypedToolHandler(
		func(_ context.Context, _ mcp.CallToolRequest, in slowArgs) (*mcp.CallToolResult, error) {
			time.Sleep(time.Duration(in.Seconds * float64(time.Second)))
			return mcp.NewToolResultText("done"), nil
		}))

	s.AddTool(mcp.NewTool("effect", mcp.WithInputSchema[effectArgs]()), mcp.NewTypedToolHandler(
		func(ctx context.Context, _ mcp.CallToolRequest, in effectArgs) (*mcp.CallToolResult, error) {
			if err := effect(ctx, in); err != nil {
				return nil, err
			}
			return mcp.NewToolResultText(in.Key), nil
		}))

	s.AddTool(mcp.NewTool("broadcast", mcp.WithInputSchema[broadcastArgs]()), mcp.NewTypedToolHandler(
		func(_ context.Context, _ mcp.CallToolRequest, in broadcastArgs) (*mcp.CallToolResult, error) {
			for n := in.First; n < in.First+in.Count; n++ {
				s.SendNotificationToAllClients("notifications/progress",
					map[string]any{"progressToken": "broadcast", "progress": n})
			}
			return mcp.NewToolResultText("sent"), nil
		}))
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
	switch transport {
	case "stdio":
		if err := server.ServeStdio(s); err != nil {
			log.Print(err) // at SIGTERM it says that its context was cancelled: no failure
		}
	case "sse":
		sse := server.NewSSEServer(s, server.WithMessageEndpoint("/messages/"))
		serve(func() error { return sse.Start(address) }, sse.Shutdown)
	default:
		options := []server.StreamableHTTPOption{server.WithStateful(true)}
		if len(os.Args) > 3 && os.Args[3] == "stateless" {
			options = []server.StreamableHTTPOption{server.WithStateLess(true)}
		}
		if len(os.Args) > 3 && os.Args[3] == "resumable" {
			options = append(options, server.WithEventStore(server.NewInMemoryEventStore()))
		}
		streamable := server.NewStreamableHTTPServer(s, options...)
		serve(func() error { return streamable.Start(address) }, streamable.Shutdown)
	}
}
