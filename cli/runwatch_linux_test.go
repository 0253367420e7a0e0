package cli

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/wire"
)

// TestAWatcherReachesTheServerOnTheWayOfItsRun: through the same proxy, and with the same
// certificates. It is given no other variable.
func TestAWatcherReachesTheServerOnTheWayOfItsRun(t *testing.T) {
	// Not parallel: it sets the environment.
	t.Setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
	t.Setenv("SSL_CERT_FILE", "/etc/till-ca.crt")
	t.Setenv("OPENAI_API_KEY", "sk-real")
	w, err := watchWith(exec.Command("/bin/sh", "-c", `[ "$HTTPS_PROXY $SSL_CERT_FILE $OPENAI_API_KEY" = "http://proxy.example.com:3128 /etc/till-ca.crt " ] && echo ready`))
	if err != nil {
		t.Fatal(err)
	}
	w.dismiss()
}

// TestNobodyOpensTheConnectionOfAWatcher is about a process of the same user that
// looks at the watcher before it has concealed itself: what it opens then stays open.
// This watcher never conceals itself.
func TestNobodyOpensTheConnectionOfAWatcher(t *testing.T) {
	t.Parallel()
	w, err := watchWith(exec.Command("/bin/sh", "-c", "echo ready; read order"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.dismiss()
	var opened []*os.File
	for fd, how := range map[int]int{0: os.O_RDONLY, 1: os.O_WRONLY} {
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", w.process.Process.Pid, fd), how|syscall.O_NONBLOCK, 0)
		if err == nil {
			t.Errorf("descriptor %d of the watcher can be opened", fd)
			opened = append(opened, f)
			defer f.Close() //nolint:errcheck // it was only looked at
		}
	}
	if len(opened) == 0 {
		return
	}
	if err := w.order(&client{token: "till_admin_x"}, "http://here", []runKey{{Minted: &wire.Minted{KeyObject: &wire.KeyObject{}}}}); err != nil {
		t.Error(err)
	}
	order := make([]byte, 1000)
	_ = opened[0].SetReadDeadline(time.Now().Add(time.Second))
	n, err := opened[0].Read(order)
	t.Errorf("and what it was told is read there: %v %s", err, order[:n])
}
