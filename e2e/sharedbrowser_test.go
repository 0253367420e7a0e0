package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/semaphore"
)

// browserPlaces bounds how many flows use a browser at a time: each takes a good
// part of a small machine.
var browserPlaces = semaphore.NewWeighted(2)

// sharedBrowser is a browser that all flows use, each in a context of its own: to
// start one costs more than most flows do.
type sharedBrowser struct {
	address string
	cmd     *exec.Cmd
	end     io.Closer
}

var (
	browsers     sync.Mutex // held while it is started and ended
	theBrowser   *sharedBrowser
	browserFault error
)

// browserAddress starts the browser unless it runs.
func browserAddress(t *testing.T) string {
	t.Helper()
	browsers.Lock()
	defer browsers.Unlock()
	if theBrowser == nil && browserFault == nil {
		theBrowser, browserFault = startBrowser()
	}
	if browserFault != nil {
		t.Fatal(browserFault)
	}
	return theBrowser.address
}

func startBrowser() (*sharedBrowser, error) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return nil, errors.New("chromium is not installed; run: make test (or: ./scripts/need.sh chromium)")
	}
	if _, err := os.Stat("browser/node_modules/playwright-core"); err != nil {
		return nil, errors.New("playwright-core is not installed; run: make test (or: npm ci, in e2e/browser)")
	}
	cmd := exec.Command("node", "browser/server.mjs")
	endWithTests(cmd)
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium)
	said := new(syncBuffer)
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the browser does not start: %w\n%s", errors.Join(err, in.Close(), cmd.Wait()), said)
	}
	return &sharedBrowser{strings.TrimSpace(address), cmd, in}, nil
}

// endBrowser ends the browser after all tests.
func endBrowser() error {
	browsers.Lock()
	defer browsers.Unlock()
	if theBrowser == nil {
		return nil
	}
	return errors.Join(theBrowser.end.Close(), theBrowser.cmd.Wait())
}
