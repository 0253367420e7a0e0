package postgres

import (
	"errors"
	"testing"
)

// TestAServerThatLacksACommitOfThisNodeIsNotTrusted: the former one acknowledged the commit
// after the new one was asked what it has.
func TestAServerThatLacksACommitOfThisNodeIsNotTrusted(t *testing.T) {
	t.Parallel()
	const former, next = 1, 2
	s := &Store{options: Options{Node: "one"}, instance: instance{past: &past{left: make(map[int64]bool)}}}
	if _, err := s.choose(state{instance: former}); err != nil {
		t.Fatal(err)
	}
	s.instance.trusted.Store(former)
	now := state{instance: next, commits: map[string]int64{"one": 1}}
	if !s.acknowledge(2, former) {
		t.Error("a commit of the server in use is not acknowledged")
	}
	if _, err := s.choose(now); !errors.Is(err, errUnvouched) {
		t.Errorf("choose: %v, want that it is not vouched for", err)
	}
	if s.acknowledge(3, former) {
		t.Error("a commit of a server that was left is acknowledged")
	}
	// A commit may be acknowledged in the same way while the server stays the same.
	now.commits["one"] = 2
	if _, err := s.choose(now); err != nil {
		t.Error(err)
	}
	s.instance.trusted.Store(next)
	if !s.acknowledge(3, next) {
		t.Error("a commit of the new server is not acknowledged")
	}
	if acked, err := s.choose(now); acked != 3 || err != nil {
		t.Errorf("choose: %d, %v", acked, err)
	}
}
