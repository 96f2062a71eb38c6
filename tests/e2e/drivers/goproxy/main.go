// A reverse proxy as Go programs have it: httputil.ReverseProxy with nothing set but its target.
//
// It listens on a free port of the loopback interface, says so in one line on stderr, and runs until it is killed.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	target, err := url.Parse(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "proxy ready url=http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, httputil.NewSingleHostReverseProxy(target)))
}
