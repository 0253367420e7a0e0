package limiter

import (
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// Filter picks keys for a list. Empty fields pick all.
type Filter struct {
	Status    record.Status
	Upstream  string
	Role      string
	Owner     string
	CreatedBy string
	// Parent is a key's id: it picks that key's children.
	Parent string
	// Name is the whole name, in its exact case.
	Name   string
	Labels map[string]string
	// UnusedFor picks keys that were not used for at least this long, or, if
	// never used, were minted at least that long ago.
	UnusedFor time.Duration
	// CreatedBefore picks keys that were minted before this moment.
	CreatedBefore time.Time `json:",omitzero"`
	// Query is the beginning of an id or of a name (in any case).
	Query string

	// Fingerprint picks keys that depend on a credential: those with a box that
	// holds it, and those with held custody of the upstreams in Holders, whose
	// requests go out with it.
	Fingerprint string
	Holders     []string

	// Except are the ids of keys that are left out, at most [MaxExcept].
	Except []string `json:",omitempty"`
	// Within picks keys that were minted by a token or under a role.
	Within *Within `json:",omitempty"`
	// Thorough asks for all that has to be found in the store alone, without
	// what memory knows.
	Thorough bool `json:"-"`

	// Sort is "-created" (newest first), "created", "-last_used" or "last_used",
	// which is accurate to a minute; a key that was never used is placed by when it was
	// minted. Default: the longest unused first where only UnusedFor is set,
	// otherwise "-created".
	Sort string
	// Limit is the size of a page. Default: 50. At most 500.
	Limit int
	// Cursor is the Next of the previous page.
	Cursor string
}

// MaxExcept bounds what a filter leaves out: each key is compared with all of it.
const MaxExcept = 1000

// Within is what a caller sees; see [record.Sight].
type Within struct{ Token, Role string }

// FilterField is one of the names under which the management API picks and orders
// keys.
type FilterField struct {
	Name, Doc string
	// Orders says that it orders keys or pages through them, and picks none.
	Orders bool
	// Bulk says that errors name it to callers who revoke many keys.
	Bulk bool

	at func(*Filter) *string // nil: it is not text
	of func(*View) string    // what has to be equal; nil: it is compared in another way
}

// FilterFields lists every FilterField.
var FilterFields = []FilterField{
	{Name: "status", Doc: record.Either(record.Statuses[:]), Bulk: true,
		at: func(f *Filter) *string { return (*string)(&f.Status) }, of: func(v *View) string { return string(v.Status) }},
	{Name: "upstream", Doc: "keys for this upstream", Bulk: true, at: func(f *Filter) *string { return &f.Upstream }, of: func(v *View) string { return v.Upstream }},
	{Name: "role", Doc: "keys of this role", Bulk: true, at: func(f *Filter) *string { return &f.Role }, of: func(v *View) string { return v.Role }},
	{Name: "owner", Doc: "keys of this owner", Bulk: true, at: func(f *Filter) *string { return &f.Owner }, of: func(v *View) string { return v.Owner }},
	{Name: "created_by", Doc: "keys minted by this caller", Bulk: true, at: func(f *Filter) *string { return &f.CreatedBy }, of: func(v *View) string { return v.CreatedBy }},
	{Name: "parent", Doc: "children of the key with this id", Bulk: true, at: func(f *Filter) *string { return &f.Parent }, of: func(v *View) string { return v.Parent }},
	{Name: "name", Doc: "keys with exactly this name", Bulk: true, at: func(f *Filter) *string { return &f.Name }, of: func(v *View) string { return v.Name }},
	{Name: "label.NAME", Doc: "keys with this value of the label NAME; repeatable for other labels", Bulk: true},
	{Name: "unused_for", Doc: "keys unused for at least this long", Bulk: true},
	{Name: "created_before", Doc: "keys minted before this time, or longer ago than this", Bulk: true},
	{Name: "credential_fingerprint", Doc: "keys that depend on this real key", at: func(f *Filter) *string { return &f.Fingerprint }},
	{Name: "q", Doc: "the beginning of an id or name", Bulk: true, at: func(f *Filter) *string { return &f.Query }},
	{Name: "sort", Doc: "the order; a leading - reverses it", Orders: true, at: func(f *Filter) *string { return &f.Sort }},
	{Name: "limit", Doc: "how many at most; default 50, at most 500", Orders: true},
	{Name: "cursor", Doc: "next of the previous page", Orders: true, at: func(f *Filter) *string { return &f.Cursor }},
}

// BulkNames are the names of the fields by which many keys can be revoked at once.
func BulkNames() string {
	var names []string
	for _, field := range FilterFields {
		if field.Bulk {
			names = append(names, field.Name)
		}
	}
	return strings.Join(names, ", ")
}

// Set sets a field from text, and reports whether there is such a text field.
func (f *Filter) Set(name, value string) bool {
	for _, field := range FilterFields {
		if field.Name == name && field.at != nil {
			*field.at(f) = value
			return true
		}
	}
	return false
}

func (f *Filter) validate() error {
	if n := len(f.Except); n > MaxExcept {
		return record.Invalid("except", "may have at most %d ids, got %d", MaxExcept, n)
	}
	switch f.Sort {
	case "", "-created", "created", "last_used", "-last_used":
	default:
		return record.Invalid("sort", `must be "created", "-created", "last_used" or "-last_used", got %q`, f.Sort)
	}
	if f.Status != "" && !slices.Contains(record.Statuses[:], f.Status) {
		return record.Invalid("status", "must be %s, got %q", record.Either(record.Statuses[:]), f.Status)
	}
	return nil
}

// empty reports whether a filter picks every key.
func (f *Filter) empty() bool {
	for _, field := range FilterFields {
		if field.at != nil && !field.Orders && field.Name != "q" && *field.at(f) != "" {
			return false
		}
	}
	return len(f.Labels) == 0 && f.UnusedFor <= 0 && f.CreatedBefore.IsZero() && !f.named()
}

// named reports whether the query is more than the beginning of every id.
func (f *Filter) named() bool { return f.Query != "" && !strings.HasPrefix(record.IDPrefix, f.Query) }

// byUse reports whether what a filter picks depends on more than the records.
func (f *Filter) byUse() bool { return f.Status != "" || f.UnusedFor > 0 }

func (f *Filter) picks(v *View, now time.Time) bool {
	for i := range FilterFields {
		if of := FilterFields[i].of; of != nil {
			if want := *FilterFields[i].at(f); want != "" && of(v) != want {
				return false
			}
		}
	}
	if f.Query != "" && !strings.HasPrefix(v.ID, f.Query) && !strings.HasPrefix(strings.ToLower(v.Name), strings.ToLower(f.Query)) {
		return false
	}
	if w := f.Within; w != nil && v.Token != w.Token && (w.Role == "" || v.Role != w.Role) {
		return false
	}
	if slices.Contains(f.Except, v.ID) { // after Within, so that nobody's list makes the keys of others wait
		return false
	}
	if !f.CreatedBefore.IsZero() && !v.CreatedAt.Before(f.CreatedBefore) {
		return false
	}
	for name, want := range f.Labels {
		if v.Labels[name] != want {
			return false
		}
	}
	if f.Fingerprint != "" && !v.dependsOn(f.Fingerprint) &&
		!(v.Custody != record.CustodySealed && v.EndedStatus != record.Revoked && slices.Contains(f.Holders, v.Upstream)) {
		return false
	}
	since := v.LastUsedAt
	if since.IsZero() {
		since = v.CreatedAt
	}
	return f.UnusedFor <= 0 || now.Sub(since) >= f.UnusedFor
}

// dependsOn reports whether a box of the key that still opens holds the
// credential.
func (v *View) dependsOn(fingerprint string) bool {
	return v.EndedStatus != record.Revoked && (v.Fingerprint == fingerprint ||
		slices.ContainsFunc(v.Former, func(f record.Former) bool { return f.Fingerprint == fingerprint }))
}
