package till

import (
	"bytes"
	"io"
	"net/http"
	"strconv"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

// maxModelList is the longest list of models that is read, in bytes. The longest of any
// vendor today is below 1 MB.
const maxModelList = 8 << 20

// requestFullList makes an upstream answer with a list that can be read: not
// compressed, complete, and never with "not modified".
func requestFullList(h http.Header) {
	h["Accept-Encoding"] = []string{"identity"}
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range", "Range"} {
		delete(h, name)
	}
}

// filterModels removes from a list of models those that the key may not use.
func filterModels(res *http.Response, x *exchange) *record.Refusal {
	key := x.grant.Key()
	unread := func(why string) *record.Refusal {
		return key.Refuse(record.CodeUpstreamFailed, "got a list of models from upstream %s that cannot be reduced to the key's models: %s", key.Upstream, why)
	}
	if !decode(res, maxModelList+1) {
		return unread("it is compressed in a way that till does not know")
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxModelList+1))
	switch {
	case err != nil:
		return unread("it broke off or cannot be decoded")
	case len(body) > maxModelList:
		return unread("it is too long")
	case len(body) == 0: // the answer to HEAD
		res.Header.Del("Content-Length")
		res.ContentLength = -1
		return nil
	}
	list, err := upstream.FilterModels(body, x.models)
	if err != nil {
		return unread(err.Error())
	}
	res.Body = bodyFrom{bytes.NewReader(list), res.Body}
	res.ContentLength = int64(len(list))
	res.Header["Content-Length"] = []string{strconv.Itoa(len(list))}
	for _, name := range representation {
		delete(res.Header, name)
	}
	return nil
}
