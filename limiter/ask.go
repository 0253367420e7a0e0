package limiter

import (
	"net/netip"

	"github.com/till-proxy/till/limiter/record"
)

// Ask is one request, as far as limits and scope are concerned.
type Ask struct {
	// Bound is the most that the request can use of each kind. A kind left
	// at zero is not debited.
	Bound record.Amounts
	// Fit, if not nil, returns the bound in tokens and nano-dollars once it is
	// known what is left of each: it may lower what the request can use. It
	// is called under locks, perhaps more than once, and must only compute.
	Fit func(left record.Amounts) record.Amounts
	// Refine, if not nil, works out the bound again, for Fit to return: answers to other
	// requests may have revealed more about the input of this one. It is called without
	// locks, before the request is refused for being too large. If something that may
	// soon be over keeps it from finding out more, so that the same request may fit
	// later, it returns the refusal that says so.
	Refine func() *record.Refusal
	// Help is the remedy that a refusal names where the bound is more than is
	// left. Default: a lower max_tokens.
	Help string
	// Free requests take nothing, but need a live key and count against its
	// rate, or 60 a minute when it has none.
	Free bool
	// Listens says that the request only opens a stream of events, in which it
	// waits for what others do. Such streams have places of their own: a key that
	// may run N requests at a time may keep N of them open besides.
	Listens bool
	// Own says that the request is about the key itself and is not forwarded: what
	// the scope says about methods, paths and models does not apply.
	Own bool

	// String is which of the key's strings the request came with; see Number.
	String int64

	Addr   netip.Addr // the client
	Method string     // as sent
	Path   string     // decoded, in the upstream's own form
	// Version is how many bytes of Path are a version that rules may leave out.
	Version int
	// Destination is another path of the request, in the same form. Elsewhere is
	// the part of the request that names a path which cannot be judged, or empty.
	Destination, Elsewhere string
	DestinationVersion     int // as Version
	// Override is a parameter that makes some servers treat the request as one with
	// another method or path, or empty.
	Override string
	Models   []string // every model the request names; see Named

	// Named says that the request names the model that is to answer, and Listing
	// that it asks for no answer by a model that could be chosen. A key that lists
	// models admits no other request.
	Named, Listing bool

	// Terms are those that the request was read under. If they no longer apply, it
	// is not admitted; see [record.Refusal.Moved]. The zero value is not compared.
	Terms Terms

	// Waits says that the request may wait for budget that others hold, and Keeps is how
	// many bytes it keeps in memory meanwhile; see [Options].
	Waits bool
	Keeps int64

	// OnCut is called at most once, from another goroutine, when the key is
	// stopped while the request runs. It must not block.
	OnCut func(*record.Refusal)
}

// Terms are what the records say about how a request has to be read before it is
// reserved: the records of its key, of the key's ancestors, and of its role's budget.
// Reading takes time, in which the records may change. So a request carries the terms
// under which it was read, and is reserved only where they still suffice; see
// [record.Refusal.Moved].
type Terms struct {
	// Models says that a key lists models, so those of the request must be known.
	Models bool
	// Tokens and Dollars say that the key or its role has a limit in them, so what
	// the request can use at most must be known.
	Tokens, Dollars bool
	// KeepBound and CountOnly are those of the topmost key: all keys below it are
	// parts of it.
	KeepBound, CountOnly bool
	// MaxRequestSpend is the lowest of the key's and its ancestors', in nano-dollars; 0:
	// none has one.
	MaxRequestSpend int64

	known bool // the zero value is of no key, and is compared with none
}
