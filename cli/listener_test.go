package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestWhoListensIsReadFromTheKernelsTables: what a machine's tables said, where several
// users listen at several addresses.
func TestWhoListensIsReadFromTheKernelsTables(t *testing.T) {
	t.Parallel()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n"
	line := func(local, state, uid string) string {
		return "   0: " + local + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000 " + uid + "        0 2283413 2 00000000e29fb85f 100 0 0 10 0                   \n"
	}
	const (
		loopback, anywhere = "0100007F:07E3", "00000000:07E3"
		loopback6          = "00000000000000000000000001000000:07E3"
		anywhere6          = "00000000000000000000000000000000:07E3"
		mapped             = "0000000000000000FFFF00000100007F:07E3"
	)
	for name, test := range map[string]struct {
		four, six string
		to        string // "" is 127.0.0.1
		refused   string // "" is not
	}{
		"the packaged user":              {four: line(loopback, "0A", "  998")},
		"root":                           {four: line(loopback, "0A", "    0")},
		"oneself":                        {four: line(loopback, "0A", " 1000")},
		"a stranger":                     {four: line(loopback, "0A", " 1001"), refused: "user 1001"},
		"at any address":                 {four: line(anywhere, "0A", " 1001"), refused: "user 1001"},
		"at any, of both protocols":      {six: line(anywhere6, "0A", " 1001"), refused: "user 1001"},
		"written as IPv6":                {six: line(mapped, "0A", " 1001"), refused: "user 1001"},
		"beside the exact one":           {four: line(loopback, "0A", "  998"), six: line(anywhere6, "0A", " 1001")},
		"the other protocol's loopback":  {four: line(loopback, "0A", "  998"), six: line(loopback6, "0A", " 1001")},
		"asked for it":                   {four: line(loopback, "0A", "  998"), six: line(loopback6, "0A", " 1001"), to: "[::1]:2019", refused: "user 1001"},
		"IPv6 asked, anywhere in IPv4":   {four: line(anywhere, "0A", "  998"), to: "[::1]:2019", refused: "cannot be seen"},
		"one of two":                     {four: line(loopback, "0A", "  998") + line(loopback, "0A", " 1001"), refused: "user 1001"},
		"at another port":                {four: line("0100007F:07E4", "0A", "  998"), refused: "cannot be seen"},
		"a connection, and no listener":  {four: line(loopback, "01", "  998"), refused: "cannot be seen"},
		"a connection beside a listener": {four: line(loopback, "01", " 1001") + line(loopback, "0A", "  998")},
		"nobody":                         {refused: "cannot be seen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all []listener
			for _, table := range []string{test.four, test.six} {
				found, err := listenersIn(strings.NewReader(head + table))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, found...)
			}
			to := netip.MustParseAddrPort("127.0.0.1:2019")
			if test.to != "" {
				to = netip.MustParseAddrPort(test.to)
			}
			err := checkListeners(accepting(to, all), []int{0, 1000, 998}, "localhost:2019")
			if (err != nil) != (test.refused != "") || err != nil && (!strings.Contains(err.Error(), test.refused) || !strings.Contains(err.Error(), "TILL_ADDRESS")) {
				t.Errorf("it says %v, want %q", err, test.refused)
			}
		})
	}
	for _, broken := range []string{line("0100007F", "0A", "0"), line("01007F:07E3", "0A", "0"), line("X100007F:07E3", "0A", "0"), line(loopback, "0A", "root")} {
		if _, err := listenersIn(strings.NewReader(head + broken)); err == nil {
			t.Errorf("taken: %s", broken)
		}
	}
}

// TestTheNumberOfUnknownUsersIsNobodysOwn: within a user namespace the kernel names by it
// everybody from outside. Elsewhere it is the user nobody, as whom many containers run.
func TestTheNumberOfUnknownUsersIsNobodysOwn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		caller         int
		unique, trusts bool
	}{{1000, true, true}, {1000, false, true}, {65534, true, true}, {65534, false, false}} {
		own := trustedUsers(test.caller, test.unique)
		if slices.Contains(own, test.caller) != test.trusts || !slices.Contains(own, 0) {
			t.Errorf("user %d, with unique numbers: %t, trusts %d", test.caller, test.unique, own)
		}
	}
}

// TestOnlyWhereNobodyListensAnotherAddressIsDialled: whoever keeps a server too busy to
// answer must not be asked in its place.
func TestOnlyWhereNobodyListensAnotherAddressIsDialled(t *testing.T) {
	t.Parallel()
	const windows = syscall.Errno(10061)
	for err, want := range map[error]bool{
		nil: false, syscall.ECONNREFUSED: true, windows: true,
		syscall.EADDRNOTAVAIL: false, syscall.ETIMEDOUT: false, context.DeadlineExceeded: false,
	} {
		if got := nobodyListens(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}

// TestLocalhostIs127001: a server listens there, and somebody else at ::1, which the
// resolver prefers.
func TestLocalhostIs127001(t *testing.T) {
	t.Parallel()
	serve := func(l net.Listener, says string) {
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, says) })}
		t.Cleanup(func() { _ = s.Close() })
		go func() { _ = s.Serve(l) }()
	}
	own, others, port := bothLoopbacks(t)
	serve(own, "the server")
	serve(others, "somebody else")
	for _, address := range []string{"localhost:" + port, "LOCALHOST:" + port, ":" + port, "http://localhost:" + port} {
		for _, wary := range []bool{false, true} {
			c, err := clientAt(address, wary)
			if err != nil {
				t.Fatal(err)
			}
			if said, err := c.raw(t.Context(), "GET", "/stats", nil); err != nil || string(said) != "the server" {
				t.Errorf("%s: %q, %v", address, said, err)
			}
		}
	}
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := clientAt("localhost:"+port, false)
	if err != nil {
		t.Fatal(err)
	}
	if said, err := c.raw(t.Context(), "GET", "/stats", nil); err != nil || string(said) != "somebody else" {
		t.Errorf("where only ::1 is listened at: %q, %v", said, err)
	}
}

// bothLoopbacks listens at a port that is free at both addresses of localhost.
func bothLoopbacks(t *testing.T) (four, six net.Listener, port string) {
	t.Helper()
	for {
		four, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if _, port, err = net.SplitHostPort(four.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if six, err = net.Listen("tcp", "[::1]:"+port); err == nil {
			return four, six, port
		}
		if err := four.Close(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Skipf("this machine has no ::1: %v", err)
		}
	}
}
