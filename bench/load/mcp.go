package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

const (
	legacyVersion = "2025-11-25"
	sseVersion    = "2024-11-05"
	modernVersion = "2026-07-28"
)

// client makes one call at a time and returns its answer, checked to be the one with the call's own id. A note
// function is given each notification of the call; both it and the answer are valid until the next one.
type client interface {
	call(tool string, arguments []byte, note func([]byte)) ([]byte, error)
	close()
}

var errWrong = errors.New("wrong answer")

func wrong(why string, data []byte) error {
	return fmt.Errorf("%w: %s: %.300q", errWrong, why, data)
}

// newClient opens one client over HTTP, in a session of its own where the era has sessions.
func newClient(o options) (client, error) {
	address, path, err := splitURL(o.url)
	if err != nil {
		return nil, err
	}
	switch o.era {
	case "sessions", "streams":
		c := &streamable{path: path, host: address, conn: newConn(address, o.limit)}
		if c.session, err = openSession(c.conn, address, path); err == nil {
			err = c.land(o)
		}
		return c, err
	case "modern":
		return &streamable{path: path, host: address, conn: newConn(address, o.limit), modern: true}, nil
	case "sse":
		return openSSE(address, path, o)
	}
	return nil, fmt.Errorf("era %q has no HTTP client", o.era)
}

// --- messages -------------------------------------------------------------------------------------

func initializeMessage(version string) []byte {
	return []byte(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"` + version +
		`","capabilities":{},"clientInfo":{"name":"load","version":"1"}}}`)
}

var initializedMessage = []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)

func callMessage(to []byte, id int, tool string, arguments []byte, modern, progress bool) []byte {
	to = append(to, `{"jsonrpc":"2.0","id":`...)
	to = strconv.AppendInt(to, int64(id), 10)
	to = append(to, `,"method":"tools/call","params":{"name":"`...)
	to = append(append(to, tool...), `","arguments":`...)
	to = append(to, arguments...)
	if modern || progress {
		to = append(to, `,"_meta":{`...)
		if modern {
			to = append(to, `"io.modelcontextprotocol/protocolVersion":"`+modernVersion+
				`","io.modelcontextprotocol/clientCapabilities":{}`...)
		}
		if modern && progress {
			to = append(to, ',')
		}
		if progress {
			to = append(to, `"progressToken":`...)
			to = strconv.AppendInt(to, int64(id), 10)
		}
		to = append(to, '}')
	}
	return append(to, `}}`...)
}

func isNotification(data []byte) bool {
	return bytes.Contains(data, []byte(`"method":`)) && !bytes.Contains(data, []byte(`"result":`))
}

// isAnswer tells whether data has the given id and no error. Python servers may write blanks after colons.
func isAnswer(data []byte, id int) error {
	if got, ok := number(data, `"id":`); !ok || got != float64(id) {
		return wrong("not the id "+strconv.Itoa(id), data)
	}
	if _, failed := value(data, `"error":`); failed {
		return wrong("an error", data)
	}
	if is, ok := value(data, `"isError":`); ok && bytes.HasPrefix(is, []byte("true")) {
		return wrong("the tool failed", data)
	}
	return nil
}

// value returns what follows a key; keys that are looked for never appear inside the texts that are sent.
func value(data []byte, key string) ([]byte, bool) {
	at := bytes.Index(data, []byte(key))
	if at < 0 {
		return nil, false
	}
	return bytes.TrimLeft(data[at+len(key):], " "), true
}

func number(data []byte, key string) (float64, bool) {
	rest, ok := value(data, key)
	if !ok {
		return 0, false
	}
	end := 0
	for end < len(rest) && (rest[end] >= '0' && rest[end] <= '9' || rest[end] == '.' || rest[end] == 'e' || rest[end] == '+') {
		end++
	}
	got, err := strconv.ParseFloat(string(rest[:end]), 64)
	return got, err == nil
}

// --- Streamable HTTP ------------------------------------------------------------------------------

// streamable is a client of /mcp in either era; of the legacy one it has a session.
type streamable struct {
	host, path, session string
	conn                *conn
	modern              bool
	paths               []*way // connections that calls take turns on; none: `conn` alone
	id                  int
	body, request, kept []byte
}

func (s *streamable) close() {
	s.conn.close()
	for _, path := range s.paths {
		path.conn.close()
	}
}

func (s *streamable) call(tool string, arguments []byte, note func([]byte)) ([]byte, error) {
	s.id++
	s.turn()
	s.body = callMessage(s.body[:0], s.id, tool, arguments, s.modern, note != nil)
	head := legacyHead(s.session)
	if s.modern {
		head = "MCP-Protocol-Version: " + modernVersion + "\r\nMcp-Method: tools/call\r\nMcp-Name: " + tool + "\r\n"
	}
	s.request = post(s.request[:0], s.host, s.path, head, s.body)
	r, err := s.conn.do(s.request)
	if err != nil {
		s.conn.close()
		return nil, err
	}
	answer, err := s.answer(r, note)
	if err != nil {
		s.conn.close()
	}
	return answer, err
}

func (s *streamable) answer(r *reply, note func([]byte)) ([]byte, error) {
	if r.status != 200 {
		return nil, refused(s.conn)
	}
	s.kept = s.kept[:0]
	if !r.stream {
		body := bytes.NewBuffer(s.kept)
		if _, err := body.ReadFrom(s.conn.lines); err != nil {
			return nil, err
		}
		s.kept = body.Bytes()
	} else if err := s.fromStream(note); err != nil {
		return nil, err
	}
	if err := s.conn.finish(); err != nil {
		return nil, err
	}
	return s.kept, isAnswer(s.kept, s.id)
}

