package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// pipe is a started stdio server that several clients share; an answer's id tells whose it is.
type pipe struct {
	process *exec.Cmd
	mu      sync.Mutex // of in: whole lines
	in      io.WriteCloser
	answers []chan []byte
	ended   chan struct{}
	limit   time.Duration
}

// stdioClient is one of the calls in flight on a pipe.
type stdioClient struct {
	pipe   *pipe
	number int
	next   int
	body   []byte
}

func startPipe(o options) (*pipe, error) {
	if len(o.command) == 0 {
		return nil, errors.New("stdio needs a command after --")
	}
	p := &pipe{process: exec.Command(o.command[0], o.command[1:]...), ended: make(chan struct{}), limit: o.limit}
	for range max(o.clients, 1) {
		p.answers = append(p.answers, make(chan []byte, 1024))
	}
	p.process.Stderr = os.Stderr
	var err error
	if p.in, err = p.process.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.process.Start(); err != nil {
		return nil, err
	}
	go p.read(bufio.NewReaderSize(out, 64<<10))
	if _, err := p.exchange(initializeMessage(legacyVersion), 0, 0, nil); err != nil {
		p.stop()
		return nil, fmt.Errorf("initialize: %w", err)
	}
	return p, p.write(initializedMessage)
}

// read hands each answer, and each notification by its token, to the client it belongs to.
func (p *pipe) read(out *bufio.Reader) {
	defer close(p.ended)
	for {
		line, err := out.ReadBytes('\n')
		if err != nil {
			return
		}
		key := `"id":`
		if isNotification(line) {
			key = `"progressToken":`
		}
		if id, ok := number(line, key); ok {
			p.answers[int(id)%len(p.answers)] <- line
		}
	}
}

func (p *pipe) write(message []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.in.Write(append(message, '\n'))
	return err
}

func (p *pipe) exchange(message []byte, id, number int, note func([]byte)) ([]byte, error) {
	if err := p.write(message); err != nil {
		return nil, err
	}
	late := time.NewTimer(p.limit)
	defer late.Stop()
	for {
		select {
		case line := <-p.answers[number]:
			if !isNotification(line) {
				return bytes.TrimRight(line, "\n"), isAnswer(line, id)
			}
			if note != nil {
				note(line)
			}
		case <-late.C:
			return nil, errors.New("no answer in time")
		case <-p.ended:
			return nil, errors.New("the server ended")
		}
	}
}

// stop closes the input, waits, then terminates and at last kills: never longer than five seconds.
func (p *pipe) stop() {
	p.in.Close()
	gone := make(chan struct{})
	go func() { p.process.Wait(); close(gone) }()
	for _, force := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-gone:
			return
		case <-time.After(2500 * time.Millisecond):
			p.process.Process.Signal(force)
		}
	}
	<-gone
}

func (s *stdioClient) close() {}

func (s *stdioClient) call(tool string, arguments []byte, note func([]byte)) ([]byte, error) {
	s.next++
	id := s.next*len(s.pipe.answers) + s.number
	s.body = callMessage(s.body[:0], id, tool, arguments, false, note != nil)
	return s.pipe.exchange(s.body, id, s.number, note)
}
