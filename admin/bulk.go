package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/till-proxy/till/limiter"
)

// bulkJSON is a job as callers see it.
type bulkJSON struct {
	Matched int64 `json:"matched"`
	Revoked int64 `json:"revoked"`
	// AlreadyRevoked are those of matched that had been revoked before.
	AlreadyRevoked int64 `json:"already_revoked"`
	StreamsCut     int   `json:"streams_cut"`
	DryRun         bool  `json:"dry_run,omitempty"`

	Job    string     `json:"job,omitempty"`
	Done   *bool      `json:"done,omitempty"`
	At     *time.Time `json:"at,omitempty"`
	By     string     `json:"by,omitempty"`
	Reason string     `json:"reason,omitempty"`
	// Failure is why it does not go on now.
	Failure string `json:"failure,omitempty"`
}

func jobJSON(j limiter.Job) bulkJSON {
	done := j.Done()
	return bulkJSON{
		Matched: j.Matched, Revoked: j.Revoked, AlreadyRevoked: j.Already, StreamsCut: j.Cut,
		Job: strconv.FormatInt(j.Number, 10), Done: &done, At: &j.At, By: j.By, Reason: j.Reason, Failure: j.Failure,
	}
}

// revokeMany ends all keys that match a filter. It answers when that is done,
// unless it is told not to wait.
func (a *api) revokeMany(l *limiter.Limiter, r *http.Request) (int, any, error) {
	body := revokeManyBody{Wait: true}
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	q := url.Values{}
	for name, value := range body.Filter {
		switch {
		case name == "sort" || name == "limit" || name == "cursor":
			return 0, nil, invalid("filter: %s chooses no keys", name)
		case value == "":
			return 0, nil, invalid("filter: %s must not be empty", cut(name, 64))
		}
		q.Set(name, value)
	}
	f, err := filterOf(q)
	if err != nil {
		return 0, nil, err
	}
	if body.All == (len(body.Filter) > 0) {
		return 0, nil, invalid(`say which keys: "filter" with at least one of status, upstream, role, owner, created_by, parent, name, label.NAME, unused_for, q; or "all": true for every key`)
	}
	for _, id := range body.Except {
		// One that is misspelt would end.
		if _, err := l.Get(r.Context(), a.caller, id); err != nil {
			return 0, nil, invalid("except: %s: %v", cut(id, 64), err)
		}
	}
	f.Except = body.Except
	if body.DryRun {
		matched, revocable, err := l.CountMatches(r.Context(), a.caller, f)
		return http.StatusOK, bulkJSON{Matched: matched, AlreadyRevoked: matched - revocable, DryRun: true}, err
	}
	j, err := l.RevokeMany(a.caller, f, body.All, body.Reason)
	if err != nil {
		return 0, nil, err
	}
	if !body.Wait {
		return http.StatusAccepted, jobJSON(j), nil
	}
	if j, err = l.Await(r.Context(), a.caller, j.Number); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, jobJSON(j), nil
}

func (a *api) jobs(l *limiter.Limiter, _ *http.Request) (int, any, error) {
	jobs, err := l.Jobs(a.caller)
	all := make([]bulkJSON, 0, len(jobs))
	for _, j := range jobs {
		all = append(all, jobJSON(j))
	}
	return http.StatusOK, jobsAnswer{all}, err
}

func (a *api) job(l *limiter.Limiter, r *http.Request) (int, any, error) {
	j, err := l.JobOf(a.caller, r.PathValue("id"))
	if errors.Is(err, limiter.ErrNotFound) {
		err = &apiError{http.StatusNotFound, "not_found", "there is no such job"}
	}
	return http.StatusOK, jobJSON(j), err
}

// bulkFilters are the flags of revoke --all, and what they are called in the
// API.
var bulkFilters = map[string]string{
	"status": "active, exhausted, expired or suspended", "upstream": "keys for this upstream",
	"role": "keys of this role", "owner": "keys of this owner", "created-by": "keys minted by this caller",
	"parent": "children of the key with this id or name", "name": "keys with exactly this name",
	"unused-for": "keys unused for at least this long: 7d", "q": "beginning of an id or name",
}

// bulk is revoke --all.
type bulk struct {
	all, dryRun, yes bool
	filters          map[string]*string
	labels           map[string]string
	except           []string
}

