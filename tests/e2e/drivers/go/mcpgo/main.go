// The client of mark3labs/mcp-go, put through a plan.
package main

import (
	"context"
	"sync"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"

	"tailrace/e2e/plan"
)

func main() { plan.Main(&driver{}) }

type driver struct {
	*client.Client
	mu         sync.Mutex // the library calls its handlers from several goroutines
	onProgress plan.OnProgress
}

func (d *driver) Connect(ctx context.Context, options plan.Options) (string, string, error) {
	carrier, err := carrierOf(options)
	if err != nil {
		return "", "", err
	}
	var more []client.ClientOption
	if options.Era == "legacy" {
		more = append(more, client.WithProtocolVersion(mcp.LATEST_LEGACY_PROTOCOL_VERSION))
	}
	d.Client = client.NewClient(carrier, more...)
	d.OnNotification(d.notified)
	if err := d.Start(context.Background()); err != nil {
		return "", "", err
	}
	hello := mcp.InitializeRequest{}
	hello.Params.ClientInfo = mcp.Implementation{Name: "tailrace-e2e", Version: "0"}
	result, err := d.Initialize(ctx, hello)
	if err != nil {
		return "", "", err
	}
	return d.ProtocolVersion(), result.ServerInfo.Name, nil
}

func carrierOf(options plan.Options) (transport.Interface, error) {
	switch options.Transport {
	case "stdio":
		command, env := options.Command()
		return transport.NewStdio(command[0], env, command[1:]...), nil
	case "sse":
		return transport.NewSSE(options.URL())
	default:
		return transport.NewStreamableHTTP(options.URL())
	}
}

func (d *driver) notified(n mcp.JSONRPCNotification) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n.Method != "notifications/progress" || d.onProgress == nil {
		return
	}
	fields := n.Params.AdditionalFields
	done, _ := fields["progress"].(float64)
	total, _ := fields["total"].(float64)
	message, _ := fields["message"].(string)
	d.onProgress(done, total, message)
}

func (d *driver) List(ctx context.Context) ([]plan.Tool, error) {
	page, err := d.ListTools(ctx, mcp.ListToolsRequest{}) // all pages
	if err != nil {
		return nil, err
	}
	var tools []plan.Tool
	for _, tool := range page.Tools {
		tools = append(tools, plan.Tool{Name: tool.Name, Input: tool.InputSchema, Output: tool.OutputSchema})
	}
	return tools, nil
}

func (d *driver) Call(ctx context.Context, step plan.Step, onProgress plan.OnProgress) (plan.Answer, error) {
	d.mu.Lock()
	d.onProgress = onProgress
	d.mu.Unlock()
	request := mcp.CallToolRequest{}
	request.Params.Name = step.Name
	request.Params.Arguments = step.Arguments
	if onProgress != nil {
		request.Params.Meta = &mcp.Meta{ProgressToken: "token of " + step.Name}
	}
	result, err := d.CallTool(ctx, request)
	if err != nil {
		return plan.Answer{}, err
	}
	return plan.Answer{IsError: result.IsError, Content: result.StructuredContent, Text: plan.Text(result.Content)}, nil
}
