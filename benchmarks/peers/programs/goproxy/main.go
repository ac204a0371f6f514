// A reverse proxy that sends the application's own OAuth token: net/http/httputil and golang.org/x/oauth2, tuned as one
// would for production (large idle pool, reused buffers, no compression of its own, no log, no forwarding headers).
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte     { return *b.Pool.Get().(*[]byte) }
func (b *buffers) Put(some []byte) { b.Pool.Put(&some) }

func transport(ca, serverName string) *http.Transport {
	found := &http.Transport{
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 1024,
		IdleConnTimeout:     time.Hour,
		DisableCompression:  true,
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			log.Fatal(err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			log.Fatal("no certificate in ", ca)
		}
		found.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: serverName}
	}
	return found
}

func main() {
	listen := flag.String("listen", "", "address to serve on")
	upstream := flag.String("upstream", "", "URL of the API")
	ca := flag.String("ca", "", "CA bundle of the API")
	serverName := flag.String("server-name", "", "name in the API's certificate")
	tokenURL := flag.String("token-url", "", "token endpoint")
	clientID := flag.String("client-id", "", "client identifier")
	clientSecret := flag.String("client-secret", "", "client secret")
	scope := flag.String("scope", "", "scope")
	flag.Parse()

	target, err := url.Parse(*upstream)
	if err != nil {
		log.Fatal(err)
	}
	client := clientcredentials.Config{
		ClientID: *clientID, ClientSecret: *clientSecret, TokenURL: *tokenURL, Scopes: []string{*scope},
	}
	pool := &buffers{sync.Pool{New: func() any { some := make([]byte, 32<<10); return &some }}}
	proxy := &httputil.ReverseProxy{
		Director: func(request *http.Request) {
			request.URL.Scheme, request.URL.Host = target.Scheme, target.Host
			request.Header["X-Forwarded-For"] = nil
		},
		Transport: &oauth2.Transport{
			Source: client.TokenSource(context.Background()),
			Base:   transport(*ca, *serverName),
		},
		BufferPool: pool,
		ErrorLog:   log.New(io.Discard, "", 0),
	}
	log.Fatal(http.ListenAndServe(*listen, proxy))
}