func (b *bulk) flags(f *pflag.FlagSet) {
	b.filters = make(map[string]*string)
	f.BoolVar(&b.all, "all", false, "revoke every key that matches these flags:")
	for name, help := range bulkFilters {
		b.filters[name] = f.String(name, "", "with --all: "+help)
	}
	f.StringToStringVar(&b.labels, "label", nil, "with --all: NAME=VALUE, repeatable")
	f.StringSliceVar(&b.except, "except", nil, "with --all: not this key, by its id or whole name; repeatable")
	f.BoolVar(&b.dryRun, "dry-run", false, "with --all: only say how many that are")
	f.BoolVar(&b.yes, "yes", false, "with --all: do not ask first")
}

// given is one of the flags that was given, or empty.
func (b *bulk) given(f *pflag.FlagSet) string {
	for _, name := range append(sorted(b.filters), "label", "except", "dry-run", "yes") {
		if f.Changed(name) {
			return name
		}
	}
	return ""
}

// filter is what the flags pick; empty for every key.
func (b *bulk) filter() (map[string]string, error) {
	picked := make(map[string]string)
	for name, value := range b.filters {
		if *value != "" {
			picked[strings.ReplaceAll(name, "-", "_")] = *value
		}
	}
	for name, value := range b.labels {
		picked["label."+name] = value
	}
	if mistaken(picked["q"]) {
		return nil, errKeyString
	}
	return picked, nil
}

func (b *bulk) run(cmd *cobra.Command, f *common, reason string) error {
	filter, err := b.filter()
	if err != nil {
		return err
	}
	ask := map[string]any{"dry_run": true}
	if len(filter) > 0 {
		ask["filter"] = filter
	} else {
		ask["all"] = true
	}
	c, err := f.client()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if parent := filter["parent"]; parent != "" {
		if filter["parent"], err = c.parent(ctx, parent); err != nil {
			return err
		}
	}
	var except []string
	for _, name := range b.except {
		k, err := c.find(ctx, name, exactly)
		if err != nil {
			return fmt.Errorf("--except: %w", err)
		}
		except = append(except, k.ID)
	}
	if except != nil {
		ask["except"] = except
	}
	c.http.Timeout = 0 // many keys take their time
	p := showProgress(cmd.ErrOrStderr(), "Counting", inKeys)
	defer p.end()
	var found bulkJSON
	raw, err := c.raw(ctx, "POST", "/keys/revoke", ask)
	if err != nil {
		return err
	}
	if err := readable(raw, &found); err != nil {
		return err
	}
	p.end()
	left := found.Matched - found.AlreadyRevoked
	if b.dryRun || left == 0 {
		if f.json {
			return printJSON(cmd.OutOrStdout(), raw)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s would be revoked%s.\n", keysOf(left), alreadyOf(found))
		return err
	}
	if !b.yes {
		if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), left); err != nil {
			return err
		}
	}
	ask = maps.Clone(ask)
	delete(ask, "dry_run")
	ask["reason"], ask["wait"] = reason, false
	var now bulkJSON
	if raw, err = c.raw(ctx, "POST", "/keys/revoke", ask); err != nil {
		return err
	}
	p = showProgress(cmd.ErrOrStderr(), "Revoking", inKeys)
	defer p.end()
	p.of(left)
	for {
		now = bulkJSON{}
		if err := readable(raw, &now); err != nil {
			return err
		}
		p.set(now.Revoked)
		if now.Done == nil || *now.Done {
			break
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("%w; the keys are refused already, and job %s goes on", err, now.Job)
		}
		if raw, err = c.raw(ctx, "GET", "/jobs/"+url.PathEscape(now.Job), nil); err != nil {
			return fmt.Errorf("the keys are refused already, and job %s goes on: %w", now.Job, err)
		}
	}
	p.end()
	if f.json {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Revoked %s%s, and ended %s.\n", keysOf(now.Revoked), alreadyOf(now), counted(int64(now.StreamsCut), "running request"))
	return err
}

func keysOf(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return humanize.Comma(n) + " keys"
}

func alreadyOf(b bulkJSON) string {
	if b.AlreadyRevoked == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s had been before)", humanize.Comma(b.AlreadyRevoked))
}

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// confirm asks whoever sits at the terminal to type how many keys end.
func confirm(in io.Reader, out io.Writer, n int64) error {
	file, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return usage("%s would be revoked for ever: say --yes, as nobody is there to be asked", keysOf(n))
	}
	return confirmed(file, out, n)
}

func confirmed(in io.Reader, out io.Writer, n int64) error {
	fmt.Fprintf(out, "%s will be revoked for ever. Type the number to go on: ", keysOf(n))
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && line == "" {
		return fmt.Errorf("nothing was revoked: %w", err)
	}
	if got := strings.ReplaceAll(strings.TrimSpace(line), ",", ""); got != strconv.FormatInt(n, 10) {
		return fmt.Errorf("nothing was revoked: the number is %d", n)
	}
	return nil
}
