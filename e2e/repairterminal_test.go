package e2e

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestARepairAsksAtATerminalAndChangesNothingWithoutAYes answers its question in all the
// ways that a person has.
func TestARepairAsksAtATerminalAndChangesNothingWithoutAYes(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	s := newNode(t, database.DSN(), "till-a", options{})
	s.isReady()
	_, key := s.mint(object{"max_activations": 10})
	doubted := func() bool {
		return database.Exec(t, "SELECT doubt IS NOT NULL FROM till.state")[0] == "t"
	}
	database.Exec(t, "UPDATE till.state SET doubt = 'a test says so'")
	s.eventually("the node is closed", s.inDoubt)
	asked := func(answer string) (said string, status int) {
		t.Helper()
		cmd := s.command("till", "repair", "--forfeit")
		terminal := startInTerminal(t, cmd)
		defer terminal.Close()
		in := bufio.NewReader(terminal)
		for !strings.HasSuffix(said, "Type forfeit to go on: ") {
			b, err := in.ReadByte()
			if err != nil {
				t.Fatalf("it does not ask: %v\n%s", err, said)
			}
			said += string(b)
		}
		if _, err := terminal.Write([]byte(answer)); err != nil {
			t.Fatal(err)
		}
		said = ""
		for {
			b, err := in.ReadByte()
			if err != nil { // the command has ended
				break
			}
			said += string(b)
		}
		_ = cmd.Wait() // its status is looked at
		return said, cmd.ProcessState.ExitCode()
	}
	const ctrlC, ctrlD = "\x03", "\x04"
	for name, answer := range map[string]string{"no": "no\n", "y": "y\n", "nothing": "\n", "another word": "forfeited\n", "end of input": ctrlD, "a word and Ctrl-C": "forfeit" + ctrlC} {
		said, status := asked(answer)
		if status == 0 || !strings.Contains(answer, ctrlC) && !strings.Contains(said, "nothing was changed") {
			t.Errorf("%s: it says %q, and ends with %d", name, said, status)
		}
		if !doubted() {
			t.Fatalf("%s: it was repaired", name)
		}
	}
	for name, in := range map[string]string{"a pipe": "forfeit\n", "an empty pipe": ""} {
		cmd := s.command("till", "repair", "--forfeit")
		cmd.Stdin = strings.NewReader(in)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err == nil || !strings.Contains(said.String(), "--yes") || !strings.Contains(said.String(), "1 budget spent") {
			t.Errorf("%s: %v: %s", name, err, said.String())
		}
		if !doubted() {
			t.Fatalf("%s: it was repaired", name)
		}
	}
	if said, status := asked("forfeit\n"); status != 0 || !strings.Contains(said, "The store is open: 1 budget spent") {
		t.Errorf("yes: it says %q, and ends with %d", said, status)
	}
	if doubted() {
		t.Error("it was not repaired")
	}
	s.isReady()
	if status := s.judges(key); status != http.StatusPaymentRequired {
		t.Errorf("the key after the repair: %d", status)
	}
}
