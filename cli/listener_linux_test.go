package cli

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

// TestNothingIsSentToOneWhoCannotBeSeen: who has left when it is asked who listens may
// have been anybody.
func TestNothingIsSentToOneWhoCannotBeSeen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort(l.Addr().String())
	if err := trusted(to, to.String()); err != nil {
		t.Errorf("one's own: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, unseen := errors.AsType[*strangerError](trusted(to, to.String())); !unseen {
		t.Error("one who has left is trusted")
	}
}
