package limiter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// hooked gives every node a webhook.
func hooked(w *world) { w.hooks = []event.Hook{{URL: hookURL}} }

func TestAMessageIsDeliveredByOneNodeForAll(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		for _, w := range c.w {
			w.mint(activations(1))
			w.mint(activations(1))
		}
		for _, w := range c.w {
			if n := w.pending(); n != 4 {
				t.Errorf("%s says that %d messages wait", w.node, n)
			}
		}
		if due, next, err := others[0].Outbox().Due(hookURL, 10); err != nil || len(due) != 0 || next <= 0 || next > time.Second {
			t.Errorf("a node that does not lead gets %v, and shall look again in %s, %v", due, next, err)
		}
		_, messages := leads.waiting()
		seen := make(map[string]bool)
		for i, m := range messages {
			seen[m.ID] = true
			if i > 0 && !messages[i-1].At.Before(m.At) {
				t.Errorf("message %d is of %s, the one before of %s", i, m.At, messages[i-1].At)
			}
		}
		if len(seen) != 4 {
			t.Fatalf("%d different messages of %d", len(seen), len(messages))
		}
		if err := leads.Outbox().Forget(hookURL, messages[0]); err != nil {
			t.Fatal(err)
		}
		if err := others[0].Outbox().Forget(hookURL, messages[0]); err != nil { // it led a moment ago
			t.Fatal(err)
		}
		for _, w := range c.w {
			if n := w.pending(); n != 3 {
				t.Errorf("after one was delivered, %s says that %d wait", w.node, n)
			}
		}
		c.restartKilled(leads, false)
		leads, _ = c.leader()
		if all, _ := leads.waiting(); len(all) != 3 {
			t.Errorf("another node finds %q", all)
		}
	}, hooked)
}

func TestAThresholdThatNodesCrossTogetherIsToldOnce(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		leads, _ := c.leader()
		var feeds []*event.Feed
		for _, w := range c.w {
			f, err := w.Subscribe(limiter.Operator)
			if err != nil {
				t.Fatal(err)
			}
			feeds = append(feeds, f)
		}
		k := leads.mint(activations(99))
		told := func() (percents []string) {
			c.sweep()
			_, messages := leads.waiting()
			for _, m := range messages {
				if m.Event == event.KeyThreshold {
					_, rest, _ := strings.Cut(string(m.Payload), `"percent":`)
					percent, _, _ := strings.Cut(rest, ",")
					percents = append(percents, percent)
				}
			}
			return percents
		}
		use := func(times int) { // on each
			for range times {
				for _, w := range c.w {
					if code := k.on(w).use(); code != "" {
						t.Fatalf("%s answers %q", w.node, code)
					}
				}
			}
		}
		for _, step := range []struct {
			each int
			want []string
		}{{16, nil}, {4, []string{"50"}}, {8, []string{"50", "80"}}} { // 48, 60 and 84 of 99
			use(step.each)
			if got := told(); !slices.Equal(got, step.want) {
				t.Errorf("after %d more on each, %q were told, want %q", step.each, got, step.want)
			}
		}
		for _, f := range feeds {
			n := 0
			for _, name := range heardOn(t, f) {
				if name == "key_threshold " {
					n++
				}
			}
			if n != 2 {
				t.Errorf("a feed tells of %d", n)
			}
		}
		if _, err := c.w[2].GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 101}); err != nil {
			t.Fatal(err)
		}
		c.felt(c.w[2])
		use(6) // 102 of 200
		if got, want := told(), []string{"50", "80", "50"}; !slices.Equal(got, want) {
			t.Errorf("of the new limit were told %q, want %q", got, want)
		}
	}, hooked)
}

func TestMessagesAreBoundedOverAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		others[0].mint(activations(1))
		v := common(t, c, "outbox")
		if !strings.Contains(v, `:1}`) {
			t.Fatalf("the nodes have in common %s", v)
		}
		if err := leads.WriteCommon("outbox", strings.Replace(v, `:1}`, `:9999}`, 1)); err != nil {
			t.Fatal(err)
		}
		others[0].mint(activations(1))
		others[0].mint(activations(1))
		leads.mint(activations(1))
		for _, w := range c.w {
			hooks, err := w.ListHooks(limiter.Operator)
			if err != nil || hooks[0].Pending != 10_000 {
				t.Errorf("%s says %+v, %v", w.node, hooks, err)
			}
		}
		if all, _ := leads.waiting(); len(all) != 2 {
			t.Errorf("%d messages", len(all))
		}
	}, hooked)
}

