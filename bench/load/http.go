package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// conn is one keep-alive HTTP/1.1 connection; one goroutine uses it.
type conn struct {
	address    string
	limit      time.Duration
	c          net.Conn
	in         *bufio.Reader
	reply      reply
	lines      *bufio.Reader // over the body of the current reply
	reconnects int
}

// reply is a response's head, and a reader of its body.
type reply struct {
	status    int
	session   string // Mcp-Session-Id
	resume    string // Tailrace-Resume
	stream    bool   // text/event-stream
	closing   bool
	chunked   bool
	remaining int64 // of the body, or of the current chunk; -1: until the connection ends
	done      bool
	in        *bufio.Reader
}

func splitURL(raw string) (address, path string, err error) {
	parsed, err := url.Parse(raw)
	if err != nil {
		return "", "", err
	}
	if parsed.Scheme != "http" || parsed.Port() == "" {
		return "", "", fmt.Errorf("want http://HOST:PORT/PATH, not %q", raw)
	}
	return parsed.Host, parsed.RequestURI(), nil
}

func newConn(address string, limit time.Duration) *conn {
	return &conn{address: address, limit: limit, lines: bufio.NewReaderSize(nil, 16<<10)}
}

func (c *conn) dial() error {
	made, err := net.DialTimeout("tcp", c.address, c.limit)
	if err != nil {
		return err
	}
	c.c, c.in = made, bufio.NewReaderSize(made, 16<<10)
	return nil
}

func (c *conn) close() {
	if c.c != nil {
		c.c.Close()
		c.c = nil
	}
}

// do sends one whole request and reads the head of its response. A server may close a connection between two
// requests: that is seen before any byte of a response, and the request is sent once more on a new one.
func (c *conn) do(request []byte) (*reply, error) {
	fresh := c.c == nil
	if fresh {
		if err := c.dial(); err != nil {
			return nil, err
		}
	}
	r, err := c.try(request)
	if err != nil && !fresh && errors.Is(err, errClosedBefore) {
		c.close()
		c.reconnects++
		return c.do(request)
	}
	return r, err
}

var errClosedBefore = errors.New("closed before the response")

func (c *conn) try(request []byte) (*reply, error) {
	c.c.SetDeadline(time.Now().Add(c.limit))
	if _, err := c.c.Write(request); err != nil {
		return nil, errClosedBefore
	}
	if _, err := c.in.Peek(1); err != nil {
		var slow net.Error
		if errors.As(err, &slow) && slow.Timeout() {
			return nil, err
		}
		return nil, errClosedBefore
	}
	r := &c.reply
	*r = reply{remaining: -1, in: c.in}
	if err := r.head(); err != nil {
		return nil, err
	}
	c.lines.Reset(r)
	return r, nil
}

func (r *reply) head() error {
	line, err := r.in.ReadSlice('\n')
	if err != nil || len(line) < 12 {
		return fmt.Errorf("bad status line %q: %v", line, err)
	}
	if r.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return err
	}
	for {
		if line, err = r.in.ReadSlice('\n'); err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		r.header(line)
	}
	if r.status == 204 || r.status == 304 || (!r.chunked && r.remaining == 0) {
		r.done = true
	}
	return nil
}

func (r *reply) header(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimSpace(value)
	is := func(wanted string) bool { return len(name) == len(wanted) && strings.EqualFold(string(name), wanted) }
	switch {
	case is("content-length"):
		r.remaining, _ = strconv.ParseInt(string(value), 10, 64)
	case is("transfer-encoding"):
		r.chunked, r.remaining = true, 0
	case is("content-type"):
		r.stream = bytes.HasPrefix(value, []byte("text/event-stream"))
	case is("connection"):
		r.closing = bytes.EqualFold(value, []byte("close"))
	case is("mcp-session-id"):
		r.session = string(value)
	case is("tailrace-resume"):
		r.resume = string(value)
	}
}

// Read gives the body, whatever its framing.
func (r *reply) Read(into []byte) (int, error) {
	if r.done {
		return 0, io.EOF
	}
	if r.chunked && r.remaining == 0 {
		if err := r.nextChunk(); err != nil || r.done {
			return 0, orEOF(err)
		}
	}
	if r.remaining > 0 && int64(len(into)) > r.remaining {
		into = into[:r.remaining]
	}
	n, err := r.in.Read(into)
	if r.remaining > 0 {
		r.remaining -= int64(n)
		if r.remaining == 0 {
			if !r.chunked {
				r.done = true
			} else if _, err := r.in.Discard(2); err != nil {
				return n, err
			}
		}
	}
	return n, err
}

func (r *reply) nextChunk() error {
	line, err := r.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	digits, _, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(";"))
	if r.remaining, err = strconv.ParseInt(string(digits), 16, 64); err != nil {
		return err
	}
	if r.remaining == 0 { // no trailers are expected from anybody here
		_, err = r.in.Discard(2)
		r.done = true
	}
	return err
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// finish reads what is left of a reply, so that the connection can be used again.
func (c *conn) finish() error {
	if _, err := io.Copy(io.Discard, c.lines); err != nil {
		return err
	}
	if c.reply.closing || (!c.reply.chunked && c.reply.remaining < 0 && !c.reply.done) {
		c.close()
	}
	return nil
}
