package limiter

import (
	"net/netip"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// tellDeadEvery is how often the use of one dead key is told of.
const tellDeadEvery = int64(time.Hour)

// afterDeath counts the uses of a key that works no more, or never did: a
// canary. It is in memory only, because whoever has the string can cause it.
type afterDeath struct {
	n    int64 // not yet told of
	told int64 // unix nanoseconds; 0: never
	addr netip.Addr
	code record.Code
}

// recent reports whether a use was told of so lately that the next is not.
func (d *afterDeath) recent(nanos int64) bool { return d.told != 0 && nanos-d.told < tellDeadEvery }

// usedDead notes a refusal that may be of a dead key. The first is told of at
// once, those within the hour after it together. Callers hold the key.
func (k *Live) usedDead(now time.Time, r *record.Refusal, addr netip.Addr) {
	switch r.Code {
	case record.CodeKeyRevoked, record.CodeKeyExpired, record.CodeKeyIdle, record.CodeActivationsExhausted, record.CodeTokensExhausted, record.CodeSpendExhausted:
	default:
		return
	}
	// The budget of a role may be used up, and the key alive. A string that a
	// rotation replaced is as dead as a key.
	if status, _ := k.status(now); status == record.Active || status == record.Suspended {
		if r.Code != record.CodeKeyRevoked {
			return
		}
	}
	d := &k.dead
	d.n++
	d.code = r.Code
	if addr.IsValid() {
		d.addr = addr
	}
	if !d.recent(now.UnixNano()) {
		k.tellDead(now)
	}
}

// tellDead tells of the uses that were counted. Callers hold the key.
func (k *Live) tellDead(now time.Time) {
	d := &k.dead
	canary := k.key.Canary()
	e := Event{Name: KeyAfterDeath, Key: k.key, Code: d.code, Count: d.n, Canary: canary}
	if d.addr.IsValid() {
		e.From = d.addr.String()
	}
	k.l.tell(e)
	k.l.log.Warn("a key that works no more was used", "key_id", k.key.ID, "code", string(d.code), "uses", d.n, "from", e.From, "canary", canary)
	d.n, d.told = 0, now.UnixNano()
}

// sweepDead tells of uses that were held back. Callers hold the key.
func (k *Live) sweepDead(now time.Time) {
	if k.dead.n > 0 && !k.dead.recent(now.UnixNano()) {
		k.tellDead(now)
	}
}
