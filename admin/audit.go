package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
)

func (a *api) audit(l *limiter.Limiter, r *http.Request) (any, error) {
	f, err := auditFilterOf(r.URL.Query(), l.Time())
	if err != nil {
		return nil, err
	}
	page, err := l.Audit(r.Context(), a.caller, f)
	answer := wire.ListedEntries{Entries: make([]json.RawMessage, 0, len(page.Entries)), Next: page.Next, Partial: page.Partial}
	for _, line := range page.Entries {
		answer.Entries = append(answer.Entries, line)
	}
	return answer, err
}

func auditFilterOf(q url.Values, now time.Time) (f audit.Filter, err error) {
	for name, values := range q {
		if len(values) != 1 {
			return f, invalid("%s may be given once", name)
		}
		value := values[0]
		switch name {
		case "since":
			if err := since(&f, value, now); err != nil {
				return f, err
			}
		case "actor":
			f.Actor = value
		case "action":
			f.Action = value
		case "key":
			f.Key = value
		case "sort":
			if value != "seq" && value != "-seq" {
				return f, invalid(`sort must be "seq" or "-seq", got %q`, value)
			}
			f.Newest = value == "-seq"
		case "cursor":
			f.Cursor = value
		case "limit":
			if f.Limit, err = pageSize(value); err != nil {
				return f, err
			}
		default:
			return f, invalid("unknown filter %q; the filters are since, actor, action, key, sort, limit, cursor", name)
		}
	}
	return f, nil
}

// since reads where a list begins: at the number of an entry, at a time, or a
// duration ago.
func since(f *audit.Filter, value string, now time.Time) error {
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		f.From = n
		return nil
	}
	t, err := moment(value, now)
	if err != nil {
		return invalid("since must be a seq, %v", err)
	}
	f.Since = t
	return nil
}

// moment reads a time, or how long ago it was.
func moment(value string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, value); err == nil && !t.IsZero() {
		return t.UTC(), nil
	}
	if d, err := caddy.ParseDuration(value); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("a time such as 2026-12-31T18:00:00Z, or how long ago, such as 24h; got %q", value)
}

func (a *api) verifyAudit(l *limiter.Limiter, r *http.Request) (any, error) {
	return wire.VerdictOf(l.AuditVerify(r.Context(), a.caller))
}
