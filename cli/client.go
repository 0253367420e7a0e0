package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

// client talks to the management API of a running server.
type client struct {
	http   *http.Client
	base   string // the API's URL
	origin string // for Caddy's admin endpoint, which may require one
	where  string // the address as people write it
	token  string
	unused bool      // a token is set, and the address is one that asks for none
	wary   bool      // nobody gave the address, so it matters who listens there
	notes  io.Writer // where notes for people are written

	verbatim bool // answers are printed as JSON, as they were written
}

// maxAnswer bounds what the client reads of an answer, in bytes.
const maxAnswer = 64 << 20

// dataDir returns the directory in which `up` keeps everything.
func dataDir(flag string) (string, error) {
	dir := cmp.Or(flag, os.Getenv("TILL_DATA"), filepath.Join(caddy.AppDataDir(), "till"))
	return filepath.Abs(dir)
}

const socketName = "admin.sock"

// packagedSocket is the admin endpoint of a server that init/till.service runs with
// `admin unix//run/caddy/admin.sock`, or "" where others than root can make that
// directory.
func packagedSocket(system string) string {
	if system == "windows" { // any user can make it, at the root of the drive
		return ""
	}
	return "/run/caddy/admin.sock"
}

// errTokenUnused keeps a user who means to act as the holder of a token from acting
// as the operator: the endpoints of this machine take every caller for the
// operator.
var errTokenUnused = usage("TILL_TOKEN is set, and TILL_ADDRESS is not: the endpoints on this machine ask for no token, and every caller is the operator; set TILL_ADDRESS=https://HOST/till/api to act with the token, or unset TILL_TOKEN to act as the operator")

// tokenUnused is printed if a token is set for an address that does not ask for one.
const tokenUnused = "TILL_TOKEN is not used at %s: every caller of Caddy's admin endpoint is the operator. To use the token: TILL_ADDRESS=https://HOST/till/api\n"

// newClient makes a client for address: unix//path, host:port, or the full URL of
// the API. Without an address it takes the socket of `up` if a server listens
// there, then that of the unit if there is one, and then Caddy's admin endpoint.
func newClient(address string) (*client, error) {
	return newClientBeside(packagedSocket(runtime.GOOS), address)
}

// newClientBeside is newClient on a machine where the unit's socket is ofUnit, or "".
func newClientBeside(ofUnit, address string) (*client, error) {
	address = cmp.Or(address, os.Getenv("TILL_ADDRESS"))
	if address != "" {
		return clientAt(address, false)
	}
	if os.Getenv("TILL_TOKEN") != "" {
		return nil, errTokenUnused
	}
	dir, err := dataDir("")
	if err != nil {
		return nil, err
	}
	ofUp := filepath.Join(dir, socketName)
	if os.Getenv("TILL_DATA") == "" && !filepath.IsAbs(caddy.AppDataDir()) {
		ofUp = "" // without HOME it would be below the present directory, which may be anybody's
	}
	return clientAt(defaultAddress(ofUp, ofUnit), true)
}

// defaultAddress returns the server's address if nobody gives one. CADDY_ADMIN moves
// Caddy's own default.
func defaultAddress(ofUp, ofUnit string) string {
	if ofUp != "" && listening(ofUp) {
		return "unix/" + ofUp
	}
	if _, moved := os.LookupEnv("CADDY_ADMIN"); moved || ofUnit == "" {
		return caddy.DefaultAdminListen
	}
	err := knock("unix", ofUnit)
	busy := errors.Is(err, syscall.EAGAIN) || os.IsTimeout(err)
	// The unit makes the socket's directory even if the server listens at the port. If it does
	// not, a user who may not use the socket is told so, and not that no server runs.
	hidden := errors.Is(err, fs.ErrPermission) && nobodyListens(knock("tcp", caddy.DefaultAdminListen))
	if err == nil || busy || hidden {
		return "unix/" + ofUnit
	}
	return caddy.DefaultAdminListen
}

