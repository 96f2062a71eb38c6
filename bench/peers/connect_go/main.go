// Command connect_go is the benchmark's bench.v1.Bench through connect-go: `connect_go PORT`, over HTTP/1.1 and HTTP/2
// without TLS, for Connect, gRPC and gRPC-Web.
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type text = wrapperspb.StringValue

func main() {
	const base = "/bench.v1.Bench/"
	mux := http.NewServeMux()
	mux.Handle(base+"Echo", connect.NewUnaryHandler(base+"Echo",
		func(_ context.Context, request *connect.Request[text]) (*connect.Response[text], error) {
			return connect.NewResponse(wrapperspb.String(request.Msg.Value)), nil
		}))
	mux.Handle(base+"Many", connect.NewServerStreamHandler(base+"Many",
		func(_ context.Context, request *connect.Request[wrapperspb.Int64Value], stream *connect.ServerStream[text]) error {
			said := strings.Repeat("x", 32)
			for range request.Msg.Value {
				if err := stream.Send(wrapperspb.String(said)); err != nil {
					return err
				}
			}
			return nil
		}))
	mux.Handle(base+"Chat", connect.NewBidiStreamHandler(base+"Chat",
		func(_ context.Context, stream *connect.BidiStream[text, text]) error {
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
	server := &http.Server{Addr: "127.0.0.1:" + os.Args[1], Handler: mux, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	server.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 4096}
	log.Fatal(server.ListenAndServe())
}
