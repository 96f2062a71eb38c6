// Command connectgo serves test.v1.Test (see tests/e2e/rpc_servers.py) through connect-go, over HTTP/1.1 and HTTP/2
// without TLS, for Connect, gRPC and gRPC-Web: `connectgo`. It prints its port, and ends when its stdin does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type text = wrapperspb.StringValue

var running, told atomic.Int64

// count notes a stream's handler, and whether it was told that its client left.
func count(ctx context.Context) func() {
	running.Add(1)
	return func() {
		if ctx.Err() != nil {
			told.Add(1)
		}
		running.Add(-1)
	}
}

func endless(said string, pause time.Duration) func(context.Context, *connect.Request[text], *connect.ServerStream[text]) error {
	return func(ctx context.Context, _ *connect.Request[text], stream *connect.ServerStream[text]) error {
		defer count(ctx)()
		for {
			if err := stream.Send(wrapperspb.String(said)); err != nil {
				<-ctx.Done()
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
			}
		}
	}
}

func main() {
	const base = "/test.v1.Test/"
	mux := http.NewServeMux()
	mux.Handle(base+"Echo", connect.NewUnaryHandler(base+"Echo",
		func(_ context.Context, request *connect.Request[text]) (*connect.Response[text], error) {
			if request.Msg.Value == "fail" {
				return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("as asked"))
			}
			return connect.NewResponse(wrapperspb.String(request.Msg.Value)), nil
		}))
	mux.Handle(base+"State", connect.NewUnaryHandler(base+"State",
		func(context.Context, *connect.Request[text]) (*connect.Response[text], error) {
			return connect.NewResponse(wrapperspb.String(fmt.Sprintf("%d %d", running.Load(), told.Load()))), nil
		}))
	mux.Handle(base+"Never", connect.NewUnaryHandler(base+"Never",
		func(ctx context.Context, _ *connect.Request[text]) (*connect.Response[text], error) {
			defer count(ctx)()
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	mux.Handle(base+"Three", connect.NewServerStreamHandler(base+"Three",
		func(_ context.Context, request *connect.Request[text], stream *connect.ServerStream[text]) error {
			for number := range 3 {
				if err := stream.Send(wrapperspb.String(fmt.Sprintf("%s %d", request.Msg.Value, number))); err != nil {
					return err
				}
			}
			return nil
		}))
	mux.Handle(base+"Silent", connect.NewServerStreamHandler(base+"Silent",
		func(ctx context.Context, _ *connect.Request[text], _ *connect.ServerStream[text]) error {
			defer count(ctx)()
			<-ctx.Done()
			return ctx.Err()
		}))
	mux.Handle(base+"Ticks", connect.NewServerStreamHandler(base+"Ticks", endless("tick", 10*time.Millisecond)))
	mux.Handle(base+"Huge", connect.NewServerStreamHandler(base+"Huge", endless(strings.Repeat("x", 60_000), 0)))
	mux.Handle(base+"Join", connect.NewClientStreamHandler(base+"Join",
		func(_ context.Context, stream *connect.ClientStream[text]) (*connect.Response[text], error) {
			var parts []string
			for stream.Receive() {
				parts = append(parts, stream.Msg().Value)
			}
			return connect.NewResponse(wrapperspb.String(strings.Join(parts, " "))), stream.Err()
		}))
	mux.Handle(base+"Talk", connect.NewBidiStreamHandler(base+"Talk",
		func(ctx context.Context, stream *connect.BidiStream[text, text]) error {
			defer count(ctx)()
			for {
				request, err := stream.Receive()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if err := stream.Send(wrapperspb.String(request.Value)); err != nil {
					return err
				}
			}
		}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: mux, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { log.Fatal(server.Serve(listener)) }()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
