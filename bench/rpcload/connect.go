package main

import (
	"context"
	"errors"
	"io"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type text = wrapperspb.StringValue

// connectService is bench.v1.Bench through connect-go.
type connectService struct {
	unary  *connect.Client[text, text]
	server *connect.Client[wrapperspb.Int64Value, text]
	bidi   *connect.Client[text, text]
}

func connectServices(o options) ([]service, func(), error) {
	conns := o.conns
	if o.http == 1 {
		conns = 1 // its pool has as many as there are calls
	}
	var transports []*http.Transport
	for range min(conns, o.clients) {
		transport := &http.Transport{MaxIdleConnsPerHost: o.clients, Protocols: &http.Protocols{}, DisableCompression: true}
		if o.http == 1 {
			transport.Protocols.SetHTTP1(true)
		} else {
			transport.Protocols.SetUnencryptedHTTP2(true)
		}
		transports = append(transports, transport)
	}
	var all []service
	for number := range o.clients {
		client, base := &http.Client{Transport: transports[number%len(transports)]}, "http://"+o.address+"/bench.v1.Bench/"
		all = append(all, &connectService{
			connect.NewClient[text, text](client, base+"Echo"),
			connect.NewClient[wrapperspb.Int64Value, text](client, base+"Many"),
			connect.NewClient[text, text](client, base+"Chat"),
		})
	}
	return all, func() {
		for _, transport := range transports {
			transport.CloseIdleConnections()
		}
	}, nil
}

func (s *connectService) echo(ctx context.Context, said string) (string, error) {
	answer, err := s.unary.CallUnary(ctx, connect.NewRequest(wrapperspb.String(said)))
	if err != nil {
		return "", err
	}
	return answer.Msg.Value, nil
}

func (s *connectService) many(ctx context.Context, count int64, each func(string) error) error {
	stream, err := s.server.CallServerStream(ctx, connect.NewRequest(wrapperspb.Int64(count)))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if err := each(stream.Msg().Value); err != nil {
			return err
		}
	}
	return stream.Err()
}

func (s *connectService) chat(ctx context.Context) (conversation, error) {
	return &connectTalk{s.bidi.CallBidiStream(ctx)}, nil
}

type connectTalk struct {
	stream *connect.BidiStreamForClient[text, text]
}

func (t *connectTalk) say(said string) error { return t.stream.Send(wrapperspb.String(said)) }

func (t *connectTalk) hear() (string, error) {
	answer, err := t.stream.Receive()
	if err != nil {
		return "", err
	}
	return answer.Value, nil
}

func (t *connectTalk) end() error {
	if err := t.stream.CloseRequest(); err != nil {
		return err
	}
	if _, err := t.stream.Receive(); !errors.Is(err, io.EOF) {
		return err
	}
	return t.stream.CloseResponse()
}
