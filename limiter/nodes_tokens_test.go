package limiter_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

func TestAnAdminTokenWorksOnAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		text, by := a.hire(limiter.Operator, "anna", record.OperatorRole)
		c.felt(a)
		c.Advance(time.Hour)
		c.settle()
		if caller, err := b.Authenticate(text, "192.0.2.1"); err != nil || caller.Token != by.Token {
			t.Fatalf("the other node says %+v, %v", caller, err)
		}
		used := b.Now()
		b.SweepAdmin()
		c.felt(b)
		a.SweepAdmin() // it was used there an hour before
		for _, w := range c.w {
			all, err := w.ListTokens(limiter.Operator)
			if err != nil || len(all) != 1 || !all[0].LastUsedAt.Equal(used) {
				t.Errorf("%s lists %+v, %v; it was used at %s", w.node, all, err, used)
			}
		}
		if _, err := b.RevokeToken(limiter.Operator, by.Token); err != nil {
			t.Fatal(err)
		}
		c.felt(b)
		if _, err := a.Authenticate(text, "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
			t.Errorf("a token that another node has revoked is answered %v", err)
		}
	})
}

func TestANameStandsForOneTokenOverAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		why := []string{"no other token has", "must not look like that of another"}
		for i, names := range [][2]string{{"anna", "anna"}, {"cope", "\u0441\u043e\u0440\u0435"}} {
			for _, w := range c.w {
				c.Lose(w.node, true) // neither has heard of the other's
			}
			errs := make(chan error, 2)
			for n, w := range c.w {
				_, lookup, err := token.MintAdmin()
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					_, err := w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: names[n], Role: record.OperatorRole})
					errs <- err
				}()
			}
			var taken *record.InvalidError
			first, second := <-errs, <-errs
			if first != nil {
				first, second = second, first
			}
			if first != nil || !errors.As(second, &taken) || !strings.Contains(second.Error(), why[i]) {
				t.Errorf("%q: answered %v and %v", names, first, second)
			}
			for _, w := range c.w {
				c.Lose(w.node, false)
			}
			c.felt(c.w[0])
			c.felt(c.w[1])
			for _, w := range c.w {
				if all, err := w.ListTokens(limiter.Operator); err != nil || len(all) != i+1 {
					t.Errorf("%s lists %+v, %v", w.node, all, err)
				}
			}
		}
	})
}
