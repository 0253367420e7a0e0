package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sync/semaphore"
)

// browserPlaces bounds how many flows use the browser at a time: each takes a good part of
// a small machine.
var browserPlaces = semaphore.NewWeighted(2)

// sharedBrowser goes through the flows of browser/flows.mjs: one program and one browser
// for all, because to start them costs more than most flows do.
type sharedBrowser struct {
	cmd  *exec.Cmd
	said *syncBuffer

	mu      sync.Mutex
	in      io.WriteCloser
	last    int
	waiting map[int]chan<- flowEnd // nil: it has ended
}

// flowEnd is a line of its output.
type flowEnd struct {
	ID    int             `json:"id"`
	Value json.RawMessage `json:"value"`
	Error string          `json:"error"`
}

var (
	browsers     sync.Mutex // held while it is started and ended
	theBrowser   *sharedBrowser
	browserFault error
)

// runningBrowser starts it unless it runs.
func runningBrowser() (*sharedBrowser, error) {
	browsers.Lock()
	defer browsers.Unlock()
	if theBrowser == nil && browserFault == nil {
		theBrowser, browserFault = startBrowser()
	}
	return theBrowser, browserFault
}

func startBrowser() (*sharedBrowser, error) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return nil, errors.New("chromium is not installed; run: make test (or: ./scripts/need.sh chromium)")
	}
	if _, err := os.Stat("browser/node_modules/playwright-core"); err != nil {
		return nil, errors.New("playwright-core is not installed; run: make test (or: npm ci, in e2e/browser)")
	}
	b := &sharedBrowser{cmd: exec.Command("node", "browser/flows.mjs"), said: new(syncBuffer), waiting: make(map[int]chan<- flowEnd)}
	endWithTests(b.cmd)
	b.cmd.Env = append(os.Environ(), "CHROMIUM="+chromium)
	b.cmd.Stderr = b.said
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	go b.deliver(json.NewDecoder(out))
	return b, nil
}

// deliver hands every end to whom it concerns, until the program ends.
func (b *sharedBrowser) deliver(ends *json.Decoder) {
	for {
		var end flowEnd
		err := ends.Decode(&end)
		b.mu.Lock()
		if err != nil {
			for _, end := range b.waiting {
				end <- flowEnd{Error: fmt.Sprintf("the browser's program has ended (%v):\n%s", err, b.said)}
			}
			b.waiting = nil
			b.mu.Unlock()
			return
		}
		if to := b.waiting[end.ID]; to != nil {
			to <- end
			delete(b.waiting, end.ID)
		}
		b.mu.Unlock()
	}
}

// begin asks for a flow; its end comes through the channel.
func (b *sharedBrowser) begin(flow string, plan object) (<-chan flowEnd, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		return nil, fmt.Errorf("the browser's program has ended:\n%s", b.said)
	}
	b.last++
	line, err := json.Marshal(object{"id": b.last, "flow": flow, "plan": plan})
	if err != nil {
		return nil, err
	}
	end := make(chan flowEnd, 1)
	b.waiting[b.last] = end
	_, err = b.in.Write(append(line, '\n'))
	return end, err
}

// goThrough goes through a flow, and returns what that returns.
func goThrough(ctx context.Context, flow string, plan object) (json.RawMessage, error) {
	b, err := runningBrowser()
	if err != nil {
		return nil, err
	}
	ended, err := b.begin(flow, plan)
	if err != nil {
		return nil, err
	}
	select {
	case end := <-ended:
		if end.Error != "" {
			return nil, errors.New(end.Error)
		}
		return end.Value, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// endBrowser ends the browser after all tests.
func endBrowser() error {
	browsers.Lock()
	defer browsers.Unlock()
	if theBrowser == nil {
		return nil
	}
	if err := errors.Join(theBrowser.in.Close(), theBrowser.cmd.Wait()); err != nil {
		return fmt.Errorf("ending the browser: %w\n%s", err, bytes.TrimSpace([]byte(theBrowser.said.String())))
	}
	return nil
}