// common is what nodes have in common.
func common(t *testing.T, c *nodes, what string) (text string) {
	t.Helper()
	err := c.View(func(r store.Reader) error {
		v, err := r.Get(record.CommonKey(what))
		text = string(v)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAMessageForAWebhookThatOnlyAnotherNodeKnowsWaits(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		const newer = "https://newer.example.com/"
		if err := others[0].Outbox().SetHooks([]event.Hook{{URL: hookURL}, {URL: newer}}); err != nil {
			t.Fatal(err)
		}
		others[0].mint(activations(1))
		if err := leads.Outbox().SetHooks([]event.Hook{{URL: hookURL}}); err != nil { // an older configuration starts again
			t.Fatal(err)
		}
		leads.SweepAdmin()
		if due, _, err := leads.Outbox().Due(newer, 10); err != nil || len(due) != 1 {
			t.Errorf("%d messages wait, %v", len(due), err)
		}
		c.Advance(4 * 24 * time.Hour)
		c.settle()
		leads.SweepAdmin()
		if due, _, err := leads.Outbox().Due(newer, 10); err != nil || len(due) != 0 {
			t.Errorf("days later %d messages wait, %v", len(due), err)
		}
		if all, _ := leads.waiting(); len(all) != 1 {
			t.Errorf("of the webhook that all know, %q wait", all)
		}
		hooks, err := others[0].ListHooks(limiter.Operator)
		if err != nil || hooks[0].Pending != 1 || hooks[1].Pending != 0 {
			t.Errorf("they are counted as %+v, %v", hooks, err)
		}
	}, hooked)
}

// TestWebhooksThatComeWhileTheDatabaseIsAwayGetWhatHappensOnceItIsBack: a reload does not
// come again.
func TestWebhooksThatComeWhileTheDatabaseIsAwayGetWhatHappensOnceItIsBack(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, _ := c.leader()
		c.Stop()
		for _, w := range c.w {
			if err := w.Outbox().SetHooks([]event.Hook{{URL: hookURL}}); err != nil {
				t.Error(err)
			}
		}
		c.Start()
		c.pass(10 * time.Second)
		leads.mint(activations(1))
		if n := leads.pending(); n != 1 {
			t.Errorf("%d messages wait, want 1", n)
		}
	})
}

// TestSettingWebhooksDoesNotWaitForTheOutcomeOfACommit, which is known once the database is
// back: a reload would hang for that long, and a stop behind it.
func TestSettingWebhooksDoesNotWaitForTheOutcomeOfACommit(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		w := c.w[1]
		k := c.w[0].mint(activations(10)).on(w)
		c.Inject(func(node string) storetest.Outcome {
			if node == w.node {
				return storetest.CutCommitted
			}
			return storetest.Committed
		})
		go k.use()
		synctest.Wait()
		if c.Reaches(w.node) {
			t.Fatal("no commit has lost its answer")
		}
		const last = "https://last.example.com/"
		for _, url := range []string{hookURL, last} {
			set := make(chan error, 1)
			go func() { set <- w.Outbox().SetHooks([]event.Hook{{URL: url}}) }()
			time.Sleep(patience + time.Second)
			select {
			case err := <-set:
				if err != nil {
					t.Error(err)
				}
			default:
				t.Fatal("it still waits")
			}
		}
		c.Inject(nil)
		c.Heal(w.node)
		synctest.Wait()
		w.mint(activations(1))
		if hooks, err := w.Outbox().Hooks(); err != nil || len(hooks) != 1 || hooks[0].URL != last || hooks[0].Pending != 1 {
			t.Errorf("once the database is back, the webhooks are %+v, %v", hooks, err)
		}
	})
}