func (s *streamable) fromStream(note func([]byte)) error {
	stream := newEvents(s.conn.lines)
	for {
		data, err := stream.next()
		if err != nil {
			return fmt.Errorf("the stream ended before the answer: %w", err)
		}
		if !isNotification(data) {
			s.kept = append(s.kept, data...)
			return nil
		}
		if note != nil {
			note(data)
		}
	}
}

func legacyHead(session string) string {
	head := "MCP-Protocol-Version: " + legacyVersion + "\r\n"
	if session != "" {
		head += "Mcp-Session-Id: " + session + "\r\n"
	}
	return head
}

func post(to []byte, host, path, head string, body []byte) []byte {
	to = append(append(append(to, "POST "...), path...), " HTTP/1.1\r\nHost: "...)
	to = append(append(to, host...), "\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"...)
	to = append(append(to, head...), "Content-Length: "...)
	to = append(strconv.AppendInt(to, int64(len(body)), 10), "\r\n\r\n"...)
	return append(to, body...)
}

func refused(c *conn) error {
	var body bytes.Buffer
	body.ReadFrom(c.lines)
	return fmt.Errorf("HTTP %d: %.300q", c.reply.status, body.Bytes())
}

// openSession does the handshake on a connection and returns the session's id ("" where the server has none).
func openSession(c *conn, host, path string) (string, error) {
	r, err := c.do(post(nil, host, path, "", initializeMessage(legacyVersion)))
	if err != nil {
		return "", fmt.Errorf("initialize: %w", err)
	}
	if r.status != 200 {
		return "", fmt.Errorf("initialize: %w", refused(c))
	}
	session := r.session
	if err := c.finish(); err != nil {
		return "", err
	}
	if r, err = c.do(post(nil, host, path, legacyHead(session), initializedMessage)); err != nil {
		return "", fmt.Errorf("initialized: %w", err)
	}
	if r.status != 202 && r.status != 200 && r.status != 204 {
		return "", fmt.Errorf("initialized: %w", refused(c))
	}
	return session, c.finish()
}

// openStream sends a GET for a session's own stream, or for one that is resumed after lastEventID.
func openStream(c *conn, host, path, session, lastEventID string) (*events, error) {
	head := legacyHead(session)
	if lastEventID != "" {
		head += "Last-Event-ID: " + lastEventID + "\r\n"
	}
	r, err := c.do([]byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nAccept: text/event-stream\r\n" + head + "\r\n"))
	if err != nil {
		return nil, err
	}
	if r.status != 200 || !r.stream {
		return nil, fmt.Errorf("GET: %w", refused(c))
	}
	return newEvents(c.lines), nil
}

// --- HTTP+SSE -------------------------------------------------------------------------------------

// sseClient posts on one connection and reads the answers on another.
type sseClient struct {
	host, messages      string
	posts, stream       *conn
	events              *events
	limit               func()
	id                  int
	body, request, kept []byte
}

func (s *sseClient) close() {
	s.posts.close()
	s.stream.close()
}

func openSSE(address, path string, o options) (*sseClient, error) {
	s := &sseClient{host: address, posts: newConn(address, o.limit), stream: newConn(address, o.limit)}
	r, err := s.stream.do([]byte("GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nAccept: text/event-stream\r\n\r\n"))
	if err != nil {
		return nil, err
	}
	if r.status != 200 || !r.stream {
		return nil, fmt.Errorf("GET: %w", refused(s.stream))
	}
	s.limit = func() { extend(s.stream, o.limit) }
	s.events = newEvents(s.stream.lines)
	endpoint, err := s.events.next()
	if err != nil || string(s.events.name) != "endpoint" {
		return nil, fmt.Errorf("no endpoint event: %q %v", endpoint, err)
	}
	s.messages = pathOf(string(endpoint))
	if _, err := s.exchange(initializeMessage(sseVersion), 0, nil); err != nil {
		return nil, fmt.Errorf("initialize: %w", err)
	}
	return s, s.send(initializedMessage)
}

func (s *sseClient) call(tool string, arguments []byte, note func([]byte)) ([]byte, error) {
	s.id++
	s.body = callMessage(s.body[:0], s.id, tool, arguments, false, note != nil)
	return s.exchange(s.body, s.id, note)
}

func (s *sseClient) exchange(message []byte, id int, note func([]byte)) ([]byte, error) {
	if err := s.send(message); err != nil {
		return nil, err
	}
	s.limit()
	for {
		data, err := s.events.next()
		if err != nil {
			return nil, fmt.Errorf("the stream ended before the answer: %w", err)
		}
		if !isNotification(data) {
			s.kept = append(s.kept[:0], data...)
			return s.kept, isAnswer(s.kept, id)
		}
		if note != nil {
			note(data)
		}
	}
}

func (s *sseClient) send(message []byte) error {
	s.request = post(s.request[:0], s.host, s.messages, "", message)
	r, err := s.posts.do(s.request)
	if err != nil {
		return err
	}
	if r.status != 202 && r.status != 200 {
		return refused(s.posts)
	}
	return s.posts.finish()
}

func pathOf(endpoint string) string {
	if _, path, err := splitURL(endpoint); err == nil {
		return path
	}
	return endpoint
}
