package limiter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestWhatIsBeingMintedDuringACountIsNotEnded: the count does not know of a key that is not
// committed yet, however long the disk takes for that.
func TestWhatIsBeingMintedDuringACountIsNotEnded(t *testing.T) {
	t.Parallel()
	for name, queued := range map[string]bool{"while it is committed": false, "while it waits for another commit": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // time passes only while all wait
				w := newWorld(t)
				pass := func(d time.Duration) {
					time.Sleep(d)
					w.clock.advance(d)
					synctest.Wait()
				}
				counted := w.mint(ownedBy("anna"))
				pass(time.Second)
				var release func()
				minted := make(chan *key, 1)
				if queued {
					release = w.hang()
					go func() { minted <- w.mint(ownedBy("anna")) }()
				} else {
					gate := make(chan struct{})
					w.disk.BeforeCommit(func(int) { <-gate })
					go func() { minted <- w.mint(ownedBy("anna")) }()
					release = func() { w.disk.BeforeCommit(nil); close(gate) }
				}
				synctest.Wait()
				pass(time.Second)
				f := limiter.Filter{Owner: "anna"}
				n, err := w.CountMatches(ctx, limiter.Operator, f)
				if err != nil || n.Matched != 1 {
					t.Fatalf("counted %+v, %v", n, err)
				}
				release()
				later := <-minted
				f.CreatedBefore = n.Before
				j, err := w.RevokeMany(limiter.Operator, f, false, "left")
				if err != nil {
					t.Fatal(err)
				}
				if done := w.await(t, j); done.Matched != n.Matched || done.Revoked != n.Revocable {
					t.Errorf("counted %+v, and ended %+v", n, done)
				}
				if was, is := counted.use(), later.use(); was != record.CodeKeyRevoked || is != "" {
					t.Errorf("the key that was counted answers %q, the later one %q", was, is)
				}
				w.Abandon()
			})
		})
	}
}
