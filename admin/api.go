// Package admin is the management API, by which people manage keys, and the Caddy
// module that serves it on the admin endpoint.
//
// It decides nothing about a request that carries a key. It asks the limiter for
// every change, and knows of upstreams only what a Backend reports.
package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// Backend is the part of the running configuration that managing keys needs.
type Backend interface {
	// Limiter returns the limiter. It opens the store if it is closed.
	Limiter() (*limiter.Limiter, error)
	// UpstreamInfos lists the configured upstreams, by name.
	UpstreamInfos() []wire.UpstreamInfo
	// Fingerprints maps each upstream whose credential the server has to the
	// fingerprint that the function makes of that credential.
	Fingerprints(of func(token.Secret) string) map[string]string
	// Seal puts an upstream's real key into a box. Only the scoped key with that
	// lookup opens the box, and only while the key's record has the salt.
	Seal(upstream string, lookup token.Lookup, salt, credential token.Secret) (box token.Secret, sealed record.Box, err error)
	// SealKeyIDs lists the ids of the seal keys that the server has. New boxes are
	// sealed with the first.
	SealKeyIDs() ([]token.SealKeyID, error)
	// RotateSeal makes a new seal key, or returns ErrSealKeyNamed.
	RotateSeal(by limiter.Caller) error
	// PriceTable returns the prices by which limits in dollars are counted.
	PriceTable() *upstream.Prices
	// Forfeit opens a store that does not agree with its anchor, or a database that
	// went back in time, by counting every remaining budget as spent. With imagine it
	// only says what that would do.
	Forfeit(by limiter.Caller, imagine bool) (limiter.Repaired, error)
	// Lockdown returns the switch that refuses every key, even while the store is
	// closed.
	Lockdown() *limiter.Lockdown
	// SignInLink makes an address at which the caller signs in to the console once,
	// or returns ErrNoConsole. Its secret is in the fragment, which browsers do not
	// send.
	SignInLink(limiter.Caller) (address token.Secret, expires time.Time, err error)
	// Delivery reports how deliveries to the webhook at that address are going.
	Delivery(url string) wire.Delivery
	// Diagnose returns what is wrong with the configuration and its files.
	Diagnose() []wire.Finding
	// Ready returns why no key is admitted now, in words for strangers, or nil.
	Ready() error
	// Node is the name of this server among those that share the store, or "" if it
	// has the store for itself.
	Node() string
	// Files lists the files of the configuration that are checked while the server
	// runs.
	Files() []wire.File
	// BaseURL returns the public address of this server, or an empty string.
	BaseURL() string
}

// api serves the management API for one backend and one caller.
type api struct {
	backend Backend
	caller  limiter.Caller
	log     *slog.Logger
}

// apiError is an error with the status and code that the API answers with.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.message }

func invalid(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, "invalid_request", fmt.Sprintf(format, args...)}
}

// call is the function that carries out one call. It returns the answer, which is sent
// as JSON with the status of the operation; nil: there is no content. The limiter is
// nil for operations that work while the store is closed.
type call func(*api, *limiter.Limiter, *http.Request) (any, error)

// withStatus is an answer with a status other than its operation's.
type withStatus struct {
	status int
	answer any
}

func (a *api) handle(op *operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, call := a, op.call
		if r.URL.RawQuery != "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
			// A caller must not believe that a dry_run there takes effect.
			a.fail(w, invalid("%s takes no parameters in the address: write them as fields of the body", r.Method))
			return
		}
		if op.replay != nil && len(r.Header.Values(idempotencyHeader)) > 0 {
			repeatable, err := a.withIdempotencyKey(r)
			if err != nil {
				a.fail(w, err)
				return
			}
			a, call = repeatable, once(op.permission, call)
		}
		l, err := a.limiterFor(op)
		if err != nil {
			a.fail(w, err)
			return
		}
		if op.stream != nil {
			op.stream(a, l, w, r)
			return
		}
		answer, err := call(a, l, r)
		switch other, ok := answer.(withStatus); {
		case err != nil:
			a.fail(w, err)
		case answer == nil:
			w.WriteHeader(op.done())
		case ok:
			a.write(w, other.status, other.answer)
		default:
			a.write(w, op.done(), answer)
		}
	}
}

