package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	echoMethod = "/bench.v1.Bench/Echo"
	manyMethod = "/bench.v1.Bench/Many"
	chatMethod = "/bench.v1.Bench/Chat"
)

var (
	manyStream = &grpc.StreamDesc{StreamName: "Many", ServerStreams: true}
	chatStream = &grpc.StreamDesc{StreamName: "Chat", ServerStreams: true, ClientStreams: true}
)

// grpcService is bench.v1.Bench through grpc-go.
type grpcService struct{ conn *grpc.ClientConn }

func grpcServices(o options) ([]service, func(), error) {
	var conns []*grpc.ClientConn
	end := func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	for range min(o.conns, o.clients) {
		conn, err := grpc.NewClient("passthrough:///"+o.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			end()
			return nil, nil, err
		}
		conns = append(conns, conn)
	}
	var all []service
	for number := range o.clients {
		all = append(all, &grpcService{conns[number%len(conns)]})
	}
	return all, end, nil
}

func (s *grpcService) echo(ctx context.Context, said string) (string, error) {
	var answer text
	err := s.conn.Invoke(ctx, echoMethod, wrapperspb.String(said), &answer)
	return answer.Value, err
}

func (s *grpcService) many(ctx context.Context, count int64, each func(string) error) error {
	stream, err := s.conn.NewStream(ctx, manyStream, manyMethod)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(wrapperspb.Int64(count)); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var answer text
		if err := stream.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := each(answer.Value); err != nil {
			return err
		}
	}
}

func (s *grpcService) chat(ctx context.Context) (conversation, error) {
	stream, err := s.conn.NewStream(ctx, chatStream, chatMethod)
	return &grpcTalk{stream}, err
}

type grpcTalk struct{ stream grpc.ClientStream }

func (t *grpcTalk) say(said string) error { return t.stream.SendMsg(wrapperspb.String(said)) }

func (t *grpcTalk) hear() (string, error) {
	var answer text
	err := t.stream.RecvMsg(&answer)
	return answer.Value, err
}

func (t *grpcTalk) end() error {
	if err := t.stream.CloseSend(); err != nil {
		return err
	}
	var more text
	if err := t.stream.RecvMsg(&more); !errors.Is(err, io.EOF) {
		return fmt.Errorf("not the end: %v", err)
	}
	return nil
}
