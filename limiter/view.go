package limiter

import (
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// View is a key with what it has used: what operators and holders are shown.
type View struct {
	record.Key
	Status      record.Status
	Used        record.Amounts // settled, since the last renewal
	Past        record.Amounts // settled before it
	RenewsAt    time.Time      // zero: never
	Held        record.Amounts // reserved by requests in flight
	Kinds       record.TokenKinds
	Remaining   record.Amounts // limit - used - held - delegated - returned, never below 0; NoLimit where unlimited
	Delegated   record.Amounts // with child keys, or used by them
	Returned    record.Amounts // to the parent, when the key had ended
	Children    int            // child keys whose remaining budget has not come back
	InFlight    int            // requests running now
	FirstUsedAt time.Time      // zero: never used
	LastUsedAt  time.Time
	LastAddr    string // last client address admitted
	// Unsalted says that the key is sealed, and that the salt which opens the box of
	// its string is not in the store: a backup had left it out.
	Unsalted bool
	// Pending names the nodes that have not yet followed the act whose outcome this
	// is; see [Limiter.Pending].
	Pending []string
}