// limiterFor returns the limiter, or nil for an operation that works while the store is
// closed. Such an operation itself knows only whether its caller is the operator; where
// there is a store, its audit log learns of everybody else.
func (a *api) limiterFor(op *operation) (*limiter.Limiter, error) {
	if !op.closed {
		return a.limiter()
	}
	if l, err := a.backend.Limiter(); err == nil && op.permission != "" {
		return nil, l.Authorise(a.caller, op.permission)
	}
	return nil, nil
}

// limiter returns the limiter, or the error to answer with while the store is closed.
func (a *api) limiter() (*limiter.Limiter, error) {
	l, err := a.backend.Limiter()
	if err != nil {
		return nil, &apiError{http.StatusServiceUnavailable, "store_unavailable", err.Error()}
	}
	return l, nil
}

func (a *api) write(w http.ResponseWriter, status int, answer any) {
	announce(w, "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(answer); err != nil {
		a.log.Debug("answering a management call", "error", err)
	}
}

// announce sets the headers of an answer: its media type, and that no cache may
// keep it.
func announce(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// failures are the errors that are not about one field: the status and code of each, and
// the message that the caller reads if that is not the whole error.
var failures = []struct {
	is            error
	status        int
	code, message string
	again         string // after how many seconds the call may be repeated
}{
	{is: limiter.ErrToken, status: http.StatusUnauthorized, code: "unauthorized"},
	{is: limiter.ErrAttempts, status: http.StatusTooManyRequests, code: "too_many_attempts", again: "60"},
	{is: limiter.ErrReused, status: http.StatusUnprocessableEntity, code: "idempotency_key_reused", message: limiter.ErrReused.Error()},
	{is: limiter.ErrForbidden, status: http.StatusForbidden, code: "forbidden"},
	{is: store.ErrNotFound, status: http.StatusNotFound, code: "not_found", message: "there is no such key"},
	{is: limiter.ErrVersion, status: http.StatusPreconditionFailed, code: "version_mismatch"},
	{is: limiter.ErrDead, status: http.StatusConflict, code: "key_ended", message: limiter.ErrDead.Error()},
	{is: limiter.ErrAlive, status: http.StatusConflict, code: "key_alive", message: limiter.ErrAlive.Error()},
	{is: limiter.ErrFamily, status: http.StatusConflict, code: "key_alive", message: limiter.ErrFamily.Error()},
	{is: limiter.ErrInUse, status: http.StatusConflict, code: "key_alive", message: limiter.ErrInUse.Error()},
	{is: limiter.ErrReturned, status: http.StatusConflict, code: "key_ended", message: limiter.ErrReturned.Error()},
	{is: limiter.ErrParentEnded, status: http.StatusConflict, code: "parent_ended", message: limiter.ErrParentEnded.Error()},
	{is: commit.ErrBusy, status: http.StatusServiceUnavailable, code: "store_busy", message: commit.ErrBusy.Error(), again: "2"},
	{is: commit.ErrOutcome, status: http.StatusServiceUnavailable, code: "outcome_unknown"},
	{is: limiter.ErrJobs, status: http.StatusConflict, code: "too_many_jobs", message: limiter.ErrJobs.Error()},
	{is: limiter.ErrNoNode, status: http.StatusNotFound, code: "not_found", message: limiter.ErrNoNode.Error()},
	{is: limiter.ErrNodeLives, status: http.StatusConflict, code: "node_alive", message: limiter.ErrNodeLives.Error()},
	{is: limiter.ErrLockedAgain, status: http.StatusConflict, code: "locked_down", message: limiter.ErrLockedAgain.Error()},
	{is: limiter.ErrRevoked, status: http.StatusConflict, code: "key_revoked", message: limiter.ErrRevoked.Error()},
}

// partlyDone is the error of a call that has done a part of what it was asked for. Its
// answer says which part, and carries the error.
type partlyDone struct {
	err    error
	answer func(wire.Fault) any
}

func (e *partlyDone) Error() string { return e.err.Error() }

func (e *partlyDone) Unwrap() error { return e.err }

func (a *api) fail(w http.ResponseWriter, err error) {
	known, again, unexpected := a.explain(err)
	if known.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="till", error="invalid_token"`)
	}
	if again != "" {
		w.Header().Set("Retry-After", again)
	}
	if unexpected {
		a.log.Error("a management call failed", "error", a.here(err))
	}
	fault := wire.Fault{Code: known.code, Message: token.Scrub(known.message)}
	var answer any = map[string]wire.Fault{"error": fault}
	if part, ok := errors.AsType[*partlyDone](err); ok {
		answer = part.answer(fault)
	}
	a.write(w, known.status, answer)
}

// here returns an error as this server words it.
func (a *api) here(err error) error {
	if a.backend != nil && a.backend.Node() != "" { // there is none without the till app
		return store.AmongNodes(err)
	}
	return err
}

// explain returns the part of an error that the caller gets to see, and after how many seconds the
// call may be repeated, if that is known. An unexpected error goes to the log.
func (a *api) explain(err error) (known *apiError, again string, unexpected bool) {
	err = a.here(err)
	if known, ok := errors.AsType[*apiError](err); ok {
		return known, "", false
	}
	if wrong, ok := errors.AsType[*record.InvalidError](err); ok {
		return &apiError{http.StatusBadRequest, "invalid_request", wrong.Error()}, "", false
	}
	if above, ok := errors.AsType[*record.CeilingError](err); ok {
		return &apiError{http.StatusForbidden, "above_ceiling", above.Error()}, "", false
	}
	if short, ok := errors.AsType[*limiter.ShortError](err); ok {
		return &apiError{http.StatusConflict, "parent_budget", short.Error()}, "", false
	}
	for _, f := range failures {
		if errors.Is(err, f.is) {
			return &apiError{f.status, f.code, cmp.Or(f.message, err.Error())}, f.again, false
		}
	}
	known = &apiError{http.StatusServiceUnavailable, "store_unavailable", "the store could not do this: " + err.Error()}
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrStale) || errors.Is(err, store.ErrNoSpace) {
		return known, "2", false
	}
	return known, "", true
}

// NewHandler returns the management API for one caller. Its paths begin at "/":
// strip the prefix under which it is mounted.
func NewHandler(b Backend, caller limiter.Caller, log *slog.Logger) http.Handler {
	a := &api{backend: b, caller: caller, log: log}
	mux := http.NewServeMux()
	for pattern, op := range operations {
		mux.Handle(pattern, a.handle(&op))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := mux.Handler(r)
		if pattern == "" {
			a.fail(w, notRouted(w.Header(), mux, r))
			return
		}
		if err := checkParameters(r.URL.RawQuery); err != nil {
			a.fail(w, err)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// onlyParameter reads the one parameter that a call takes.
func onlyParameter(r *http.Request, only string) (value string, err error) {
	for name, values := range r.URL.Query() {
		if name != only || len(values) != 1 {
			return "", invalid("this call takes only %s, and only once, got %q", only, prose.Cut(name, 64))
		}
		value = values[0]
	}
	return value, nil
}

// notRouted is the error for an unknown path, or for a known path with a method
// that it does not have.
func notRouted(h http.Header, mux *http.ServeMux, r *http.Request) error {
	var offered []string
	for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := mux.Handler(probe); pattern != "" {
			offered = append(offered, method)
		}
	}
	if len(offered) > 0 {
		h.Set("Allow", strings.Join(offered, ", "))
		return &apiError{http.StatusMethodNotAllowed, "method_not_allowed",
			fmt.Sprintf("%s is not allowed on %s; the methods are: %s", r.Method, r.URL.Path, strings.Join(offered, ", "))}
	}
	return &apiError{http.StatusNotFound, "not_found", "there is nothing at " + r.URL.Path}
}

// checkParameters refuses parameters that are empty, or that cannot be read and would be
// left out: a script that filters by a variable which is not set, or by a text that it
// does not escape, would get everything. Only the cursor may be empty, for the first page.
func checkParameters(query string) error {
	q, err := url.ParseQuery(query)
	if err != nil {
		return invalid("the parameters of the address cannot be read: %v", err)
	}
	for name, values := range q {
		if name != "cursor" && slices.Contains(values, "") {
			return invalid("%s must not be empty: leave it out for everything", prose.Cut(name, 64))
		}
	}
	return nil
}
