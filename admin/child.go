package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// maxChildBody bounds the body of a holder's mint, in bytes. It is many times the
// size of what a key may hold.
const maxChildBody = 128 << 10

// childBody is the body with which the holder of a key mints a child key.
type childBody struct {
	wire.Settable
	Upstream  *string `json:"upstream"`
	Provider  *string `json:"provider"`
	Unlimited bool    `json:"unlimited"`
	Delegate  bool    `json:"delegate"`

	// The holder cannot choose these. They are here so that the error can say so;
	// it quotes neither, because one is a credential.
	Role        json.RawMessage `json:"role"`
	UpstreamKey json.RawMessage `json:"upstream_key"`
}

// ReadChild reads the body with which a child of a key is minted. Fields that are left
// out are taken from the parent, except for the limits, which must be given. StatusOf
// gives the HTTP status of an error.
func ReadChild(r *http.Request, parent *record.Key, dialect string, now time.Time) (child *record.Key, unlimited bool, err error) {
	var body childBody
	if err := readBodyOf(r, &body, maxChildBody); err != nil {
		return nil, false, err
	}
	for _, name := range fieldsGiven(reflect.ValueOf(body)) {
		if f := record.FieldNamed(name); name == "upstream_key" || f != nil && f.OfParent {
			return nil, false, invalid("%s cannot be set on a child key: it is its parent's", name)
		}
	}
	for field, name := range map[string]*string{"upstream": body.Upstream, "provider": body.Provider} {
		if name != nil && *name != parent.Upstream {
			return nil, false, invalid("%s must be %s, as in the parent key, or be left out", field, parent.Upstream)
		}
	}
	child = parent.Child()
	child.Delegate = body.Delegate
	if err := apply(&body.Settable, child, now); err != nil {
		return nil, false, err
	}
	return child, body.Unlimited, meterable(child, dialect)
}

func fieldsGiven(body reflect.Value) (names []string) {
	for _, f := range reflect.VisibleFields(body.Type()) {
		if name, named := f.Tag.Lookup("json"); named && !body.FieldByIndex(f.Index).IsZero() {
			names = append(names, name)
		}
	}
	return names
}

// StatusOf is the HTTP status of an error about a mistake in a call, and 0 for any
// other error.
func StatusOf(err error) int {
	if known, ok := errors.AsType[*apiError](err); ok {
		return known.status
	}
	_, wrong := errors.AsType[*record.InvalidError](err)
	_, above := errors.AsType[*record.CeilingError](err)
	if wrong || above {
		return http.StatusBadRequest
	}
	return 0
}

// ChildJSON is the answer to the mint of a child: the key object as the parent's
// holder set it, and the child's string, which is shown only this once.
func ChildJSON(v limiter.View, scopedKey, baseURL string) any {
	k := HolderJSON(v)
	k.Version, k.Custody, k.CreatedBy = v.Version, v.Custody, v.CreatedBy
	k.Purpose, k.Labels, k.Metadata = v.Purpose, v.Labels, v.Metadata
	return &wire.Minted{KeyObject: k, ScopedKey: scopedKey, BaseURL: baseURL}
}
