// The client of the official Go SDK, put through a plan.
package main

import (
	"context"
	"os"
	"os/exec"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"tailrace/e2e/plan"
)

func main() { plan.Main(&driver{}) }

type driver struct {
	*mcp.ClientSession
	mu         sync.Mutex // the library calls its handlers from several goroutines
	onProgress plan.OnProgress
}

func (d *driver) Connect(ctx context.Context, options plan.Options) (string, string, error) {
	client := mcp.NewClient(
		&mcp.Implementation{Name: "tailrace-e2e", Version: "0"},
		&mcp.ClientOptions{ProgressNotificationHandler: d.progressed},
	)
	version := ""
	if options.Era == "legacy" {
		version = "2025-11-25"
	}
	session, err := client.Connect(ctx, carrierOf(options), &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		return "", "", err
	}
	d.ClientSession = session
	result := session.InitializeResult()
	server := ""
	if result.ServerInfo != nil {
		server = result.ServerInfo.Name
	}
	return result.ProtocolVersion, server, nil
}

func carrierOf(options plan.Options) mcp.Transport {
	switch options.Transport {
	case "stdio":
		command, env := options.Command()
		process := exec.Command(command[0], command[1:]...)
		process.Env, process.Stderr = env, os.Stderr
		return &mcp.CommandTransport{Command: process}
	case "sse":
		return &mcp.SSEClientTransport{Endpoint: options.URL()}
	default:
		return &mcp.StreamableClientTransport{Endpoint: options.URL()}
	}
}

func (d *driver) progressed(_ context.Context, request *mcp.ProgressNotificationClientRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.onProgress != nil {
		d.onProgress(request.Params.Progress, request.Params.Total, request.Params.Message)
	}
}

func (d *driver) List(ctx context.Context) ([]plan.Tool, error) {
	var tools []plan.Tool
	for tool, err := range d.Tools(ctx, nil) {
		if err != nil {
			return nil, err
		}
		tools = append(tools, plan.Tool{Name: tool.Name, Input: tool.InputSchema, Output: tool.OutputSchema})
	}
	return tools, nil
}

func (d *driver) Call(ctx context.Context, step plan.Step, onProgress plan.OnProgress) (plan.Answer, error) {
	d.mu.Lock()
	d.onProgress = onProgress
	d.mu.Unlock()
	params := &mcp.CallToolParams{Name: step.Name, Arguments: step.Arguments}
	if onProgress != nil {
		params.Meta = mcp.Meta{}
		params.SetProgressToken("token of " + step.Name)
	}
	result, err := d.CallTool(ctx, params)
	if err != nil {
		return plan.Answer{}, err
	}
	return plan.Answer{IsError: result.IsError, Content: result.StructuredContent, Text: plan.Text(result.Content)}, nil
}
