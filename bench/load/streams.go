package main

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"tailrace/bench/marks"
)

const openers = 8 // at a time; their connections carry the POSTs of all sessions

func extend(c *conn, limit time.Duration) {
	if c.c != nil {
		c.c.SetDeadline(time.Now().Add(limit))
	}
}

// listener is one session, with its stream open in the eras `streams` and `sse`.
type listener struct {
	session string
	stream  *conn
	events  *events
}

// openListeners opens o.sessions sessions. Those of Streamable HTTP share a few connections for their POSTs, so
// that an idle session is measured without one. `joined` is called with each session's POSTs still at hand.
func openListeners(o options) ([]*listener, func(), error) {
	address, path, err := splitURL(o.url)
	if err != nil {
		return nil, nil, err
	}
	all := make([]*listener, o.sessions)
	failures := make(chan error, openers)
	var next atomic.Int64
	var group sync.WaitGroup
	var posts [openers]*conn
	for number := range openers {
		posts[number] = newConn(address, o.limit)
		group.Add(1)
		go func() {
			defer group.Done()
			for at := int(next.Add(1)) - 1; at < len(all); at = int(next.Add(1)) - 1 {
				one, err := openListener(o, posts[number], address, path)
				if err != nil {
					failures <- fmt.Errorf("session %d: %w", at, err)
					return
				}
				all[at] = one
			}
		}()
	}
	group.Wait()
	end := func() {
		for _, c := range posts {
			c.close()
		}
		for _, one := range all {
			if one != nil && one.stream != nil {
				one.stream.close()
			}
		}
	}
	select {
	case err := <-failures:
		end()
		return nil, nil, err
	default:
		return all, end, nil
	}
}

func openListener(o options, posts *conn, address, path string) (*listener, error) {
	if o.era == "sse" {
		c, err := openSSE(address, path, o)
		if err != nil {
			return nil, err
		}
		defer c.posts.close()
		if o.join {
			if _, err := c.call("join", []byte("{}"), nil); err != nil {
				return nil, err
			}
		}
		return &listener{session: c.messages, stream: c.stream, events: c.events}, nil
	}
	session, err := openSession(posts, address, path)
	if err != nil {
		return nil, err
	}
	if o.join {
		c := &streamable{host: address, path: path, session: session, conn: posts}
		if _, err := c.call("join", []byte("{}"), nil); err != nil {
			return nil, err
		}
	}
	one := &listener{session: session}
	if o.era == "sessions" {
		return one, nil
	}
	one.stream = newConn(address, o.limit)
	one.events, err = openStream(one.stream, address, path, session, "")
	return one, err
}

// runIdle opens sessions and lets them be. bench/run.py reads the memory at `base` (one session was opened and
// used before) and at `open`, and the CPU between `open` and `end`.
func runIdle(o options) (result, error) {
	first := o
	first.sessions = 1
	_, endFirst, err := openListeners(first)
	if err != nil {
		return nil, err
	}
	defer endFirst()
	marks.Mark("base", nil)
	began := time.Now()
	all, end, err := openListeners(o)
	if err != nil {
		return nil, err
	}
	defer end()
	opened := time.Since(began)

	var alive, events, comments atomic.Int64
	alive.Store(int64(len(all)))
	for _, one := range all {
		if one.stream != nil {
			extend(one.stream, o.hold+o.limit)
			go func() {
				for {
					if _, err := one.events.next(); err != nil {
						alive.Add(-1)
						return
					}
					events.Add(1)
				}
			}()
		}
	}
	time.Sleep(500 * time.Millisecond) // what the server still has to do about the last ones is not idling
	marks.Mark("open", nil)
	time.Sleep(o.hold)
	marks.Mark("end", nil)
	still := alive.Load()
	end()
	for _, one := range all {
		if one.stream != nil {
			comments.Add(int64(one.events.comments))
		}
	}
	return result{
		"sessions": len(all), "open_seconds": opened.Seconds(), "held_seconds": o.hold.Seconds(),
		"lost": int64(len(all)) - still, "keep_alives": comments.Load(), "events": events.Load(),
	}, nil
}

// runBroadcast has every stream listen, and one more client call the tool `broadcast` again and again. The next
// round begins when all have everything, or when nothing came for the quiet time.
func runBroadcast(o options) (result, error) {
	all, end, err := openListeners(o)
	if err != nil {
		return nil, err
	}
	defer end()
	caller, err := newClient(o)
	if err != nil {
		return nil, err
	}
	defer caller.close()

	heard := make([]sequence, len(all))
	var arrived atomic.Int64
	for at, one := range all {
		extend(one.stream, o.warmup+o.seconds+o.limit)
		go func() {
			for {
				data, err := one.events.next()
				if err != nil {
					return
				}
				if isNotification(data) {
					heard[at].take(data, 0)
					arrived.Add(1)
				}
			}
		}()
	}
	warm, err := broadcasts(o, caller, &arrived, 0, o.warmup)
	if err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	before := arrived.Load()
	marks.Mark("begin", nil)
	spent, err := broadcasts(o, caller, &arrived, warm.rounds, o.seconds)
	marks.Mark("end", nil)
	if err != nil {
		return nil, err
	}
	delivered := arrived.Load() - before
	end()
	time.Sleep(100 * time.Millisecond)
	got := result{
		"calls": spent.rounds, "streams": len(all), "sent": spent.rounds * o.count * len(all), "arrived": delivered,
		"seconds": spent.took.Seconds(), "per_second": float64(delivered) / spent.took.Seconds(),
	}
	got["lost"] = max(spent.rounds*o.count*len(all)-int(delivered), 0)
	misordered := 0
	for _, one := range heard {
		misordered += one.misordered
	}
	got["misordered"] = misordered
	return got, nil
}