// clientAt makes a client for an address. A wary one sends nothing to a port of this
// machine at which a stranger listens.
func clientAt(address string, wary bool) (*client, error) {
	dial := dialLocalhost
	if wary {
		dial = dialTrusted
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = dial
	c := &client{where: address, token: os.Getenv("TILL_TOKEN"), wary: wary, notes: io.Discard, http: &http.Client{
		Timeout: time.Minute, Transport: transport,
		// Following a redirect would send the token to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if path, ok := strings.CutPrefix(address, "unix/"); ok {
		path, _, _ = strings.Cut(path, "|")
		c.withholdToken()
		// Caddy requires a loopback host if it checks the host at all.
		c.base = "http://127.0.0.1" + wire.BasePath
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}
		return c, nil
	}
	if !strings.Contains(address, "://") {
		host, port, err := net.SplitHostPort(strings.TrimPrefix(address, "tcp/"))
		if err != nil || !isPort(port) || strings.Contains(host, "@") {
			return nil, usage("--address must be host:port, unix//path or a URL, without a user or password, got %q", token.ScrubAddress(address))
		}
		c.withholdToken()
		c.origin = "http://" + net.JoinHostPort(cmp.Or(host, "localhost"), port)
		c.base = c.origin + wire.BasePath
		return c, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, usage("--address must be host:port, unix//path or a URL of http or https without user and query, got %q", token.ScrubAddress(address))
	}
	c.base = strings.TrimSuffix(address, "/")
	if strings.Trim(u.Path, "/") == "" {
		c.base += wire.BasePath
	}
	return c, nil
}

// withholdToken keeps the token from an endpoint of this machine. It asks for none, and
// while Caddy does not run, any user of the machine can listen at its address.
func (c *client) withholdToken() { c.unused, c.token = c.token != "", "" }

// tokenless reports whether a token is set for an address that does not ask for
// one: only the API of a site with till_console does.
func (c *client) tokenless() bool {
	return c.unused || c.token != "" && !strings.HasSuffix(strings.TrimRight(c.base, "/"), wire.BasePath+"/api")
}

// listening reports whether a server accepts connections at a socket.
func listening(socket string) bool { return knock("unix", socket) == nil }

// knock returns the error of connecting to a server.
func knock(network, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	dial := (&net.Dialer{}).DialContext
	if network == "tcp" {
		dial = dialLocalhost
	}
	conn, err := dial(ctx, network, address)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

type apiError struct {
	status  int
	code    string
	message string
	body    []byte // the whole answer, which may say what was done
}

func (e *apiError) Error() string { return e.message }

// call makes one call, and decodes the answer into into unless that is nil.
func (c *client) call(ctx context.Context, method, path string, body, into any) error {
	raw, err := c.raw(ctx, method, path, body)
	if err != nil || into == nil {
		return err
	}
	decode := decodePrintable
	if c.verbatim {
		decode = json.Unmarshal
	}
	return c.decoded(decode(raw, into), into)
}

// decoded returns an error if an answer could not be decoded, or lacks what every
// command needs from such an answer.
func (c *client) decoded(err error, into any) error {
	if err != nil {
		return fmt.Errorf("the answer of %s is not from till: %w", c.where, err)
	}
	lacks := ""
	need := func(there bool, what string) {
		if !there {
			lacks = what
		}
	}
	switch a := into.(type) {
	case *wire.Minted:
		need(a.ScopedKey != "", "a key")
	case *wire.Rotated:
		need(a.ScopedKey != "", "a key")
	case *wire.KeyObject:
		need(a.ID != "", "a key")
	case *wire.TokenObject:
		need(a.ID != "", "a token")
	case *wire.RepairedAnswer:
		need(a.Now != nil || a.Keys != nil, "what was repaired")
	case *wire.Link:
		need(a.URL != "", "a link")
	}
	if lacks == "" && hollow(reflect.ValueOf(into)) {
		lacks = "what was asked for"
	}
	if lacks != "" {
		return c.without(lacks)
	}
	return nil
}

// without is the error for an answer that lacks something: it may not be from till at all.
func (c *client) without(what string) error {
	return fmt.Errorf("%s answered without %s: is a Caddy with till running there?", c.where, what)
}

func (c *client) raw(ctx context.Context, method, path string, body any) ([]byte, error) {
	res, err := c.do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	return c.read(res)
}

// read reads an answer to its end. One that reports no success is an error.
func (c *client) read(res *http.Response) ([]byte, error) {
	defer res.Body.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", c.where, err)
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("%s answered more than %d MB: ask for less", c.where, maxAnswer>>20)
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return b, nil
	}
	return nil, c.refusal(res, b)
}

// hollow reports whether an answer has a null in a list, or lacks an object that it always
// has, such as the key that was minted, or lacks a limit although it says what is left of
// it.
func hollow(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		if k, ok := v.Interface().(*wire.KeyObject); ok && k != nil {
			return k.ID == "" || k.RemainingActivations != nil && k.MaxActivations == nil || k.RemainingTokens != nil && k.MaxTokens == nil
		}
		return !v.IsNil() && hollow(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			if e := v.Index(i); e.Kind() == reflect.Pointer && e.IsNil() || hollow(e) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f, inner := v.Type().Field(i), v.Field(i)
			missing := inner.Kind() == reflect.Pointer && inner.IsNil() && !strings.Contains(f.Tag.Get("json"), "omitempty")
			if f.IsExported() && (missing || hollow(inner)) {
				return true
			}
		}
	}
	return false
}

