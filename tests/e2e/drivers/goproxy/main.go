// A reverse proxy as Go programs have it: httputil.ReverseProxy with nothing set but its target; or set badly, by flags.
//
// It listens on a free port of the loopback interface, says so in one line on stderr, and runs until it is killed.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

// held is a response that cannot be flushed: it goes on when it is complete, or when 4 KiB of it are there.
type held struct{ http.ResponseWriter }

// idling is a body that is given up when nothing of it comes for a while.
type idling struct {
	io.ReadCloser
	after time.Duration
	timer *time.Timer
}

func (body *idling) Read(into []byte) (int, error) {
	body.timer.Reset(body.after)
	return body.ReadCloser.Read(into)
}

func main() {
	buffer := flag.Bool("buffer", false, "hold responses back")
	strip := flag.String("strip", "", "a header of requests that is not passed on")
	drop := flag.String("drop", "", "a header of responses that is not passed on")
	idle := flag.Duration("idle", 0, "cut a response of which nothing came for so long")
	most := flag.Int64("most", 0, "bytes of a request's body")
	flag.Parse()
	target, err := url.Parse(flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(response *http.Response) error {
		response.Header.Del(*drop)
		if *idle > 0 {
			body := &idling{response.Body, *idle, nil}
			body.timer = time.AfterFunc(*idle, func() { body.ReadCloser.Close() })
			response.Body = body
		}
		return nil
	}
	fmt.Fprintf(os.Stderr, "proxy ready url=http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		request.Header.Del(*strip)
		if *most > 0 && request.ContentLength > *most {
			http.Error(writer, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		if *buffer {
			writer = held{writer}
		}
		proxy.ServeHTTP(writer, request)
	})))
}