type spending struct {
	rounds int
	took   time.Duration
}

// broadcasts returns how many rounds there were and how long from each call to its last delivery.
func broadcasts(o options, caller client, arrived *atomic.Int64, round int, length time.Duration) (spending, error) {
	var spent spending
	until := time.Now().Add(length)
	for {
		began, before := time.Now(), arrived.Load()
		arguments := []byte(fmt.Sprintf(`{"first":%d,"count":%d}`, (round+spent.rounds)*o.count+1, o.count))
		if _, err := caller.call("broadcast", arguments, nil); err != nil {
			return spent, err
		}
		last := waitFor(arrived, before+int64(o.count*o.sessions), o.quiet)
		spent.took += max(last.Sub(began), time.Microsecond)
		spent.rounds++
		if !time.Now().Before(until) {
			return spent, nil
		}
	}
}

// waitFor returns when the counter last moved before it reached the goal or stood still for the quiet time.
func waitFor(counter *atomic.Int64, goal int64, quiet time.Duration) time.Time {
	seen, moved := counter.Load(), time.Now()
	for seen < goal && time.Since(moved) < quiet {
		time.Sleep(500 * time.Microsecond)
		if now := counter.Load(); now != seen {
			seen, moved = now, time.Now()
		}
	}
	return moved
}

// runSlowReader starts a burst in one session and does not read it, while other sessions, and the same session on
// another connection, go on calling. The same clients have called alone before: theirs is the control.
func runSlowReader(o options) (result, error) {
	address, path, err := splitURL(o.url)
	if err != nil {
		return nil, err
	}
	all, end, _, err := openClients(o)
	if err != nil {
		return nil, err
	}
	defer end()
	loop(o, all, echoWork, o.warmup)
	control := loop(o, all, echoWork, o.seconds).result(o.seconds)

	slow := newConn(address, o.limit)
	defer slow.close()
	session, err := openSession(slow, address, path)
	if err != nil {
		return nil, err
	}
	if err := slow.c.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		return nil, err
	}
	body := callMessage(nil, 1, "burst", []byte(fmt.Sprintf(`{"count":%d,"size":%d}`, o.count, o.size)), false, true)
	if _, err := slow.c.Write(post(nil, address, path, legacyHead(session), body)); err != nil {
		return nil, err
	}
	same := &streamable{host: address, path: path, session: session, conn: newConn(address, o.limit), id: 1000}
	defer same.close()
	time.Sleep(o.warmup) // until the socket's buffers are full

	beside := make(chan *tally, 1)
	one := o
	one.clients = 1
	marks.Mark("begin", nil)
	go func() { beside <- loop(one, []client{same}, echoWork, o.seconds) }()
	began := time.Now()
	got := loop(o, all, echoWork, o.seconds).result(time.Since(began))
	took := time.Since(began)
	got["seconds"], got["rps"] = took.Seconds(), float64(got["calls"].(int))/took.Seconds()
	marks.Mark("end", nil)
	ofSame := (<-beside).result(o.seconds)
	got["same_session_calls"], got["same_session_failed"] = ofSame["calls"], ofSame["failed"]
	got["same_session_p99_us"] = ofSame["p99_us"]
	got["control_p50_us"] = control["p50_us"]
	if alone := control["p50_us"].(float64); alone > 0 {
		got["p50_ratio"] = got["p50_us"].(float64) / alone
	}
	return got, nil
}

// runResume cuts a stream after its first event, waits until the tool has ended, resumes and counts what comes.
func runResume(o options) (result, error) {
	address, path, err := splitURL(o.url)
	if err != nil {
		return nil, err
	}
	c := newConn(address, o.limit)
	defer c.close()
	session, err := openSession(c, address, path)
	if err != nil {
		return nil, err
	}
	body := callMessage(nil, 1, "burst", []byte(fmt.Sprintf(`{"count":%d,"size":%d}`, o.count, o.size)), false, true)
	r, err := c.do(post(nil, address, path, legacyHead(session), body))
	if err != nil {
		return nil, err
	}
	if r.status != 200 || !r.stream {
		return nil, fmt.Errorf("not a stream: %w", refused(c))
	}
	stream := newEvents(c.lines)
	var seen sequence
	for len(stream.id) == 0 {
		data, err := stream.next()
		if err != nil {
			return nil, errors.New("no event carries an id: nothing can be resumed")
		}
		seen.take(data, o.size)
	}
	lastID := string(stream.id)
	c.close()
	time.Sleep(o.resumeWait)

	marks.Mark("begin", nil)
	began := time.Now()
	again, err := openStream(c, address, path, session, lastID)
	if err != nil {
		return nil, err
	}
	before := seen.arrived
	for {
		data, err := again.next()
		if err != nil {
			return nil, fmt.Errorf("the resumed stream ended after %d events, before the answer: %w", seen.arrived, err)
		}
		if !isNotification(data) {
			if err := isAnswer(data, 1); err != nil {
				return nil, err
			}
			break
		}
		seen.take(data, o.size)
	}
	took := time.Since(began)
	marks.Mark("end", nil)
	seen.end(o.count)
	return result{
		"calls": 1, "arrived": seen.arrived - before, "sent": o.count, "seconds": took.Seconds(), "lost": seen.lost,
		"misordered": seen.misordered, "per_second": float64(seen.arrived-before) / took.Seconds(), "said": c.reply.resume,
	}, nil
}