// answer makes a call, and decodes the answer for people. raw is the answer as it was written.
func (c *client) answer(ctx context.Context, method, path string, body, into any) (raw []byte, err error) {
	if raw, err = c.raw(ctx, method, path, body); err == nil {
		err = c.decoded(decodePrintable(raw, into), into)
	}
	return raw, err
}

// callAndPrint makes a call for a command that prints the answer: as JSON with --json,
// and otherwise as print writes it.
func callAndPrint[T any](cmd *cobra.Command, c *client, method, path string, body any, print func(answer *T) error) error {
	answer := new(T)
	raw, err := c.answer(cmd.Context(), method, path, body, answer)
	if err != nil {
		return err
	}
	if c.verbatim {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	return print(answer)
}

// refusal turns an answer that reports no success into an error.
func (c *client) refusal(res *http.Response, body []byte) error {
	var answer struct {
		Error struct{ Code, Message string }
	}
	if decodePrintable(body, &answer) != nil || answer.Error.Message == "" {
		return fmt.Errorf("%s answered %s: is a Caddy with till running there?", c.where, printable(res.Status))
	}
	return &apiError{res.StatusCode, answer.Error.Code, answer.Error.Message, body}
}

func (c *client) patient() *client {
	p, h := *c, *c.http
	h.Timeout = 0
	p.http = &h
	return &p
}

// open makes a GET whose answer may have any length and take any time.
func (c *client) open(ctx context.Context, path string) (io.ReadCloser, error) {
	res, err := c.patient().do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_, err = c.read(res)
		return nil, err
	}
	return res.Body, nil
}

// do sends a call. The caller closes the body of the answer.
func (c *client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	if token.Scrub(path) != path { // servers and proxies log addresses
		return nil, errKeyString
	}
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.origin != "" {
		r.Header.Set("Origin", c.origin)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(err)
	}
	return res, nil
}

func (c *client) unreachable(err error) error {
	if stranger, ok := errors.AsType[*strangerError](err); ok {
		return stranger
	}
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case ok && op.Net == "unix" && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("this user may not use %s (%w): call it as root or as the server's user, as in: sudo caddy till …", c.where, op.Err)
	case ok:
		return fmt.Errorf("no server answers at %s (%w); start one with `caddy till up` or `caddy run`, or name another with --address", c.where, op.Err)
	}
	return fmt.Errorf("calling %s: %w", c.where, err)
}
