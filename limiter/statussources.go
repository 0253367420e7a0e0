package limiter

import (
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The index by status knows the recorded status, but the status of a key is
// derived: a key whose time is over has expired at that moment, and the sweeper
// records it some seconds later. So a list by status is made of the index and of
// the keys that it does not have under that status yet, and every key is judged again:
//
//   - expired: recorded, and those that are due in the time index
//   - exhausted: recorded, those in memory, and renewing keys, which have no
//     recorded end while their window lasts
//   - suspended: recorded, and those whose end had been recorded before
//   - active, revoked: recorded, except those that have another status
//     by now
//   - the status of children depends on the keys above, so each is looked at

// maxDue bounds how many due keys a list by status looks at.
const maxDue = 1000

func (c *cache) statusSources(r store.Reader, status record.Status, now time.Time) ([]*source, error) {
	sources := []*source{{prefix: indexPrefix(byStatus, string(status))}}
	if status != record.Active && status != record.Exhausted {
		sources = append(sources, &source{prefix: indexPrefix(byParent, "")})
	}
	switch status {
	case record.Suspended: // also keys that had ended before, which the index has as ended
		for _, ended := range []record.Status{record.Expired, record.Exhausted} {
			sources = append(sources, &source{prefix: indexPrefix(byStatus, string(ended))})
		}
	case record.Expired:
		due, err := entriesUntil(r, []byte(record.SpaceDue), nil, now.Unix(), maxDue)
		if err != nil {
			return nil, err
		}
		sources = append(sources, fixedSource(idsOf(due)))
	case record.Exhausted:
		for _, renewal := range record.Renewals {
			sources = append(sources, &source{prefix: indexPrefix(byRenewal, string(renewal))})
		}
		var ids []string
		for _, k := range c.everyActive() {
			k.mu.Lock()
			if status, _ := k.status(now); status == record.Exhausted && !k.gone {
				ids = append(ids, k.key.ID)
			}
			k.mu.Unlock()
		}
		sources = append(sources, fixedSource(ids))
	}
	return sources, nil
}

func fixedSource(ids []string) *source {
	slices.Sort(ids)
	return &source{fixed: slices.Compact(ids)}
}
