package main

import (
	"fmt"
	"strings"
)

// Where several processes serve on one port, the system gives each connection to one of them. Tailrace's session ids
// begin with a tag of the process that made them, up to a ~: a session that is opened over a connection tells whose
// connection that is.

const (
	mostConnections = 64 // until one is at another worker: of two workers that fails once in 10^19
	anyConnections  = 4  // a client without affinity has so many
)

// way is a connection of a client, and what went over it.
type way struct {
	conn  *conn
	away  bool // to another worker than the one that has the session
	calls int
}

// land gives a client the connections that the trial wants: see the flag.
func (s *streamable) land(o options) error {
	switch o.land {
	case "", "own":
		return nil
	case "other", "any":
	default:
		return fmt.Errorf("unknown landing %q", o.land)
	}
	s.conn.close()
	for range mostConnections {
		next, err := s.reach(o)
		if err != nil {
			return err
		}
		if o.land == "other" && !next.away {
			next.conn.close()
			continue
		}
		s.paths = append(s.paths, next)
		if o.land == "other" || len(s.paths) == anyConnections {
			return nil
		}
	}
	return fmt.Errorf("none of %d connections came to another worker", mostConnections)
}

// reach opens a connection and finds out, by a session that does not stay, whose it is.
func (s *streamable) reach(o options) (*way, error) {
	c := newConn(s.host, o.limit)
	probe, err := openSession(c, s.host, s.path)
	if err != nil {
		return nil, err
	}
	return &way{conn: c, away: tagOf(probe) != tagOf(s.session)}, endSession(c, s.host, s.path, probe)
}

// turn takes the next connection.
func (s *streamable) turn() {
	if len(s.paths) > 0 {
		next := s.paths[s.id%len(s.paths)]
		next.calls++
		s.conn = next.conn
	}
}

func tagOf(session string) string {
	tag, _, found := strings.Cut(session, "~")
	if !found {
		return ""
	}
	return tag
}

func endSession(c *conn, host, path, session string) error {
	r, err := c.do([]byte("DELETE " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + legacyHead(session) + "\r\n"))
	if err != nil {
		return err
	}
	if r.status/100 != 2 {
		return fmt.Errorf("DELETE: %w", refused(c))
	}
	return c.finish()
}

// awayPercent tells how many of the calls went to a worker that does not have their session.
func awayPercent(all []client) float64 {
	away, calls := 0, 0
	for _, one := range all {
		if c, ok := one.(*streamable); ok {
			for _, path := range c.paths {
				calls += path.calls
				if path.away {
					away += path.calls
				}
			}
		}
	}
	return 100 * float64(away) / float64(max(calls, 1))
}
