// Command go_sdk is the official Go SDK's server in the benchmark; see ../tailrace_server.py for what its tools must do.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"strings"
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
	Count int `json:"count"`
	Size  int `json:"size"`
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
			}
			return text("sent"), nil, nil
		})

	mcp.AddTool(s, &mcp.Tool{Name: "slow"},
		func(_ context.Context, _ *mcp.CallToolRequest, in slowArgs) (*mcp.CallToolResult, any, error) {
			time.Sleep(time.Duration(in.Seconds * float64(time.Second)))
			return text("done"), nil, nil
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
	log.Fatal(http.ListenAndServe(address, nil))
}
