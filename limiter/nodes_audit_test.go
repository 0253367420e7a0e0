package limiter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
)

func TestNodesWriteOneAuditLog(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		first := a.mint(activations(1))
		second := b.mint(activations(1))
		if _, _, err := b.Revoke(ctx, limiter.Operator, first.id, ""); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Revoke(ctx, limiter.Operator, second.id, ""); err != nil {
			t.Fatal(err)
		}
		lines := strings.Join(b.auditLines(), "\n") + "\n"
		var heads [2]audit.Hash
		for i, w := range c.w { // whoever has written last
			v, err := w.AuditVerify(ctx, limiter.Operator)
			if err != nil || v.Entries != 4 {
				t.Errorf("%s verifies %+v, %v", w.node, v, err)
			}
			seq, head, err := w.AuditHead()
			if heads[i] = head; err != nil || seq != 4 {
				t.Errorf("%s says that it ends with entry %d, %v", w.node, seq, err)
			}
		}
		if _, err := audit.Verify(strings.NewReader(lines), &heads[1]); err != nil || heads[0] != heads[1] {
			t.Errorf("the heads are %s and %s, %v", heads[0], heads[1], err)
		}
	})
}

func TestANodePrunesTheAuditLogOfAll(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		for range 3 {
			others[0].mint(activations(1))
		}
		c.Advance(60 * 24 * time.Hour)
		c.settle()
		others[0].mint(activations(1))
		for _, w := range c.w {
			w.KeepAudit(30 * 24 * time.Hour)
			w.SweepAdmin()
		}
		others[0].mint(activations(1))
		leads.mint(activations(1))
		for _, w := range c.w {
			v, err := w.AuditVerify(ctx, limiter.Operator)
			if err != nil || v.First != 4 || v.Entries != 4 {
				t.Errorf("%s verifies %+v, %v", w.node, v, err)
			}
		}
		var prunes int
		for _, line := range leads.auditLines() {
			prunes += strings.Count(line, audit.ActAuditPrune)
		}
		if prunes != 1 {
			t.Errorf("it was pruned %d times", prunes)
		}
	})
}
