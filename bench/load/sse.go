package main

import (
	"bufio"
	"bytes"
	"errors"
)

// events reads a text/event-stream. What it returns is valid until the next call.
type events struct {
	in       *bufio.Reader
	line     []byte
	id       []byte // of the event that was returned last, if it had one
	name     []byte
	data     []byte
	comments int
}

func newEvents(in *bufio.Reader) *events { return &events{in: in} }

// next returns the data of the next event that has any; priming events have none, and only set the id.
func (e *events) next() ([]byte, error) {
	e.data, e.name = e.data[:0], e.name[:0]
	for {
		line, err := e.readLine()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if len(e.data) > 0 {
				return e.data[:len(e.data)-1], nil
			}
			continue
		}
		if line[0] == ':' {
			e.comments++
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			if len(value) > 0 {
				e.data = append(append(e.data, value...), '\n')
			}
		case "id":
			e.id = append(e.id[:0], value...)
		case "event":
			e.name = append(e.name[:0], value...)
		}
	}
}

func (e *events) readLine() ([]byte, error) {
	line, err := e.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) { // longer than the buffer
		e.line = append(e.line[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = e.in.ReadSlice('\n')
			e.line = append(e.line, line...)
		}
		line = e.line
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}
