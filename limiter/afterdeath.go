package limiter

import (
	"net/netip"
	"time"

	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// reportDeadEvery is the shortest time between two reports of uses of one dead key.
const reportDeadEvery = time.Hour

// afterDeath counts the uses of a key that no longer works, or of a canary, which
// never did. It is in memory only, because anybody who has the string can use it.
type afterDeath struct {
	n        int64      // uses not yet reported
	reported int64      // unix nanoseconds of the last report; 0: never
	addr     netip.Addr // of the last of them
	code     record.Code
}

// recent reports whether the last report is too recent for another one. That report may lie
// in the future, if the clock had run ahead.
func (d *afterDeath) recent(nanos int64) bool {
	return d.reported != 0 && time.Duration(nanos-d.reported).Abs() < reportDeadEvery
}

// usedDead notes a refusal that may be of a dead key. The first use is reported
// at once, and those of the hour after it together. Callers hold the key.
func (k *Live) usedDead(now time.Time, r *record.Refusal, addr netip.Addr) {
	if !r.Code.Ended() {
		return
	}
	// A key is alive even if the budget of its role is used up. A string that a rotation
	// replaced is as dead as a key.
	if status, _ := k.status(now); !status.Ended() && r.Code != record.CodeKeyRevoked {
		return
	}
	d := &k.dead
	d.n++
	d.code = r.Code
	if addr.IsValid() {
		d.addr = addr
	}
	if !d.recent(now.UnixNano()) {
		k.reportDead(now)
	}
}

// reportDead reports the uses that were counted. Callers hold the key.
func (k *Live) reportDead(now time.Time) {
	d := &k.dead
	canary := k.key.Canary()
	e := event.Event{Name: event.KeyAfterDeath, Key: k.key, Code: d.code, Count: d.n, Canary: canary}
	if d.addr.IsValid() {
		e.From = d.addr.String()
	}
	k.l.emit(e)
	k.l.log.Warn("a key that no longer works was used", "key_id", k.key.ID, "code", string(d.code), "uses", d.n, "from", e.From, "canary", canary)
	d.n, d.reported, d.addr = 0, now.UnixNano(), netip.Addr{}
}

// sweepDead reports uses that were held back. Callers hold the key.
func (k *Live) sweepDead(now time.Time) {
	if k.dead.n > 0 && !k.dead.recent(now.UnixNano()) {
		k.reportDead(now)
	}
}
