package limiter

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// query is the cheapest way to the keys that a filter picks: one or several runs of
// index entries, merged by their order, whose keys are then compared with the whole
// filter.
type query struct {
	sources []*source
	reverse bool
}

// source is one run of entries in the store, or of ids in memory. What follows
// the prefix is the entry's place in the order.
type source struct {
	prefix []byte
	after  []byte // exclusive; nil: from the edge
	until  []byte // inclusive; nil: to the other edge
	fixed  []string

	buffer [][]byte
	ended  bool
}

// sourceChunk is how many entries are read at a time.
const sourceChunk = 256

// peek returns the next entry, without the prefix; nil at the end.
func (s *source) peek(r store.Reader, reverse bool) ([]byte, error) {
	if len(s.buffer) == 0 && !s.ended {
		if err := s.fill(r, reverse); err != nil {
			return nil, err
		}
	}
	if len(s.buffer) == 0 {
		return nil, nil
	}
	return s.buffer[0], nil
}

func (s *source) fill(r store.Reader, reverse bool) error {
	if s.prefix == nil {
		s.ended = true
		for _, id := range s.fixed {
			if s.after == nil || !reverse && id > string(s.after) || reverse && id < string(s.after) {
				s.buffer = append(s.buffer, []byte(id))
			}
		}
		if reverse {
			slices.Reverse(s.buffer)
		}
		return nil
	}
	s.ended = true
	return r.Scan(s.prefix, s.after, reverse, func(key, _ []byte) (bool, error) {
		if s.until != nil && (!reverse && bytes.Compare(key, s.until) > 0 || reverse && bytes.Compare(key, s.until) < 0) {
			return false, nil
		}
		s.buffer = append(s.buffer, bytes.Clone(key[len(s.prefix):]))
		if len(s.buffer) < sourceChunk {
			return true, nil
		}
		s.after, s.ended = bytes.Clone(key), false
		return false, nil
	})
}

// next returns the key of the next entry, and the cursor that continues after it. No
// id is returned twice in a row.
func (q *query) next(r store.Reader) (id string, cursor []byte, err error) {
	for _, s := range q.sources {
		at, err := s.peek(r, q.reverse)
		if err != nil {
			return "", nil, err
		}
		if at != nil && (cursor == nil || (bytes.Compare(at, cursor) < 0) != q.reverse) {
			cursor = at
		}
	}
	if cursor == nil {
		return "", nil, nil
	}
	for _, s := range q.sources {
		if at, err := s.peek(r, q.reverse); err != nil {
			return "", nil, err
		} else if bytes.Equal(at, cursor) {
			s.buffer = s.buffer[1:]
		}
	}
	return idOf(cursor), cursor, nil
}

// firstStep is how many entries a query takes first: most lists end with the first page.
const firstStep = 64

// take returns the next entries, n at most; none at the end.
func (q *query) take(r store.Reader, n int) (some []position, err error) {
	for len(some) < n {
		id, cursor, err := q.next(r)
		if err != nil || cursor == nil {
			return some, err
		}
		some = append(some, position{id, cursor})
	}
	return some, nil
}

// start continues after a cursor.
func (q *query) start(cursor string) error {
	if cursor == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		_, err = record.KeyAccount(idOf(b))
	}
	if err != nil {
		return record.Invalid("cursor", "must be the next of an earlier page of the same list")
	}
	for _, s := range q.sources {
		s.after = append(bytes.Clone(s.prefix), b...)
	}
	return nil
}

// maxNamed bounds how many keys with a name are sorted. With more of them, a search
// of all keys fills a page just as well.
const maxNamed = 10_000

// named lists the keys whose id or name begins with a text, unless there are too
// many.
func named(r store.Reader, text string) (ids []string, whole bool, err error) {
	for _, prefix := range [][]byte{record.RecordKey(text), append(indexSpace(byName), strings.ToLower(text)...)} {
		err := r.Scan(prefix, nil, false, func(key, _ []byte) (bool, error) {
			ids = append(ids, idOf(key))
			return len(ids) <= maxNamed, nil
		})
		if err != nil {
			return nil, false, err
		}
	}
	return ids, len(ids) <= maxNamed, nil
}

