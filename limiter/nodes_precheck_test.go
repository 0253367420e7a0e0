package limiter_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// unread are the ways in which a request is refused before it is reserved.
var unread = map[string]func(*limiter.Live, *limiter.Ask) *record.Refusal{
	"before its body is read": func(k *limiter.Live, a *limiter.Ask) *record.Refusal { return k.Precheck(ctx, a) },
	"by another rule": func(k *limiter.Live, a *limiter.Ask) *record.Refusal {
		r := k.Refuse(ctx, a, &record.Refusal{Code: record.CodeBadRequest})
		if r.Code == record.CodeBadRequest {
			return nil
		}
		return r
	},
}

// TestARequestIsNotRefusedUnreadByWhatAnotherNodeKnowsBetter: when and from where a key was
// used is asked of the store before that refuses a request, also before its body is read.
func TestARequestIsNotRefusedUnreadByWhatAnotherNodeKnowsBetter(t *testing.T) {
	for name, test := range map[string]struct {
		set     func(*record.Key)
		used    bool // on the first node
		refused record.Code
	}{
		"it may not be idle":                    {func(k *record.Key) { k.IdleTimeout = time.Hour }, true, ""},
		"it had to be used in time":             {func(k *record.Key) { k.FirstUseWithin = 30 * time.Minute }, true, ""},
		"it may not be idle, and was":           {func(k *record.Key) { k.IdleTimeout = time.Hour }, false, record.CodeKeyIdle},
		"it had to be used in time, and wasn't": {func(k *record.Key) { k.FirstUseWithin = 30 * time.Minute }, false, record.CodeKeyExpired},
	} {
		for how, refuse := range unread {
			t.Run(name+", "+how, func(t *testing.T) {
				withNodes(t, 2, func(t *testing.T, c *nodes) {
					k := c.w[0].mint(test.set)
					live, refusal := c.w[1].Find(ctx, k.lookup) // it has the key in memory, and hears nothing of its use
					if refusal != nil {
						t.Fatal(refusal)
					}
					for range 4 {
						if test.used {
							if code := k.use(); code != "" {
								t.Fatal(code)
							}
						}
						c.pass(20 * time.Minute)
					}
					if test.used {
						c.sweep()
					}
					refusal = refuse(live, &limiter.Ask{
						Bound:  record.Amounts{record.Activations: 1},
						Method: "POST", Path: "/v1/chat/completions", Addr: netip.MustParseAddr("192.0.2.1"),
					})
					if code := codeOf(refusal); code != test.refused {
						t.Errorf("the other node says %q, want %q", code, test.refused)
					}
				})
			})
		}
	}
}
