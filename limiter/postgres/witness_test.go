package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestTheWitnessRemembersOneDatabase(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk().Files()
	one, other := strings.Repeat("1", databaseLen), strings.Repeat("2", databaseLen)
	reopen := func() *witness {
		t.Helper()
		w, err := openWitness(disk, "witness")
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	if n, _ := reopen().of(one, 0); n != 0 {
		t.Errorf("a new file knows of %d commits", n)
	}
	reopen().acknowledge(one, 3, 7)
	w := reopen()
	if n, known := w.of(one, 3); n != 7 || !known {
		t.Errorf("it knows of %d commits, want 7", n)
	}
	if n, known := w.of(other, 3); n != 0 || known {
		t.Errorf("it knows of %d commits of another database", n)
	}
	if n, known := w.of(one, 4); n != 0 || known {
		t.Errorf("it knows of %d commits after a repair", n)
	}
	w.mapping.Bytes()[9]++ // torn
	if n, _ := reopen().of(one, 3); n != 0 {
		t.Errorf("a torn file knows of %d commits", n)
	}
}

func TestTheClockTakesTheAnswerThatIsClosest(t *testing.T) {
	t.Parallel()
	var c Clock
	at := func() time.Duration { return time.Duration(c.ahead.Load()) }
	const second = int64(time.Second / time.Microsecond)
	c.measure(1000*second, 10*time.Second, 10*time.Second+2*time.Millisecond)
	good := at()
	c.measure(1004*second, 13*time.Second, 15*time.Second) // a slow answer
	if at() != good {
		t.Errorf("a slow answer has moved the clock by %v", at()-good)
	}
	c.measure(1006*second, 16*time.Second, 16*time.Second+2*time.Millisecond)
	if at() != good {
		t.Errorf("the same time has moved the clock by %v", at()-good)
	}
	c.measure(1100*second, 50*time.Second, 52*time.Second) // a slow answer after a long time
	if want := 1100*time.Second - 51*time.Second; at() != want {
		t.Errorf("the clock is %v ahead, want %v", at(), want)
	}
}