// query plans how to find the keys that the filter picks, of those that the caller sees.
func (l *Limiter) query(r store.Reader, by Caller, f *Filter, now time.Time) (*query, error) {
	value := func(kind byte, value string) *source { return &source{prefix: indexPrefix(kind, value)} }
	q := &query{reverse: f.Sort == "" || strings.HasPrefix(f.Sort, "-")}
	kind, of := f.indexed()
	idle := f.UnusedFor > 0 && f.Sort == "" && kind == 0
	switch {
	case strings.HasSuffix(f.Sort, "last_used"), idle:
		s := &source{prefix: indexSpace(byLastUse)}
		if f.UnusedFor > 0 {
			newest := indexTime(byLastUse, now.Add(-f.UnusedFor).Unix()/60+1, "")
			if q.reverse = q.reverse && !idle; q.reverse {
				s.after = newest
			} else {
				s.until = newest
			}
		}
		q.sources = []*source{s}
		return q, nil
	case f.named():
		ids, whole, err := named(r, f.Query)
		if err != nil {
			return nil, err
		}
		if whole {
			q.sources = []*source{fixedSource(ids)}
			return q, nil
		}
	}
	switch kind {
	case 0:
	case byFingerprint:
		q.sources = []*source{value(kind, of)}
		for _, upstream := range f.Holders {
			q.sources = append(q.sources, value(byUpstream, upstream))
		}
	case byStatus:
		var err error
		if q.sources, err = l.statusSources(r, f.Status, now); err != nil {
			return nil, err
		}
	default:
		q.sources = []*source{value(kind, of)}
	}
	if seen := l.seenSources(by); seen != nil && (len(q.sources) == 0 || f.Owner == "" && f.CreatedBy == "" && f.Fingerprint == "" && f.Name == "" && f.Parent == "") {
		q.sources = seen
	}
	if len(q.sources) == 0 {
		q.sources = []*source{{prefix: []byte(record.SpaceKeys)}}
	}
	return q, nil
}

// indexed is the index that leads to the fewest keys, as far as can be known, and the value
// under which it lists them; 0 if there is none.
func (f *Filter) indexed() (kind byte, value string) {
	switch {
	case f.Fingerprint != "":
		return byFingerprint, f.Fingerprint
	case f.Name != "":
		return byName, strings.ToLower(f.Name)
	case f.Parent != "":
		return byCreator, f.Parent // a child was made by its parent, under the parent's id
	case f.Owner != "":
		return byOwner, f.Owner
	case f.CreatedBy != "":
		return byCreator, f.CreatedBy
	case f.Role != "":
		return byRole, f.Role
	case f.Status == record.Suspended || f.Status == record.Revoked || !f.Thorough && (f.Status == record.Expired || f.Status == record.Exhausted):
		return byStatus, string(f.Status)
	case f.Upstream != "":
		return byUpstream, f.Upstream
	case f.Status == record.Active:
		return byStatus, string(f.Status)
	}
	return 0, ""
}

// seenSources lead to the keys that a caller with limited sight sees; nil for callers
// who see all.
func (a *authority) seenSources(by Caller) []*source {
	if by.Role == record.OperatorRole || by.Token == "" {
		return nil
	}
	role := a.policy(by.Role)
	if role == nil || role.Sees == record.SeesAll {
		return nil
	}
	sources := []*source{{prefix: indexPrefix(byToken, by.Token)}}
	if role.Sees == record.SeesRole {
		sources = append(sources, &source{prefix: indexPrefix(byRole, by.Role)})
	}
	return sources
}

// walk calls fn for each key that the filter picks and the caller sees, until fn
// returns false or many keys were looked at. It returns the cursor from which to
// continue, which is empty at the end.
func (l *Limiter) walk(ctx context.Context, r store.Reader, by Caller, f *Filter, fn func(View) bool) (next string, err error) {
	now := l.clock.Now()
	return l.scan(ctx, r, by, f, record.MaxLookedAt, func(id string) (bool, error) {
		value, there, err := store.Find(r, record.RecordKey(id))
		if err != nil || !there { // the entry's key is not there
			return true, err
		}
		view, err := l.viewOf(r, id, value, now)
		if l.leaveOut("listing keys", id, err) {
			return true, nil
		}
		if err != nil || !f.picks(&view, now) || !l.Sees(by, &view.Key) {
			return true, err
		}
		return fn(view), nil
	})
}
